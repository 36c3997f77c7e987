from __future__ import annotations

import cv2
import numpy as np
import pytest

from facial_keypoints.geometry import (
    box_to_crop,
    centres_to_edges,
    edges_to_centres,
    face_angles,
    face_boxes,
    face_crop,
    face_sizes,
    fit_similarity,
    flip_images,
    flip_xy,
    has_face_box,
    inside_image,
    iou,
    nms,
    resize_transform,
    resize_xy,
    rotation,
)
from facial_keypoints.schemas import FIVE, IBUG68, KAGGLE15, select_keypoints
from facial_keypoints.types import KeypointSchema


def test_resizing_maps_pixel_centres_with_the_half_pixel() -> None:
    halved = resize_transform((8, 4), (4, 2))
    np.testing.assert_allclose(halved.apply(np.array([[0.5, 0.5], [2.5, 6.5]])), [[0, 0], [1, 3]])


def test_resizing_points_agrees_with_opencv_resizing_pixels() -> None:
    image = np.zeros((60, 40), np.float32)
    image[30, 20] = 1.0
    larger = cv2.resize(image, (120, 180), interpolation=cv2.INTER_LINEAR)
    ys, xs = np.nonzero(larger > 0)
    weights = larger[ys, xs]
    centre = [np.average(xs, weights=weights), np.average(ys, weights=weights)]
    expected = resize_transform((60, 40), (180, 120)).apply(np.array([20.0, 30.0]))
    np.testing.assert_allclose(expected, centre, atol=1e-5)


def test_a_box_fills_the_input() -> None:
    crop = box_to_crop(np.array([10.0, 20.0, 58.0, 68.0]), (96, 96))
    # Edges of the box are edges of the input: half a pixel outside the first and last centre.
    np.testing.assert_allclose(crop.apply(np.array([[9.5, 19.5]])), [[-0.5, -0.5]])
    np.testing.assert_allclose(crop.apply(np.array([[57.5, 67.5]])), [[95.5, 95.5]])


def test_a_box_without_area_is_refused() -> None:
    with pytest.raises(ValueError, match="x0 < x1"):
        box_to_crop(np.array([5.0, 5.0, 5.0, 5.0]), (96, 96))


def test_a_flip_mirrors_x_and_swaps_partners() -> None:
    xy = np.array([[[20, 5], [10, 6], [15, 10], [18, 20], [12, 21]]], np.float32)
    flipped = flip_xy(xy, 32, FIVE)
    assert flipped[0].tolist() == [[21, 6], [11, 5], [16, 10], [19, 21], [13, 20]]


def test_a_flip_moves_nan_to_the_partner() -> None:
    xy = np.zeros((1, 5, 2), np.float32)
    xy[0, 0] = np.nan
    assert np.isnan(flip_xy(xy, 32, FIVE)[0, :, 0]).tolist() == [False, True, False, False, False]


def test_flipping_twice_is_the_identity() -> None:
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 31, (4, 15, 2)).astype(np.float32)
    images = rng.integers(0, 255, (4, 40, 32, 1), dtype=np.uint8)
    np.testing.assert_allclose(flip_xy(flip_xy(xy, 32, KAGGLE15), 32, KAGGLE15), xy, atol=1e-5)
    np.testing.assert_array_equal(flip_images(flip_images(images)), images)


def test_the_image_ends_half_a_pixel_beyond_the_last_centre() -> None:
    points = np.array([[-0.5, 0], [-0.6, 0], [31.5, 0], [31.6, 0], [0, 39.5], [np.nan, np.nan]])
    assert inside_image(points, (40, 32)).tolist() == [True, False, True, False, True, False]


def test_the_half_pixel_between_centres_and_edges() -> None:
    points = np.array([[0.0, -0.5], [np.nan, np.nan]])
    assert centres_to_edges(points)[0].tolist() == [0.5, 0.0]
    np.testing.assert_array_equal(edges_to_centres(centres_to_edges(points)), points)
    same = resize_transform((8, 4), (24, 12)).apply(points)
    np.testing.assert_allclose(resize_xy(points, 3.0), same)


