"""The main job: train recipes on the same faces, measure them on the same held-out ones.

Every file of the output folder is made from what this module gathers::

    results.json  results.csv   every number, with its count of labels and interval
    report.html                 the same for a person, in one file
    KEYPOINTS_0.png             held-out faces with the CNN's predictions and the truth
    KEYPOINTS_1.png             the same faces with the fully connected network's
    learning_curves.png  keypoint_errors.png  ced.png  worst_and_best_RECIPE.png
    submission_RECIPE.csv       Kaggle's format, when the data asks for one
    split.json                  who was where
    runs/RECIPE/                the run folder of each model
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facial_keypoints.data.kaggle import Lookup, write_submission
from facial_keypoints.data.missing import MISSING_STRATEGIES
from facial_keypoints.errors import DataError
from facial_keypoints.evaluation import plots, report
from facial_keypoints.evaluation.scores import (
    CED_THRESHOLDS,
    ComparisonResult,
    RecipeResult,
    evaluate_predictions,
)
from facial_keypoints.files import output_folder, read_json
from facial_keypoints.training.fit import TrainedRun, predict_keypoints, split_faces, train
from facial_keypoints.training.progress import TrainingProgress
from facial_keypoints.training.recipes import Recipe
from facial_keypoints.types import FaceDataset

__all__ = [
    "KaggleTest",
    "compare",
    "describe_run",
    "machine_kind",
    "versions_of",
    "write_comparison",
]

IMAGES = {"cnn": "KEYPOINTS_0.png", "fc": "KEYPOINTS_1.png"}  # the study's own file names


@dataclass(frozen=True)
class KaggleTest:
    """The images that a Kaggle submission must answer.

    Args:
        faces: The images, unlabelled.
        lookup: Which values the submission asks for.
    """

    faces: FaceDataset
    lookup: Lookup


def compare(
    dataset: FaceDataset,
    recipes: Sequence[Recipe],
    directory: Path | str,
    *,
    seed: int = 0,
    kaggle_test: KaggleTest | None = None,
    missing_recipe: Recipe | None = None,
    exclude_flagged: bool = False,
    resume: bool = False,
    force: bool = False,
    command: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> ComparisonResult:
    """Train and measure recipes on one dataset, and write everything to ``directory``.

    Args:
        dataset: Labelled faces; NaN = not labelled.
        recipes: What to train, in this order.
        directory: Output folder.
        seed: Seed of the split, the training and the bootstrap.
        kaggle_test: Images to answer in Kaggle's format, if any.
        missing_recipe: A recipe to train once under each missing-label strategy, to show what the
            choice costs; ``None`` leaves that table out.
        exclude_flagged: See :func:`training.split_faces`.
        resume: Continue an interrupted comparison.
        force: Replace what is in ``directory``.
        command: The command line, for the report.
        say: Called with a line now and then.

    Raises:
        DataError: The data cannot be compared on.
        OutputError: The folder exists, or cannot be written.
    """
    directory = Path(directory)
    with output_folder(
        directory, verb="compare", inputs=(dataset.source,), force=force, resume=resume
    ):
        say("looking for near-duplicate images")
        dataset, split, flagged = split_faces(dataset, seed=seed, exclude_flagged=exclude_flagged)
        audit_summary: dict[str, Any] = {}
        if exclude_flagged:
            audit_summary = {"rows flagged by the audit and left out of training": flagged}
            say(f"left {flagged} flagged rows out of training")
        test = dataset.subset(split.test)
        if len(test) == 0:
            raise DataError("no row is left for the test: the data holds too few groups of faces.")
        say(f"{len(split.train)} faces to train, {len(split.val)} to choose, {len(test)} to test")

        results: list[RecipeResult] = []
        missing: list[RecipeResult] = []
        runs: dict[str, TrainedRun] = {}
        with TrainingProgress() as progress:

            def run(recipe: Recipe, name: str) -> TrainedRun:
                progress.title = name
                warm = runs.get("cnn")
                usable = (
                    recipe.specialists
                    and warm is not None
                    and (warm.recipe.missing == recipe.missing)
                )
                return train(
                    dataset,
                    split,
                    recipe,
                    directory / "runs" / name,
                    seed=seed,
                    resume=True,  # the comparison's own folder was checked above
                    warm_start=warm.directory if warm is not None and usable else None,
                    callbacks=[progress],
                )

            for recipe in recipes:
                runs[recipe.name] = trained = run(recipe, recipe.name)
                results.append(_measure(trained, recipe.name, recipe.description, test, seed))
                say(f"{recipe.name}: {results[-1].report.overall.rmse_px:.3f} px on the test faces")
                if kaggle_test is not None:
                    _submit(trained, recipe.name, kaggle_test, directory)
            if missing_recipe is not None:
                for strategy in MISSING_STRATEGIES:
                    recipe = missing_recipe.override(missing=strategy)
                    same = runs.get(recipe.name)
                    name = f"{recipe.name}-{strategy}"
                    if same is not None and same.recipe == recipe:
                        trained = same
                    else:
                        try:
                            trained = run(recipe, name)
                        except DataError as error:
                            # 'drop' leaves nothing where no row is complete; that too is a result.
                            say(f"{name}: {error}")
                            continue
                    missing.append(
                        _measure(
                            trained,
                            strategy,
                            f"{recipe.name}, missing labels: {strategy}",
                            test,
                            seed,
                        )
                    )

        split.save(directory / "split.json")
        result = ComparisonResult(
            test=test,
            recipes=tuple(results),
            train=dataset.subset(split.train),
            split={"train": len(split.train), "val": len(split.val), "test": len(test)},
            split_note=(
                "Near-duplicate images and rows of one group stay on one side of the split. The "
                "validation faces choose the epoch; the test faces are measured once, at the end."
            ),
            missing_results=tuple(missing),
            audit=audit_summary,
            versions=versions_of(directory / "runs" / results[0].name),
            command=command,
            created=time.strftime("%Y-%m-%d %H:%M"),
            machine=machine_kind(),
        )
        write_comparison(result, directory)
        return result


def _measure(
    run: TrainedRun, name: str, description: str, test: FaceDataset, seed: int
) -> RecipeResult:
    predicted = predict_keypoints(run.load_model(), test.images)
    return RecipeResult(
        name=name,
        description=description,
        report=evaluate_predictions(test, predicted, seed=seed),
        predicted_xy=predicted,
        history=run.history,
        settings=describe_run(run),
        train_seconds=run.train_seconds,
        num_parameters=run.num_parameters,
    )


def describe_run(run: TrainedRun) -> dict[str, Any]:
    """What was chosen for a run, by the names that reports show."""
    recipe = run.recipe
    return {
        "epochs": recipe.epochs,
        "best epoch": run.best_epoch,
        "batch size": recipe.batch_size,
        "loss": recipe.loss,
        "optimizer": recipe.optimizer,
        **recipe.optimizer_options,
        "missing labels": recipe.missing,
        "flip probability": recipe.flip_probability,
    }


def _submit(run: TrainedRun, name: str, kaggle_test: KaggleTest, directory: Path) -> None:
    faces = kaggle_test.faces
    xy = predict_keypoints(run.load_model(), faces.images)
    write_submission(directory / f"submission_{name}.csv", faces.sample_ids, xy, kaggle_test.lookup)


def write_comparison(result: ComparisonResult, directory: Path) -> None:
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


def versions_of(run: Path) -> Mapping[str, str]:
    """Versions of what trained a run."""
    versions: Mapping[str, str] = read_json(run / "run.json")["versions"]
    return versions


def machine_kind() -> str:
    """The kind of this machine, for reports."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"
