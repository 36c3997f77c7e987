"""Random views of a face, made inside the training graph: on whatever device trains.

One affine map per face leads from the model's input into a larger source image, so that a rotated or
smaller view shows the real surroundings and is interpolated once. Then light, sharpness and occlusion
of the view change. Everything is `keras.ops` with seed generators.

Coordinates are pixels, an integer is a pixel centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

__all__ = ["AugmentConfig", "Augmenter", "affine_matrix", "apply_affine", "warp"]

Tensor = Any


@dataclass(frozen=True)
class AugmentConfig:
    """Ranges of the views: angles in degrees, shifts in input pixels, the others probabilities.

    Args:
        gentle: Share of the *fixed* faces that get only ``gentle_*`` moves (Kaggle's crops are all
            alike, in the test too).
        wide: Share of the other faces that get ``wide_*`` moves, for crops made otherwise.
    """

    gentle: float = 0.5
    gentle_angle: float = 12.0
    gentle_scale: float = 1.1
    gentle_shift: float = 3.0
    angle: float = 30.0
    scale: float = 1.25
    shift: float = 8.0
    wide: float = 0.2
    wide_angle: float = 45.0
    wide_scale: float = 1.7
    wide_shift: float = 14.0
    flip: float = 0.5
    light: float = 0.8
    blur: float = 0.3
    low_resolution: float = 0.25
    noise: float = 0.4
    jpeg: float = 0.3
    occlusion: float = 0.3


def affine_matrix(
    angle: Tensor, scale: Tensor, flip: Tensor, centre_xy: Tensor, input_size: int
) -> Tensor:
    """``(B, 2, 3)`` matrices from input pixels to source pixels.

    Args:
        angle: ``(B,)`` radians; the view turns clockwise by it.
        scale: ``(B,)`` input pixels per source pixel.
        flip: ``(B,)`` 1.0 mirrors left and right, 0.0 does not.
        centre_xy: ``(B, 2)`` source pixel that the input's middle shows.
        input_size: Side of the input, pixels.
    """
    middle = (input_size - 1) / 2.0
    cos, sin = ops.cos(angle) / scale, ops.sin(angle) / scale
    sign = 1.0 - 2.0 * flip
    linear = ops.stack(
        [ops.stack([sign * cos, sin], -1), ops.stack([-sign * sin, cos], -1)], axis=1
    )
    offset = centre_xy - middle * ops.sum(linear, axis=-1)
    return ops.concatenate([linear, offset[..., None]], axis=-1)


def apply_affine(xy: Tensor, matrix: Tensor, flip: Tensor, swap: tuple[int, ...]) -> Tensor:
    """Take source points ``(B, S, K, 2)`` to input pixels; mirrored faces swap partners.

    Args:
        xy: Source pixels.
        matrix: ``(B, 2, 3)`` from :func:`affine_matrix` (input to source).
        flip: ``(B,)`` as given to it.
        swap: Left/right partner of each keypoint.
    """
    a, b = matrix[:, 0, 0], matrix[:, 0, 1]
    c, d = matrix[:, 1, 0], matrix[:, 1, 1]
    det = a * d - b * c
    inverse = ops.stack(
        [ops.stack([d / det, -b / det], -1), ops.stack([-c / det, a / det], -1)], axis=1
    )
    moved = xy - matrix[:, None, None, :, 2]
    out = ops.sum(inverse[:, None, None] * moved[..., None, :], axis=-1)
    partner = ops.take(out, np.asarray(swap, "int32"), axis=2)
    return ops.where(flip[:, None, None, None] > 0.5, partner, out)


def warp(images: Tensor, matrix: Tensor, input_size: int) -> Tensor:
    """Bilinear view ``(B, input_size, input_size)`` of ``images`` ``(B, H, W)``; edges repeat.

    Args:
        images: Source images, any dtype.
        matrix: ``(B, 2, 3)`` input to source pixels.
        input_size: Side of the view.
    """
    height, width = images.shape[1], images.shape[2]
    grid = np.arange(input_size, dtype="float32")
    gx, gy = grid[None, None, :], grid[None, :, None]
    m = matrix[:, :, :, None, None]
    x = ops.clip(m[:, 0, 0] * gx + m[:, 0, 1] * gy + m[:, 0, 2], 0.0, width - 1.001)
    y = ops.clip(m[:, 1, 0] * gx + m[:, 1, 1] * gy + m[:, 1, 2], 0.0, height - 1.001)
    x0, y0 = ops.floor(x), ops.floor(y)
    fx, fy = x - x0, y - y0
    index = ops.reshape(ops.cast(y0 * width + x0, "int32"), (-1, input_size * input_size))
    flat = ops.reshape(images, (-1, height * width))

    def tap(offset: int) -> Tensor:
        taken = ops.take_along_axis(flat, index + offset, axis=1)
        return ops.reshape(ops.cast(taken, "float32"), (-1, input_size, input_size))

    top = tap(0) * (1.0 - fx) + tap(1) * fx
    bottom = tap(width) * (1.0 - fx) + tap(width + 1) * fx
    return top * (1.0 - fy) + bottom * fy


def _gaussian_kernel(sigma: float, radius: int) -> np.ndarray:
    x = np.arange(-radius, radius + 1)
    k = np.exp(-(x**2) / (2.0 * sigma**2))
    k /= k.sum()
    return np.outer(k, k).astype("float32")[..., None, None]


def _dct_matrix() -> np.ndarray:
    n = np.arange(8)
    m = np.cos((2 * n[None] + 1) * n[:, None] * np.pi / 16) * 0.5
    m[0] /= np.sqrt(2.0)
    return m.astype("float32")


# Luminance quantisation table of the JPEG standard (ITU-T T.81, annex K.1).
_JPEG_TABLE = np.array(
    [
        16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
        14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
        18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
        49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
    ],
    "float32",
).reshape(8, 8)  # fmt: skip


class Augmenter:
    """Draws views of faces.

    Args:
        config: Ranges of the views.
        input_size: Side of the view, pixels; a multiple of 8.
        swap: Left/right partner of each keypoint.
        seed: First seed.
    """

    def __init__(
        self, config: AugmentConfig, input_size: int, swap: tuple[int, ...], seed: int
    ) -> None:
        if input_size % 8:
            raise ValueError(f"input_size must be a multiple of 8, received {input_size}.")
        self.config, self.input_size, self.swap = config, input_size, swap
        self.seed = keras.random.SeedGenerator(seed)

    def _uniform(self, n: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        return keras.random.uniform((n,), low, high, seed=self.seed)

    def _chance(self, n: Tensor, p: float) -> Tensor:
        return ops.cast(self._uniform(n) < p, "float32")

    def geometry(self, centre_xy: Tensor, slack_xy: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        """Random ``(matrix, flip)`` for faces.

        Args:
            centre_xy: ``(B, 2)`` source pixel in the middle of a face's usual crop.
            slack_xy: ``(B, 2)`` source pixels by which that crop is uncertain.
            fixed: ``(B,)`` 1.0 for faces whose crops are all alike.
        """
        c = self.config
        n = ops.shape(centre_xy)[0]
        gentle = fixed * self._chance(n, c.gentle)
        wide = (1.0 - fixed) * self._chance(n, c.wide)

        def reach(normal: float, small: float, large: float) -> Tensor:
            return normal + gentle * (small - normal) + wide * (large - normal)

        angle = reach(c.angle, c.gentle_angle, c.wide_angle) * self._uniform(n, -1.0, 1.0)
        log_scale = ops.log(reach(c.scale, c.gentle_scale, c.wide_scale)) * self._uniform(n, -1, 1)
        scale = ops.exp(log_scale) * (self.input_size / 96.0)
        shift = reach(c.shift, c.gentle_shift, c.wide_shift)[:, None] * keras.random.uniform(
            (n, 2), -1.0, 1.0, seed=self.seed
        )
        slack = slack_xy * keras.random.uniform((n, 2), -1.0, 1.0, seed=self.seed)
        flip = self._chance(n, c.flip)
        matrix = affine_matrix(
            angle * (np.pi / 180.0), scale, flip, centre_xy + slack + shift, self.input_size
        )
        return matrix, flip

    def appearance(self, images: Tensor) -> Tensor:
        """Change light, sharpness and occlusion of ``(B, H, W)`` views, 0-255 before and after."""
        c, size = self.config, self.input_size
        if not any((c.light, c.blur, c.low_resolution, c.noise, c.jpeg, c.occlusion)):
            return images
        n = ops.shape(images)[0]

        def choose(p: float, changed: Tensor, kept: Tensor) -> Tensor:
            on = self._chance(n, p)[:, None, None]
            return on * changed + (1.0 - on) * kept

        x = images
        small = ops.average_pool(x[..., None], 2, 2)
        smaller = ops.average_pool(small, 2, 2) if size % 32 == 0 else small
        coarse = choose(
            0.3,
            ops.image.resize(smaller, (size, size), interpolation="bilinear")[..., 0],
            ops.image.resize(small, (size, size), interpolation="bilinear")[..., 0],
        )
        x = choose(c.low_resolution, coarse, x)
        blurred = ops.conv(
            ops.pad(x[..., None], ((0, 0), (3, 3), (3, 3), (0, 0)), mode="reflect"),
            _gaussian_kernel(1.5, 3),
            padding="valid",
        )[..., 0]
        # From soft to sharpened: a negative share of the blurred image is an unsharp mask.
        x = choose(c.blur, x + self._uniform(n, -0.6, 1.0)[:, None, None] * (blurred - x), x)

        # Occluders: a rectangle of flat grey or of another face of the batch.
        grid = np.arange(size, dtype="float32")
        cx, cy = self._uniform(n, 0, size)[:, None, None], self._uniform(n, 0, size)[:, None, None]
        w = self._uniform(n, 0.06 * size, 0.3 * size)[:, None, None]
        h = self._uniform(n, 0.06 * size, 0.3 * size)[:, None, None]
        covered = ops.cast(
            ops.logical_and(
                ops.abs(grid[None, None, :] - cx) < w, ops.abs(grid[None, :, None] - cy) < h
            ),
            "float32",
        )
        flat = self._uniform(n, 0, 255)[:, None, None] + 0.0 * x
        cover = choose(0.5, flat, ops.roll(x, 1, axis=0))
        x = choose(c.occlusion, x + covered * (cover - x), x)

        # Light: gamma, contrast, brightness and a ramp from one side.
        unit = ops.clip(x / 255.0, 0.001, 1.0)
        gamma = ops.exp(self._uniform(n, -0.6, 0.6))[:, None, None]
        gain = ops.exp(self._uniform(n, -0.6, 0.35))[:, None, None]
        lift = self._uniform(n, -0.2, 0.2)[:, None, None]
        side = self._uniform(n, -np.pi, np.pi)[:, None, None]
        depth = self._uniform(n, 0.0, 0.5)[:, None, None]
        ramp = (grid / (size - 1) * 2.0 - 1.0).astype("float32")
        slope = depth * (ops.cos(side) * ramp[None, None, :] + ops.sin(side) * ramp[None, :, None])
        lit = (ops.power(unit, gamma) - 0.5) * gain * (1.0 + slope) + 0.5 + lift
        x = choose(c.light, 255.0 * lit, x)

        sigma = self._uniform(n, 0.0, 14.0)[:, None, None]
        noise = keras.random.normal((n, size, size), seed=self.seed)
        x = choose(c.noise, x + sigma * noise, x)
        x = ops.clip(x, 0.0, 255.0)
        x = choose(c.jpeg, self._jpeg(x), x)
        return ops.clip(x, 0.0, 255.0)

    def _jpeg(self, x: Tensor) -> Tensor:
        """JPEG compression of grey images: block DCT, quantised with a random table scale."""
        size = self.input_size
        dct = _dct_matrix()
        blocks = ops.reshape(x - 128.0, (-1, size // 8, 8, size // 8, 8))
        f = ops.einsum("ui,bpiqj,vj->bpuqv", dct, blocks, dct)
        factor = ops.exp(self._uniform(ops.shape(x)[0], np.log(0.15), np.log(1.5)))
        table = factor[:, None, None, None, None] * _JPEG_TABLE[None, None, :, None, :]
        f = ops.round(f / table) * table
        blocks = ops.einsum("ui,bpuqv,vj->bpiqj", dct, f, dct)
        return ops.reshape(blocks, (-1, size, size)) + 128.0
