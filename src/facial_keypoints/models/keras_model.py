"""Opening saved Keras networks, and decoding their output to pixels and confidence.

Decoding is part of the graph and is shared by the Keras runtime and the ONNX export, so that the two
cannot differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
from keras import layers, ops

from facial_keypoints.errors import ModelError
from facial_keypoints.models import landmark, study, tuned
from facial_keypoints.models.codec import CONFIDENCE_RADIUS, confidence_within, decode
from facial_keypoints.models.spec import ModelSpec

__all__ = ["load_decoded", "load_keras_model", "with_decoding"]

_ = (landmark, study, tuned)  # imported because Keras finds their layers by name


class _Decoding(layers.Layer):  # type: ignore[misc]
    """A layer from the output of a network to input pixels.

    Args:
        input_size: (height, width) of the input in pixels.
    """

    def __init__(self, input_size: tuple[int, int], name: str) -> None:
        super().__init__(dtype="float32", name=name)
        self.input_size = (int(input_size[0]), int(input_size[1]))


class DecodeTargets(_Decoding):
    """The study's targets (N, K, 2) to input pixels (N, 1, K, 2)."""

    def call(self, targets: Any) -> Any:
        """See :func:`facial_keypoints.models.codec.decode`."""
        # Constants must be made in the layer: tf2onnx makes missing inputs of captured ones.
        return ops.expand_dims(decode(targets, self.input_size), 1)


class DecodePoints(_Decoding):
    """Points with log error scales (N, S, K, 3) to input pixels and confidence."""

    def call(self, points: Any) -> tuple[Any, Any]:
        """(N, S, K, 2) pixels and (N, S, K) confidence in [0, 1]."""
        ratio = CONFIDENCE_RADIUS * max(self.input_size) * ops.exp(-points[..., 2])
        return points[..., :2], confidence_within(ratio, ops.exp)


def with_decoding(model: keras.Model, spec: ModelSpec) -> keras.Model:
    """The model from uint8 images to decoded predictions.

    Args:
        model: A network whose output is as ``spec.output`` says.
        spec: Its description.

    Returns:
        A model from ``image`` (N, H, W, C) uint8 to ``{"xy": (N, S, K, 2)}`` in input pixels and,
        where the network estimates its error, ``"confidence": (N, S, K)`` in [0, 1].

    Raises:
        ModelError: The network does not fit its description.
    """
    s, k = len(spec.styles), spec.schema.num_keypoints
    expected: dict[str, tuple[int, ...]] = {"coordinates": (k, 2), "points": (s, k, 3)}
    if spec.output not in expected:
        raise ModelError(
            f"the model '{spec.name}' has outputs of the form '{spec.output}', which this version does not "
            "know: update facial-keypoints."
        )
    wanted = ((None, *spec.input_size, spec.channels), (None, *expected[spec.output]))
    if (model.input_shape, model.output_shape) != wanted or (
        spec.output == "coordinates" and s != 1
    ):
        raise ModelError(
            f"the model '{spec.name}' maps {model.input_shape} to {model.output_shape}, but its "
            f"description says {wanted[0]} to {wanted[1]}: export or train it again."
        )
    image = keras.Input((*spec.input_size, spec.channels), dtype="uint8", name="image")
    answer = model(ops.cast(image, "float32"))
    if spec.output == "coordinates":
        return keras.Model(image, {"xy": DecodeTargets(spec.input_size, name="xy")(answer)})
    xy, confidence = DecodePoints(spec.input_size, name="points")(answer)
    return keras.Model(image, {"xy": xy, "confidence": confidence})


def load_keras_model(path: Path) -> keras.Model:
    """Load a ``.keras`` file for prediction, running no code that it may carry.

    Raises:
        ModelError: The file is missing, corrupt, or wants to run code.
    """
    if not path.is_file():
        raise ModelError(f"there is no model file {path}.")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, KeyError, OSError, AttributeError, ImportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"the model file {path} cannot be loaded: {reason}") from error


def load_decoded(path: Path, spec: ModelSpec) -> keras.Model:
    """Load a ``.keras`` file and put its decoding behind it.

    Raises:
        ModelError: As :func:`load_keras_model` and :func:`with_decoding`.
    """
    return with_decoding(load_keras_model(path), spec)
