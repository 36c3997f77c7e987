"""Where a face sits in a crop: as in Kaggle's images, which every network here learnt from.

A **face box** is the square that such a crop shows: from the hairline to the chin, a little wider than
the cheeks, upright; its middle column runs between the eyes. Everything follows from four points,
the eye centres and the mouth's corners. Numpy only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.types import CropTransform, FloatArray, KeypointSchema

__all__ = ["can_frame", "face_boxes", "face_sizes", "frame_face"]

FACE_SIZE, EYE_LINE = 36.2 / 96, 37.0 / 96
"""Size of the face and height of its eyes, as shares of the crop's side; means of Kaggle's full rows."""

FACE_LENGTH = 1.0 / 0.93
"""Distance from the eyes to the mouth's corners of a face whose eyes are 1 apart, seen from the front."""

_NEEDED = ("left_eye_center", "right_eye_center", "mouth_left_corner", "mouth_right_corner")


def can_frame(schema: KeypointSchema) -> bool:
    """Whether a schema has the four points that the framing needs."""
    return set(_NEEDED) <= set(schema.keypoint_names)


def _parts(
    xy: FloatArray, schema: KeypointSchema
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Left eye, right eye and middle of the mouth's corners, each (..., 2)."""
    left, right, *mouth = (
        np.asarray(xy[..., schema.index(name), :], np.float64) for name in _NEEDED
    )
    return left, right, (mouth[0] + mouth[1]) / 2.0


def face_sizes(xy: FloatArray, schema: KeypointSchema) -> NDArray[np.float64]:
    """Sizes of faces: the eyes' distance, or what the face's length says of it where a turn hides it.

    Args:
        xy: (..., K, 2) points.
        schema: Theirs; it must have the four points (:func:`can_frame`).

    Returns:
        (...) sizes in the unit of the points; NaN where one of the four is NaN.
    """
    left, right, mouth = _parts(xy, schema)
    apart = np.linalg.norm(left - right, axis=-1)
    length = np.linalg.norm((left + right) / 2.0 - mouth, axis=-1)
    return np.asarray(np.maximum(apart, length / FACE_LENGTH))


def face_boxes(xy: FloatArray, schema: KeypointSchema) -> NDArray[np.float32]:
    """The face boxes of faces whose points are known.

    Args:
        xy: (N, K, 2) points, pixels of an image.
        schema: Theirs; it must have the four points.

    Returns:
        (N, 4) xyxy, edges in pixels of the image; NaN where one of the four points is NaN.
    """
    left, right, _ = _parts(xy, schema)
    side = (face_sizes(xy, schema) / FACE_SIZE)[..., np.newaxis]
    # Edges are half a pixel beyond pixel centres.
    corner = (left + right) / 2.0 + 0.5 - side * np.array([0.5, EYE_LINE])
    return np.concatenate([corner, corner + side], axis=-1).astype(np.float32)


def frame_face(
    xy: FloatArray,
    schema: KeypointSchema,
    input_size: tuple[int, int],
    *,
    upright: bool = True,
    smallest: float = 2.0,
) -> CropTransform:
    """The crop that shows a face as Kaggle's images do.

    Args:
        xy: (K, 2) points of the face, pixels of an image.
        schema: Theirs; it must have the four points.
        input_size: (height, width) of the crop.
        upright: Turn the crop with the face, so that its eyes are level.
        smallest: Least size of the face in pixels of the image: points that fell together must
            not blow the crop up without bound.

    Raises:
        ValueError: One of the four points is NaN.
    """
    left, right, _ = _parts(xy, schema)
    size = float(face_sizes(xy, schema))
    if not np.isfinite(size):
        raise ValueError("a face can be framed only by known eyes and mouth corners.")
    height, width = input_size
    scale = FACE_SIZE * width / max(size, smallest)
    across = left - right  # the person's left eye is on the right of the image
    angle = float(np.arctan2(across[1], across[0])) if upright else 0.0
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cos, sin], [-sin, cos]])
    target = np.array([(width - 1) / 2.0, EYE_LINE * height - 0.5])
    return CropTransform(
        np.column_stack([linear, target - linear @ ((left + right) / 2.0)]), input_size
    )
