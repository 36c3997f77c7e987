"""``facial-keypoints finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facial_keypoints.cli import app
from facial_keypoints.cli import options as o


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
            help="Model to start from: default (the shipped one), a run folder or a .keras file.",
        ),
    ] = "default",
    schema: o.Schema = None,
    images: o.Images = None,
    group_by: o.GroupBy = None,
    seed: o.Seed = 0,
    force: o.Force = False,
) -> None:
    """Teach a trained model your own keypoints from tens of labelled faces, and leave a run folder.

    The errors that are printed come from a cross-validation over your faces.

    Examples:

        facial-keypoints finetune --data mine/ -o runs/mine

        facial-keypoints finetune runs/mine --data more/ --schema schema.yaml -o runs/more
    """
    from rich.console import Console

    from facial_keypoints.cli.data import load_faces
    from facial_keypoints.cli.progress import make_log
    from facial_keypoints.files import refuse_inputs, write_json
    from facial_keypoints.models.keras_backend import choose_backend, import_keras
    from facial_keypoints.models.registry import find_model
    from facial_keypoints.models.spec import read_embedded_spec

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
    # Keras is imported after the data is read: it takes seconds.
    import_keras()
    import numpy as np

    from facial_keypoints.evaluation.report import render_evaluation
    from facial_keypoints.evaluation.scores import evaluate_predictions
    from facial_keypoints.training.finetune import finetune

    with log.status("starting") as status:
        run = finetune(dataset, out, base=base, seed=seed, force=force, report=status.update)
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
        log.print(
            f"measured by cross-validation over {len(new)} faces in {run.folds} folds, a group in one fold, in "
            f"pixels of the model's input ({spec.input_size[1]}×{spec.input_size[0]})"
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
    log.print(f"the model is {out / 'model.keras'}")
