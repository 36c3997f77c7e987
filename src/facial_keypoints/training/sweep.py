"""A sweep: an experiment whose recipes are variants of one recipe, of which bad ones are stopped early.

The folder of a sweep holds::

    settings.json          what is trained on what
    runs/NAME/             the run folder of each trial; without run.json if it was stopped
    trials.csv             settings, epochs and validation error of each trial
    best/                  the run with the lowest validation error
    report.json            its errors on the test faces

All settings are drawn before anything is trained, so a sweep is resumed from its run folders alone.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import yaml

from facial_keypoints.data.missing import MISSING_STRATEGIES
from facial_keypoints.errors import DataError
from facial_keypoints.evaluation.scores import EvaluationReport
from facial_keypoints.files import output_folder, write_json
from facial_keypoints.io.tables import write_table
from facial_keypoints.training.experiment import Experiment
from facial_keypoints.training.fit import measure_run, split_faces
from facial_keypoints.training.recipes import RECIPES, Recipe
from facial_keypoints.training.run_folder import begin, load_run
from facial_keypoints.training.tune import Outcome, train_in_parallel
from facial_keypoints.types import FaceDataset

__all__ = ["draw_settings", "load_space", "sweep"]

SWEPT: Mapping[str, type[float] | type[int] | type[str]] = {
    "learning_rate": float, "flip_probability": float, "batch_size": int, "patience": int,
    "loss": str, "missing": str,
}  # fmt: skip
"""Settings that a search space may name."""

_SCALES: tuple[dict[str, str], ...] = (
    {},
    {"scale": "linear"},
    {"scale": "log"},
)  # what may stand beside min and max

Value = float | int | str
Space = Mapping[str, Any]
"""By setting a list of values, or a range as ``{"min": low, "max": high, "scale": "linear" or "log"}``."""


def load_space(path: Path | str) -> Space:
    """Read a search space from a YAML file.

    A list names the values of a setting; ``min`` and ``max`` give a range, drawn on a logarithmic
    scale with ``scale: log``::

        learning_rate: {min: 1.0e-4, max: 1.0e-2, scale: log}
        batch_size: [32, 64, 128]
        flip_probability: {min: 0, max: 0.5}
        missing: [mask, interpolate]

    Raises:
        DataError: The file cannot be read, or names a setting or value that no recipe takes.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not content:
            raise ValueError("it names no settings")
        return {name: _domain(name, given) for name, given in content.items()}
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise DataError(
            f"the search space {path} cannot be used ({' '.join(str(error).split())}): map settings "
            f"({', '.join(SWEPT)}) to lists of values, or to {{min: ..., max: ...}} with scale: log for a "
            "logarithmic scale."
        ) from error


def _domain(name: str, given: Any) -> list[Value] | dict[str, Any]:
    """The values that a setting may have, as the file gives them."""
    if name not in SWEPT:
        raise ValueError(f"{name} is no setting to sweep")
    match given:
        case [_, *_]:
            return [_value(name, value) for value in given]
        case {"min": low, "max": high, **more} if more in _SCALES:
            low, high, scale = _value(name, low), _value(name, high), more.get("scale", "linear")
            if isinstance(low, str) or low > high or (scale == "log" and low <= 0):
                raise ValueError(
                    f"{name}: min must be at most max, and more than 0 with scale: log"
                )
            return {"min": low, "max": high, "scale": scale}
    raise ValueError(f"{name} is neither a list nor a range: {given!r}")


def _value(name: str, value: Any) -> Any:
    """The value as a recipe takes it; YAML reads 1e-3, without a point, as text."""
    if name == "missing" and value not in MISSING_STRATEGIES:
        raise ValueError(f"missing cannot be {value}, only {', '.join(MISSING_STRATEGIES)}")
    if name == "loss":
        keras.losses.get(str(value))
    if SWEPT[name] is str:
        return value
    number = float(value)
    if not 0 <= number < math.inf or SWEPT[name](number) != number:
        raise ValueError(f"{name} cannot be {value}")
    RECIPES["cnn"].override(**{name: SWEPT[name](number)})
    return SWEPT[name](number)


