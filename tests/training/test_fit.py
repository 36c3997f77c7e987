from __future__ import annotations

import json
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import TWO_GROUPS, dotted_faces

keras = pytest.importorskip("keras")

from facial_keypoints.data.duplicates import image_digests
from facial_keypoints.data.splits import Split
from facial_keypoints.errors import DataError, ModelError, OutputError
from facial_keypoints.files import MARKER
from facial_keypoints.inference.predictor import load_predictor
from facial_keypoints.models.keras_model import load_keras_model
from facial_keypoints.models.runtime import load_runtime, read_spec, read_training_digests
from facial_keypoints.models.study import RmsePixels, build_cnn
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.training import fit as training
from facial_keypoints.training.fit import (
    build_expert,
    predict_keypoints,
    train,
)
from facial_keypoints.training.recipes import RECIPES, Recipe
from facial_keypoints.training.run_folder import Run, load_run
from facial_keypoints.types import FaceDataset

pytestmark = pytest.mark.backends

FC = RECIPES["fc"].override(epochs=3, batch_size=16)
SPECIALISTS = RECIPES["specialists"].override(epochs=2, specialist_epochs=2, batch_size=8)
LARGE = dotted_faces(30, height=56, width=57)  # as small as the cnn takes


def thirds(dataset: FaceDataset) -> Split:
    """A third of the rows each for test, validation and training."""
    rows = np.arange(len(dataset))
    return Split(train=rows[rows % 3 == 0], val=rows[rows % 3 == 1], test=rows[rows % 3 == 2])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run, to be read only."""
    faces = dotted_faces(60)
    return train(faces, thirds(faces), FC, tmp_path_factory.mktemp("finished") / "run", seed=5)


@pytest.fixture(scope="module")
def two_groups() -> Iterator[None]:
    """Specialists in two groups instead of six: each network costs seconds to build."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "SPECIALIST_GROUPS", TWO_GROUPS)
        yield


