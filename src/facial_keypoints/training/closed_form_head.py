"""Fits a new head to the features of a trained model in closed form, without training steps.

Points that both models have start from the label style of the old one that fits the labels best. Every
point is then corrected by a ridge regression on the old points (which carry pose and shape, and need
few examples) and on all features (which carry everything else, and need many). Cross-validation over
faces chooses the weight of each and the penalty, from one offset per point up to an entirely new
point, and measures the error on faces outside the fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.models.tuned import LinearHead
from facial_keypoints.types import BoolArray

__all__ = ["FOLDS", "Examples", "Start", "fit_start"]

FloatMap = NDArray[np.float64]

FOLDS = 5

_MIXES = (0.95, 0.7, 0.3)  # share of the old points in the regression, the rest are the features
_PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # of the mean squared length of a row
_CONSTANT = 1e3  # squared length of the constant column: an intercept that is as good as free
_CHOICES = [(mix, penalty) for mix in _MIXES for penalty in _PENALTIES]
# Two more choices: each point's mean offset and nothing else, and no correction at all.
_OFFSET, _NONE = len(_CHOICES), len(_CHOICES) + 1


@dataclass(frozen=True, eq=False)
class Examples:
    """M views of N labelled faces; the first N are the original images.

    Args:
        features: (M, F) output of the backbone.
        xy: (M, K, 2) input pixels, finite fillers where not labelled.
        labelled: (M, K).
        fold: (M,) number of the fold from 0; all views of a face lie in one fold.
        faces: N.
    """

    features: FloatMap
    xy: FloatMap
    labelled: BoolArray
    fold: NDArray[np.int64]
    faces: int

    def subset(self, rows: NDArray[np.intp]) -> Examples:
        """All views of the faces ``rows``."""
        views = len(self.features) // self.faces
        kept = (np.arange(views)[:, np.newaxis] * self.faces + rows).reshape(-1)
        return Examples(
            self.features[kept], self.xy[kept], self.labelled[kept], self.fold[kept], len(rows)
        )


@dataclass(frozen=True, eq=False)
class Start:
    """A head for the new points.

    Args:
        head: The new points on the old features.
        anchor_xy: (K, 2) mean place of each point, input pixels.
        out_of_fold: (N, K, 2) predictions for the original images by fits without the face.
        style: Index of the old label style that it started from.
        errors_px: Mean error of ``out_of_fold``, for points that the old model has and others.
        choices: The correction that cross-validation chose for them, in words.
    """

    head: LinearHead
    anchor_xy: FloatMap
    out_of_fold: FloatMap
    style: int
    errors_px: dict[str, float]
    choices: dict[str, str]


def fit_start(examples: Examples, before: LinearHead, known: NDArray[np.int64]) -> Start:
    """Fit the head.

    Args:
        examples: At least one face labels each point.
        before: The old points on the features.
        known: (K,) index of each new point among the old ones, -1 where there is none.
    """
    new = known < 0
    style = _best_style(examples, before, known)
    prior, anchor = _prior(examples, before, known, style)
    start = prior(examples.features)[:, 0]
    residual = examples.xy - start[..., :2]
    plain, labelled = slice(0, examples.faces), examples.labelled[: examples.faces]

    ridge = _Ridge(examples, before, residual)
    corrections = ridge.out_of_fold()
    distance = np.linalg.norm(corrections - residual[plain], axis=-1)
    distance = np.where(labelled, distance, np.nan)
    # Points of the old model need little correction, new ones much of it: chosen separately.
    choice = np.full(len(known), _NONE)
    kinds = {name: kind for name, kind in (("known", ~new), ("new", new)) if kind.any()}
    for kind in kinds.values():
        choice[kind] = _best_choice(distance[:, :, kind])
    kernel, bias = ridge.fit(choice)
    kernel = prior.kernel + np.pad(kernel[:, None], ((0, 0), (0, 0), (0, 0), (0, 1)))
    bias = prior.bias + np.pad(bias[None], ((0, 0), (0, 0), (0, 1)))

    # The mean expected error of each point becomes the mean error on faces outside the fit.
    columns = np.arange(len(known))
    error = distance[choice, :, columns].T
    expected = np.where(labelled, 2.0 * np.exp(start[plain, :, 2]), np.nan)
    seen = labelled.any(axis=0)
    bias[0, seen, 2] += np.log(
        np.nanmean(error[:, seen] + 1e-3, axis=0) / np.nanmean(expected[:, seen], axis=0)
    )
    return Start(
        LinearHead(kernel, bias),
        anchor,
        corrections[choice, :, columns].transpose(1, 0, 2) + start[plain, :, :2],
        style,
        {name: float(np.nanmean(error[:, kind])) for name, kind in kinds.items()},
        {name: _words(int(choice[kind][0])) for name, kind in kinds.items()},
    )


def _best_choice(distance: FloatMap) -> int:
    """The simplest choice that no other beats by more than one standard error.

    Args:
        distance: (choices, N, K) error of the original images, NaN where not labelled.
    """
    face = np.nanmean(distance[:, ~np.isnan(distance[_OFFSET]).all(axis=1)], axis=2)
    best = int(np.argmin(face.mean(axis=1)))
    for simple in (_NONE, _OFFSET):
        # With many choices and few faces, one of them is always good by chance.
        gain = face[simple] - face[best]
        if gain.mean() <= gain.std() / np.sqrt(max(gain.size - 1, 1)):
            return simple
    return best


def _best_style(examples: Examples, before: LinearHead, known: NDArray[np.int64]) -> int:
    """The style that fits best without each point's constant offset."""
    shared = np.flatnonzero((known >= 0) & examples.labelled.any(axis=0))
    if not len(shared):
        return 0
    points = before(examples.features)[:, :, known[shared], :2]
    truth = np.where(examples.labelled[:, shared, None], examples.xy[:, shared], np.nan)
    rest = truth[:, None] - points
    return int(np.argmin(np.nanmean(np.abs(rest - np.nanmean(rest, axis=0)), axis=(0, 2, 3))))


