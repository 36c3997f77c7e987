"""Losses that Keras lacks: masked, robust, and with a learnt size of the error.

All work on keypoints ``(B, ..., 2)`` in pixels with a weight ``(B, ...)`` per point; weight 0 means
*not labelled*, and the target there is any finite filler (zero weight times NaN would be NaN).
"""

from __future__ import annotations

from typing import Any

from keras import ops

__all__ = ["distance_px", "laplace_nll", "pseudo_huber", "weighted_mean"]

# Keras tensors have no common static type over its backends.
Tensor = Any


def distance_px(xy_true: Tensor, xy_pred: Tensor) -> Tensor:
    """Euclidean distance ``(B, ...)`` in pixels, with a gradient that is finite at zero."""
    return ops.sqrt(ops.sum(ops.square(xy_pred - xy_true), axis=-1) + 1e-6)


def pseudo_huber(distance: Tensor, delta: float) -> Tensor:
    """Quadratic below ``delta`` pixels, linear above: a wrong label pulls no harder than a poor one.

    Args:
        distance: ``(B, ...)`` pixels.
        delta: Where the parabola turns into a line, pixels.
    """
    return delta * (ops.sqrt(1.0 + ops.square(distance / delta)) - 1.0)


def laplace_nll(distance: Tensor, log_scale: Tensor) -> Tensor:
    """Negative log-likelihood of an error under a Laplace-like radial density of learnt scale.

    The density over the plane is exp(-d/b) / (2 pi b^2), so the loss is d/b + 2 log b up to a
    constant, and it is least at b = d/2: ``2 * exp(log_scale)`` estimates the expected error.

    Args:
        distance: ``(B, ...)`` pixels; pass it through ``stop_gradient`` to train the scale alone.
        log_scale: ``(B, ...)`` log of the scale b in pixels.
    """
    return distance * ops.exp(-log_scale) + 2.0 * log_scale


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Scalar mean of ``values`` under ``weights``; 0 (not NaN) when every weight is 0."""
    return ops.sum(values * weights) / (ops.sum(weights) + 1e-6)
