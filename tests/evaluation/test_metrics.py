"""Metrics: literal numbers first, then laws."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from facial_keypoints.evaluation import metrics

NAN = math.nan

# Two faces, three points; points 0 and 1 are the norm pair, 10 px apart in face 0.
TRUTH = np.array(
    [
        [[20.0, 30.0], [10.0, 30.0], [15.0, 40.0]],
        [[21.0, 30.0], [NAN, NAN], [NAN, NAN]],
    ]
)
PREDICTED = np.array(
    [
        [[23.0, 34.0], [10.0, 30.0], [15.0, 41.0]],  # errors 5, 0, 1 px
        [[21.0, 32.0], [1.0, 1.0], [2.0, 2.0]],  # error 2 px; the rest is not labelled
    ]
)
PAIR = (0, 1)


def test_rmse_and_mae_run_over_labelled_coordinates():
    # 8 labelled coordinates: squares 9 + 16 + 0 + 0 + 0 + 1 + 0 + 4 = 30, absolutes 3 + 4 + 1 + 2
    assert metrics.rmse(TRUTH, PREDICTED) == pytest.approx(math.sqrt(30 / 8))
    assert metrics.mae(TRUTH, PREDICTED) == pytest.approx(10 / 8)


def test_rmse_per_keypoint_and_per_face():
    np.testing.assert_allclose(
        metrics.rmse_per_keypoint(TRUTH, PREDICTED), np.sqrt([29 / 4, 0, 1 / 2])
    )
    np.testing.assert_allclose(metrics.rmse_per_face(TRUTH, PREDICTED), np.sqrt([26 / 6, 4 / 2]))


def test_point_errors_are_euclidean_and_nan_where_unlabelled():
    np.testing.assert_allclose(
        metrics.point_errors(TRUTH, PREDICTED), [[5.0, 0.0, 1.0], [2.0, NAN, NAN]]
    )
    assert metrics.median_point_error(TRUTH, PREDICTED) == pytest.approx(1.5)


def test_nme_divides_by_the_norm_pair_and_counts_faces_without_it():
    value, num_faces, num_without_pair = metrics.nme(TRUTH, PREDICTED, PAIR)
    assert value == pytest.approx((5 + 0 + 1) / 3 / 10)
    assert (num_faces, num_without_pair) == (1, 1)


def test_a_norm_pair_on_one_spot_counts_as_missing():
    truth = np.zeros((1, 3, 2))
    assert metrics.nme(truth, truth + 1, PAIR)[1:] == (0, 1)


def test_pck_counts_labelled_points_within_the_relative_threshold():
    assert metrics.pck(TRUTH, PREDICTED, PAIR, 0.05) == pytest.approx(1 / 3)
    assert metrics.pck(TRUTH, PREDICTED, PAIR, 0.10) == pytest.approx(2 / 3)
    assert metrics.pck(TRUTH, PREDICTED, PAIR, 0.50) == 1.0


def test_ced_auc_and_failure_rate_on_four_faces():
    errors = np.array([0.0, 0.05, 0.10, 0.40, NAN])
    np.testing.assert_allclose(
        metrics.ced_curve(errors, np.array([0.0, 0.04, 0.05, 0.10, 1.0])),
        [0.25, 0.25, 0.5, 0.75, 1.0],
    )
    assert metrics.auc_at(errors, 0.10) == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert metrics.failure_rate(errors, 0.10) == pytest.approx(0.25)


def test_auc_equals_the_area_under_a_fine_ced_curve():
    errors = np.random.default_rng(3).gamma(2.0, 0.03, 500)
    grid = np.linspace(0, 0.10, 100_001)
    area = np.trapezoid(metrics.ced_curve(errors, grid), grid) / 0.10
    assert metrics.auc_at(errors, 0.10) == pytest.approx(area, abs=1e-4)


@pytest.mark.parametrize("num_faces", [0, 3])
def test_no_labels_give_nan_with_count_zero_and_no_warning(num_faces):
    truth = np.full((num_faces, 3, 2), NAN)
    predicted = np.zeros((num_faces, 3, 2))
    groups = np.arange(num_faces).astype(str)
    faces = metrics.face_nme(truth, predicted, PAIR)
    values = [
        metrics.rmse(truth, predicted),
        metrics.mae(truth, predicted),
        metrics.median_point_error(truth, predicted),
        metrics.pck(truth, predicted, PAIR),
        metrics.auc_at(faces),
        metrics.failure_rate(faces),
        *metrics.rmse_per_keypoint(truth, predicted),
        *metrics.ced_curve(faces, np.array([0.1])),
        *interval_of(truth, predicted, groups, draws=10),
    ]
    assert all(math.isnan(v) for v in values)
    value, used, without = metrics.nme(truth, predicted, PAIR)
    assert math.isnan(value)
    assert (used, without) == (0, 0)


@pytest.mark.parametrize("value", [NAN, math.inf])
def test_a_prediction_that_is_not_finite_at_a_label_is_refused(value):
    predicted = PREDICTED.copy()
    predicted[0, 2, 1] = value
    with pytest.raises(ValueError, match=r"predicted\[0, 2\] is not finite"):
        metrics.rmse(TRUTH, predicted)


@pytest.mark.parametrize("value", [NAN, math.inf])
def test_a_prediction_that_is_not_finite_without_a_label_does_not_matter(value):
    predicted = PREDICTED.copy()
    predicted[1, 2] = value
    assert metrics.rmse(TRUTH, predicted) == metrics.rmse(TRUTH, PREDICTED)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"received \(2, 3, 2\) and \(1, 3, 2\)"):
        metrics.rmse(TRUTH, PREDICTED[:1])


@settings(max_examples=50, deadline=None)
@given(
    arrays(np.float64, (4, 3, 2), elements=st.floats(-100, 100)),
    arrays(np.bool_, (4, 3)),
    st.floats(-50, 50),
)
def test_moving_an_unlabelled_point_changes_nothing_and_a_shift_of_both_neither(
    predicted, missing, shift
):
    truth = np.random.default_rng(0).uniform(0, 96, (4, 3, 2))
    truth[missing] = NAN
    moved = np.where(missing[..., np.newaxis], predicted + 7, predicted)
    before = metrics.rmse(truth, predicted)
    np.testing.assert_equal(metrics.rmse(truth, moved), before)
    np.testing.assert_allclose(metrics.rmse(truth + shift, predicted + shift), before, atol=1e-9)
    mae = metrics.mae(truth, predicted)
    assert math.isnan(mae) or mae <= before + 1e-9


def noisy(num_groups, rows_per_group, *, shared, seed=0):
    """Truth and predictions whose errors are shared within a group or drawn per row."""
    rng = np.random.default_rng(seed)
    n = num_groups * rows_per_group
    truth = rng.uniform(0, 96, (n, 3, 2))
    groups = np.repeat(np.arange(num_groups), rows_per_group).astype(str)
    scale = rng.gamma(2.0, 1.0, num_groups if shared else n)
    scale = np.repeat(scale, rows_per_group) if shared else scale
    return truth, truth + rng.normal(size=truth.shape) * scale[:, None, None], groups


def interval_of(truth, predicted, groups, **options):
    squared = metrics.squared_errors(truth, predicted)[:, np.newaxis]  # one column
    return metrics.percentile_interval(metrics.bootstrap_rmse(squared, groups, **options)[:, 0])


def test_interval_holds_the_estimate_and_is_the_same_for_the_same_seed():
    truth, predicted, groups = noisy(40, 2, shared=False)
    interval = interval_of(truth, predicted, groups, seed=5)
    assert interval.low < metrics.rmse(truth, predicted) < interval.high
    assert interval == interval_of(truth, predicted, groups, seed=5)
    assert interval != interval_of(truth, predicted, groups, seed=6)


def test_interval_has_the_width_of_the_normal_approximation():
    # 400 independent rows of constant-variance errors: the RMSE's standard error is known.
    rng = np.random.default_rng(1)
    truth = np.zeros((400, 3, 2))
    predicted = rng.normal(size=truth.shape)
    low, high = interval_of(truth, predicted, np.arange(400).astype(str))
    expected = 2 * 1.96 / math.sqrt(2 * 400 * 3 * 2)
    assert high - low == pytest.approx(expected, rel=0.15)


def test_errors_shared_within_a_group_widen_the_interval():
    truth, predicted, groups = noisy(20, 20, shared=True)
    by_group = interval_of(truth, predicted, groups)
    by_row = interval_of(truth, predicted, np.arange(len(truth)).astype(str))
    assert by_group.high - by_group.low > 2 * (by_row.high - by_row.low)


def test_resampled_groups_agree_with_resampling_rows_by_hand():
    truth, predicted, groups = noisy(5, 3, shared=False)
    truth[0, 1] = NAN
    squared = metrics.squared_errors(truth, predicted)
    drawn = metrics.bootstrap_rmse(squared, groups, seed=9, draws=20)
    picks = np.random.default_rng(9).integers(5, size=(20, 5))
    by_group = [np.flatnonzero(groups == str(g)) for g in range(5)]
    by_hand = [
        metrics.rmse_per_keypoint(truth[rows], predicted[rows])
        for rows in (np.concatenate([by_group[g] for g in pick]) for pick in picks)
    ]
    np.testing.assert_allclose(drawn, by_hand)


def test_draws_do_not_depend_on_how_they_are_blocked(monkeypatch):
    truth, predicted, groups = noisy(7, 2, shared=False)
    squared = metrics.squared_errors(truth, predicted)
    whole = metrics.bootstrap_rmse(squared, groups, draws=50)
    monkeypatch.setattr(metrics, "_BLOCK", 7 * 4)
    np.testing.assert_allclose(metrics.bootstrap_rmse(squared, groups, draws=50), whole)


def test_one_group_says_nothing_about_the_spread():
    truth, predicted, _ = noisy(1, 4, shared=False)
    assert all(math.isnan(v) for v in interval_of(truth, predicted, np.full(4, "one")))


def test_a_keypoint_labelled_in_one_group_only_has_no_interval_while_others_have():
    truth, predicted, groups = noisy(4, 2, shared=False)
    truth[2:, 1] = NAN
    drawn = metrics.bootstrap_rmse(metrics.squared_errors(truth, predicted), groups, draws=30)
    assert np.isnan(drawn[:, 1]).all()
    assert np.isfinite(drawn[:, [0, 2]]).all()


def test_columns_share_their_draws_so_that_differences_are_paired():
    truth, predicted, groups = noisy(10, 1, shared=False)
    squared = metrics.squared_errors(truth, predicted)[:, :1]
    drawn = metrics.bootstrap_rmse(np.concatenate([squared, 4 * squared], axis=1), groups)
    np.testing.assert_allclose(drawn[:, 1], 2 * drawn[:, 0])
