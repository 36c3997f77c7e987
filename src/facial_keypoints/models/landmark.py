"""The shipped model's network, also that of the recipe ``landmark``: one set of points per label style.

The network maps a face crop to every keypoint in every label style at once, with the logarithm of each
point's expected error. The points of a style are a *shared* prediction plus an offset of that style, so
that a style with few people (Kaggle's style A) gains from the large ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

__all__ = ["STUDENT", "NetworkConfig", "Stage", "StylePoints", "build_network", "with_head"]

# Of the shipped model, whose file names no mean: keypoint means of its training rows, 96-pixel crops.
_MEAN_XY = (
    (66.4, 37.0), (29.8, 37.0), (60.2, 37.8), (72.7, 37.9), (36.0, 37.8), (23.4, 38.0),
    (57.1, 28.9), (79.0, 30.0), (38.8, 29.0), (16.6, 30.4), (48.3, 55.2), (62.6, 75.8),
    (33.9, 76.0), (48.1, 70.3), (48.2, 83.8),
)  # fmt: skip


@keras.saving.register_keras_serializable(package="facial_keypoints")
class StylePoints(layers.Layer):  # type: ignore[misc]
    """Output of the head to points and log error scales, for every label style.

    Args:
        styles: S.
        keypoints: K.
        input_size: Longer side of the input, pixels.
        mean_xy: (K, 2) places in input pixels where the points lie for an output of 0; those of the
            shipped model when left out.

    Output: ``(B, S, K, 3)``: x, y in input pixels and the log of the Laplace scale in pixels.
    """

    def __init__(
        self,
        styles: int,
        keypoints: int,
        input_size: int,
        mean_xy: Sequence[Sequence[float]] | None = None,
        **kwargs: Any,
    ) -> None:
        # In bfloat16, coordinates of up to 96 would be rounded to quarters of a pixel.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.styles, self.keypoints, self.input_size = styles, keypoints, input_size
        self.mean_xy = mean_xy

    def call(self, inputs: Any) -> Any:
        """Map ``(B, K * (2 + 3 S))`` to ``(B, S, K, 3)``."""
        s, k = self.styles, self.keypoints
        scale = self.input_size / 96.0
        mean = np.asarray(_MEAN_XY[:k], np.float32) * scale
        if self.mean_xy is not None:
            mean = np.asarray(self.mean_xy, np.float32)
        shared = ops.reshape(inputs[:, : 2 * k], (-1, 1, k, 2))
        own = ops.reshape(inputs[:, 2 * k : 2 * k + 2 * s * k], (-1, s, k, 2))
        log_scale = ops.reshape(inputs[:, 2 * k + 2 * s * k :], (-1, s, k, 1))
        # Outputs of the head near 1 then move a point as far as it usually varies between faces.
        xy = mean + (8.0 * scale) * shared + (4.0 * scale) * own
        return ops.concatenate([xy, ops.clip(log_scale, -4.0, 4.0)], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Arguments to rebuild the layer."""
        return {
            **super().get_config(),
            "styles": self.styles,
            "keypoints": self.keypoints,
            "input_size": self.input_size,
            "mean_xy": self.mean_xy,
        }


