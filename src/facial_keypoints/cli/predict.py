"""``facial-keypoints predict``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facial_keypoints.cli import app
from facial_keypoints.cli import options as o
from facial_keypoints.errors import DataError, ImageError, OutputError

if TYPE_CHECKING:
    from rich.console import Console

    from facial_keypoints.types import Prediction


@app.command("predict")
def predict_command(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Images, folders (with all below them), patterns like 'faces/*.jpg', or - for a "
            "list on standard input, one path a line.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Table to write: .csv, .parquet or .json.")
    ],
    model: o.Model = "default",
    crops: Annotated[
        bool,
        typer.Option(
            "--crops",
            help="Each image is one face already: no detector is asked.",
        ),
    ] = False,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="Table of faces found by other means (columns source, x0, y0, x1, y1; pixels): no "
            "detector is asked."
        ),
    ] = None,
    detector: o.Detector = "default",
    min_score: o.MinScore = None,
    max_faces: o.MaxFaces = None,
    style: o.Style = None,
    draw: Annotated[
        Path | None,
        typer.Option(
            help="Folder for copies of the images with the points drawn, at the paths they were "
            "named by."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Faces computed at once (--crops).")] = 128,
    threads: o.Threads = None,
    flip: o.Flip = False,
    average: o.Average = False,
    max_pixels: Annotated[
        int,
        typer.Option(min=1, help="Refuse larger images; each reading thread holds one of them."),
    ] = 128_000_000,
    force: o.Force = False,
) -> None:
    """Find faces and their keypoints in photos and write them as a table, in pixels of each photo.

    One row a face. A photo without faces has no row. Images that cannot be read are listed, the
    others are still predicted, and the exit code is 1.

    Examples:

        facial-keypoints predict photos/ -o keypoints.csv --draw drawn/

        facial-keypoints predict 'party*.jpg' -o keypoints.json --max-faces 5

        facial-keypoints predict --crops faces/ -o keypoints.csv

        find . -name '*.png' | facial-keypoints predict --crops - -o keypoints.parquet
    """
    import warnings

    from rich.console import Console

    from facial_keypoints.files import make_folder, refuse_existing

    # Pillow warns of metadata that nobody asked for; an image that it cannot read is an error.
    warnings.filterwarnings("ignore", module="PIL")
    if crops and (boxes or detector != "default" or min_score is not None or max_faces is not None):
        raise typer.BadParameter(
            "--crops takes each image as one face: --boxes, --detector, --min-score and --max-faces "
            "do not go with it."
        )
    if average and not crops:
        raise typer.BadParameter(
            "--average goes with --crops: faces of photos are looked at twice."
        )
    if boxes and (detector != "default" or min_score is not None):
        raise typer.BadParameter(
            "--boxes asks no detector: --detector and --min-score do not go with it."
        )
    from facial_keypoints.inference.predictor import load_predictor
    from facial_keypoints.io.images import find_images
    from facial_keypoints.io.tables import open_table, read_boxes

    refuse_existing(out, force=force)
    if draw is not None:
        make_folder(draw, add=force)
    log = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    # Photos are answered whole, one per thread; crops in batches, each computed by every thread.
    predictor = load_predictor(
        model,
        style=style,
        flip=flip,
        average=average,
        threads=threads if crops else 1,
        detector=None if crops or boxes else detector,
    )
    known = read_boxes(boxes) if boxes else None
    # Counted first, so that the bar knows the end; standard input can be read only once.
    total = None if "-" in inputs else sum(1 for _ in find_images(inputs))
    if total == 0:
        raise DataError(f"there is no image in {', '.join(inputs)}.")
    files = find_images(inputs)
    if crops:
        answers = predictor.predict_files(
            files, batch_size=batch_size, readers=threads, max_pixels=max_pixels
        )
    else:
        answers = predictor.predict_photos(
            files,
            boxes=known,
            min_score=min_score,
            max_faces=max_faces,
            readers=threads,
            max_pixels=max_pixels,
        )
    done = bad = faces = 0
    try:
        with closing(answers), open_table(out, predictor.spec.schema) as table:
            for answer in _with_progress(answers, total, log):
                done += 1
                if isinstance(answer, ImageError):
                    bad += 1
                    log.print(f"skipped {answer}")
                    continue
                faces += len(answer)
                table.write([answer])
                if draw is not None:
                    _draw(answer, draw, max_pixels)
    except KeyboardInterrupt:
        log.print(f"interrupted after {done} images: {out} was not written.")
        raise typer.Exit(130) from None
    found = "" if crops else f", {faces} {'face' if faces == 1 else 'faces'}"
    log.print(f"wrote {out}: {done - bad} of {done} images{found}")
    if bad:
        raise typer.Exit(1)


def _with_progress(
    answers: Iterable[Prediction | ImageError], total: int | None, log: Console
) -> Iterator[Prediction | ImageError]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=log, transient=True, disable=not log.is_terminal) as bar:
        yield from bar.track(answers, total=total)


def _draw(prediction: Prediction, folder: Path, max_pixels: int) -> None:
    """Write the image with its points below the folder, at the path it was named by."""
    from facial_keypoints.io.drawing import draw_prediction
    from facial_keypoints.io.images import WRITABLE_SUFFIXES, read_image, write_image

    source = Path(prediction.source)
    parts = (part for part in source.parts if part != source.anchor)
    target = folder.joinpath(*("up" if part == ".." else part for part in parts))
    if target.suffix.lower() not in WRITABLE_SUFFIXES:
        target = target.with_name(f"{target.name}.png")
    if target.exists() and target.samefile(source):
        raise OutputError(
            f"--draw {folder} would overwrite the image {source}: choose another folder."
        )
    # Read again rather than kept: a batch of decoded photos would fill gigabytes.
    drawn = draw_prediction(read_image(source, max_pixels=max_pixels), prediction)
    write_image(target, drawn)
