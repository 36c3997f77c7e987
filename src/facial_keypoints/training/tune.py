"""Runs side by side: each is a trial of Ray Tune, on the cores of this machine or on a cluster.

A trial is a process of its own, so what one leaves behind in Keras cannot change the next. One that
dies with its process or node is begun again, finds the checkpoint of the run folder, and ends with the
weights of an undisturbed run; no more than some seconds of training are done twice. Only run folders
are trusted when work is resumed: Ray Tune's own state, which is pickled code, is never read.

The faces go to each node once, through Ray's object store; the output folder must be on a disk that
all nodes share. This module imports no Keras: a trial has to set its process up first.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facial_keypoints._version import __version__
from facial_keypoints.cluster import ClusterError, available_cores, connect
from facial_keypoints.data.splits import Split
from facial_keypoints.errors import FacialKeypointsError, OutputError
from facial_keypoints.models.keras_backend import choose_backend
from facial_keypoints.training.recipes import Recipe
from facial_keypoints.types import FaceDataset

if TYPE_CHECKING:
    from facial_keypoints.training.progress import RunsProgress

__all__ = ["Outcome", "TrainingTask", "set_up_process", "train_side_by_side"]

RUN_BYTES = 1500 << 20
"""Resident memory of a process that trained the study's cnn with TensorFlow on 3,000 faces of 96x96."""

REDUCTION = 3
"""Of the trials that have reached a ninth and a third of the epochs, the best third goes on."""

_RETRIES = 10
"""Times that a run is begun again after its process or node died."""

_WAITING_S = 60.0
"""Seconds without any news of a run after which the user is told that there may be no room."""


