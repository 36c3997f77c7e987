from __future__ import annotations

import numpy as np
import pytest

from facial_keypoints.crops import cut_crop, letterbox, resize_image, to_channels, warp_image
from facial_keypoints.geometry import box_to_crop
from facial_keypoints.types import CropTransform


@pytest.mark.parametrize("size", [(96, 96), (48, 48), (480, 480), (10, 10)])
def test_a_square_image_fills_a_square_input(size: tuple[int, int]) -> None:
    image = np.full((*size, 1), 77, np.uint8)
    fitted, transform = letterbox(image, (96, 96), 1)
    assert fitted.shape == (96, 96, 1)
    assert (fitted == 77).all()
    scale = 96 / size[0]
    # Half a pixel outside the first pixel's centre is the edge, in both.
    np.testing.assert_allclose(transform.apply(np.array([[-0.5, -0.5]])), [[-0.5, -0.5]], atol=1e-9)
    np.testing.assert_allclose(
        transform.apply(np.array([[9.0, 0.0]])), [[9.5 * scale - 0.5, 0.5 * scale - 0.5]]
    )


def test_a_wide_image_keeps_its_shape_and_its_edges_are_repeated() -> None:
    image = np.zeros((50, 100, 1), np.uint8)
    image[0], image[-1] = 30, 60
    fitted, transform = letterbox(image, (32, 32), 1)
    assert (fitted[:8] == fitted[8]).all()
    assert (fitted[24:] == fitted[23]).all()
    assert fitted[0, 0, 0] > 5
    corners = transform.apply(np.array([[-0.5, -0.5], [99.5, 49.5]]))
    np.testing.assert_allclose(corners, [[-0.5, 7.5], [31.5, 23.5]])


@pytest.mark.parametrize("size", [(40, 30), (200, 90), (60, 120), (64, 64), (31, 31)])
@pytest.mark.parametrize("input_size", [(32, 32), (40, 30)])
def test_the_transform_says_where_a_spot_went(
    size: tuple[int, int], input_size: tuple[int, int]
) -> None:
    height, width = size
    place = np.array([width * 0.7, height * 0.3])
    y, x = np.mgrid[:height, :width]
    sigma = max(2.0, max(size) / 32)
    image = (250 * np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / (2 * sigma**2))).astype(
        np.uint8
    )
    fitted, transform = letterbox(image, input_size, 1)
    weight = fitted[..., 0].astype(float) ** 2
    rows, columns = np.mgrid[: input_size[0], : input_size[1]]
    found = [(columns * weight).sum() / weight.sum(), (rows * weight).sum() / weight.sum()]
    np.testing.assert_allclose(transform.apply(place[None])[0], found, atol=0.15)


@pytest.mark.parametrize(("shape", "channels"), [((9, 9), 3), ((9, 9, 3), 1), ((9, 9, 1), 3)])
def test_channels_become_what_the_model_takes(shape: tuple[int, ...], channels: int) -> None:
    fitted, _ = letterbox(np.full(shape, 90, np.uint8), (12, 10), channels)
    assert fitted.shape == (12, 10, channels)
    assert (fitted == 90).all()


def test_thin_images_do_not_vanish() -> None:
    assert letterbox(np.full((1, 5000), 9, np.uint8), (32, 32), 1)[0].shape == (32, 32, 1)
    assert letterbox(np.full((40_000, 8), 9, np.uint8), (32, 32), 1)[0].shape == (32, 32, 1)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4)),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_arrays_that_are_no_image_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="image must"):
        letterbox(array, (32, 32), 1)


def test_an_image_of_the_wanted_size_and_channels_is_not_copied() -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    assert resize_image(image, (4, 5)) is image
    assert to_channels(image, 3) is image


def test_shrinking_averages_over_areas() -> None:
    stripes = np.tile(np.array([0, 200], np.uint8), (8, 4))[..., np.newaxis]
    assert (resize_image(stripes, (4, 4)) == 100).all()
    # Half as high, but as wide as before: still an average.
    assert (resize_image(stripes.transpose(1, 0, 2), (4, 8)) == 100).all()


def test_grey_and_colour_become_each_other() -> None:
    grey = np.array([[[10], [200]]], np.uint8)
    assert to_channels(grey, 3).tolist() == [[[10] * 3, [200] * 3]]
    assert to_channels(to_channels(grey, 3), 1).tolist() == grey.tolist()


def test_a_warp_shifts_pixels_and_repeats_the_edge_or_leaves_it_black() -> None:
    image = np.arange(1, 13, dtype=np.uint8).reshape(3, 4, 1)
    crop = CropTransform(np.array([[1, 0, 2], [0, 1, 0]]), (2, 4))
    assert warp_image(image, crop)[..., 0].tolist() == [[1, 1, 1, 2], [5, 5, 5, 6]]
    assert warp_image(image, crop, border=0)[..., 0].tolist() == [[0, 0, 1, 2], [0, 0, 5, 6]]


def test_a_crop_of_a_part_is_that_part_and_a_large_one_is_averaged() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    crop = box_to_crop(np.array([10, 20, 26, 36]), (16, 16))
    np.testing.assert_array_equal(cut_crop(image, crop, 3), image[20:36, 10:26])
    whole = box_to_crop(np.array([0, 0, 400, 400]), (10, 10))
    noise = rng.integers(0, 256, (400, 400), dtype=np.uint8)
    assert np.ptp(cut_crop(noise, whole, 1)) < 30
