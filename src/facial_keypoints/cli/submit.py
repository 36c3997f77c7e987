"""``facial-keypoints submit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facial_keypoints.cli import app
from facial_keypoints.cli import options as o


@app.command("submit")
def submit_command(
    model: Annotated[
        str, typer.Argument(help="default, ibug68, a run folder, a .keras or an .onnx file.")
    ],
    data: Annotated[
        Path, typer.Option(help="Kaggle's files: test.csv and IdLookupTable.csv among them.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The submission to write (.csv).")],
    threads: o.Threads = None,
    force: o.Force = False,
) -> None:
    """Predict Kaggle's test images and write a submission (RowId,Location).

    A model with label styles predicts each image in the style that its requested points imply. Models
    of default's family use test-time augmentation, as evaluate --tta does. Values are clipped to the
    image.

    Examples:

        facial-keypoints submit default --data kaggle/ -o submission.csv

        facial-keypoints submit runs/flip --data kaggle/ -o submission.csv --force
    """
    from facial_keypoints.cli.progress import make_log
    from facial_keypoints.data.formats.faces import in_schema
    from facial_keypoints.data.kaggle import (
        load_kaggle,
        load_lookup,
        requested_styles,
        write_submission,
    )
    from facial_keypoints.files import refuse_existing
    from facial_keypoints.inference.predictor import load_predictor
    from facial_keypoints.inference.refine import supports_tta
    from facial_keypoints.models.runtime import read_spec
    from facial_keypoints.schemas import KAGGLE15, tells

    refuse_existing(out, force=force)
    # A thousand images take only seconds with test-time augmentation.
    predictor = load_predictor(model, tta=supports_tta(read_spec(model)), threads=threads)
    faces, lookup = load_kaggle(data, part="test"), load_lookup(data)
    # A model may predict some of Kaggle's keypoints only, or tell them by others.
    schema = KAGGLE15 if tells(predictor.spec.schema, KAGGLE15) else predictor.spec.schema
    predictor.check_fits(in_schema(faces, schema))
    styles = requested_styles(lookup, faces.sample_ids)
    predicted = predictor.predict_batch(faces.images, styles=styles).to_schema(schema)
    write_submission(
        out,
        faces.sample_ids,
        predicted.xy,
        lookup,
        side=faces.image_size[1],
        schema=schema,
    )
    make_log().print(f"wrote {out}")
