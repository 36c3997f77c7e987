from __future__ import annotations

import cv2
import numpy as np
import pytest

from facial_keypoints.geometry import (
    box_to_crop,
    flip_images,
    flip_xy,
    inside_image,
    pixels_to_signed,
    resize_transform,
    signed_to_pixels,
)
from facial_keypoints.schemas import FIVE, KAGGLE15


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


def test_a_margin_shrinks_the_box_about_its_centre() -> None:
    crop = box_to_crop(np.array([0.0, 0.0, 48.0, 48.0]), (96, 96), margin=0.5)
    np.testing.assert_allclose(crop.apply(np.array([[-24.5, -24.5]])), [[-0.5, -0.5]])


def test_the_roll_of_a_face_is_turned_upright() -> None:
    # Eyes on a line that falls to the right by 30 degrees become level.
    crop = box_to_crop(np.array([0.0, 0.0, 100.0, 100.0]), (96, 96), angle_deg=30)
    right, left = np.array([40.0, 40.0]), np.array([60.0, 40.0 + 20 * np.tan(np.deg2rad(30))])
    turned = crop.apply(np.array([right, left]))
    assert turned[0, 1] == pytest.approx(turned[1, 1])
    assert turned[0, 0] < turned[1, 0]


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


def test_targets_are_the_studys() -> None:
    signed = pixels_to_signed(np.array([[48.0, 96.0], [0.0, 72.0]]), (96, 96))
    assert signed.tolist() == [[0.0, 1.0], [-1.0, 0.5]]
    np.testing.assert_allclose(signed_to_pixels(signed, (96, 96)), [[48, 96], [0, 72]])


def test_targets_use_width_for_x_and_height_for_y() -> None:
    assert pixels_to_signed(np.array([[32.0, 40.0]]), (80, 64)).tolist() == [[0.0, 0.0]]
