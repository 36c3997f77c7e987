from __future__ import annotations

import math

import numpy as np
import pytest

from facial_keypoints.models.codec import confidence_within, decode, encode


def test_targets_are_the_studys() -> None:
    targets = encode(np.array([[48.0, 96.0], [0.0, 72.0]]), (96, 96))
    assert targets.tolist() == [[0.0, 1.0], [-1.0, 0.5]]
    assert decode(targets, (96, 96)).tolist() == [[48, 96], [0, 72]]


def test_targets_use_width_for_x_and_height_for_y() -> None:
    assert encode(np.array([[32.0, 40.0]]), (80, 64)).tolist() == [[0.0, 0.0]]
    assert np.isnan(encode(np.array([[np.nan, np.nan]]), (80, 64))).all()


def test_encoding_and_decoding_give_the_points_back() -> None:
    xy = np.random.default_rng(0).uniform(-20, 120, (9, 15, 2)).astype(np.float32)
    np.testing.assert_allclose(decode(encode(xy, (80, 64)), (80, 64)), xy, atol=1e-4)


def test_confidence_is_the_share_of_errors_within_the_radius() -> None:
    rng = np.random.default_rng(0)
    scale, radius = 2.0, 3.0
    # In the plane the distance of the density exp(-d / b) / (2 pi b^2) is gamma distributed.
    distance = rng.gamma(2.0, scale, 200_000)
    expected = confidence_within(radius / scale)
    assert float((distance < radius).mean()) == pytest.approx(expected, abs=0.005)
    assert confidence_within(radius / scale, math.exp) == pytest.approx(expected)
    assert confidence_within(np.array([0.0, 1e3])).tolist() == [0.0, 1.0]
