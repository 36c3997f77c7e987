"""``facial-keypoints track``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
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

    from facial_keypoints.io.videos import ContactSheet, Frame, VideoWriter
    from facial_keypoints.types import Prediction

LOG_SECONDS = 20.0  # between two log lines where there is no terminal for a bar


@app.command("track")
def track_command(
    video: Annotated[
        str,
        typer.Argument(
            metavar="VIDEO",
            help="A video file of any kind that FFmpeg reads, or a camera's number (0 is the first).",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", help="Table to write, a row per frame and face: .csv, .parquet or .json."
        ),
    ],
    draw: Annotated[
        Path | None,
        typer.Option(help="Copy of the video to write with the faces drawn, .mp4, without sound."),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Image to write of a dozen moments with their times, .jpg or .png."),
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
    model: o.Model = "default",
    detector: o.Detector = "default",
    min_score: o.MinScore = None,
    max_faces: Annotated[
        int | None, typer.Option(min=1, help="Follow at most so many faces, the largest.")
    ] = None,
    style: o.Style = None,
    tta: o.Tta = False,
    threads: o.Threads = None,
    force: o.Force = False,
) -> None:
    """Follow the faces of a video and write their keypoints as a table, in pixels of the video.

    Each face keeps its number; points are smoothed against jitter. Of a video that stops in the middle,
    and after Ctrl-C, what was tracked until there is written, and the exit code says so.

    Examples:

        facial-keypoints track clip.mp4 -o track.csv

        facial-keypoints track clip.mov -o track.parquet --draw drawn.mp4 --sheet moments.jpg

        facial-keypoints track 0 -o me.csv                 # the first camera, until Ctrl-C
    """
    from facial_keypoints.inference.smoothing import OneEuro
    from facial_keypoints.inference.tracker import Tracker, track_frames
    from facial_keypoints.io.tables import check_table, columns, open_table, rows
    from facial_keypoints.io.videos import ContactSheet, open_video, write_video

    if raw and (min_cutoff is not None or beta is not None):
        raise typer.BadParameter(
            "--raw smooths nothing: --min-cutoff and --beta do not go with it."
        )
    check_table(out)
    _check_outputs(video, (out, draw, sheet), force=force)
    settings = {"min_cutoff": min_cutoff, "beta": beta}
    smoothing = None if raw else OneEuro(**{k: v for k, v in settings.items() if v is not None})
    log = make_log()
    options = FaceOptions(model=model, detector=detector, style=style, tta=tta)
    predictor = options.load_predictor(threads=threads)
    tracker = Tracker(
        predictor, detect_every_s=detect_every, max_faces=max_faces, min_score=min_score
    )
    moments = None if sheet is None else ContactSheet()
    stopped: DataError | None = None
    done = faces = 0
    begin = time.perf_counter()
    with ExitStack() as stack:
        interrupted = stack.enter_context(interrupts())
        source = stack.enter_context(open_video(video))
        names = columns(predictor.spec.schema, video=True)
        table = stack.enter_context(open_table(out, names))
        writer = None
        if draw is not None:
            writer = stack.enter_context(write_video(draw, source.size, rate=source.rate))
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
    if sheet is not None and moments is not None and done:
        from facial_keypoints.io.images import write_image

        write_image(sheet, moments.image())
    speed = done / (time.perf_counter() - begin)
    log.print(
        f"wrote {out}: {done} frames, {faces} with faces, {tracker.track_count} tracks, "
        f"{speed:.0f} frames a second"
    )
    if stopped is not None:
        raise stopped
    if interrupted.is_set() and source.frame_count is not None:  # a camera has no other end
        log.print(f"interrupted: the outputs end after {done} frames.")
        raise typer.Exit(130)


def _check_outputs(video: str, outputs: Sequence[Path | None], *, force: bool) -> None:
    """Refuse outputs that cannot be written before the work begins."""
    from facial_keypoints.files import refuse_existing
    from facial_keypoints.io.images import WRITABLE_SUFFIXES

    sheet = outputs[-1]
    if sheet is not None and sheet.suffix.lower() not in WRITABLE_SUFFIXES:
        raise OutputError(f"{sheet}: the sheet is an image: choose a name in .jpg or .png.")
    for file in outputs:
        if file is not None:
            if file.resolve() == Path(video).resolve():
                raise OutputError(f"{file} is the video itself: choose another output.")
            refuse_existing(file, force=force)


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
