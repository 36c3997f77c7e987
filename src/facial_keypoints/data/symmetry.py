"""Left/right partners of keypoints, told from where they lie, and whether given partners fit the labels.

Half of the views that a network learns from are mirrored, with partners exchanged: wrong partners teach it to
mix left and right up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.geometry import fit_similarity, rotation, transform_xy

__all__ = ["mirrored_misfit", "partners_by_place", "usual_face"]

_AXES = np.radians(np.arange(-45, 46, 5))
_CLEAR = 0.5  # a partner is this much nearer than the next point, or it is no partner
_LIKE = 2.0  # times the usual distance of labels from the usual face, the farthest the mirrored one may be
_NEAR = (
    0.1  # of the face's extent: the farthest a point may be from the mirrored place of its partner
)


def usual_face(xy: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The usual face of many, and the faces brought onto it.

    Args:
        xy: (N, K, 2) labelled points, NaN = not labelled.

    Returns:
        (K, 2) median places in units of the face's extent, NaN for a point that is never labelled, and
        (N, K, 2) faces that are turned, scaled and shifted onto it.
    """
    known = np.isfinite(xy[..., 0]).sum(axis=1)
    xy = np.where((known > 1)[:, None, None], xy, np.nan)
    reference = xy[int(np.argmax(known))]
    for _ in range(4):
        aligned = transform_xy(fit_similarity(xy, reference), xy)
        reference = _median(aligned)
        low, high = np.fmin.reduce(reference), np.fmax.reduce(reference)
        reference = (reference - (low + high) / 2) / max(float(np.linalg.norm(high - low)), 1e-9)
    return reference, transform_xy(fit_similarity(xy, reference), xy)


def _median(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Medians over the rows, NaN left out; NaN where there is nothing."""
    found = np.full(x.shape[1:], np.nan)
    some = np.isfinite(x).any(axis=0)
    found[some] = np.nanmedian(x[:, some], axis=0)
    return found


def partners_by_place(xy: NDArray[np.float64], told: Sequence[int]) -> tuple[int, ...]:
    """Partners of points whose names tell none: the two that change places when the usual face is mirrored.

    Args:
        xy: (N, K, 2) labelled points of faces that are upright more or less, NaN = not labelled.
        told: K partners that are known, itself where none is.

    Returns:
        K partners; those that are told stay.
    """
    face, _ = usual_face(xy)
    # The usual face may lean, so several axes through it are tried.
    matches = [_match(face, _mirror(face, angle), list(told)) for angle in _AXES]
    _, found, partner = min(matches, key=lambda match: match[0])
    if found:
        mirrored, usual = mirrored_misfit(xy, partner)
        found = not (mirrored > _LIKE * usual).any()
    # Where the points do not all have one clear partner, as in a face seen from its side, none is believed.
    return partner if found else tuple(told)


def _match(
    face: NDArray[np.float64], mirrored: NDArray[np.float64], told: list[int]
) -> tuple[float, bool, tuple[int, ...]]:
    """Mean distance of partners in a face and its mirrored self, whether all points have one, and the partners."""
    for _ in range(20):  # the mirrored face is moved until it lies on the face as well as it can
        nearest = _apart(mirrored, face).argmin(axis=1)
        mirrored = transform_xy(fit_similarity(mirrored, face[nearest]), mirrored)
    apart = _apart(mirrored, face)
    nearest = apart.argmin(axis=1)
    partner = list(told)
    found = np.array(told) != np.arange(len(told))
    for i, j in enumerate(nearest.tolist()):
        others = np.delete(apart[i], j).min(initial=np.inf)
        free = told[i] == i and told[j] == j and nearest[j] == i
        if free and apart[i, j] < min(_NEAR, _CLEAR * others):
            partner[i], found[i] = j, True
    matched = apart[np.arange(len(face)), partner]
    cost = np.where(found, np.minimum(matched, _NEAR), _NEAR)
    return float(cost.mean()), bool(found[np.isfinite(face[:, 0])].all()), tuple(partner)


def _mirror(face: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """A face (K, 2) around the origin mirrored at an axis, ``angle`` radians from the vertical."""
    upright = face @ rotation(angle).T
    return np.asarray((upright * [-1.0, 1.0]) @ rotation(-angle).T)


def _apart(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, K) distances, infinite from a point that is not known."""
    apart = np.linalg.norm(a[:, None] - b[None], axis=-1)
    return np.where(np.isnan(apart), 1e9, apart)


def mirrored_misfit(
    xy: NDArray[np.float64], swap: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far mirrored labels lie from unmirrored ones when partners change places, and how far labels differ.

    Args:
        xy: (N, K, 2) labelled points, NaN = not labelled.
        swap: K partners.

    Returns:
        (K,) distances of the points of the usual face, mirrored, from the usual face, and (K,) usual distances
        of a label from there, in units of the face's extent; NaN for points that are never labelled.
    """
    face, aligned = usual_face(xy)
    mirrored = (face * [-1.0, 1.0])[list(swap)]
    mirrored = transform_xy(fit_similarity(mirrored, face), mirrored)
    usual = _median(np.linalg.norm(aligned - face, axis=-1))
    return np.linalg.norm(mirrored - face, axis=-1), usual
