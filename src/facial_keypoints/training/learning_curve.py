"""How the error of the closed-form head falls with the number of labelled faces, and what twice as many would give.

Groups of faces are dealt into four quarters. Each quarter, each half and the whole is cross-validated on its own, so
that every face has a prediction by heads fitted to a quarter, to a half and to all of the other groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.evaluation.metrics import (
    Interval,
    bootstrap_rmse,
    face_nme,
    percentile_interval,
)
from facial_keypoints.models.tuned import LinearHead
from facial_keypoints.training.closed_form_head import FOLDS, Examples, fit_start
from facial_keypoints.types import BoolArray, FaceDataset, FloatArray

__all__ = ["CurvePoint", "describe", "learning_curve"]

SHARES = (0.25, 0.5, 1.0)
QUARTERS = 4


@dataclass(frozen=True)
class CurvePoint:
    """The error with a number of labels.

    Args:
        share: Of the groups; 2.0 is extrapolated.
        faces: Faces of such a share.
        nme: Mean error over the distance of the norm pair, a fraction.
        interval: Its 95 % bootstrap interval over groups.
    """

    share: float
    faces: int
    nme: float
    interval: Interval


def learning_curve(
    faces: FaceDataset,
    examples: Examples,
    before: LinearHead,
    known: NDArray[np.int64],
    out_of_fold: FloatArray,
    *,
    without: BoolArray | None = None,
    seed: int = 0,
) -> tuple[CurvePoint, ...]:
    """Measure a quarter, a half and all of the groups, and extrapolate to twice as many.

    Each doubling is taken to gain the same share of the gain before it, which is what an error that falls like
    a + b n^-c does. Intervals of the four are from the same draws of groups.

    Args:
        faces: The N labelled faces, with their groups.
        examples: Their views.
        before: As for :func:`fit_start`.
        known: As for :func:`fit_start`.
        out_of_fold: (N, K, 2) predictions by heads fitted to all other groups.
        without: (N,) faces that are not measured, since the base was trained on them.
        seed: Of the quarters and the bootstrap.

    Returns:
        Four points; none where the faces are too few: each quarter needs five groups, and labels of each point
        and of the norm pair in five faces.
    """
    names, unit = np.unique(faces.groups, return_inverse=True)
    count = len(names)
    quarter = (np.random.default_rng(seed).permutation(count) % QUARTERS)[unit]
    labelled = examples.labelled[: len(faces)]
    if count < FOLDS * QUARTERS or any(
        (labelled[quarter == q].sum(axis=0) < FOLDS).any() for q in range(QUARTERS)
    ):
        return ()
    truth = faces.keypoints.xy
    first, second = (faces.schema.index(name) for name in faces.schema.norm_pair)
    pair = first, second
    errors = np.full((len(faces), len(SHARES)), np.nan)
    for column, parts in enumerate(([[0], [1], [2], [3]], [[0, 1], [2, 3]])):
        for part in parts:
            rows = np.flatnonzero(np.isin(quarter, part))
            found = fit_start(examples.subset(rows), before, known).out_of_fold
            errors[rows, column] = face_nme(truth[rows], found, pair)
    errors[:, -1] = face_nme(truth, out_of_fold, pair)
    if without is not None:
        errors[without] = np.nan
    if (~np.isnan(errors).any(axis=1)).sum() < FOLDS * QUARTERS:
        return ()
    # The function takes roots of means, and the mean itself is asked for here.
    draws = bootstrap_rmse(errors, faces.groups, seed=seed) ** 2
    measured, drawn = _with_twice(np.nanmean(errors, axis=0)), _with_twice(draws)
    return tuple(
        CurvePoint(share, round(share * len(faces)), float(error), percentile_interval(column))
        for share, error, column in zip((*SHARES, 2.0), measured, drawn.T, strict=True)
    )


def _with_twice(errors: FloatArray) -> NDArray[np.float64]:
    """Errors (..., 3) at a quarter, a half and all, and the extrapolated one: (..., 4)."""
    first, second = errors[..., 0] - errors[..., 1], errors[..., 1] - errors[..., 2]
    kept = np.clip(second / np.where(first == 0.0, np.inf, first), 0.0, 1.0)
    gain = np.where(second > 0.0, kept * second, 0.0)
    return np.concatenate([errors, (errors[..., 2] - gain)[..., np.newaxis]], axis=-1)


def describe(points: list[Mapping[str, Any]]) -> list[str]:
    """Lines for people, from the points as they stand in ``run.json``."""

    def percent(point: Mapping[str, Any]) -> str:
        low, high = point["interval"]
        return f"{100 * point['nme']:.1f} % ({100 * low:.1f}–{100 * high:.1f})"

    *measured, twice = points
    told = ", ".join(f"{p['faces']} faces {percent(p)}" for p in measured)
    return [
        f"learning curve (NME of the closed-form head): {told}",
        f"twice the labels ({twice['faces']} faces): about {percent(twice)}",
    ]
