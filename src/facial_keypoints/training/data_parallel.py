"""One model trained on several devices at once, in one process or in several.

Keras' ``DataParallel`` keeps a copy of the weights on each device, gives each a share of every batch,
and adds up what they learnt: a step is that of the whole batch, so losses, batch statistics and
metrics are over all of its rows. Only Keras' JAX backend can do this (Keras 3.11 or later).

Several processes are started by hand, each with the same command and with Keras' own variables
``KERAS_DISTRIBUTION_JOB_ADDRESSES``, ``..._NUM_PROCESSES`` and ``..._PROCESS_ID``. All of them read
the data and the run folder; the first alone writes. What they do must not differ: a process that
waits for a sum waits until all have come to the same step.
"""

from __future__ import annotations

import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from facial_keypoints.errors import DataError, FacialKeypointsError, OutputError

__all__ = [
    "ShareOfBatches",
    "check_batch_size",
    "check_same_everywhere",
    "data_parallel",
    "first_decides",
    "in_first_process",
    "is_data_parallel",
    "is_first_process",
]

ADDRESSES, COUNT, NUMBER = (
    f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
)

HEARTBEAT_SECONDS = 20  # a process is given up after so long without a sign of life


@contextmanager
def data_parallel() -> Iterator[int]:
    """Within the block, :func:`training.train` trains on all devices of all processes.

    Enter it before anything else computes with JAX in this process. The run folder and the data
    must be on a disk that all processes see.

    Yields:
        The number of devices.

    Raises:
        FacialKeypointsError: The backend is not JAX, the variables name no cluster, it cannot be
            joined, or there is one device only. Where others never start, JAX itself ends this
            process, after 300 s.
    """
    backend = keras.backend.backend()
    if backend != "jax":
        raise FacialKeypointsError(
            f"data-parallel training runs on JAX, not on {backend}: install jax and set KERAS_BACKEND=jax."
        )
    several = _cluster(os.environ)
    if several:
        try:
            _join(os.environ)
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise FacialKeypointsError(
                f"the processes of {os.environ[ADDRESSES]} did not find each other ({reason}): start all "
                "of them anew, with an address of the first that every one can reach and a free port."
            ) from error
    # Batches come in shares already; by default Keras would want to cut them itself.
    distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
    _check_devices(_devices_of_processes())
    with distribution.scope():
        yield num_devices()
    if several:
        import jax

        jax.distributed.shutdown()  # all together: the first may have more to do alone


def _join(variables: Mapping[str, str]) -> None:
    """As keras.distribution.initialize does, but not minutes late to see that a process is gone."""
    import jax

    # JAX would catch SIGTERM to announce it to programs that ask; ours ends, and is resumed.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        variables[ADDRESSES].split(",")[0],
        int(variables[COUNT]),
        int(variables[NUMBER]),
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=HEARTBEAT_SECONDS,
    )


def _cluster(variables: Mapping[str, str]) -> bool:
    """Whether Keras' variables ask for several processes; half of them is a mistake."""
    given = {name: variables[name] for name in (ADDRESSES, COUNT, NUMBER) if variables.get(name)}
    if not given:
        return False
    if len(given) < 3:
        missing = " and ".join(name for name in (ADDRESSES, COUNT, NUMBER) if name not in given)
        raise FacialKeypointsError(
            f"{' and '.join(given)} is set, but not {missing}: set all three, or none for one process."
        )
    count, number, jobs = given[COUNT], given[NUMBER], given[ADDRESSES].split(",")
    if not (count.isdecimal() and number.isdecimal() and int(number) < int(count)):
        raise FacialKeypointsError(
            f"{COUNT} is {count!r} and {NUMBER} {number!r}: processes are numbered from 0, up to one less "
            "than their number."
        )
    if len(jobs) not in {1, int(count)} or not all(":" in job for job in jobs):
        raise FacialKeypointsError(
            f"{ADDRESSES} is {given[ADDRESSES]!r}: give the first process' host:port, or one for each of "
            f"the {count} processes, separated by commas."
        )
    return True


def _devices_of_processes() -> list[int]:
    """How many devices each process has."""
    import jax

    counts = Counter(device.process_index for device in jax.devices())
    return [counts[process] for process in range(jax.process_count())]


