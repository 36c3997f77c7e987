"""``facial-keypoints track``."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facial_keypoints.cli import app
from facial_keypoints.cli import options as o
from facial_keypoints.cli.faces import FaceOptions, interrupts
from facial_keypoints.cli.progress import make_log, make_progress
from facial_keypoints.errors import DataError, OutputError

if TYPE_CHECKING:
    from rich.console import Console

    from facial_keypoints.inference.smoothing import OneEuro
    from facial_keypoints.inference.tracker import Tracker
    from facial_keypoints.io.videos import ContactSheet, Frame, FrameFiles, VideoWriter
    from facial_keypoints.types import Prediction

LOG_SECONDS = 20.0  # between two log lines where there is no terminal for a bar


@app.command("track")
def track_command(
    videos: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEO",
            help="Video files of any kind that FFmpeg reads, animated images, folders or patterns of videos or of "
            "frames ('frames/*.png', 'frames/%06d.png'), or a camera's number (0 is the first).",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            help="Table to write, a row per frame and face: .csv, .parquet or .json. Of several videos a folder, "
            "which gets NAME.csv of each.",
        ),
    ],
    draw: Annotated[
        Path | None,
        typer.Option(
            help="Copy of the video to write with the faces drawn, .mp4, without sound; of several videos a folder."
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="Image to write of a dozen moments with their times, .jpg or .png; of several videos a folder."
        ),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Do not smooth the points.")] = False,
    min_cutoff: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Smoothing of a point at rest: cutoff of a low pass in Hz; less gives less jitter.",
            show_default="1",
        ),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Hz by which the cutoff grows per face size (distance between the eyes) a second; more "
            "gives less lag.",
            show_default="10",
        ),
    ] = None,
    detect_every: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds between two searches for new faces; in between the detector runs only to "
            "confirm a face. 0 searches every frame.",
        ),
    ] = 1.0,
    fps: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="Frames a second of image files, which have no times.", show_default="25"
        ),
    ] = None,
    model: o.Model = "default",
    detector: o.Detector = "default",
    effort: o.Effort = o.EffortName.normal,
    min_score: o.MinScore = None,
    max_faces: Annotated[
        int | None, typer.Option(min=1, help="Follow at most so many faces, the largest.")
    ] = None,
    style: o.Style = None,
    tta: o.Tta = False,
    threads: o.Threads = None,
    force: o.Force = False,
) -> None:
    """Follow the faces of videos and write their keypoints as tables, in pixels of the video.

    Each face keeps its number; points are smoothed against jitter. Image files are the frames of one video, in
    the order of the numbers in their names. Of a video that stops in the middle, and after Ctrl-C, what was
    tracked until there is written, and the exit code says so. A video that cannot be read costs itself.

    Examples:

        facial-keypoints track clip.mp4 -o track.csv

        facial-keypoints track clip.mov -o track.parquet --draw drawn.mp4 --sheet moments.jpg

        facial-keypoints track 'frames/*.png' -o track.csv --fps 30

        facial-keypoints track a.mp4 b.mp4 -o tracks/        # tracks/a.csv, tracks/b.csv

        facial-keypoints track 0 -o me.csv                 # the first camera, until Ctrl-C
    """
    from facial_keypoints.inference.smoothing import OneEuro
    from facial_keypoints.inference.tracker import Tracker
    from facial_keypoints.io.videos import find_videos

    if raw and (min_cutoff is not None or beta is not None):
        raise typer.BadParameter(
            "--raw smooths nothing: --min-cutoff and --beta do not go with it."
        )
    found = find_videos(videos)
    jobs = _jobs(found, out, draw, sheet, force=force)
    settings = {"min_cutoff": min_cutoff, "beta": beta}
    smoothing = None if raw else OneEuro(**{k: v for k, v in settings.items() if v is not None})
    log = make_log()
    options = FaceOptions(model=model, detector=detector, effort=effort, style=style, tta=tta)
    predictor = options.load_predictor(threads=threads)
    failures: list[DataError] = []
    with interrupts() as interrupted:
        for job in jobs:
            tracker = Tracker(
                predictor, detect_every_s=detect_every, max_faces=max_faces, min_score=min_score
            )
            try:
                ended = _track(job, tracker, smoothing, fps, interrupted, log)
            except DataError as error:
                failures.append(error)
                if len(jobs) > 1:
                    log.print(f"failed: {error}")
            else:
                if ended:
                    raise typer.Exit(130)
    if len(jobs) > 1:
        failed = f", {len(failures)} failed" if failures else ""
        log.print(f"{len(jobs)} videos: {len(jobs) - len(failures)} done{failed}")
        if failures:
            raise typer.Exit(1)
    elif failures:
        raise failures[0]


@dataclass(frozen=True)
class _Job:
    """A video and its outputs."""

    video: str | FrameFiles
    out: Path
    draw: Path | None
    sheet: Path | None


def _jobs(
    videos: Sequence[str | FrameFiles],
    out: Path,
    draw: Path | None,
    sheet: Path | None,
    *,
    force: bool,
) -> list[_Job]:
    """The outputs of each video; refused if they cannot be written, before any work begins."""
    from facial_keypoints.files import make_folder, refuse_existing
    from facial_keypoints.io.images import WRITABLE_SUFFIXES
    from facial_keypoints.io.tables import check_table
    from facial_keypoints.io.videos import VIDEO_SUFFIXES, FrameFiles

    jobs = [_Job(videos[0], out, draw, sheet)]
    if len(videos) > 1:
        for folder in (out, draw, sheet):
            if folder is not None:
                if folder.suffix and not folder.is_dir():
                    raise typer.BadParameter(
                        f"there are {len(videos)} videos: name a folder for them instead of {folder}."
                    )
                make_folder(folder, add=True)
        jobs = []
        for name, video in zip(_names(videos), videos, strict=True):
            jobs.append(
                _Job(
                    video,
                    out / f"{name}.csv",
                    draw and draw / f"{name}{VIDEO_SUFFIXES[0]}",
                    sheet and sheet / f"{name}.jpg",
                )
            )
    for job in jobs:
        check_table(job.out)
        if job.sheet is not None and job.sheet.suffix.lower() not in WRITABLE_SUFFIXES:
            raise OutputError(f"{job.sheet}: the sheet is an image: choose a name in .jpg or .png.")
        read = job.video.files if isinstance(job.video, FrameFiles) else (Path(job.video),)
        inputs = {file.resolve() for file in read}
        for file in (job.out, job.draw, job.sheet):
            if file is not None:
                if file.resolve() in inputs:
                    raise OutputError(f"{file} is the video itself: choose another output.")
                refuse_existing(file, force=force)
    return jobs


def _names(videos: Sequence[str | FrameFiles]) -> list[str]:
    """A name for the outputs of each video: that of its file; numbered where two are alike."""
    names: list[str] = []
    for video in videos:
        stem = Path(video if isinstance(video, str) else video.name).stem
        name, number = stem, 1
        while name.casefold() in {other.casefold() for other in names}:
            number += 1
            name = f"{stem}-{number}"
        names.append(name)
    return names


def _track(
    job: _Job,
    tracker: Tracker,
    smoothing: OneEuro | None,
    fps: float | None,
    interrupted: threading.Event,
    log: Console,
) -> bool:
    """Follow the faces of one video and write its outputs; returns whether Ctrl-C ended it.

    Raises:
        DataError: It cannot be read, or not to its end; what was tracked until there is written.
    """
    from facial_keypoints.inference.tracker import track_frames
    from facial_keypoints.io.images import write_image
    from facial_keypoints.io.tables import columns, open_table, rows
    from facial_keypoints.io.videos import ContactSheet, open_video, write_video

    moments = None if job.sheet is None else ContactSheet()
    stopped: DataError | None = None
    done = faces = 0
    begin = time.perf_counter()
    with ExitStack() as stack:
        source = stack.enter_context(open_video(job.video, rate=fps))
        table = stack.enter_context(open_table(job.out, columns(tracker.schema, video=True)))
        writer = None
        if job.draw is not None:
            writer = stack.enter_context(write_video(job.draw, source.size, rate=source.rate))
        followed = track_frames(source, tracker, smoothing=smoothing, source=source.name)
        try:
            for frame, prediction in _with_progress(followed, source.frame_count, log):
                table.write(rows(prediction))
                _show(frame, prediction, writer, moments)
                done += 1
                faces += len(prediction) > 0
                if interrupted.is_set():
                    break
        except DataError as error:
            stopped = error  # raised below, once the outputs are kept
    if job.sheet is not None and moments is not None and done:
        write_image(job.sheet, moments.image())
    speed = done / (time.perf_counter() - begin)
    tracks = f"{tracker.track_count} {'track' if tracker.track_count == 1 else 'tracks'}"
    log.print(
        f"wrote {job.out}: {done} frames, {faces} with faces, {tracks}, {speed:.0f} frames a second"
    )
    for note in source.notes:
        log.print(f"{source.name}: {note}")
    if stopped is not None:
        raise stopped
    if interrupted.is_set() and source.frame_count is not None:  # a camera has no other end
        log.print(f"interrupted: the outputs end after {done} frames.")
        return True
    return False


def _show(
    frame: Frame,
    prediction: Prediction,
    writer: VideoWriter | None,
    moments: ContactSheet | None,
) -> None:
    from facial_keypoints.inference.tracker import draw_tracks

    wanted = moments is not None and moments.wants()
    if writer is None and not wanted:
        return
    drawn = draw_tracks(frame.rgb(), prediction)
    if writer is not None:
        writer.write(drawn, frame.time_s)
    if moments is not None and wanted:
        moments.add(drawn, frame.time_s)


def _with_progress(
    followed: Iterable[tuple[Frame, Prediction]], total: int | None, log: Console
) -> Iterator[tuple[Frame, Prediction]]:
    spoken = time.monotonic()
    with make_progress("tracking", log) as bar:
        for count, item in enumerate(bar.track(followed, total=total), start=1):
            yield item
            if not log.is_terminal and time.monotonic() - spoken > LOG_SECONDS:
                spoken = time.monotonic()
                log.print(f"tracking: {count} of {total or 'unknown'} frames")
