"""Finding faces: the shipped network on drawn scenes, files that are no detector, odd images."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from facial_keypoints.data.synthetic.faces import draw_faces
from facial_keypoints.data.synthetic.scenes import draw_scene
from facial_keypoints.errors import ModelError
from facial_keypoints.geometry import centres_to_edges, edges_to_centres, face_boxes, iou
from facial_keypoints.inference.detector import (
    DETECTOR_KEY,
    EFFORTS,
    OnnxFaceDetector,
    YuNetFaceDetector,
    load_detector,
)
from facial_keypoints.models.registry import shipped_models
from facial_keypoints.schemas import KAGGLE15

SHIPPED = shipped_models()["default"].with_name("face_detector.onnx")


@pytest.fixture(scope="module")
def detector():
    return load_detector(threads=1)


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_drawn_faces_are_found_where_they_are_and_nothing_else_is(detector, seed):
    photo, faces = draw_scene(3, seed=seed)
    found = detector.detect(photo)
    boxes, scores = found.boxes, found.scores
    assert boxes.dtype == scores.dtype == np.float32
    assert boxes.shape == (3, 4)
    assert (iou(face_boxes(faces.xy, KAGGLE15), boxes).max(axis=1) > 0.6).all()
    assert (np.diff(scores) <= 0).all()
    assert ((scores > 0) & (scores <= 1)).all()


@pytest.mark.parametrize(
    "image", [np.zeros((120, 160, 3), np.uint8), draw_scene(0, seed=21)[0]], ids=["black", "room"]
)
def test_an_image_without_faces_gives_no_boxes(detector, image):
    found = detector.detect(image)
    boxes, scores = found.boxes, found.scores
    assert boxes.shape == (0, 4)
    assert scores.shape == (0,)


def test_grey_and_colour_give_nearly_the_same_boxes(detector):
    photo, _ = draw_scene(2, seed=31)
    gray = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    want = detector.detect(photo).boxes
    assert len(want) == 2
    for image in (gray, gray[..., None], np.repeat(gray[..., None], 3, axis=2)):
        np.testing.assert_allclose(detector.detect(image).boxes, want, atol=0.01)


def test_boxes_grow_with_the_photo(detector):
    photo, _ = draw_scene(2, seed=32)
    large = cv2.resize(photo, None, fx=3, fy=3, interpolation=cv2.INTER_LINEAR)
    small, big = detector.detect(photo).boxes, detector.detect(large).boxes
    assert len(small) == 2
    order = [np.argsort(b[:, 0]) for b in (small, big)]
    np.testing.assert_allclose(big[order[1]] / 3, small[order[0]], atol=4)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (3000, 2), (33, 65), (700, 31)])
def test_any_size_of_image_is_searched(detector, shape):
    found = detector.detect(np.full((*shape, 3), 127, np.uint8), "thorough")
    boxes, scores = found.boxes, found.scores
    assert boxes.shape == (len(scores), 4)
    assert np.isfinite(boxes).all()


def test_a_view_into_a_larger_image_is_read_right(detector):
    photo, _ = draw_scene(1, seed=33)
    large = np.zeros((photo.shape[0] + 40, photo.shape[1] * 2, 3), np.uint8)
    large[20:-20, ::2] = photo
    np.testing.assert_array_equal(
        detector.detect(large[20:-20, ::2]).boxes, detector.detect(photo).boxes
    )


def on_a_wall(scene, height, width, top, left):
    """A photo with a scene at one place of a grey wall."""
    wall = np.full((height, width, 3), 90, np.uint8)
    wall[top : top + scene.shape[0], left : left + scene.shape[1]] = scene
    return wall


def found_all(found, truth):
    """Whether the rather sure boxes are those of the faces."""
    boxes = found.boxes[found.scores > 0.65]
    return len(boxes) == len(truth) and (iou(truth, boxes).max(axis=1) > 0.4).all()


@pytest.mark.parametrize(
    ("scale", "efforts"),
    [(1.0, "fast normal thorough"), (0.4, "normal thorough"), (0.15, "normal thorough")],
)
def test_small_faces_of_a_large_image_need_effort(detector, scale, efforts):
    """Faces of 133, 53 and 20 pixels in 7 megapixels; the first look sees them with 19, 8 and 3."""
    scene, faces = draw_scene(3, seed=34)
    small = cv2.resize(scene, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    wall = on_a_wall(small, 2300, 3100, 700, 1900)
    truth = face_boxes(faces.xy, KAGGLE15) * scale + np.tile([1900, 700], 2)
    assert [e for e in EFFORTS if found_all(detector.detect(wall, e), truth)] == efforts.split()


def test_the_answer_says_how_small_a_face_was_looked_for(detector):
    scene, _ = draw_scene(3, seed=34)
    said = [detector.detect(on_a_wall(scene, 2240, 2240, 0, 0), e).smallest for e in EFFORTS]
    assert said == pytest.approx([60.0, 30.0, 15.0])
    assert detector.detect(scene).smallest == pytest.approx(12 * scene.shape[1] / 448)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_faces_of_a_turned_image_are_found_with_their_angle(detector, turns):
    scene, faces = draw_scene(2, seed=32)
    size = scene.shape[:2]
    found = detector.detect(np.ascontiguousarray(np.rot90(scene, -turns)))
    x, y = np.moveaxis(centres_to_edges(faces.xy), -1, 0)
    for _ in range(turns):  # clockwise
        x, y, size = size[0] - y, x, size[::-1]
    truth = face_boxes(edges_to_centres(np.stack([x, y], axis=-1)), KAGGLE15)
    assert found_all(found, truth)
    assert found.angles.tolist() == [90.0 * turns] * 2
    assert not found_all(detector.detect(np.rot90(scene, -turns), "fast"), truth)


@pytest.mark.parametrize("share", [0.6, 0.45])
def test_a_face_larger_than_its_frame_is_found_at_every_resolution(detector, share):
    image = draw_faces(1, seed=3, image_size=160)
    ((x0, y0, x1, y1),) = face_boxes(image.keypoints.xy, KAGGLE15)
    half, x, y = share * (x1 - x0) / 2, (x0 + x1) / 2, (y0 + y1) / 2
    cut = image.images[0, round(y - half) : round(y + half), round(x - half) : round(x + half)]
    for side in (112, 1000):
        found = detector.detect(cv2.resize(cut, (side, side), interpolation=cv2.INTER_CUBIC))
        assert np.ptp(found.boxes[:, ::2], axis=1) == pytest.approx([side / share], rel=0.3)


def test_a_portrait_of_many_pixels_costs_little(monkeypatch):
    """The network sees six times the pixels of a small photo at most, not sixty times."""
    detector = load_detector(threads=1)
    looks = []
    run = detector._session.run
    session = SimpleNamespace(
        run=lambda names, feed: looks.append(feed["image"].size) or run(names, feed)
    )
    monkeypatch.setattr(detector, "_session", session)
    face = draw_faces(1, seed=3, image_size=160).images[0]
    portrait = on_a_wall(cv2.resize(face, (2400, 2400))[..., None], 3000, 4000, 400, 800)
    assert len(detector.detect(portrait)) == 1
    assert sum(looks) < 6 * 448 * 336


def test_the_threshold_decides_what_is_told():
    photo, _ = draw_scene(3, seed=35)
    scores = [
        OnnxFaceDetector(SHIPPED, threshold=t).detect(photo).scores for t in (0.001, 0.5, 1.0)
    ]
    assert len(scores[0]) > len(scores[1]) == 3
    assert len(scores[2]) == 0
    assert (scores[1] >= 0.5).all()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((10, 10, 3)), np.zeros((10, 10, 4), np.uint8), np.zeros(10, np.uint8),
        np.zeros((0, 10, 3), np.uint8),
    ],
    ids=["float", "four channels", "flat", "empty"],
)  # fmt: skip
def test_what_is_no_image_is_refused(detector, image):
    with pytest.raises(ValueError, match="image must"):
        detector.detect(image)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="threads must be at least 1"):
        load_detector(threads=0)


def test_the_shipped_file_is_small_and_is_no_keypoint_model():
    assert SHIPPED.stat().st_size < 2e6
    assert "face_detector" not in shipped_models()


def tiny_onnx(path, outputs=("y",)):
    """A network that is no face detector."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    ys = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in outputs]
    nodes = [helper.make_node("Identity", ["x"], [name]) for name in outputs]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], ys), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 9
    onnx.save(model, str(path))
    return path


