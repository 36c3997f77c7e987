"""``facial-keypoints align``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facial_keypoints.cli import app
from facial_keypoints.cli import options as o
from facial_keypoints.cli.faces import FaceOptions, Faces, Images, place_below, takes_face_options
from facial_keypoints.cli.progress import make_log


@app.command("align")
@takes_face_options
def align_command(
    inputs: Images,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the aligned faces.")],
    options: FaceOptions,
    size: Annotated[int, typer.Option(min=8, max=4096, help="Side of each face in pixels.")] = 112,
    margin: Annotated[
        float,
        typer.Option(
            min=0, max=10, help="Extra room on every side, relative to the template's side."
        ),
    ] = 0.0,
    force: o.Force = False,
) -> None:
    """Cut faces out upright, on the five-point template that face-recognition networks take.

    Writes an image per face, NAME_face0.png, NAME_face1.png and so on, at the images' own paths, and
    faces.csv: source, face, file, the matrix (a, b, tx, c, d, ty) from pixels of the
    image to pixels of the aligned face (x' = a x + b y + tx, y' = c x + d y + ty), and the score.

    Images that cannot be read are listed, the others are still aligned, and the exit code is 1.

    Examples:

        facial-keypoints align photos/ -o aligned

        facial-keypoints align --crops faces/ -o aligned --size 224 --margin 0.2

        facial-keypoints align portraits/ -o aligned --max-faces 1
    """
    from facial_keypoints.errors import OutputError
    from facial_keypoints.files import make_folder, refuse_existing
    from facial_keypoints.inference.alignment import ALIGNED_COLUMNS, align, aligned_row
    from facial_keypoints.io.images import read_image, write_image
    from facial_keypoints.io.tables import open_table

    make_folder(out, add=True)
    table = out / "faces.csv"
    refuse_existing(table, force=force)
    log = make_log()
    faces = Faces(inputs, options, log=log, without=out)
    taken: set[Path] = set()
    count = lost = 0
    with open_table(table, ALIGNED_COLUMNS) as writer:
        for prediction in faces:
            stem = _stem(prediction.source, taken)
            if not len(prediction):
                continue
            # Read again: keeping a queue of decoded photos would take gigabytes.
            image = read_image(prediction.source, max_pixels=options.max_pixels)
            aligned = align(image, prediction, size=size, margin=margin)
            for i, face in enumerate(aligned.images):
                if not aligned.aligned[i]:
                    lost += 1
                    log.print(f"skipped {prediction.source}, face {i}: its points coincide.")
                    continue
                file = stem.with_name(f"{stem.name}_face{i}.png")
                if (out / file).exists() and not force:
                    raise OutputError(
                        f"{out / file} exists already: choose another folder, or replace it with "
                        "--force."
                    )
                write_image(out / file, face)
                matrix, score = aligned.matrices[i], prediction.scores[i]
                writer.write([aligned_row(prediction.source, i, file.as_posix(), matrix, score)])
                count += 1
    log.print(f"wrote {out}: {count} faces of {faces.done - faces.bad} of {faces.done} images")
    faces.finish()
    if lost:
        raise typer.Exit(1)


def _stem(source: str, taken: set[Path]) -> Path:
    """Path of an image's faces in the output folder, without ``_face0.png``."""
    path = place_below(Path(), source)
    stem = path.with_suffix("")
    if stem in taken:  # a.jpg beside a.png
        stem = path
    taken.add(stem)
    return stem
