"""The shipped detector's network: one small backbone, one set of keypoints per label style.

The network maps a grey face crop to every keypoint in every label style at once, with the logarithm
of each point's expected error. A style's points are a *shared* prediction plus a style-specific
offset, both read off the same features, so that a style with few people (Kaggle's style A) borrows
from the large ones and keeps only what is its own.

It knows nothing of files, data sets or training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

__all__ = ["NetworkConfig", "Stage", "build_network"]

# Keypoint means of the training rows in 96-pixel crops, rounded; only where the network starts.
_MEAN_XY = (
    (66.4, 37.0), (29.8, 37.0), (60.2, 37.8), (72.7, 37.9), (36.0, 37.8), (23.4, 38.0),
    (57.1, 28.9), (79.0, 30.0), (38.8, 29.0), (16.6, 30.4), (48.3, 55.2), (62.6, 75.8),
    (33.9, 76.0), (48.1, 70.3), (48.2, 83.8),
)  # fmt: skip


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
        input_size: Side of the square input, pixels.
        styles: Label styles, in the order of the S axis.
        keypoints: K.
    """

    stages: tuple[Stage, ...]
    stem_channels: int = 32
    stem_kernel: int = 7
    stem_stride: int = 4
    pool_channels: int = 0
    dropout: float = 0.0
    input_size: int = 96
    styles: tuple[str, ...] = ("kaggle-a", "kaggle-b", "ibug", "five")
    keypoints: int = 15


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


@keras.saving.register_keras_serializable(package="facial_keypoints")
class StylePoints(layers.Layer):  # type: ignore[misc]
    """Splits the head's numbers into points and log scales; constants live inside for tf2onnx.

    Args:
        styles: S.
        keypoints: K.
        input_size: Side of the input, pixels.

    Output: ``(B, S, K, 3)``: x, y in input pixels and the log of the Laplace scale in pixels.
    """

    def __init__(self, styles: int, keypoints: int, input_size: int, **kwargs: Any) -> None:
        # Coordinates of up to 96 would lose a quarter of a pixel in bfloat16.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.styles, self.keypoints, self.input_size = styles, keypoints, input_size

    def call(self, inputs: Any) -> Any:
        """Map ``(B, K * (2 + 3 S))`` to ``(B, S, K, 3)``."""
        s, k = self.styles, self.keypoints
        scale = self.input_size / 96.0
        mean = np.asarray(_MEAN_XY[:k], np.float32).reshape(1, 1, k, 2) * scale
        shared = ops.reshape(inputs[:, : 2 * k], (-1, 1, k, 2))
        own = ops.reshape(inputs[:, 2 * k : 2 * k + 2 * s * k], (-1, s, k, 2))
        log_scale = ops.reshape(inputs[:, 2 * k + 2 * s * k :], (-1, s, k, 1))
        # Head numbers near 1 then mean a typical move of a point over the faces of a crop.
        xy = mean + (8.0 * scale) * shared + (4.0 * scale) * own
        return ops.concatenate([xy, ops.clip(log_scale, -4.0, 4.0)], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Arguments to rebuild the layer."""
        return {
            **super().get_config(),
            "styles": self.styles,
            "keypoints": self.keypoints,
            "input_size": self.input_size,
        }


def build_network(config: NetworkConfig) -> keras.Model:
    """Build the network.

    Args:
        config: Its shape.

    Returns:
        A model from ``image`` ``(B, H, W, 1)`` float32 grey 0-255 to ``(B, S, K, 3)``: x and y in
        input pixels (an integer is a pixel centre) and the log of the error's Laplace scale.

    Example:
        >>> tiny = NetworkConfig((Stage("res", 8, 1),), stem_channels=8, input_size=32)
        >>> build_network(tiny).output_shape
        (None, 4, 15, 3)
    """
    size, s, k = config.input_size, len(config.styles), config.keypoints
    image = keras.Input((size, size, 1), name="image")
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
    x = layers.Dense(
        k * (2 + 3 * s),
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.003),
        dtype="float32",
        name="head",
    )(x)
    return keras.Model(image, StylePoints(s, k, size, name="points")(x), name="landmark")
