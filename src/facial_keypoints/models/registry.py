"""Finding the file of a model or a face detector, and opening an ONNX file."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from facial_keypoints.cluster import available_cores
from facial_keypoints.errors import ModelError

if TYPE_CHECKING:
    import onnxruntime

__all__ = [
    "DETECTOR_KEY",
    "OWN_DETECTOR",
    "RUN_MODEL",
    "find_detector",
    "find_model",
    "find_own_detector",
    "is_onnx",
    "open_onnx",
    "shipped_models",
]

DETECTOR_KEY = "facial_keypoints_detector"
"""Name of the entry in an ONNX file's metadata that describes a detector of this package."""

RUN_MODEL = "model.keras"
"""The model in a run folder."""

OWN_DETECTOR = "detector.onnx"
"""The detector in a run folder that was trained together with its model."""

_DETECTOR = "face_detector"


def _weights() -> Path:
    return Path(str(resources.files("facial_keypoints.models"))) / "weights"


def shipped_models() -> dict[str, Path]:
    """The keypoint models that come with this package, by the name that ``--model`` takes."""
    return {f.stem: f for f in sorted(_weights().glob("*.onnx")) if f.stem != _DETECTOR}


def find_model(model: str | os.PathLike[str] = "default", *, trainable: bool = False) -> Path:
    """The file of a keypoint model.

    Args:
        model: ``default`` (15 points), ``ibug68`` (68 points), a run folder, a ``.keras`` or an ``.onnx`` file.
        trainable: Give the ``.keras`` file, which can be trained further and exported.

    Raises:
        ModelError: There is no such model, or it is an ONNX file that should be trainable.
    """
    path, shipped = Path(model), shipped_models()
    if str(model) in shipped:
        path = shipped[str(model)].with_suffix(".keras" if trainable else ".onnx")
    elif str(model) == "default" and not path.exists():
        raise ModelError(
            "this build of facial-keypoints comes without the model 'default': name a run folder or a "
            "model file instead."
        )
    elif path.is_dir():
        folder, path = path, path / RUN_MODEL
        if not path.is_file():
            raise ModelError(
                f"{folder} is not a finished run (it has no {RUN_MODEL}): continue its training with "
                "--resume, or name another model."
            )
    elif trainable and is_onnx(path):
        raise ModelError(
            f"{path} is an ONNX model, which cannot be trained further or exported: name default, a run "
            "folder or a .keras file."
        )
    if not path.is_file():
        raise ModelError(
            f"there is no model {path}: name a run folder, a .keras{'' if trainable else ' or an .onnx'} "
            f"file, or one of the shipped models ({', '.join(shipped) or 'none in this build'})."
        )
    return path


def find_own_detector(model: str | os.PathLike[str]) -> Path | None:
    """The face detector that was trained together with a model, if its run folder holds one.

    Args:
        model: A run folder, or the ``model.keras`` in it; any other model has none.
    """
    path = Path(model)
    folder = path.parent if path.name == RUN_MODEL else path
    found = folder / OWN_DETECTOR
    return found if str(model) not in shipped_models() and found.is_file() else None


def find_detector(
    detector: str | os.PathLike[str] = "default", *, model: str | os.PathLike[str] = "default"
) -> Path:
    """The file of a face detector.

    Args:
        detector: An ``.onnx`` file, or ``default`` for the one that was trained together with the model and, where
            there is none, for the one that comes with the package.
        model: As for :func:`find_model`.

    Raises:
        ModelError: There is no such file, or this build comes without the detector ``default``.
    """
    if str(detector) == "default":
        if (own := find_own_detector(model)) is not None:
            return own
        path = _weights() / f"{_DETECTOR}.onnx"
        if not path.is_file():
            raise ModelError(
                "this build of facial-keypoints comes without the face detector 'default': give the "
                "boxes of the faces, or name a detector's .onnx file."
            )
        return path
    path = Path(detector)
    if not path.is_file():
        raise ModelError(
            f"there is no face detector {path}: name an .onnx file, or 'default' for the one that "
            "comes with the package."
        )
    return path


def is_onnx(path: Path) -> bool:
    """Whether a file is an ONNX model, by its name."""
    return path.suffix.lower() == ".onnx"


def open_onnx(path: Path, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Open an ONNX file for prediction on the processor.

    Args:
        path: The file.
        threads: Threads that one call is computed with; every core this process may use when left out.

    Raises:
        ModelError: It is missing, or no ONNX model.
        ValueError: ``threads`` is less than 1.
    """
    import onnxruntime

    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, received {threads}.")
    options = onnxruntime.SessionOptions()
    # onnxruntime counts the cores of the machine, which may be more than this process may use.
    options.intra_op_num_threads = threads or available_cores()
    options.inter_op_num_threads = 1
    # Threads that spin while they wait take the cores from those that read images: a quarter
    # fewer files a second on two cores, and the processor busy for nothing in between.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # errors are reported by ModelError below
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base but Exception
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{path} is no readable ONNX model ({reason}).") from error
