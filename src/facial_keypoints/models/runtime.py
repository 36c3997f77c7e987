"""One method for every model file: images at input size in, input pixels and confidence out.

An ONNX file of this package has its decoding in the graph and its description in the metadata, so
prediction needs no training library; Keras is imported only when a Keras model is opened.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.errors import ModelError
from facial_keypoints.models.registry import find_model, is_onnx, open_onnx
from facial_keypoints.models.spec import (
    DIGESTS_KEY,
    METADATA_KEY,
    ModelSpec,
    digests_from_text,
    read_embedded_digests,
    read_embedded_spec,
)
from facial_keypoints.types import ImageArray

__all__ = ["Runtime", "load_runtime", "read_spec", "read_training_digests"]

Answer = tuple[NDArray[np.float32], NDArray[np.float32] | None]


class Runtime(Protocol):
    """A loaded model."""

    @property
    def spec(self) -> ModelSpec:
        """The model's description."""

    def run(self, images: ImageArray) -> Answer:
        """Predict one batch.

        Args:
            images: (B, H, W, C) uint8 of exactly the model's input size.

        Returns:
            xy (B, S, K, 2) float32 in input pixels, and confidence (B, S, K) float32 in [0, 1] or
            ``None`` where the model estimates none. S is the model's label styles.
        """


def load_runtime(
    model: str | os.PathLike[str] = "default", *, threads: int | None = None
) -> Runtime:
    """Open a model for prediction.

    Args:
        model: ``default`` or another shipped name, a run folder, a ``.keras`` or an ``.onnx`` file.
        threads: Threads that one batch is computed with, for ONNX models; every core this process
            may use when left out. Keras uses what its backend is set to.

    Raises:
        ModelError: There is no such model, it is corrupt, or this package did not write it.
        MissingExtraError: It is a Keras model and Keras is not installed.
    """
    path = find_model(model)
    return _OnnxModel(path, threads) if is_onnx(path) else _KerasModel(path)


def read_spec(model: str | os.PathLike[str]) -> ModelSpec:
    """A model's description; Keras is not needed for it.

    Raises:
        ModelError: As for :func:`load_runtime`.
    """
    path = find_model(model)
    return _OnnxModel(path, 1).spec if is_onnx(path) else read_embedded_spec(path)


def read_training_digests(model: str | os.PathLike[str]) -> frozenset[bytes] | None:
    """Digests of the images that a model was trained on, or that chose its epoch.

    Returns:
        What :func:`facial_keypoints.data.duplicates.image_digests` gives for these images at the
        model's input size; ``None`` if the file has none.

    Raises:
        ModelError: As for :func:`load_runtime`.
    """
    path = find_model(model)
    return _OnnxModel(path, 1).digests() if is_onnx(path) else read_embedded_digests(path)


class _OnnxModel:
    """An ONNX file that this package exported."""

    def __init__(self, path: Path, threads: int | None) -> None:
        self._session = open_onnx(path, threads)
        metadata = self._session.get_modelmeta().custom_metadata_map
        if METADATA_KEY not in metadata:
            raise ModelError(
                f"{path} was not exported by this package (its metadata has no {METADATA_KEY}): make one "
                "with 'facial-keypoints export'."
            )
        self.spec = ModelSpec.from_json(metadata[METADATA_KEY])
        self._check(path)

    def digests(self) -> frozenset[bytes] | None:
        """Of the training images; ``None`` if the file has none."""
        text = self._session.get_modelmeta().custom_metadata_map.get(DIGESTS_KEY)
        return None if text is None else digests_from_text(text)

    def _check(self, path: Path) -> None:
        """Compare the graph with the description that it carries."""
        spec, k = self.spec, self.spec.schema.num_keypoints
        inputs = self._session.get_inputs()
        shapes = {node.name: node.shape[1:] for node in (*inputs, *self._session.get_outputs())}
        expected = {
            "image": [*spec.input_size, spec.channels],
            "xy": [len(spec.styles), k, 2],
            "confidence": [len(spec.styles), k],
        }

        def fits(name: str) -> bool:  # axes without a size in the graph fit any
            shape, wanted = shapes[name], expected[name]
            return len(shape) == len(wanted) and all(
                isinstance(a, str | None) or a == b for a, b in zip(shape, wanted, strict=True)
            )

        known = [name for name in expected if name in shapes]
        if len(inputs) != 1 or known[:2] != ["image", "xy"] or not all(map(fits, known)):
            raise ModelError(
                f"{path} has inputs and outputs other than its description says: export it again."
            )
        self._input_type = np.uint8 if inputs[0].type == "tensor(uint8)" else np.float32
        self._outputs = known[1:]

    def run(self, images: ImageArray) -> Answer:
        _check_images(images, self.spec)
        if len(images) == 0:
            return _nothing(self.spec, "confidence" in self._outputs)
        batch = np.ascontiguousarray(images, dtype=self._input_type)
        answer = self._session.run(self._outputs, {"image": batch})
        xy: NDArray[np.float32] = np.asarray(answer[0], np.float32)
        return xy, np.asarray(answer[1], np.float32) if len(answer) > 1 else None


class _KerasModel:
    """A ``.keras`` file that this package saved, with the same decoding as the export puts in."""

    def __init__(self, path: Path) -> None:
        from facial_keypoints.models.keras_backend import import_keras

        self.spec = read_embedded_spec(path)
        import_keras()
        from facial_keypoints.models.keras_model import load_decoded

        self._model: Any = load_decoded(path, self.spec)

    def run(self, images: ImageArray) -> Answer:
        _check_images(images, self.spec)
        confident = "confidence" in self._model.output
        if len(images) == 0:
            return _nothing(self.spec, confident)
        answer = self._model.predict(images, batch_size=len(images), verbose=0)
        xy: NDArray[np.float32] = np.asarray(answer["xy"], np.float32)
        return xy, np.asarray(answer["confidence"], np.float32) if confident else None


def _check_images(images: ImageArray, spec: ModelSpec) -> None:
    wanted = (*spec.input_size, spec.channels)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != wanted:
        raise ValueError(
            f"images must be uint8 with shape (B, {', '.join(map(str, wanted))}), "
            f"received {images.dtype} {images.shape}."
        )


def _nothing(spec: ModelSpec, confident: bool) -> Answer:
    shape = (0, len(spec.styles), spec.schema.num_keypoints)
    xy = np.zeros((*shape, 2), np.float32)
    return xy, np.zeros(shape, np.float32) if confident else None
