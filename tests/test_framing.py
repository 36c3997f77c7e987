"""Face boxes and the crops that they stand for."""

import numpy as np
import pytest

from facial_keypoints.framing import can_frame, face_boxes, face_sizes, frame_face
from facial_keypoints.geometry import box_to_crop
from facial_keypoints.schemas import FIVE, KAGGLE15
from facial_keypoints.types import KeypointSchema

# Eyes 36.2 apart and level, mouth corners straight below: a frontal face as Kaggle frames it.
FACE = np.full((15, 2), np.nan)
for name, place in {
    "left_eye_center": (65.6, 36.5),
    "right_eye_center": (29.4, 36.5),
    "mouth_left_corner": (60.0, 75.0),
    "mouth_right_corner": (35.0, 75.0),
}.items():
    FACE[KAGGLE15.index(name)] = place


def test_a_face_framed_as_kaggle_does_fills_its_crop_exactly():
    assert face_sizes(FACE, KAGGLE15) == pytest.approx(36.2)
    np.testing.assert_allclose(face_boxes(FACE[None], KAGGLE15)[0], [0, 0, 96, 96], atol=1e-4)
    frame = frame_face(FACE, KAGGLE15, (96, 96))
    np.testing.assert_allclose(frame.matrix, [[1, 0, 0], [0, 1, 0]], atol=1e-9)


def test_the_box_and_the_unturned_frame_show_the_same_square():
    moved = FACE * 3.7 + (211.0, -40.0)
    by_box = box_to_crop(face_boxes(moved[None], KAGGLE15)[0], (96, 96))
    by_points = frame_face(moved, KAGGLE15, (96, 96), upright=False)
    np.testing.assert_allclose(by_box.matrix, by_points.matrix, atol=1e-4)


@pytest.mark.parametrize("degrees", [-170, -40, 0, 25, 90])
def test_an_upright_frame_undoes_turn_and_scale(degrees):
    angle = np.deg2rad(degrees)
    turn = 2.5 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = FACE @ turn.T + (300, 200)
    known = ~np.isnan(FACE[:, 0])
    framed = frame_face(turned, KAGGLE15, (96, 96)).apply(turned)
    np.testing.assert_allclose(framed[known], FACE[known], atol=1e-6)


def test_a_turned_head_is_as_large_as_its_face_is_long():
    narrow = FACE.copy()
    narrow[KAGGLE15.index("left_eye_center")] = (50.0, 36.5)
    assert face_sizes(narrow, KAGGLE15) == pytest.approx(0.93 * np.hypot(39.7 - 47.5, 38.5))


def test_points_that_fell_together_do_not_blow_the_crop_up():
    together = np.full((15, 2), 50.0)
    frame = frame_face(together, KAGGLE15, (96, 96), smallest=9.05)
    assert frame.matrix[0, 0] == pytest.approx(4.0)


def test_unknown_points_give_no_box_and_no_frame():
    unknown = FACE.copy()
    unknown[KAGGLE15.index("left_eye_center")] = np.nan
    assert np.isnan(face_boxes(unknown[None], KAGGLE15)).all()
    with pytest.raises(ValueError, match="known eyes and mouth"):
        frame_face(unknown, KAGGLE15, (96, 96))


def test_no_faces_have_no_boxes():
    assert face_boxes(np.empty((0, 15, 2)), KAGGLE15).shape == (0, 4)


def test_which_schemas_can_be_framed():
    assert can_frame(KAGGLE15)
    assert can_frame(FIVE)
    assert not can_frame(KeypointSchema("one", ("nose",), (0,), ("nose", "nose")))
