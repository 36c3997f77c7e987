"""Many runs as one plan: recipes, seeds and folds, trained side by side and measured together.

A plan's folder holds::

    plan.json                   what is trained on what
    runs/NAME/                  a run folder for each recipe, fold and seed, as `train` makes it
    runs.csv                    the measured error of each run
    ensembles/RECIPE/           the mean of a recipe's seeds as one model, with its split
    results.json  report.html   the recipes side by side, with images, as `compare` writes them

Where the runs are trained is not decided here: in this process, one after the other, or on a Ray
(:mod:`facial_keypoints.training.ray_runs`). Either leaves the same folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from facial_keypoints.data.cache import data_digest
from facial_keypoints.data.splits import Split
from facial_keypoints.errors import DataError, FacialKeypointsError, OutputError
from facial_keypoints.evaluation.metrics import rmse
from facial_keypoints.evaluation.scores import ComparisonResult, RecipeResult, evaluate_predictions
from facial_keypoints.files import (
    atomic_path,
    output_folder,
    read_json,
    write_json,
)
from facial_keypoints.io.tables import write_table
from facial_keypoints.models.spec import embed_digests, embed_spec, read_embedded_digests
from facial_keypoints.training.compare import (
    describe_run,
    machine_kind,
    versions_of,
    write_comparison,
)
from facial_keypoints.training.fit import (
    TrainedRun,
    load_run,
    predict_keypoints,
    recipe_to_json,
    split_faces,
    split_folds,
    train,
)
from facial_keypoints.training.progress import TrainingProgress
from facial_keypoints.training.recipes import Recipe
from facial_keypoints.types import FaceDataset

__all__ = [
    "Executor",
    "Plan",
    "PlannedRun",
    "record_or_compare",
    "run_here",
    "train_and_answer",
    "train_plan",
]

PLAN_FILE = "plan.json"

_LATE_S = 60
"""Seconds that NFS may show an old listing of a folder (its default acdirmax)."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a plan.

    Args:
        recipe: What to train.
        seed: Seed of its weights, dropout, shuffling and mirroring.
        fold: Number of its split.
        name: Name of its folder.
    """

    recipe: Recipe
    seed: int
    fold: int
    name: str


@dataclass(frozen=True, eq=False)
class Plan:
    """What is trained on what.

    Args:
        dataset: Labelled faces with their groups.
        splits: One split, or one for each fold.
        recipes: What to train.
        seeds: Seeds to train each of them with, on each split.
        directory: Absolute path of the plan's folder.
    """

    dataset: FaceDataset
    splits: Sequence[Split]
    recipes: Sequence[Recipe]
    seeds: Sequence[int]
    directory: Path

    @property
    def runs(self) -> list[PlannedRun]:
        """Every run, recipe by recipe, then fold by fold."""
        return [
            self.run(recipe, fold, seed)
            for recipe in self.recipes
            for fold in range(len(self.splits))
            for seed in self.seeds
        ]

    def run(self, recipe: Recipe, fold: int, seed: int) -> PlannedRun:
        """The run of a recipe on a split with a seed."""
        name = recipe.name
        if len(self.splits) > 1:
            name += f"-fold{fold}"
        if len(self.seeds) > 1:
            name += f"-seed{seed}"
        return PlannedRun(recipe, seed, fold, name)

    def folder(self, run: PlannedRun) -> Path:
        """The run's folder."""
        return self.directory / "runs" / run.name

    def finished(self, run: PlannedRun) -> bool:
        """Whether the run was trained to its end."""
        return (self.folder(run) / "run.json").exists()

    def to_json(self) -> dict[str, Any]:
        """What a plan must agree in to be resumed."""
        return {
            "recipes": [recipe_to_json(recipe) for recipe in self.recipes],
            "seeds": list(self.seeds),
            "folds": len(self.splits) if len(self.splits) > 1 else 0,
            "data_digest": data_digest(self.dataset),
            "test_rows": [split.test.tolist() for split in self.splits],
            "train_rows": [len(split.train) for split in self.splits],
        }


Outcome = NDArray[np.float32] | FacialKeypointsError
"""(N, K, 2) answers for the run's test rows in pixels, or why there are none."""


class Executor(Protocol):
    """Trains runs of a plan."""

    def __call__(
        self, plan: Plan, runs: Sequence[PlannedRun], /
    ) -> Iterator[tuple[PlannedRun, Outcome]]:
        """Yield each of ``runs`` as it ends, in any order."""
        ...


