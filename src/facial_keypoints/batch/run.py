"""A batch run on Ray Data: find the missing blocks, have them predicted, and sum up.

Why the parts are not written by Ray Data's own writer: it names files by its write tasks, so a task
that runs twice (its node died, the run was resumed) leaves rows twice, and only a whole data set
can be resumed. Here a Ray Data row is the number of a block, and an actor writes the part of that
number itself: a block that is computed twice gives the same file, and the file names tell which blocks
are missing. Ray Data keeps an actor per core, streams the blocks through them with backpressure, and
restarts actors, on another node if necessary, when processes or nodes die. No image goes through
Ray's object store: each is read by the actor that predicts it.
"""

from __future__ import annotations

import io
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facial_keypoints._version import __version__
from facial_keypoints.batch.inputs import ORIGIN, find_origin, find_shards
from facial_keypoints.batch.manifest import SETTINGS, Manifest, Settings, part_name
from facial_keypoints.batch.storage import Folder
from facial_keypoints.batch.worker import (
    BlockStatus,
    BlockWorker,
    PackedModel,
    find_status,
    load_packed,
)
from facial_keypoints.cluster import connect
from facial_keypoints.errors import DataError, FacialKeypointsError, OutputError
from facial_keypoints.io.images import in_order
from facial_keypoints.io.tables import columns
from facial_keypoints.models.registry import find_detector, find_model

__all__ = ["BatchResult", "run_batch"]

_RAY_BLOCKS = 10_000
"""Most Ray blocks of a run; with more blocks of our own, a Ray block holds several of them."""

_RETRIES = 5
"""How often Ray repeats a block after its worker died: an image that kills every worker must not stop a
run for ever. Ray also counts failed connections to a dying node, so the blocks that it gave up are
tried again at the end, as long as some of them succeed."""

_WORKER_BYTES = 270 << 20
"""Memory that a worker takes (benchmarks/results/batch_ray.md)."""

_FOOTER_THREADS = 32  # they read footers of parts, mostly waiting for the network

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class BatchResult:
    """Totals of a run, with what was computed before it was resumed.

    Attributes:
        inputs: Images.
        predicted: Images that were predicted.
        without_faces: Predicted images in which no face was found.
        faces: Rows of all parts.
        failed: Images that were not predicted; ``failures.parquet`` says why.
        warned: Warnings; ``warnings.parquet`` has them.
        blocks: Number of parts.
        seconds: Seconds since this call began.
        first_failure: Source and reason of the first image that failed.
    """

    inputs: int
    predicted: int
    without_faces: int
    faces: int
    failed: int
    warned: int
    blocks: int
    seconds: float
    first_failure: tuple[str, str] | None


def run_batch(
    settings: Settings,
    out: str,
    *,
    address: str | None,
    workers: int | None,
    readers: int,
    resume: bool,
    force: bool,
    report: Report,
) -> BatchResult:
    """Predict over any number of images, on this machine or a Ray cluster.

    Args:
        settings: What the user asks for.
        out: Output folder, local or a URI; all workers must reach it.
        address: Address of a Ray cluster (``HOST:PORT``, ``auto``); a Ray of this machine if ``None``.
        workers: Actors, one core each; as many as there are cores if ``None``.
        readers: Threads of each actor that read files.
        resume: Compute the missing blocks of the run in ``out``.
        force: Replace what is in ``out``.
        report: Called after each block with its images and the images in all (0 if unknown).

    Raises:
        FacialKeypointsError: The inputs, a model, the output or the cluster cannot be used, or blocks
            failed again and again. Finished parts are kept.
    """
    started = time.perf_counter()
    folder = Folder(out)
    model = PackedModel.of(find_model(settings.model))
    detector = (
        None
        if settings.crops
        else PackedModel.of(find_detector(settings.detector, model=settings.model))
    )
    # Opened here once, so that an unfit model is reported before a cluster is used.
    predictor = load_packed(settings, model, detector)
    settings = replace(
        settings,
        style=predictor.style,
        model_digest=model.digest,
        detector="" if detector is None else settings.detector,
        detector_digest="" if detector is None else detector.digest,
        columns=tuple(columns(predictor.spec.schema)),
    )
    with folder.prepared(settings.inputs, force=force, resume=resume):
        manifest, finished = _begin(folder, settings, resume=resume)
        missing = sorted(set(range(manifest.blocks)) - finished)
        if missing:
            total = 0 if manifest.archives else manifest.inputs
            lost = missing
            with connect(
                address, workers, purpose="facial-keypoints batch", worker_bytes=_WORKER_BYTES
            ) as cores:
                while lost:
                    count = len(lost)
                    reason = _compute(
                        lost,
                        (folder.name, manifest.settings, model, detector, readers),
                        workers=min(workers or cores, count),
                        report=lambda count: report(count, total),
                    )
                    lost = sorted(set(lost) - _present(folder))
                    if len(lost) == count:
                        raise _gave_up(lost, manifest, folder, reason)
        return _finish(folder, manifest, new=len(missing), started=started)


