import numpy as np
import pytest

from facial_keypoints.models.keras_backend import choose_backend
from facial_keypoints.schemas import KAGGLE15

choose_backend()
from keras import ops

from facial_keypoints.training.augment import (
    AugmentConfig,
    Augmenter,
    affine_matrix,
    apply_affine,
    warp,
)


def numpy(value):
    return ops.convert_to_numpy(value)


def f32(*values):
    return np.array(values, "float32")


def test_no_move_shows_the_middle_of_the_source():
    source = np.arange(48 * 48).reshape(1, 48, 48) % 251
    matrix = affine_matrix(f32(0), f32(1), f32(0), f32([23.5, 23.5]), 32)
    np.testing.assert_allclose(numpy(warp(source.astype("uint8"), matrix, 32)), source[:, 8:40, 8:40], atol=1e-3)  # fmt: skip


def test_mirrored_view_is_the_mirror_image_and_swaps_partners():
    rng = np.random.default_rng(0)
    source = rng.integers(0, 255, (1, 48, 48)).astype("uint8")
    xy = rng.uniform(10, 38, (1, 1, 15, 2)).astype("float32")
    plain = affine_matrix(f32(0), f32(1), f32(0), f32([23.5, 23.5]), 32)
    mirror = affine_matrix(f32(0), f32(1), f32(1), f32([23.5, 23.5]), 32)
    np.testing.assert_allclose(numpy(warp(source, mirror, 32)), numpy(warp(source, plain, 32))[:, :, ::-1], atol=1e-3)  # fmt: skip
    before = numpy(apply_affine(xy, plain, f32(0), KAGGLE15.swap))
    after = numpy(apply_affine(xy, mirror, f32(1), KAGGLE15.swap))
    np.testing.assert_allclose(after[..., 0], 31 - before[:, :, list(KAGGLE15.swap), 0], atol=1e-3)
    np.testing.assert_allclose(after[..., 1], before[:, :, list(KAGGLE15.swap), 1], atol=1e-3)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_points_stay_on_their_pixels_under_any_move(flip):
    # A bright dot at a known place must be where the moved point says.
    source = np.zeros((1, 64, 64), "float32")
    source[0, 30, 36] = 255.0
    matrix = affine_matrix(f32(0.4), f32(1.3), f32(flip), f32([33.0, 31.0]), 32)
    view = numpy(warp(source, matrix, 32))[0]
    xy = np.full((1, 1, 15, 2), [36.0, 30.0], "float32")
    x, y = numpy(apply_affine(xy, matrix, f32(flip), KAGGLE15.swap))[0, 0, 0]
    mass = view / view.sum()
    assert (mass * np.arange(32)).sum() == pytest.approx(x, abs=0.2)
    assert (mass.T * np.arange(32)).sum() == pytest.approx(y, abs=0.2)


def test_views_are_seeded_finite_and_within_the_range_of_grey():
    images = np.random.default_rng(0).uniform(0, 255, (6, 32, 32)).astype("float32")
    every = AugmentConfig(light=1, blur=1, low_resolution=1, noise=1, jpeg=1, occlusion=1)
    views = [numpy(Augmenter(every, 32, KAGGLE15.swap, 3).appearance(images)) for _ in range(2)]
    np.testing.assert_array_equal(views[0], views[1])
    assert np.isfinite(views[0]).all()
    assert views[0].min() >= 0
    assert views[0].max() <= 255
    assert np.abs(views[0] - images).mean() > 5


def test_nothing_changes_when_every_chance_is_zero():
    images = np.random.default_rng(0).uniform(0, 255, (3, 32, 32)).astype("float32")
    never = AugmentConfig(light=0, blur=0, low_resolution=0, noise=0, jpeg=0, occlusion=0)
    np.testing.assert_allclose(
        numpy(Augmenter(never, 32, KAGGLE15.swap, 0).appearance(images)), images, atol=1e-3
    )


def test_fixed_framing_stays_near_its_centre():
    config = AugmentConfig(gentle=1.0, gentle_shift=2.0, gentle_angle=0.0, gentle_scale=1.0)
    centre, none = np.full((64, 2), 40.0, "float32"), np.zeros((64, 2), "float32")
    matrix, _ = Augmenter(config, 32, KAGGLE15.swap, 0).geometry(centre, none, np.ones(64, "float32"))  # fmt: skip
    middle = numpy(matrix) @ np.array([15.5, 15.5, 1.0])
    assert np.abs(middle - 40.0).max() <= 2.0 + 1e-3


def test_a_size_that_jpeg_blocks_do_not_fill_is_refused():
    with pytest.raises(ValueError, match="multiple of 8"):
        Augmenter(AugmentConfig(), 30, KAGGLE15.swap, 0)