@dataclass(frozen=True)
class Stage:
    """Blocks of one resolution.

    Args:
        kind: ``res`` (two 3x3 convolutions), or ``ir`` (1x1 widen, 3x3 depthwise, 1x1 narrow).
        channels: Output channels.
        blocks: How many blocks; the first applies ``stride``.
        stride: 1 or 2.
        expand: Width of the inner layer of ``ir`` over its input.
    """

    kind: str
    channels: int
    blocks: int
    stride: int = 2
    expand: int = 2


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of the network.

    Args:
        stages: Blocks after the stem.
        stem_channels: Channels of the stem convolution.
        stem_kernel: Its kernel size, pixels.
        stem_stride: Its stride, pixels.
        pool_channels: Channels of a last 1x1 convolution before flattening; 0 for none.
        dropout: Share of the flattened features dropped in training.
        input_size: (height, width) of the input, pixels.
        channels: 1 grey or 3 RGB.
        styles: Label styles, in the order of the S axis.
        keypoints: K.
        mean_xy: (K, 2) mean places of the points, input pixels; those of the shipped model when left out.
    """

    stages: tuple[Stage, ...]
    stem_channels: int = 32
    stem_kernel: int = 7
    stem_stride: int = 4
    pool_channels: int = 0
    dropout: float = 0.0
    input_size: tuple[int, int] = (96, 96)
    channels: int = 1
    styles: tuple[str, ...] = ("kaggle-a", "kaggle-b", "ibug", "five")
    keypoints: int = 15
    mean_xy: Sequence[Sequence[float]] | None = None


STUDENT = NetworkConfig(
    stages=(Stage("res", 64, 2), Stage("res", 128, 1)), stem_channels=32, pool_channels=48
)
"""29 million multiply-adds: answers in float32 in under half a millisecond on one thread."""


def _conv(
    x: Any, channels: int, kernel: int, stride: int = 1, *, relu: bool = True, zero: bool = False
) -> Any:
    x = layers.Conv2D(
        channels, kernel, stride, padding="same", use_bias=False, kernel_initializer="he_normal"
    )(x)
    # A residual branch that starts at zero lets deep stacks train at a high rate from step one.
    x = layers.BatchNormalization(
        momentum=0.98, epsilon=1e-3, gamma_initializer="zeros" if zero else "ones"
    )(x)
    return layers.Activation("relu")(x) if relu else x


def _block(x: Any, stage: Stage, stride: int) -> Any:
    shortcut = x
    same_shape = stride == 1 and x.shape[-1] == stage.channels
    if stage.kind == "res":
        y = _conv(x, stage.channels, 3, stride)
        y = _conv(y, stage.channels, 3, relu=False, zero=True)
        if not same_shape:
            shortcut = _conv(x, stage.channels, 1, stride, relu=False)
        return layers.Activation("relu")(layers.Add()([shortcut, y]))
    if stage.kind == "ir":
        y = _conv(x, x.shape[-1] * stage.expand, 1)
        y = layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(y)
        y = layers.BatchNormalization(momentum=0.98, epsilon=1e-3)(y)
        y = layers.Activation("relu")(y)
        y = _conv(y, stage.channels, 1, relu=False, zero=same_shape)
        return layers.Add()([shortcut, y]) if same_shape else y
    raise ValueError(f"stage kind must be 'res' or 'ir', received '{stage.kind}'.")


def build_network(config: NetworkConfig) -> keras.Model:
    """Build the network.

    Args:
        config: Its shape.

    Returns:
        A model from ``image`` ``(B, H, W, C)`` 0-255 to ``(B, S, K, 3)``: x and y in
        input pixels (an integer is a pixel centre) and the log of the error's Laplace scale.

    Example:
        >>> tiny = NetworkConfig((Stage("res", 8, 1),), stem_channels=8, input_size=(32, 32))
        >>> build_network(tiny).output_shape
        (None, 4, 15, 3)
    """
    image = keras.Input((*config.input_size, config.channels), name="image")
    x = layers.Rescaling(1.0 / 64.0, offset=-2.0)(image)
    x = _conv(x, config.stem_channels, config.stem_kernel, config.stem_stride)
    for stage in config.stages:
        for i in range(stage.blocks):
            x = _block(x, stage, stage.stride if i == 0 else 1)
    if config.pool_channels:
        x = _conv(x, config.pool_channels, 1)
    x = layers.Flatten()(x)
    if config.dropout:
        x = layers.Dropout(config.dropout)(x)
    return with_head(keras.Model(image, x), config)


def with_head(features: keras.Model, config: NetworkConfig) -> keras.Model:
    """A network with a new head on a backbone, whose layers it shares.

    Args:
        features: From images to ``(B, F)``.
        config: Its styles, keypoints, input size and mean places count.

    Returns:
        As :func:`build_network`.
    """
    s, k = len(config.styles), config.keypoints
    head = layers.Dense(
        k * (2 + 3 * s),
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.003),
        dtype="float32",
        name="head",
    )
    points = StylePoints(s, k, max(config.input_size), config.mean_xy, name="points")
    return keras.Model(features.input, points(head(features.output)), name="landmark")
