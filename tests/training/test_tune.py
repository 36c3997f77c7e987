"""Training in parallel on Ray: the same weights as in one process, whatever is killed."""

from __future__ import annotations

import csv
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

keras = pytest.importorskip("keras")

from facial_keypoints.cli import app
from facial_keypoints.cli.data import load_faces
from facial_keypoints.cluster import ClusterError
from facial_keypoints.data.synthetic.faces import write_kaggle_folder
from facial_keypoints.errors import OutputError
from facial_keypoints.training.fit import recorded_errors, split_faces, train
from facial_keypoints.training.recipes import RECIPES
from facial_keypoints.training.run_folder import load_run
from facial_keypoints.training.tune import set_up_process

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or sys.platform != "linux",
    reason="needs the extra ray, and /proc",
)


# What a trial checks before it begins.


def test_a_trial_computes_with_the_given_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KERAS_BACKEND", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "NPROC"):
        monkeypatch.setenv(name, "before")
    for name in ("CUDA_VISIBLE_DEVICES", "TF_NUM_INTEROP_THREADS", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, "before")
    settings = tmp_path / "settings.json"
    settings.touch()
    set_up_process(settings, "jax", 3, 0.0)
    assert os.environ["KERAS_BACKEND"] == "jax"
    assert os.environ["OMP_NUM_THREADS"] == os.environ["TF_NUM_INTRAOP_THREADS"] == "3"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    set_up_process(settings, "jax", 1, 0.5)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"  # Ray's choice stays


def test_a_node_without_the_folder_or_with_another_version_is_refused(tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    with pytest.raises(OutputError, match="does not see"):
        set_up_process(settings, "jax", 1, 0.0)
    with pytest.raises(ClusterError, match=r"has facial-keypoints .*, but this is 0.0.1"):
        set_up_process(settings, "jax", 1, 0.0, "0.0.1")


def test_recorded_errors_are_those_of_a_run_or_of_its_last_checkpoint(tmp_path: Path) -> None:
    assert recorded_errors(tmp_path) == []
    state = tmp_path / "checkpoint" / "latest" / "state.json"
    state.parent.mkdir(parents=True)
    state.write_text('{"history": {"val_rmse_px": [3.5, 2.5]}}')
    assert recorded_errors(tmp_path) == [3.5, 2.5]
    (tmp_path / "run.json").write_text('{"history": {"val_rmse_px": [3.5, 2.5, 2.0]}}')
    assert recorded_errors(tmp_path) == [3.5, 2.5, 2.0]


# From here on Ray runs, in processes of its own.


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "kaggle"
    write_kaggle_folder(folder, train=240, test=8)
    return folder


def start(*words: str | Path) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    from ray_nodes import ENVIRONMENT

    return subprocess.Popen(
        [sys.executable, "-m", "facial_keypoints", *map(str, words)],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def until(ready: Callable[[], object], run: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 240
    while not ready():
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def weights(run: Path) -> list[np.ndarray]:
    return list(load_run(run).load_model().get_weights())


@pytest.mark.slow
@pytest.mark.timeout(600)
@needs_ray
def test_an_experiment_that_loses_a_node_and_its_driver_ends_with_the_same_weights(
    data: Path, tmp_path: Path
) -> None:
    from ray_nodes import Nodes, kill_tree

    out = tmp_path / "out"
    words = ("compare", "fc", "--data", data, "-o", out, "--seeds", "3", "--epochs", "4")

    def done() -> int:
        return len(list((out / "runs").glob("*/run.json")))

    with Nodes(tmp_path) as nodes:
        nodes.add()
        doomed = nodes.add()
        run = start(*words, "--address", nodes.address)
        nodes.kill(doomed, at_work="ImplicitFunc")
        until(lambda: done() >= 1, run)
        kill_tree(run)
        run.communicate()
        assert done() < 3, "killed too late to tell"
        again = start(*words, "--address", nodes.address, "--resume")
        log = again.communicate(timeout=300)[1]
        assert again.returncode == 0, log
    with (out / "runs.csv").open() as file:
        assert [line["seed"] for line in csv.DictReader(file)] == ["0", "1", "2"]
    assert (out / "ensembles" / "fc" / "model.keras").is_file()
    # fc's sums do not depend on the number of threads, so this process may have as many as it likes.
    faces, (split,), _ = split_faces(load_faces(data))
    for seed in range(3):
        alone = train(
            faces, split, RECIPES["fc"].override(epochs=4), tmp_path / f"{seed}", seed=seed
        )
        there = load_run(out / "runs" / f"fc-seed{seed}")
        assert there.history == alone.history, f"seed {seed}, killed node and driver"
        for mine, theirs in zip(
            alone.load_model().get_weights(), weights(out / "runs" / f"fc-seed{seed}"), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.slow
@pytest.mark.timeout(600)
@needs_ray
def test_a_sweep_keeps_the_best_and_is_resumed_after_a_kill(data: Path, tmp_path: Path) -> None:
    from ray_nodes import kill_tree

    out, file = tmp_path / "out", tmp_path / "space.yaml"
    file.write_text("learning_rate: [0.001, 0.1, 1e12]\n")
    words = ("sweep", file, "--recipe", "fc", "--data", data, "-o", out)
    words += ("--epochs", "3", "--trials", "9")
    run = start(*words)
    until(lambda: list((out / "runs").glob("*/run.json")), run)
    kill_tree(run)
    run.communicate()
    again = start(*words, "--resume")
    shown, log = again.communicate(timeout=400)
    assert again.returncode == 0, log
    with (out / "trials.csv").open() as table:
        trials = {float(line["learning_rate"]): line for line in csv.DictReader(table)}
    assert sorted(trials) == [0.001, 0.1, 1e12]
    assert trials[1e12]["state"] == "failed"
    assert "diverged" in trials[1e12]["failure"]
    finished = {r: float(t["val_rmse_px"]) for r, t in trials.items() if t["state"] == "finished"}
    best = min(finished, key=lambda rate: finished[rate])
    assert best == 0.1
    run_of_best = load_run(out / "best")
    assert run_of_best.recipe.optimizer_options["learning_rate"] == best
    assert min(run_of_best.history["val_rmse_px"]) == pytest.approx(finished[best], abs=1e-4)
    assert (out / "report.json").is_file()
    assert "validation RMSE" in shown
    refused = CliRunner().invoke(app, [*map(str, words), "--resume", "--seed", "1"])
    assert isinstance(refused.exception, OutputError)
    assert "begun with other seeds and splits" in str(refused.exception)
