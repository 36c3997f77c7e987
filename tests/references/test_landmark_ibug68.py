import csv
import gzip
import zipfile

import cv2
import numpy as np
import pytest

from facial_keypoints.geometry import FACE_LENGTH, face_crop
from facial_keypoints.models.keras_backend import choose_backend
from facial_keypoints.models.runtime import load_runtime, read_training_digests
from facial_keypoints.schemas import FIVE, IBUG68, KAGGLE15

choose_backend()
from references.collection import CANVAS
from references.landmark.ibug68 import label_more, read_faces, train_ibug68
from references.points68 import CROP_SCALE, SIZE, view_matrix

EYES_PX = CANVAS / 4.2


@pytest.fixture
def data(tmp_path):
    """Crops of noise: two sets with 68 points, one without."""
    wild = tmp_path / "data" / "wild"
    wild.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with gzip.open(wild / "labels.csv.gz", "wt", newline="") as handle:
        out = csv.writer(handle)
        out.writerow(["set", "file", "group", *KAGGLE15.coordinate_names, *IBUG68.coordinate_names])
        for name in ("ytf", "helen_afw", "mtfl"):
            with zipfile.ZipFile(wild / f"{name}.zip", "w") as archive:
                for i in range(20):
                    image = rng.integers(0, 255, (CANVAS, CANVAS), dtype=np.uint8)
                    archive.writestr(f"{i}.png", cv2.imencode(".png", image)[1].tobytes())
                    points = rng.uniform(50, 110, 136) if name != "mtfl" else [""] * 136
                    out.writerow([name, f"{i}.png", f"person {i}", *[80] * 30, *points])
    return wild.parent


def test_a_view_shows_the_face_as_the_finished_model_will_see_it():
    middle, row = (CANVAS - 1) / 2, 60.0
    mouth = row + EYES_PX * FACE_LENGTH
    left, right = middle + EYES_PX / 2, middle - EYES_PX / 2
    face = np.array([(left, row), (right, row), (middle, 80), (left, mouth), (right, mouth)])
    wanted = face_crop(face, FIVE, (SIZE, SIZE), scale=CROP_SCALE)
    np.testing.assert_allclose(view_matrix(), wanted.matrix, atol=1e-6)
    mirrored = face @ view_matrix(flip=True)[:, :2].T + view_matrix(flip=True)[:, 2]
    np.testing.assert_allclose(mirrored[:2], wanted.apply(face)[1::-1], atol=1e-6)


def test_whole_groups_with_68_points_are_held_out(data):
    faces, held = read_faces(data, 1)
    assert len(faces) + len(held) == 40  # none of mtfl
    assert len(held) > 0
    assert not set(faces.groups) & set(held.groups)


@pytest.mark.slow
def test_faces_that_a_model_labels_get_points_as_they_are_and_mirrored(data):
    class Middle:
        """Answers with the middle of its input, and ``right`` further right in mirrored faces."""

        output_shape = (None, 2, 68, 3)

        def __init__(self, right):
            self.right = right

        def predict(self, views, **_):
            out = np.full((len(views), 2, 68, 3), (SIZE - 1) / 2)
            out[:, 1, :, 0] += self.right
            return out

    more, before = label_more(Middle(0.0), data, 1)
    _, held = read_faces(data, 1)
    assert len(more) == 20 - len(held) / 2  # of mtfl, without the held-out persons
    assert more.sample_ids[0].startswith("mtfl/")
    np.testing.assert_array_equal(more.keypoints.xy, before[:, 0])
    _, after = label_more(Middle(1.0), data, 1)
    moved = (after - before) * view_matrix()[0, 0]
    np.testing.assert_allclose(moved[:, 0], 0.0)
    np.testing.assert_allclose(moved[:, 1, :, 0], -1.0, atol=0.02)  # right is left, mirrored back
    np.testing.assert_allclose(moved[:, 1, :, 1], 0.0, atol=0.02)


def test_faces_that_contradict_their_labels_are_not_learnt(data):
    class Noise:
        output_shape = (None, 2, 68, 3)

        def predict(self, views, **_):
            return np.random.default_rng(0).uniform(0, SIZE, (len(views), 2, 68, 3))

    more, _ = label_more(Noise(), data, 1)
    assert len(more) == 0


def test_a_training_leaves_a_model_and_goes_on(data, tmp_path):
    run, lines = tmp_path / "run", []
    spec = train_ibug68(data, run, steps=2, batch_size=4, threads=1)
    train_ibug68(data, run, steps=3, batch_size=4, threads=1, resume=True, report=lines.append)
    assert [line.split()[:2] for line in lines[1:]] == [["step", "3"]] * 2
    assert len(read_training_digests(run / "model.onnx")) == 60
    model = load_runtime(run / "model.onnx")
    assert model.spec == spec
    assert model.spec.crop_scale == CROP_SCALE
    xy, confidence = model.run(np.zeros((1, SIZE, SIZE, 1), np.uint8))
    assert xy.shape == (1, 1, 68, 2)
    assert confidence is not None
