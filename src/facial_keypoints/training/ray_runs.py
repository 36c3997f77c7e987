"""The runs of a plan as tasks of a Ray: side by side, and begun again where a process or node dies.

Each run is a task of its own in a process of its own. A task that is begun again finds the checkpoint
of the one before it in the run's folder, so no more than some seconds of training are done twice, and
the weights are those of an undisturbed run. The faces go to each node once, through Ray's object
store; only the plan's folder must be on a disk that all nodes share.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facial_keypoints._version import __version__
from facial_keypoints.cluster import ClusterError, available_cores, connect
from facial_keypoints.data.splits import Split
from facial_keypoints.errors import FacialKeypointsError, OutputError
from facial_keypoints.files import read_json, write_json
from facial_keypoints.models.keras_backend import choose_backend
from facial_keypoints.training.recipes import Recipe
from facial_keypoints.types import FaceDataset

if TYPE_CHECKING:
    from facial_keypoints.training.experiment import Outcome, Plan, PlannedRun

__all__ = [
    "Resources",
    "TaskProcess",
    "check_room",
    "run_on_ray",
    "settle_cores",
    "start_board",
    "train_trial",
    "training_ray",
]

RUN_BYTES = 1500 << 20
"""Resident memory of a task that trained the study's cnn with TensorFlow on 3,000 faces of 96x96."""

_RETRIES = 10
"""Times that Ray begins a run again after its process or node died."""

_WAITING_S = 60.0
"""Seconds without any sign of a run after which the user is told that there is no room."""


@dataclass(frozen=True)
class Resources:
    """What each run is given.

    Args:
        cores: Cores, and threads.
        gpus: Graphics cards; a half lets two runs share one.
    """

    cores: int = 1
    gpus: float = 0.0


@dataclass(frozen=True)
class TaskProcess:
    """What a task needs to know of the driver.

    Args:
        backend: Library that Keras computes with.
        version: Version of this package.
        resources: What the task is given.
    """

    backend: str
    version: str
    resources: Resources

    def begin(self, marker: Path) -> None:
        """Set the process up, before Keras is imported.

        Raises:
            ClusterError: This node has another version of the package.
            OutputError: This node does not see the plan's folder.
        """
        node = socket.gethostname()
        if __version__ != self.version:
            raise ClusterError(
                f"the node {node} has facial-keypoints {__version__}, but this is {self.version}: install "
                "the same version on all nodes."
            )
        if not marker.is_file():
            raise OutputError(
                f"the node {node} does not see {marker.parent}: give a folder with -o that all nodes "
                "reach by the same path."
            )
        threads = str(self.resources.cores)
        os.environ |= {
            "KERAS_BACKEND": self.backend,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TF_NUM_INTRAOP_THREADS": threads,
            "TF_NUM_INTEROP_THREADS": threads,
            "OMP_NUM_THREADS": threads,
            "NPROC": threads,  # XLA's own thread pool, so JAX
        }
        if not self.resources.gpus:  # else each task would take all cards of its node
            os.environ["CUDA_VISIBLE_DEVICES"] = ""


class Board:
    """The latest word of each run, kept by an actor between the runs and the driver."""

    def __init__(self) -> None:
        self._news: dict[str, tuple[int, int, float]] = {}

    def post(self, title: str, epoch: int, epochs: int, error: float) -> None:
        """A run has got so far."""
        self._news[title] = (epoch, epochs, error)

    def read(self) -> dict[str, tuple[int, int, float]]:
        """What was posted since the last time."""
        news, self._news = self._news, {}
        return news