def test_a_rotation_turns_clockwise_as_an_image_is_seen() -> None:
    np.testing.assert_allclose(rotation(np.pi / 2, 2.0) @ [1.0, 0.0], [0.0, 2.0], atol=1e-12)


def test_iou_of_two_boxes() -> None:
    a = np.array([[0, 0, 10, 10]], np.float32)
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 0, 30, 10], [3, 3, 3, 3]], np.float32)
    np.testing.assert_allclose(iou(a, b), [[1, 1 / 3, 0, 0]])
    assert iou(b[3:], b[3:]).tolist() == [[0.0]]  # no area, no division by zero
    assert iou(a[:0], b).shape == (0, 4)


def test_of_two_boxes_on_one_face_the_better_stays() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [5, 0, 15, 10]], np.float32)
    scores = np.array([0.5, 0.9, 0.7, 0.3], np.float32)
    # IoU with the second: 9/11 and 6/14.
    assert nms(boxes, scores, 0.5).tolist() == [1, 2, 3]
    assert nms(boxes, scores, 0.4).tolist() == [1, 2]
    assert nms(boxes[:0], scores[:0], 0.5).tolist() == []


def test_similarities_of_many_faces_at_once_pass_over_unknown_points() -> None:
    rng = np.random.default_rng(0)
    source, target = rng.normal(0, 9, (4, 6, 2)), rng.normal(0, 9, (6, 2))
    source[1, 2] = np.nan
    matrices = fit_similarity(source, target)
    known = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(matrices[1], fit_similarity(source[1, known], target[known]))
    np.testing.assert_allclose(matrices[2], fit_similarity(source[2], target))


@pytest.mark.parametrize("known", [0, 1, 5])
def test_fewer_than_two_places_have_a_similarity_without_scale(known: int) -> None:
    source = np.full((5, 2), np.nan)
    source[:known] = 7.0
    matrix = fit_similarity(source, np.arange(10.0).reshape(5, 2))
    assert (matrix[:, :2] == 0).all()
    assert np.isfinite(matrix).all()


# --- faces ----------------------------------------------------------------------------------------

# Eyes 36.2 apart and level, mouth corners straight below: a frontal face as Kaggle frames it.
FACE = np.full((15, 2), np.nan)
for name, place in {
    "left_eye_center": (65.6, 36.5),
    "right_eye_center": (29.4, 36.5),
    "mouth_left_corner": (60.0, 75.0),
    "mouth_right_corner": (35.0, 75.0),
}.items():
    FACE[KAGGLE15.index(name)] = place


def test_a_face_as_in_kaggles_images_fills_its_crop_exactly() -> None:
    assert face_sizes(FACE, KAGGLE15) == pytest.approx(36.2)
    np.testing.assert_allclose(face_boxes(FACE[None], KAGGLE15)[0], [0, 0, 96, 96], atol=1e-4)
    crop = face_crop(FACE, KAGGLE15, (96, 96))
    np.testing.assert_allclose(crop.matrix, [[1, 0, 0], [0, 1, 0]], atol=1e-9)


def test_the_box_and_the_unturned_crop_show_the_same_square() -> None:
    moved = FACE * 3.7 + (211.0, -40.0)
    by_box = box_to_crop(face_boxes(moved[None], KAGGLE15)[0], (96, 96))
    by_points = face_crop(moved, KAGGLE15, (96, 96), upright=False)
    np.testing.assert_allclose(by_box.matrix, by_points.matrix, atol=1e-4)


def test_a_wider_crop_keeps_the_top_edge_of_the_face_box() -> None:
    by_points = face_crop(FACE, KAGGLE15, (48, 48), scale=1.5)
    top = np.array([[47.5, -0.5], [47.5, 95.5]])  # of the face box, and its bottom
    np.testing.assert_allclose(by_points.apply(top), [[23.5, -0.5], [23.5, 31.5]], atol=1e-6)
    by_box = box_to_crop(face_boxes(FACE[None], KAGGLE15)[0], (48, 48), scale=1.5)
    np.testing.assert_allclose(by_box.matrix, by_points.matrix, atol=1e-4)


