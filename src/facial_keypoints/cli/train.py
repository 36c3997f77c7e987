"""``facial-keypoints train``, ``evaluate`` and ``submit``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from facial_keypoints.cli import app
from facial_keypoints.cli import options as o
from facial_keypoints.training.recipes import Recipe, get_recipe

if TYPE_CHECKING:
    from rich.console import Console

    from facial_keypoints.training.experiment import Outcome, Plan, PlannedRun
    from facial_keypoints.types import FaceDataset


@app.command("train")
def train_command(
    out: Annotated[Path, typer.Option("-o", "--out", help="Run folder to make.")],
    recipes: Annotated[
        list[o.RecipeName] | None,
        typer.Argument(
            metavar="RECIPE", help=f"What to train from scratch: {', '.join(o.RecipeName)}."
        ),
    ] = None,
    data: o.Data = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Instead of a recipe: adapt this trained model (default, a run folder, a .keras "
            "file) to your faces; tens of them will do.",
        ),
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(
            help="With --from: your keypoints, as a .yaml or .json file or the name of a schema.",
            show_default="what the data names",
        ),
    ] = None,
    epochs: o.Epochs = None,
    batch_size: o.BatchSize = None,
    learning_rate: o.LearningRate = None,
    patience: o.Patience = None,
    flip_probability: o.FlipProbability = None,
    missing: o.Missing = None,
    seed: o.Seed = 0,
    group_by: o.GroupBy = None,
    exclude_flagged: o.ExcludeFlagged = False,
    warm_start: Annotated[
        Path | None,
        typer.Option(help="specialists only: run folder of a cnn trained on the same faces."),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            min=1,
            help="Train each recipe this many times, with seeds from --seed on; the mean of the models "
            "is kept as one, in ensembles/.",
        ),
    ] = 1,
    folds: Annotated[
        int,
        typer.Option(
            min=0,
            help="Cross-validate: this many parts, 3 or more, each tested once; 0 = one split.",
        ),
    ] = 0,
    sweep: Annotated[
        Path | None,
        typer.Option(
            metavar="SPACE.yaml",
            help="Try settings from this search space side by side and stop the bad ones early.",
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="With --sweep: settings to try.", show_default="20")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Train side by side on a Ray: local for the cores of this machine, or a cluster's "
            "HOST:PORT, or auto on a machine of it.",
            show_default="one run after the other; local for --sweep",
        ),
    ] = None,
    cores: Annotated[
        int | None,
        typer.Option(
            min=1, help="On a Ray: cores of each run.", show_default="so many that none is idle"
        ),
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="On a Ray: graphics cards of each run; 0.5 lets two share one.",
            show_default="0",
        ),
    ] = None,
    resume: o.Resume = False,
    force: o.Force = False,
) -> None:
    """Train recipes, or adapt a trained model to your faces, and leave a run folder.

    The folder holds model, history, settings and measured errors. Interrupted training of a recipe
    continues with --resume and ends with the same weights.

    Several recipes, --seeds and --folds make a plan of many runs, in runs/ of the folder, with one
    report; --address trains them side by side, on this machine or a cluster, whose nodes must all
    reach the folder.

    Examples:

        facial-keypoints train cnn-flip --data kaggle/ -o runs/flip

        facial-keypoints train --from default --data mine/ -o runs/mine

        facial-keypoints train cnn cnn-flip --seeds 3 --folds 5 --data kaggle/ -o runs/cv --address auto

        facial-keypoints train cnn --sweep space.yaml --trials 30 --data kaggle/ -o runs/sweep
    """
    from rich.console import Console

    from facial_keypoints.files import refuse_inputs
    from facial_keypoints.models.keras_backend import choose_backend

    log = Console(stderr=True)
    names = [recipe.value for recipe in recipes or ()]
    if len(set(names)) < len(names):
        raise typer.BadParameter("name each recipe once.")
    if folds in (1, 2):
        raise typer.BadParameter("--folds must be 3 or more: to train, to choose and to test.")
    mode = _mode(names, base=base, sweep=sweep, many=seeds > 1 or folds > 0 or address is not None)
    _refuse_flags_of_others(
        mode,
        {
            "--schema": schema,
            "--epochs": epochs,
            "--batch-size": batch_size,
            "--learning-rate": learning_rate,
            "--patience": patience,
            "--flip-probability": flip_probability,
            "--missing": missing,
            "--group-by": group_by,
            "--exclude-flagged": exclude_flagged or None,
            "--warm-start": warm_start,
            "--seeds": seeds if seeds > 1 else None,
            "--folds": folds or None,
            "--trials": trials,
            "--address": address,
            "--cores": cores,
            "--gpus": gpus,
            "--resume": resume or None,
        },
    )
    refuse_inputs(out, data, base, sweep, warm_start, schema)
    if mode == "--from":
        if data is None:
            raise typer.BadParameter("--from needs --data, your labelled faces.")
        _finetune(log, str(base), data, schema, out, seed=seed, group_by=group_by, force=force)
        return
    chosen, *others = (
        get_recipe(name).override(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            patience=patience,
            flip_probability=flip_probability,
            missing=missing.value if missing else None,
        )
        for name in names
    )
    choose_backend()
    from facial_keypoints.cli.data import load_faces

    dataset = load_faces(data, seed=seed, group_by=group_by)
    common: dict[str, Any] = {
        "seed": seed,
        "exclude_flagged": exclude_flagged,
        "resume": resume,
        "force": force,
    }
    ray = _Ray(address, cores, gpus or 0.0)
    if sweep is not None:
        _sweep(log, dataset, chosen, sweep, trials or 20, out, ray, common)
    elif mode == "training of many runs":
        _train_many(log, dataset, [chosen, *others], out, seeds, folds, ray, common)
    else:
        _train_one(log, dataset, chosen, out, warm_start, common)


_SETTINGS = {"--epochs", "--batch-size", "--learning-rate", "--patience", "--flip-probability"}
_SETTINGS |= {"--missing", "--group-by", "--exclude-flagged", "--resume"}
_TAKEN = {
    "--from": {"--schema", "--group-by"},
    "--sweep": _SETTINGS | {"--trials", "--address", "--cores", "--gpus"},
    "training of many runs": _SETTINGS | {"--seeds", "--folds", "--address", "--cores", "--gpus"},
    "training of one recipe": _SETTINGS | {"--warm-start"},
}
"""Flags that each way of training has a use for."""


def _mode(names: list[str], *, base: str | None, sweep: Path | None, many: bool) -> str:
    """Which way of training is asked for; a key of ``_TAKEN``."""
    if base is not None:
        if names:
            raise typer.BadParameter("--from takes no recipe: leave one of the two out.")
        return "--from"
    if not names:
        raise typer.BadParameter("name a recipe to train, or a model to start from with --from.")
    if sweep is not None:
        if len(names) > 1:
            raise typer.BadParameter("--sweep takes one recipe.")
        return "--sweep"
    return "training of many runs" if many or len(names) > 1 else "training of one recipe"


def _refuse_flags_of_others(mode: str, given: Mapping[str, object]) -> None:
    for flag, value in given.items():
        if value is None:
            continue
        if flag in ("--cores", "--gpus") and mode != "--sweep" and given["--address"] is None:
            raise typer.BadParameter(f"{flag} needs --address, local for this machine.")
        if flag in _TAKEN[mode]:
            continue
        owners = [other for other, flags in _TAKEN.items() if flag in flags]
        if len(owners) == 1 and owners[0].startswith("--"):
            raise typer.BadParameter(f"{flag} belongs to {owners[0]}.")
        raise typer.BadParameter(f"{mode} takes no {flag}: leave one of the two out.")


def _train_one(
    log: Console,
    dataset: FaceDataset,
    recipe: Recipe,
    out: Path,
    warm_start: Path | None,
    common: dict[str, Any],
) -> None:
    """Train one recipe once and print how it does."""
    from rich.console import Console

    from facial_keypoints.evaluation.report import render_evaluation
    from facial_keypoints.evaluation.scores import evaluate_predictions
    from facial_keypoints.files import write_json
    from facial_keypoints.training.fit import predict_keypoints, split_faces, train
    from facial_keypoints.training.progress import TrainingProgress

    exclude_flagged = common.pop("exclude_flagged")
    dataset, split, flagged = split_faces(
        dataset, seed=common["seed"], exclude_flagged=exclude_flagged
    )
    if exclude_flagged:
        log.print(f"left {flagged} flagged rows out of training")
    with TrainingProgress(log) as progress:
        progress.title = recipe.name
        run = train(
            dataset, split, recipe, out, warm_start=warm_start, callbacks=[progress], **common
        )
    test = dataset.subset(split.test)
    answers = predict_keypoints(run.load_model(), test.images)
    report = evaluate_predictions(test, answers, seed=common["seed"])
    write_json(out / "report.json", report.to_dict())
    Console().print(render_evaluation(report))
    log.print(f"the model is {run.model_path}", soft_wrap=True)


class _Ray(NamedTuple):
    """Where to train, and what each run gets."""

    address: str | None
    cores: int | None
    gpus: float


def _train_many(
    log: Console,
    dataset: FaceDataset,
    recipes: list[Recipe],
    out: Path,
    seeds: int,
    folds: int,
    ray: _Ray,
    common: dict[str, Any],
) -> None:
    """Train a plan of runs and print how the recipes do."""
    from rich.console import Console

    from facial_keypoints.evaluation.report import render_comparison
    from facial_keypoints.training.experiment import run_here, train_plan
    from facial_keypoints.training.progress import RunsProgress
    from facial_keypoints.training.ray_runs import run_on_ray

    def say(line: str) -> None:
        log.print(line, highlight=False, markup=False, soft_wrap=True)

    def side_by_side(
        plan: Plan, runs: Sequence[PlannedRun]
    ) -> Iterator[tuple[PlannedRun, Outcome]]:
        with RunsProgress(len(runs), log) as progress:
            for run, outcome in run_on_ray(
                plan, runs, **ray._asdict(), show=progress.update, say=say
            ):
                progress.finish(run.name, _end_of_run(plan, run, outcome))
                yield run, outcome

    result = train_plan(
        dataset,
        recipes,
        out,
        seeds=seeds,
        folds=folds,
        execute=run_here if ray.address is None else side_by_side,
        command=shlex.join(["facial-keypoints", *sys.argv[1:]]),
        say=say,
        **common,
    )
    Console().print(render_comparison(result))
    say(f"open {out / 'report.html'}; the models are in {out / 'runs'}")


def _end_of_run(plan: Plan, run: PlannedRun, outcome: Outcome) -> str:
    from facial_keypoints.errors import FacialKeypointsError
    from facial_keypoints.evaluation.metrics import rmse

    if isinstance(outcome, FacialKeypointsError):
        return str(outcome)
    truth = plan.dataset.keypoints.xy[plan.splits[run.fold].test]
    return f"{rmse(truth, outcome):.3f} px on its test faces"


def _sweep(
    log: Console,
    dataset: FaceDataset,
    recipe: Recipe,
    space: Path,
    trials: int,
    out: Path,
    ray: _Ray,
    common: dict[str, Any],
) -> None:
    """Try settings, print them with their errors, and how the best does on the test faces."""
    from rich.console import Console
    from rich.table import Table

    from facial_keypoints.evaluation.report import render_evaluation
    from facial_keypoints.training.progress import RunsProgress
    from facial_keypoints.training.sweep import load_space, sweep

    def say(line: str) -> None:
        log.print(line, highlight=False, markup=False, soft_wrap=True)

    with RunsProgress(None, log) as progress:
        found = sweep(
            dataset,
            recipe,
            load_space(space),
            out,
            trials=trials,
            show=progress.update,
            say=say,
            **ray._asdict(),
            **common,
        )
    table = Table("trial", *found.best.settings, "epochs", "validation RMSE px", "")
    for trial in found.trials:
        values = [str(value) for value in trial.settings.values()]
        error = f"{trial.val_rmse_px:.3f}"
        style = "green" if trial is found.best else None
        table.add_row(
            str(trial.number), *values, str(trial.epochs), error, trial.state, style=style
        )
    Console().print(table)
    Console().print(render_evaluation(found.report))
    say(f"the best model is {found.directory / 'model.keras'}")


def _finetune(
    log: Console,
    base: str,
    data: Path,
    schema: str | None,
    out: Path,
    *,
    seed: int,
    group_by: str | None,
    force: bool,
) -> None:
    """Adapt a trained model and print how it does."""
    from rich.console import Console

    from facial_keypoints.cli.data import load_faces
    from facial_keypoints.files import write_json
    from facial_keypoints.models.keras_backend import choose_backend
    from facial_keypoints.schemas import load_schema

    wanted = load_schema(schema) if schema is not None else None
    choose_backend()
    import numpy as np

    from facial_keypoints.evaluation.report import render_evaluation
    from facial_keypoints.evaluation.scores import evaluate_predictions
    from facial_keypoints.models.spec import read_embedded_spec
    from facial_keypoints.training.finetune import find_base, finetune

    spec = read_embedded_spec(find_base(base))
    dataset = load_faces(
        data, group_by=group_by, size=spec.input_size, channels=spec.channels, schema=wanted
    )
    with log.status("starting") as status:
        run = finetune(dataset, out, base=base, seed=seed, force=force, report=status.update)
    report = evaluate_predictions(run.faces, run.answers, seed=seed)
    write_json(out / "report.json", report.to_dict())
    Console().print(render_evaluation(report))
    log.print(
        f"measured by five-fold cross-validation over {len(run.faces)} faces, in pixels of the model's "
        f"input ({spec.input_size[1]}×{spec.input_size[0]})",
        soft_wrap=True,
    )
    both = ~np.isnan(run.base_answers[..., 0]) & run.faces.keypoints.labeled
    if both.any():
        truth = run.faces.keypoints.xy[both]
        ours, theirs = (
            float(np.linalg.norm(answers[both] - truth, axis=-1).mean())
            for answers in (run.answers, run.base_answers)
        )
        style = f" in its style '{run.style}'" if run.style else ""
        log.print(
            f"mean error of the points that {base} knows: {ours:.2f} px; {base} as it is{style}: "
            f"{theirs:.2f} px",
            soft_wrap=True,
        )
    log.print(f"the model is {out / 'model.keras'}", soft_wrap=True)


@app.command("evaluate")
def evaluate_command(
    model: Annotated[str, typer.Argument(help="default, a run folder, a .keras or an .onnx file.")],
    data: Annotated[Path, typer.Option(help="Labelled faces, as for train.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write the report as JSON.")
    ] = None,
    group_by: o.GroupBy = None,
    flip: o.Flip = False,
    average: o.Average = False,
    threads: o.Threads = None,
    force: o.Force = False,
) -> None:
    """Measure a model on labelled faces: RMSE with intervals, NME, CED, per style and keypoint.

    Faces that the model was trained on, or that chose its epoch, are left out of the table: their
    error, told below it, says nothing about other faces. They are recognised by their pixels: another
    image of the same person, or the same photo cut otherwise, is not. A model with label styles
    answers each face in the style of its labels.

    Examples:

        facial-keypoints evaluate default --data kaggle/

        facial-keypoints evaluate runs/flip --data kaggle/ -o report.json
    """
    from rich.console import Console

    from facial_keypoints.cli.data import load_faces
    from facial_keypoints.data.duplicates import image_digests
    from facial_keypoints.evaluation.report import describe_training_faces, render_evaluation
    from facial_keypoints.evaluation.scores import evaluate_held_out
    from facial_keypoints.files import refuse_existing, write_json
    from facial_keypoints.inference.predictor import load_predictor
    from facial_keypoints.models.runtime import read_training_digests

    if out is not None:
        refuse_existing(out, force=force)
    predictor = load_predictor(model, flip=flip, average=average, threads=threads)
    spec = predictor.spec
    dataset = load_faces(
        data, group_by=group_by, size=spec.input_size, channels=spec.channels, schema=spec.schema
    )
    predictor.check_fits(dataset)
    Console(stderr=True).print(f"measuring on {len(dataset):,} faces")
    answers = predictor.predict_batch(dataset.images, styles=dataset.styles)
    learnt = read_training_digests(model)
    seen = None if learnt is None else [d in learnt for d in image_digests(dataset.images)]
    report = evaluate_held_out(dataset, answers.xy, seen)
    if out is not None:
        write_json(out, report.to_dict())
    if report.held_out.overall.num_faces:
        Console().print(render_evaluation(report.held_out))
    Console().print(describe_training_faces(report), highlight=False, soft_wrap=True)


@app.command("submit")
def submit_command(
    model: Annotated[str, typer.Argument(help="default, a run folder, a .keras or an .onnx file.")],
    data: Annotated[
        Path, typer.Option(help="Kaggle's files: test.csv and IdLookupTable.csv among them.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The submission to write (.csv).")],
    flip: o.Flip = False,
    threads: o.Threads = None,
    force: o.Force = False,
) -> None:
    """Answer Kaggle's test images and write a submission (RowId,Location).

    A model with label styles answers each image in the style that its requested points imply.
    Values are clipped to the image.

    Examples:

        facial-keypoints submit default --data kaggle/ -o submission.csv

        facial-keypoints submit runs/flip --data kaggle/ -o submission.csv --force
    """
    from rich.console import Console

    from facial_keypoints.data.kaggle import (
        load_kaggle,
        load_lookup,
        requested_styles,
        write_submission,
    )
    from facial_keypoints.files import refuse_existing
    from facial_keypoints.inference.predictor import load_predictor

    refuse_existing(out, force=force)
    # A thousand images take seconds either way, so the better way.
    predictor = load_predictor(model, flip=flip, average=True, threads=threads)
    faces, lookup = load_kaggle(data, part="test"), load_lookup(data)
    predictor.check_fits(faces)
    styles = requested_styles(lookup, faces.sample_ids)
    answers = predictor.predict_batch(faces.images, styles=styles)
    write_submission(out, faces.sample_ids, answers.xy, lookup, side=faces.image_size[1])
    Console(stderr=True).print(f"wrote {out}", soft_wrap=True)
