"""Coordinates, boxes and the places of faces; numpy only.

There are two spaces: **image** (pixels of the original image) and **input** (pixels of a model's input or of
another crop). A pixel's centre has integer coordinates, so the image's left edge is at -0.5. Boxes are
xyxy and count from the edges: the whole image is (0, 0, W, H). Only this module adds or subtracts the half
pixel between centres and edges. Functions return new arrays; NaN stays NaN.

The **face box** is the square that Kaggle's images show of a face: upright, from the hairline to the chin, a
little wider than the cheeks, with the eyes' middle at half its width. All networks of this package were
trained on such crops. It is computed from four points: the eye centres and the mouth's corners.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.schemas import source_points
from facial_keypoints.types import BoolArray, CropTransform, FloatArray, ImageArray, KeypointSchema

__all__ = [
    "box_to_crop",
    "centres_to_edges",
    "edges_to_centres",
    "face_angles",
    "face_boxes",
    "face_crop",
    "face_sizes",
    "fit_similarity",
    "flip_images",
    "flip_xy",
    "has_face_box",
    "inside_image",
    "iou",
    "nms",
    "resize_transform",
    "resize_xy",
    "rotation",
    "transform_xy",
]

FACE_SIZE, EYE_LINE = 36.2 / 96, 37.0 / 96
"""Distance between the eyes, and from the top to the eyes, as shares of the face box's side: means of Kaggle's
fully labelled rows."""

FACE_LENGTH = 1.0 / 0.93
"""Distance from the eyes to the mouth's corners in a front view, where the distance between the eyes is 1."""

_FACE_POINTS = ("left_eye_center", "right_eye_center", "mouth_left_corner", "mouth_right_corner")


# --- pixel centres and edges --------------------------------------------------------------------------


def centres_to_edges(xy: NDArray[Any]) -> NDArray[Any]:
    """Coordinates counted from pixel centres (points) to ones counted from edges (boxes)."""
    return xy + 0.5


def edges_to_centres(xy: NDArray[Any]) -> NDArray[Any]:
    """Inverse of :func:`centres_to_edges`."""
    return xy - 0.5


def resize_xy(xy: NDArray[Any], scale: float) -> NDArray[Any]:
    """Points (..., 2) after their image was resized to ``scale`` times its size.

    Example:
        >>> resize_xy(np.array([0.5, 2.5]), 0.5)
        array([0., 1.])
    """
    return edges_to_centres(centres_to_edges(xy) * scale)


def resize_transform(image_size: tuple[int, int], input_size: tuple[int, int]) -> CropTransform:
    """The transform that resizes the whole image; it maps points as :func:`resize_xy` does.

    Args:
        image_size: (height, width) before.
        input_size: (height, width) after.

    Example:
        >>> resize_transform((192, 192), (96, 96)).apply(np.array([[0.5, 0.5]]))
        array([[0., 0.]])
    """
    scale = np.array([input_size[1] / image_size[1], input_size[0] / image_size[0]])
    return CropTransform(
        np.column_stack([np.diag(scale), edges_to_centres(0.5 * scale)]), input_size
    )


def inside_image(xy: FloatArray, image_size: tuple[int, int]) -> BoolArray:
    """(...,) bool: which points (..., 2) lie on the image of (height, width); False for NaN."""
    height, width = image_size
    edges = centres_to_edges(xy)
    x, y = edges[..., 0], edges[..., 1]
    with np.errstate(invalid="ignore"):
        return (x >= 0.0) & (x <= width) & (y >= 0.0) & (y <= height)


# --- flips and rotations ------------------------------------------------------------------------------


def flip_images(images: ImageArray) -> ImageArray:
    """Mirror images (..., H, W, C) left to right."""
    return images[..., ::-1, :]


def flip_xy(xy: FloatArray, width: int, schema: KeypointSchema) -> FloatArray:
    """Mirror points (..., K, 2) with their image: x becomes (W - 1) - x and partners swap places.

    NaN stays NaN and moves with its keypoint. Flipping twice gives the points back.

    Args:
        xy: Points in pixels of an image that is ``width`` wide.
        width: Width of that image in pixels.
        schema: Names the left/right partners.
    """
    flipped = xy[..., list(schema.swap), :].copy()
    flipped[..., 0] = (width - 1) - flipped[..., 0]
    return flipped


