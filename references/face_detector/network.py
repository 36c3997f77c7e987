"""The face detector's network: one pass over a grey photo, faces at three scales.

A plain backbone halves the image five times; its maps at strides 8, 16 and 32 are joined from the
coarse to the fine, and each cell gives the score that the middle of a face lies in it, where
the box is, and where the eyes and the mouth are (which helps learning; the export leaves them out).
A level answers for faces of about 1.5 to 6 of its cells.

It knows nothing of files, photos or training.
"""

from __future__ import annotations

from dataclasses import dataclass
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


@keras.saving.register_keras_serializable(package="facial_keypoints")
class ScaledConv2D(layers.Layer):  # type: ignore[misc]
    """A convolution whose kernels have mean 0 and a learnt size (Brock et al., 2021, without the mean).

    It trains as calmly as one with batch normalisation and needs no statistics of the batch, which
    on a processor with bfloat16 took two thirds of the time.

    Args:
        filters: Output channels.
        kernel: Kernel size.
        stride: Stride; 'same' padding that does not depend on the size of the image.
        gain: Size that the kernels start with; 1.4 keeps the variance through a ReLU.
    """

    def __init__(
        self, filters: int, kernel: int, stride: int = 1, gain: float = 1.4, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.filters, self.kernel_size, self.stride, self.start = filters, kernel, stride, gain

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the weights."""
        k, channels = self.kernel_size, input_shape[-1]
        # In bfloat16 the mean of a kernel would be lost.
        self.kernel = self.add_weight(
            shape=(k, k, channels, self.filters),
            initializer="he_normal",
            autocast=False,
            name="kernel",
        )
        self.gain = self.add_weight(
            shape=(self.filters,),
            initializer=keras.initializers.Constant(self.start),
            autocast=False,
            name="gain",
        )
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def folded(self) -> Any:
        """The kernel that is convolved with."""
        mean = ops.mean(self.kernel, axis=(0, 1, 2), keepdims=True)
        size = ops.sqrt(ops.sum(ops.square(self.kernel - mean), axis=(0, 1, 2), keepdims=True))
        return (self.kernel - mean) / (size + 1e-6) * self.gain

    def call(self, x: Any) -> Any:
        """Convolve."""
        if self.stride > 1:
            edge = self.kernel_size // 2
            x = ops.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
        padding = "valid" if self.stride > 1 else "same"
        kernel = ops.cast(self.folded(), self.compute_dtype)
        return ops.conv(x, kernel, self.stride, padding) + self.bias

    def get_config(self) -> dict[str, Any]:
        """For saving."""
        return {
            **super().get_config(),
            "filters": self.filters, "kernel": self.kernel_size, "stride": self.stride, "gain": self.start,
        }  # fmt: skip


def _to_signed(pixels: Any) -> Any:
    """0 to 255 to -2 to 2."""
    return layers.Rescaling(1 / 64.0, offset=-2.0)(pixels)


class _Builder:
    """Either the network to train, or the same with plain convolutions to export."""

    def __init__(self, plain: bool) -> None:
        self.plain = plain

    def conv(self, x: Any, channels: int, kernel: int, stride: int = 1, *, relu: bool = True, gain: float = 1.4) -> Any:  # fmt: skip
        if not self.plain:
            x = ScaledConv2D(channels, kernel, stride, gain)(x)
        else:
            if stride > 1:
                x = layers.ZeroPadding2D(kernel // 2)(x)
            x = layers.Conv2D(channels, kernel, stride, padding="same" if stride == 1 else "valid")(
                x
            )
        return layers.Activation("relu")(x) if relu else x

    def block(self, x: Any) -> Any:
        y = self.conv(x, x.shape[-1], 3)
        y = self.conv(y, x.shape[-1], 3, relu=False, gain=0.3)
        return layers.Activation("relu")(layers.Add()([x, y]))


def build_detector(config: DetectorConfig, *, plain: bool = False) -> keras.Model:
    """The network.

    Args:
        config: Its shape.
        plain: With ordinary convolutions and for pixels of -2 to 2, for :func:`build_exportable`.

    Returns:
        Grey images (B, H, W, 1), 0 to 255, with H and W multiples of 32, to (B, M, 10): the cells
        of all levels, finest first, rows before columns, with the numbers of :data:`OUTPUTS`. Places
        are in cells from the cell's middle, the side is the logarithm of cells / 3.
    """
    image, net = keras.Input((None, None, 1), name="image"), _Builder(plain)
    x = image if plain else _to_signed(image)
    x = net.conv(x, config.stem[0], 5, 2)
    x = net.conv(x, config.stem[1], 3, 2)
    maps = []
    for channels, blocks in zip(config.channels, config.blocks, strict=True):
        x = net.conv(x, channels, 3, 2)
        for _ in range(blocks):
            x = net.block(x)
        maps.append(x)
    levels: list[Any] = []
    for x in reversed(maps):
        y = net.conv(x, config.neck, 1, relu=False)
        if levels:
            y = layers.Add()([y, layers.UpSampling2D(2)(levels[0])])
        y = layers.Activation("relu")(y)
        levels.insert(0, net.conv(y, config.neck, 3))
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
    """Cells to boxes in input pixels. Constants are made inside the layer, as tf2onnx needs it.

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


def build_exportable(model: keras.Model, config: DetectorConfig) -> keras.Model:
    """The trained network with plain convolutions and decoding.

    Returns:
        (B, H, W) uint8 to ``boxes`` (B, M, 4) and ``scores`` (B, M).
    """
    plain = build_detector(config, plain=True)
    kinds = (ScaledConv2D, layers.Conv2D)
    ours = [layer for layer in model.layers if isinstance(layer, kinds)]
    theirs = [layer for layer in plain.layers if isinstance(layer, kinds)]
    for trained, layer in zip(ours, theirs, strict=True):
        scaled = isinstance(trained, ScaledConv2D)
        layer.set_weights(
            [
                keras.ops.convert_to_numpy(trained.folded() if scaled else trained.kernel),
                keras.ops.convert_to_numpy(trained.bias),
            ]
        )
    image = keras.Input((None, None), dtype="uint8", name="image")
    # Scaling before the axis of one channel: after it, ONNX Runtime takes 20 times as long.
    pixels = ops.expand_dims(_to_signed(ops.cast(image, "float32")), -1)
    boxes, scores = FaceBoxes(name="decode")(image, plain(pixels))
    return keras.Model(image, {"boxes": boxes, "scores": scores})
