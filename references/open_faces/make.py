"""Renders numbered face images into shards: ``python -m references.open_faces.make``."""

from __future__ import annotations

import numpy as np

from .assets import read_textures
from .render import Renderer
from .scene import LIGHTS, People, Picture

SIZE, FINER = 160, 2


class Studio:
    """Everything that a process needs to make images."""

    def __init__(self, arrays: dict[str, np.ndarray], size: int = SIZE) -> None:
        textures = read_textures(arrays)
        self.size = size
        self.people = People(arrays, textures, size * FINER)
        self.renderer = Renderer(textures, size * FINER, LIGHTS)

    def image(self, seed: int, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict]:
        """RGB image (S, S, 3) uint8, points (70, 2) in pixels (an integer is a pixel centre), occluded (70,), parameters."""
        picture = self.people.make(seed, index)
        linear, depth = self.renderer.draw(picture.scene)
        small = linear.reshape(self.size, FINER, self.size, FINER, 3).mean((1, 3))
        points, occluded = project(picture, depth)
        points = points / FINER
        rng = np.random.default_rng([seed, index, 1])
        return develop(small, points, picture, rng), points - 0.5, occluded, picture.parameters


def project(picture: Picture, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions (70, 2) in pixels from the corner of the image, and which points something hides or the image cuts off.

    A point is seen if within one pixel of it nothing nearer than its tolerance was drawn.
    """
    size, (near, far) = len(depth), picture.near_far
    clip = np.column_stack([picture.points, np.ones(len(picture.points))]) @ picture.scene.camera.T
    flat = clip[:, :2] / clip[:, 3:]
    pixels = np.stack([flat[:, 0] + 1.0, 1.0 - flat[:, 1]], axis=1) * size / 2.0
    drawn = 2.0 * near * far / (far + near - depth * (far - near))
    occluded = np.ones(len(pixels), bool)
    for i, (x, y) in enumerate(pixels):
        if 0 <= x < size and 0 <= y < size:
            around = drawn[max(int(y) - 1, 0) : int(y) + 2, max(int(x) - 1, 0) : int(x) + 2]
            occluded[i] = around.max() < clip[i, 3] - picture.tolerance[i]
    return pixels, occluded


def develop(linear: np.ndarray, points: np.ndarray, picture: Picture, rng: np.random.Generator) -> np.ndarray:
    """Exposed for the face, as a camera would: uint8."""
    low, high = points[:68].min(0).astype(int).clip(0, None), points[:68].max(0).astype(int) + 1
    face = linear[low[1] : high[1], low[0] : high[0]].mean(2)
    lightness = picture.parameters["skin_lightness"] / 60.0
    wanted = (picture.parameters["brightness"] * lightness**0.5) ** 2.2
    gain = -np.log(1.0 - min(wanted, 0.9)) / max(float(np.mean(face)) if face.size else 0.2, 1e-3)
    image = (1.0 - np.exp(-gain * linear)) ** (1 / 2.2)
    image = image + rng.normal(0.0, picture.parameters["noise"], image.shape[:2])[..., None]
    return (image * 255.0 + 0.5).clip(0, 255).astype(np.uint8)
