"""``facial-keypoints align``."""

from __future__ import annotations

from os.path import lexists
from pathlib import Path
from typing import Annotated

import typer

from facial_keypoints.cli import app
from facial_keypoints.cli import options as o
from facial_keypoints.cli.faces import FaceOptions, Faces, Images, takes_face_options
from facial_keypoints.cli.progress import make_log
from facial_keypoints.errors import OutputError


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
    as_json: o.Json = False,
    force: o.Force = False,
) -> None:
    """Cut faces out upright, on the five-point template that face-recognition networks take.

    Writes an image per face, NAME_face0.png, NAME_face1.png and so on, at the images' own paths, and
    faces.csv: source, face, file, the matrix (a, b, tx, c, d, ty) from pixels of the
    image to pixels of the aligned face (x' = a x + b y + tx, y' = c x + d y + ty), and the score.

    What cannot be read or written is listed and counted, the rest is done, and the exit code is 1.

    Examples:

        facial-keypoints align photos/ -o aligned

        facial-keypoints align --crops faces/ -o aligned --size 224 --margin 0.2

        facial-keypoints align portraits/ -o aligned --max-faces 1
    """
    from facial_keypoints.files import make_folder, refuse_existing
    from facial_keypoints.inference.alignment import ALIGNED_COLUMNS, align, aligned_row
    from facial_keypoints.io.images import write_image
    from facial_keypoints.io.tables import open_table

    make_folder(out, add=True)
    table = out / "faces.csv"
    refuse_existing(table, force=force)
    log = make_log()
    faces = Faces(inputs, options, log=log, without=out, as_json=as_json)
    count = 0
    with open_table(table, ALIGNED_COLUMNS) as writer:
        for prediction in faces:
            source = prediction.source
            if not len(prediction):
                continue
            stem = faces.place(source, suffix=False)
            with faces.copying(source):
                aligned = align(faces.read_again(source), prediction, size=size, margin=margin)
                for i, face in enumerate(aligned.images):
                    if not aligned.aligned[i]:
                        faces.lose("not aligned", f"{source}, face {i}: its points coincide.")
                        continue
                    file = stem.with_name(f"{stem.name}_face{i}.png")
                    with faces.copying(f"{source}, face {i}"):
                        if lexists(out / file) and not force:
                            raise OutputError(
                                f"{out / file} exists already: replace it with --force."
                            )
                        write_image(out / file, face)
                        matrix, score = aligned.matrices[i], prediction.scores[i]
                        writer.write([aligned_row(source, i, file.as_posix(), matrix, score)])
                        count += 1
    log.print(f"wrote {out}: {count} faces of {faces.done - faces.bad} of {faces.done} images")
    faces.finish(faces=count, written=str(out))
