"""Resizing, warping and converting images; cutting faces out of photos.

:mod:`facial_keypoints.geometry` computes the transforms; here OpenCV applies them to pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facial_keypoints.geometry import (
    box_to_crop,
    centres_to_edges,
    edges_to_centres,
    face_boxes,
    has_face_box,
    resize_transform,
)
from facial_keypoints.types import CropTransform, FloatArray, ImageArray, KeypointSchema

__all__ = [
    "CROP_SIZE",
    "checked_image",
    "cut_crop",
    "cut_face",
    "face_box",
    "letterbox",
    "resize_image",
    "to_channels",
    "warp_image",
]

CROP_SIZE = (96, 96)
"""Default (height, width) of crops: that of Kaggle's images and of the shipped model's input."""

_ROOM = 1.6
"""Side of the crop around points without a face box, relative to the extent of the points."""


def checked_image(image: ImageArray) -> ImageArray:
    """The image as (H, W, 1) or (H, W, 3).

    Args:
        image: (H, W), (H, W, 1) or (H, W, 3) uint8, grey or RGB.

    Raises:
        ValueError: The array has another dtype or shape, or no pixels.
    """
    channels_last = image[..., np.newaxis] if image.ndim == 2 else image
    if image.dtype != np.uint8 or channels_last.ndim != 3 or channels_last.shape[2] not in (1, 3):
        raise ValueError(
            "an image must be uint8 with shape (H, W), (H, W, 1) or (H, W, 3), "
            f"received {image.dtype} {image.shape}."
        )
    if image.size == 0:
        raise ValueError(f"an image must have pixels, received shape {image.shape}.")
    return channels_last


def to_channels(image: ImageArray, channels: int) -> ImageArray:
    """Convert an image (H, W, 1 or 3) uint8 to grey (``channels`` 1) or RGB (3), if it is not so already."""
    if image.shape[2] == channels:
        return image
    code = cv2.COLOR_RGB2GRAY if channels == 1 else cv2.COLOR_GRAY2RGB
    converted = cv2.cvtColor(np.ascontiguousarray(image), code)
    return np.asarray(converted, np.uint8).reshape(*image.shape[:2], channels)


def resize_image(image: ImageArray, size: tuple[int, int]) -> ImageArray:
    """Resize a whole image (H, W, C) to (height, width), if it has not that size already.

    Shrinking averages over areas; single samples would turn fine detail into noise.
    """
    if image.shape[:2] == size:
        return image
    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: NDArray[Any] = cv2.resize(image, (size[1], size[0]), interpolation=method)
    return resized.reshape(*size, image.shape[2])


def warp_image(
    image: NDArray[Any], crop: CropTransform, *, border: int = cv2.BORDER_REPLICATE
) -> NDArray[Any]:
    """Cut a crop by sampling each pixel once: for crops that hardly shrink the image.

    Args:
        image: (H, W, C) of any number type.
        crop: From image pixels to crop pixels, with any rotation and scale.
        border: OpenCV's border mode for pixels outside the image; ``cv2.BORDER_CONSTANT`` is black.

    Returns:
        (height, width, C) of the crop's ``input_size``.
    """
    height, width = crop.input_size
    warped: NDArray[Any] = cv2.warpAffine(
        np.ascontiguousarray(image), crop.matrix, (width, height),
        flags=cv2.INTER_LINEAR, borderMode=border,
    )  # fmt: skip
    return warped.reshape(height, width, image.shape[2])


def letterbox(
    image: ImageArray, input_size: tuple[int, int], channels: int
) -> tuple[ImageArray, CropTransform]:
    """Scale a whole image into a model's input: as large as fits, in the middle, its edges repeated around it.

    The aspect ratio stays the same.

    Args:
        image: (H, W), (H, W, 1) or (H, W, 3) uint8, grey or RGB.
        input_size: (height, width) of the input.
        channels: 1 grey or 3 RGB.

    Returns:
        (height, width, channels) uint8, and the map from image pixels to input pixels.

    Raises:
        ValueError: The array has another dtype or shape.
    """
    array = checked_image(image)
    height, width = array.shape[:2]
    scale = min(input_size[0] / height, input_size[1] / width)
    inner = (
        min(input_size[0], max(1, round(height * scale))),
        min(input_size[1], max(1, round(width * scale))),
    )
    array = resize_image(array, inner)
    top, left = (input_size[0] - inner[0]) // 2, (input_size[1] - inner[1]) // 2
    if inner != input_size:
        rows = np.clip(np.arange(input_size[0]) - top, 0, inner[0] - 1)
        columns = np.clip(np.arange(input_size[1]) - left, 0, inner[1] - 1)
        array = array[rows[:, np.newaxis], columns]
    matrix = resize_transform((height, width), inner).matrix.copy()
    matrix[:, 2] += (left, top)
    return to_channels(array, channels), CropTransform(matrix, input_size)


def cut_crop(
    image: ImageArray, crop: CropTransform, channels: int, *, border: int = cv2.BORDER_REPLICATE
) -> ImageArray:
    """Cut a crop out of an image; outside the image, its edges are repeated.

    A crop that shrinks the image much is averaged over areas.

    Args:
        image: (H, W), (H, W, 1) or (H, W, 3) uint8, grey or RGB.
        crop: From image pixels to crop pixels, with any rotation and scale.
        channels: 1 grey or 3 RGB.
        border: As for :func:`warp_image`.

    Returns:
        (height, width, channels) uint8 of the crop's ``input_size``.
    """
    array = image[..., np.newaxis] if image.ndim == 2 else image
    height, width = crop.input_size
    corners = edges_to_centres(np.array([[0, 0], [width, 0], [0, height], [width, height]]))
    seen = crop.inverse().apply(corners)
    matrix = crop.matrix.copy()
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    # Whole pixels are averaged several times as fast as parts of them.
    step = max(1, int(0.5 / scale))
    # Photos are large: work only on the part that is seen, and two pixels more for the interpolation.
    limit = np.array([array.shape[1], array.shape[0]])
    low = np.clip(np.floor(seen.min(axis=0)) - 2, 0, limit - 1).astype(int)
    high = np.clip(np.ceil(seen.max(axis=0)) + 2 + step, low + 1, limit).astype(int)
    part = array[low[1] : high[1], low[0] : high[0]]
    matrix[:, 2] += matrix[:, :2] @ low
    if step > 1:
        rows, columns = (max(1, n // step) for n in part.shape[:2])
        part, matrix = _shrink(part[: rows * step, : columns * step], matrix, (rows, columns))
        scale *= step
    if scale < 0.7:
        rows, columns = (max(1, round(n * scale)) for n in part.shape[:2])
        part, matrix = _shrink(part, matrix, (rows, columns))
    placed = CropTransform(matrix, crop.input_size)
    return warp_image(to_channels(part, channels), placed, border=border)


def _shrink(
    image: ImageArray, matrix: NDArray[np.float64], size: tuple[int, int]
) -> tuple[ImageArray, NDArray[np.float64]]:
    """An image resized to (height, width), and the map (2, 3) from its pixels instead of the original's."""
    back = resize_transform(size, (image.shape[0], image.shape[1])).matrix
    moved = np.column_stack(
        [matrix[:, :2] @ back[:, :2], matrix[:, :2] @ back[:, 2] + matrix[:, 2]]
    )
    return resize_image(image, size), moved


