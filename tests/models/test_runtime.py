from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from facial_keypoints.errors import ModelError
from facial_keypoints.models.registry import shipped_models
from facial_keypoints.models.runtime import load_runtime, read_spec, read_training_digests
from facial_keypoints.models.spec import DIGESTS_KEY, METADATA_KEY, ModelSpec
from facial_keypoints.schemas import KAGGLE15
from spot_model import SPEC, spot_model


def spots(*places: tuple[int, int]) -> np.ndarray:
    images = np.zeros((len(places), 32, 32, 1), np.uint8)
    for image, (x, y) in zip(images, places, strict=True):
        image[y, x] = 200
    return images


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spot_model(tmp_path_factory.mktemp("models") / "spot.onnx")


def test_an_onnx_file_answers_in_input_pixels(model: Path) -> None:
    xy, confidence = load_runtime(model).run(spots((3, 20), (31, 0)))
    assert xy.shape == (2, 2, 5, 2)
    assert xy[0, 0, 0].tolist() == [3, 20]
    assert xy[1, 1, 4].tolist() == [32, 0]
    assert confidence is not None
    assert confidence.shape == (2, 2, 5)
    assert confidence.dtype == xy.dtype == np.float32


@pytest.mark.parametrize("count", [0, 1, 7])
def test_any_number_of_images_is_a_batch(count: int, model: Path) -> None:
    xy, confidence = load_runtime(model, threads=1).run(np.zeros((count, 32, 32, 1), np.uint8))
    assert xy.shape == (count, 2, 5, 2)
    assert confidence is not None
    assert confidence.shape == (count, 2, 5)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 32, 31, 1), np.uint8),
        np.zeros((1, 32, 32, 3), np.uint8),
        np.zeros((32, 32, 1), np.uint8),
        np.zeros((1, 32, 32, 1), np.float32),
    ],
)
def test_images_of_another_kind_are_refused(images: np.ndarray, model: Path) -> None:
    with pytest.raises(ValueError, match=r"\(B, 32, 32, 1\)"):
        load_runtime(model).run(images)


def test_the_description_is_read_without_running(model: Path) -> None:
    assert read_spec(model) == SPEC


def test_the_number_of_threads_is_checked_and_used(model: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        load_runtime(model, threads=0)
    loaded = load_runtime(model, threads=3)
    assert loaded._session.get_session_options().intra_op_num_threads == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("content", [b"", b"\x08\x01", b"not a model", b"\x00" * 4096])
def test_a_corrupt_onnx_file_gets_a_sentence(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx") as caught:
        load_runtime(file)
    assert "\n" not in str(caught.value)


def test_a_cut_off_onnx_file_gets_a_sentence(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "cut.onnx"
    content = model.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"cut\.onnx"):
        load_runtime(file)


def test_somebody_elses_onnx_file_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=METADATA_KEY):
        load_runtime(spot_model(tmp_path / "m.onnx", metadata=False))


@pytest.mark.parametrize(
    "other",
    [
        replace(SPEC, schema=KAGGLE15),
        replace(SPEC, styles=("kaggle-a",)),
        replace(SPEC, input_size=(32, 16)),
    ],
    ids=["keypoints", "styles", "input"],
)
def test_a_graph_that_contradicts_its_description_gets_a_sentence(
    other: ModelSpec, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="description"):
        load_runtime(spot_model(tmp_path / "m.onnx", other, graph_spec=SPEC))


def test_a_damaged_description_gets_a_sentence(model: Path, tmp_path: Path) -> None:
    import onnx

    graph = onnx.load(str(model))
    onnx.helper.set_model_props(graph, {METADATA_KEY: "{"})
    onnx.save(graph, str(tmp_path / "m.onnx"))
    with pytest.raises(ModelError, match="description"):
        load_runtime(tmp_path / "m.onnx")


BLOCKED = '''
import sys

class Hiding:
    """A finder that does not find training libraries, as if they were not installed."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"keras", "tensorflow", "torch", "jax", "tf2onnx", "onnx"}:
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
import numpy as np
import facial_keypoints
predictor = facial_keypoints.load_predictor(sys.argv[1])
image = np.zeros((64, 64), np.uint8)
image[20:22, 40:42] = 255
print(predictor.predict_crops([image])[0].keypoints.xy[0, 0].tolist())
try:
    facial_keypoints.load_predictor(sys.argv[2])
except facial_keypoints.MissingExtraError as error:
    print(error)
'''


def test_prediction_needs_no_training_library(model: Path, tmp_path: Path) -> None:
    keras_file = tmp_path / "model.keras"
    with zipfile.ZipFile(keras_file, "w") as archive:
        archive.writestr(f"{METADATA_KEY}.json", SPEC.to_json())
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(model), str(keras_file)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    answer, refusal = done.stdout.splitlines()
    # The pair of pixels 40 and 41 is input pixel 20; kaggle-a adds one input pixel: 2 of the image.
    assert answer == "[42.5, 20.5]"
    assert re.search(r"pip install 'facial-keypoints\[train\]'", refusal)


@pytest.mark.skipif("default" not in shipped_models(), reason="this build comes without weights")
def test_both_files_of_the_shipped_model_know_what_it_learnt_from() -> None:
    known = read_training_digests("default")
    assert known is not None
    assert known == read_training_digests(shipped_models()["default"].with_suffix(".keras"))
    assert len(known) > 20_000  # of 22,311 faces, many of them copies


def test_damaged_digests_are_told(model: Path, tmp_path: Path) -> None:
    assert read_training_digests(model) is None
    file = tmp_path / "model.keras"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{DIGESTS_KEY}.txt", "no base64!")
    with pytest.raises(ModelError, match="damaged"):
        read_training_digests(file)
