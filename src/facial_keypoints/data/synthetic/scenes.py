"""Photos of drawn faces: several in one image, at known places, for demonstrations and tests.

The faces differ in size and roll; the background holds shapes that are no faces.
"""

from __future__ import annotations

import cv2
import numpy as np

from facial_keypoints.crops import warp_image
from facial_keypoints.data.synthetic.faces import draw_faces
from facial_keypoints.geometry import rotation
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.types import CropTransform, ImageArray, Keypoints

__all__ = ["draw_room", "draw_scene"]

_TINTS = np.array([[255, 214, 186], [246, 200, 168], [226, 176, 140], [196, 144, 108]]) / 255.0


def draw_scene(
    count: int = 3,
    *,
    seed: int = 0,
    image_size: tuple[int, int] = (360, 640),
    roll_deg: float = 12.0,
) -> tuple[ImageArray, Keypoints]:
    """Draw a photo with faces side by side, each with room of its own.

    Args:
        count: N, number of faces; 0 gives an empty room.
        seed: Not negative; the same seed gives the same photo.
        image_size: (height, width) in pixels.
        roll_deg: Largest roll of a face to either side, degrees.

    Returns:
        The photo (H, W, 3) uint8 RGB, and its N faces in pixels, from left to right, style
        ``kaggle-a``.

    Raises:
        ValueError: ``count`` is negative, or the faces would be smaller than 24 pixels.

    Example:
        >>> photo, faces = draw_scene(2)
        >>> photo.shape, faces.xy.shape
        ((360, 640, 3), (2, 15, 2))
    """
    height, width = image_size
    rng = np.random.default_rng([seed, 0x5CE9E])
    photo = draw_room(rng, height, width)
    points = np.empty((count, KAGGLE15.num_keypoints, 2), np.float32)
    room = min(height, width / max(count, 1))
    if count < 0 or 0.55 * room < 24:
        raise ValueError(
            f"{count} faces do not fit an image of {width}×{height} pixels: ask for fewer faces or a "
            "larger image."
        )
    side = 192
    faces = draw_faces(count, seed=seed, image_size=side)
    # Faces fade out towards the edge: a straight border would show a detector where a face is.
    rows, columns = np.mgrid[0:side, 0:side] / (side - 1) * 2.0 - 1.0
    shape = np.clip((1.0 - np.maximum(np.abs(rows), np.abs(columns))) / 0.16, 0.0, 1.0)
    for i in range(count):
        size = room * rng.uniform(0.55, 0.8)
        middle = np.array([
            (i + 0.5) * width / count + rng.uniform(-0.5, 0.5) * (width / count - size),
            height / 2 + rng.uniform(-0.5, 0.5) * (height - size),
        ])  # fmt: skip
        scale = size / side
        linear = rotation(np.deg2rad(rng.uniform(-roll_deg, roll_deg)), scale)
        offset = middle - linear @ np.full(2, (side - 1) / 2)
        place = CropTransform(np.column_stack([linear, offset]), (height, width))
        tint = _TINTS[rng.integers(len(_TINTS))]
        face = np.concatenate([faces.images[i] * tint, shape[..., np.newaxis] * 255.0], axis=2)
        smooth = cv2.GaussianBlur(face.astype(np.float32), (0, 0), max(0.1, 0.35 / scale - 0.3))
        laid = warp_image(smooth, place, border=cv2.BORDER_CONSTANT)
        cover = laid[..., 3:] / 255.0
        photo = cover * laid[..., :3] + (1.0 - cover) * photo
        points[i] = place.apply(faces.keypoints.xy[i])
    noisy = photo + rng.normal(0.0, 2.0, photo.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8), Keypoints(points, KAGGLE15)


def draw_room(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A wall in changing light with rectangles and discs, float (H, W, 3)."""
    low, high = rng.uniform(60, 120, 3), rng.uniform(120, 200, 3)
    share = np.linspace(0.0, 1.0, height)[:, np.newaxis, np.newaxis]
    wall = np.ascontiguousarray(np.broadcast_to(low + share * (high - low), (height, width, 3)))
    for _ in range(12):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        w, h = (int(v) for v in rng.integers(min(height, width) // 12 + 1, height // 3 + 2, 2))
        color = tuple(float(v) for v in rng.uniform(40, 220, 3))
        if rng.random() < 0.6:
            cv2.rectangle(wall, (x, y), (x + w, y + h), color, -1)
        else:
            cv2.circle(wall, (x, y), h // 2, color, -1, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(wall, (0, 0), 1.5))
