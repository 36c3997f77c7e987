from dataclasses import replace

import numpy as np
import pytest

from facial_keypoints.data.duplicates import image_digests
from facial_keypoints.data.formats import load_dataset
from facial_keypoints.data.synthetic.faces import write_kaggle_folder
from facial_keypoints.errors import DataError, OutputError
from facial_keypoints.files import read_json
from facial_keypoints.models.keras_backend import choose_backend
from facial_keypoints.models.keras_model import load_keras_model
from facial_keypoints.models.runtime import load_runtime, read_spec, read_training_digests

choose_backend()
from facial_keypoints.models.landmark import NetworkConfig, Stage
from references.landmark.run import QUICK, train_default_run

TINY = NetworkConfig((Stage("res", 8, 1),), stem_channels=8, input_size=(32, 32))
CONFIG = replace(
    QUICK, teacher_network=TINY, student_network=TINY,
    teacher=replace(QUICK.teacher, steps=2), student=replace(QUICK.student, steps=2),
    polish=replace(QUICK.polish, steps=2),
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_kaggle_folder(folder / "facial-keypoints-detection", train=40, test=4, seed=0)
    return folder


@pytest.mark.slow
def test_one_call_leaves_a_detector_that_says_what_it_was_made_from(data, tmp_path):
    run = tmp_path / "run"
    lines: list[str] = []
    spec = train_default_run(data, run, config=CONFIG, threads=1, report=lines.append)
    assert read_spec(run / "model.onnx") == spec == read_spec(run)
    assert spec.styles == ("kaggle-a", "kaggle-b", "ibug", "five")
    xy, confidence = load_runtime(run / "model.onnx").run(np.zeros((2, 32, 32, 1), np.uint8))
    assert xy.shape == (2, 4, 15, 2)
    assert confidence is not None

    rows = load_dataset(data / "facial-keypoints-detection", size=(32, 32)).images
    assert read_training_digests(run / "model.onnx") == set(image_digests(rows))

    told = read_json(run / "run.json")
    assert told["data_digest"] == spec.data_digest
    assert len(spec.data_digest) == 64
    assert sum(told["faces"].values()) == 40
    assert 0 < sum(s["faces"] for s in told["held_out"].values()) < 40
    assert all(s["rmse_px"] > 0 for s in told["held_out"].values())
    assert told["config"]["student"]["steps"] == 2
    history = (run / "history.txt").read_text()
    for name in (
        "teacher1",
        "cross_validation-rough",
        "cross_validation",
        "student-rough",
        "student",
    ):
        assert f"training {name}\n" in history
        assert f"{name}: epoch 1 loss " in history

    # What is finished is kept, and ends in the same detector; other settings are another run.
    lines.clear()
    first = load_keras_model(run / "model.keras").get_weights()
    before = (run / "networks" / "student.weights.h5").stat().st_mtime_ns
    train_default_run(data, run, config=CONFIG, threads=1, resume=True, report=lines.append)
    assert not [line for line in lines if line.startswith("training")]
    assert (run / "networks" / "student.weights.h5").stat().st_mtime_ns == before
    for a, b in zip(first, load_keras_model(run / "model.keras").get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    with pytest.raises(OutputError, match="--resume"):
        train_default_run(data, run, config=CONFIG, threads=1)
    with pytest.raises(OutputError, match="begun with other config and seed"):
        train_default_run(data, run, config=CONFIG, threads=1, seed=1, resume=True)


def test_too_few_faces_for_four_folds_are_refused(tmp_path):
    data = tmp_path / "data"
    write_kaggle_folder(data / "facial-keypoints-detection", train=1, test=1, seed=0)
    with pytest.raises(DataError, match="too few faces"):
        train_default_run(data, tmp_path / "run", config=CONFIG, threads=1)
    with pytest.raises(DataError, match="no labelled faces"):
        train_default_run(tmp_path / "nothing", tmp_path / "other", config=CONFIG, threads=1)
