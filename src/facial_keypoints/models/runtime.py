"""One method for every model file: images at input size in, input pixels and confidence out.

An ONNX file of this package carries its decoding in the graph and its description in the metadata,
so prediction needs no training library; Keras is imported only when a Keras model is opened.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.cluster import available_cores
from facial_keypoints.errors import ModelError
from facial_keypoints.models.spec import (
    DIGESTS_KEY,
    METADATA_KEY,
    ModelSpec,
    digests_from_text,
    read_embedded_digests,
    read_embedded_spec,
)
from facial_keypoints.types import ImageArray

if TYPE_CHECKING:
    import onnxruntime

__all__ = [
    "Runtime",
    "find_model",
    "load_runtime",
    "read_spec",
    "read_training_digests",
    "shipped_models",
]

Answer = tuple[NDArray[np.float32], NDArray[np.float32] | None]


class Runtime(Protocol):
    """A loaded model."""

    @property
    def spec(self) -> ModelSpec:
        """What the model says about itself."""

    def run(self, images: ImageArray) -> Answer:
        """Answer one batch.

        Args:
            images: (B, H, W, C) uint8 of exactly the model's input size.

        Returns:
            xy (B, S, K, 2) float32 in input pixels, and confidence (B, S, K) float32 in [0, 1] or
            ``None`` where the model estimates none. S is the model's label styles.
        """


def shipped_models() -> dict[str, Path]:
    """The models that come with this package, by the name that ``--model`` takes."""
    folder = Path(str(resources.files("facial_keypoints.models"))) / "weights"
    files = sorted(folder.glob("*.onnx"))
    return {file.stem: file for file in files if file.stem != "face_detector"}  # finds no points


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
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, received {threads}.")
    path = find_model(model)
    return _OnnxModel(path, threads) if _is_onnx(path) else _KerasModel(path)


def read_spec(model: str | os.PathLike[str]) -> ModelSpec:
    """What a model says about itself; Keras is not needed for it.

    Raises:
        ModelError: As for :func:`load_runtime`.
    """
    path = find_model(model)
    return _OnnxModel(path, 1).spec if _is_onnx(path) else read_embedded_spec(path)


def read_training_digests(model: str | os.PathLike[str]) -> frozenset[bytes] | None:
    """Digests of the images that a model learnt from, or that chose its epoch.

    Returns:
        What :func:`facial_keypoints.data.duplicates.image_digests` gives for these images at the
        model's input size; ``None`` if the file does not tell them.

    Raises:
        ModelError: As for :func:`load_runtime`.
    """
    path = find_model(model)
    return _OnnxModel(path, 1).digests() if _is_onnx(path) else read_embedded_digests(path)


def _is_onnx(path: Path) -> bool:
    return path.suffix.lower() == ".onnx"


def find_model(model: str | os.PathLike[str]) -> Path:
    """The file of a model.

    Raises:
        ModelError: There is no such model.
    """
    path, shipped = Path(model), shipped_models()
    if str(model) in shipped:
        return shipped[str(model)]
    if str(model) == "default" and not path.exists():
        raise ModelError(
            "this build of facial-keypoints comes without the model 'default': name a run folder, a "
            ".keras or an .onnx file instead."
        )
    if path.is_dir():
        file = path / "model.keras"
        if not file.is_file():
            raise ModelError(
                f"{path} is not a finished run (it has no model.keras): continue its training with "
                "--resume, or name another model."
            )
        return file
    if not path.is_file():
        raise ModelError(
            f"there is no model {path}: name a run folder, a .keras or an .onnx file, or one of the "
            f"shipped models ({', '.join(shipped) or 'none in this build'})."
        )
    return path


class _OnnxModel:
    """An ONNX file that this package exported."""

    def __init__(self, path: Path, threads: int | None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # onnxruntime counts the cores of the machine, which may be more than this process may use.
        options.intra_op_num_threads = threads or available_cores()
        options.inter_op_num_threads = 1
        # Threads that spin while they wait take the cores from those that read images: a quarter
        # fewer files a second on two cores, and the processor busy for nothing in between.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # what goes wrong is told in our own sentence
        try:
            self._session: onnxruntime.InferenceSession = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no common base but Exception
            reason = " ".join(str(error).split())[:160]
            raise ModelError(f"{path} is no readable ONNX model ({reason}).") from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        if METADATA_KEY not in metadata:
            raise ModelError(
                f"{path} was not exported by this package (its metadata has no {METADATA_KEY}): make one "
                "with 'facial-keypoints export'."
            )
        self.spec = ModelSpec.from_json(metadata[METADATA_KEY])
        self._check(path)

    def digests(self) -> frozenset[bytes] | None:
        """Of the images that the model learnt from, where the file tells them."""
        text = self._session.get_modelmeta().custom_metadata_map.get(DIGESTS_KEY)
        return None if text is None else digests_from_text(text)

    def _check(self, path: Path) -> None:
        """Compare the graph with the description that it carries."""
        spec, k = self.spec, self.spec.schema.num_keypoints
        shapes = {node.name: node.shape for node in self._session.get_outputs()}
        inputs = self._session.get_inputs()
        expected = {"xy": [len(spec.styles), k, 2], "confidence": [len(spec.styles), k]}
        fits = (
            len(inputs) == 1
            and inputs[0].name == "image"
            and inputs[0].shape[1:] == [*spec.input_size, spec.channels]
            and "xy" in shapes
            and all(
                len(shapes[name]) == len(shape) + 1
                and all(
                    isinstance(a, str | None) or a == b
                    for a, b in zip(shapes[name][1:], shape, strict=True)
                )
                for name, shape in expected.items()
                if name in shapes
            )
        )
        if not fits:
            raise ModelError(
                f"{path} has inputs and outputs other than its description says: export it again."
            )
        self._input_type = np.uint8 if inputs[0].type == "tensor(uint8)" else np.float32
        self._outputs = [name for name in expected if name in shapes]

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
        from facial_keypoints.models.keras_backend import choose_backend

        self.spec = read_embedded_spec(path)
        choose_backend()
        from facial_keypoints.models.codec import load_decoded

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