def test_files_that_are_no_detector_are_told_apart(tmp_path):
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(ModelError, match=r"there is no face detector .*missing"):
        load_detector(tmp_path / "missing.onnx")
    with pytest.raises(ModelError, match="no readable ONNX model"):
        load_detector(tmp_path / "text.onnx")
    with pytest.raises(
        ModelError, match="neither a face detector of this package nor OpenCV's YuNet"
    ):
        load_detector(tiny_onnx(tmp_path / "other.onnx"))
    with pytest.raises(ModelError, match=DETECTOR_KEY):
        OnnxFaceDetector(tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="there is no face detector"):
        YuNetFaceDetector(tmp_path / "missing.onnx")


def test_a_users_own_file_is_loaded_by_its_path(tmp_path, detector):
    photo, _ = draw_scene(2, seed=36)
    copy = Path(shutil.copy(SHIPPED, tmp_path / "mine.onnx"))
    np.testing.assert_array_equal(
        load_detector(copy).detect(photo).boxes, detector.detect(photo).boxes
    )


def test_yunet_gives_face_boxes(tmp_path, monkeypatch):
    """Eyes 36.2 px apart and level: the box is 96 px wide with the eyes' middle at (48, 37)."""

    class Net:
        def setInputSize(self, size):
            self.size = size

        def detect(self, image):
            if not image.any():
                return 1, None
            assert self.size == (200, 150)
            assert tuple(image[0, 0]) == (30, 20, 10)  # blue first
            row = [90, 40, 30, 40, 81.9, 59.5, 118.1, 59.5, 100, 70, 88, 92, 112, 92, 0.8]
            return 1, np.array([row, [*row[:-1], 0.9]], np.float32)

    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *a: Net())
    detector = load_detector(tiny_onnx(tmp_path / "yunet.onnx", ("cls_8", "kps_8")))
    assert isinstance(detector, YuNetFaceDetector)
    photo = np.empty((150, 200, 3), np.uint8)
    photo[:] = (10, 20, 30)
    found = detector.detect(photo)
    boxes, scores = found.boxes, found.scores
    np.testing.assert_allclose(boxes, [[52.5, 23, 148.5, 119]] * 2, atol=1e-3)
    np.testing.assert_allclose(scores, [0.9, 0.8])
    assert detector.detect(np.zeros((150, 200), np.uint8)).boxes.shape == (0, 4)


def test_a_file_that_opencv_cannot_read_is_no_yunet(tmp_path):
    with pytest.raises(ModelError, match="OpenCV cannot read"):
        load_detector(tiny_onnx(tmp_path / "broken.onnx", ("kps_8",)))