@dataclass(frozen=True)
class TrainingTask:
    """One run to train.

    Args:
        name: What progress calls it.
        folder: Its run folder.
        recipe: What to train.
        seed: Seed of weights, dropout, shuffling and mirroring.
        fold: Number of its split.
        warm_start: As for :func:`facial_keypoints.training.fit.train`.
    """

    name: str
    folder: Path
    recipe: Recipe
    seed: int
    fold: int = 0
    warm_start: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Args:
        state: ``finished``, ``stopped`` (early) or ``failed``.
        epochs: Epochs that it was trained.
        error: Its least validation error, pixels; NaN if there is none.
        failure: Why it failed.
    """

    state: str
    epochs: int
    error: float
    failure: str


def set_up_process(
    settings: Path, backend: str, cores: int, gpus: float, version: str = __version__
) -> None:
    """Set the process of a trial up, before Keras is imported.

    Args:
        settings: The experiment's file, which each node must see.
        backend: Library that Keras computes with.
        cores: Threads.
        gpus: GPUs that Ray has chosen for it.
        version: Version of this package where the trial was sent.

    Raises:
        ClusterError: This node has another version of the package.
        OutputError: This node does not see the output folder.
    """
    node = socket.gethostname()
    if __version__ != version:
        raise ClusterError(
            f"the node {node} has facial-keypoints {__version__}, but this is {version}: install the "
            "same version on all nodes."
        )
    if not settings.is_file():
        raise OutputError(
            f"the node {node} does not see {settings.parent}: give a folder with -o that all nodes "
            "reach by the same path."
        )
    os.environ |= {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    # NPROC is the size of XLA's own thread pool, so JAX's.
    threads = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "NPROC")
    os.environ |= dict.fromkeys(threads, str(cores))
    if not gpus:  # else each trial would take all GPUs of its node
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def train_trial(
    config: Mapping[str, Any],
    dataset: FaceDataset,
    splits: Sequence[Split],
    tasks: Sequence[TrainingTask],
    process: tuple[Path, str, int, float, str],
    every_epoch: bool,
) -> None:
    """A trial: train a run, and report epochs and the least validation error so far."""
    from ray import tune

    task = tasks[int(config["number"])]
    best = math.inf

    def tell(epoch: int, epochs: int, error: float) -> None:
        nonlocal best
        best = error if epoch <= 1 else min(best, error)  # each network of the specialists anew
        tune.report({"epoch": epoch, "epochs": epochs, "error": best, "failure": ""})

    try:
        set_up_process(*process)
        from facial_keypoints.training.fit import recorded_errors, train
        from facial_keypoints.training.progress import EpochReporter

        if (
            every_epoch
        ):  # told again after an interruption, to be judged beside the others as before
            for epoch, error in enumerate(recorded_errors(task.folder), start=1):
                tell(epoch, task.recipe.epochs, error)
        reporter = EpochReporter(tell, **({"seconds": 0.0} if every_epoch else {}))
        train(
            dataset,
            splits[task.fold],
            task.recipe,
            task.folder,
            seed=task.seed,
            resume=True,
            warm_start=task.warm_start,
            callbacks=[reporter],
        )
        if best == math.inf:  # finished before its process died: Tune must hear something
            tell(0, 0, math.nan)
    except FacialKeypointsError as error:
        # No exception: Tune would begin the trial again, and it would fail again.
        tune.report({"epoch": 0, "epochs": 0, "error": math.inf, "failure": str(error)})


def train_side_by_side(
    dataset: FaceDataset,
    splits: Sequence[Split],
    tasks: Sequence[TrainingTask],
    directory: Path,
    *,
    address: str | None = None,
    cores: int = 1,
    gpus: float = 0.0,
    stop_early: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Outcome]:
    """Train runs as trials of Ray Tune; where a run is interrupted, its folder says how far it is.

    Args:
        dataset: Labelled faces with their groups.
        splits: A split for each fold.
        tasks: What to train.
        directory: Folder of the experiment, whose settings are written.
        address: Of a Ray cluster (``HOST:PORT``, ``auto``); ``local`` or ``None`` for a Ray of this
            machine.
        cores: Cores, and threads, of each run; a network's last digits depend on their number.
        gpus: GPUs of each run.
        stop_early: Stop bad runs early, by asynchronous successive halving (Li et al.,
            https://arxiv.org/abs/1810.05934).
        say: Called with a line now and then.

    Returns:
        By the names of the tasks, what became of them.

    Raises:
        ClusterError: The Ray cannot be reached or has no room.
    """
    backend = choose_backend()
    from facial_keypoints.training.progress import RunsProgress

    here = available_cores()
    at_once = max(1, min(len(tasks), here // cores))
    with connect(
        address,
        purpose="training side by side",
        worker_bytes=RUN_BYTES * at_once // here,
        shared_bytes=dataset.images.nbytes + dataset.keypoints.xy.nbytes,
    ):
        _check_room(cores, gpus)
        # Before Tune is imported. Ctrl-C ends it as it ends everything here, for --resume.
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
        from ray import tune

        for name in ("ray.tune", "ray.train", "ray.air", "ray"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # we say it in a sentence
        given = tune.with_parameters(
            train_trial,
            dataset=dataset,
            splits=splits,
            tasks=tasks,
            process=(directory / "settings.json", backend, cores, gpus, __version__),
            every_epoch=stop_early,
        )
        epochs = max(task.recipe.epochs for task in tasks)
        scheduler = tune.schedulers.ASHAScheduler(
            time_attr="epoch",
            max_t=epochs,
            grace_period=max(1, epochs // REDUCTION**2),
            reduction_factor=REDUCTION,
            # Else Tune ends a process after its last epoch, before the model is written.
            stop_last_trials=False,
        )
        shutil.rmtree(directory / "tune", ignore_errors=True)
        try:
            with RunsProgress(len(tasks)) as progress:
                results = tune.Tuner(
                    tune.with_resources(given, {"cpu": cores, "gpu": gpus}),
                    param_space={"number": tune.grid_search(list(range(len(tasks))))},
                    tune_config=tune.TuneConfig(
                        metric="error", mode="min", scheduler=scheduler if stop_early else None
                    ),
                    run_config=tune.RunConfig(
                        name="tune",
                        storage_path=str(directory),
                        verbose=0,
                        failure_config=tune.FailureConfig(max_failures=_RETRIES),
                        callbacks=[_news(tasks, progress, say)],
                    ),
                ).fit()
        finally:
            shutil.rmtree(directory / "tune", ignore_errors=True)
    outcomes = {}
    for position in range(len(results)):
        result = results[position]
        told: dict[str, Any] = {"epoch": 0, "error": math.nan, "failure": ""}
        told |= result.metrics or {}
        if result.error is not None:
            last = str(result.error).strip().splitlines()[-1]
            told["failure"] = f"its process died again and again ({last})"
        task = tasks[int((result.config or {})["number"])]
        ended = "finished" if (task.folder / "run.json").exists() else "stopped"
        outcomes[task.name] = Outcome(
            "failed" if told["failure"] else ended, told["epoch"], told["error"], told["failure"]
        )
    return outcomes


def _news(tasks: Sequence[TrainingTask], progress: RunsProgress, say: Callable[[str], None]) -> Any:
    """A callback of Ray Tune, called in this process, that shows what the trials report."""
    from ray import tune

    class News(tune.Callback):
        """Move the bars, and say so when nothing is heard."""

        heard = time.monotonic()

        def __reduce__(self) -> Any:
            return tune.Callback, ()  # Tune pickles its state; bars cannot be

        def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
            if time.monotonic() - self.heard > _WAITING_S:
                self.heard = time.monotonic()
                say("nothing heard from any run for a minute: the cluster may have no free cores")

        def on_trial_result(
            self, iteration: int, trials: Any, trial: Any, result: Mapping[str, Any], **info: Any
        ) -> None:
            self.heard = time.monotonic()
            if result["epochs"]:
                name = tasks[trial.config["number"]].name
                progress.update(name, result["epoch"], result["epochs"], result["error"])

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            last = trial.last_result
            line = last.get("failure") or f"{last['epoch']} epochs, best {last['error']:.3f} px"
            progress.finish(tasks[trial.config["number"]].name, line)

    return News()


def _check_room(cores: int, gpus: float) -> None:
    """Make sure that some node could ever take a run.

    Raises:
        ClusterError: None has so many cores or GPUs.
    """
    import ray

    nodes: Any = ray.nodes()  # type: ignore[no-untyped-call]
    found = [
        (n["Resources"].get("CPU", 0), n["Resources"].get("GPU", 0)) for n in nodes if n["Alive"]
    ]
    if not any(node[0] >= cores and node[1] >= gpus for node in found):
        largest = " and ".join(f"{max(column):g}" for column in zip(*found, strict=True))
        raise ClusterError(
            f"no node has {cores} cores and {gpus:g} GPUs for a run (the most are {largest}): give fewer "
            "with --cores and --gpus."
        )
