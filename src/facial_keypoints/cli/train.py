"""``facial-keypoints train``."""

from __future__ import annotations

from typing import Annotated

import typer

from facial_keypoints.cli import app
from facial_keypoints.cli import options as o
from facial_keypoints.training.recipes import FROM_RATE, RECIPES


@app.command("train")
def train_command(
    recipe: Annotated[
        o.RecipeName, typer.Argument(metavar="RECIPE", help=f"One of {', '.join(o.RecipeName)}.")
    ],
    out: o.RunFolder,
    data: o.Data = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="landmark only: model to train further, all its weights: default (the shipped one), a run "
            "folder or a .keras file.",
            show_default="random weights",
        ),
    ] = None,
    epochs: o.Epochs = None,
    batch_size: o.BatchSize = None,
    learning_rate: o.LearningRate = None,
    patience: o.Patience = None,
    flip_probability: o.FlipProbability = None,
    missing: o.Missing = None,
    schema: o.Schema = None,
    images: o.Images = None,
    group_by: o.GroupBy = None,
    seed: o.Seed = 0,
    exclude_flagged: o.ExcludeFlagged = False,
    resume: o.Resume = False,
    force: o.Force = False,
) -> None:
    """Train a recipe and leave a run folder.

    landmark has by far the lowest errors: the shipped model's network on turned, moved, mirrored and
    relit views of your faces, for any keypoints. It predicts in every label style of the data, with
    confidence. From hundreds of faces on, --from default trains all weights of the shipped model
    further; with fewer, use finetune.

    The folder holds the model, its history, settings and measured errors. Interrupted training
    continues with --resume and ends with the same weights. To train several recipes, seeds or folds,
    use compare.

    Examples:

        facial-keypoints train landmark --data kaggle/ -o runs/landmark

        facial-keypoints train landmark --from default --data mine/ -o runs/mine

        facial-keypoints train fc --epochs 10 --data kaggle/ -o runs/fc
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
    chosen = RECIPES[recipe.value].override(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate or (FROM_RATE if base is not None else None),
        patience=patience,
        flip_probability=flip_probability,
        missing=missing.value if missing else None,
    )
    size = None
    if base is not None:
        size = read_embedded_spec(find_model(base, trainable=True)).input_size
    faces = load_faces(
        data, seed=seed, group_by=group_by, size=size, channels=1, schema=schema, images=images
    )
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
            dataset,
            split,
            chosen,
            out,
            seed=seed,
            resume=resume,
            force=force,
            base=base,
            callbacks=callbacks,
        )
    report = measure_run(run, dataset, seed=seed)
    seen = len(split.test) - report.overall.num_faces
    if seen:
        log.print(
            f"{seen} of {len(split.test)} test faces are left out: {base} was trained on them, so their "
            "errors would be too low"
        )
    write_json(out / "report.json", report.to_dict())
    Console().print(render_evaluation(report))
    log.print(f"the model is {run.model_path}")
