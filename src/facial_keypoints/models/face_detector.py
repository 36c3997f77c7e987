"""The face detector's network: one pass over a grey photo, faces at three scales.

A plain backbone halves the picture five times; its maps at strides 8, 16 and 32 are joined from the
coarse to the fine, and each cell of each says how sure it is that a face's middle lies in it, where
the box is, and where the eyes and the mouth are (which helps learning; the export leaves them out).
A level answers for faces of about 1.5 to 6 of its cells.

It knows nothing of files, photos or training.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import keras
from keras import layers, ops

__all__ = ["STRIDES", "DetectorConfig", "FaceBoxes", "build_detector", "build_exportable"]

STRIDES = (8, 16, 32)
"""Input pixels per cell of each level."""

BASE_SIDE = 3.0
"""Side of a box in cells where the network answers 0 for its logarithm."""

OUTPUTS = 10
"""Numbers per cell: logit, middle x and y, log side, then x and y of right eye, left eye and mouth."""


@dataclass(frozen=True)
class DetectorConfig:
    """Shape of the network.

    Args:
        stem: Channels at strides 2 and 4.
        channels: Channels at strides 8, 16 and 32.
        blocks: Residual blocks at each of them.
        neck: Channels of the joined maps.
    """

    stem: tuple[int, int] = (16, 32)
    channels: tuple[int, int, int] = (64, 96, 96)
    blocks: tuple[int, int, int] = (1, 2, 1)
    neck: int = 64

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)


def _conv(x: Any, channels: int, kernel: int, stride: int = 1, *, relu: bool = True, zero: bool = False) -> Any:  # fmt: skip
    if stride > 1:
        # Keras pads 'same' differently for odd and even sizes; cells must not depend on the size.
        x = layers.ZeroPadding2D(kernel // 2)(x)
    x = layers.Conv2D(
        channels, kernel, stride, padding="same" if stride == 1 else "valid", use_bias=False,
        kernel_initializer="he_normal",
    )(x)  # fmt: skip
    # A residual branch that starts at zero lets deep stacks train at a high rate from step one.
    x = layers.BatchNormalization(
        momentum=0.98, epsilon=1e-3, gamma_initializer="zeros" if zero else "ones"
    )(x)
    return layers.Activation("relu")(x) if relu else x


def _block(x: Any) -> Any:
    y = _conv(x, x.shape[-1], 3)
    y = _conv(y, x.shape[-1], 3, relu=False, zero=True)
    return layers.Activation("relu")(layers.Add()([x, y]))


def build_detector(config: DetectorConfig) -> keras.Model:
    """The network for training.

    Returns:
        Grey pictures (B, H, W, 1), 0 to 255, with H and W multiples of 32, to (B, M, 10): the cells
        of all levels, finest first, rows before columns, with the numbers of :data:`OUTPUTS`. Places
        are in cells from the cell's middle, the side is the logarithm of cells / 3.
    """
    image = keras.Input((None, None, 1), name="image")
    x = layers.Rescaling(1 / 64.0, offset=-2.0)(image)
    x = _conv(x, config.stem[0], 5, 2)
    x = _conv(x, config.stem[1], 3, 2)
    maps = []
    for channels, blocks in zip(config.channels, config.blocks, strict=True):
        x = _conv(x, channels, 3, 2)
        for _ in range(blocks):
            x = _block(x)
        maps.append(x)
    levels: list[Any] = []
    for x in reversed(maps):
        y = _conv(x, config.neck, 1, relu=False)
        if levels:
            y = layers.Add()([y, layers.UpSampling2D(2)(levels[0])])
        y = layers.Activation("relu")(y)
        levels.insert(0, _conv(y, config.neck, 3))
    outputs = []
    for x in levels:
        # One in a hundred cells holds a face: starting there keeps the first steps calm.
        score = layers.Conv2D(1, 1, bias_initializer=keras.initializers.Constant(-4.6))(x)
        place = layers.Conv2D(OUTPUTS - 1, 1, kernel_initializer="zeros")(x)
        y = layers.Concatenate(dtype="float32")([score, place])
        outputs.append(layers.Reshape((-1, OUTPUTS))(y))
    answer = layers.Concatenate(axis=1, dtype="float32", name="cells")(outputs)
    return keras.Model(image, answer, name="face_detector")


@keras.saving.register_keras_serializable(package="facial_keypoints")
class FaceBoxes(layers.Layer):  # type: ignore[misc]
    """Turns the cells into boxes in input pixels; its constants live inside for tf2onnx.

    Output: (B, M, 4) xyxy and (B, M) scores.
    """

    def call(self, image: Any, cells: Any) -> tuple[Any, Any]:
        """Decode.

        Args:
            image: (B, H, W); only its size matters.
            cells: (B, M, 10).
        """
        columns, rows, strides = [], [], []
        for stride in STRIDES:
            one = ops.ones_like(ops.cast(image[0, ::stride, ::stride], "float32"))
            columns.append(ops.reshape(ops.cumsum(one, axis=1) - 0.5, (-1,)))
            rows.append(ops.reshape(ops.cumsum(one, axis=0) - 0.5, (-1,)))
            strides.append(ops.reshape(one * stride, (-1,)))
        step = ops.concatenate(strides)[None]
        x = (ops.concatenate(columns)[None] + cells[..., 1]) * step
        y = (ops.concatenate(rows)[None] + cells[..., 2]) * step
        half = ops.exp(cells[..., 3]) * step * (BASE_SIDE / 2.0)
        return ops.stack([x - half, y - half, x + half, y + half], axis=-1), ops.sigmoid(cells[..., 0])  # fmt: skip


def build_exportable(model: keras.Model) -> keras.Model:
    """The trained network with decoding: (B, H, W) uint8 to ``boxes`` and ``scores``."""
    image = keras.Input((None, None), dtype="uint8", name="image")
    pixels = ops.expand_dims(ops.cast(image, "float32"), -1)
    boxes, scores = FaceBoxes(name="decode")(image, model(pixels))
    return keras.Model(image, {"boxes": boxes, "scores": scores})