def train_and_answer(
    dataset: FaceDataset,
    split: Split,
    recipe: Recipe,
    seed: int,
    directory: Path,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> NDArray[np.float32]:
    """Train a run, or go on with it, and ask it about its test rows.

    Returns:
        (N, K, 2) float32 in pixels.
    """
    trained = train(dataset, split, recipe, directory, seed=seed, resume=True, callbacks=callbacks)
    return predict_keypoints(trained.load_model(), dataset.subset(split.test).images)


def run_here(plan: Plan, runs: Sequence[PlannedRun]) -> Iterator[tuple[PlannedRun, Outcome]]:
    """Train runs of a plan in this process, one after the other."""
    with TrainingProgress() as progress:
        for run in runs:
            progress.title = run.name
            try:
                split = plan.splits[run.fold]
                answers = train_and_answer(
                    plan.dataset, split, run.recipe, run.seed, plan.folder(run), [progress]
                )
                yield run, answers
            except DataError as error:
                yield run, error


def train_plan(
    dataset: FaceDataset,
    recipes: Sequence[Recipe],
    directory: Path | str,
    *,
    seed: int = 0,
    seeds: int = 1,
    folds: int = 0,
    exclude_flagged: bool = False,
    resume: bool = False,
    force: bool = False,
    execute: Executor = run_here,
    command: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> ComparisonResult:
    """Train recipes with several seeds, on several folds, and measure them together.

    Args:
        dataset: Labelled faces; NaN = not labelled.
        recipes: What to train.
        directory: Output folder; on a cluster, one that all nodes reach by this path.
        seed: Seed of the split and the bootstrap, and the first seed of the runs.
        seeds: Number of seeds; more than one also makes an ensemble of each recipe.
        folds: Parts of a cross-validation; 0 = one split into training, validation and test.
        exclude_flagged: See :func:`training.split_faces`.
        resume: Continue the plan in ``directory``.
        force: Replace what is in ``directory``.
        execute: Where the runs are trained.
        command: The command line, for the report.
        say: Called with a line now and then.

    Returns:
        The recipes whose runs all came to their end, and their ensembles. With folds each face was
        answered by the run that has not seen it.

    Raises:
        DataError: The data cannot be trained on, or a run failed; the others are finished first,
            and what can be measured is written.
        OutputError: The folder exists, or holds another plan.
    """
    directory = Path(directory).resolve()
    with output_folder(
        directory, verb="train", inputs=(dataset.source,), force=force, resume=resume
    ):
        say("looking for near-duplicate images")
        if folds:
            dataset, splits, flagged = split_folds(
                dataset, folds, seed=seed, exclude_flagged=exclude_flagged
            )
        else:
            dataset, split, flagged = split_faces(
                dataset, seed=seed, exclude_flagged=exclude_flagged
            )
            splits = [split]
        if exclude_flagged:
            say(f"left {flagged} flagged rows out of training")
        plan = Plan(dataset, splits, recipes, range(seed, seed + seeds), directory)
        record_or_compare(plan.directory / PLAN_FILE, plan.to_json())
        finished = [run for run in plan.runs if plan.finished(run)]
        missing = [run for run in plan.runs if run not in finished]
        done = f", {len(finished)} of them finished before" if finished else ""
        say(f"{len(plan.runs)} runs on {len(dataset)} faces{done}")

        answers: dict[str, NDArray[np.float32]] = {}
        failures: dict[str, FacialKeypointsError] = {}
        for run, outcome in chain(
            run_here(plan, finished), execute(plan, missing) if missing else ()
        ):
            if isinstance(outcome, FacialKeypointsError):
                failures[run.name] = outcome
            elif _appears(plan, run):
                answers[run.name] = outcome
            else:
                failures[run.name] = OutputError(
                    f"it was trained on a node that has another {plan.directory} than this machine: give a "
                    "folder with -o that all nodes reach by the same path"
                )
        _write_runs(plan, answers, failures)
        complete = [
            recipe
            for recipe in recipes
            if all(run.name in answers for run in plan.runs if run.recipe == recipe)
        ]
        if complete:
            result = _measure(plan, complete, answers, seed=seed, command=command)
            write_comparison(result, directory)
        if failures or not complete:
            name, error = next(iter(failures.items()))
            raise DataError(
                f"{len(failures)} of {len(plan.runs)} runs failed, first {name}: {str(error).rstrip('.')}; "
                f"the others are kept in {directory}."
            )
        return result


def _appears(plan: Plan, run: PlannedRun) -> bool:
    """Whether a run that a node has finished is seen here; network disks show new files late."""
    for _ in range(_LATE_S):
        if plan.finished(run):
            return True
        time.sleep(1.0)
    return plan.finished(run)


def record_or_compare(file: Path, wanted: Mapping[str, Any]) -> None:
    """Write down what work is of, or make sure that it is what was begun in the file's folder.

    Raises:
        OutputError: Something else was begun there.
    """
    if not file.exists():
        write_json(file, wanted)
        return
    try:
        begun = read_json(file)
    except (OSError, ValueError) as error:
        raise OutputError(f"{file} cannot be read ({error}): start over with --force.") from error
    differing = [
        name.replace("_", " ") for name in wanted if begun.get(name) != _as_json(wanted[name])
    ]
    if differing:
        raise OutputError(
            f"{file.parent} was begun with other {' and '.join(differing)}: resume it with the same ones, or "
            "choose another folder."
        )


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _write_runs(
    plan: Plan,
    answers: Mapping[str, NDArray[np.float32]],
    failures: Mapping[str, FacialKeypointsError],
) -> None:
    """One line for each run."""
    names = (
        "run", "recipe", "fold", "seed", "test_faces", "rmse_px", "best_epoch", "train_seconds", "failure",
    )  # fmt: skip
    rows = []
    for run in plan.runs:
        truth = plan.dataset.keypoints.xy[plan.splits[run.fold].test]
        row: list[Any] = ["", "", ""]
        if run.name in answers:
            trained = load_run(plan.folder(run))
            error = rmse(truth, answers[run.name])
            row = [f"{error:.4f}", trained.best_epoch, f"{trained.train_seconds:.1f}"]
        fold = run.fold if len(plan.splits) > 1 else ""
        rows.append(
            [
                run.name,
                run.recipe.name,
                fold,
                run.seed,
                len(truth),
                *row,
                failures.get(run.name, ""),
            ]
        )
    write_table(plan.directory / "runs.csv", names, rows)


def _measure(
    plan: Plan,
    recipes: Sequence[Recipe],
    answers: Mapping[str, NDArray[np.float32]],
    *,
    seed: int,
    command: str,
) -> ComparisonResult:
    """Each recipe, with its first seed and as the mean of all, on all test rows together."""
    rows = np.concatenate([split.test for split in plan.splits])
    test = plan.dataset.subset(rows)
    results: list[RecipeResult] = []
    for recipe in recipes:
        of_seed = [
            np.concatenate(
                [answers[plan.run(recipe, fold, s).name] for fold in range(len(plan.splits))]
            )
            for s in plan.seeds
        ]
        of_recipe = [run for run in plan.runs if run.recipe == recipe]
        trained = [load_run(plan.folder(run)) for run in of_recipe]
        errors = [rmse(test.keypoints.xy, predicted) for predicted in of_seed]
        firsts = [
            run
            for run, known in zip(trained, of_recipe, strict=True)
            if known.seed == plan.seeds[0]
        ]
        results.append(
            RecipeResult(
                name=recipe.name,
                description=recipe.description,
                report=evaluate_predictions(test, of_seed[0], seed=seed),
                predicted_xy=of_seed[0],
                history=firsts[0].history,
                settings=describe_run(firsts[0]) | _spread(plan, errors),
                train_seconds=sum(run.train_seconds for run in firsts),
                num_parameters=firsts[0].num_parameters,
            )
        )
        if len(plan.seeds) > 1:
            mean = np.mean(of_seed, axis=0)
            results.append(
                RecipeResult(
                    name=f"{recipe.name}-ensemble",
                    description=f"mean of {len(plan.seeds)} runs of {recipe.name}",
                    report=evaluate_predictions(test, mean, seed=seed),
                    predicted_xy=mean,
                    settings={"seeds": f"{plan.seeds[0]} to {plan.seeds[-1]}"},
                    train_seconds=sum(run.train_seconds for run in trained),
                    num_parameters=firsts[0].num_parameters * len(plan.seeds),
                )
            )
            if len(plan.splits) == 1:
                _write_ensemble(plan, recipe, trained)
    one = len(plan.splits) == 1
    split = plan.splits[0]
    return ComparisonResult(
        test=test,
        recipes=tuple(results),
        train=plan.dataset.subset(split.train) if one else None,
        split={"train": len(split.train), "val": len(split.val), "test": len(test)}
        if one
        else {"faces": len(test), "folds": len(plan.splits)},
        split_note="Near-duplicate images and rows of one group stay on one side of a split. "
        + (
            "The validation faces choose the epoch; the test faces are measured once, at the end."
            if one
            else "Each face is answered by the run that tests its fold: of the others one fold chose "
            "the epoch and the rest trained."
        ),
        versions=versions_of(plan.folder(plan.run(recipes[0], 0, plan.seeds[0]))),
        command=command,
        created=time.strftime("%Y-%m-%d %H:%M"),
        machine=machine_kind(),
    )


def _spread(plan: Plan, errors: Sequence[float]) -> dict[str, Any]:
    """How far the seeds lie apart."""
    if len(errors) == 1:
        return {}
    return {
        "seed": plan.seeds[0],
        "RMSE px of all seeds": ", ".join(f"{error:.3f}" for error in errors),
        "their mean": round(float(np.mean(errors)), 4),
        "their standard deviation": round(float(np.std(errors, ddof=1)), 4),
    }


def _write_ensemble(plan: Plan, recipe: Recipe, runs: Sequence[TrainedRun]) -> None:
    """One model that asks each of them and answers their mean."""
    members = []
    for number, run in enumerate(runs):
        member = run.load_model()
        member.name = f"{member.name}_{number}"
        members.append(member)
    inputs = keras.Input(members[0].input_shape[1:], name="image")
    mean = layers.Average(name="xy")([member(inputs) for member in members])
    folder = plan.directory / "ensembles" / recipe.name
    plan.splits[0].save(folder / "split.json")
    with atomic_path(folder / "model.keras") as temporary:
        keras.Model(inputs, mean, name="ensemble").save(temporary)
        embed_spec(temporary, runs[0].spec)
        seen = [read_embedded_digests(run.model_path) or () for run in runs]
        embed_digests(temporary, frozenset().union(*seen))
