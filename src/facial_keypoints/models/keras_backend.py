"""Which library Keras computes with, decided before Keras is imported.

``KERAS_BACKEND`` is respected. When it is not set, the first installed of TensorFlow, JAX and
PyTorch is used, since a machine with a GPU may have only one of the latter two. What another
project set in ``keras.json`` (number type, order of axes) is not: the networks need their own.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from pathlib import Path

from facial_keypoints.errors import FacialKeypointsError, MissingExtraError

__all__ = ["choose_backend", "import_keras"]

_LIBRARIES = ("tensorflow", "jax", "torch")  # fastest first for the study's CNN on a CPU


def choose_backend() -> str:
    """Set ``KERAS_BACKEND`` if nobody has.

    Returns:
        The name of the backend.

    Raises:
        MissingExtraError: Keras or every library it can compute with is missing.
        FacialKeypointsError: ``KERAS_BACKEND`` names a library that is not installed, or that cannot train.
    """
    if importlib.util.find_spec("keras") is None:
        raise MissingExtraError("keras", "train", "Training and Keras models")
    installed = [name for name in _LIBRARIES if importlib.util.find_spec(name) is not None]
    if not installed:
        raise MissingExtraError("tensorflow", "train", "Training and Keras models")
    backend = os.environ.setdefault("KERAS_BACKEND", installed[0])
    if backend not in installed:
        why = "is not installed" if backend in _LIBRARIES else "is no backend that trains"
        raise FacialKeypointsError(
            f"KERAS_BACKEND is '{backend}', which {why}: unset it or set it to {' or '.join(installed)}."
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return backend


def import_keras() -> None:
    """Choose the backend and import Keras without TensorFlow's start-up notices and retracing warnings.

    A warning that a function was compiled again means nothing where several networks are trained in turn.
    TensorFlow writes some of the notices whatever ``TF_CPP_MIN_LOG_LEVEL`` says, past Python's ``sys.stderr``;
    so the process's standard error is closed to them for the time of the import. An import that fails
    still raises its error.

    Raises:
        FacialKeypointsError: As for :func:`choose_backend`.
    """
    choose_backend()
    logging.getLogger("tensorflow").addFilter(_no_retracing)
    if "keras" in sys.modules:
        return
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        keras = importlib.import_module("keras")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")


def _no_retracing(record: logging.LogRecord) -> bool:
    return "retracing" not in str(record.msg)
