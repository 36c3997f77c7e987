"""A sweep: many settings of one recipe, of which the bad ones are stopped early.

A sweep's folder holds::

    settings.json          what is trained on what
    runs/NAME/             the run folder of each trial; without run.json if it was stopped
    trials.csv             settings, epochs and validation error of each
    best/                  the run with the least validation error
    report.json            its errors on the test faces, measured once

Settings are drawn before anything is trained and written down, so a sweep is resumed from its run
folders alone: a trial tells again what it has reached, and goes on.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
import yaml

from facial_keypoints.data.missing import MISSING_STRATEGIES
from facial_keypoints.errors import DataError
from facial_keypoints.evaluation.scores import EvaluationReport, evaluate_predictions
from facial_keypoints.files import output_folder, write_json
from facial_keypoints.io.tables import write_table
from facial_keypoints.training.experiment import Experiment
from facial_keypoints.training.fit import predict_keypoints, split_faces
from facial_keypoints.training.recipes import RECIPES, Recipe
from facial_keypoints.training.run_folder import begin, load_run
from facial_keypoints.training.tune import Outcome, train_side_by_side
from facial_keypoints.types import FaceDataset

__all__ = ["Range", "Trial", "draw_settings", "load_space", "sweep"]

SWEPT = ("learning_rate", "batch_size", "flip_probability", "loss", "missing", "patience")
"""Settings that a search space may name."""

_WHOLE = ("batch_size", "patience")

Value = float | int | str


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both possible.

    Args:
        low: The least.
        high: The greatest.
        log: Draw evenly on a logarithmic scale.
        whole: Draw whole numbers.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def draw(self, rng: np.random.Generator) -> Value:
        """One of the numbers."""
        ends = np.array([self.low, self.high + self.whole])
        value = np.exp(rng.uniform(*np.log(ends))) if self.log else rng.uniform(*ends)
        return min(int(value), int(self.high)) if self.whole else float(f"{value:.4g}")


Space = Mapping[str, Range | Sequence[Value]]


@dataclass(frozen=True)
class Trial:
    """One setting and what became of it.

    Args:
        name: Name of its run folder.
        settings: What was changed.
        outcome: Its state, epochs, least validation error so far, and why it failed.
    """

    name: str
    settings: Mapping[str, Value]
    outcome: Outcome


def load_space(path: Path | str) -> dict[str, Range | tuple[Value, ...]]:
    """Read a search space from a YAML file.

    A list names the values of a setting; ``min`` and ``max`` a range, drawn on a logarithmic scale
    with ``scale: log``::

        learning_rate: {min: 1.0e-4, max: 1.0e-2, scale: log}
        batch_size: [32, 64, 128]
        flip_probability: {min: 0, max: 0.5}
        missing: [mask, interpolate]

    Raises:
        DataError: The file is missing or names what no recipe has.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"the search space {path} cannot be read ({reason}): name a YAML file."
        ) from error
    if not isinstance(content, dict) or not set(content) <= set(SWEPT) or not content:
        raise DataError(
            f"the search space {path} must map settings ({', '.join(SWEPT)}) to lists of values or to "
            "{min: ..., max: ...}."
        )
    space: dict[str, Range | tuple[Value, ...]] = {}
    for name, given in content.items():
        try:
            if isinstance(given, list) and given:
                space[name] = tuple(_value(name, value) for value in given)
            elif isinstance(given, dict) and {"min", "max"} <= set(given) <= {
                "min",
                "max",
                "scale",
            }:
                space[name] = _range(name, **given)
            else:
                raise ValueError("it is neither")
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{path}: {name} cannot be {given!r} ({str(error).splitlines()[0]}): give a list of "
                "values, or {min: ..., max: ...} with scale: log if you like."
            ) from error
    return space


def _range(name: str, *, min: Any, max: Any, scale: str = "linear") -> Range:
    low, high = _value(name, min), _value(name, max)
    if isinstance(low, str) or isinstance(high, str):
        raise ValueError("it has no numbers to range over")
    if scale not in ("linear", "log") or low > high or (scale == "log" and low <= 0):
        raise ValueError("min must be at most max, and more than 0 with scale: log")
    return Range(low, high, log=scale == "log", whole=name in _WHOLE)


def _value(name: str, value: Any) -> Value:
    """A value that recipes take; YAML reads 1e-3, without a point, as a text."""
    if name == "missing":
        if value not in MISSING_STRATEGIES:
            raise ValueError(f"choose from {', '.join(MISSING_STRATEGIES)}")
    elif name == "loss":
        keras.losses.get(str(value))
    else:
        value = float(value)
        if not 0 <= value < math.inf or (name in _WHOLE and value != int(value)):
            raise ValueError("no such number is possible")
        value = int(value) if name in _WHOLE else value
        RECIPES["cnn"].override(**{name: value})
    return cast(Value, value)


