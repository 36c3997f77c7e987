"""Filling unlabelled keypoints."""

from __future__ import annotations

import numpy as np
import pytest

from facial_keypoints.data.missing import (
    MISSING_STRATEGIES,
    check_trainable,
    fill_missing,
    labelled_keypoints,
)
from facial_keypoints.errors import DataError
from facial_keypoints.schemas import FIVE
from facial_keypoints.types import FaceDataset, Keypoints

NAN = np.nan


def faces(xy: np.ndarray) -> FaceDataset:
    n = len(xy)
    return FaceDataset(
        images=np.zeros((n, 4, 6, 1), np.uint8),
        keypoints=Keypoints(np.asarray(xy, np.float32), FIVE),
        sample_ids=np.arange(n).astype(str),
        source="faces.csv",
    )


def column(values: list[float]) -> FaceDataset:
    """Keypoint 0 has these x and their negative as y; the others are always labelled."""
    xy = np.zeros((len(values), 5, 2))
    xy[:, 0, 0], xy[:, 0, 1] = values, -np.array(values)
    return faces(xy)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("interpolate", [2, 2, 4, 6, 8, 8]),
        ("ffill", [2, 2, 2, 2, 8, 8]),
        ("mean", [5, 2, 5, 5, 8, 5]),
    ],
)
def test_gaps_are_filled_along_the_column(strategy: str, expected: list[float]) -> None:
    filled = fill_missing(column([NAN, 2, NAN, NAN, 8, NAN]), strategy).keypoints.xy
    np.testing.assert_allclose(filled[:, 0, 0], expected)
    np.testing.assert_allclose(filled[:, 0, 1], np.negative(expected))


def test_drop_keeps_complete_rows_and_mask_keeps_everything() -> None:
    given = column([NAN, 2, NAN, 8])
    assert fill_missing(given, "drop").sample_ids.tolist() == ["1", "3"]
    assert fill_missing(given, "mask") is given


@pytest.mark.parametrize("strategy", MISSING_STRATEGIES)
def test_labels_that_are_there_and_the_input_never_change(strategy: str) -> None:
    xy = np.random.default_rng(0).uniform(0, 96, (30, 5, 2))
    xy[np.random.default_rng(1).random((30, 5)) < 0.4] = NAN
    given = faces(xy)
    before = given.keypoints.xy.copy()
    filled = fill_missing(given, strategy)
    rows = filled.sample_ids.astype(int)
    known = given.keypoints.labeled[rows]
    np.testing.assert_array_equal(filled.keypoints.xy[known], before[rows][known])
    np.testing.assert_array_equal(given.keypoints.xy, before)
    assert filled.keypoints.labeled.all() == (strategy != "mask")


@pytest.mark.parametrize("strategy", ["interpolate", "mean", "ffill"])
def test_a_keypoint_that_no_row_labels_stays_unlabelled(strategy: str) -> None:
    assert not fill_missing(column([NAN, NAN]), strategy).keypoints.labeled[:, 0].any()


def test_interpolation_and_forward_fill_equal_pandas() -> None:
    pd = pytest.importorskip("pandas")
    xy = np.random.default_rng(2).uniform(0, 96, (40, 5, 2)).astype(np.float32)
    xy[np.random.default_rng(3).random((40, 5)) < 0.7] = NAN
    frame = pd.DataFrame(xy.reshape(40, 10).astype(np.float64))
    for strategy, expected in (
        ("interpolate", frame.interpolate(limit_direction="both")),
        ("ffill", frame.ffill().bfill()),
        ("mean", frame.fillna(frame.mean())),
    ):
        filled = fill_missing(faces(xy), strategy).keypoints.xy.reshape(40, 10)
        np.testing.assert_allclose(filled, expected.to_numpy(), rtol=1e-5)


def test_unknown_strategies_and_empty_results_are_refused() -> None:
    with pytest.raises(ValueError, match="one of interpolate, drop, mean, ffill, mask"):
        fill_missing(column([1.0]), "median")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no row labels all 5 keypoints"):
        fill_missing(column([NAN, NAN]), "drop")


def test_training_needs_a_label_of_every_keypoint() -> None:
    check_trainable(column([1, NAN]))
    with pytest.raises(DataError, match=r"faces.csv: all labels of left_eye_center are missing"):
        check_trainable(column([NAN, NAN]))
    with pytest.raises(DataError, match="no labelled keypoint"):
        check_trainable(faces(np.full((2, 5, 2), NAN)))
    with pytest.raises(DataError, match="no labelled keypoint"):
        check_trainable(faces(np.zeros((0, 5, 2))))


def test_keypoints_that_no_face_labels_are_left_out_but_for_partners() -> None:
    given = column([1, NAN])  # the left eye's centre
    found = labelled_keypoints(given)
    assert labelled_keypoints(found) is found
    assert set(found.schema.keypoint_names) == set(given.schema.keypoint_names)
    xy = given.keypoints.xy.copy()
    xy[:, 3:] = NAN
    assert labelled_keypoints(faces(xy)).schema.keypoint_names == given.schema.keypoint_names[:3]
