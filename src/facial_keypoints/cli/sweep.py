"""``facial-keypoints sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facial_keypoints.cli import app
from facial_keypoints.cli import options as o
from facial_keypoints.training.recipes import RECIPES


@app.command("sweep")
def sweep_command(
    space: Annotated[
        Path, typer.Argument(metavar="SPACE.yaml", help="Search space: the settings to try.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the results.")],
    data: o.Data = None,
    recipe: Annotated[
        o.RecipeName, typer.Option(help="Recipe whose settings are changed.")
    ] = o.RecipeName["cnn"],
    trials: Annotated[int, typer.Option(min=1, help="Number of settings to try.")] = 20,
    epochs: o.Epochs = None,
    seed: o.Seed = 0,
    schema: o.Schema = None,
    images: o.Images = None,
    group_by: o.GroupBy = None,
    address: o.Address = None,
    cores: o.Cores = 1,
    gpus: o.Gpus = 0.0,
    resume: o.Resume = False,
    force: o.Force = False,
) -> None:
    """Try settings of a recipe in parallel, stop bad trials early, and keep the best model.

    The search space maps settings to lists of values or to ranges:
    `learning_rate: {min: 1.0e-4, max: 1.0e-2, scale: log}`. Trials run on Ray, on this machine or on
    a cluster.

    Examples:

        facial-keypoints sweep space.yaml --data kaggle/ -o runs/sweep

        facial-keypoints sweep space.yaml --recipe fc --trials 30 -o /shared/sweep --address auto
    """
    from rich.console import Console
    from rich.table import Table

    from facial_keypoints import cluster
    from facial_keypoints.cli.data import load_faces
    from facial_keypoints.cli.progress import make_log
    from facial_keypoints.files import refuse_inputs
    from facial_keypoints.models.keras_backend import choose_backend, import_keras

    refuse_inputs(out, data, space, schema, images)
    # A missing extra is said before any work.
    choose_backend()
    cluster.require_ray("A sweep")
    faces = load_faces(data, seed=seed, group_by=group_by, channels=1, schema=schema, images=images)
    # Keras is imported after the data is read: it takes seconds.
    import_keras()
    from facial_keypoints.evaluation.report import render_evaluation
    from facial_keypoints.training.sweep import load_space, sweep

    say = make_log().print
    tried, report = sweep(
        faces,
        RECIPES[recipe.value].override(epochs=epochs),
        load_space(space),
        out,
        trials=trials,
        seed=seed,
        address=address,
        cores=cores,
        gpus=gpus,
        resume=resume,
        force=force,
        say=say,
    )
    table = Table("run", *tried[0][0], "epochs", "validation RMSE px", "")
    for place, (settings, end) in enumerate(tried):
        cells = (end.name, *settings.values(), end.epochs, f"{end.error:.3f}", end.state)
        table.add_row(*map(str, cells), style=None if place else "green")
    Console().print(table)
    Console().print(render_evaluation(report))
    say(f"the best model is {out / 'best' / 'model.keras'}")
