"""A trained backbone with a new head.

In every network of the ``landmark`` family the points are an affine function of the features before
its last dense layer, so the points of an old network can be copied to a new head, mixed and corrected
without a training step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from facial_keypoints.errors import ModelError

__all__ = ["LinearHead", "backbone", "build_tuned", "read_head"]

HEAD, POINTS = "head", "points"  # names of the last two layers, as in models.landmark


@keras.saving.register_keras_serializable(package="facial_keypoints")
class AnchoredPoints(layers.Layer):  # type: ignore[misc]
    """Output of a head to points of one label style.

    Args:
        anchor_xy: K places in input pixels, where the points lie for an output of 0.
        pixels: How far an output of 1 moves a point.

    Output: ``(B, 1, K, 3)``: x, y in input pixels and the log of the Laplace scale in pixels.
    """

    def __init__(self, anchor_xy: Sequence[Sequence[float]], pixels: float, **kwargs: Any) -> None:
        # In bfloat16, coordinates of up to 96 would be rounded to quarters of a pixel.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.anchor_xy = [[float(x), float(y)] for x, y in anchor_xy]
        self.pixels = float(pixels)

    def call(self, inputs: Any) -> Any:
        """Map ``(B, 3 K)`` to ``(B, 1, K, 3)``."""
        # Constants must be made in the layer: tf2onnx makes missing inputs of captured ones.
        anchor = np.asarray(self.anchor_xy, np.float32)
        numbers = ops.reshape(inputs, (-1, 1, len(anchor), 3))
        xy = anchor + self.pixels * numbers[..., :2]
        return ops.concatenate([xy, ops.clip(numbers[..., 2:], -4.0, 4.0)], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Arguments to rebuild the layer."""
        return {**super().get_config(), "anchor_xy": self.anchor_xy, "pixels": self.pixels}


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A head as an affine function of F features: ``features @ kernel + bias``.

    Args:
        kernel: (F, S, K, 3) float64.
        bias: (S, K, 3) float64: x, y in input pixels and the log of the Laplace scale.
    """

    kernel: NDArray[np.float64]
    bias: NDArray[np.float64]

    def __call__(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """(N, S, K, 3) of features (N, F)."""
        return np.tensordot(np.asarray(features, np.float64), self.kernel, axes=1) + self.bias


def backbone(model: keras.Model) -> keras.Model:
    """The part of a network that makes the features: images ``(B, H, W, C)`` to ``(B, F)``.

    Raises:
        ModelError: The network is of another family.
    """
    names = [layer.name for layer in model.layers]
    if names[-2:] != [HEAD, POINTS] or not isinstance(model.get_layer(HEAD), layers.Dense):
        raise ModelError(
            f"the network '{model.name}' cannot be fine-tuned: start from default, or from a model that "
            "was itself made by finetune."
        )
    return keras.Model(model.input, model.get_layer(HEAD).input, name="backbone")


def read_head(model: keras.Model) -> LinearHead:
    """The head of a network, label styles and all, as a function of its features."""
    head, points = model.get_layer(HEAD), model.get_layer(POINTS)
    kernel, bias = (np.asarray(ops.convert_to_numpy(w), np.float64) for w in head.weights)
    width = kernel.shape[1]

    def output(numbers: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(ops.convert_to_numpy(points(numbers)), np.float64)

    rest = output(np.zeros((1, width), np.float32))[0]
    slope = output(np.eye(width, dtype=np.float32)) - rest
    return LinearHead(np.tensordot(kernel, slope, axes=1), np.tensordot(bias, slope, axes=1) + rest)


def build_tuned(
    features: keras.Model, start: LinearHead, anchor_xy: NDArray[np.floating[Any]]
) -> keras.Model:
    """A network with a new head on a backbone, whose layers it shares.

    Args:
        features: The backbone.
        start: The new head, of one label style.
        anchor_xy: (K, 2) mean places of the points, input pixels.

    Returns:
        A model from images ``(B, H, W, C)`` 0-255 to ``(B, 1, K, 3)``.
    """
    k = start.bias.shape[1]
    pixels = float(features.input_shape[1]) / 12.0  # 8 of 96, a common move of a point over faces
    unit = np.array([pixels, pixels, 1.0])
    anchor = np.concatenate([np.asarray(anchor_xy, np.float64), np.zeros((k, 1))], axis=1)
    head = layers.Dense(3 * k, dtype="float32", name=HEAD)
    points = AnchoredPoints(np.asarray(anchor_xy).tolist(), pixels, name=POINTS)
    model = keras.Model(features.input, points(head(features.output)), name="tuned")
    head.set_weights(
        [
            (start.kernel[:, 0] / unit).reshape(-1, 3 * k).astype(np.float32),
            ((start.bias[0] - anchor) / unit).reshape(-1).astype(np.float32),
        ]
    )
    return model
