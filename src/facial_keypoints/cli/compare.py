"""``facial-keypoints compare``: the main job."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from facial_keypoints.cli import app
from facial_keypoints.cli import options as o
from facial_keypoints.errors import DataError
from facial_keypoints.training.recipes import RECIPES, Recipe, get_recipe

DRAWN_FACES = 3000
QUICK_DRAWN_FACES = 1500
QUICK_EPOCHS = {"fc": 30}  # an epoch of fc takes a tenth of the time of the others
QUICK_EPOCHS_OTHERS = 16
QUICK_BATCH_SIZE = 32  # with few epochs, more steps matter more than smooth ones


@app.command("compare")
def compare_command(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the results.")],
    data: o.Data = None,
    recipes: Annotated[
        str, typer.Option(help=f"What to train, comma-separated: {', '.join(RECIPES)}.")
    ] = "fc,cnn,cnn-flip",
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Fewer epochs, smaller batches, fewer drawn faces: a first look."
        ),
    ] = False,
    epochs: o.Epochs = None,
    batch_size: o.BatchSize = None,
    learning_rate: o.LearningRate = None,
    patience: o.Patience = None,
    missing: o.Missing = None,
    missing_study: Annotated[
        str,
        typer.Option(
            help="Recipe to train once under each missing-label strategy, to show what the choice "
            "costs; 'none' leaves it out."
        ),
    ] = "fc",
    seed: o.Seed = 0,
    group_by: o.GroupBy = None,
    exclude_flagged: o.ExcludeFlagged = False,
    resume: o.Resume = False,
    force: o.Force = False,
) -> None:
    """Train recipes on the same faces and compare them on the same held-out ones.

    Writes results.json, results.csv, report.html, KEYPOINTS_0.png (cnn), KEYPOINTS_1.png (fc),
    learning curves, error plots, the models, and a Kaggle submission per recipe when the data has
    test.csv and IdLookupTable.csv.

    Examples:

        facial-keypoints compare --quick -o out

        facial-keypoints compare --data kaggle/ --recipes fc,cnn,cnn-flip,specialists -o out
    """
    chosen = [_recipe(name.strip()) for name in recipes.split(",") if name.strip()]
    if len({recipe.name for recipe in chosen}) != len(chosen) or not chosen:
        raise typer.BadParameter("name each recipe once.", param_hint="--recipes")

    def adapted(recipe: Recipe) -> Recipe:
        quick_epochs = QUICK_EPOCHS.get(recipe.name, QUICK_EPOCHS_OTHERS) if quick else None
        return recipe.override(
            epochs=epochs or quick_epochs,
            specialist_epochs=epochs or (QUICK_EPOCHS_OTHERS // 2 if quick else None),
            batch_size=batch_size or (QUICK_BATCH_SIZE if quick else None),
            learning_rate=learning_rate,
            patience=patience,
            missing=missing.value if missing else None,
        )

    study = None if missing_study == "none" else adapted(_recipe(missing_study, "--missing-study"))

    from rich.console import Console

    from facial_keypoints.files import refuse_inputs
    from facial_keypoints.models.keras_backend import choose_backend

    refuse_inputs(out, data)
    log = Console(stderr=True)

    def say(line: str) -> None:
        log.print(line, highlight=False, markup=False)

    choose_backend()
    from facial_keypoints.data.kaggle import load_kaggle, load_lookup
    from facial_keypoints.data.synthetic.faces import draw_kaggle_like
    from facial_keypoints.evaluation.report import render_comparison
    from facial_keypoints.training.compare import KaggleTest, compare

    kaggle_test = None
    if data is None:
        count = QUICK_DRAWN_FACES if quick else DRAWN_FACES
        say(f"drawing {count} faces")
        dataset = draw_kaggle_like(count, seed=seed)
    else:
        say(f"reading {data}")
        dataset = load_kaggle(data, part="train", group_by=group_by)
        try:
            kaggle_test = KaggleTest(load_kaggle(data, part="test"), load_lookup(data))
        except DataError as error:
            say(f"no submission will be written: {error}")
    result = compare(
        dataset,
        [adapted(recipe) for recipe in chosen],
        out,
        seed=seed,
        kaggle_test=kaggle_test,
        missing_recipe=study,
        exclude_flagged=exclude_flagged,
        resume=resume,
        force=force,
        command=shlex.join(["facial-keypoints", *sys.argv[1:]]),
        say=say,
    )
    Console().print(render_comparison(result))
    say(f"open {out / 'report.html'}")


def _recipe(name: str, hint: str = "--recipes") -> Recipe:
    try:
        return get_recipe(name)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=hint) from error
