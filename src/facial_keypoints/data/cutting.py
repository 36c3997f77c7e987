"""Faces cut out of labelled photos, framed as the networks know them.

A labelled photo may show several faces, and a network takes crops of one: so each labelled face
becomes an image of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.framing import can_frame, face_boxes
from facial_keypoints.geometry import box_to_crop
from facial_keypoints.io.images import cut_crop
from facial_keypoints.schemas import FIVE, IBUG68
from facial_keypoints.types import FloatArray, ImageArray, KeypointSchema

__all__ = ["DEFAULT_SIZE", "cut_face", "face_box"]

DEFAULT_SIZE = (96, 96)
"""(height, width) of crops unless another is asked for: Kaggle's, and the shipped model's."""

_ROOM = 1.6
"""Side of the crop around points that tell no face's frame, in extents of these points."""

# Of the 68 points: the rims of the eyes, the nose's tip and the mouth's corners; left is the person's own.
_FROM_68 = {
    "left_eye_center": slice(42, 48),
    "right_eye_center": slice(36, 42),
    "nose_tip": slice(30, 31),
    "mouth_left_corner": slice(54, 55),
    "mouth_right_corner": slice(48, 49),
}


def face_box(
    xy: FloatArray, schema: KeypointSchema, bbox: Sequence[float] | None = None
) -> NDArray[np.float32] | None:
    """The square to cut a labelled face out by.

    By its eyes and mouth where they are labelled, as Kaggle's crops are framed; else the annotation's
    own box made square; else the labelled points with room around them.

    Args:
        xy: (K, 2) points in pixels of the photo, NaN = not labelled.
        schema: Theirs.
        bbox: The annotation's box, COCO's ``x, y, width, height``.

    Returns:
        (4,) xyxy, or ``None`` where nothing tells the place of the face.
    """
    if schema.keypoint_names == IBUG68.keypoint_names:
        five = np.stack([xy[_FROM_68[name]].mean(axis=0) for name in FIVE.keypoint_names])
        box = face_boxes(five[np.newaxis], FIVE)[0]
    elif can_frame(schema):
        box = face_boxes(xy[np.newaxis], schema)[0]
    else:
        box = np.full(4, np.nan, np.float32)
    if np.isfinite(box).all() and box[2] > box[0]:
        return np.asarray(box, np.float32)
    if bbox is not None and bbox[2] > 0 and bbox[3] > 0:
        corner, extent = np.asarray(bbox[:2], np.float64), np.asarray(bbox[2:4], np.float64)
        middle, side = corner + extent / 2.0, float(extent.max())
    else:
        known = xy[~np.isnan(xy[:, 0])]
        if len(known) < 2:
            return None
        middle = (known.min(axis=0) + known.max(axis=0)) / 2.0 + 0.5
        side = _ROOM * float(np.ptp(known, axis=0).max())
    return np.asarray(np.concatenate([middle - side / 2, middle + side / 2]), np.float32)


def cut_face(
    photo: ImageArray, xy: FloatArray, box: FloatArray, size: tuple[int, int] = DEFAULT_SIZE
) -> tuple[ImageArray, NDArray[np.float32]]:
    """Cut a face out, with its points.

    Args:
        photo: (H, W, C) uint8.
        xy: (K, 2) points in pixels of the photo.
        box: (4,) xyxy as :func:`face_box` gives it.
        size: (height, width) of the crop.

    Returns:
        The crop (height, width, C) and its points (K, 2); NaN stays NaN.
    """
    crop = box_to_crop(box, size)
    return cut_crop(photo, crop, photo.shape[2]), np.asarray(crop.apply(xy), np.float32)
