"""The face detector's network: one pass over a grey photo, faces at three scales.

A plain backbone halves the image five times; its maps at strides 8, 16 and 32 are joined from the
coarse to the fine, and each cell gives the score that the middle of a face lies in it, where
the box is, and, if it is trained with them, where points of the face are (which helps learning; the export
leaves them out). A level answers for faces of about 1.5 to 6 of its cells.

It knows nothing of photos or training.
"""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from facial_keypoints.errors import MissingExtraError, ModelError
from facial_keypoints.files import atomic_path
from facial_keypoints.models.export import halve_weights
from facial_keypoints.models.registry import DETECTOR_KEY

__all__ = [
    "BASE_SIDE",
    "STRIDES",
    "DetectorConfig",
    "FaceBoxes",
    "build_detector",
    "build_exportable",
    "export_detector",
    "set_threshold",
    "start_from",
]

STRIDES = (8, 16, 32)
"""Input pixels per cell of each level."""

BASE_SIDE = 3.0
"""Side of a box in cells where the network answers 0 for its logarithm."""


@dataclass(frozen=True)
class DetectorConfig:
    """Shape of the network.

    Args:
        stem: Channels at strides 2 and 4.
        channels: Channels at strides 8, 16 and 32.
        blocks: Residual blocks at each of them.
        neck: Channels of the joined maps.
        points: Points of the face that it learns besides its box; the shipped one learns the right eye, the
            left eye and the middle of the mouth.
    """

    stem: tuple[int, int] = (16, 32)
    channels: tuple[int, int, int] = (64, 96, 96)
    blocks: tuple[int, int, int] = (1, 2, 1)
    neck: int = 64
    points: int = 3

    @property
    def outputs(self) -> int:
        """Numbers per cell: logit, middle x and y, log side, then x and y of each point."""
        return 4 + 2 * self.points


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
        Grey images (B, H, W, 1), 0 to 255, with H and W multiples of 32, to (B, M, outputs): the
        cells of all levels, finest first, rows before columns. Places
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
        place = layers.Conv2D(config.outputs - 1, 1, kernel_initializer="zeros")(x)
        y = layers.Concatenate(dtype="float32")([score, place])
        outputs.append(layers.Reshape((-1, config.outputs))(y))
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
            cells: (B, M, outputs).
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


def export_detector(
    model: keras.Model,
    path: Path,
    config: DetectorConfig,
    *,
    longest_side: int,
    threshold: float = 0.5,
    max_enlarge: float = 1.5,
) -> None:
    """Write a trained network as ONNX for :class:`facial_keypoints.inference.detector.OnnxFaceDetector`.

    Its weights are stored in 16 bits.

    Args:
        model: From :func:`build_detector`.
        path: The file to write.
        config: The network's shape.
        longest_side: Pixels of the longest side of the photos that the network is given.
        threshold: Least score of a face.
        max_enlarge: Small photos are enlarged by no more than this.

    Raises:
        MissingExtraError: The converter is not installed.
        OutputError: The file cannot be written.
    """
    onnx = _import_onnx()
    exported = build_exportable(model, config)
    about = {
        "longest_side": longest_side, "threshold": round(threshold, 4), "overlap": 0.35,
        "max_enlarge": max_enlarge, "multiple": STRIDES[-1],
    }  # fmt: skip
    with atomic_path(path) as temporary:
        file = temporary.with_suffix(".onnx")
        shape = keras.InputSpec(shape=(1, None, None), dtype="uint8", name="image")
        with warnings.catch_warnings():
            # Keras 3.15 asks numpy for names that tf2onnx needs and numpy 2 announces anew.
            warnings.simplefilter("ignore", FutureWarning)
            exported.export(
                file, format="onnx", opset_version=18, verbose=False, input_signature=[shape]
            )
        graph = onnx.load(str(file))
        halve_weights(graph.graph)
        onnx.helper.set_model_props(graph, {DETECTOR_KEY: json.dumps(about)})
        onnx.checker.check_model(graph)
        file.unlink()
        onnx.save(graph, str(temporary))


def set_threshold(path: Path, threshold: float) -> None:
    """Change the least score of a face of an exported detector."""
    onnx = _import_onnx()
    graph = onnx.load(str(path))
    entry = next(entry for entry in graph.metadata_props if entry.key == DETECTOR_KEY)
    entry.value = json.dumps({**json.loads(entry.value), "threshold": round(threshold, 4)})
    with atomic_path(path) as temporary:
        onnx.save(graph, str(temporary))


def _import_onnx() -> Any:
    try:
        import onnx
        import tf2onnx  # noqa: F401  (Keras converts with it)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "onnx", "train", "Training a detector") from error
    return onnx


def start_from(model: keras.Model, path: Path) -> None:
    """Give a network the weights of an exported one, in place.

    Args:
        model: From :func:`build_detector`, with the same shape; it may learn fewer points.
        path: What :func:`export_detector` wrote.

    Raises:
        ModelError: The file has another shape.
    """
    ours = [v for v in model.layers if isinstance(v, ScaledConv2D | layers.Conv2D)]
    # Names are numbered as layers are made, while a model lists its layers by their depth. The heads are made last.
    ours.sort(key=lambda v: (not isinstance(v, ScaledConv2D), _numbers(v.name, "conv2d")))
    theirs = _read_convolutions(path)
    if len(ours) != len(theirs):
        raise ModelError(f"{path} has other layers than the network to train.")
    for layer, (kernel, bias) in zip(ours, theirs, strict=True):
        scaled, count = isinstance(layer, ScaledConv2D), layer.kernel.shape[3]
        if kernel.shape[:3] != layer.kernel.shape[:3] or (scaled and kernel.shape[3] != count):
            raise ModelError(f"{path} has other layers than the network to train.")
        layer.kernel.assign(kernel[..., :count])
        layer.bias.assign(bias[:count])
        if scaled:
            layer.gain.assign(np.sqrt(np.sum(kernel**2, axis=(0, 1, 2))))


def _numbers(name: str, kind: str) -> tuple[int, ...]:
    """The numbers that follow a kind of layer in a name: ``scaled_conv2d_3`` gives (3,)."""
    found = re.search(rf"{kind}((?:_\d+)*)", name)
    return tuple(map(int, re.findall(r"\d+", found[1]))) if found else ()


def _read_convolutions(path: Path) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Kernels (h, w, in, out) and biases of an exported detector, in the order in which they were built."""
    onnx = _import_onnx()
    graph = onnx.load(str(path)).graph
    arrays = {
        tensor.name.removesuffix("_half"): onnx.numpy_helper.to_array(tensor).astype(np.float32)
        for tensor in graph.initializer
    }
    convolutions = [node.input for node in graph.node if node.op_type == "Conv"]
    convolutions.sort(key=lambda names: _numbers(names[1], "/conv2d"))
    kernels = [arrays[kernel].transpose(2, 3, 1, 0) for _, kernel, *_ in convolutions]
    # The converter leaves out a bias of zeros.
    biases = [arrays[names[2]] if len(names) > 2 else None for names in convolutions]
    return [
        (kernel, np.zeros(kernel.shape[3], np.float32) if bias is None else bias)
        for kernel, bias in zip(kernels, biases, strict=True)
    ]