def draw_settings(
    space: Space, recipe: Recipe, trials: int, *, seed: int = 0
) -> list[dict[str, Value]]:
    """At most ``trials`` different settings: the recipe's own, then random ones by the seed."""
    rng = np.random.default_rng(seed)
    own = asdict(recipe) | {"learning_rate": recipe.optimizer_options["learning_rate"]}
    drawn: list[dict[str, Value]] = [{name: own[name] for name in space}]
    for _ in range(100 * trials):
        settings = {name: _draw(values, rng) for name, values in space.items()}
        if len(drawn) < trials and settings not in drawn:
            drawn.append(settings)
    return drawn


def _draw(values: Any, rng: np.random.Generator) -> Value:
    """One of the listed values, or a number of the range; a whole one if its ends are whole."""
    if isinstance(values, list):
        return values[rng.integers(len(values))]  # type: ignore[no-any-return]
    low, high, whole = values["min"], values["max"], isinstance(values["min"], int)
    ends = np.array([low, high + whole])
    value = np.exp(rng.uniform(*np.log(ends))) if values["scale"] == "log" else rng.uniform(*ends)
    return min(int(value), high) if whole else float(f"{value:.4g}")


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
) -> tuple[list[tuple[dict[str, Value], Outcome]], EvaluationReport]:
    """Try settings of a recipe in parallel, stop bad trials early, and measure the best one.

    Args:
        dataset: Labelled faces; NaN = not labelled.
        recipe: A recipe of one network.
        space: The settings to change, from :func:`load_space`.
        directory: Output folder; on a cluster, one that all nodes reach by this path.
        trials: Number of trials, the recipe's own settings included.
        seed: Seed of the split, the settings and the training.
        address: Ray cluster; a Ray of this machine when left out.
        cores: Cores of each trial.
        gpus: GPUs of each trial.
        resume: Continue the sweep in ``directory``.
        force: Replace what is in ``directory``.
        say: Called with lines for the user.

    Returns:
        The settings and the end of each trial, lowest validation error first; and the errors of the
        best one on the test faces.

    Raises:
        DataError: The data cannot be trained on, or no trial finished.
        OutputError: The folder exists, or holds another sweep.
        ClusterError: Ray cannot be reached, or no node is large enough.
    """
    if recipe.specialists:
        raise DataError("a sweep needs a recipe of one network: sweep cnn-flip instead.")
    if recipe.loss == "points" and "loss" in space:
        raise DataError(f"{recipe.name} has a loss of its own: take loss out of the settings.")
    directory = Path(directory).resolve()
    inputs = (dataset.source,)
    with output_folder(directory, verb="sweep", inputs=inputs, force=force, resume=resume):
        say("looking for near-duplicate images")
        dataset, splits, _ = split_faces(dataset, seed=seed)
        drawn = draw_settings(space, recipe, trials, seed=seed)
        recipes = [
            replace(recipe.override(**settings), name=f"{recipe.name}-{number:03d}")
            for number, settings in enumerate(drawn)
        ]
        experiment = Experiment(dataset, splits, recipes, [seed], directory)
        begin(directory, experiment.to_json() | {"cores": cores})
        say(f"{len(drawn)} trials on {len(splits[0].train)} training faces")
        outcomes = train_in_parallel(
            dataset, splits, experiment.tasks, directory,
            address=address, cores=cores, gpus=gpus, stop_early=True,
        )  # fmt: skip
        tried = list(zip(drawn, outcomes, strict=True))
        tried.sort(key=lambda trial: (trial[1].state != "finished", trial[1].error))
        columns = ["run", *space, "epochs", "val_rmse_px", "state", "failure"]
        rows: list[list[Any]] = []
        for settings, end in tried:
            error = f"{end.error:.4f}" if math.isfinite(end.error) else ""
            rows.append([end.name, *settings.values(), end.epochs, error, end.state, end.failure])
        write_table(directory / "trials.csv", columns, rows)
        best = tried[0][1]
        if best.state != "finished":
            reason = next((end.failure for _, end in tried if end.failure), "all were stopped")
            raise DataError(f"no trial finished: {reason.rstrip('.')}; see {directory}/trials.csv.")
        # A copy, so that nobody has to read a table to find the model.
        with output_folder(directory / "best", verb="train", force=True) as fresh:
            shutil.copytree(directory / "runs" / best.name, fresh, dirs_exist_ok=True)
        report = measure_run(load_run(directory / "best"), dataset, seed=seed)
        write_json(directory / "report.json", report.to_dict())
        return tried, report
