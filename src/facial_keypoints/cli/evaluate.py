"""``facial-keypoints evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facial_keypoints.cli import app
from facial_keypoints.cli import options as o


@app.command("evaluate")
def evaluate_command(
    model: Annotated[
        str, typer.Argument(help="default, ibug68, a run folder, a .keras or an .onnx file.")
    ],
    data: Annotated[Path, typer.Option(help="Labelled faces, as for train.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write the report as JSON.")
    ] = None,
    schema: o.Schema = None,
    images: o.Images = None,
    group_by: o.GroupBy = None,
    tta: o.Tta = False,
    threads: o.Threads = None,
    force: o.Force = False,
) -> None:
    """Measure a model on labelled faces: RMSE with intervals, NME, CED, per style and keypoint.

    Training and validation faces of the model are left out of the table, because their error is lower
    than that of new faces; it is printed below the table. They are recognised by their pixels, so
    another image of the same person, or another crop of the same photo, counts as a new face. A model
    with label styles predicts each face in the style of its labels.

    Examples:

        facial-keypoints evaluate default --data kaggle/

        facial-keypoints evaluate runs/flip --data kaggle/ -o report.json
    """
    from rich.console import Console

    from facial_keypoints.cli.data import load_faces
    from facial_keypoints.cli.progress import make_log
    from facial_keypoints.data.duplicates import image_digests
    from facial_keypoints.data.formats.faces import in_schema
    from facial_keypoints.evaluation.report import describe_training_faces, render_evaluation
    from facial_keypoints.evaluation.scores import evaluate_held_out
    from facial_keypoints.files import refuse_existing, write_json
    from facial_keypoints.inference.predictor import load_predictor
    from facial_keypoints.models.runtime import read_training_digests
    from facial_keypoints.schemas import tells

    if out is not None:
        refuse_existing(out, force=force)
    predictor = load_predictor(model, tta=tta, threads=threads)
    spec = predictor.spec
    dataset = load_faces(
        data,
        group_by=group_by,
        size=spec.input_size,
        channels=spec.channels,
        schema=schema or spec.schema,
        images=images,
    )
    if not tells(spec.schema, dataset.schema):
        dataset = in_schema(dataset, spec.schema)
    predictor.check_fits(dataset)
    make_log().print(f"measuring on {len(dataset):,} faces")
    predicted = predictor.predict_batch(dataset.images, styles=dataset.styles)
    predicted = predicted.to_schema(dataset.schema)
    learnt = read_training_digests(model)
    seen = None if learnt is None else [d in learnt for d in image_digests(dataset.images)]
    report = evaluate_held_out(dataset, predicted.xy, seen)
    if out is not None:
        write_json(out, report.to_dict())
    if report.held_out.overall.num_faces:
        Console().print(render_evaluation(report.held_out))
    Console().print(describe_training_faces(report), highlight=False, soft_wrap=True)
