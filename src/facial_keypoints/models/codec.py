"""Keypoints to what networks predict and back: targets, pixels, confidence.

The codec :func:`encode` and :func:`decode` is that of the study's networks. Networks of the ``landmark``
family predict input pixels and the log of their expected error. Keras is not needed: the functions take
arrays of numpy and tensors alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.types import FloatArray

__all__ = ["CONFIDENCE", "CONFIDENCE_RADIUS", "confidence_within", "decode", "encode"]

CONFIDENCE_RADIUS = 1 / 32
"""Share of the input's longer side: 3 px of 96, about 8 % of the distance between the eyes."""

CONFIDENCE = "estimated probability that the point is within 1/32 of the input's side (3 px of 96)"


def encode(xy: FloatArray, input_size: tuple[int, int]) -> NDArray[np.float32]:
    """Input pixels to the study's targets: (x - W/2) / (W/2), so (x - 48) / 48 on 96-pixel images.

    Args:
        xy: (..., 2) pixels; NaN stays NaN.
        input_size: (height, width) of the input in pixels.
    """
    half = _half(input_size)
    return np.asarray((np.asarray(xy, np.float64) - half) / half, np.float32)


def decode(targets: Any, input_size: tuple[int, int]) -> Any:
    """Inverse of :func:`encode`, for an array or a tensor (..., 2) of float32."""
    half = _half(input_size)
    return targets * half + half


def _half(input_size: tuple[int, int]) -> NDArray[np.float32]:
    return np.array([input_size[1] / 2, input_size[0] / 2], np.float32)


def confidence_within(ratio: Any, exp: Callable[[Any], Any] = np.exp) -> Any:
    """Probability in [0, 1] that a point is within a radius of the truth.

    A network learns its error as the density exp(-d / b) / (2 pi b^2) over the plane, d being the
    distance from the truth and b the error scale.

    Args:
        ratio: The radius in error scales, r / b; an array or a tensor.
        exp: What raises e to it: ``keras.ops.exp`` for a tensor.
    """
    return 1.0 - (1.0 + ratio) * exp(-ratio)
