"""Trains runs in parallel: each is a trial of Ray Tune, on this machine or on a cluster.

Every trial is a process of its own, so the Keras state of one cannot change the next. A trial whose
process or node dies is started again, continues from the checkpoint in its run folder, and ends with
the weights of an uninterrupted run; at most some seconds of training are repeated. Work is resumed
from the run folders alone: Ray Tune's own state, which is pickled code, is never read.

The faces go to each node once, through Ray's object store. All nodes must share the disk of the
output folder. This module imports no Keras, because a trial sets its process up before that.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from facial_keypoints._version import __version__
from facial_keypoints.cluster import ClusterError, available_cores, connect
from facial_keypoints.data.splits import Split
from facial_keypoints.errors import FacialKeypointsError, OutputError
from facial_keypoints.models.keras_backend import choose_backend
from facial_keypoints.training.recipes import Recipe
from facial_keypoints.types import FaceDataset

if TYPE_CHECKING:
    from facial_keypoints.training.progress import RunsProgress

__all__ = ["Outcome", "TrainingTask", "set_up_process", "train_in_parallel"]

RUN_BYTES = 1500 << 20
"""Resident memory of a process that trained the study's cnn with TensorFlow on 3,000 faces of 96x96."""

_RETRIES = 10  # times that a run is started again after its process or node died
_SILENCE_S = 60.0  # without a report of any run, until the user is told


class TrainingTask(NamedTuple):
    """One run to train."""

    name: str  # in progress bars and tables
    folder: Path  # its run folder
    recipe: Recipe
    seed: int
    fold: int = 0  # index of its split
    warm_start: Path | None = None  # as for training.fit.train


class Outcome(NamedTuple):
    """How a run ended."""

    name: str
    state: str  # finished, stopped (early) or failed
    epochs: int
    error: float  # lowest validation error in pixels; NaN if there is none
    failure: str = ""  # why it failed


