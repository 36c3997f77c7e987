"""``facial-keypoints train``."""

from __future__ import annotations

from typing import Annotated

import typer

from facial_keypoints.cli import app
from facial_keypoints.cli import options as o
from facial_keypoints.training.recipes import RECIPES


@app.command("train")
def train_command(
    recipe: Annotated[
        o.RecipeName, typer.Argument(metavar="RECIPE", help=f"One of {', '.join(o.RecipeName)}.")
    ],
    out: o.RunFolder,
    data: o.Data = None,
    epochs: o.Epochs = None,
    batch_size: o.BatchSize = None,
    learning_rate: o.LearningRate = None,
    patience: o.Patience = None,
    flip_probability: o.FlipProbability = None,
    missing: o.Missing = None,
    seed: o.Seed = 0,
    group_by: o.GroupBy = None,
    exclude_flagged: o.ExcludeFlagged = False,
    resume: o.Resume = False,
    force: o.Force = False,
) -> None:
    """Train a recipe from scratch and leave a run folder.

    The folder holds the model, its history, settings and measured errors. Interrupted training
    continues with --resume and ends with the same weights. To train several recipes, seeds or folds,
    use compare.

    Examples:

        facial-keypoints train cnn-flip --data kaggle/ -o runs/flip

        facial-keypoints train fc --epochs 10 --data kaggle/ -o runs/fc
    """
    from rich.console import Console

    from facial_keypoints.cli.data import load_faces
    from facial_keypoints.cli.progress import make_log
    from facial_keypoints.files import refuse_inputs, write_json
    from facial_keypoints.models.keras_backend import choose_backend, import_keras

    refuse_inputs(out, data)
    choose_backend()  # a missing extra is said before any work
    chosen = RECIPES[recipe.value].override(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        patience=patience,
        flip_probability=flip_probability,
        missing=missing.value if missing else None,
    )
    faces = load_faces(data, seed=seed, group_by=group_by)
    # Keras is imported after the data is read: it takes seconds.
    import_keras()
    from facial_keypoints.evaluation.report import render_evaluation
    from facial_keypoints.training.fit import measure_run, split_faces, train
    from facial_keypoints.training.progress import RunsProgress

    log = make_log()
    dataset, (split,), flagged = split_faces(faces, seed=seed, exclude_flagged=exclude_flagged)
    if exclude_flagged:
        log.print(f"left {flagged} flagged rows out of training")
    with RunsProgress(1, log) as progress:
        callbacks = [progress.callback(chosen.name)]
        run = train(
            dataset, split, chosen, out, seed=seed, resume=resume, force=force, callbacks=callbacks
        )
    report = measure_run(run, dataset, seed=seed)
    write_json(out / "report.json", report.to_dict())
    Console().print(render_evaluation(report))
    log.print(f"the model is {run.model_path}")
