"""An experiment: recipes × seeds × folds, trained and measured on the same faces.

The folder of an experiment holds::

    settings.json               what is trained on what
    runs/NAME/                  the run folder of each recipe, fold and seed
    runs.csv                    the measured error of each run
    ensembles/RECIPE/           the mean of a recipe's seeds as one model, with its split
    split.json                  the training, validation and test rows; not with folds
    results.json  results.csv   every number, with its count of labels and interval
    report.html                 the same for a person, in one file
    KEYPOINTS_0.png             held-out faces with the CNN's predictions and the labels
    KEYPOINTS_1.png             the same faces with the fully connected network's
    learning_curves.png  keypoint_errors.png  ced.png  missing_labels.png
    worst_and_best_RECIPE.png
    submission_RECIPE.csv       Kaggle's format, when the data has Kaggle's test images
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from facial_keypoints.data.cache import data_digest
from facial_keypoints.data.duplicates import image_digests
from facial_keypoints.data.kaggle import Lookup, requested_styles, write_submission
from facial_keypoints.data.missing import MISSING_STRATEGIES
from facial_keypoints.data.splits import Split
from facial_keypoints.errors import DataError, FacialKeypointsError, ModelError, OutputError
from facial_keypoints.evaluation import pages, plots, report
from facial_keypoints.evaluation.metrics import rmse
from facial_keypoints.evaluation.scores import ComparisonResult, RecipeResult, evaluate_predictions
from facial_keypoints.files import output_folder
from facial_keypoints.inference.predictor import load_predictor
from facial_keypoints.io.tables import write_table
from facial_keypoints.models.registry import RUN_MODEL
from facial_keypoints.models.runtime import read_training_digests
from facial_keypoints.models.spec import read_embedded_digests
from facial_keypoints.training.fit import predict_run, split_faces, train
from facial_keypoints.training.progress import RunsProgress
from facial_keypoints.training.recipes import Recipe
from facial_keypoints.training.run_folder import (
    Run,
    begin,
    is_finished,
    load_run,
    save_model,
    split_digest,
)
from facial_keypoints.training.tune import TrainingTask, train_in_parallel
from facial_keypoints.types import FaceDataset

__all__ = ["Experiment", "compare"]

IMAGES = {"cnn": "KEYPOINTS_0.png", "fc": "KEYPOINTS_1.png"}  # the study's own file names

_LATE_S = 60
"""Seconds that NFS may show an old listing of a folder (its default acdirmax)."""

Points = NDArray[np.float32]  # (N, K, 2) pixels


@dataclass(frozen=True, eq=False)
class Experiment:
    """What is trained on what.

    Args:
        dataset: Labelled faces with their groups.
        splits: One split, or one for each fold.
        recipes: What to train.
        seeds: Seeds to train each recipe with, on each split.
        directory: Absolute path of the experiment's folder.
        strategies: Recipes that differ only in the strategy for missing labels, trained with the
            first seed.
    """

    dataset: FaceDataset
    splits: Sequence[Split]
    recipes: Sequence[Recipe]
    seeds: Sequence[int]
    directory: Path
    strategies: Sequence[Recipe] = ()

    @property
    def tasks(self) -> list[TrainingTask]:
        """Every run, recipe by recipe, then fold by fold."""
        return [
            self.task(recipe, fold, seed)
            for recipe in (*self.recipes, *self.strategies)
            for fold in range(len(self.splits))
            for seed in self.seeds_of(recipe)
        ]

    def seeds_of(self, recipe: Recipe) -> Sequence[int]:
        """Seeds that a recipe is trained with."""
        return self.seeds if recipe in self.recipes else self.seeds[:1]

    def task(self, recipe: Recipe, fold: int, seed: int) -> TrainingTask:
        """The run of a recipe on a split with a seed; specialists start from a cnn, if there is one."""
        name = recipe.name
        if len(self.splits) > 1:
            name += f"-fold{fold}"
        if len(self.seeds_of(recipe)) > 1:
            name += f"-seed{seed}"
        bases = [
            self.task(base, fold, seed).folder
            for base in self.recipes
            if recipe.specialists and base.name == "cnn" and base.missing == recipe.missing
        ]
        folder = self.directory / "runs" / name
        return TrainingTask(name, folder, recipe, seed, fold, bases[0] if bases else None)

    def runs(self, recipe: Recipe, seed: int) -> list[Run]:
        """The finished runs of a recipe with a seed, fold by fold."""
        folds = range(len(self.splits))
        return [load_run(self.task(recipe, fold, seed).folder) for fold in folds]

    def to_json(self) -> dict[str, Any]:
        """The settings that must be the same when an experiment is resumed."""
        return {
            "recipes": [asdict(recipe) for recipe in (*self.recipes, *self.strategies)],
            "seeds": list(self.seeds),
            "folds": len(self.splits) if len(self.splits) > 1 else 0,
            "data_digest": data_digest(self.dataset),
            "splits": [split_digest(split) for split in self.splits],
        }


def compare(
    dataset: FaceDataset,
    recipes: Sequence[Recipe],
    directory: Path | str,
    *,
    seed: int = 0,
    seeds: int = 1,
    folds: int = 0,
    missing_recipe: Recipe | None = None,
    kaggle_test: tuple[FaceDataset, Lookup] | None = None,
    exclude_flagged: bool = False,
    address: str | None = None,
    cores: int = 1,
    gpus: float = 0.0,
    resume: bool = False,
    force: bool = False,
    command: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> ComparisonResult:
    """Train recipes on one dataset and measure them together, in an experiment's folder.

    Args:
        dataset: Labelled faces; NaN = not labelled.
        recipes: What to train, in this order.
        directory: Output folder; on a cluster, one that all nodes reach by this path.
        seed: Seed of the split and the bootstrap, and the first seed of the runs.
        seeds: Number of seeds; more than one also makes an ensemble of each recipe.
        folds: Number of folds of a cross-validation; 0 = one split into training, validation and test.
        missing_recipe: A recipe to train once under each strategy for missing labels, for a table
            that compares the strategies; ``None`` leaves that table out.
        kaggle_test: Kaggle's test images and the table of values to submit, for submissions.
        exclude_flagged: See :func:`training.fit.split_faces`.
        address: Train in parallel on Ray: ``local`` for this machine, or a cluster's address;
            ``None`` trains in this process, one run after the other.
        cores: On Ray, cores of each run.
        gpus: On Ray, GPUs of each run.
        resume: Continue the experiment in ``directory``.
        force: Replace what is in ``directory``.
        command: The command line, for the report.
        say: Called with lines for the user.

    Returns:
        The recipes whose runs all finished, their ensembles, and the shipped model where it fits. With folds, each face is predicted
        by the run of the fold that tests it.

    Raises:
        DataError: The data cannot be trained on, or a run failed; the other runs are finished and
            measured first.
        OutputError: The folder exists, holds another experiment, or cannot be written.
        ClusterError: Ray cannot be reached, or no node is large enough.
        MissingExtraError: A library that the report needs is not installed.
    """
    pages.require_templates()
    plots.require_figures()
    directory = Path(directory).resolve()
    inputs = (dataset.source,)
    with output_folder(directory, verb="compare", inputs=inputs, force=force, resume=resume):
        say("looking for near-duplicate images")
        dataset, splits, flagged = split_faces(
            dataset, folds=folds, seed=seed, exclude_flagged=exclude_flagged
        )
        if exclude_flagged:
            say(f"left {flagged} flagged rows out of training")
        if not any(len(split.test) for split in splits):
            raise DataError("no row is left for the test: the data holds too few groups of faces.")
        experiment = Experiment(
            dataset, splits, recipes, range(seed, seed + seeds), directory,
            _strategies(missing_recipe, recipes),
        )  # fmt: skip
        begin(directory, experiment.to_json() | {"cores": cores if address else None})
        failures = _train_unfinished(experiment, address, cores, gpus, say)
        predicted: dict[str, Points] = {}
        for task in experiment.tasks:
            if task.name in failures:
                say(f"{task.name}: {failures[task.name]}")
                continue
            test = dataset.subset(splits[task.fold].test)
            predicted[task.name] = predict_run(load_run(task.folder), test)
            error = rmse(test.keypoints.xy, predicted[task.name])
            say(f"{task.name}: {error:.3f} px on its test faces")
        _write_runs(experiment, predicted, failures)
        complete = _complete(experiment, recipes, predicted)
        if complete:
            result = replace(
                _measure(experiment, complete, predicted, seed=seed),
                audit={"rows flagged by the audit and left out of training": flagged}
                if exclude_flagged
                else {},
                command=command,
            )
            if not folds:
                splits[0].save(directory / "split.json")
            if kaggle_test is not None:
                _submit(experiment, complete, *kaggle_test, say)
            _write_comparison(result, directory)
        # A strategy may fail: 'drop' leaves no row where none is complete. That is a result too.
        failed = [t.name for t in experiment.tasks if t.name in failures and t.recipe in recipes]
        if failed or not complete:
            raise DataError(
                f"{len(failed)} of {len(experiment.tasks)} runs failed, first {failed[0]}: "
                f"{str(failures[failed[0]]).rstrip('.')}; the others are kept in {directory}."
            )
        return result


def _strategies(recipe: Recipe | None, recipes: Sequence[Recipe]) -> list[Recipe]:
    """The recipe with each strategy for missing labels that ``recipes`` do not have."""
    if recipe is None:
        return []
    changed = [recipe.override(missing=strategy) for strategy in MISSING_STRATEGIES]
    return [replace(r, name=f"{r.name}-{r.missing}") for r in changed if r not in recipes]


def _train_unfinished(
    experiment: Experiment,
    address: str | None,
    cores: int,
    gpus: float,
    say: Callable[[str], None],
) -> dict[str, FacialKeypointsError]:
    """Train what is not finished; returns why runs failed, by their names."""
    tasks = experiment.tasks
    unfinished = [task for task in tasks if not is_finished(task.folder)]
    done = len(tasks) - len(unfinished)
    before = f", {done} of them finished before" if done else ""
    say(f"{len(tasks)} runs on {len(experiment.dataset)} faces{before}")
    failures: dict[str, FacialKeypointsError] = {}
    # Specialists come last, since they start from the networks of other runs.
    for late in (False, True):
        stage = [task for task in unfinished if (task.warm_start is not None) == late]
        if not stage:
            continue
        if address is None:
            failures |= _train_here(experiment, stage)
            continue
        outcomes = train_in_parallel(
            experiment.dataset, experiment.splits, stage, experiment.directory,
            address=address, cores=cores, gpus=gpus,
        )  # fmt: skip
        for task, outcome in zip(stage, outcomes, strict=True):
            if outcome.failure:
                failures[task.name] = DataError(outcome.failure)
            elif not _appears(task.folder):
                failures[task.name] = OutputError(
                    f"it was trained on a node that has another {experiment.directory} than this machine: "
                    "give a folder with -o that all nodes reach by the same path"
                )
    return failures


def _train_here(
    experiment: Experiment, tasks: Sequence[TrainingTask]
) -> dict[str, FacialKeypointsError]:
    """Train runs in this process, one after the other; returns why some failed."""
    failures: dict[str, FacialKeypointsError] = {}
    with RunsProgress(len(tasks)) as progress:
        for task in tasks:
            try:
                run = train(
                    experiment.dataset,
                    experiment.splits[task.fold],
                    task.recipe,
                    task.folder,
                    seed=task.seed,
                    resume=True,
                    warm_start=task.warm_start,
                    callbacks=[progress.callback(task.name)],
                )
                progress.finish(task.name, f"trained in {run.record['seconds']:.0f} s")
            except (DataError, ModelError) as error:
                failures[task.name] = error
    return failures


def _appears(folder: Path) -> bool:
    """Whether a run that a node has finished is seen here; network disks show new files late."""
    for _ in range(_LATE_S):
        if is_finished(folder):
            return True
        time.sleep(1.0)
    return is_finished(folder)


def _write_runs(
    experiment: Experiment,
    predicted: Mapping[str, Points],
    failures: Mapping[str, FacialKeypointsError],
) -> None:
    """Write ``runs.csv``, a row for each run."""
    columns = "run,recipe,fold,seed,test_faces,rmse_px,best_epoch,train_seconds,failure"
    rows: list[list[Any]] = []
    for task in experiment.tasks:
        truth = experiment.dataset.keypoints.xy[experiment.splits[task.fold].test]
        measured: list[Any] = ["", "", ""]
        if task.name in predicted:
            record = load_run(task.folder).record
            error = rmse(truth, predicted[task.name])
            measured = [f"{error:.4f}", record["best_epoch"], f"{record['seconds']:.1f}"]
        fold = task.fold if len(experiment.splits) > 1 else ""
        failure = str(failures.get(task.name, ""))
        rows.append([task.name, task.recipe.name, fold, task.seed, len(truth), *measured, failure])
    write_table(experiment.directory / "runs.csv", columns.split(","), rows)


def _complete(
    experiment: Experiment, recipes: Sequence[Recipe], predicted: Mapping[str, Points]
) -> list[Recipe]:
    """The recipes of which every run finished."""
    incomplete = [task.recipe for task in experiment.tasks if task.name not in predicted]
    return [recipe for recipe in recipes if recipe not in incomplete]


def _measure(
    experiment: Experiment,
    recipes: Sequence[Recipe],
    predicted: Mapping[str, Points],
    *,
    seed: int,
) -> ComparisonResult:
    """Measure each recipe with its first seed, and the mean of its seeds, on all test rows together."""
    splits, seeds = experiment.splits, experiment.seeds
    test = experiment.dataset.subset(np.concatenate([split.test for split in splits]))
    results: list[RecipeResult] = []

    def by_seed(recipe: Recipe) -> list[Points]:
        """The predictions for all test rows, seed by seed."""
        return [
            np.concatenate(
                [predicted[experiment.task(recipe, f, s).name] for f in range(len(splits))]
            )
            for s in experiment.seeds_of(recipe)
        ]

    def result(
        name: str, description: str, xy: Points, runs: Sequence[Run], **more: Any
    ) -> RecipeResult:
        return RecipeResult(
            name=name,
            description=description,
            report=evaluate_predictions(test, xy, seed=seed),
            predicted_xy=xy,
            train_seconds=sum(run.record["seconds"] for run in runs),
            num_parameters=sum(run.record["num_parameters"] for run in runs) // len(splits),
            **more,
        )

    def first_seed(recipe: Recipe, name: str, description: str) -> RecipeResult:
        runs, found = experiment.runs(recipe, seeds[0]), by_seed(recipe)
        settings = _describe(runs[0]) | _spread(
            seeds, [rmse(test.keypoints.xy, xy) for xy in found]
        )
        return result(name, description, found[0], runs, history=runs[0].history, settings=settings)

    for recipe in recipes:
        results.append(first_seed(recipe, recipe.name, recipe.description))
        if len(seeds) > 1:
            runs = [run for s in seeds for run in experiment.runs(recipe, s)]
            results.append(
                result(
                    f"{recipe.name}-ensemble",
                    f"mean of {len(seeds)} runs of {recipe.name}",
                    np.mean(by_seed(recipe), axis=0),
                    runs,
                    settings={"seeds": f"{seeds[0]} to {seeds[-1]}"},
                )
            )
            if len(splits) == 1:
                _write_ensemble(experiment, recipe, runs)
    shipped = _shipped_model(test, seed=seed)
    if shipped is not None:
        results.append(shipped)
    strategies = _complete(experiment, experiment.strategies, predicted)
    if strategies:  # the recipe itself has one of the strategies
        own = [r for r in recipes if strategies[0].name == f"{r.name}-{strategies[0].missing}"]
        order = [str(strategy) for strategy in MISSING_STRATEGIES]
        strategies = sorted([*own, *strategies], key=lambda recipe: order.index(recipe.missing))
    counts = {"faces": len(test), "folds": len(splits)}
    note = (
        "Each face is predicted by the run whose fold tests it; the next fold chose the epoch and the "
        "others trained."
    )
    if len(splits) == 1:
        counts = {"train": len(splits[0].train), "val": len(splits[0].val), "test": len(test)}
        note = (
            "The validation faces choose the epoch; the test faces are measured once, at the end."
        )
    return ComparisonResult(
        test=test,
        recipes=tuple(results),
        train=experiment.dataset.subset(splits[0].train) if len(splits) == 1 else None,
        split=counts,
        split_note=f"Near-duplicate images and rows of one group stay on one side of a split. {note}",
        missing_results=tuple(
            first_seed(r, r.missing, f"{r.name}, missing labels: {r.missing}") for r in strategies
        ),
        versions=experiment.runs(recipes[0], seeds[0])[0].record["versions"],
        created=time.strftime("%Y-%m-%d %H:%M"),
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
    )


def _shipped_model(test: FaceDataset, *, seed: int) -> RecipeResult | None:
    """The shipped model on the test faces; ``None`` if it does not predict faces of their kind."""
    predictor = load_predictor("default")
    try:
        predictor.check_fits(test)
    except ModelError:
        return None
    xy = predictor.predict_batch(test.images, styles=test.styles).to_schema(test.schema).xy
    learnt = read_training_digests("default") or frozenset()
    return RecipeResult(
        name="default",
        description="the shipped model, trained on photos of faces; nothing is trained here",
        report=evaluate_predictions(test, xy, seed=seed),
        predicted_xy=xy,
        seen_faces=sum(digest in learnt for digest in image_digests(test.images)),
    )


def _describe(run: Run) -> dict[str, Any]:
    """The settings of a run, by the names that reports show."""
    recipe = run.recipe
    return {
        "epochs": recipe.epochs,
        "best epoch": run.record["best_epoch"],
        "batch size": recipe.batch_size,
        "loss": recipe.loss,
        "optimizer": recipe.optimizer,
        **recipe.optimizer_options,
        "missing labels": recipe.missing,
        "flip probability": recipe.flip_probability,
    }


def _spread(seeds: Sequence[int], errors: Sequence[float]) -> dict[str, Any]:
    """The errors of the seeds, their mean and their standard deviation."""
    if len(errors) == 1:
        return {}
    return {
        "seed": seeds[0],
        "RMSE px of all seeds": ", ".join(f"{error:.3f}" for error in errors),
        "their mean": round(float(np.mean(errors)), 4),
        "their standard deviation": round(float(np.std(errors, ddof=1)), 4),
    }


def _write_ensemble(experiment: Experiment, recipe: Recipe, runs: Sequence[Run]) -> None:
    """Write one model that predicts the mean of the runs' models."""
    members = []
    for number, run in enumerate(runs):
        member = run.load_model()
        member.name = f"{member.name}_{number}"
        members.append(member)
    inputs = keras.Input(members[0].input_shape[1:], name="image")
    mean = layers.Average(name="xy")([member(inputs) for member in members])
    folder = experiment.directory / "ensembles" / recipe.name
    experiment.splits[0].save(folder / "split.json")
    learnt = frozenset().union(*(read_embedded_digests(run.model_path) or () for run in runs))
    model = keras.Model(inputs, mean, name="ensemble")
    save_model(folder / RUN_MODEL, model, runs[0].spec, learnt)