def start_board() -> Any:
    """A :class:`Board` as an actor on the driver's node, which lives as long as the driver does."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    stay = NodeAffinitySchedulingStrategy(here, soft=False)
    return ray.remote(Board).options(num_cpus=0, scheduling_strategy=stay).remote()


def _train_run(
    dataset: FaceDataset,
    split: Split,
    recipe: Recipe,
    seed: int,
    folder: Path,
    part: str | None,
    process: TaskProcess,
    board: Any,
    *_after: Any,
) -> Any:
    """A task: train a run, or one part of it, and tell the board.

    Nothing that it is handed may import Keras, which ``process`` has to be first to do.
    """
    process.begin(folder.parent.parent / "plan.json")
    from facial_keypoints.training.experiment import train_and_answer
    from facial_keypoints.training.fit import train_part
    from facial_keypoints.training.progress import EpochReporter

    title = folder.name if part is None else f"{folder.name}/{part}"
    reporter = EpochReporter(lambda *news: board.post.remote(title, *news))
    if part is None:
        return train_and_answer(dataset, split, recipe, seed, folder, [reporter])
    train_part(dataset, split, recipe, folder, part, seed=seed, callbacks=[reporter])
    return None


def train_trial(
    config: Mapping[str, Any],
    dataset: FaceDataset,
    split: Split,
    recipes: Sequence[Recipe],
    folders: Sequence[Path],
    seed: int,
    process: TaskProcess,
    board: Any,
) -> None:
    """A trial of a sweep: train, and tell Ray Tune the least validation error so far.

    Nothing that it is handed may import Keras, which ``process`` has to be first to do.
    """
    from ray import tune

    number = int(config["number"])
    folder = folders[number]
    best = math.inf

    def tell(epoch: int, error: float) -> None:
        nonlocal best
        best = min(best, error)
        tune.report({"epoch": epoch, "error": best, "failure": ""})

    try:
        process.begin(folder.parent.parent / "sweep.json")
        from facial_keypoints.training.fit import recorded_errors, train
        from facial_keypoints.training.progress import EpochReporter

        # Told again after an interruption, so that it is judged beside the others as before.
        for epoch, error in enumerate(recorded_errors(folder)):
            tell(epoch + 1, error)
        telling = EpochReporter(lambda epoch, _, error: tell(epoch, error), seconds=0)
        reporter = EpochReporter(lambda *news: board.post.remote(f"trial {folder.name}", *news))
        train(
            dataset,
            split,
            recipes[number],
            folder,
            seed=seed,
            resume=True,
            callbacks=[reporter, telling],
        )
    except FacialKeypointsError as error:
        # No exception: Tune would begin the trial again, and it would fail again.
        tune.report({"epoch": 0, "error": math.inf, "failure": str(error)})


def training_ray(dataset: FaceDataset, address: str | None, cores: int | None, runs: int) -> Any:
    """A Ray to train on, as a context manager; see :func:`ray_cluster.connect`.

    Args:
        dataset: Faces that each node is given.
        address: Of a cluster; ``local`` or ``None`` for this machine.
        cores: Cores of each run, if that is settled.
        runs: Runs that can go on at once.
    """
    here = available_cores()
    at_once = max(1, min(runs, here // (cores or 1)))
    return connect(
        address,
        purpose="training side by side",
        worker_bytes=RUN_BYTES * at_once // here,
        shared_bytes=dataset.images.nbytes + dataset.keypoints.xy.nbytes,
    )


def _node_resources() -> list[dict[str, float]]:
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def check_room(resources: Resources) -> None:
    """Make sure that some node could ever take a run.

    Raises:
        ClusterError: None has so many cores or cards.
    """
    nodes = _node_resources()
    if not any(
        node.get("CPU", 0) >= resources.cores and node.get("GPU", 0) >= resources.gpus
        for node in nodes
    ):
        most = max((int(node.get("CPU", 0)) for node in nodes), default=0)
        cards = max((node.get("GPU", 0) for node in nodes), default=0)
        raise ClusterError(
            f"no node has {resources.cores} cores and {resources.gpus:g} graphics cards for a run (the "
            f"largest have {most} and {cards:g}): give fewer with --cores and --gpus."
        )


def settle_cores(file: Path, asked: int | None, runs: int) -> int:
    """Cores for each run: as asked, as when the work was begun, or so many that none is idle.

    A network's last digits depend on the number of threads, so it is written down: a run that is
    resumed ends with the weights of an undisturbed one.

    Args:
        file: JSON file that describes the work; the number is kept in it.
        asked: What the user wants.
        runs: Runs that can go on at once.
    """
    content = read_json(file)
    cores = asked or content.get("cores") or _even_share(runs)
    if cores != content.get("cores"):
        write_json(file, content | {"cores": cores})
    return int(cores)


def _even_share(runs: int) -> int:
    sizes = [size for node in _node_resources() if (size := int(node.get("CPU", 0)))]
    return max(1, min([sum(sizes) // max(1, runs), *sizes]))


def run_on_ray(
    plan: Plan,
    runs: Sequence[PlannedRun],
    *,
    address: str | None = None,
    cores: int | None = None,
    gpus: float = 0.0,
    show: Callable[[str, int, int, float], None] = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[tuple[PlannedRun, Outcome]]:
    """Train runs of a plan on a Ray; see :class:`training_plan.Executor`.

    Args:
        plan: What they belong to.
        runs: What to train.
        address: Of a Ray cluster (``HOST:PORT``, ``auto``); ``local`` or ``None`` for a Ray of this
            machine.
        cores: Cores of each run; left out, as many as leave none idle.
        gpus: Graphics cards of each run.
        show: Called with a run's name, epochs done, epochs at most, and validation error in pixels.
        say: Called with a line now and then.

    Raises:
        ClusterError: The Ray cannot be reached or has no room.
    """
    from facial_keypoints.training.fit import run_parts

    backend = choose_backend()
    tasks = sum(
        max(1, max(map(len, run_parts(run.recipe, plan.dataset.schema)), default=1)) for run in runs
    )
    with training_ray(plan.dataset, address, cores, tasks):
        import ray  # not before: it reads its settings from the environment when imported

        file = plan.directory / "plan.json"
        resources = Resources(settle_cores(file, cores, tasks), gpus)
        check_room(resources)
        process = TaskProcess(backend, __version__, resources)
        board = start_board()
        # A process for each task: what one leaves behind in Keras cannot change the next.
        task = ray.remote(
            max_calls=1, max_retries=_RETRIES, num_cpus=resources.cores, num_gpus=gpus
        )(_train_run)
        faces = ray.put(plan.dataset)
        splits = [ray.put(split) for split in plan.splits]
        pending = {}
        for run in runs:

            def begin(part: str | None, after: Sequence[Any], run: PlannedRun = run) -> Any:
                given = (faces, splits[run.fold], run.recipe, run.seed, plan.folder(run))
                return task.remote(*given, part, process, board, *after)

            after: Sequence[Any] = ()
            for parts in run_parts(run.recipe, plan.dataset.schema):
                after = [begin(part, after) for part in parts]
            pending[begin(None, after)] = run
        yield from _collect(pending, board, show, say)


def _collect(
    pending: dict[Any, PlannedRun],
    board: Any,
    show: Callable[[str, int, int, float], None],
    say: Callable[[str], None],
) -> Iterator[tuple[PlannedRun, Outcome]]:
    import ray

    heard = time.monotonic()
    while pending:
        done, _ = ray.wait(list(pending), num_returns=1, timeout=1.0)
        with suppress(ray.exceptions.RayError):  # what matters is in the run folders
            for title, news in ray.get(board.read.remote(), timeout=10).items():
                show(title, *news)
                heard = time.monotonic()
        for ref in done:
            run = pending.pop(ref)
            heard = time.monotonic()
            try:
                yield run, ray.get(ref)
            except ray.exceptions.RayError as error:
                yield run, _explain(error)
        if time.monotonic() - heard > _WAITING_S:
            say("nothing heard from any run for a minute: the cluster may have no free cores")
            heard = time.monotonic()


def _explain(error: Exception) -> FacialKeypointsError:
    """The error of a task as ours."""
    import ray

    while isinstance(error, ray.exceptions.RayTaskError):
        cause = error.cause
        if isinstance(cause, FacialKeypointsError):
            return cause
        if not isinstance(cause, ray.exceptions.RayError):
            return ClusterError(f"its task failed ({type(cause).__name__}: {cause})")
        error = cause
    first = str(error).strip().splitlines()
    return ClusterError(
        f"its process died again and again ({first[0] if first else type(error).__name__})"
    )