def _begin(folder: Folder, settings: Settings, *, resume: bool) -> tuple[Manifest, set[int]]:
    """The manifest of the run, written now or read, and the numbers of its finished blocks."""
    if resume and folder.exists(SETTINGS):
        manifest = Manifest.read(folder)
        settings.check_same(manifest.settings, folder.name)
        statuses = _statuses(folder, sorted(_present(folder)))
        return manifest, {block for block, status in statuses if status is not None}
    # If the run was killed before its manifest was complete, that is written again.
    if resume and _present(folder):
        raise OutputError(
            f"{folder.name} holds parts, but no run.json, so it cannot be resumed: choose another folder."
        )
    shards = find_shards(settings.inputs, column=settings.column, block_size=settings.block_size)
    return Manifest.write(folder, settings, shards), set()


def _present(folder: Folder) -> set[int]:
    names = (name.removesuffix(".parquet") for name in folder.names("parts"))
    return {int(name) for name in names if name.isdigit()}


def _compute(
    blocks: list[int],
    job: tuple[Any, ...],
    *,
    workers: int,
    report: Callable[[int], None],
) -> str:
    """Have the blocks computed; returns why Ray gave up on some of them, or nothing."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # All others are computed; the missing ones are named at the end.
    context.max_errored_blocks = -1
    for name in ("ray.data", "ray"):
        # Errors are raised here, in one sentence.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    ray_blocks = ray.data.from_items(
        [{"block": block} for block in blocks],
        override_num_blocks=min(len(blocks), _RAY_BLOCKS),
    )
    with warnings.catch_warnings():
        # Ray 2.60 deprecates the last two arguments without a replacement; the extra ends before 2.64.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        dataset = ray_blocks.map(
            BlockWorker,  # type: ignore[arg-type]  # one for each actor
            fn_constructor_args=job,
            # One worker must start; the others start when there is room for them.
            compute=ActorPoolStrategy(
                min_size=1, max_size=workers, initial_size=workers, max_tasks_in_flight_per_actor=2
            ),
            num_cpus=1,
            max_restarts=-1,
            max_task_retries=_RETRIES,
        )
    try:
        for row in dataset.iter_rows():
            if row["error"]:
                raise OutputError(row["error"])
            report(row["inputs"])
    except ray.exceptions.RayError as error:
        return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()[:200]
    return ""


def _gave_up(
    lost: list[int], manifest: Manifest, folder: Folder, reason: str
) -> FacialKeypointsError:
    shards = manifest.shards(lost[0])
    where = f"{shards[0].source} to {shards[-1].source}" if len(shards) > 1 else shards[0].source
    why = f" ({reason})" if reason else ""
    return DataError(
        f"{len(lost)} of {manifest.blocks} blocks are missing, the first with {where}: their workers "
        f"died or failed again and again{why}. The others are kept in {folder.name}: run again with "
        "--resume; if that fails too, leave these images out and write to another folder."
    )


def _statuses(folder: Folder, blocks: Iterable[int]) -> Iterator[tuple[int, BlockStatus | None]]:
    """Blocks in order, each with the counts in its part; ``None`` if that is missing or not complete."""
    return in_order(
        lambda block: (block, find_status(folder, block)),
        blocks,
        threads=_FOOTER_THREADS,
        ahead=8 * _FOOTER_THREADS,
    )


def _finish(folder: Folder, manifest: Manifest, *, new: int, started: float) -> BatchResult:
    """Write the tables of failures and warnings and the statistics from the parts' footers."""
    settings = manifest.settings
    # The table may become an input itself, of a run in another working directory.
    origin = find_origin(settings.inputs, root=settings.root, column=settings.column)
    schema = pa.schema(
        [("source", pa.string()), ("reason", pa.string()), ("block", pa.int64())],
        metadata={ORIGIN: origin},
    )
    totals = dict.fromkeys(
        (
            "inputs",
            "predicted",
            "without_faces",
            "faces",
            "failed",
            "warned",
            "read_s",
            "work_s",
            "bytes_read",
        ),
        0,
    )
    first: tuple[str, str] | None = None

    def failures() -> Iterator[dict[str, Any]]:
        nonlocal first
        for block, status in _statuses(folder, range(manifest.blocks)):
            if status is None:
                raise OutputError(
                    f"{folder.name}/{part_name(block)} was finished, but cannot be read: run again with "
                    "--resume."
                )
            for name in totals:
                totals[name] += getattr(status, name)
            for source, reason in status.failures:
                first = first or (source, reason)
                yield {"source": source, "reason": reason, "block": block}
            warned.extend(
                {"source": source, "reason": reason, "block": block}
                for source, reason in status.warnings
            )

    warned: list[dict[str, Any]] = []
    for name, found in (("failures", failures()), ("warnings", iter(warned))):
        content = io.BytesIO()
        with pq.ParquetWriter(content, schema, compression="zstd") as writer:
            while some := list(islice(found, 65_536)):
                writer.write_table(pa.Table.from_pylist(some, schema=schema), settings.block_size)
        folder.write(f"{name}.parquet", content.getvalue())
    seconds = time.perf_counter() - started
    counts = {
        name: totals[name]
        for name in ("inputs", "predicted", "without_faces", "faces", "failed", "warned")
    }
    counts["blocks"] = manifest.blocks
    statistics = {
        **counts,
        "blocks_of_last_run": new,
        "seconds_of_last_run": round(seconds, 1),
        "seconds_of_workers": round(totals["work_s"], 1),
        "seconds_of_reading": round(totals["read_s"], 1),
        "bytes_read": totals["bytes_read"],
        "version": __version__,
    }
    folder.write("statistics.json", json.dumps(statistics, indent=2).encode() + b"\n")
    folder.tidy("parts")
    return BatchResult(**counts, seconds=seconds, first_failure=first)
