"""``facial-keypoints finetune``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from facial_keypoints.cli import app
from facial_keypoints.cli import options as o


class MethodName(StrEnum):
    """Those of ``training.finetune``, which a test compares: importing it would make --help wait for Keras."""

    auto = "auto"
    head = "head"
    all = "all"


@app.command("finetune")
def finetune_command(
    data: Annotated[
        Path, typer.Option(help="Your labelled faces, of any format that 'data convert' reads.")
    ],
    out: o.RunFolder,
    base: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Model to start from: default (15 points), ibug68 (68 points), a run folder or a .keras file.",
        ),
    ] = "default",
    schema: o.Schema = None,
    images: o.Images = None,
    method: Annotated[
        MethodName,
        typer.Option(
            help="head: fit a new head, in seconds. all: train all weights, for minutes. auto: from 100 faces on "
            "both, and keep the one with the lower error on held-out faces."
        ),
    ] = MethodName.auto,
    with_detector: Annotated[
        bool,
        typer.Option(
            "--with-detector",
            help="Train a face detector on the labelled photos as well (minutes): for faces that the shipped one "
            "does not find, such as animals'. All faces of the photos must be labelled.",
        ),
    ] = False,
    group_by: o.GroupBy = None,
    seed: o.Seed = 0,
    force: o.Force = False,
) -> None:
    """Teach a trained model your own keypoints from tens to thousands of labelled faces, and leave a run folder.

    The errors that are printed are of faces that the measured model was not fitted to. With a new head, they
    come with a learning curve: the error with a quarter, half and all of the labels, and about that with twice as
    many.

    Examples:

        facial-keypoints finetune --data mine/ -o runs/mine

        facial-keypoints finetune --data cats/annotations.xml --with-detector -o runs/cats

        facial-keypoints finetune runs/mine --data more/ --schema schema.yaml -o runs/more
    """
    from rich.console import Console

    from facial_keypoints.cli.data import load_faces
    from facial_keypoints.cli.progress import make_log
    from facial_keypoints.data import load_photos
    from facial_keypoints.files import refuse_inputs, write_json
    from facial_keypoints.models.keras_backend import choose_backend, import_keras
    from facial_keypoints.models.registry import find_model
    from facial_keypoints.models.spec import read_embedded_spec
    from facial_keypoints.schemas import load_schema

    refuse_inputs(out, data, base, schema, images)
    choose_backend()  # a missing extra is said before any work
    log = make_log()
    spec = read_embedded_spec(find_model(base, trainable=True))
    dataset = load_faces(
        data,
        group_by=group_by,
        size=spec.input_size,
        channels=spec.channels,
        schema=schema,
        images=images,
    )
    photos = None
    if with_detector:
        photos = load_photos(
            data, group_by=group_by, schema=load_schema(schema) if schema else None, images=images
        )
    # Keras is imported after the data is read: it takes seconds.
    import_keras()
    import numpy as np

    from facial_keypoints.evaluation.report import render_evaluation
    from facial_keypoints.evaluation.scores import evaluate_predictions
    from facial_keypoints.training.finetune import finetune

    with log.status("starting") as status:
        run = finetune(
            dataset, out, base=base, method=method.value, photos=photos, seed=seed, force=force,
            report=status.update,
        )  # fmt: skip
    new = np.flatnonzero(~run.known_faces)
    if run.folds == 1:
        log.print(
            f"no error is given: all {len(run.faces)} faces are of one group, so none shows how large it is on "
            "others; add faces of another group"
        )
    elif len(new):
        report = evaluate_predictions(run.faces.subset(new), run.predicted_xy[new], seed=seed)
        write_json(out / "report.json", report.to_dict())
        Console().print(render_evaluation(report))
        how = (
            f"by cross-validation over {len(new)} faces in {run.folds} folds, a group in one fold"
            if run.folds
            else f"after training all weights on other faces, on {len(new)} faces"
        )
        log.print(
            f"measured {how}, in pixels of the model's input ({spec.input_size[1]}×{spec.input_size[0]})"
        )
    if len(new) < len(run.faces):
        log.print(
            f"{len(run.faces) - len(new)} of {len(run.faces)} faces are not measured: {base} was trained on them, "
            "so their errors would be too low"
        )
    both = ~np.isnan(run.base_xy[..., 0] + run.predicted_xy[..., 0]) & run.faces.keypoints.labeled
    if both.any():
        truth = run.faces.keypoints.xy[both]
        ours, theirs = (
            float(np.linalg.norm(xy[both] - truth, axis=-1).mean())
            for xy in (run.predicted_xy, run.base_xy)
        )
        style = f" in its style '{run.style}'" if run.style else ""
        log.print(
            f"mean error of the points that {base} predicts too: {ours:.2f} px; {base} as it is{style}: "
            f"{theirs:.2f} px"
        )
    for line in _told(run.record):
        log.print(line)
    log.print(f"the model is {out / 'model.keras'}")


def _told(record: Mapping[str, Any]) -> Iterator[str]:
    """What is known besides the errors, a sentence each: the choice of the method, the learning curve, the detector."""
    from facial_keypoints.training.learning_curve import describe

    if compared := record.get("compared"):
        low, high = compared["difference_px"]
        yield (
            f"chose {'all weights' if record['method'] == 'all' else 'the new head'}: on {compared['test_faces']} "
            f"held-out faces, RMSE {compared['all_px']:.2f} px with all weights and {compared['head_px']:.2f} px "
            f"with a new head (95 % interval of the difference {low:.2f} to {high:.2f})"
        )
    if record.get("learning_curve"):
        yield from describe(record["learning_curve"])
    if found := record.get("detector"):
        yield "detector: " + (
            f"found {found['found']} of {found['faces']} faces in {found['photos']} held-out photos, and "
            f"{found['false_boxes']} boxes on no face"
            if found["photos"]
            else "not measured: too few photos to hold any out"
        )