@pytest.fixture(scope="module")
def specialists(two_groups: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of specialists, to be read only."""
    folder = tmp_path_factory.mktemp("specialists") / "whole"
    return train(LARGE, thirds(LARGE), SPECIALISTS, folder, seed=3)


def weights_of(directory: Path) -> list[np.ndarray]:
    return list(load_run(directory).load_model().get_weights())


def test_the_metric_is_the_studys_rmse_over_labelled_points() -> None:
    metric = RmsePixels((48.0, 48.0))
    truth = np.zeros((2, 2, 2), np.float32)
    predicted = np.full((2, 2, 2), 1 / 48, np.float32)
    predicted[1, 1] = 100.0  # not labelled, so it does not count
    metric.update_state(truth, predicted, np.array([[1, 1], [1, 0]], np.float32))
    assert float(metric.result()) == pytest.approx(1.0)


def test_the_metric_uses_each_axis_own_size() -> None:
    metric = RmsePixels((10.0, 20.0))
    metric.update_state(np.zeros((1, 1, 2)), np.full((1, 1, 2), 0.1), np.ones((1, 1)))
    assert float(metric.result()) == pytest.approx(np.sqrt((1 + 4) / 2))


def test_moving_an_unlabelled_target_changes_nothing(tmp_path: Path) -> None:
    # With 'mask', what stands where no label is must not reach the weights.
    faces = dotted_faces(60)
    a = train(faces, thirds(faces), FC, tmp_path / "a")
    original = training.targets_and_weights

    def with_garbage(*args: object) -> tuple[np.ndarray, np.ndarray]:
        targets, weights = original(*args)  # type: ignore[arg-type]
        targets[weights == 0] = 0.77
        return targets, weights

    from facial_keypoints.training import batches as pipeline

    patch = pytest.MonkeyPatch()
    patch.setattr(pipeline, "targets_and_weights", with_garbage)
    b = train(faces, thirds(faces), FC, tmp_path / "b")
    patch.undo()
    for x, y in zip(weights_of(a.directory), weights_of(b.directory), strict=True):
        np.testing.assert_array_equal(x, y)


def test_training_lowers_the_error(tmp_path: Path) -> None:
    faces = dotted_faces(90)
    run = train(faces, thirds(faces), FC.override(epochs=150), tmp_path / "run")
    assert run.history["rmse_px"][-1] < 0.8 * run.history["rmse_px"][0]


def test_a_run_folder_holds_its_settings_and_history(finished: Run) -> None:
    run = finished
    names = {p.name for p in run.directory.iterdir()} - {MARKER}
    assert names == {
        "settings.json", "run.json", "split.json", "schema.json", "history.csv", "model.keras",
    }  # fmt: skip
    record = json.loads((run.directory / "run.json").read_text())
    assert record["seed"] == 5
    assert record["recipe"]["optimizer_options"]["nesterov"] is True
    assert record["rows"] == {"train": 20, "val": 20, "test": 20}
    assert record["versions"]["keras"] == keras.__version__
    assert len((run.directory / "history.csv").read_text().splitlines()) == 4
    assert run.split.test.tolist() == thirds(dotted_faces(60)).test.tolist()


def test_the_best_epoch_is_kept_and_patience_ends_training(tmp_path: Path) -> None:
    faces = dotted_faces(60)
    recipe = FC.override(epochs=40, patience=2, learning_rate=0.3)
    run = train(faces, thirds(faces), recipe, tmp_path / "run")
    errors = run.history["val_rmse_px"]
    assert len(errors) < 40
    assert run.record["best_epoch"] == int(np.argmin(errors)) + 1
    val = faces.subset(thirds(faces).val)
    xy = predict_keypoints(run.load_model(), val.images)
    error = np.sqrt(np.nanmean((xy - val.keypoints.xy) ** 2))
    assert error == pytest.approx(min(errors), rel=1e-4)


class Interrupt(keras.callbacks.Callback):
    """Stop as Ctrl-C would, in the middle of training.

    Args:
        epoch: Before this epoch.
        network: Of this network: 0 is the first that is trained.
    """

    def __init__(self, epoch: int, network: int = 0) -> None:
        super().__init__()
        self.epoch = epoch
        self.network = network

    def on_train_end(self, logs: object = None) -> None:
        self.network -= 1

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        if epoch == self.epoch and self.network == 0:
            raise KeyboardInterrupt


def assert_resumed_is(
    whole: Run,
    faces: FaceDataset,
    recipe: Recipe,
    out: Path,
    interrupt: Interrupt,
    patch: pytest.MonkeyPatch,
) -> None:
    patch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    seed = whole.record["seed"]
    with pytest.raises(KeyboardInterrupt):
        train(faces, thirds(faces), recipe, out, seed=seed, callbacks=[interrupt])
    cut = train(faces, thirds(faces), recipe, out, seed=seed, resume=True)
    for x, y in zip(weights_of(whole.directory), weights_of(out), strict=True):
        np.testing.assert_array_equal(x, y)
    assert whole.history["val_rmse_px"] == cut.history["val_rmse_px"]


def test_resumed_training_ends_with_the_same_weights(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_resumed_is(finished, dotted_faces(60), FC, tmp_path / "cut", Interrupt(2), monkeypatch)


def test_resumed_specialists_end_with_the_same_weights(
    specialists: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Cut in the first specialist, with faces mirrored at random and batch normalisation.
    cut = Interrupt(1, network=1)
    assert_resumed_is(specialists, LARGE, SPECIALISTS, tmp_path / "cut", cut, monkeypatch)


KILLED = """
import os, signal, sys
sys.path[:0] = {tests!r}
from facial_keypoints.models.keras_backend import choose_backend
choose_backend()
import keras
from conftest import dotted_faces
from test_fit import FC, thirds
from facial_keypoints.training import fit as training

class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.second = epoch == 2

    def on_train_batch_end(self, batch, logs=None):
        if self.second:
            os.kill(os.getpid(), signal.SIGKILL)

training.CHECKPOINT_SECONDS = 0.0
faces = dotted_faces(60)
for name in {names!r}:
    training.train(
        faces, thirds(faces), FC, {out!r} + name, seed=1, resume=True,
        callbacks=[Kill()] if {kill!r} else [],
    )
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no process is killed so there")
def test_training_killed_and_resumed_ends_with_the_same_weights(tmp_path: Path) -> None:
    # All in processes of their own: what other tests did to this one must not count.
    def run(*names: str, kill: bool) -> int:
        tests = [str(folder) for folder in Path(__file__).parents[:2]]
        code = KILLED.format(tests=tests, out=f"{tmp_path}/", names=names, kill=kill)
        return subprocess.run([sys.executable, "-c", code], timeout=200, check=False).returncode

    assert run("killed", kill=True) == -signal.SIGKILL
    state = json.loads((tmp_path / "killed/checkpoint/latest/state.json").read_text())
    assert state["epoch"] == 2
    assert not (tmp_path / "killed" / "model.keras").exists()
    assert run("killed", "whole", kill=False) == 0
    for x, y in zip(weights_of(tmp_path / "whole"), weights_of(tmp_path / "killed"), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_finished_run_is_returned_not_repeated(finished: Run) -> None:
    faces = dotted_faces(60)
    stamp = finished.model_path.stat().st_mtime_ns
    again = train(faces, thirds(faces), FC, finished.directory, seed=5, resume=True)
    assert finished.model_path.stat().st_mtime_ns == stamp
    assert finished.record == again.record


def test_an_existing_run_is_not_overwritten(finished: Run) -> None:
    faces = dotted_faces(60)
    with pytest.raises(OutputError, match="--resume"):
        train(faces, thirds(faces), FC, finished.directory, seed=5)
    with pytest.raises(OutputError, match=r"begun with other seed \(seed 5, now 9\)"):
        train(faces, thirds(faces), FC, finished.directory, resume=True, seed=9)
    faster = FC.override(learning_rate=0.5)
    with pytest.raises(OutputError, match=r"other recipe \(learning rate 0.\d+, now 0.5\)"):
        train(faces, thirds(faces), faster, finished.directory, resume=True, seed=5)


def test_an_interrupted_run_goes_on_with_more_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    faces, folder = dotted_faces(60), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(faces, thirds(faces), FC, folder, callbacks=[Interrupt(2)])
    fewer, more = FC.override(epochs=2), FC.override(epochs=5)
    with pytest.raises(OutputError, match=r"other recipe \(epochs 3, now 2\)"):
        train(faces, thirds(faces), fewer, folder, resume=True)
    run = train(faces, thirds(faces), more, folder, resume=True)
    assert len(run.history["loss"]) == run.record["recipe"]["epochs"] == 5
    with pytest.raises(OutputError, match=r"other recipe \(epochs 5, now 6\)"):  # it is finished
        train(faces, thirds(faces), FC.override(epochs=6), folder, resume=True)


def test_a_run_of_another_split_is_not_resumed(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It has seen faces that now belong to the test.
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    faces = dotted_faces(60)
    split = thirds(faces)
    other = Split(train=split.test, val=split.val, test=split.train)
    with pytest.raises(OutputError, match="begun with other split"):
        train(faces, other, FC, finished.directory, seed=5, resume=True)
    with pytest.raises(KeyboardInterrupt):
        train(faces, split, FC, tmp_path / "cut", callbacks=[Interrupt(2)])
    with pytest.raises(OutputError, match="begun with other split"):
        train(faces, other, FC, tmp_path / "cut", resume=True)


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be locked there")
def test_a_second_process_in_a_folder_waits_and_returns_the_run_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import fcntl

    faces, run, made = dotted_faces(60), tmp_path / "run", []

    def flock(handle: int, how: int) -> None:
        if made:
            return
        if how & fcntl.LOCK_NB:
            raise BlockingIOError
        made.append("by the first")
        train(faces, thirds(faces), FC, run, resume=True)

    monkeypatch.setattr(fcntl, "flock", flock)
    ended = train(faces, thirds(faces), FC, run, resume=True, callbacks=[Interrupt(1)])
    assert ended.history["loss"]  # it was not trained again, which would have been interrupted
    assert f"waiting for another process that is writing to {run}" in caplog.text


def test_an_expert_begins_with_the_predictions_of_its_base() -> None:
    faces = dotted_faces(5, height=56, width=57)
    base = build_cnn(15, (56, 57))
    expert = build_expert(base, [10, 3], name="expert")
    ours = predict_keypoints(expert, faces.images)
    theirs = predict_keypoints(base, faces.images)
    np.testing.assert_allclose(ours, theirs[:, [10, 3]], atol=1e-4)


def test_a_warm_start_from_other_rows_is_refused(finished: Run, tmp_path: Path) -> None:
    faces = dotted_faces(60)
    split = thirds(faces)
    other = Split(train=split.test, val=split.val, test=split.train)
    with pytest.raises(DataError, match="leak"):
        train(faces, other, SPECIALISTS, tmp_path / "out", warm_start=finished.directory)


def test_small_images_are_refused(tmp_path: Path) -> None:
    faces = dotted_faces(30)
    with pytest.raises(DataError, match="at least 56×56"):
        train(faces, thirds(faces), RECIPES["cnn"], tmp_path / "run")


def test_a_learning_rate_that_diverges_is_an_error(tmp_path: Path) -> None:
    faces = dotted_faces(60)
    with pytest.raises(DataError, match="--learning-rate"):
        train(faces, thirds(faces), FC.override(learning_rate=1e6, epochs=30), tmp_path / "run")


def test_a_model_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: x)(inputs))
    model.save(tmp_path / "lambda.keras")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_keras_model(tmp_path / "lambda.keras")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04broken"])
def test_a_corrupt_model_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.keras"
    file.write_bytes(content)
    with pytest.raises(ModelError):
        load_runtime(file)


def test_a_model_not_saved_by_this_package_is_refused(tmp_path: Path) -> None:
    inputs = keras.Input((4,))
    keras.Model(inputs, keras.layers.Dense(2)(inputs)).save(tmp_path / "m.keras")
    with pytest.raises(ModelError, match="not saved by this package"):
        load_runtime(tmp_path / "m.keras")


def test_the_spec_travels_inside_the_model_file(finished: Run, tmp_path: Path) -> None:
    alone = tmp_path / "alone.keras"
    alone.write_bytes(finished.model_path.read_bytes())
    assert zipfile.is_zipfile(alone)
    spec = read_spec(alone)
    assert spec.schema == KAGGLE15
    assert spec.input_size == (40, 32)
    assert spec == finished.spec


def test_images_of_another_size_are_refused(finished: Run) -> None:
    with pytest.raises(ModelError, match="32×40"):
        load_predictor(finished.directory).check_fits(dotted_faces(3, height=50))


def test_a_saved_network_of_networks_opens_where_training_was_never_imported(
    specialists: Run,
) -> None:
    # The specialists are networks inside one, each saved with the metric that it was compiled with.
    code = (
        "import sys; from facial_keypoints.models.runtime import load_runtime; "
        f"print(load_runtime({str(specialists.directory)!r}).spec.name); "
        "assert 'facial_keypoints.training.fit' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "specialists", done.stderr[-500:]


def test_a_run_knows_its_training_and_validation_images(tmp_path: Path) -> None:
    faces = dotted_faces(60)
    split = thirds(faces)
    # A flagged row that was left out of training does not become a test face.
    train(faces, replace(split, train=split.train[1:]), FC.override(epochs=1), tmp_path / "run")
    known = read_training_digests(tmp_path / "run")
    assert known == set(image_digests(faces.images[np.concatenate([split.train, split.val])]))
    assert not known & set(image_digests(faces.images[split.test]))
