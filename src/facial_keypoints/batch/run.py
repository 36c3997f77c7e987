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
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
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
from facial_keypoints.io.images import MAX_PIXELS, in_order
from facial_keypoints.io.tables import columns

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
        faces: Rows of all parts.
        failed: Images that were not predicted; ``failures.parquet`` says why.
        blocks: Number of parts.
        seconds: Seconds since this call began.
        first_failure: Source and reason of the first image that failed.
    """

    inputs: int
    predicted: int
    faces: int
    failed: int
    blocks: int
    seconds: float
    first_failure: tuple[str, str] | None


def run_batch(
    inputs: list[str],
    out: str,
    *,
    model: Path,
    model_name: str,
    detector: Path | None,
    detector_name: str = "",
    address: str | None = None,
    workers: int | None = None,
    readers: int = 4,
    column: str | None = None,
    block_size: int = 512,
    crops: bool = False,
    min_score: float | None = None,
    max_faces: int | None = None,
    max_pixels: int = MAX_PIXELS,
    style: str | None = None,
    tta: bool = False,
    resume: bool = False,
    force: bool = False,
    report: Report | None = None,
) -> BatchResult:
    """Predict over any number of images, on this machine or a Ray cluster.

    Args:
        inputs: Images, folders, patterns, lists, Parquet files, tar archives
            (:func:`facial_keypoints.batch.inputs.find_shards`).
        out: Output folder, local or a URI; all workers must reach it.
        model: Model file.
        model_name: Its name in ``run.json``.
        detector: Face detector's file; ``None`` for crops.
        detector_name: Its name in ``run.json``.
        address: Address of a Ray cluster (``HOST:PORT``, ``auto``); a Ray of this machine when left out.
        workers: Actors, one core each; as many as there are cores when left out.
        readers: Threads of each actor that read files.
        column: Column of Parquet inputs.
        block_size: Images in a block; a multiple of 128 gives exactly the numbers of ``predict --crops``.
        crops: Each image is one face.
        min_score: As for ``Predictor.predict``.
        max_faces: As for ``Predictor.predict``.
        max_pixels: Refuse larger images.
        style: As for ``Predictor``.
        tta: As for ``Predictor``.
        resume: Compute the missing blocks of the run in ``out``.
        force: Replace what is in ``out``.
        report: Called after each block with the images done and the images in all (0 if unknown).

    Raises:
        FacialKeypointsError: The inputs, a model, the output or the cluster cannot be used, or blocks
            failed again and again. Finished parts are kept.
    """
    started = time.perf_counter()
    folder = Folder(out)
    packed = PackedModel.of(model)
    packed_detector = None if detector is None else PackedModel.of(detector)
    settings = Settings(
        inputs=tuple(inputs),
        root=os.getcwd(),  # noqa: PTH109  (a text)
        column=column,
        block_size=block_size,
        crops=crops,
        min_score=min_score,
        max_faces=max_faces,
        max_pixels=max_pixels,
        style=style or "",
        tta=tta,
        model=model_name,
        model_digest=packed.digest,
        detector=detector_name,
        detector_digest="" if packed_detector is None else packed_detector.digest,
        columns=(),
    )
    # Opened here once, so that an unfit model is reported before a cluster is used.
    predictor = load_packed(settings, packed, packed_detector)
    settings = replace(
        settings, style=predictor.style, columns=tuple(columns(predictor.spec.schema))
    )
    with folder.prepared(settings.inputs, force=force, resume=resume):
        manifest, finished = _begin(folder, settings, resume=resume)
        missing = sorted(set(range(manifest.blocks)) - finished)
        if missing:
            progress = _progress(report, 0 if manifest.archives else manifest.inputs)
            lost = missing
            with connect(
                address, workers, purpose="facial-keypoints batch", worker_bytes=_WORKER_BYTES
            ) as cores:
                while lost:
                    count = len(lost)
                    reason = _compute(
                        lost,
                        (folder.name, manifest.settings, packed, packed_detector, readers),
                        workers=min(workers or cores, count),
                        report=progress,
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
        return manifest, {
            block
            for block, whole in in_order(
                lambda block: (block, find_status(folder, block) is not None),
                sorted(_present(folder)),
                threads=_FOOTER_THREADS,
                ahead=8 * _FOOTER_THREADS,
            )
            if whole
        }
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


def _progress(report: Report | None, total: int) -> Callable[[int], None]:
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        if report is not None:
            report(done, total)

    return add


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
    context.max_errored_blocks = (
        -1
    )  # all others are computed; the missing ones are named at the end
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(
            logging.CRITICAL
        )  # errors are raised here, in one sentence
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


def _statuses(folder: Folder, manifest: Manifest) -> Iterator[BlockStatus]:
    def status(block: int) -> BlockStatus:
        found = find_status(folder, block)
        if found is None:
            raise OutputError(
                f"{folder.name}/{part_name(block)} was finished, but cannot be read: run again with "
                "--resume."
            )
        return found

    yield from in_order(
        status, range(manifest.blocks), threads=_FOOTER_THREADS, ahead=8 * _FOOTER_THREADS
    )


def _finish(folder: Folder, manifest: Manifest, *, new: int, started: float) -> BatchResult:
    """Write the table of failures and the statistics from the parts' footers."""
    settings = manifest.settings
    # The table may become an input itself, of a run in another working directory.
    origin = find_origin(settings.inputs, root=settings.root, column=settings.column)
    schema = pa.schema(
        [("source", pa.string()), ("reason", pa.string()), ("block", pa.int64())],
        metadata={ORIGIN: origin},
    )
    totals = dict.fromkeys(
        ("inputs", "predicted", "without_faces", "faces", "read_s", "work_s", "bytes_read"), 0
    )
    content = io.BytesIO()
    failed = 0
    first = None
    waiting: list[dict[str, Any]] = []
    with pq.ParquetWriter(content, schema, compression="zstd") as writer:
        for status in _statuses(folder, manifest):
            for name in totals:
                totals[name] += getattr(status, name)
            if status.failures:
                first = first or status.failures[0]
                failed += len(status.failures)
                waiting += [
                    {"source": source, "reason": reason, "block": status.block}
                    for source, reason in status.failures
                ]
            if len(waiting) >= 65_536:
                writer.write_table(
                    pa.Table.from_pylist(waiting, schema=schema), settings.block_size
                )
                waiting = []
        writer.write_table(pa.Table.from_pylist(waiting, schema=schema), settings.block_size)
    folder.write("failures.parquet", content.getvalue())
    seconds = time.perf_counter() - started
    statistics = {
        **{name: totals[name] for name in ("inputs", "predicted", "without_faces", "faces")},
        "failed": failed,
        "blocks": manifest.blocks,
        "blocks_of_last_run": new,
        "seconds_of_last_run": round(seconds, 1),
        "seconds_of_workers": round(totals["work_s"], 1),
        "seconds_of_reading": round(totals["read_s"], 1),
        "bytes_read": totals["bytes_read"],
        "version": __version__,
    }
    folder.write("statistics.json", json.dumps(statistics, indent=2).encode() + b"\n")
    folder.tidy("parts")
    return BatchResult(
        inputs=totals["inputs"],
        predicted=totals["predicted"],
        faces=totals["faces"],
        failed=failed,
        blocks=manifest.blocks,
        seconds=seconds,
        first_failure=first,
    )
