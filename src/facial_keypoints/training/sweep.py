"""A sweep: many settings of one recipe, of which the bad ones are stopped early, with Ray Tune.

A sweep's folder holds::

    sweep.json             recipe, search space, and the settings of every trial
    trials/NUMBER/         the run folder of each trial; without run.json if it was stopped
    trials.csv             settings, epochs and validation error of each
    best/                  the run with the least validation error
    report.json            its errors on the test faces, measured once
    tune/                  what Ray Tune writes

Settings are drawn before anything is trained and written down, so a sweep is resumed from its run
folders alone: a trial tells again what it has reached, and goes on. Ray Tune's own state, which is
pickled code, is not read.

Early stopping is asynchronous successive halving (Li et al., A System for Massively Parallel
Hyperparameter Tuning, https://arxiv.org/abs/1810.05934): of the trials that have reached a ninth and
a third of the epochs, those with the better third of errors so far go on.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import yaml

from facial_keypoints._version import __version__
from facial_keypoints.data.cache import data_digest
from facial_keypoints.data.missing import MISSING_STRATEGIES
from facial_keypoints.data.splits import Split
from facial_keypoints.errors import DataError, OutputError
from facial_keypoints.evaluation.scores import EvaluationReport, evaluate_predictions
from facial_keypoints.files import output_folder, write_json
from facial_keypoints.io.tables import write_table
from facial_keypoints.models.keras_backend import choose_backend
from facial_keypoints.training.experiment import record_or_compare
from facial_keypoints.training.fit import (
    load_run,
    predict_keypoints,
    recipe_to_json,
    split_faces,
)
from facial_keypoints.training.ray_runs import (
    Resources,
    TaskProcess,
    check_room,
    settle_cores,
    start_board,
    train_trial,
    training_ray,
)
from facial_keypoints.training.recipes import Recipe
from facial_keypoints.types import FaceDataset

__all__ = ["Range", "SweepResult", "Trial", "draw_settings", "load_space", "sweep"]

SWEPT = ("learning_rate", "batch_size", "flip_probability", "loss", "missing", "patience")
"""Settings that a search space may name."""

_WHOLE = ("batch_size", "patience")
_HALVING = 3
_RETRIES = 10

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
        if self.whole and not self.log:
            return int(rng.integers(int(self.low), int(self.high), endpoint=True))
        if not self.log:
            return float(f"{rng.uniform(self.low, self.high):.4g}")
        # The few numbers at either end get their full share of a whole scale.
        margin = 0.5 if self.whole else 0.0
        value = math.exp(rng.uniform(math.log(self.low - margin), math.log(self.high + margin)))
        value = min(max(value, self.low), self.high)
        return round(value) if self.whole else float(f"{value:.4g}")


Space = Mapping[str, Range | Sequence[Value]]


@dataclass(frozen=True)
class Trial:
    """One setting and what became of it.

    Args:
        number: Number of the trial; 0 is the recipe as it is.
        settings: What was changed.
        epochs: Epochs trained.
        val_rmse_px: Least error on the validation faces so far, in pixels; NaN if there is none.
        state: ``finished``, ``stopped`` (early) or ``failed``.
        failure: Why, if it failed.
    """

    number: int
    settings: Mapping[str, Value]
    epochs: int
    val_rmse_px: float
    state: str
    failure: str = ""


@dataclass(frozen=True)
class _LastWord:
    """What Tune last heard of a trial: epochs, least error, and why it failed."""

    epochs: int = 0
    error: float = math.nan
    failure: str = ""


@dataclass(frozen=True, eq=False)
class SweepResult:
    """What a sweep found.

    Args:
        trials: All of them, best first.
        best: The best of the finished ones.
        report: Its errors on the test faces.
        directory: Folder with the best run.
    """

    trials: tuple[Trial, ...]
    best: Trial
    report: EvaluationReport
    directory: Path


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
    except OSError as error:
        raise DataError(
            f"the search space {path} cannot be read ({error.strerror}): name a .yaml file."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"the search space {path} is no YAML ({reason}): mend it.") from error
    if not isinstance(content, dict) or not content:
        raise DataError(
            f"the search space {path} must map settings ({', '.join(SWEPT)}) to lists of values or to "
            "{min: ..., max: ...}."
        )
    return {str(name): _domain(path, str(name), given) for name, given in content.items()}


def _domain(path: Path, name: str, given: Any) -> Range | tuple[Value, ...]:
    if name not in SWEPT:
        raise DataError(f"{path} names '{name}': a sweep can change {', '.join(SWEPT)}.")
    if isinstance(given, list) and given:
        return tuple(_value(path, name, value) for value in given)
    if not isinstance(given, dict) or not {"min", "max"} <= set(given) <= {"min", "max", "scale"}:
        raise DataError(
            f"{path}: {name} must be a list of values or {{min: ..., max: ...}}, with scale: log if you "
            f"like; received {given!r}."
        )
    low, high = (_value(path, name, given[end]) for end in ("min", "max"))
    scale = given.get("scale", "linear")
    if isinstance(low, str) or isinstance(high, str):
        raise DataError(f"{path}: {name} has no numbers to range over: give a list of its values.")
    if scale not in ("linear", "log") or low > high or (scale == "log" and low <= 0):
        raise DataError(
            f"{path}: {name} needs min <= max, and scale: log (then min > 0) or linear; received {given!r}."
        )
    return Range(low, high, log=scale == "log", whole=name in _WHOLE)


def _value(path: Path, name: str, value: Any) -> Value:
    """A value that the recipe takes; YAML reads 1e-3, without a point, as a text."""
    try:
        if name == "missing":
            if value not in MISSING_STRATEGIES:
                raise ValueError(f"choose from {', '.join(MISSING_STRATEGIES)}")
            return str(value)
        if name == "loss":
            keras.losses.get(str(value))
            return str(value)
        number = float(value)
        if not math.isfinite(number) or number < 0 or (name in _WHOLE and number != int(number)):
            raise ValueError("no such number is possible")
        if name == "flip_probability" and number > 1:
            raise ValueError("it is a share")
        if name in ("batch_size", "learning_rate") and number == 0:
            raise ValueError("it must be more than 0")
    except (ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: {name} cannot be {value!r} ({reason}).") from error
    return int(number) if name in _WHOLE else number


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
    exclude_flagged: bool = False,
    address: str | None = None,
    cores: int | None = None,
    gpus: float = 0.0,
    resume: bool = False,
    force: bool = False,
    show: Callable[[str, int, int, float], None] = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
) -> SweepResult:
    """Try settings of a recipe side by side, stop the bad ones early, and measure the best.

    Args:
        dataset: Labelled faces; NaN = not labelled.
        recipe: A recipe of one network.
        space: What to change, from :func:`load_space`.
        directory: Output folder; on a cluster, one that all nodes reach by this path.
        trials: Settings to try, the recipe's own among them.
        seed: Seed of the split, the settings and the training.
        exclude_flagged: See :func:`training.split_faces`.
        address: Of a Ray cluster; a Ray of this machine when left out.
        cores: Cores of each trial; left out, as many as leave none idle.
        gpus: Graphics cards of each trial.
        resume: Continue the sweep in ``directory``.
        force: Replace what is in ``directory``.
        show: Called with a trial's name, epochs done, epochs at most, and its error.
        say: Called with a line now and then.

    Returns:
        All trials, and the best by the validation faces with its errors on the test faces.

    Raises:
        DataError: The data cannot be trained on, or no trial was finished.
        OutputError: The folder exists, or holds another sweep.
        ClusterError: The Ray cannot be reached or has no room.
    """
    if recipe.specialists:
        raise DataError("a sweep needs a recipe of one network: sweep cnn-flip instead.")
    directory = Path(directory).resolve()
    with output_folder(
        directory, verb="train", inputs=(dataset.source,), force=force, resume=resume
    ):
        say("looking for near-duplicate images")
        dataset, split, flagged = split_faces(dataset, seed=seed, exclude_flagged=exclude_flagged)
        if exclude_flagged:
            say(f"left {flagged} flagged rows out of training")
        settings = draw_settings(space, recipe, trials, seed=seed)
        _record(directory, recipe, settings, dataset, split, seed)
        say(
            f"{len(settings)} settings, {len(split.train)} faces to train, {len(split.val)} to choose"
        )
        with training_ray(dataset, address, cores, len(settings)):
            cores = settle_cores(directory / "sweep.json", cores, len(settings))
            resources = Resources(cores, gpus)
            check_room(resources)
            last = _tune(dataset, split, recipe, settings, directory, seed, resources, show=show)
        found = [
            _outcome(directory, number, each, last.get(number, _LastWord()))
            for number, each in enumerate(settings)
        ]
        found.sort(key=lambda trial: (trial.state != "finished", trial.val_rmse_px))
        _write_trials(directory / "trials.csv", found)
        if not found or found[0].state != "finished":
            reason = next((t.failure for t in found if t.failure), "none came to its end")
            raise DataError(
                f"no trial was finished: {reason.rstrip('.')}; see {directory}/trials.csv."
            )
        best = found[0]
        _keep_best(directory, best)
        run = load_run(directory / "best")
        test = dataset.subset(split.test)
        report = evaluate_predictions(
            test, predict_keypoints(run.load_model(), test.images), seed=seed
        )
        write_json(directory / "report.json", report.to_dict())
        return SweepResult(tuple(found), best, report, directory / "best")


def _record(
    directory: Path,
    recipe: Recipe,
    settings: Sequence[Mapping[str, Value]],
    dataset: FaceDataset,
    split: Split,
    seed: int,
) -> None:
    """Write down what is tried, or make sure that it is what was begun here."""
    wanted = {
        "recipe": recipe_to_json(recipe),
        "seed": seed,
        "data_digest": data_digest(dataset),
        "training_faces": len(split.train),
        "settings": [dict(each) for each in settings],
    }
    record_or_compare(directory / "sweep.json", wanted)


def _folder(directory: Path, number: int) -> Path:
    return directory / "trials" / f"{number:03d}"


def _tune(
    dataset: FaceDataset,
    split: Split,
    recipe: Recipe,
    settings: Sequence[Mapping[str, Value]],
    directory: Path,
    seed: int,
    resources: Resources,
    *,
    show: Callable[[str, int, int, float], None],
) -> dict[int, _LastWord]:
    """Have Ray Tune run the trials; returns what each of them last said."""
    # Before Tune is imported. Ctrl-C ends a sweep as it ends everything here, for --resume.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    from ray import tune

    for name in ("ray.tune", "ray.train", "ray.air", "ray"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # we say it in a sentence
    board = start_board()
    given = tune.with_parameters(
        train_trial,
        dataset=dataset,
        split=split,
        recipes=[recipe.override(**each) for each in settings],
        folders=[_folder(directory, number) for number in range(len(settings))],
        seed=seed,
        process=TaskProcess(choose_backend(), __version__, resources),
        board=board,
    )
    shutil.rmtree(directory / "tune", ignore_errors=True)
    tuner = tune.Tuner(
        tune.with_resources(given, {"cpu": resources.cores, "gpu": resources.gpus}),
        param_space={"number": tune.grid_search(list(range(len(settings))))},
        tune_config=tune.TuneConfig(
            metric="error",
            mode="min",
            scheduler=tune.schedulers.ASHAScheduler(
                time_attr="epoch",
                max_t=recipe.epochs,
                grace_period=max(1, recipe.epochs // _HALVING**2),
                reduction_factor=_HALVING,
                # Else Tune ends a process after its last epoch, before the model is written.
                stop_last_trials=False,
            ),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(directory),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=_RETRIES),
        ),
    )
    with _shown(board, show):
        results = tuner.fit()
    last = {}
    for position in range(len(results)):
        result = results[position]
        metrics = result.metrics or {}
        failure = str(metrics.get("failure") or "")
        if result.error is not None:
            failure = str(result.error).strip().splitlines()[-1]
        last[int((result.config or {})["number"])] = _LastWord(
            int(metrics.get("epoch", 0)), float(metrics.get("error", math.nan)), failure
        )
    return last


@contextmanager
def _shown(board: Any, show: Callable[[str, int, int, float], None]) -> Iterator[None]:
    """Show what the trials post while the driver waits for them."""
    import ray

    ended = threading.Event()

    def look() -> None:
        while not ended.wait(1.0):
            try:
                news = ray.get(board.read.remote(), timeout=10)
            except ray.exceptions.RayError:  # the Ray is gone; the driver tells why
                return
            for title, words in news.items():
                show(title, *words)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=15)


def _outcome(directory: Path, number: int, settings: Mapping[str, Value], last: _LastWord) -> Trial:
    finished = (_folder(directory, number) / "run.json").exists()
    return Trial(
        number=number,
        settings=settings,
        epochs=last.epochs,
        val_rmse_px=last.error,
        state="failed" if last.failure else "finished" if finished else "stopped",
        failure=last.failure,
    )


def _write_trials(path: Path, trials: Sequence[Trial]) -> None:
    names = list(trials[0].settings) if trials else []
    rows = []
    for trial in trials:
        error = "" if math.isnan(trial.val_rmse_px) else f"{trial.val_rmse_px:.4f}"
        values = [trial.settings[name] for name in names]
        rows.append([trial.number, *values, trial.epochs, error, trial.state, trial.failure])
    write_table(path, ["trial", *names, "epochs", "val_rmse_px", "state", "failure"], rows)


def _keep_best(directory: Path, best: Trial) -> None:
    """Copy the best run to where it is found without reading a table."""
    fresh, place = directory / ".best", directory / "best"
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(_folder(directory, best.number), fresh)
        shutil.rmtree(place, ignore_errors=True)
        fresh.rename(place)
    except OSError as error:
        raise OutputError(
            f"cannot write {place} ({error.strerror or error}): free some space and continue with "
            "--resume."
        ) from error
