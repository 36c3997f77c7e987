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
from facial_keypoints.training.recipes import RECIPES, Recipe

QUICK_DRAWN_FACES = 2500
QUICK_EPOCHS = {"fc": 30}  # an epoch of fc takes a tenth of the time of the others
QUICK_EPOCHS_OTHERS = 10
QUICK_BATCH_SIZE = 32  # with few epochs, more steps matter more than smooth ones


@app.command("compare")
def compare_command(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the results.")],
    recipes: Annotated[
        list[o.RecipeName] | None,
        typer.Argument(
            metavar="RECIPE",
            help=f"What to train, of {', '.join(o.RecipeName)}.",
            show_default="fc cnn cnn-flip",
        ),
    ] = None,
    data: o.Data = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Fewer epochs, smaller batches and fewer drawn faces, for a quick try."
        ),
    ] = False,
    epochs: o.Epochs = None,
    seeds: Annotated[
        int,
        typer.Option(
            min=1,
            help="Train each recipe this many times, with seeds from --seed on, and save the mean of "
            "the models as one model in ensembles/.",
        ),
    ] = 1,
    folds: Annotated[
        int,
        typer.Option(
            min=0,
            help="Number of folds of a cross-validation, 3 or more; 0 = one split.",
        ),
    ] = 0,
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
    """Train recipes on the same faces and compare them on the same held-out faces.

    Writes results.json, results.csv, report.html, KEYPOINTS_0.png (cnn), KEYPOINTS_1.png (fc),
    learning curves, error plots, the models, and a Kaggle submission per recipe when the data has
    test.csv and IdLookupTable.csv. Without --seeds and --folds, fc is also trained once with each
    strategy for missing labels. With --address the runs are trained in parallel.

    Recipes are trained with their own settings. To change the learning rate, batch size, patience or
    missing labels, train one recipe with `train`, search with `sweep`, or call
    `facial_keypoints.compare` from Python with changed recipes.

    Examples:

        facial-keypoints compare --quick -o out

        facial-keypoints compare fc cnn cnn-flip specialists --data kaggle/ -o out

        facial-keypoints compare cnn cnn-flip --seeds 3 --folds 5 --data kaggle/ -o out --address auto
    """
    names = [recipe.value for recipe in recipes or ()] or ["fc", "cnn", "cnn-flip"]
    if len(set(names)) < len(names):
        raise typer.BadParameter("name each recipe once.")
    if folds in (1, 2):
        raise typer.BadParameter("--folds must be 3 or more: to train, to validate and to test.")
    if address is None and (cores > 1 or gpus):
        raise typer.BadParameter("--cores and --gpus need --address (local = this machine).")
    chosen = {name: _adapted(RECIPES[name], quick, epochs) for name in names}

    from rich.console import Console

    from facial_keypoints import cluster
    from facial_keypoints.cli.data import DRAWN_FACES, load_faces
    from facial_keypoints.cli.progress import make_log
    from facial_keypoints.data.kaggle import load_kaggle, load_lookup
    from facial_keypoints.data.synthetic.faces import draw_kaggle_like
    from facial_keypoints.evaluation.pages import require_templates
    from facial_keypoints.evaluation.plots import require_figures
    from facial_keypoints.files import refuse_inputs
    from facial_keypoints.models.keras_backend import choose_backend, import_keras

    refuse_inputs(out, data, schema, images)
    # A missing extra is said before any work.
    choose_backend()
    require_templates()
    require_figures()
    if address is not None:
        cluster.require_ray("Training in parallel")
    say = make_log().print
    kaggle_test = None
    if data is None:
        count = QUICK_DRAWN_FACES if quick else DRAWN_FACES
        say(f"drawing {count} faces")
        dataset = draw_kaggle_like(count, seed=seed)
    else:
        say(f"reading {data}")
        dataset = load_faces(data, group_by=group_by, channels=1, schema=schema, images=images)
        try:
            kaggle_test = load_kaggle(data, part="test"), load_lookup(data)
        except DataError as error:
            say(f"no submission will be written: {error}")
    # Keras is imported after the data is read: it takes seconds.
    import_keras()
    from facial_keypoints.evaluation.report import render_comparison
    from facial_keypoints.training.experiment import compare

    result = compare(
        dataset,
        list(chosen.values()),
        out,
        seed=seed,
        seeds=seeds,
        folds=folds,
        kaggle_test=kaggle_test,
        missing_recipe=chosen.get("fc") if seeds == 1 and not folds else None,
        address=address,
        cores=cores,
        gpus=gpus,
        resume=resume,
        force=force,
        command=shlex.join(["facial-keypoints", *sys.argv[1:]]),
        say=say,
    )
    console = Console()
    console.print(render_comparison(result, console.width))
    say(f"open {out / 'report.html'}; the models are in {out / 'runs'}")


def _adapted(recipe: Recipe, quick: bool, epochs: int | None) -> Recipe:
    """The recipe with the epochs of --epochs, or with those of --quick."""
    quick_epochs = QUICK_EPOCHS.get(recipe.name, QUICK_EPOCHS_OTHERS) if quick else None
    return recipe.override(
        epochs=epochs or quick_epochs,
        specialist_epochs=epochs or (QUICK_EPOCHS_OTHERS // 2 if quick else None),
        batch_size=QUICK_BATCH_SIZE if quick else None,
    )
