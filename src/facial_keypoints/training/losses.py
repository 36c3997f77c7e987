"""Losses and a metric that Keras lacks: masked, robust, and with a learnt size of the error.

All work on keypoints ``(B, ..., 2)`` in pixels with a weight ``(B, ...)`` per point; weight 0 means
*not labelled*, and the target there is any finite filler (zero weight times NaN would be NaN).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

__all__ = ["RmsePixels", "distance_px", "laplace_nll", "pseudo_huber", "weighted_mean"]

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
class RmsePixels(keras.metrics.Metric):  # type: ignore[misc]
    """The study's RMSE over labelled coordinates, in pixels.

    Args:
        half_size: (W/2, H/2) of the images: targets times this are pixels.
    """

    def __init__(self, half_size: Sequence[float], name: str = "rmse_px", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.half_size = [float(v) for v in half_size]
        self.total = self.add_weight(name="total", initializer="zeros")
        self.count = self.add_weight(name="count", initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add (B, K, 2) targets and answers with weights (B, K)."""
        half = ops.convert_to_tensor(self.half_size, dtype="float32")
        error = (ops.cast(y_true, "float32") - ops.cast(y_pred, "float32")) * half
        squared = ops.mean(ops.square(error), axis=-1)
        weight = ops.ones_like(squared) if sample_weight is None else sample_weight
        weight = ops.cast(weight, "float32")
        self.total.assign_add(ops.sum(squared * weight))
        self.count.assign_add(ops.sum(weight))

    def result(self) -> Any:
        """Root of the total over the number of labelled points; 0 before any."""
        return ops.sqrt(self.total / ops.maximum(self.count, 1e-7))

    def get_config(self) -> dict[str, Any]:
        """What is needed to build the metric again."""
        return {**super().get_config(), "half_size": self.half_size}
