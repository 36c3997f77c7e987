"""Several devices learn what one learns. What needs JAX is skipped where it is not installed."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from facial_keypoints.errors import DataError, FacialKeypointsError, OutputError
from facial_keypoints.training import data_parallel
from facial_keypoints.training.data_parallel import (
    ShareOfBatches,
    in_first_process,
    is_first_process,
)

needs_jax = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs jax")

CLUSTER = {
    "KERAS_DISTRIBUTION_JOB_ADDRESSES": "10.0.0.1:1234",
    "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
    "KERAS_DISTRIBUTION_PROCESS_ID": "1",
}

TOLERANCE = 1e-5

# Trains on all devices (or on one), prints what this process saw, and saves its weights.
TRAIN = """
import contextlib, sys
import numpy as np
import keras
from conftest import dotted_faces
from facial_keypoints.data.splits import Split
from facial_keypoints.training.data_parallel import data_parallel, is_first_process
from facial_keypoints.training.recipes import RECIPES
from facial_keypoints.training.fit import train

recipe, out, weights, how, epochs, resume = sys.argv[1:]
sgd = {"learning_rate": 0.01, "momentum": 0.9, "nesterov": True}
recipe = RECIPES[recipe].override(
    epochs=2, batch_size=8, flip_probability=0.5, optimizer="sgd", optimizer_options=sgd
)

