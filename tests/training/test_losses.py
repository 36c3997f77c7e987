import numpy as np
import pytest

from facial_keypoints.models.keras_backend import choose_backend

choose_backend()
from facial_keypoints.training.losses import (
    distance_px,
    laplace_nll,
    pseudo_huber,
    weighted_mean,
)


def test_distance_of_a_three_four_step_is_five():
    distance = distance_px(np.zeros((1, 1, 2), "float32"), np.array([[[3.0, 4.0]]], "float32"))
    assert float(distance[0, 0]) == pytest.approx(5.0, abs=1e-5)


def test_pseudo_huber_is_square_near_zero_and_linear_far_out():
    small, large = np.float32(0.01), np.float32(100.0)
    assert float(pseudo_huber(small, 1.0)) == pytest.approx(0.5 * 0.01**2, rel=1e-2)
    assert float(pseudo_huber(large + 1, 1.0) - pseudo_huber(large, 1.0)) == pytest.approx(
        1.0, rel=1e-3
    )


def test_laplace_nll_is_least_at_half_the_distance():
    scales = np.linspace(0.2, 5.0, 481)
    losses = laplace_nll(np.float32(3.0), np.log(scales).astype("float32"))
    assert scales[int(np.argmin(losses))] == pytest.approx(1.5, abs=0.02)


def test_weightless_values_do_not_count_and_no_weight_at_all_is_zero():
    values = np.array([2.0, 1e6], "float32")
    assert float(weighted_mean(values, np.array([1.0, 0.0], "float32"))) == pytest.approx(
        2.0, rel=1e-5
    )
    assert float(weighted_mean(values, np.zeros(2, "float32"))) == 0.0
