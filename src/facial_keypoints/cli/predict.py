"""``facial-keypoints predict``."""

from __future__ import annotations

from os.path import lexists
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facial_keypoints.cli import app
from facial_keypoints.cli import options as o
from facial_keypoints.cli.faces import FaceOptions, Faces, Images, takes_face_options
from facial_keypoints.cli.progress import make_log
from facial_keypoints.errors import DataError

if TYPE_CHECKING:
    from facial_keypoints.types import KeypointSchema, Prediction


@app.command("predict")
@takes_face_options
def predict_command(
    inputs: Images,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Table to write: .csv, .parquet or .json.")
    ],
    options: FaceOptions,
    draw: Annotated[
        Path | None,
        typer.Option(
            help="Folder for copies of the images with the points drawn, at the images' own paths."
        ),
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(
            help="Write the keypoints of this schema, computed from the model's: kaggle15 or five.",
            show_default="the model's own",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Faces computed at once (--crops).")] = 128,
    as_json: o.Json = False,
    force: o.Force = False,
) -> None:
    """Find faces and their keypoints in photos and write them as a table, in pixels of each photo.

    The table has one row per face. A photo without faces has no row. What cannot be read or
    written is listed and counted, the rest is done, and the exit code is 1.

    Examples:

        facial-keypoints predict photos/ -o keypoints.csv --draw drawn/

        facial-keypoints predict 'party*.jpg' -o keypoints.json --max-faces 5

        facial-keypoints predict --crops faces/ -o keypoints.csv

        find . -name '*.png' | facial-keypoints predict --crops - -o keypoints.parquet
    """
    from facial_keypoints.files import make_folder, refuse_existing
    from facial_keypoints.io.tables import check_table, columns, open_table, rows

    check_table(out)
    refuse_existing(out, force=force)
    if draw is not None:
        make_folder(draw, add=force)
    log = make_log()
    images = Faces(inputs, options, log=log, batch_size=batch_size, without=draw, as_json=as_json)
    faces, wanted = 0, images.schema if schema is None else _converted(images.schema, schema)
    with open_table(out, columns(wanted)) as table:
        for found in images:
            prediction = found.to_schema(wanted)
            faces += len(prediction)
            table.write(rows(prediction))
            if draw is not None:
                with images.copying(prediction.source):
                    _draw(prediction, draw, images)
    count = "" if options.crops else f", {faces} {'face' if faces == 1 else 'faces'}"
    if images.smallest:
        count += f"; looked for faces from {images.smallest:.0f} pixels"
    log.print(f"wrote {out}: {images.done - images.bad} of {images.done} images{count}")
    images.finish(faces=faces, smallest_face=round(images.smallest, 1) or None, written=str(out))


def _converted(own: KeypointSchema, name: str) -> KeypointSchema:
    """The schema of a name, if the keypoints of a model tell its keypoints."""
    from facial_keypoints.schemas import conversion, get_schema

    try:
        wanted = get_schema(name)
        conversion(own, wanted)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--schema") from error
    return wanted


def _draw(prediction: Prediction, folder: Path, images: Faces) -> None:
    """Write the image with its points drawn into the folder, at the image's own path."""
    from facial_keypoints.io.drawing import draw_prediction
    from facial_keypoints.io.images import WRITABLE_SUFFIXES, write_image

    source = prediction.source
    writable = Path(source).suffix.lower() in WRITABLE_SUFFIXES
    target = folder / images.place(source if writable else f"{source}.png", suffix=True)
    if lexists(target) and target.samefile(source):
        raise DataError(
            f"--draw {folder} would overwrite the image {source}: choose another folder."
        )
    write_image(target, draw_prediction(images.read_again(source), prediction))
