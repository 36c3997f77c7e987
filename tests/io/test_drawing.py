"""Drawing on images: what is drawn where, and what is left alone."""

from dataclasses import replace

import numpy as np
import pytest

from facial_keypoints.io.drawing import (
    POINT_COLOR,
    confidence_color,
    draw_boxes,
    draw_keypoints,
    draw_prediction,
)
from facial_keypoints.schemas import FIVE, IBUG68
from facial_keypoints.types import Keypoints, Prediction

XY = np.array([[[70, 30], [30, 30], [50, 50], [65, 70], [np.nan, np.nan]]], np.float32)


def flat(value, shape=(100, 120)):
    return np.full(shape, value, np.uint8)


@pytest.mark.parametrize("shape", [(100, 120), (100, 120, 1), (100, 120, 3)])
def test_a_copy_in_rgb_comes_back_and_the_image_stays(shape):
    image = flat(90, shape)
    drawn = draw_keypoints(image, Keypoints(XY, FIVE))
    assert drawn.shape == (100, 120, 3)
    assert (image == 90).all()
    assert (drawn != 90).any()


@pytest.mark.parametrize("background", [0, 128, 255])
def test_points_are_light_with_a_dark_rim_on_any_background(background):
    drawn = draw_keypoints(flat(background), Keypoints(XY, FIVE)).astype(int)
    for x, y in XY[0, :4].astype(int):
        assert tuple(drawn[y, x]) == POINT_COLOR
        around = drawn[y - 4 : y + 5, x - 4 : x + 5].sum(axis=2)
        assert around.min() <= 200  # rim
    assert (drawn[80:] == background).all()  # the point without label is nowhere


def test_points_sit_on_fractions_of_a_pixel():
    def centre(x):
        xy = XY.copy()
        xy[0, :, :] = np.nan
        xy[0, 0] = (x, 40)
        moved = np.abs(draw_keypoints(flat(255), Keypoints(xy, FIVE)).astype(float) - 255).sum(2)
        return (moved.sum(axis=0) * np.arange(120)).sum() / moved.sum()

    assert centre(40.0) == pytest.approx(40.0, abs=0.05)
    assert centre(40.5) == pytest.approx(40.5, abs=0.1)


def test_marks_grow_with_the_face_and_stay_small_beside_the_image():
    def area(scale, size):
        drawn = draw_keypoints(flat(0, (size, size)), Keypoints(XY * scale, FIVE))
        return (drawn > 0).any(axis=2).sum()

    assert area(0.5, 1000) < area(5, 1000)
    assert area(5, 1000) < 0.02 * 1000**2


def test_many_points_do_not_cover_the_face() -> None:
    angle = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    circle = (400 + 320 * np.stack([np.cos(angle), np.sin(angle)], -1)).astype(np.float32)[None]
    drawn = draw_keypoints(flat(0, (800, 800)), Keypoints(circle, IBUG68))
    ring = draw_keypoints(flat(0, (800, 800)), Keypoints(circle[:, ::14], FIVE))
    assert (drawn > 0).sum() / 68 < 0.5 * (ring > 0).sum() / 5


def test_points_far_outside_and_no_faces_draw_nothing():
    far = Keypoints(np.full((1, 5, 2), 1e9, np.float32), FIVE)
    none = Keypoints(np.zeros((0, 5, 2), np.float32), FIVE)
    for keypoints in (far, none):
        assert (draw_keypoints(flat(7), keypoints) == 7).mean() > 0.9
    assert (draw_keypoints(flat(7), none, edges=True) == 7).all()


def test_confidence_colours_points_only_where_there_is_one():
    assert confidence_color(1.0) == POINT_COLOR
    assert confidence_color(0.0) != POINT_COLOR
    known = Keypoints(XY, FIVE, confidence=np.array([[1, 0, 1, 1, 0]], np.float32))
    drawn = draw_keypoints(flat(0), known)
    assert tuple(drawn[30, 70]) == POINT_COLOR
    assert tuple(drawn[30, 30]) == confidence_color(0.0)
    plain = draw_keypoints(flat(0), Keypoints(XY, FIVE))
    assert tuple(plain[30, 30]) == POINT_COLOR


def test_edges_join_labelled_points_only():
    joined = replace(FIVE, edges=((0, 1), (2, 4)))
    drawn = draw_keypoints(flat(50), Keypoints(XY, joined), edges=True)
    assert drawn[30, 50, 0] > 150  # half way between the eyes; a thin line is blended
    plain = draw_keypoints(flat(50), Keypoints(XY, FIVE), edges=True)
    assert (drawn[36:] == plain[36:]).all()  # the other edge ends at a point without label


def test_boxes_are_drawn_at_their_edges_and_nan_is_left_out():
    boxes = np.array([[20, 10, 90, 80], [np.nan] * 4], np.float32)
    drawn = draw_boxes(flat(0), boxes, labels=["0.97", "x"])
    assert drawn[10, 50].max() > 150
    assert drawn[45, 20].max() > 150
    assert (drawn[20:70, 30:80] == 0).all()


def test_labels_must_be_as_many_as_boxes():
    with pytest.raises(ValueError, match="labels must be 1"):
        draw_boxes(flat(0), np.zeros((1, 4)), labels=["a", "b"])


def prediction(scores, size=(100, 120)):
    return Prediction(
        Keypoints(XY, FIVE), np.array([[20, 10, 90, 80]], np.float32), np.float32(scores), size
    )


def test_a_prediction_draws_its_points_and_the_boxes_of_a_detector_only():
    with_box = draw_prediction(flat(0), prediction([0.9]))
    without = draw_prediction(flat(0), prediction([np.nan]))
    assert tuple(with_box[30, 70]) == tuple(without[30, 70]) == POINT_COLOR
    assert with_box[10, 50].max() > 150
    assert without[10, 50].max() == 0


def test_an_image_of_another_size_or_type_is_refused():
    with pytest.raises(ValueError, match="size"):
        draw_prediction(flat(0), prediction([0.9], size=(50, 50)))
    with pytest.raises(ValueError, match="uint8"):
        draw_keypoints(np.zeros((9, 9)), Keypoints(XY, FIVE))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(9, 9, 4\)"):
        draw_keypoints(flat(0, (9, 9, 4)), Keypoints(XY, FIVE))


def test_small_boxes_are_thin_and_carry_no_text() -> None:
    image = np.full((200, 200, 3), 128, np.uint8)
    small = draw_boxes(image, np.array([[80, 80, 110, 110]]), labels=["0.90"])
    large = draw_boxes(image, np.array([[80, 80, 150, 150]]), labels=["0.90"])
    assert (small[:76] == image[:76]).all()  # nothing above the box
    assert (large[:76] != image[:76]).any()
    assert (small[95] != image[95]).any(axis=1).sum() <= 6
