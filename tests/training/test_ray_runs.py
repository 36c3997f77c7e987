"""Training on a Ray: the same weights as in one process, whatever is killed; sweeps."""

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

keras = pytest.importorskip("keras")

from facial_keypoints.cli.data import load_faces
from facial_keypoints.data.synthetic.faces import write_kaggle_folder
from facial_keypoints.errors import DataError, OutputError
from facial_keypoints.training.fit import load_run, recorded_errors, split_faces, train
from facial_keypoints.training.ray_runs import Resources, TaskProcess, settle_cores
from facial_keypoints.training.recipes import RECIPES
from facial_keypoints.training.sweep import Range, draw_settings, load_space

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or sys.platform != "linux",
    reason="needs the extra ray, and /proc",
)


# Search spaces.


def space(tmp_path: Path, text: str) -> dict[str, Range | tuple[float | int | str, ...]]:
    file = tmp_path / "space.yaml"
    file.write_text(text)
    return load_space(file)


def test_a_search_space_is_read(tmp_path: Path) -> None:
    found = space(
        tmp_path,
        "learning_rate: {min: 1e-4, max: 0.01, scale: log}\n"  # YAML takes 1e-4 for a text
        "batch_size: [32, 64]\n"
        "patience: {min: 5, max: 9}\n"
        "missing: [mask, mean]\n",
    )
    assert found == {
        "learning_rate": Range(1e-4, 0.01, log=True),
        "batch_size": (32, 64),
        "patience": Range(5, 9, whole=True),
        "missing": ("mask", "mean"),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n", "must map settings"),
        ("", "must map settings"),
        ("a: [1\n", "is no YAML"),
        ("epochs: [1, 2]\n", "names 'epochs': a sweep can change"),
        ("batch_size: 3\n", "must be a list of values or"),
        ("batch_size: []\n", "must be a list of values or"),
        ("batch_size: {min: 3}\n", "must be a list of values or"),
        ("batch_size: [1.5]\n", "batch_size cannot be 1.5"),
        ("batch_size: [0]\n", "more than 0"),
        ("learning_rate: {min: 1, max: 0.1}\n", "needs min <= max"),
        ("learning_rate: {min: 0, max: 0.1, scale: log}\n", "more than 0"),
        ("flip_probability: {min: 0, max: 0.1, scale: log}\n", "min > 0"),
        ("flip_probability: [2]\n", "it is a share"),
        ("missing: {min: mask, max: mean}\n", "give a list of its values"),
        ("missing: [nothing]\n", "choose from"),
        ("loss: [mean_of_all]\n", "loss cannot be 'mean_of_all'"),
    ],
)
def test_a_wrong_search_space_is_told(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        space(tmp_path, text)


def test_a_missing_search_space_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.yaml cannot be read \(No such file"):
        load_space(tmp_path / "none.yaml")


def test_settings_begin_with_the_recipe_itself_and_none_is_tried_twice() -> None:
    wide = {"learning_rate": Range(1e-4, 1e-2, log=True), "batch_size": (32, 64)}
    drawn = draw_settings(wide, RECIPES["fc"], 40, seed=1)
    assert drawn[0] == {"learning_rate": 0.01, "batch_size": 128}
    assert len(drawn) == 40
    assert drawn == draw_settings(wide, RECIPES["fc"], 40, seed=1)
    assert drawn != draw_settings(wide, RECIPES["fc"], 40, seed=2)
    rates = np.array([float(settings["learning_rate"]) for settings in drawn[1:]])
    assert ((rates >= 1e-4) & (rates <= 1e-2)).all()
    assert 10 <= (rates < 1e-3).sum() <= 29  # half of a logarithmic scale
    assert len({tuple(settings.values()) for settings in drawn}) == 40
    few = draw_settings({"missing": ("mask", "mean", "ffill")}, RECIPES["fc"], 40)
    assert sorted(str(settings["missing"]) for settings in few) == ["ffill", "mask", "mean"]


def test_whole_numbers_are_drawn_evenly_to_both_ends() -> None:
    rng = np.random.default_rng(0)
    drawn = [Range(1, 4, whole=True).draw(rng) for _ in range(400)]
    assert set(drawn) == {1, 2, 3, 4}
    assert all(isinstance(value, int) for value in drawn)
    drawn = [Range(8, 512, log=True, whole=True).draw(rng) for _ in range(400)]
    assert min(drawn) >= 8
    assert max(drawn) <= 512
    assert 150 < sum(float(value) < 64 for value in drawn) < 250


# What a task checks before it begins.


def process(**changes: object) -> TaskProcess:
    from facial_keypoints import __version__

    return TaskProcess(
        **{"backend": "jax", "version": __version__, "resources": Resources(3)} | changes
    )  # type: ignore[arg-type]


def test_a_task_computes_with_as_many_threads_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KERAS_BACKEND", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "NPROC"):
        monkeypatch.setenv(name, "before")
    for name in ("CUDA_VISIBLE_DEVICES", "TF_NUM_INTEROP_THREADS", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, "before")
    marker = tmp_path / "plan.json"
    marker.touch()
    process().begin(marker)
    assert os.environ["KERAS_BACKEND"] == "jax"
    assert os.environ["OMP_NUM_THREADS"] == os.environ["TF_NUM_INTRAOP_THREADS"] == "3"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    process(resources=Resources(1, gpus=0.5)).begin(marker)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"  # Ray's choice stays


def test_a_node_without_the_folder_or_with_another_version_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not see"):
        process().begin(tmp_path / "plan.json")
    with pytest.raises(Exception, match=r"has facial-keypoints .*, but this is 0.0.1"):
        process(version="0.0.1").begin(tmp_path / "plan.json")


def test_the_number_of_cores_is_kept_for_the_next_time(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text('{"seeds": [0]}')
    assert settle_cores(file, 3, 2) == 3
    assert settle_cores(file, None, 2) == 3
    assert settle_cores(file, 1, 2) == 1
    assert settle_cores(file, None, 2) == 1
    assert '"seeds"' in file.read_text()


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


def train_verb(*words: str | Path) -> subprocess.Popen[str]:
    from ray_nodes import ENVIRONMENT

    return subprocess.Popen(
        [sys.executable, "-m", "facial_keypoints", "train", "fc", *map(str, words)],
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
def test_a_plan_that_loses_a_node_and_its_driver_ends_with_the_same_weights(
    data: Path, tmp_path: Path
) -> None:
    from ray_nodes import Nodes, kill_tree

    out = tmp_path / "out"
    words = ("--data", data, "-o", out, "--seeds", "5", "--epochs", "4", "--cores", "1")

    def done() -> int:
        return len(list((out / "runs").glob("*/run.json")))

    with Nodes(tmp_path) as nodes:
        nodes.add()
        doomed = nodes.add()
        run = train_verb(*words, "--address", nodes.address)
        until(lambda: done() >= 1, run)
        nodes.kill(doomed, at_work="_train_run")
        nodes.add()
        until(lambda: done() >= 2, run)
        kill_tree(run)
        run.communicate()
        assert done() < 5, "killed too late to tell"
        again = train_verb(*words, "--address", nodes.address, "--resume")
        log = again.communicate(timeout=300)[1]
        assert again.returncode == 0, log
    with (out / "runs.csv").open() as file:
        assert [line["seed"] for line in csv.DictReader(file)] == ["0", "1", "2", "3", "4"]
    assert (out / "ensembles" / "fc" / "model.keras").is_file()
    # fc's sums do not depend on the number of threads, so this process may have as many as it likes.
    faces, split, _ = split_faces(load_faces(data))
    for seed in (0, 4):
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
def test_a_sweep_keeps_the_best_and_goes_on_after_a_kill(data: Path, tmp_path: Path) -> None:
    from ray_nodes import kill_tree

    out, file = tmp_path / "out", tmp_path / "space.yaml"
    file.write_text("learning_rate: [1e-9, 0.001, 0.01, 1e12]\n")
    words = ("--data", data, "-o", out, "--sweep", file, "--epochs", "3", "--trials", "9")
    run = train_verb(*words)
    until(lambda: list((out / "trials").glob("*/run.json")), run)
    kill_tree(run)
    run.communicate()
    again = train_verb(*words, "--resume")
    shown, log = again.communicate(timeout=400)
    assert again.returncode == 0, log
    with (out / "trials.csv").open() as table:
        trials = {float(line["learning_rate"]): line for line in csv.DictReader(table)}
    assert sorted(trials) == [1e-9, 0.001, 0.01, 1e12]
    assert trials[1e12]["state"] == "failed"
    assert "diverged" in trials[1e12]["failure"]
    finished = {r: float(t["val_rmse_px"]) for r, t in trials.items() if t["state"] == "finished"}
    best = min(finished, key=lambda rate: finished[rate])
    assert best == 0.01
    run_of_best = load_run(out / "best")
    assert run_of_best.recipe.optimizer_options["learning_rate"] == best
    assert min(run_of_best.history["val_rmse_px"]) == pytest.approx(finished[best], abs=1e-4)
    assert (out / "report.json").is_file()
    assert "trial" in shown
    refused = train_verb(*words, "--resume", "--seed", "1")
    assert "begun with other seed" in refused.communicate(timeout=200)[1]
    assert refused.returncode == 1