def _check_devices(counts: Sequence[int]) -> None:
    if sum(counts) < 2:
        raise FacialKeypointsError(
            "data-parallel training needs several devices and this process sees one: start one process "
            f"per machine or core with {COUNT} and its two companions set, or train without it."
        )
    if len(set(counts)) > 1:
        raise FacialKeypointsError(
            f"the processes have {', '.join(map(str, counts))} devices: give each the same number."
        )


def is_data_parallel() -> bool:
    """Whether this is a block of :func:`data_parallel`."""
    return keras.distribution.distribution() is not None


def num_devices() -> int:
    """Devices that share each batch, those of all processes together."""
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else int(distribution.device_mesh.devices.size)


def _processes() -> tuple[int, int]:
    """How many processes train together, and which of them this is."""
    if not is_data_parallel():
        return 1, 0
    import jax

    return jax.process_count(), jax.process_index()


def is_first_process() -> bool:
    """Whether this process writes files and reports; always so when there is only one."""
    return _processes()[1] == 0


def check_batch_size(batch_size: int) -> None:
    """Refuse a batch that the devices cannot share equally.

    Raises:
        DataError: It does not divide.
    """
    devices = num_devices()
    if batch_size % devices:
        raise DataError(
            f"a batch of {batch_size} does not divide among {devices} devices: choose a multiple of "
            f"{devices} with --batch-size."
        )


def check_same_everywhere(*values: Any) -> None:
    """Make sure that all processes set out from the same data, settings and files.

    Args:
        values: What JSON can hold.

    Raises:
        DataError: They differ between processes.
    """
    if _processes()[0] == 1:
        return
    from jax.experimental import multihost_utils

    mine = np.uint32(zlib.crc32(json.dumps(values, sort_keys=True).encode()))
    if len(np.unique(multihost_utils.process_allgather(mine))) > 1:
        raise DataError(
            "the processes see different data, settings or run folders: start each with the same command, "
            "and keep the data and the run folder on a disk that all of them share."
        )


def first_decides(choice: bool) -> bool:
    """The first process' choice, for what depends on its clock or its disk."""
    if _processes()[0] == 1:
        return choice
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.uint32(choice)))


def in_first_process(write: Callable[[], None]) -> None:
    """Write files in the first process, while the others wait.

    Raises:
        FacialKeypointsError: What ``write`` raised; in the other processes an OutputError.
    """
    failure = None
    if is_first_process():
        # Saving a model makes variables (of an optimiser to compare with), and in a distribution
        # that waits for all processes to do so.
        distribution = keras.distribution.distribution()
        keras.distribution.set_distribution(None)
        try:
            write()
        except FacialKeypointsError as error:
            failure = error
        finally:
            keras.distribution.set_distribution(distribution)
    failed = first_decides(failure is not None)
    if failure is not None:
        raise failure
    if failed:
        raise OutputError("the first process could not go on: mend what its own message says.")


class ShareOfBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """This process' rows of each batch, made up to a number that all devices can share.

    A batch that does not divide (the last of an epoch) repeats some of its rows with weight 0, so
    that they count in no loss and no metric; only batch statistics see them twice.

    Args:
        batches: Whole batches (images, targets, weights), the same in every process.
    """

    def __init__(self, batches: Sequence[tuple[NDArray[Any], ...]] | keras.utils.PyDataset) -> None:
        super().__init__()
        self.batches = batches
        self.devices = num_devices()
        self.processes, self.process = _processes()

    def __len__(self) -> int:
        return len(self.batches)

    def on_epoch_end(self) -> None:
        """Tell the batches."""
        if isinstance(self.batches, keras.utils.PyDataset):
            self.batches.on_epoch_end()

    def __getitem__(self, index: int) -> tuple[NDArray[Any], ...]:
        images, targets, weights = self.batches[index]
        count = len(images)
        rows = np.resize(np.arange(count), count + -count % self.devices)
        share = len(rows) // self.processes
        mine = slice(self.process * share, (self.process + 1) * share)
        weights = weights[rows]
        weights[count:] = 0
        return images[rows[mine]], targets[rows[mine]], weights[mine]
