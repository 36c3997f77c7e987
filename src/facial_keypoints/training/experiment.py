"""An experiment: recipes × seeds × folds, trained on the same faces and measured on the same others.

The folder of an experiment holds::

    settings.json               what is trained on what
    runs/NAME/                  the run folder of each recipe, fold and seed
    runs.csv                    the measured error of each run
    ensembles/RECIPE/           the mean of a recipe's seeds as one model, with its split
    split.json                  who was where; not of a cross-validation
    results.json  results.csv   every number, with its count of labels and interval
    report.html                 the same for a person, in one file
    KEYPOINTS_0.png             held-out faces with the CNN's predictions and the truth
    KEYPOINTS_1.png             the same faces with the fully connected network's
    learning_curves.png  keypoint_errors.png  ced.png  worst_and_best_RECIPE.png
    submission_RECIPE.csv       Kaggle's format, when the data asks for one
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
from facial_keypoints.data.kaggle import Lookup, write_submission
from facial_keypoints.data.missing import MISSING_STRATEGIES
from facial_keypoints.data.splits import Split
from facial_keypoints.errors import DataError, FacialKeypointsError, ModelError, OutputError
from facial_keypoints.evaluation import pages, plots, report
from facial_keypoints.evaluation.metrics import rmse
from facial_keypoints.evaluation.scores import (
    CED_THRESHOLDS,
    ComparisonResult,
    RecipeResult,
    evaluate_predictions,
)
from facial_keypoints.files import output_folder
from facial_keypoints.io.tables import write_table
from facial_keypoints.models.spec import read_embedded_digests
from facial_keypoints.training.fit import predict_keypoints, split_folds, train
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
from facial_keypoints.training.tune import TrainingTask, train_side_by_side
from facial_keypoints.types import FaceDataset

__all__ = ["Experiment", "KaggleTest", "compare"]

IMAGES = {"cnn": "KEYPOINTS_0.png", "fc": "KEYPOINTS_1.png"}  # the study's own file names

_LATE_S = 60
"""Seconds that NFS may show an old listing of a folder (its default acdirmax)."""

Answers = NDArray[np.float32]  # (N, K, 2) pixels


@dataclass(frozen=True)
class KaggleTest:
    """The images that a Kaggle submission must answer.

    Args:
        faces: The images, unlabelled.
        lookup: Which values the submission asks for.
    """

    faces: FaceDataset
    lookup: Lookup


@dataclass(frozen=True, eq=False)
class Experiment:
    """What is trained on what.

    Args:
        dataset: Labelled faces with their groups.
        splits: One split, or one for each fold.
        recipes: What to train.
        seeds: Seeds to train each of them with, on each split.
        directory: Absolute path of the experiment's folder.
        strategies: Recipes that differ in the strategy for missing labels alone, trained with the
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

    def to_json(self) -> dict[str, Any]:
        """What an experiment must agree in to be resumed."""
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
    kaggle_test: KaggleTest | None = None,
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
        folds: Parts of a cross-validation; 0 = one split into training, validation and test.
        missing_recipe: A recipe to train once under each missing-label strategy, to show what the
            choice costs; ``None`` leaves that table out.
        kaggle_test: Images to answer in Kaggle's format, if any.
        exclude_flagged: See :func:`training.fit.split_faces`.
        address: Train side by side on a Ray: ``local`` for this machine, or a cluster's address;
            ``None`` trains in this process, one run after the other.
        cores: On a Ray, cores of each run.
        gpus: On a Ray, GPUs of each run.
        resume: Continue the experiment in ``directory``.
        force: Replace what is in ``directory``.
        command: The command line, for the report.
        say: Called with a line now and then.

    Returns:
        The recipes whose runs all came to their end, and their ensembles. With folds each face was
        answered by the run that has not seen it.

    Raises:
        DataError: The data cannot be trained on, or a run failed; the others are finished first,
            and what can be measured is written.
        OutputError: The folder exists, holds another experiment, or cannot be written.
        ClusterError: The Ray cannot be reached or has no room.
        MissingExtraError: What writes the report is not installed.
    """
    pages.require_templates()
    plots.require_figures()
    directory = Path(directory).resolve()
    inputs = (dataset.source,)
    with output_folder(directory, verb="compare", inputs=inputs, force=force, resume=resume):
        say("looking for near-duplicate images")
        dataset, splits, flagged = split_folds(
            dataset, folds, seed=seed, exclude_flagged=exclude_flagged
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
        answers: dict[str, Answers] = {}
        for task in experiment.tasks:
            if task.name in failures:
                say(f"{task.name}: {failures[task.name]}")
                continue
            test = dataset.subset(splits[task.fold].test)
            answers[task.name] = _answer(load_run(task.folder), test)
            error = rmse(test.keypoints.xy, answers[task.name])
            say(f"{task.name}: {error:.3f} px on its test faces")
        _write_runs(experiment, answers, failures)
        complete = _complete(experiment, recipes, answers)
        if complete:
            result = replace(
                _measure(experiment, complete, answers, seed=seed),
                audit={"rows flagged by the audit and left out of training": flagged}
                if exclude_flagged
                else {},
                command=command,
            )
            if not folds:
                splits[0].save(directory / "split.json")
            if kaggle_test is not None:
                _submit(experiment, complete, kaggle_test)
            _write_comparison(result, directory)
        # 'drop' leaves nothing where no row is complete: that too is a result.
        failed = [t.name for t in experiment.tasks if t.name in failures and t.recipe in recipes]
        if failed or not complete:
            raise DataError(
                f"{len(failed)} of {len(experiment.tasks)} runs failed, first {failed[0]}: "
                f"{str(failures[failed[0]]).rstrip('.')}; the others are kept in {directory}."
            )
        return result


def _strategies(recipe: Recipe | None, recipes: Sequence[Recipe]) -> list[Recipe]:
    """The recipe with each strategy for missing labels that it is not trained with already."""
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
    done = (
        f", {len(tasks) - len(unfinished)} of them finished before" if unfinished != tasks else ""
    )
    say(f"{len(tasks)} runs on {len(experiment.dataset)} faces{done}")
    # Specialists come last, since they start from the networks of other runs.
    stages = [
        [t for t in unfinished if (t.warm_start is not None) == late] for late in (False, True)
    ]
    failures: dict[str, FacialKeypointsError] = {}
    for stage in filter(None, stages):
        if address is None:
            failures |= _train_here(experiment, stage)
            continue
        outcomes = train_side_by_side(
            experiment.dataset, experiment.splits, stage, experiment.directory,
            address=address, cores=cores, gpus=gpus, say=say,
        )  # fmt: skip
        for task in stage:
            if reason := outcomes[task.name].failure:
                failures[task.name] = DataError(reason)
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


def _answer(run: Run, faces: FaceDataset) -> Answers:
    return predict_keypoints(run.load_model(), faces.images)


def _write_runs(
    experiment: Experiment,
    answers: Mapping[str, Answers],
    failures: Mapping[str, FacialKeypointsError],
) -> None:
    """One line for each run."""
    columns = "run,recipe,fold,seed,test_faces,rmse_px,best_epoch,train_seconds,failure"
    rows: list[list[Any]] = []
    for task in experiment.tasks:
        truth = experiment.dataset.keypoints.xy[experiment.splits[task.fold].test]
        fold = task.fold if len(experiment.splits) > 1 else ""
        found: list[Any] = ["", "", ""]
        if task.name in answers:
            record = load_run(task.folder).record
            error = rmse(truth, answers[task.name])
            found = [f"{error:.4f}", record["best_epoch"], f"{record['seconds']:.1f}"]
        failure = str(failures.get(task.name, ""))
        about = [task.name, task.recipe.name, fold, task.seed, len(truth)]
        rows.append([*about, *found, failure])
    write_table(experiment.directory / "runs.csv", columns.split(","), rows)


def _complete(
    experiment: Experiment, recipes: Sequence[Recipe], answers: Mapping[str, Answers]
) -> list[Recipe]:
    """The recipes whose runs all came to their end."""
    open_ones = [task.recipe for task in experiment.tasks if task.name not in answers]
    return [recipe for recipe in recipes if recipe not in open_ones]


def _runs(experiment: Experiment, recipe: Recipe, seed: int) -> list[Run]:
    """The runs of a recipe with a seed, fold by fold."""
    folds = range(len(experiment.splits))
    return [load_run(experiment.task(recipe, fold, seed).folder) for fold in folds]


def _measure(
    experiment: Experiment,
    recipes: Sequence[Recipe],
    answers: Mapping[str, Answers],
    *,
    seed: int,
) -> ComparisonResult:
    """Each recipe, with its first seed and as the mean of all, on all test rows together."""
    splits = experiment.splits
    test = experiment.dataset.subset(np.concatenate([split.test for split in splits]))

    def answers_of(recipe: Recipe) -> list[Answers]:
        """The answers of each seed."""
        return [
            np.concatenate(
                [answers[experiment.task(recipe, f, s).name] for f in range(len(splits))]
            )
            for s in experiment.seeds_of(recipe)
        ]

    def result_of(recipe: Recipe, name: str, description: str) -> RecipeResult:
        of_seed = answers_of(recipe)
        runs = _runs(experiment, recipe, experiment.seeds[0])
        errors = [rmse(test.keypoints.xy, predicted) for predicted in of_seed]
        return RecipeResult(
            name=name,
            description=description,
            report=evaluate_predictions(test, of_seed[0], seed=seed),
            predicted_xy=of_seed[0],
            history=runs[0].history,
            settings=_describe(runs[0]) | _spread(experiment.seeds, errors),
            train_seconds=sum(run.record["seconds"] for run in runs),
            num_parameters=runs[0].record["num_parameters"],
        )

    results: list[RecipeResult] = []
    for recipe in recipes:
        results.append(result_of(recipe, recipe.name, recipe.description))
        if len(experiment.seeds) > 1:
            mean = np.mean(answers_of(recipe), axis=0)
            runs = [run for s in experiment.seeds for run in _runs(experiment, recipe, s)]
            results.append(
                RecipeResult(
                    name=f"{recipe.name}-ensemble",
                    description=f"mean of {len(experiment.seeds)} runs of {recipe.name}",
                    report=evaluate_predictions(test, mean, seed=seed),
                    predicted_xy=mean,
                    settings={"seeds": f"{experiment.seeds[0]} to {experiment.seeds[-1]}"},
                    train_seconds=sum(run.record["seconds"] for run in runs),
                    num_parameters=results[-1].num_parameters * len(experiment.seeds),
                )
            )
            if len(splits) == 1:
                _write_ensemble(experiment, recipe, runs)
    of_study = _complete(experiment, experiment.strategies, answers)
    if of_study:  # the recipe itself has one of the strategies
        own = [r for r in recipes if of_study[0].name == f"{r.name}-{of_study[0].missing}"]
        order = [str(strategy) for strategy in MISSING_STRATEGIES]
        of_study = sorted([*own, *of_study], key=lambda recipe: order.index(recipe.missing))
    one = len(splits) == 1
    return ComparisonResult(
        test=test,
        recipes=tuple(results),
        train=experiment.dataset.subset(splits[0].train) if one else None,
        split={"train": len(splits[0].train), "val": len(splits[0].val), "test": len(test)}
        if one
        else {"faces": len(test), "folds": len(splits)},
        split_note="Near-duplicate images and rows of one group stay on one side of a split. "
        + (
            "The validation faces choose the epoch; the test faces are measured once, at the end."
            if one
            else "Each face is answered by the run that tests its fold: of the others one fold chose "
            "the epoch and the rest trained."
        ),
        missing_results=tuple(
            result_of(r, r.missing, f"{r.name}, missing labels: {r.missing}") for r in of_study
        ),
        versions=_runs(experiment, recipes[0], experiment.seeds[0])[0].record["versions"],
        created=time.strftime("%Y-%m-%d %H:%M"),
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
    )


def _describe(run: Run) -> dict[str, Any]:
    """What was chosen for a run, by the names that reports show."""
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
    """How far the seeds lie apart."""
    if len(errors) == 1:
        return {}
    return {
        "seed": seeds[0],
        "RMSE px of all seeds": ", ".join(f"{error:.3f}" for error in errors),
        "their mean": round(float(np.mean(errors)), 4),
        "their standard deviation": round(float(np.std(errors, ddof=1)), 4),
    }


def _write_ensemble(experiment: Experiment, recipe: Recipe, runs: Sequence[Run]) -> None:
    """One model that asks each of them and answers their mean."""
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
    save_model(folder / "model.keras", model, runs[0].spec, learnt)


def _submit(experiment: Experiment, recipes: Sequence[Recipe], asked: KaggleTest) -> None:
    """A submission of each recipe with its first seed, and of its ensemble; the mean over folds."""
    for recipe in recipes:
        of_seed = []
        for seed in experiment.seeds:
            runs = _runs(experiment, recipe, seed)
            of_seed.append(np.mean([_answer(run, asked.faces) for run in runs], axis=0))
        submissions = {recipe.name: of_seed[0]}
        if len(of_seed) > 1:
            submissions[f"{recipe.name}-ensemble"] = np.mean(of_seed, axis=0)
        for name, xy in submissions.items():
            file = experiment.directory / f"submission_{name}.csv"
            write_submission(file, asked.faces.sample_ids, xy, asked.lookup)


def _write_comparison(result: ComparisonResult, directory: Path) -> None:
    """Write tables, images and the report of a comparison into its folder."""
    report.write_results_json(directory / "results.json", result)
    report.write_results_csv(directory / "results.csv", result)
    for recipe in result.recipes:
        figure = plots.plot_keypoints_grid(result.test, recipe.predicted_xy, recipe=recipe.name)
        plots.save_figure(
            figure, directory / IMAGES.get(recipe.name, f"keypoints_{recipe.name}.png")
        )
        figure = plots.plot_worst_best(result.test, recipe.predicted_xy, recipe=recipe.name)
        plots.save_figure(figure, directory / f"worst_and_best_{recipe.name}.png")
    scores = {recipe.name: recipe.report.overall for recipe in result.recipes}
    errors = {
        name: (
            np.array([point.rmse_px for point in score.keypoints]),
            np.array([point.rmse_interval for point in score.keypoints]),
        )
        for name, score in scores.items()
    }
    figures = {
        "learning_curves": plots.plot_learning_curves({r.name: r.history for r in result.recipes}),
        "keypoint_errors": plots.plot_keypoint_errors(
            result.test.schema.keypoint_names, errors, num_labels=result.test.label_counts.tolist()
        ),
        "ced": plots.plot_ced(CED_THRESHOLDS, {name: score.ced for name, score in scores.items()}),
    }
    for name, figure in figures.items():
        plots.save_figure(figure, directory / f"{name}.png")
    report.write_report(directory / "report.html", result)
