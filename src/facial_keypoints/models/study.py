"""The networks of the study, a fully connected one and a convolutional one, and its error as a metric.

Both take raw grey images (B, H, W, 1) with values 0-255, scale them to [0, 1] inside the graph,
and give (B, K, 2) coordinates as the study's targets: (x - W/2) / (W/2), so (x - 48) / 48 on
96-pixel images.

Layer sizes are those of the Keras study on Kaggle's *Facial Keypoints Detection*. Training begins with
:func:`start_at` the mean face: from random weights the first epochs only learn where a face's points are
on average (``docs/experiments.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from facial_keypoints.models.codec import encode
from facial_keypoints.types import FloatArray

__all__ = ["RmsePixels", "build_cnn", "build_fc", "build_specialists", "start_at"]

SMALLEST_CNN_SIDE = 56  # four 2x2 poolings and three unpadded convolutions leave nothing below this


def build_fc(num_keypoints: int, input_size: tuple[int, int]) -> keras.Model:
    """The fully connected network: 128 relu, dropout 0.1, 64 relu, 2K.

    Args:
        num_keypoints: K.
        input_size: (height, width) of the images in pixels.
    """
    inputs = keras.Input((*input_size, 1), name="image")
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Flatten()(x)
    x = layers.Dense(128, activation="relu")(x)
    x = layers.Dropout(0.1)(x)
    x = layers.Dense(64, activation="relu")(x)
    x = layers.Dense(2 * num_keypoints, name="coordinates")(x)
    return keras.Model(inputs, layers.Reshape((num_keypoints, 2), name="xy")(x), name="fc")


def build_cnn(num_keypoints: int, input_size: tuple[int, int], *, name: str = "cnn") -> keras.Model:
    """The convolutional network: four convolution blocks, then 500, 128 and 2K units.

    Args:
        num_keypoints: K.
        input_size: (height, width) of the images in pixels, each at least 56.
        name: Name of the model.

    Raises:
        ValueError: The images are too small for the four poolings.
    """
    if min(input_size) < SMALLEST_CNN_SIDE:
        raise ValueError(
            f"the cnn needs images of at least {SMALLEST_CNN_SIDE}×{SMALLEST_CNN_SIDE} pixels, "
            f"received {input_size[1]}×{input_size[0]}; use the recipe 'fc' or enlarge the images."
        )
    inputs = keras.Input((*input_size, 1), name="image")
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(16, 2, padding="same", activation="relu")(x)
    x = layers.Dropout(0.1)(x)
    x = layers.MaxPooling2D()(x)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(32, 5, activation="relu")(x)
    x = layers.MaxPooling2D()(x)
    x = layers.Dropout(0.2)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(64, 5, activation="relu")(x)
    x = layers.MaxPooling2D()(x)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(128, 3, activation="relu")(x)
    x = layers.MaxPooling2D()(x)
    x = layers.Dropout(0.4)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Flatten()(x)
    x = layers.Dense(500, activation="relu")(x)
    x = layers.Dropout(0.1)(x)
    x = layers.Dense(128, activation="relu")(x)
    x = layers.Dropout(0.1)(x)
    x = layers.Dense(2 * num_keypoints, name="coordinates")(x)
    return keras.Model(inputs, layers.Reshape((num_keypoints, 2), name="xy")(x), name=name)


def start_at(model: keras.Model, xy: FloatArray) -> None:
    """Set the last layer so that the network predicts the points ``xy`` (K, 2), pixels, for every image.

    With random weights there, dropout disturbs the mean face as much as it disturbs what is learnt of the
    single face, and drowns that for many epochs.
    """
    layer = model.get_layer("coordinates")
    layer.set_weights([np.zeros(layer.kernel.shape), encode(xy, model.input_shape[1:3]).ravel()])


def build_specialists(
    experts: Sequence[keras.Model], groups: Sequence[Sequence[int]], input_size: tuple[int, int]
) -> keras.Model:
    """One model of experts for different keypoints, whose outputs are put in schema order.

    Args:
        experts: One model per group, (B, H, W, 1) -> (B, len(group), 2).
        groups: Keypoint indices that each expert predicts; together 0..K-1, each once.
        input_size: (height, width) of the images in pixels.

    Raises:
        ValueError: The groups do not cover every keypoint exactly once.
    """
    order = [index for group in groups for index in group]
    if sorted(order) != list(range(len(order))):
        raise ValueError(f"groups must name each keypoint once, received {list(groups)}.")
    inputs = keras.Input((*input_size, 1), name="image")
    answers = [expert(inputs) for expert in experts]
    together = layers.Concatenate(axis=1)(answers) if len(answers) > 1 else answers[0]
    # Slices work with every backend and the ONNX export; a gather with a captured constant does not.
    singles = [together[:, order.index(k) : order.index(k) + 1] for k in range(len(order))]
    outputs = layers.Concatenate(axis=1, name="xy")(singles) if len(singles) > 1 else singles[0]
    return keras.Model(inputs, outputs, name="specialists")


@keras.saving.register_keras_serializable(package="facial_keypoints")
class RmsePixels(keras.metrics.Metric):  # type: ignore[misc]
    """The study's RMSE over labelled coordinates, in pixels.

    Args:
        half_size: (W/2, H/2) of the images, or 1 and 1: targets times this are pixels.
    """

    def __init__(self, half_size: Sequence[float], name: str = "rmse_px", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.half_size = [float(v) for v in half_size]
        self.total = self.add_weight(name="total", initializer="zeros")
        self.count = self.add_weight(name="count", initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add targets (B, ..., 2), predictions (B, ..., 2 or more) and weights (B, ...)."""
        half = ops.convert_to_tensor(self.half_size, dtype="float32")
        error = (ops.cast(y_true, "float32") - ops.cast(y_pred[..., :2], "float32")) * half
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