def draw_settings(
    space: Space, recipe: Recipe, trials: int, *, seed: int = 0
) -> list[dict[str, Value]]:
    """Settings to try, none twice: the recipe's own, then drawn at random.

    Args:
        space: From :func:`load_space`.
        recipe: The recipe.
        trials: How many at most; a space of lists may have fewer.
        seed: The same seed draws the same settings.
    """
    rng = np.random.default_rng(seed)
    own = asdict(recipe) | {"learning_rate": recipe.optimizer_options["learning_rate"]}
    drawn: list[dict[str, Value]] = [{name: own[name] for name in space}]
    for _ in range(100 * trials):
        if len(drawn) == trials:
            break
        settings = {
            name: domain.draw(rng)
            if isinstance(domain, Range)
            else domain[int(rng.integers(len(domain)))]
            for name, domain in space.items()
        }
        if settings not in drawn:
            drawn.append(settings)
    return drawn


def sweep(
    dataset: FaceDataset,
    recipe: Recipe,
    space: Space,
    directory: Path | str,
    *,
    trials: int = 20,
    seed: int = 0,
    address: str | None = None,
    cores: int = 1,
    gpus: float = 0.0,
    resume: bool = False,
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[list[Trial], EvaluationReport]:
    """Try settings of a recipe side by side, stop the bad ones early, and measure the best.

    Args:
        dataset: Labelled faces; NaN = not labelled.
        recipe: A recipe of one network.
        space: What to change, from :func:`load_space`.
        directory: Output folder; on a cluster, one that all nodes reach by this path.
        trials: Settings to try, the recipe's own among them.
        seed: Seed of the split, the settings and the training.
        address: Of a Ray cluster; a Ray of this machine when left out.
        cores: Cores of each trial.
        gpus: GPUs of each trial.
        resume: Continue the sweep in ``directory``.
        force: Replace what is in ``directory``.
        say: Called with a line now and then.

    Returns:
        All trials, the best by the validation faces first, and its errors on the test faces.

    Raises:
        DataError: The data cannot be trained on, or no trial was finished.
        OutputError: The folder exists, or holds another sweep.
        ClusterError: The Ray cannot be reached or has no room.
    """
    if recipe.specialists:
        raise DataError("a sweep needs a recipe of one network: sweep cnn-flip instead.")
    directory = Path(directory).resolve()
    inputs = (dataset.source,)
    with output_folder(directory, verb="sweep", inputs=inputs, force=force, resume=resume):
        say("looking for near-duplicate images")
        dataset, split, _ = split_faces(dataset, seed=seed)
        drawn = draw_settings(space, recipe, trials, seed=seed)
        recipes = [
            replace(recipe.override(**settings), name=f"{recipe.name}-{number:03d}")
            for number, settings in enumerate(drawn)
        ]
        experiment = Experiment(dataset, [split], recipes, [seed], directory)
        begin(directory, experiment.to_json() | {"cores": cores})
        say(f"{len(drawn)} trials, {len(split.train)} faces to train, {len(split.val)} to choose")
        outcomes = train_side_by_side(
            dataset, [split], experiment.tasks, directory,
            address=address, cores=cores, gpus=gpus, stop_early=True, say=say,
        )  # fmt: skip
        found = [
            Trial(recipe.name, settings, outcomes[recipe.name])
            for recipe, settings in zip(recipes, drawn, strict=True)
        ]
        found.sort(key=lambda t: (t.outcome.state != "finished", t.outcome.error))
        columns = ["run", *space, "epochs", "val_rmse_px", "state", "failure"]
        rows: list[list[Any]] = []
        for trial in found:
            end = trial.outcome
            error = f"{end.error:.4f}" if math.isfinite(end.error) else ""
            about = (end.epochs, error, end.state, end.failure)
            rows.append([trial.name, *trial.settings.values(), *about])
        write_table(directory / "trials.csv", columns, rows)
        if found[0].outcome.state != "finished":
            reason = next((t.outcome.failure for t in found if t.outcome.failure), "none ended")
            raise DataError(
                f"no trial was finished: {reason.rstrip('.')}; see {directory}/trials.csv."
            )
        # A copy, to be found without reading a table.
        with output_folder(directory / "best", verb="train", force=True) as fresh:
            shutil.copytree(directory / "runs" / found[0].name, fresh, dirs_exist_ok=True)
        test = dataset.subset(split.test)
        answers = predict_keypoints(load_run(directory / "best").load_model(), test.images)
        report = evaluate_predictions(test, answers, seed=seed)
        write_json(directory / "report.json", report.to_dict())
        return found, report
