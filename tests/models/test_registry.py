from __future__ import annotations

from pathlib import Path

import pytest

from facial_keypoints.errors import ModelError
from facial_keypoints.models import registry
from facial_keypoints.models.registry import find_detector, find_model, open_onnx, shipped_models


@pytest.mark.parametrize("name", ["nothing.onnx", "nothing.keras", "nothing"])
def test_a_missing_model_gets_a_sentence_with_the_choices(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no model .*\.onnx file"):
        find_model(tmp_path / name)


def test_a_folder_that_is_no_run_gets_a_sentence(tmp_path: Path) -> None:
    for trainable in (False, True):
        with pytest.raises(ModelError, match="not a finished run"):
            find_model(tmp_path, trainable=trainable)
    (tmp_path / "model.keras").touch()
    assert find_model(tmp_path) == find_model(tmp_path, trainable=True) == tmp_path / "model.keras"


def test_a_trainable_model_is_no_onnx_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be trained further"):
        find_model(tmp_path / "x.onnx", trainable=True)
    with pytest.raises(
        ModelError, match=r"there is no model .*: name a run folder, a \.keras file,"
    ):
        find_model(tmp_path / "none.keras", trainable=True)


def test_what_is_shipped_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.resources, "files", lambda _: tmp_path)
    with pytest.raises(ModelError, match="without the model 'default'"):
        find_model()
    with pytest.raises(ModelError, match="without the face detector 'default'"):
        find_detector()
    weights = tmp_path / "weights"
    weights.mkdir()
    for name in ("default.onnx", "ibug68.onnx", "face_detector.onnx"):
        (weights / name).touch()
    assert shipped_models() == {name: weights / f"{name}.onnx" for name in ("default", "ibug68")}
    assert find_model() == find_model("default") == weights / "default.onnx"
    assert find_detector() == find_detector("default") == weights / "face_detector.onnx"
    with pytest.raises(ModelError, match=r"there is no model .*default\.keras"):
        find_model(trainable=True)


def test_a_detector_that_is_missing_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no face detector"):
        find_detector(tmp_path / "none.onnx")


def test_what_is_no_onnx_file_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("no network")
    for name in ("m.onnx", "none.onnx"):
        with pytest.raises(ModelError, match=r"\.onnx is no readable ONNX model") as caught:
            open_onnx(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        open_onnx(tmp_path / "m.onnx", threads=0)
