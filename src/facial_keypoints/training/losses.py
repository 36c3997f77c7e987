"""Losses that Keras lacks: masked, robust, and with a learnt size of the error.

All work on keypoints ``(B, ..., 2)`` in pixels with a weight ``(B, ...)`` per point; weight 0 means
*not labelled*, and the target there is any finite filler (zero weight times NaN would be NaN).
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

__all__ = ["PointsLoss", "distance_px", "laplace_nll", "pseudo_huber", "weighted_mean"]

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


@keras.saving.register_keras_serializable(package="facial_keypoints")
class PointsLoss(keras.losses.Loss):  # type: ignore[misc]
    """Robust distance of points from their labels, and the likelihood of that distance.

    Args:
        huber_px: Where the loss changes from square to linear, input pixels.
        scale_weight: Share of the likelihood, which trains the error scale alone.
    """

    def __init__(
        self, huber_px: float, scale_weight: float = 0.2, name: str = "points_loss", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.huber_px, self.scale_weight = float(huber_px), float(scale_weight)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """``(B, S, K)`` losses of labels ``(B, S, K, 2)`` and outputs ``(B, S, K, 3)``, in pixels."""
        distance = distance_px(y_true, y_pred[..., :2])
        size = laplace_nll(ops.stop_gradient(distance), y_pred[..., 2])
        return pseudo_huber(distance, self.huber_px) + self.scale_weight * size

    def get_config(self) -> dict[str, Any]:
        """Arguments to build the loss again."""
        return {
            **super().get_config(),
            "huber_px": self.huber_px,
            "scale_weight": self.scale_weight,
        }
