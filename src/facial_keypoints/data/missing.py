"""What to do with keypoints that a row does not label, and whether a data set can be trained on.

Filling invents labels. Apply it to training rows only, after the split: a value interpolated
between a training row and a test row would carry the test row's label into training, and a filled
label must never be counted when a model is scored.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from facial_keypoints.errors import DataError
from facial_keypoints.schemas import select_keypoints
from facial_keypoints.types import FaceDataset, Keypoints

__all__ = [
    "MISSING_STRATEGIES",
    "MissingStrategy",
    "check_trainable",
    "fill_missing",
    "labelled_keypoints",
]

MissingStrategy = Literal["interpolate", "drop", "mean", "ffill", "mask"]
MISSING_STRATEGIES: tuple[MissingStrategy, ...] = ("interpolate", "drop", "mean", "ffill", "mask")
"""``interpolate`` is the study's; ``mask`` changes nothing and leaves weight 0 to the training."""


def fill_missing(dataset: FaceDataset, strategy: MissingStrategy) -> FaceDataset:
    """Treat unlabelled keypoints by one of :data:`MISSING_STRATEGIES`.

    Args:
        dataset: Training rows (see the module's warning), NaN = not labelled.
        strategy: ``interpolate``: a straight line along each column in row order, the nearest
            label before the first and after the last (pandas' ``interpolate`` with
            ``limit_direction='both'``). ``ffill``: the last label above, for a gap at the top the
            first below. ``mean``: the column's mean. ``drop``: only rows that label every
            keypoint. ``mask``: nothing.

    Returns:
        A new data set; with ``drop`` fewer rows. A keypoint that no row labels stays NaN. Styles
        stay those of the labels that were there.

    Raises:
        ValueError: The strategy is unknown.
        DataError: ``drop`` leaves no row.
    """
    if strategy not in MISSING_STRATEGIES:
        raise ValueError(
            f"strategy must be one of {', '.join(MISSING_STRATEGIES)}, received '{strategy}'."
        )
    if strategy == "mask":
        return dataset
    labeled = dataset.keypoints.labeled
    if strategy == "drop":
        complete = labeled.all(axis=1)
        if not complete.any():
            raise DataError(
                f"{dataset.source}: no row labels all {labeled.shape[1]} keypoints, so strategy "
                "'drop' leaves nothing; choose 'mask' or 'interpolate'."
            )
        return dataset.subset(np.flatnonzero(complete))
    xy = dataset.keypoints.xy.astype(np.float64)  # a new array, filled below
    rows = np.arange(len(xy))
    for k in np.flatnonzero(labeled.any(axis=0)):
        known = np.flatnonzero(labeled[:, k])
        values = xy[known, k]
        if strategy == "interpolate":
            for axis in range(2):
                xy[:, k, axis] = np.interp(rows, known, values[:, axis])
        elif strategy == "ffill":
            above = np.searchsorted(known, rows, side="right") - 1
            xy[:, k] = values[np.maximum(above, 0)]
        else:
            xy[~labeled[:, k], k] = values.mean(axis=0)
    return dataset.with_keypoints(xy.astype(np.float32))


def labelled_keypoints(dataset: FaceDataset) -> FaceDataset:
    """The faces without the keypoints that no face labels; a keypoint whose partner is labelled stays."""
    some = np.asarray(dataset.keypoints.labeled.any(axis=0))
    schema = select_keypoints(dataset.schema, some)
    if schema is dataset.schema or not some.any():
        return dataset
    kept = [dataset.schema.index(name) for name in schema.keypoint_names]
    points = dataset.keypoints
    return replace(
        dataset, keypoints=Keypoints(points.xy[:, kept], schema, points.visibility[:, kept])
    )


def check_trainable(dataset: FaceDataset) -> None:
    """Make sure that every keypoint has a label to learn from.

    Raises:
        DataError: There is no row, no label at all, or none of some keypoint.
    """
    source = dataset.source or "the data"
    counts = dataset.label_counts
    if not len(dataset) or not counts.any():
        raise DataError(f"{source} has no labelled keypoint; training needs labelled faces.")
    absent = [
        name for name, count in zip(dataset.schema.keypoint_names, counts, strict=True) if not count
    ]
    if absent:
        raise DataError(
            f"{source}: all labels of {', '.join(absent)} are missing; add rows that label "
            f"{'it' if len(absent) == 1 else 'them'} or train on a schema without."
        )
