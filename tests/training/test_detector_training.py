"""The small detector of a data set: what it learns from, what it writes, and who uses it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from facial_keypoints.data.formats.faces import Photo
from facial_keypoints.data.synthetic.scenes import draw_scene
from facial_keypoints.errors import DataError, ModelError
from facial_keypoints.geometry import face_boxes
from facial_keypoints.inference.detector import Detections, OnnxFaceDetector, load_detector
from facial_keypoints.models.face_detector import (
    DetectorConfig,
    build_detector,
    export_detector,
    start_from,
)
from facial_keypoints.models.registry import OWN_DETECTOR, RUN_MODEL, find_detector
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.training.detector import (
    DetectorFit,
    _measure,
    _split,
    _view,
    cell_targets,
    train_detector,
)

TINY = DetectorConfig(stem=(8, 8), channels=(8, 8, 8), blocks=(1, 1, 1), neck=8, points=0)
QUICK = DetectorFit(steps=4, batch=2, side=64, network=TINY, start=False, longest_side=96)


def photos_of(count: int) -> list[Photo]:
    photos = []
    for i in range(count):
        image, faces = draw_scene(i % 3, seed=i, image_size=(90, 160))
        photos.append(Photo(image[..., 1].copy(), face_boxes(faces.xy, KAGGLE15), f"p{i}"))
    return photos


def test_boxes_move_with_their_photo():
    """The face is a bright square: in each view, the box is on it."""
    image = np.zeros((120, 160), np.uint8)
    image[40:80, 60:100] = 255
    photo = Photo(image, np.array([[60, 40, 100, 80]], np.float32))
    rng, shares = np.random.default_rng(0), []
    for _ in range(60):
        view, boxes, certain = _view(photo, 128, rng)
        assert view.shape == (128, 128, 1)
        for box in boxes[certain]:
            x0, y0, x1, y1 = np.clip(box.round().astype(int), 0, 128)
            if box[2] - box[0] > 24:
                bright = view[..., 0] > view.mean()
                shares.append(bright[y0:y1, x0:x1].mean() - bright.mean())
    assert len(shares) > 20
    assert np.median(shares) > 0.5


def test_targets_need_no_points():
    box = np.array([[40, 40, 88, 88]], np.float32)
    target = cell_targets(box, np.array([True]), 128)
    assert target.shape == (256 + 64 + 16, 6)
    assert target[:, 0].max() == 1.0


def test_weights_of_an_exported_network_come_back(tmp_path: Path):
    shape = DetectorConfig(**{**vars(TINY), "points": 2})
    first, rng = build_detector(shape), np.random.default_rng(1)
    # Equal arrays would be written once.
    first.set_weights([w + rng.normal(0, 0.1, w.shape) for w in first.get_weights()])
    export_detector(first, tmp_path / "a.onnx", shape, longest_side=96, threshold=0.0)
    again = build_detector(TINY)
    start_from(again, tmp_path / "a.onnx")
    export_detector(again, tmp_path / "b.onnx", TINY, longest_side=96, threshold=0.0)
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96), dtype=np.uint8)
    a, b = (
        OnnxFaceDetector(tmp_path / name)._session.run(["boxes", "scores"], {"image": image})
        for name in ("a.onnx", "b.onnx")
    )
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, atol=0.05)
    with pytest.raises(ModelError, match="has other layers"):
        start_from(build_detector(DetectorConfig(points=0)), tmp_path / "a.onnx")


def test_the_shipped_weights_can_be_trained_further():
    start_from(build_detector(DetectorConfig(points=0)), find_detector())


def test_a_group_is_held_out_whole():
    photos = [Photo(p.image, p.boxes, f"g{i // 2}") for i, p in enumerate(photos_of(20))]
    learnt, held_out = _split(photos, 0)
    assert len(held_out) == 4
    assert not {p.group for p in learnt} & {p.group for p in held_out}
    assert _split(photos_of(4), 0)[1] == []


def test_the_least_score_is_between_faces_and_what_is_none():
    class Detector:
        def detect(self, image, effort):
            boxes = np.array([[10, 10, 30, 30], [50, 50, 70, 70]], np.float32)
            return Detections(boxes, np.array([0.7, 0.35], np.float32))

    photo = Photo(np.zeros((80, 80), np.uint8), np.array([[10, 10, 30, 30]], np.float32))
    found = _measure(Detector(), [photo, photo])
    assert (found.photos, found.faces, found.found, found.false_boxes) == (2, 2, 2, 0)
    assert 0.36 < found.threshold < 0.69


@pytest.mark.slow
def test_a_short_training_leaves_a_detector_that_opens(tmp_path: Path):
    said: list[str] = []
    found = train_detector(photos_of(12), tmp_path / "d.onnx", fit=QUICK, report=said.append)
    assert found.photos == 2
    assert load_detector(tmp_path / "d.onnx").threshold == pytest.approx(found.threshold, abs=1e-3)
    assert "step 4 of 4" in " ".join(said)
    with pytest.raises(DataError, match="at least 5 photos"):
        train_detector(photos_of(4), tmp_path / "e.onnx", fit=QUICK)


def test_a_run_folder_brings_its_own_detector(tmp_path: Path):
    shutil.copy(find_detector(), tmp_path / OWN_DETECTOR)
    assert find_detector(model=tmp_path) == tmp_path / OWN_DETECTOR
    assert find_detector(model=tmp_path / RUN_MODEL) == tmp_path / OWN_DETECTOR
    assert find_detector(model=tmp_path / "other").name == "face_detector.onnx"
    assert find_detector(find_detector(), model=tmp_path).name == "face_detector.onnx"