def face_box(
    xy: FloatArray, schema: KeypointSchema, labelled: Sequence[float] | None = None
) -> NDArray[np.float32] | None:
    """The square to cut a labelled face out by.

    It is the face box, if eyes and mouth are labelled; if not, the annotation's own box made square; if there
    is none, a square around the labelled points with room around them.

    Args:
        xy: (K, 2) points in pixels of the photo, NaN = not labelled.
        schema: Their schema.
        labelled: The annotation's box, xyxy; one without area counts as none.

    Returns:
        (4,) xyxy, or ``None`` without a box and with fewer than two labelled points in different places.
    """
    if has_face_box(schema):
        box = face_boxes(xy[np.newaxis], schema)[0]
    else:
        box = np.full(4, np.nan, np.float32)
    if np.isfinite(box).all() and box[2] > box[0]:
        return np.asarray(box, np.float32)
    corners = np.reshape(labelled, (2, 2)) if labelled is not None else np.zeros((2, 2))
    extent = corners[1] - corners[0]
    if extent.min() > 0:
        middle, side = corners.mean(axis=0), float(extent.max())
    else:
        known = xy[~np.isnan(xy[:, 0])]
        if len(known) < 2 or not np.ptp(known, axis=0).max() > 0:
            return None
        middle = centres_to_edges((known.min(axis=0) + known.max(axis=0)) / 2.0)
        side = _ROOM * float(np.ptp(known, axis=0).max())
    return np.asarray(np.concatenate([middle - side / 2, middle + side / 2]), np.float32)


def cut_face(
    photo: ImageArray, xy: FloatArray, box: FloatArray, size: tuple[int, int] = CROP_SIZE
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