def _prior(
    examples: Examples, before: LinearHead, known: NDArray[np.int64], style: int
) -> tuple[LinearHead, FloatMap]:
    """The head before any correction: the old point, or one place for all faces; and mean places."""
    new = known < 0
    weight = examples.labelled[..., None]
    total = np.maximum(weight.sum(axis=0), 1)
    anchor = np.where(weight, examples.xy, 0.0).sum(axis=0) / total
    kernel = before.kernel[:, [style]][:, :, known]
    bias = before.bias[[style]][:, known]
    kernel[:, 0, new, :2], bias[0, new, :2] = 0.0, anchor[new]
    # A new point starts with the mean uncertainty of the old ones.
    kernel[:, 0, new, 2] = before.kernel[:, style, :, 2].mean(axis=1)[:, None]
    bias[0, new, 2] = before.bias[style, :, 2].mean()
    return LinearHead(kernel, bias), anchor


class _Ridge:
    """Regression of residuals on old points and features, solved in the space of the examples."""

    def __init__(self, examples: Examples, before: LinearHead, residual: FloatMap) -> None:
        self.examples, self.residual = examples, residual
        self.centre = examples.features.mean(axis=0)
        self.f = examples.features - self.centre
        points = before.kernel[..., :2].reshape(self.f.shape[1], -1)
        self.by_point = points / np.maximum((self.f @ points).std(axis=0), 1e-6)
        # Features that hardly ever fire would be blown up without a floor.
        self.by_feature = 1.0 / np.maximum(self.f.std(axis=0), 0.1 * self.f.std() + 1e-9)
        designs = (self.f @ self.by_point, self.f * self.by_feature)
        self.scales = [float(np.mean(np.sum(z**2, axis=1))) + 1e-12 for z in designs]
        self.grams = [z @ z.T / c for z, c in zip(designs, self.scales, strict=True)]
        # Points that are labelled in the same views share one system of equations.
        self.masks, self.mask_of = np.unique(examples.labelled, axis=1, return_inverse=True)
        self.mask_of = np.asarray(self.mask_of).reshape(-1)

    def _gram(self, mix: float) -> FloatMap:
        return np.asarray(mix * self.grams[0] + (1.0 - mix) * self.grams[1] + _CONSTANT)

    def _target(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> FloatMap:
        return self.residual[np.ix_(rows, columns)].reshape(len(rows), -1)

    def out_of_fold(self) -> FloatMap:
        """(choices, N, K, 2) corrections of the original images by fits without the face."""
        fold, faces = self.examples.fold, self.examples.faces
        found = np.zeros((_NONE + 1, faces, len(self.mask_of), 2))
        for m in range(self.masks.shape[1]):
            columns = np.flatnonzero(self.mask_of == m)
            for part in np.unique(fold):
                fit = np.flatnonzero(self.masks[:, m] & (fold != part))
                test = np.flatnonzero(fold[:faces] == part)
                if not len(fit) or not len(test):
                    continue
                target, cell = self._target(fit, columns), np.ix_(test, columns)
                found[_OFFSET][cell] = target.mean(axis=0).reshape(-1, 2)
                for i, (mix, penalty) in enumerate(_CHOICES):
                    gram = self._gram(mix)
                    alpha = _solve(gram[np.ix_(fit, fit)], penalty, target)
                    correction = gram[np.ix_(test, fit)] @ alpha
                    found[i][cell] = correction.reshape(len(test), -1, 2)
        return found

    def fit(self, choice: NDArray[np.int64]) -> tuple[FloatMap, FloatMap]:
        """Corrections from all examples as kernel (F, K, 2) and bias (K, 2), ``choice`` a point."""
        k = len(self.mask_of)
        kernel, bias = np.zeros((self.f.shape[1], k, 2)), np.zeros((k, 2))
        for m, c in {*zip(self.mask_of.tolist(), choice.tolist(), strict=True)}:
            rows = np.flatnonzero(self.masks[:, m])
            columns = np.flatnonzero((self.mask_of == m) & (choice == c))
            if not len(rows) or c == _NONE:
                continue
            target = self._target(rows, columns)
            if c == _OFFSET:
                bias[columns] = target.mean(axis=0).reshape(-1, 2)
                continue
            mix, penalty = _CHOICES[c]
            alpha = _solve(self._gram(mix)[np.ix_(rows, rows)], penalty, target)
            pulled = self.f[rows].T @ alpha
            change = (1.0 - mix) / self.scales[1] * self.by_feature[:, None] ** 2 * pulled
            change += mix / self.scales[0] * self.by_point @ (self.by_point.T @ pulled)
            kernel[:, columns] = change.reshape(len(change), -1, 2)
            shift = _CONSTANT * alpha.sum(axis=0) - self.centre @ change
            bias[columns] = shift.reshape(-1, 2)
        return kernel, bias


def _solve(gram: FloatMap, penalty: float, target: FloatMap) -> FloatMap:
    return np.asarray(np.linalg.solve(gram + penalty * np.eye(len(gram)), target), np.float64)


def _words(choice: int) -> str:
    if choice >= _OFFSET:
        return "offset" if choice == _OFFSET else "none"
    mix, penalty = _CHOICES[choice]
    return f"ridge, points {mix:g}, penalty {penalty:g}"
