"""Distances of predicted points from labels, with numpy alone.

All functions take points (N, K, 2) in pixels with NaN = not labelled in ``truth``. A point without a
label does not count; a *prediction* that is NaN or infinite at a labelled point is an error, since
leaving it out would make the model look better. Without any label the result is NaN, without a
warning or an exception.

RMSE and MAE run over labelled **coordinates** (Kaggle's formula), all other measures over labelled
**points** or **faces**. Face errors are normalised by the distance between the two keypoints of the
schema's ``norm_pair`` (the eye centres for ``kaggle15``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.types import Array, FloatArray

__all__ = [
    "BOOTSTRAP_DRAWS",
    "Interval",
    "auc_at",
    "bootstrap_interval",
    "bootstrap_rmse",
    "ced_curve",
    "face_nme",
    "failure_rate",
    "mae",
    "median_point_error",
    "nme",
    "norm_distances",
    "pck",
    "percentile_interval",
    "point_errors",
    "rmse",
    "rmse_per_face",
    "rmse_per_keypoint",
    "squared_errors",
]

BOOTSTRAP_DRAWS = 2_000
"""Resamples behind an interval: its ends then move by about 0.1 standard errors between seeds."""

_BLOCK = 4_000_000  # resampled group numbers held at once: 32 MB


class Interval(NamedTuple):
    """Ends of a confidence interval; NaN where there are too few data for one."""

    low: float
    high: float


def squared_errors(truth: FloatArray, predicted: FloatArray) -> NDArray[np.float64]:
    """(N, K, 2) squared coordinate errors in px², NaN where not labelled.

    Raises:
        ValueError: Shapes differ, or a prediction is not finite where there is a label.
    """
    truth, predicted = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    if truth.shape != predicted.shape or truth.ndim != 3 or truth.shape[2] != 2:
        raise ValueError(
            "truth and predicted must both have shape (N, K, 2), "
            f"received {truth.shape} and {predicted.shape}."
        )
    labeled = ~np.isnan(truth)
    bad = labeled & ~np.isfinite(predicted)
    if bad.any():
        face, point = (int(i) for i in np.argwhere(bad)[0][:2])
        raise ValueError(
            f"predicted[{face}, {point}] is not finite although the point is labelled "
            f"({int(bad.any(axis=-1).sum())} such points)."
        )
    # Unlabelled coordinates may carry any prediction, infinite too: they are never subtracted.
    difference = np.subtract(truth, predicted, where=labeled, out=np.full(truth.shape, np.nan))
    return np.asarray(np.square(difference), np.float64)


def _mean(values: FloatArray, axis: int | tuple[int, ...] | None = None) -> NDArray[np.float64]:
    """Mean of what is not NaN; NaN (without numpy's warning) where nothing is."""
    labeled = ~np.isnan(values)
    count = labeled.sum(axis=axis)
    total = np.where(labeled, values, 0.0).sum(axis=axis)
    mean = np.full(np.shape(count), np.nan)
    np.divide(total, count, where=count > 0, out=mean)
    return mean


def rmse(truth: FloatArray, predicted: FloatArray) -> float:
    """Root of the mean squared error over all labelled coordinates, in px: Kaggle's score.

    Args:
        truth: (N, K, 2) pixels, NaN = not labelled.
        predicted: (N, K, 2) pixels.

    Example:
        >>> rmse(np.array([[[0.0, 0.0]]]), np.array([[[3.0, 4.0]]]))  # sqrt((9 + 16) / 2)
        3.5355339059327378
    """
    return float(np.sqrt(_mean(squared_errors(truth, predicted))))


def rmse_per_keypoint(truth: FloatArray, predicted: FloatArray) -> NDArray[np.float64]:
    """(K,) RMSE of each keypoint in px, NaN for a keypoint that no face has labelled."""
    return np.asarray(np.sqrt(_mean(squared_errors(truth, predicted), axis=(0, 2))))


def rmse_per_face(truth: FloatArray, predicted: FloatArray) -> NDArray[np.float64]:
    """(N,) RMSE of each face in px, NaN for a face without labels."""
    return np.asarray(np.sqrt(_mean(squared_errors(truth, predicted), axis=(1, 2))))


def mae(truth: FloatArray, predicted: FloatArray) -> float:
    """Mean absolute error over all labelled coordinates, in px."""
    return float(_mean(np.sqrt(squared_errors(truth, predicted))))


def point_errors(truth: FloatArray, predicted: FloatArray) -> NDArray[np.float64]:
    """(N, K) Euclidean distance of prediction and label in px, NaN where not labelled."""
    return np.asarray(np.sqrt(squared_errors(truth, predicted).sum(axis=-1)), np.float64)


def median_point_error(truth: FloatArray, predicted: FloatArray) -> float:
    """Median over labelled points of the Euclidean error, in px; a few wrong labels hardly change it."""
    errors = point_errors(truth, predicted)
    kept = errors[~np.isnan(errors)]
    return float(np.median(kept)) if kept.size else float("nan")


def norm_distances(truth: FloatArray, norm_indices: tuple[int, int]) -> NDArray[np.float64]:
    """(N,) distance in px between the two norm keypoints (``schema.norm_indices``) of each face.

    NaN where one of the two is not labelled or where they coincide, so nothing divides by zero.
    """
    first, second = norm_indices
    difference = np.asarray(truth[:, first] - truth[:, second], np.float64)
    distance = np.hypot(difference[:, 0], difference[:, 1])
    return np.where(distance > 0, distance, np.nan)


def face_nme(
    truth: FloatArray, predicted: FloatArray, norm_indices: tuple[int, int]
) -> NDArray[np.float64]:
    """(N,) mean point error of each face over its norm distance; NaN without the norm pair."""
    errors = _mean(point_errors(truth, predicted), axis=1)
    return errors / norm_distances(truth, norm_indices)


def nme(
    truth: FloatArray, predicted: FloatArray, norm_indices: tuple[int, int]
) -> tuple[float, int, int]:
    """Normalised mean error: the mean of :func:`face_nme`, a fraction.

    Returns:
        The mean, the number of faces that count, and the number of faces with labels that do not,
        because their norm pair is not labelled.
    """
    faces = face_nme(truth, predicted, norm_indices)
    used = int((~np.isnan(faces)).sum())
    with_labels = int((~np.isnan(truth)).any(axis=(1, 2)).sum())
    return float(_mean(faces)), used, with_labels - used


def ced_curve(face_errors: FloatArray, thresholds: FloatArray) -> NDArray[np.float64]:
    """(T,) cumulative error distribution: the share of faces with an error of at most each threshold.

    Args:
        face_errors: (N,) from :func:`face_nme`; NaN faces do not count.
        thresholds: (T,) in the unit of the errors.

    Returns:
        Fractions in rising order; all NaN if no face has an error.
    """
    kept = np.sort(face_errors[~np.isnan(face_errors)])
    if not kept.size:
        return np.full(len(thresholds), np.nan)
    return np.searchsorted(kept, thresholds, side="right") / kept.size


def auc_at(face_errors: FloatArray, threshold: float = 0.10) -> float:
    """Area under the CED curve from 0 to ``threshold``, divided by it: 1 is perfect, 0 useless.

    Exact, not a sum over a grid: the area is the mean over faces of max(0, 1 - error / threshold).
    """
    return float(_mean(np.maximum(0.0, 1.0 - np.asarray(face_errors, np.float64) / threshold)))


def failure_rate(face_errors: FloatArray, threshold: float = 0.10) -> float:
    """Share of faces whose error is above ``threshold``; NaN faces do not count."""
    kept = face_errors[~np.isnan(face_errors)]
    return float((kept > threshold).mean()) if kept.size else float("nan")


def pck(
    truth: FloatArray,
    predicted: FloatArray,
    norm_indices: tuple[int, int],
    threshold: float = 0.10,
) -> float:
    """Share of labelled points within ``threshold`` x norm distance of their label.

    Points of faces without the norm pair do not count.
    """
    relative = point_errors(truth, predicted) / norm_distances(truth, norm_indices)[:, np.newaxis]
    kept = relative[~np.isnan(relative)]
    return float((kept <= threshold).mean()) if kept.size else float("nan")


def bootstrap_rmse(
    squared: FloatArray,
    groups: Array,
    *,
    seed: int = 0,
    draws: int = BOOTSTRAP_DRAWS,
) -> NDArray[np.float64]:
    """RMSE of M columns under resampling of whole groups (cluster bootstrap).

    The errors on images of one person (or on near-duplicates) are correlated, so drawing rows would
    make intervals far too narrow: groups are drawn with replacement, as many as there are. All
    columns use the same draws, so differences between columns are paired.

    Args:
        squared: (N, M) or (N, M, C) squared errors in px², NaN = not labelled; axes after M are
            pooled.
        groups: (N,) group key of each row.
        seed: Same seed, same draws.
        draws: Number of resamples.

    Returns:
        (draws, M) px. NaN in a draw without any label of the column, and in all draws of a column
        whose labels come from fewer than two groups, which do not show any spread.
    """
    n, m = squared.shape[:2]
    values = np.asarray(squared, np.float64).reshape(n, m, int(np.prod(squared.shape[2:])))
    labeled = ~np.isnan(values)
    row_sums = np.where(labeled, values, 0.0).sum(axis=2)
    row_counts = labeled.sum(axis=2)
    keys, index = np.unique(np.asarray(groups), return_inverse=True)
    num_groups = len(keys)
    # Sums per group once; every draw is then a row of weights times these.
    table = np.zeros((num_groups, 2 * m))
    np.add.at(table, index, np.hstack([row_sums, row_counts]))
    table[:, np.tile((table[:, m:] > 0).sum(axis=0) < 2, 2)] = 0.0

    rng = np.random.default_rng(seed)
    result = np.full((draws, m), np.nan)
    if num_groups < 2:
        return result
    block = max(1, _BLOCK // num_groups)
    for start in range(0, draws, block):
        size = min(block, draws - start)
        picked = rng.integers(num_groups, size=(size, num_groups))
        picked += np.arange(size)[:, np.newaxis] * num_groups
        weights = np.bincount(picked.ravel(), minlength=size * num_groups)
        drawn = weights.reshape(size, num_groups).astype(np.float64) @ table
        sums, counts = drawn[:, :m], drawn[:, m:]
        mean = np.divide(sums, counts, where=counts > 0, out=np.full(sums.shape, np.nan))
        result[start : start + size] = np.sqrt(mean)
    return result


def percentile_interval(draws: FloatArray) -> Interval:
    """The middle 95 % of bootstrap draws (D,); NaN draws do not count."""
    kept = draws[~np.isnan(draws)]
    if not kept.size:
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(kept, [0.025, 0.975])
    return Interval(float(low), float(high))


def bootstrap_interval(
    truth: FloatArray,
    predicted: FloatArray,
    groups: Array,
    *,
    seed: int = 0,
) -> Interval:
    """95 % bootstrap interval of :func:`rmse`, resampling groups; see :func:`bootstrap_rmse`."""
    pooled = squared_errors(truth, predicted)[:, np.newaxis]  # (N, 1, K, 2): one column
    return percentile_interval(bootstrap_rmse(pooled, groups, seed=seed)[:, 0])