def _submit(
    experiment: Experiment,
    recipes: Sequence[Recipe],
    faces: FaceDataset,
    lookup: Lookup,
    say: Callable[[str], None],
) -> None:
    """Write a submission of each recipe with its first seed, and of its ensemble; means over folds.

    The models may lack keypoints that the table asks for: then no submission is written, which is said.
    """
    faces = replace(faces, styles=requested_styles(lookup, faces.sample_ids))
    for recipe in recipes:
        by_seed = [
            np.mean([predict_run(run, faces) for run in experiment.runs(recipe, seed)], axis=0)
            for seed in experiment.seeds
        ]
        submissions = {recipe.name: by_seed[0]}
        if len(by_seed) > 1:
            submissions[f"{recipe.name}-ensemble"] = np.mean(by_seed, axis=0)
        for name, xy in submissions.items():
            file = experiment.directory / f"submission_{name}.csv"
            try:
                write_submission(
                    file, faces.sample_ids, xy, lookup, schema=experiment.dataset.schema
                )
            except DataError as error:
                say(f"no submission of {name}: {error}")


def _write_comparison(result: ComparisonResult, directory: Path) -> None:
    """Write the tables, images and the report of a comparison."""
    report.write_results_json(directory / "results.json", result)
    report.write_results_csv(directory / "results.csv", result)
    for recipe in result.recipes:
        name, points = recipe.name, (result.test, recipe.predicted_xy)
        grid = plots.plot_keypoints_grid(*points, recipe=name)
        plots.save_figure(grid, directory / IMAGES.get(name, f"keypoints_{name}.png"))
        extremes = plots.plot_worst_best(*points, recipe=name)
        plots.save_figure(extremes, directory / f"worst_and_best_{name}.png")
    for name, chart in report.comparison_charts(result).items():
        plots.save_figure(chart.plot(), directory / f"{name}.png")
    report.write_report(directory / "report.html", result)
