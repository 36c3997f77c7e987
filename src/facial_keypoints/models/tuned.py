"""A trained backbone with new points on it, and how a network's points hang on its features.

In every network of the ``landmark`` family the points are an affine function of the features before
its last dense layer. Knowing that function, points of an old network can be carried over to a new
head, mixed and corrected, without a single training step.
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

__all__ = ["ReadOut", "backbone", "build_tuned", "read_out"]

HEAD, POINTS = "head", "points"  # names of the last two layers, as in models.landmark


@keras.saving.register_keras_serializable(package="facial_keypoints")
class AnchoredPoints(layers.Layer):  # type: ignore[misc]
    """Numbers of a head to points of one label style.

    Args:
        anchor_xy: K places in input pixels that the numbers move the points away from.
        pixels: How far a number of 1 moves a point.

    Output: ``(B, 1, K, 3)``: x, y in input pixels and the log of the Laplace scale in pixels.
    """

    def __init__(self, anchor_xy: Sequence[Sequence[float]], pixels: float, **kwargs: Any) -> None:
        # Coordinates of up to 96 would lose a quarter of a pixel in bfloat16.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.anchor_xy = [[float(x), float(y)] for x, y in anchor_xy]
        self.pixels = float(pixels)

    def call(self, inputs: Any) -> Any:
        """Map ``(B, 3 K)`` to ``(B, 1, K, 3)``."""
        # Made here: tf2onnx turns constants captured outside a layer into missing inputs.
        anchor = np.asarray(self.anchor_xy, np.float32)
        numbers = ops.reshape(inputs, (-1, 1, len(anchor), 3))
        xy = anchor + self.pixels * numbers[..., :2]
        return ops.concatenate([xy, ops.clip(numbers[..., 2:], -4.0, 4.0)], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Arguments to rebuild the layer."""
        return {**super().get_config(), "anchor_xy": self.anchor_xy, "pixels": self.pixels}


@dataclass(frozen=True, eq=False)
class ReadOut:
    """Points as an affine function of F features: ``features @ kernel + bias``.

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


def read_out(model: keras.Model) -> ReadOut:
    """How the points of a network hang on its features."""
    head, points = model.get_layer(HEAD), model.get_layer(POINTS)
    kernel, bias = (np.asarray(ops.convert_to_numpy(w), np.float64) for w in head.weights)
    width = kernel.shape[1]

    def answer(numbers: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(ops.convert_to_numpy(points(numbers)), np.float64)

    rest = answer(np.zeros((1, width), np.float32))[0]
    slope = answer(np.eye(width, dtype=np.float32)) - rest
    return ReadOut(np.tensordot(kernel, slope, axes=1), np.tensordot(bias, slope, axes=1) + rest)


def build_tuned(
    features: keras.Model, start: ReadOut, anchor_xy: NDArray[np.floating[Any]]
) -> keras.Model:
    """A network with new points on a backbone, whose layers it shares.

    Args:
        features: The backbone.
        start: (F, 1, K, 3): what the new head answers at first.
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
