"""Training the face detector: labels in, composed images, what each cell should answer, the file out."""

import csv
import json
import zipfile

import cv2
import numpy as np
import pytest

pytest.importorskip("keras")


from facial_keypoints.data.synthetic.scenes import draw_scene
from facial_keypoints.errors import DataError
from facial_keypoints.geometry import face_boxes
from facial_keypoints.inference.detector import Detections, load_detector
from facial_keypoints.models.face_detector import BASE_SIDE, STRIDES, DetectorConfig
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.training.detector import cell_targets
from references.face_detector.train import (
    FitConfig,
    LabelledPhoto,
    SceneComposer,
    drawn_crops,
    drawn_scenes,
    load_photos,
    measure_detector,
    split_photos,
    square_boxes,
    train_detector,
)

TINY = DetectorConfig(stem=(8, 8), channels=(8, 8, 8), blocks=(1, 1, 1), neck=8)
# A face 36.2 pixels between the eyes, level: a box of 96 pixels, eyes at (48, 37).
FACE = np.array([[81.9, 59.5], [118.1, 59.5], [100.0, 92.0]], np.float32)


def photo_of(points, certain=True, size=(150, 200), labelled=True):
    n = len(points)
    image = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    return LabelledPhoto(
        image,
        np.asarray(points, np.float32).reshape(-1, 3, 2),
        np.full(n, certain),
        np.full(n, labelled),
    )


def test_boxes_are_those_of_the_package():
    np.testing.assert_allclose(square_boxes(FACE[None]), [[52.5, 23, 148.5, 119]], atol=1e-3)
    _, faces = draw_scene(3, seed=1)
    eyes = [KAGGLE15.index(n) for n in ("right_eye_center", "left_eye_center")]
    mouth = [KAGGLE15.index(n) for n in ("mouth_left_corner", "mouth_right_corner")]
    three = np.concatenate(
        [faces.xy[:, eyes], faces.xy[:, mouth].mean(axis=1, keepdims=True)], axis=1
    )
    np.testing.assert_allclose(square_boxes(three), face_boxes(faces.xy, KAGGLE15), atol=1e-3)


def decode(target, side):
    """Boxes of the cells as the network's decoding would have them."""
    boxes, start = [], 0
    for stride in STRIDES:
        n = side // stride
        cells = target[start : start + n * n].reshape(n, n, 12)
        start += n * n
        for row, column in np.argwhere(cells[..., 2] > 0):
            _, _, _, dx, dy, log_side, *points = cells[row, column]
            x, y = (column + 0.5 + dx) * stride, (row + 0.5 + dy) * stride
            half = np.exp(log_side) * BASE_SIDE * stride / 2
            middle = np.array([column + 0.5, row + 0.5])
            xy = (np.reshape(points, (3, 2)) + middle) * stride - 0.5
            boxes.append(
                (stride, cells[row, column, 0], (x - half, y - half, x + half, y + half), xy)
            )
    return boxes


@pytest.mark.parametrize(
    ("scale", "strides"), [(0.2, {8}), (0.45, {8, 16}), (0.8, {16}), (0.95, {16, 32}), (1.5, {32})]
)
def test_cells_in_the_middle_of_a_face_answer_with_its_box_and_points(scale, strides):
    face = (FACE * scale)[None]
    cells = decode(cell_targets(square_boxes(face), np.array([True]), 320, face), 320)
    assert {stride for stride, *_ in cells} == strides
    assert max(score for _, score, *_ in cells) == 1.0
    for _, _, box, points in cells:
        np.testing.assert_allclose(box, square_boxes(face)[0], atol=1e-3)
        np.testing.assert_allclose(points, face[0], atol=1e-3)


