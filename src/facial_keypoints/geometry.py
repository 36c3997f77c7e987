"""Coordinate spaces, crops, flips and boxes; numpy only.

Four named spaces: **image** (pixels of the original image), **input** (pixels of the model's
crop), **unit** ([0, 1] of the input) and **heatmap** (cells). Converters are named from-to, return
new arrays, and let NaN pass through. Boxes are xyxy everywhere inside. An integer coordinate is a
pixel *centre*, so resizing by s maps x to (x + 0.5) s - 0.5; that half pixel is written here only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.types import BoolArray, CropTransform, FloatArray, ImageArray, KeypointSchema

__all__ = [
    "box_to_crop",
    "flip_images",
    "flip_xy",
    "inside_image",
    "pixels_to_signed",
    "resize_transform",
    "signed_to_pixels",
]


def resize_transform(image_size: tuple[int, int], input_size: tuple[int, int]) -> CropTransform:
    """The transform of a plain resize of the whole image, pixel centres to pixel centres.

    Args:
        image_size: (height, width) before.
        input_size: (height, width) after.

    Example:
        >>> resize_transform((192, 192), (96, 96)).apply(np.array([[0.5, 0.5]]))
        array([[0., 0.]])
    """
    sy, sx = input_size[0] / image_size[0], input_size[1] / image_size[1]
    return CropTransform(
        np.array([[sx, 0.0, 0.5 * sx - 0.5], [0.0, sy, 0.5 * sy - 0.5]]), input_size
    )


def box_to_crop(
    box_xyxy: FloatArray,
    input_size: tuple[int, int],
    *,
    margin: float = 0.0,
    angle_deg: float = 0.0,
) -> CropTransform:
    """The transform that cuts a square around a box and scales it to the model's input.

    Args:
        box_xyxy: (4,) box in image pixels, edges (not centres of edge pixels).
        input_size: (height, width) of the input; the square covers the longer side.
        margin: Extra on every side as a fraction of the box's longer side.
        angle_deg: Roll of the face, clockwise in the image; the crop turns it upright.

    Raises:
        ValueError: The box has no area.
    """
    x0, y0, x1, y1 = (float(v) for v in box_xyxy)
    side = max(x1 - x0, y1 - y0) * (1.0 + 2.0 * margin)
    if not side > 0:
        raise ValueError(f"box must have x0 < x1 and y0 < y1, received {tuple(box_xyxy)}.")
    height, width = input_size
    scale = max(height, width) / side
    angle = np.deg2rad(angle_deg)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cos, sin], [-sin, cos]])
    # Edge coordinates are pixel-centre coordinates plus a half, hence the two halves.
    centre = np.array([(x0 + x1) / 2.0 - 0.5, (y0 + y1) / 2.0 - 0.5])
    target = np.array([width / 2.0 - 0.5, height / 2.0 - 0.5])
    return CropTransform(np.column_stack([linear, target - linear @ centre]), input_size)


def flip_images(images: ImageArray) -> ImageArray:
    """Mirror images (..., H, W, C) left to right."""
    return images[..., ::-1, :]


def flip_xy(xy: FloatArray, width: int, schema: KeypointSchema) -> FloatArray:
    """Mirror points (..., K, 2) with their image: x becomes (W - 1) - x and partners swap places.

    NaN stays NaN and moves with its keypoint. Flipping twice gives the points back.

    Args:
        xy: Points in pixels of an image that is ``width`` wide.
        width: Width of that image in pixels.
        schema: Says who is whose left/right partner.
    """
    flipped = xy[..., list(schema.swap), :].copy()
    flipped[..., 0] = (width - 1) - flipped[..., 0]
    return flipped


def inside_image(xy: FloatArray, image_size: tuple[int, int]) -> BoolArray:
    """(...,) bool: which points (..., 2) lie on the image; False for NaN.

    The image reaches from -0.5 to W - 0.5 since integers are pixel centres.
    """
    height, width = image_size
    x, y = xy[..., 0], xy[..., 1]
    with np.errstate(invalid="ignore"):
        return (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)


def pixels_to_signed(xy: FloatArray, image_size: tuple[int, int]) -> NDArray[np.float32]:
    """Pixels to the study's targets: (x - W/2) / (W/2), so (x - 48) / 48 on 96-pixel images."""
    half = np.array([image_size[1] / 2.0, image_size[0] / 2.0])
    return np.asarray((np.asarray(xy, np.float64) - half) / half, np.float32)


def signed_to_pixels(signed: FloatArray, image_size: tuple[int, int]) -> NDArray[np.float32]:
    """Inverse of :func:`pixels_to_signed`."""
    half = np.array([image_size[1] / 2.0, image_size[0] / 2.0])
    return np.asarray(np.asarray(signed, np.float64) * half + half, np.float32)
