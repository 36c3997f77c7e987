"""Reports: every number with its count, as arrays and as JSON."""

import json
import math

import numpy as np
import pytest

from facial_keypoints.evaluation import metrics
from facial_keypoints.evaluation.scores import (
    CED_THRESHOLDS,
    ComparisonResult,
    RecipeResult,
    evaluate_predictions,
)

OFFSET = np.float32([3.0, 4.0])


def predicted_for(faces, *, shift=OFFSET):
    return np.nan_to_num(faces.keypoints.xy, nan=-5.0) + shift


def recipe(name, faces, shift):
    xy = predicted_for(faces, shift=np.float32(shift))
    return RecipeResult(name, f"about {name}", evaluate_predictions(faces, xy), xy)


def test_a_constant_offset_gives_its_own_length_everywhere(faces):
    report = evaluate_predictions(faces, predicted_for(faces))
    for scores in (report.overall, *report.by_style.values()):
        assert scores.rmse_px == pytest.approx(math.sqrt(12.5))
        assert scores.rmse_interval == pytest.approx((math.sqrt(12.5), math.sqrt(12.5)))
        assert scores.mae_px == pytest.approx(3.5)
        assert scores.median_px == pytest.approx(5.0)
    eyes = metrics.norm_distances(faces.keypoints.xy, faces.schema.norm_indices)
    assert report.overall.nme == pytest.approx(np.nanmean(5 / eyes), rel=1e-5)
    assert report.overall.ced.shape == CED_THRESHOLDS.shape


def test_counts_stand_beside_every_style_and_keypoint(faces):
    report = evaluate_predictions(faces, predicted_for(faces))
    assert list(report.by_style) == ["kaggle-a", "kaggle-b"]
    a, b = report.by_style["kaggle-a"], report.by_style["kaggle-b"]
    assert (a.num_faces, a.num_labels) == (20, 20 * 15)
    assert (b.num_faces, b.num_labels) == (40, 40 * 4)
    assert report.overall.num_labels == a.num_labels + b.num_labels
    assert [k.num_labels for k in report.overall.keypoints] == faces.label_counts.tolist()
    brow = b.keypoints[faces.schema.index("left_eyebrow_inner_end")]
    assert brow.num_labels == 0
    assert math.isnan(brow.rmse_px)
    assert math.isnan(brow.rmse_interval.low)


def test_the_total_is_the_labels_weighted_mean_square_of_its_parts(faces):
    rng = np.random.default_rng(4)
    predicted = predicted_for(faces) + rng.normal(size=faces.keypoints.xy.shape)
    report = evaluate_predictions(faces, predicted)
    for parts in (list(report.by_style.values()), list(report.overall.keypoints)):
        total = sum(p.num_labels * p.rmse_px**2 for p in parts if p.num_labels)
        assert math.sqrt(total / report.overall.num_labels) == pytest.approx(report.overall.rmse_px)


def test_intervals_follow_the_groups_of_the_dataset(faces):
    rng = np.random.default_rng(4)
    scale = np.repeat(rng.gamma(2.0, 1.0, 6), 10)[:, None, None]  # ten rows err alike
    predicted = predicted_for(faces) + scale * rng.normal(size=faces.keypoints.xy.shape)
    by_row = evaluate_predictions(faces, predicted).overall
    grouped = faces.with_groups(np.repeat(np.arange(6), 10).astype(str))
    by_group = evaluate_predictions(grouped, predicted).overall
    assert (by_row.num_groups, by_group.num_groups) == (60, 6)
    width = [s.rmse_interval.high - s.rmse_interval.low for s in (by_row, by_group)]
    assert width[1] > 1.3 * width[0]


@pytest.mark.parametrize("count", [0, 3])
def test_faces_without_labels_give_nan_and_no_error(faces, count):
    bare = faces.subset(slice(0, count))
    bare = bare.with_keypoints(np.full_like(bare.keypoints.xy, np.nan))
    report = evaluate_predictions(bare, np.zeros(bare.keypoints.xy.shape))
    assert report.overall.num_faces == count
    assert report.overall.num_labels == 0
    assert math.isnan(report.overall.rmse_px)
    assert math.isnan(report.overall.auc)


def test_predictions_of_another_shape_are_refused(faces):
    with pytest.raises(ValueError, match=r"received \(60, 15, 2\) and \(59, 15, 2\)"):
        evaluate_predictions(faces, predicted_for(faces)[1:])


def test_a_report_is_plain_json_with_null_for_what_is_not_labelled(faces):
    report = evaluate_predictions(faces, predicted_for(faces), seed=3)
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["seed"] == 3
    assert data["overall"]["pck"] == {str(k): v for k, v in report.overall.pck.items()}
    assert tuple(data["overall"]["rmse_interval"]) == report.overall.rmse_interval
    assert data["by_style"]["kaggle-b"]["keypoints"][2]["rmse_px"] is None
    np.testing.assert_allclose(data["overall"]["ced"], report.overall.ced)


def test_recipes_are_ranked_by_rmse(faces):
    recipes = (recipe("far", faces, (3, 4)), recipe("near", faces, (1, 0)))
    comparison = ComparisonResult(faces, recipes)
    assert [r.name for r in comparison.ranking] == ["near", "far"]
    json.dumps(comparison.to_dict(), allow_nan=False)


def test_a_paired_difference_is_significant_where_two_intervals_overlap(faces):
    rng = np.random.default_rng(0)
    hard = rng.gamma(1.0, 3.0, (60, 1, 1)) * rng.normal(size=faces.keypoints.xy.shape)
    near = predicted_for(faces, shift=0) + hard
    far = predicted_for(faces, shift=0) + 1.1 * hard  # always a tenth worse
    recipes = [
        RecipeResult(n, "", evaluate_predictions(faces, p), p)
        for n, p in (("far", far), ("near", near))
    ]
    comparison = ComparisonResult(faces, tuple(recipes))
    first, second = comparison.ranking
    gap, interval = comparison.difference(first, second)
    assert gap == pytest.approx(0.1 * first.report.overall.rmse_px)
    assert 0 < interval.low < gap < interval.high
    assert second.report.overall.rmse_interval.low < first.report.overall.rmse_interval.high


@pytest.mark.parametrize("names", [(), ("cnn", "cnn")])
def test_a_comparison_needs_recipes_with_different_names(faces, names):
    with pytest.raises(ValueError, match="recipes must be one or more"):
        ComparisonResult(faces, tuple(recipe(n, faces, (0, 0)) for n in names))


def test_a_comparison_refuses_predictions_for_other_faces(faces):
    with pytest.raises(ValueError, match="recipe 'cnn': predicted_xy must have shape"):
        ComparisonResult(faces.subset(slice(0, 5)), (recipe("cnn", faces, (0, 0)),))
