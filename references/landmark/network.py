"""The shipped detector's network: one small backbone, one set of keypoints per label style.

The network maps a grey face crop to every keypoint in every label style at once, with the logarithm
of each point's expected error. The points of a style are a *shared* prediction plus an offset of that
style, so that a style with few people (Kaggle's style A) gains from the large ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from facial_keypoints.models.landmark import StylePoints

__all__ = ["NetworkConfig", "Stage", "build_network"]


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
