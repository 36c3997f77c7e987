"""Aligning faces to the five-point template that face-recognition networks expect.

A similarity (shift, rotation and scale) brings eyes, nose and mouth to fixed places. Its matrix is returned too, so
that points can be mapped there and back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from facial_keypoints.crops import checked_image, cut_crop
from facial_keypoints.errors import DataError
from facial_keypoints.geometry import fit_similarity, resize_xy
from facial_keypoints.io.tables import Value, as_text
from facial_keypoints.schemas import source_points
from facial_keypoints.types import (
    BoolArray,
    CropTransform,
    ImageArray,
    Keypoints,
    Prediction,
)

__all__ = [
    "ALIGNED_COLUMNS",
    "TEMPLATE",
    "TEMPLATE_POINTS",
    "TEMPLATE_SIZE",
    "AlignedFaces",
    "align",
    "aligned_row",
    "template_points",
]

ALIGNED_COLUMNS = ("source", "face", "file", "a", "b", "tx", "c", "d", "ty", "score")
"""Columns of the table that belongs to aligned faces."""

TEMPLATE_SIZE = 112
TEMPLATE_POINTS = (
    "right_eye_center",
    "left_eye_center",
    "nose_tip",
    "mouth_right_corner",
    "mouth_left_corner",
)
"""The template lists the left of the image first, which is the person's right."""

TEMPLATE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
"""(5, 2) pixels of a 112×112 image, an integer being a pixel centre: the template that ArcFace (Deng et
al., CVPR 2019) and InsightFace train on, which warp with OpenCV and so use the same convention."""


@dataclass(frozen=True, eq=False)
class AlignedFaces:
    """N aligned faces.

    Args:
        images: (N, size, size, 3) uint8 RGB; black beyond the image.
        matrices: (N, 2, 3) float64, pixels of the image to pixels of the aligned face:
            ``aligned_xy = matrix[:, :2] @ xy + matrix[:, 2]``. NaN where fewer than two of the five
            points are known; that face is black.
    """

    images: ImageArray
    matrices: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def aligned(self) -> BoolArray:
        """(N,) which faces could be aligned."""
        return np.asarray(np.isfinite(self.matrices).all(axis=(1, 2)))

    def transform(self, face: int) -> CropTransform:
        """The transform of one face, from the image to the aligned face.

        Raises:
            ValueError: The face could not be aligned.
        """
        return CropTransform(self.matrices[face], (self.images.shape[1], self.images.shape[2]))


def template_points(size: int = TEMPLATE_SIZE, margin: float = 0.0) -> NDArray[np.float64]:
    """The template in another size and with a margin.

    An image of twice the size is the same view with twice the pixels: centres go to centres, so x
    becomes (x + 0.5) s − 0.5. (InsightFace multiplies by s alone, which is half a pixel off at s = 2.)

    Args:
        size: Side of the aligned image in pixels.
        margin: Extra room on every side, relative to the template's side.

    Returns:
        (5, 2) pixels, in the order of :data:`TEMPLATE_POINTS`.

    Example:
        >>> template_points(224)[2].round(2)
        array([112.55, 143.97])
    """
    if size < 8:
        raise ValueError(f"size must be at least 8 pixels, received {size}.")
    if not 0.0 <= margin <= 10.0:
        raise ValueError(f"margin must be from 0 to 10, received {margin}.")
    scale = size / (TEMPLATE_SIZE * (1.0 + 2.0 * margin))
    return np.asarray(resize_xy(TEMPLATE + margin * TEMPLATE_SIZE, scale))


def align(
    image: ImageArray,
    faces: Prediction | Keypoints,
    *,
    size: int = TEMPLATE_SIZE,
    margin: float = 0.0,
) -> AlignedFaces:
    """Cut faces out of an image, aligned to the template.

    Args:
        image: (H, W), (H, W, 1) or (H, W, 3) uint8, grey or RGB.
        faces: N faces in pixels of that image, with eye centres, nose tip and mouth corners.
        size: Side of the aligned images.
        margin: Extra room on every side, relative to the template's side.

    Returns:
        N aligned faces; none gives an empty result.

    Raises:
        DataError: The faces' schema lacks one of the five points.
        ValueError: ``image`` has another dtype or shape, or a number is out of range.

    Example:
        >>> align(image, predictor.predict(image)).images.shape  # doctest: +SKIP
        (1, 112, 112, 3)
    """
    keypoints = faces.keypoints if isinstance(faces, Prediction) else faces
    schema = keypoints.schema
    if missing := [name for name in TEMPLATE_POINTS if not source_points(schema, name)]:
        raise DataError(
            f"aligning needs the eye centres, the nose tip and the mouth corners, but '{schema.name}' "
            f"has no {missing[0]}: use the model 'default' or another one that predicts them."
        )
    image = checked_image(image)
    target = template_points(size, margin)
    parts = [source_points(schema, name) for name in TEMPLATE_POINTS]
    points = np.stack([keypoints.xy[:, part].mean(axis=1) for part in parts], axis=1)
    images = np.zeros((len(points), size, size, 3), np.uint8)
    matrices = np.full((len(points), 2, 3), np.nan)
    for i, matrix in enumerate(fit_similarity(points, target)):
        # The scale is 0 for too few known points, and for points in an impossible order.
        if np.hypot(matrix[0, 0], matrix[1, 0]) < 1e-6:
            continue
        matrices[i] = matrix
        images[i] = cut_crop(
            image, CropTransform(matrix, (size, size)), 3, border=cv2.BORDER_CONSTANT
        )
    return AlignedFaces(images, matrices)


def aligned_row(
    source: str, face: int, file: str, matrix: NDArray[np.float64], score: float
) -> list[Value]:
    """A row of :data:`ALIGNED_COLUMNS`; the score is empty where no detector gave one (NaN)."""
    shown = "" if math.isnan(score) else f"{score:.4f}"
    return [as_text(source), face, as_text(file), *matrix.ravel().tolist(), shown]