def set_up_process(
    settings: Path, backend: str, cores: int, gpus: float, version: str = __version__
) -> None:
    """Check the node of a trial and set its environment variables, before Keras is imported.

    Raises:
        ClusterError: This node has another ``version`` of the package than the driver.
        OutputError: This node does not see the experiment's file ``settings``.
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
    # NPROC is the size of XLA's own thread pool, which JAX uses.
    threads = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "NPROC")
    os.environ |= dict.fromkeys(threads, str(cores))
    if not gpus:  # otherwise each trial would take all GPUs of its node
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def train_trial(
    config: Mapping[str, Any],
    dataset: FaceDataset,
    splits: Sequence[Split],
    tasks: Sequence[TrainingTask],
    process: tuple[Path, str, int, float, str],
    every_epoch: bool,
) -> None:
    """A trial: train one run, and report its epochs and its lowest validation error so far."""
    from ray import tune

    task = tasks[int(config["number"])]
    best = math.inf

    def report(epoch: int, epochs: int, error: float) -> None:
        nonlocal best
        best = error if epoch <= 1 else min(best, error)  # each of the specialists starts anew
        tune.report({"epoch": epoch, "epochs": epochs, "error": best, "failure": ""})

    try:
        set_up_process(*process)
        from facial_keypoints.training.fit import recorded_errors, train
        from facial_keypoints.training.progress import REPORT_SECONDS, EpochReporter

        if every_epoch:
            # The scheduler compares trials epoch by epoch, so a resumed one reports all of them.
            for epoch, error in enumerate(recorded_errors(task.folder), start=1):
                report(epoch, task.recipe.epochs, error)
        train(
            dataset,
            splits[task.fold],
            task.recipe,
            task.folder,
            seed=task.seed,
            resume=True,
            warm_start=task.warm_start,
            callbacks=[EpochReporter(report, seconds=0.0 if every_epoch else REPORT_SECONDS)],
        )
        if best == math.inf:  # finished before its process died: Tune needs at least one report
            report(0, 0, math.nan)
    except FacialKeypointsError as error:
        # Reported instead of raised: Tune would start the trial again, and it would fail again.
        tune.report({"epoch": 0, "epochs": 0, "error": math.inf, "failure": str(error)})


def train_in_parallel(
    dataset: FaceDataset,
    splits: Sequence[Split],
    tasks: Sequence[TrainingTask],
    directory: Path,
    *,
    address: str | None = None,
    cores: int = 1,
    gpus: float = 0.0,
    stop_early: bool = False,
) -> list[Outcome]:
    """Train runs as trials of Ray Tune; an interrupted run continues from its folder.

    Args:
        dataset: Labelled faces with their groups.
        splits: A split for each fold.
        tasks: What to train.
        directory: Folder of the experiment, in which ``settings.json`` is written already.
        address: Ray cluster (``HOST:PORT``, ``auto``), or ``local`` for a Ray on this machine.
        cores: Cores, and threads, of each run; a network's last digits depend on their number.
        gpus: GPUs of each run.
        stop_early: Stop bad runs early, by asynchronous successive halving (Li et al.,
            https://arxiv.org/abs/1810.05934).

    Returns:
        How each run ended, task by task.

    Raises:
        ClusterError: Ray cannot be reached, or no node is large enough for a run.
    """
    backend = choose_backend()
    from facial_keypoints.training.progress import RunsProgress

    here = available_cores()
    with connect(
        address,
        purpose="training in parallel",
        worker_bytes=RUN_BYTES * max(1, min(len(tasks), here // cores)) // here,
        shared_bytes=dataset.images.nbytes + dataset.keypoints.xy.nbytes,
    ):
        _check_room(cores, gpus)
        # Set before Tune is imported. Ctrl-C must reach this process, not Tune's own handler.
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
        from ray import tune

        for name in ("ray.tune", "ray.train", "ray.air", "ray"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # failures are in the outcomes
        trainable = tune.with_parameters(
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
            # After a ninth and after a third of the epochs the best third goes on.
            grace_period=max(1, epochs // 9),
            reduction_factor=3,
            # Otherwise Tune ends a process after its last epoch, before the model is written.
            stop_last_trials=False,
        )
        shutil.rmtree(directory / "tune", ignore_errors=True)
        try:
            with RunsProgress(len(tasks)) as progress:
                results = tune.Tuner(
                    tune.with_resources(trainable, {"cpu": cores, "gpu": gpus}),
                    param_space={"number": tune.grid_search(list(range(len(tasks))))},
                    tune_config=tune.TuneConfig(
                        metric="error", mode="min", scheduler=scheduler if stop_early else None
                    ),
                    run_config=tune.RunConfig(
                        name="tune",
                        storage_path=str(directory),
                        verbose=0,
                        failure_config=tune.FailureConfig(max_failures=_RETRIES),
                        callbacks=[_progress_callback(tasks, progress)],
                    ),
                ).fit()
        finally:
            shutil.rmtree(directory / "tune", ignore_errors=True)
    in_order: list[Any] = [results[i] for i in range(len(results))]
    in_order.sort(key=lambda result: result.config["number"])
    return [_outcome(task, result) for task, result in zip(tasks, in_order, strict=True)]


def _outcome(task: TrainingTask, result: Any) -> Outcome:
    reported = {"epoch": 0, "error": math.nan, "failure": "", **(result.metrics or {})}
    failure = reported["failure"]
    if result.error is not None:
        failure = f"its process died again and again ({str(result.error).strip().splitlines()[-1]})"
    state = "finished" if (task.folder / "run.json").exists() else "stopped"
    state = "failed" if failure else state
    return Outcome(task.name, state, reported["epoch"], reported["error"], failure)


def _progress_callback(tasks: Sequence[TrainingTask], progress: RunsProgress) -> Any:
    """A callback of Ray Tune, called in this process, that shows what the trials report."""
    from ray import tune

    class ShowProgress(tune.Callback):
        """Move the bars, and warn when no trial reports."""

        last_report = time.monotonic()

        def __reduce__(self) -> Any:
            return tune.Callback, ()  # Tune pickles its state, but bars cannot be pickled

        def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
            if time.monotonic() - self.last_report > _SILENCE_S:
                self.last_report = time.monotonic()
                progress.say("no run has reported for a minute: the cluster may have no free cores")

        def on_trial_result(
            self, iteration: int, trials: Any, trial: Any, result: Mapping[str, Any], **info: Any
        ) -> None:
            self.last_report = time.monotonic()
            if result["epochs"]:
                name = tasks[trial.config["number"]].name
                progress.update(name, result["epoch"], result["epochs"], result["error"])

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            last = trial.last_result
            line = last.get("failure") or f"{last['epoch']} epochs, best {last['error']:.3f} px"
            progress.finish(tasks[trial.config["number"]].name, line)

    return ShowProgress()


def _check_room(cores: int, gpus: float) -> None:
    """Raise ClusterError if no node has enough cores and GPUs for a run."""
    import ray

    nodes: Any = ray.nodes()  # type: ignore[no-untyped-call]
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    found = [(node.get("CPU", 0), node.get("GPU", 0)) for node in alive]
    if not any(node[0] >= cores and node[1] >= gpus for node in found):
        largest = " and ".join(f"{max(column):g}" for column in zip(*found, strict=True))
        raise ClusterError(
            f"no node has {cores} cores and {gpus:g} GPUs for a run (the most are {largest}): give fewer "
            "with --cores and --gpus."
        )