def test_an_uncertain_face_is_neither_a_face_nor_background():
    target = cell_targets(square_boxes(FACE[None]), np.array([False]), 320)
    assert target[:, 0].max() == 0
    left_out = target[:1600, 1].reshape(40, 40)
    assert left_out[71 // 8, 100 // 8] == 0
    assert left_out[30, 30] == 1
    assert (target[:, 2] == 0).all()


def test_a_image_without_faces_is_all_background():
    target = cell_targets(np.zeros((0, 4), np.float32), np.zeros(0, bool), 64)
    assert target.shape == (64 + 16 + 4, 6)
    assert (target[:, 1] == 1).all()
    assert (target[:, [0, 2]] == 0).all()


def test_composed_faces_lie_on_the_faces():
    """Faces are bright spots at the eyes and the mouth on black: the points must be on them."""
    image = np.zeros((150, 200), np.uint8)
    for x, y in FACE:
        cv2.circle(image, (round(float(x)), round(float(y))), 5, 255, -1)
    yes = np.array([True])
    composer = SceneComposer([LabelledPhoto(image, FACE[None], yes, yes)], [], 160)
    rng, on = np.random.default_rng(5), []
    for _ in range(60):
        image, points, certain = composer.compose(rng)
        assert image.shape == (160, 160)
        assert image.dtype == np.uint8
        right, left = points[certain][:, 0, 0], points[certain][:, 1, 0]
        assert (right < left).all()  # in mirrored images too
        boxes = square_boxes(points)
        for face, box in zip(points[certain], boxes[certain].round().astype(int), strict=True):
            x0, y0, x1, y1 = np.clip(box, 0, 160)
            if box[2] - box[0] < 60:
                continue
            around = np.median(image[y0:y1, x0:x1])
            spots = [(round(float(x)), round(float(y))) for x, y in face]
            on += [image[y, x] > around for x, y in spots if 0 <= x < 160 and 0 <= y < 160]
    assert len(on) > 90
    assert np.mean(on) > 0.93  # things in front hide a few


def test_the_same_seed_composes_the_same_image():
    composer = SceneComposer(drawn_scenes(4), [drawn_crops(4)], 128)
    a, b = (composer.compose(np.random.default_rng(3)) for _ in range(2))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def write_photos(folder, scenes):
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "train.zip", "w") as archive, (folder / "train_faces.csv").open("w", newline="") as handle:  # fmt: skip
        names = [f"{p}_{a}" for p in ("right_eye_center", "left_eye_center", "nose", "mouth_center") for a in "xy"]  # fmt: skip
        table = csv.writer(handle)
        table.writerow(["file", *names])
        for i, scene in enumerate(scenes):
            archive.writestr(f"p{i}.png", cv2.imencode(".png", scene.image)[1].tobytes())
            for right, left, mouth in scene.points:
                table.writerow([f"p{i}.png", *right, *left, 0, 0, *mouth])


def test_photos_are_read_with_what_another_detector_found(tmp_path):
    write_photos(tmp_path / "photos", [photo_of(FACE[None]), photo_of(np.zeros((0, 3, 2)))])
    extra = tmp_path / "extra.csv"
    extra.write_text(
        "file,right_eye_x,right_eye_y,left_eye_x,left_eye_y,mouth_x,mouth_y,score\n"
        "p0.png,1,2,3,4,5,6,0.99\np1.png,1,2,3,4,5,6,0.7\n"
    )
    first, second = load_photos(tmp_path / "photos", extra)
    np.testing.assert_allclose(first.points[0], FACE)
    assert first.certain.tolist() == [True, True]
    assert first.labelled.tolist() == [True, False]
    assert (second.certain.tolist(), second.name) == ([False], "p1.png")
    with pytest.raises(DataError, match=r"there is no .*train_faces\.csv"):
        load_photos(tmp_path)


def test_copies_of_a_photo_stay_on_one_side():
    scenes = drawn_scenes(12)
    train, held = split_photos([*scenes, *scenes], share=0.3)
    assert train
    assert held
    assert not {p.image.tobytes() for p in train} & {p.image.tobytes() for p in held}
    assert len(train) + len(held) == 24


def test_a_detector_is_measured_by_faces_found_and_boxes_on_none():
    class Detector:
        def detect(self, image, effort):
            boxes = [[52.5, 23, 148.5, 119], [0, 0, 20, 20], [60, 30, 150, 120]]
            scores = np.array([0.9, 0.4, 0.3], np.float32)
            return Detections(np.array(boxes, np.float32), scores)

    photo = photo_of([FACE, FACE + 500])
    found, false = measure_detector(Detector(), [photo])
    np.testing.assert_allclose(found, [0.9, 0], atol=1e-6)
    np.testing.assert_allclose(false, [0.4], atol=1e-6)


@pytest.mark.slow
def test_a_short_training_leaves_a_file_that_loads(tmp_path):
    scenes = drawn_scenes(12)
    config = FitConfig(minutes=5.0, steps=6, batch=2, side=96, network=TINY, longest_side=96)
    file = train_detector(scenes, [drawn_crops(4)], scenes[:4], tmp_path, config)
    found = load_detector(file, threads=1).detect(np.zeros((70, 90, 3), np.uint8))
    assert found.boxes.shape == (len(found.scores), 4)
    entry = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert entry["step"] == 6
    assert np.isfinite(entry["loss"])