class Interrupt(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == int(epochs):
            raise KeyboardInterrupt

import facial_keypoints.training.fit
facial_keypoints.training.fit.CHECKPOINT_SECONDS = 0.0
faces = dotted_faces(40, height=64, width=60)
rows = np.arange(40)
split = Split(train=rows[:22], val=rows[22:35], test=rows[35:])  # 22 = 8 + 8 + 6, val odd
with data_parallel() if how == "all" else contextlib.nullcontext():
    try:
        run = train(faces, split, recipe, out, resume=resume == "resume", callbacks=[Interrupt()])
    except KeyboardInterrupt:
        run = None
    first = is_first_process()
if run is not None:
    np.savez(weights, *run.load_model().get_weights())
print("first" if first else "other")
"""


def start(*arguments: object, **variables: str) -> subprocess.Popen[str]:
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("KERAS_DISTRIBUTION_")},
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        **variables,
    }
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, *map(str, arguments)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(*processes: subprocess.Popen[str]) -> list[str]:
    try:
        said = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, text in zip(processes, said, strict=True):
        assert process.returncode == 0, text
    return [text.splitlines()[-1] for text in said]


def start_two(folder: Path, weights: str, epochs: int, resume: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        start(
            "fc", folder / "two", folder / f"{weights}{number}.npz", "all", epochs, resume,
            KERAS_DISTRIBUTION_JOB_ADDRESSES=f"127.0.0.1:{port}",
            KERAS_DISTRIBUTION_NUM_PROCESSES="2",
            KERAS_DISTRIBUTION_PROCESS_ID=str(number),
        )
        for number in range(2)
    ]  # fmt: skip


def furthest(one: Path, other: Path) -> float:
    """Largest difference of two sets of weights."""
    with np.load(one) as a, np.load(other) as b:
        assert a.files == b.files
        return max(float(np.abs(a[name] - b[name]).max()) for name in a.files)


@needs_jax
def test_two_devices_learn_what_one_learns(tmp_path: Path) -> None:
    # With dropout, and with batch statistics, which must be those of the whole batch.
    one = start("cnn", tmp_path / "one", tmp_path / "one.npz", "one", 0, "fresh")
    two = start(
        "cnn", tmp_path / "two", tmp_path / "two.npz", "all", 0, "fresh",
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )  # fmt: skip
    assert finish(one, two) == ["first", "first"]
    # Sums are added up in another order; weights are of size 1.
    assert furthest(tmp_path / "one.npz", tmp_path / "two.npz") < TOLERANCE


@needs_jax
def test_two_processes_interrupted_and_resumed_learn_what_one_learns(tmp_path: Path) -> None:
    one = start("fc", tmp_path / "one", tmp_path / "one.npz", "one", 0, "fresh")
    assert finish(one) == ["first"]
    assert finish(*start_two(tmp_path, "w", 1, "fresh")) == ["first", "other"]
    assert not (tmp_path / "two" / "run.json").exists()
    assert finish(*start_two(tmp_path, "w", 0, "resume")) == ["first", "other"]
    assert furthest(tmp_path / "w0.npz", tmp_path / "w1.npz") == 0
    assert furthest(tmp_path / "one.npz", tmp_path / "w0.npz") < TOLERANCE


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="of other backends")
def test_other_backends_say_which_one_can() -> None:
    with (
        pytest.raises(FacialKeypointsError, match="set KERAS_BACKEND=jax"),
        data_parallel.data_parallel(),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"KERAS_DISTRIBUTION_PROCESS_ID": ""}, "but not KERAS_DISTRIBUTION_PROCESS_ID"),
        ({"KERAS_DISTRIBUTION_PROCESS_ID": "2"}, "numbered from 0"),
        ({"KERAS_DISTRIBUTION_NUM_PROCESSES": "two"}, "is 'two'"),
        ({"KERAS_DISTRIBUTION_JOB_ADDRESSES": "10.0.0.1"}, "host:port"),
        ({"KERAS_DISTRIBUTION_JOB_ADDRESSES": "a:1,b:1,c:1"}, "one for each of the 2"),
    ],
)
def test_a_half_described_cluster_is_refused(changes: dict[str, str], sentence: str) -> None:
    with pytest.raises(FacialKeypointsError, match=sentence):
        data_parallel._cluster({**CLUSTER, **changes})


def test_a_described_cluster_is_joined_and_none_is_not() -> None:
    assert data_parallel._cluster(CLUSTER)
    assert not data_parallel._cluster({"HOME": "/"})


def test_devices_must_be_several_and_as_many_in_each_process() -> None:
    data_parallel._check_devices([2, 2])
    with pytest.raises(FacialKeypointsError, match="needs several devices"):
        data_parallel._check_devices([1])
    with pytest.raises(FacialKeypointsError, match="have 2, 1 devices"):
        data_parallel._check_devices([2, 1])


def test_a_batch_must_divide_among_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    data_parallel.check_batch_size(7)  # one device takes any
    monkeypatch.setattr(data_parallel, "num_devices", lambda: 4)
    data_parallel.check_batch_size(8)
    with pytest.raises(DataError, match="a batch of 6 does not divide among 4 devices"):
        data_parallel.check_batch_size(6)


def test_shares_make_up_the_batch_and_added_rows_weigh_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(data_parallel, "num_devices", lambda: 4)
    batch = (np.arange(5), 10 * np.arange(5), np.full((5, 2), 0.5))
    shares = []
    for process in range(2):
        monkeypatch.setattr(data_parallel, "_processes", lambda process=process: (2, process))
        shares.append(ShareOfBatches([batch])[0])
    images, targets, weights = (np.concatenate(parts) for parts in zip(*shares, strict=True))
    assert [len(share[0]) for share in shares] == [4, 4]
    assert images.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert targets.tolist() == (10 * images).tolist()
    assert weights.sum(axis=1).tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    assert (batch[2] == 0.5).all()  # the batch itself is untouched


def test_one_process_writes_at_once_and_only_the_first_of_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    in_first_process(lambda: done.append("one"))
    assert is_first_process()
    monkeypatch.setattr(data_parallel, "_processes", lambda: (2, 1))
    monkeypatch.setattr(data_parallel, "first_decides", lambda failed: False)
    in_first_process(lambda: done.append("two"))
    assert done == ["one"]
    monkeypatch.setattr(data_parallel, "first_decides", lambda failed: True)
    with pytest.raises(OutputError, match="the first process could not go on"):
        in_first_process(lambda: None)
