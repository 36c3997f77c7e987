"""Which single labels are suspected: each is compared with where the face's other labels say that it is.

The faces' points are taken as normally distributed about a usual face that may be shifted, turned and scaled. Each
label then has a place that follows from the others, and a usual distance from it. Of a face with a suspected label
the worst one is set aside, and the others are compared again: one slip does not make its neighbours suspected.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.data.symmetry import usual_face
from facial_keypoints.geometry import fit_similarity, transform_xy
from facial_keypoints.types import Keypoints

__all__ = ["Suspect", "suspected_labels"]

LIMIT = 5.0  # times the usual distance of that keypoint's labels
LEAST_FACES = 30  # with fewer, what is usual cannot be estimated
_MOST = 0.25  # of a face's labels are suspected; if more are off, the face as a whole is
_FREE = 1e3  # variance of a face's place, size and roll: nothing is usual there
_FLOOR = 2e-3  # of the face's extent: the least standard deviation of a point


@dataclass(frozen=True)
class Suspect:
    """A label far from where the other labels of its face say that it is.

    Args:
        row: Index into the data set.
        sample_id: The row's identifier.
        keypoint: Its name.
        x: Where it is labelled, pixels; likewise ``y``.
        y: See ``x``.
        expected_x: Where the other labels say that it is; likewise ``expected_y``.
        expected_y: See ``expected_x``.
        score: Distance from there, in units of the usual one of this keypoint, which it exceeds many times.
    """

    row: int
    sample_id: str
    keypoint: str
    x: float
    y: float
    expected_x: float
    expected_y: float
    score: float


def suspected_labels(keypoints: Keypoints, sample_ids: NDArray[np.str_]) -> list[Suspect]:
    """The suspected labels in order of suspicion; none with fewer than 30 faces or three points.

    Args:
        keypoints: N faces with K points; NaN = not labelled.
        sample_ids: (N,) their identifiers.
    """
    xy = keypoints.xy.astype(np.float64)
    enough = np.isfinite(xy[..., 0]).sum(axis=0) >= LEAST_FACES
    rows = np.flatnonzero(np.isfinite(xy[:, enough, 0]).sum(axis=1) >= 3)
    if len(rows) < LEAST_FACES or enough.sum() < 3:
        return []
    columns = np.flatnonzero(enough)
    points = xy[np.ix_(rows, columns)]
    face, aligned = usual_face(points)
    covariance = _covariance(face, aligned)
    distance, _ = _compared(face, aligned, covariance)
    usual = np.nanmedian(distance, axis=0)
    found: list[Suspect] = []
    names = keypoints.schema.keypoint_names
    for n in np.flatnonzero((np.nan_to_num(distance) > LIMIT * usual).any(axis=1)):
        kept = points[n].copy()
        for _ in range(max(1, int(_MOST * np.isfinite(kept[:, 0]).sum()))):
            if np.isfinite(kept[:, 0]).sum() < 3:
                break
            onto = fit_similarity(kept, face)
            moved = transform_xy(onto, kept)
            off, expected = _compared(face, moved[None], covariance)
            score = np.nan_to_num(off[0] / usual)
            k = int(score.argmax())
            if score[k] <= LIMIT:
                break
            back = fit_similarity(moved, kept)
            place = transform_xy(back, expected[0])[k]
            found.append(
                Suspect(
                    int(rows[n]), str(sample_ids[rows[n]]), names[columns[k]],
                    *map(float, (*kept[k], *place, score[k])),
                )
            )  # fmt: skip
            kept[k] = np.nan
    return sorted(found, key=lambda suspect: -suspect.score)


def _covariance(face: NDArray[np.float64], aligned: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2K, 2K) covariance of the points of usual faces, in which place, size and roll are free."""
    count = 2 * len(face)
    shifted = (aligned - face).reshape(len(aligned), count)
    turned = np.stack([-face[:, 1], face[:, 0]], axis=1)
    sideways, down = np.tile([1.0, 0.0], len(face)), np.tile([0.0, 1.0], len(face))
    free = np.stack([sideways, down, face.ravel(), turned.ravel()])
    free /= np.linalg.norm(free, axis=1, keepdims=True)
    # What is far off counts as the limit, or slips would decide what is usual.
    spread = 1.4826 * np.nanmedian(np.abs(shifted), axis=0) + _FLOOR
    filled = np.clip(np.nan_to_num(shifted), -3 * spread, 3 * spread)
    found = filled.T @ filled / len(filled)
    share = count / (count + len(filled))  # few faces show little of how points move together
    found = (1 - share) * found + share * np.diag(np.diag(found)) + _FLOOR**2 * np.eye(count)
    return np.asarray(found + _FREE * free.T @ free, np.float64)


def _compared(
    face: NDArray[np.float64], aligned: NDArray[np.float64], covariance: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each label against the others of its face.

    Returns:
        (N, K) distances from the expected places, in standard deviations, and (N, K, 2) those places; NaN where
        there is no label.
    """
    distance = np.full(aligned.shape[:2], np.nan)
    expected = np.full(aligned.shape, np.nan)
    patterns, which = np.unique(np.isfinite(aligned[..., 0]), axis=0, return_inverse=True)
    for p, labelled in enumerate(patterns):
        rows, k = np.flatnonzero(which.reshape(-1) == p), np.flatnonzero(labelled)
        if len(k) < 3:
            continue
        both = np.stack([2 * k, 2 * k + 1], axis=1).ravel()
        precision = np.linalg.inv(covariance[np.ix_(both, both)])
        off = (aligned[rows][:, k] - face[k]).reshape(len(rows), -1)
        pulled = (off @ precision).reshape(len(rows), len(k), 2)
        own = precision.reshape(len(k), 2, len(k), 2)[np.arange(len(k)), :, np.arange(len(k))]
        # The distance from the conditional mean of a normal distribution, and its square in its covariance.
        apart = np.linalg.solve(own[None], pulled[..., None])[..., 0]
        distance[np.ix_(rows, k)] = np.sqrt(np.maximum((apart * pulled).sum(axis=-1), 0.0))
        expected[np.ix_(rows, k)] = aligned[rows][:, k] - apart
    return distance, expected