def rotation(angle: float, scale: float = 1.0) -> NDArray[np.float64]:
    """(2, 2) matrix that rotates an image clockwise by ``angle`` radians, and scales it."""
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def fit_similarity(source: FloatArray, target: FloatArray) -> NDArray[np.float64]:
    """The similarity (shift, rotation and scale) that brings points nearest to their targets, by least squares.

    Umeyama's solution (IEEE PAMI 13(4):376-380, 1991). Points are taken as complex numbers, for which rotation
    and scale are one factor. Never mirrors.

    Args:
        source: (..., K, 2) points; those with NaN are left out.
        target: (..., K, 2) their targets.

    Returns:
        (..., 2, 3) matrices; their scale is 0 where fewer than two different points are known.
    """
    a, b = (np.asarray(p, np.float64) @ np.array([1.0, 1.0j]) for p in (source, target))
    known = ~(np.isnan(a) | np.isnan(b))
    count = np.maximum(known.sum(axis=-1), 1)
    a, b = np.where(known, a, 0.0), np.where(known, b, 0.0)
    a_mean, b_mean = a.sum(axis=-1) / count, b.sum(axis=-1) / count
    from_middle = np.where(known, a - a_mean[..., np.newaxis], 0.0)
    spread = np.maximum((np.abs(from_middle) ** 2).sum(axis=-1), 1e-9)
    factor = (from_middle.conj() * (b - b_mean[..., np.newaxis])).sum(axis=-1) / spread
    shift = b_mean - factor * a_mean
    rows = [[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def transform_xy(matrix: FloatArray, xy: FloatArray) -> NDArray[np.float64]:
    """Points (..., K, 2) moved by matrices (..., 2, 3); NaN stays NaN."""
    moved = np.einsum("...ij,...kj->...ki", matrix[..., :2], xy) + matrix[..., np.newaxis, :, 2]
    return np.asarray(moved, np.float64)


# --- boxes --------------------------------------------------------------------------------------------


def iou(a: FloatArray, b: FloatArray) -> NDArray[np.float64]:
    """(N, M) intersection over union of boxes (N, 4) and (M, 4) xyxy; 0 for boxes without area.

    Example:
        >>> iou(np.array([[0.0, 0.0, 2.0, 2.0]]), np.array([[1.0, 0.0, 3.0, 2.0]])).round(3)
        array([[0.333]])
    """
    low = np.maximum(a[:, np.newaxis, :2], b[np.newaxis, :, :2])
    high = np.minimum(a[:, np.newaxis, 2:], b[np.newaxis, :, 2:])
    common = np.prod(np.maximum(high - low, 0.0), axis=-1, dtype=np.float64)
    area_a, area_b = (np.prod(x[:, 2:] - x[:, :2], axis=-1, dtype=np.float64) for x in (a, b))
    return np.asarray(common / np.maximum(area_a[:, np.newaxis] + area_b - common, 1e-9))


def nms(boxes: FloatArray, scores: FloatArray, threshold: float) -> NDArray[np.int64]:
    """Non-maximum suppression: of boxes that overlap too much, keep the one with the best score.

    Args:
        boxes: (N, 4) xyxy.
        scores: (N,).
        threshold: IoU from which the worse box is dropped.

    Returns:
        Indices of the boxes kept, best first.
    """
    rest = np.argsort(-scores, kind="stable")
    kept = []
    while len(rest):
        first, rest = rest[0], rest[1:]
        kept.append(first)
        rest = rest[iou(boxes[[first]], boxes[rest])[0] < threshold]
    return np.array(kept, np.int64)


def box_to_crop(
    box_xyxy: FloatArray, input_size: tuple[int, int], angle: float = 0.0, scale: float = 1.0
) -> CropTransform:
    """The crop that shows the square around a box.

    Args:
        box_xyxy: (4,) box in image pixels.
        input_size: (height, width) of the input; the square covers the longer side.
        angle: Degrees by which what the box holds is turned, clockwise; the crop shows it upright.
        scale: Side of the crop, in sides of the square; they have the same top edge.

    Raises:
        ValueError: The box has no area.
    """
    x0, y0, x1, y1 = (float(v) for v in box_xyxy)
    side = max(x1 - x0, y1 - y0)
    if not side > 0:
        raise ValueError(f"box must have x0 < x1 and y0 < y1, received {tuple(box_xyxy)}.")
    height, width = input_size
    linear = rotation(-np.deg2rad(angle), max(height, width) / (scale * side))
    centre = edges_to_centres(np.array([(x0 + x1) / 2.0, (y0 + y1) / 2.0]))
    target = edges_to_centres(np.array([width / 2.0, height / 2.0 / scale]))
    return CropTransform(np.column_stack([linear, target - linear @ centre]), input_size)


# --- faces --------------------------------------------------------------------------------------------


def has_face_box(schema: KeypointSchema) -> bool:
    """Whether a schema has, or tells, the four points that a face box is computed from."""
    return all(source_points(schema, name) for name in _FACE_POINTS)


def _parts(
    xy: FloatArray, schema: KeypointSchema
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Left eye, right eye and middle of the mouth's corners, each (..., 2)."""

    def point(name: str) -> NDArray[np.float64]:
        indices = source_points(schema, name)
        if len(indices) == 1:  # without the mean it takes a tenth of the time
            return np.asarray(xy[..., indices[0], :], np.float64)
        return np.asarray(xy[..., indices, :].mean(axis=-2), np.float64)

    left, right, *mouth = (point(name) for name in _FACE_POINTS)
    return left, right, (mouth[0] + mouth[1]) / 2.0


def face_sizes(xy: FloatArray, schema: KeypointSchema) -> NDArray[np.float64]:
    """Sizes of faces: the distance between the eyes, estimated from the face's length where yaw shortens it.

    Args:
        xy: (..., K, 2) points.
        schema: Their schema, with the four points (:func:`has_face_box`).

    Returns:
        (...) sizes in the unit of the points; NaN where one of the four is NaN.
    """
    left, right, mouth = _parts(xy, schema)
    apart = np.linalg.norm(left - right, axis=-1)
    length = np.linalg.norm((left + right) / 2.0 - mouth, axis=-1)
    return np.asarray(np.maximum(apart, length / FACE_LENGTH))


def face_angles(xy: FloatArray, schema: KeypointSchema) -> NDArray[np.float64]:
    """By how much faces are turned in the plane of the image.

    Args:
        xy: (..., K, 2) points.
        schema: Their schema.

    Returns:
        (...) degrees, clockwise, from -180 to 180: 0 upright, 90 the top of the head to the right. NaN where an
        eye centre or a mouth's corner is NaN, or the schema lacks them (:func:`has_face_box`).
    """
    if not has_face_box(schema):
        return np.full(xy.shape[:-2], np.nan)
    left, right, mouth = _parts(xy, schema)
    # The direction from eye to eye, and the one that the face's length gives: yaw shortens the first.
    across, down = left - right, mouth - (left + right) / 2.0
    angles = np.arctan2(across[..., 1] - down[..., 0], across[..., 0] + down[..., 1])
    return np.asarray(np.degrees(angles))


def face_boxes(xy: FloatArray, schema: KeypointSchema) -> NDArray[np.float32]:
    """The face boxes of faces whose points are known.

    The box of a face that lies or stands on its head is the square around it turned by 90, 180 or 270 degrees.

    Args:
        xy: (N, K, 2) points in pixels of an image.
        schema: Their schema, with the four points.

    Returns:
        (N, 4) xyxy in pixels of the image; NaN where one of the four points is NaN.
    """
    left, right, _ = _parts(xy, schema)
    side = (face_sizes(xy, schema) / FACE_SIZE)[..., np.newaxis]
    quarters = np.round(face_angles(xy, schema) / 90.0) * (np.pi / 2)
    down = np.stack([-np.sin(quarters), np.cos(quarters)], axis=-1).round()
    middle = centres_to_edges((left + right) / 2.0) + side * (0.5 - EYE_LINE) * down
    return np.concatenate([middle - side / 2, middle + side / 2], axis=-1).astype(np.float32)


def face_crop(
    xy: FloatArray,
    schema: KeypointSchema,
    input_size: tuple[int, int],
    *,
    upright: bool = True,
    smallest: float = 2.0,
    scale: float = 1.0,
) -> CropTransform:
    """The crop that shows a face as Kaggle's images do.

    Args:
        xy: (K, 2) points of the face in pixels of an image.
        schema: Their schema, with the four points.
        input_size: (height, width) of the crop.
        upright: Rotate the crop so that the eyes are level; if not, it shows the face box.
        smallest: Least size of the face in pixels of the image, so that nearly equal points do not enlarge
            the crop without bound.
        scale: Side of the crop, in sides of the face box; they have the same top edge.

    Raises:
        ValueError: One of the four points is NaN.
    """
    left, right, _ = _parts(xy, schema)
    size = float(face_sizes(xy, schema))
    if not np.isfinite(size):
        raise ValueError("a face can be cropped only by known eyes and mouth corners.")
    height, width = input_size
    across = left - right  # the person's left eye is on the right of the image
    angle = float(np.arctan2(across[1], across[0])) if upright else 0.0
    linear = rotation(-angle, FACE_SIZE / scale * width / max(size, smallest))
    target = edges_to_centres(np.array([width / 2.0, EYE_LINE / scale * height]))
    return CropTransform(
        np.column_stack([linear, target - linear @ ((left + right) / 2.0)]), input_size
    )