def test_the_68_points_have_a_face_box() -> None:
    xy = np.full((68, 2), np.nan)
    xy[42:48], xy[36:42], xy[54], xy[48] = (65.6, 36.5), (29.4, 36.5), (60.0, 75.0), (35.0, 75.0)
    assert has_face_box(IBUG68)
    assert not has_face_box(select_keypoints(IBUG68, ~np.isin(np.arange(68), [38, 43])))
    np.testing.assert_allclose(face_boxes(xy[None], IBUG68)[0], [0, 0, 96, 96], atol=1e-4)


@pytest.mark.parametrize("degrees", [-170, -40, 0, 25, 90])
def test_an_upright_crop_undoes_turn_and_scale(degrees: float) -> None:
    angle = np.deg2rad(degrees)
    turn = 2.5 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = FACE @ turn.T + (300, 200)
    known = ~np.isnan(FACE[:, 0])
    framed = face_crop(turned, KAGGLE15, (96, 96)).apply(turned)
    np.testing.assert_allclose(framed[known], FACE[known], atol=1e-6)


def test_a_turned_head_is_as_large_as_its_face_is_long() -> None:
    narrow = FACE.copy()
    narrow[KAGGLE15.index("left_eye_center")] = (50.0, 36.5)
    assert face_sizes(narrow, KAGGLE15) == pytest.approx(0.93 * np.hypot(39.7 - 47.5, 38.5))


def test_points_that_fell_together_do_not_blow_the_crop_up() -> None:
    together = np.full((15, 2), 50.0)
    crop = face_crop(together, KAGGLE15, (96, 96), smallest=9.05)
    assert crop.matrix[0, 0] == pytest.approx(4.0)


def test_unknown_points_give_no_box_and_no_crop() -> None:
    unknown = FACE.copy()
    unknown[KAGGLE15.index("left_eye_center")] = np.nan
    assert np.isnan(face_boxes(unknown[None], KAGGLE15)).all()
    with pytest.raises(ValueError, match="known eyes and mouth"):
        face_crop(unknown, KAGGLE15, (96, 96))


def test_no_faces_have_no_boxes() -> None:
    assert face_boxes(np.empty((0, 15, 2)), KAGGLE15).shape == (0, 4)


@pytest.mark.parametrize("angle", [-170.0, -90.0, -30.0, 0.0, 45.5, 90.0, 135.0, 179.0])
def test_the_angle_and_the_box_of_a_face_turn_with_it(angle: float) -> None:
    """The box keeps its sides along the image's, and is turned with the face by quarters."""
    face = np.zeros((15, 2))
    for name, at in (("left_eye_center", (18, -20)), ("right_eye_center", (-18, -20)), ("mouth_left_corner", (12, 18)), ("mouth_right_corner", (-12, 18))):  # fmt: skip
        face[KAGGLE15.index(name)] = at
    turned = face @ rotation(np.deg2rad(angle)).T
    assert face_angles(turned, KAGGLE15) == pytest.approx(angle)
    box, upright = face_boxes(np.stack([turned, face]), KAGGLE15)
    quarters = np.round(angle / 90)
    eyes = turned[:2].mean(axis=0)
    down = ((upright[:2] + upright[2:]) / 2 - 0.5 - face[:2].mean(axis=0))[1]
    r = np.deg2rad(90 * quarters)
    middle = eyes + 0.5 + down * np.array([-np.sin(r), np.cos(r)])
    np.testing.assert_allclose((box[:2] + box[2:]) / 2, middle, atol=1e-4)
    np.testing.assert_allclose(
        np.ptp(box.reshape(2, 2), axis=0), np.ptp(upright.reshape(2, 2), axis=0), rtol=1e-5
    )


def test_which_schemas_tell_a_face_box() -> None:
    assert has_face_box(KAGGLE15)
    assert has_face_box(FIVE)
    assert not has_face_box(KeypointSchema("one", ("nose",), (0,), ("nose", "nose")))
