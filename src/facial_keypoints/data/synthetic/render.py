"""Paint faces: parameters in, grey images out.

Every shape is a formula evaluated on the grid of face coordinates of a batch of images, with an
edge that is one pixel soft; form comes from one relief (head, nose, sockets, cheeks, lips) whose
slope is lit from one side. Eyes and mouth are painted in small windows only. numpy for the shapes,
OpenCV for blur. Where the keypoints are is decided in ``geometry``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from facial_keypoints.data.synthetic.geometry import REFERENCE_SIZE, FaceParameters
from facial_keypoints.geometry import centres_to_edges, resize_xy
from facial_keypoints.io.images import encode_image, read_image
from facial_keypoints.types import BoolArray

__all__ = ["render_faces"]

Floats: TypeAlias = NDArray[np.floating[Any]]


def _cover(distance: Floats, softness: Floats | float) -> Floats:
    """Share of a pixel inside a shape, from the signed distance to its edge (negative inside)."""
    share = 0.5 - distance / softness
    return np.clip(share, 0.0, 1.0, out=share)


def _ramp(x: Floats, low: Floats | float, high: Floats | float) -> Floats:
    """Smooth step from 0 at ``low`` to 1 at ``high``."""
    t: Floats = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _bump(squared: Floats) -> Floats:
    """(1 - r^2)^2 inside the unit circle: a hill that costs no exponential."""
    hill: Floats = np.maximum(1.0 - squared, 0.0)
    return hill * hill


def _blend(image: Floats, value: Floats | float, share: Floats) -> None:
    """Paint ``value`` over ``image`` in place where ``share`` is 1."""
    image += (value - image) * share


@cache
def _streaks() -> Floats:
    """A closed ring of 4096 smooth random values around 0: strands of hair."""
    rng = np.random.default_rng(7)
    white = rng.standard_normal(4096)
    ring = sum(
        np.convolve(np.tile(white, 3), np.hanning(n) / np.hanning(n).sum(), "same")[4096:8192]
        * n**0.5
        for n in (8, 20, 60)
    )
    return np.asarray(ring / np.std(ring), np.float32)


@cache
def _clouds(kind: int) -> Floats:
    """A 512 x 512 sheet of smooth noise around 0: 0 fine, for curls and cloth; 1 broad, for walls."""
    rng = np.random.default_rng(8 + kind)
    sheet = np.zeros((512, 512), np.float32)
    blobs = (
        ((1.0, 1.0), (3.0, 0.8), (9.0, 0.8)) if kind == 0 else ((3.0, 0.3), (9.0, 1.0), (20.0, 1.0))
    )
    for sigma, weight in blobs:
        layer = cv2.GaussianBlur(rng.standard_normal((512, 512)).astype(np.float32), (0, 0), sigma)
        sheet += weight * layer / layer.std()
    return np.asarray(sheet / sheet.std(), np.float32)


@cache
def _grain() -> Floats:
    """A 512 x 512 sheet of white noise: what a sensor adds to each pixel."""
    return np.random.default_rng(10).standard_normal((512, 512), dtype=np.float32)


def _cut_sheets(sheet: Floats, size: int, at_x: Floats, at_y: Floats) -> Floats:
    """(N, size, size) parts of a sheet, from places given as fractions of it."""
    while len(sheet) < 2 * size:  # mirrored copies join without a seam
        sheet = np.block([[sheet, sheet[:, ::-1]], [sheet[::-1], sheet[::-1, ::-1]]])
    room = len(sheet) - size
    x, y = (at_x.ravel() * room).astype(int), (at_y.ravel() * room).astype(int)
    return np.stack([sheet[j : j + size, i : i + size] for i, j in zip(x, y, strict=True)])


@dataclass(frozen=True)
class _Window:
    """A rectangle of the same size in each image; slices, since index arrays are far slower."""

    places: list[tuple[slice, slice]]

    def cut(self, grid: Floats) -> Floats:
        """Copy the rectangles out of (N, S, S)."""
        return np.stack([image[place] for image, place in zip(grid, self.places, strict=True)])

    def paste(self, grid: Floats, patch: Floats) -> None:
        """Put them back in place."""
        for image, place, part in zip(grid, self.places, patch, strict=True):
            image[place] = part

    def add(self, grid: Floats, patch: Floats) -> None:
        """Add to the rectangles in place."""
        for image, place, part in zip(grid, self.places, patch, strict=True):
            image[place] += part


class _Canvas:
    """The pixel grids and buffers of one batch; each method paints one layer onto ``scene``."""

    def __init__(self, faces: FaceParameters, image_size: int) -> None:
        p = self.p = faces
        self.size = image_size
        self.unit = REFERENCE_SIZE / image_size  # pixels of size 96 per image pixel
        self.px, self.py = self._lines(np.arange(image_size))
        self.x, self.y = faces.image_to_plane(self.px, self.py)
        # What changes slowly is worked out on every second pixel, between the pixels, one node
        # beyond the image on each side, and then doubled; u and v are off by 0.02 at most.
        nodes = 2.0 * np.arange(-1, (image_size + 1) // 2 + 1) + 0.5
        self.coarse_plane = faces.image_to_plane(*self._lines(nodes))
        self.coarse = faces.plane_to_face(*self.coarse_plane)
        self.u, self.v = self._doubled(self.coarse[0]), self._doubled(self.coarse[1])
        self.nose_at = self._window(*faces.nose_to_face(0.75 * faces["nose_v"]), 24.0, 21.0)
        self.nu, self.nv = faces.face_to_nose(self.nose_at.cut(self.u), self.nose_at.cut(self.v))
        self.ua = np.abs(self.u)
        self.soft = 1.2 * self.unit / p["scale"]  # width of an edge, face units
        self.noise = _cut_sheets(_clouds(0), image_size, p["texture_x"], p["texture_y"])
        self.mottle = _cut_sheets(_clouds(1), image_size, p["texture_y"], p["texture_x"])
        # Tones: reflectance of skin, hair and lips, 0 black to 1 white.
        self.skin = 0.30 + 0.52 * p["skin"] ** 0.8
        grey = _ramp(p["age"], 0.65, 1.0) * 0.45
        self.hair_tone = np.minimum(0.05 + 0.75 * p["hair_tone"] ** 2.2 * p["skin"] + grey, 0.85)
        self.male = (p["femininity"] < 0.5).astype(np.float32)
        self.curly = _ramp(p["curl"], 0.6, 0.8)
        self.bald = self.male * (p["hair_style"] < 0.10 + 0.15 * p["age"])
        self.long = (1 - self.male) * (p["hair_length"] < 0.75)
        self.long += self.male * (1 - self.bald) * (p["hair_length"] < 0.08)
        self.with_hat = p["hat"] < 0.07
        self.with_glasses = (p["glasses"] < 0.22) & (p["glasses_off"] < 0.85)
        self.with_beard = (self.male > 0) & ((p["beard"] < 0.5) | (p["moustache"] < 0.14))
        self.outline()
        self.scene = np.empty_like(self.u)

    def _lines(self, positions: NDArray[Any]) -> tuple[Floats, Floats]:
        """Coordinates along rows and columns, in pixels of a 96-pixel image."""
        line = resize_xy(positions, self.unit).astype(np.float32)
        return line[None, None, :], line[None, :, None]

    def _doubled(self, grid: Floats) -> Floats:
        """A coarse grid, linearly interpolated at every pixel of the image."""
        wide = (2 * grid.shape[2], 2 * grid.shape[1])
        inner = slice(2, 2 + self.size)
        return np.stack([cv2.resize(part, wide)[inner, inner] for part in grid])

    def _only(self, rows: NDArray[np.int64]) -> _Canvas:
        """A canvas of some of the faces: rare things are painted for their wearers alone."""
        part = copy.copy(self)
        part.p = self.p.subset(rows)
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray) and len(value) == len(self.p):
                setattr(part, name, value[rows])
        return part

    def outline(self) -> None:
        """The head's silhouette: an egg whose chin follows the pose, in the plane of the face."""
        p = self.p
        chin_x, chin_y = p.face_to_plane(0.0 * p["chin_v"], p["chin_v"])
        sin, cos = np.sin(p["yaw"]), np.cos(p["yaw"])
        self.half = p["face_width"] * np.sqrt(cos**2 + (1.08 * sin) ** 2)
        self.middle_y = 4.0 - 20.0 * np.sin(p["pitch"])
        self.chin_y = chin_y
        x, y = self.coarse_plane
        from_middle = y - self.middle_y
        below = from_middle * (1.0 / (chin_y - self.middle_y))
        down = np.clip(below, 0.0, 1.3)
        centre_x = 8.0 * sin + down * (chin_x - 8.0 * sin)
        taper = 1.0 - p["jaw"] * down * down * (1.4 - 0.4 * down)
        ry2 = np.maximum(below, from_middle * (1.0 / (p["crown_v"] - self.middle_y))) ** 2
        rx = (x - centre_x) / (self.half * taper)
        # Between an ellipse (ry^2) and a box (ry^4): cheeks and jaw are squarer than an egg.
        self.centre_x = self._doubled(centre_x)
        self.radius2 = self._doubled(rx * rx + ry2 * (0.45 + 0.55 * ry2))
        radius = np.sqrt(self.radius2 + 1e-6)
        self.rim = (radius - 1.0) * (0.9 * self.half)  # about the distance to the outline

    # -- behind the head ---------------------------------------------------------------------

    def background(self) -> None:
        p = self.p
        tone = 0.08 + 0.85 * p["back_tone"]
        wall = tone + (p["back_slope_x"] - 0.5) * (self.px / 96 - 0.5) * 0.5
        wall = wall + (p["back_slope_y"] - 0.5) * (self.py / 96 - 0.5) * 0.5
        tilt = (p["back_tilt"] - 0.5) * 1.5
        edge = self.px - 96 * p["back_split"] + tilt * (self.py - 48)
        second = (p["back_delta"] - 0.5) * 0.9 * (p["back_radius"] > 0.35)
        wall = wall + second * _cover(edge, 3.0 + 10 * p["back_radius"])
        bx, by = self.px - 96 * p["back_x"], self.py - 96 * p["back_y"]
        size = 8 + 30 * p["back_radius"]
        wall += (0.5 - p["back_delta"]) * _bump((bx * bx + by * by) / (size * size))
        wall += 0.13 * p["back_texture"] ** 2 * self.mottle
        self.scene[...] = np.clip(wall, 0.02, 1.0)

    def hair(self) -> None:
        """Lay out the strands of all hair: they fan out from above the crown."""
        p = self.p
        spread = np.maximum(0.55 * self.y + 75.0 + 7.5 * p["streak"], 20.0)
        wave = (420 * self.x - 420 * self.centre_x) / spread
        wave += 9 * p["curl"] * np.sin(0.25 * self.y + 6 * p["streak"]) + 4136 * p["streak"]
        strands = np.take(_streaks(), wave.astype(np.int64) & 4095)
        curly = self.curly
        strands += (1.3 * self.noise - strands) * curly
        shine = 0.25 * (1 - curly) * _bump(((self.y + 36 + 6 * p["light_y"]) / 16) ** 2)
        gloss = 1.0 + 0.15 * strands + shine + 0.0045 * p["light_x"] * self.x
        self.strands = strands
        self.hair_paint = np.clip(self.hair_tone * np.maximum(gloss, 0.25), 0.02, 1.0)

    def hair_behind(self) -> None:
        """Long hair hangs behind the neck."""
        p = self.p
        width = self.half + 5 + 9 * p["fringe"] + 2.0 * self.curly * self.noise
        length = 52 + 100 * p["hair_length"]
        hang = np.abs(self.x - 0.4 * self.centre_x)
        hang -= width * (0.55 + 0.45 * _ramp(self.y, -35.0, 12.0))
        shape = np.maximum(hang, -(self.y + 34))
        shape = np.maximum(shape, (self.y - length - 4 * self.strands) * 0.5)
        _blend(self.scene, self.hair_paint * 0.75, _cover(shape, 3.0))

    def body(self) -> None:
        """Neck, then shoulders in a shirt; the neck lies in the chin's shadow."""
        p = self.p
        reach = self.y > self.chin_y - 25
        lower = slice(int(reach.any(axis=(0, 2)).argmax()), None)  # nothing of it is higher
        x, y, noise = self.x[:, lower], self.y[:, lower], self.noise[:, lower]
        scene = self.scene[:, lower]
        tone = self.skin * self.gain * 0.80
        neck_x = x - 0.35 * self.centre_x[:, lower]
        off = np.abs(neck_x)
        neck = off - self.half * (0.58 + 0.12 * self.male)
        shade = tone * (0.6 + 0.4 * _ramp(y, self.chin_y + 2, self.chin_y + 26))
        shade = shade * (1.0 - 0.012 * off + 0.006 * p["light_x"] * neck_x)
        _blend(scene, shade, _cover(np.maximum(neck, self.chin_y - 22 - y), 2.0))
        collar = self.chin_y + 13 + 8 * p["collar"] - 0.55 * np.maximum(18 - off, 0.0)
        collar = collar + 0.28 * np.maximum(off - 22, 0.0)
        cloth = np.clip(0.06 + 0.85 * p["clothes"] + 0.05 * noise, 0.02, 1.0)
        cloth = cloth * self.gain * (0.85 + 0.004 * p["light_x"] * x)
        _blend(scene, cloth, _cover(collar - y, 2.0))

    def ears(self) -> None:
        p = self.p
        sin = np.sin(p["yaw"])
        ey = (self.y - 8 + 15 * np.sin(p["pitch"])) / (2.0 * p["ear"])
        rows = np.flatnonzero((np.abs(ey) < 1.2).any(axis=(0, 2)))  # no ear above or below
        if len(rows) == 0:
            return
        band = slice(int(rows[0]), int(rows[-1]) + 1)
        # The far ear slips behind the head with growing yaw.
        from_middle = self.x[:, band] - 8.0 * sin
        right = from_middle > 0
        behind = 14 * np.where(right, np.maximum(sin, 0.0), np.maximum(-sin, 0.0))
        ex = (np.abs(from_middle) - self.half - 0.2 + behind) / (0.75 * p["ear"])
        r2 = ex * ex + ey[:, band] ** 2
        lit = 0.72 + np.where(right, 0.15, -0.15) * p["light_x"] - 0.30 * _bump(r2 * 2.2)
        share = _cover((np.sqrt(r2) - 1) * 5, self.soft)
        _blend(self.scene[:, band], self.skin * self.gain * lit, share)

    # -- the head ----------------------------------------------------------------------------

    def relief(self) -> Floats:
        """Height of the face toward the camera, face units."""
        p = self.p
        height: Floats = 36.0 * np.sqrt(np.maximum(1.0 - 0.93 * self.radius2, 0.0) + 0.004)
        height += self._doubled(self._soft_relief())
        tip, base = p["nose_v"], p["nose_v"] + p["nose_base"]
        grow = np.clip((self.nv + 3) / (tip + 3), 0.0, 1.2)
        width = 4.2 + (0.75 * p["nose_width"] - 1.0) * grow * grow
        nose = 0.72 * p.ridge(self.nv) * _bump((self.nu / (width * 1.45)) ** 2)
        nose += 1.3 * _bump((self.nu**2 + (self.nv - tip - 0.5) ** 2) / 26)
        wing_u = (np.abs(self.nu) - 0.78 * p["nose_width"]) / 3.4
        nose += 2.2 * _bump(wing_u**2 + ((self.nv - base + 2.4) / 3.8) ** 2)
        self.nose_at.add(height, nose)
        return height

    def _soft_relief(self) -> Floats:
        """The broad forms besides head and nose, on the coarse grid."""
        p = self.p
        u, v = self.coarse
        ua = np.abs(u)
        eye_u = (ua - p["eye_u"] + 1.5) / 12
        height = -3.4 * _bump(eye_u * eye_u + ((v + 0.5) / 8.5) ** 2)
        height += 1.8 * _bump(((ua - p["eye_u"]) / 8.5) ** 2 + (v / 5.5) ** 2)
        height += (1.2 + 1.4 * self.male) * _bump(((ua - 17) / 19) ** 2 + ((v + 10) / 7) ** 2)
        full = 2.2 + 0.7 * np.maximum(p["smile"], 0.0)
        height += full * _bump(((ua - 22) / 15) ** 2 + ((v - 20) / 15) ** 2)
        height += 2.4 * _bump((u / 15) ** 2 + ((v - p["chin_v"] + 8) / 9) ** 2)
        height -= 1.5 * _bump((u / 14) ** 2 + ((v - p["lip_bottom"] - 3.5) / 5) ** 2)
        height += 2.4 * _bump((u / 19) ** 2 + ((v - p["mouth_v"]) / 13) ** 2)
        return height

    def lighting(self) -> None:
        """Brightness of a white surface at each pixel, and the mirror-like highlight."""
        p = self.p
        height = self.relief()
        step = self.unit / p["scale"]
        slope_x, slope_y = np.empty_like(height), np.empty_like(height)
        slope_x[:, :, 1:-1] = (height[:, :, 2:] - height[:, :, :-2]) * (0.5 / step)
        slope_y[:, 1:-1] = (height[:, 2:] - height[:, :-2]) * (0.5 / step)
        slope_x[:, :, 0], slope_x[:, :, -1] = slope_x[:, :, 1], slope_x[:, :, -2]
        slope_y[:, 0], slope_y[:, -1] = slope_y[:, 1], slope_y[:, -2]
        lx, ly = p["light_x"], p["light_y"]
        length = np.sqrt(lx * lx + ly * ly + 0.85**2)
        normal = 1.0 / np.sqrt(slope_x * slope_x + slope_y * slope_y + 1.0)
        facing = (0.85 - lx * slope_x - ly * slope_y) * normal / length
        # Half way between light and camera: where skin shines.
        hz = (0.85 / length + 1.0) * 1.0
        hx, hy = lx / length, ly / length
        shine = (hz - hx * slope_x - hy * slope_y) * normal / np.sqrt(hx**2 + hy**2 + hz**2)
        shine = np.maximum(shine, 0.3)  # smaller powers would be denormal, which is slow
        for _ in range(4):
            shine *= shine
        self.shine = shine * shine
        ambient = 0.32 + 0.40 * p["ambient"]
        wrapped = np.maximum(facing * 0.85 + 0.15, 0.0)
        self.light = ambient + (1.22 - ambient) * wrapped

    def shadows(self) -> Floats:
        """Soft darkening that relief alone does not give: folds, sockets, under the nose and lip."""
        p = self.p
        u, v = self.coarse
        ua = np.abs(u)
        base = p["nose_v"] + p["nose_base"]
        dark = 0.22 * _bump(((ua - p["eye_u"] + 6.5) / 5.5) ** 2 + ((v + 1.5) / 6.5) ** 2)
        dark += 0.16 * _bump(((ua - p["eye_u"]) / 10) ** 2 + ((v + 4) / 5) ** 2)
        bag = _bump(((ua - p["eye_u"] + 1) / 8) ** 2 + ((v - 5.6) / 2.6) ** 2)
        dark += (0.06 + 0.16 * p["age"]) * bag
        dark += 0.20 * _bump((u / 9) ** 2 + ((v - p["lip_bottom"] - 2.2) / 3) ** 2)
        # The fold from the nose's wing to beside the mouth's corner.
        along = np.clip((v - base + 3) / (p["mouth_v"] - base + 3), 0.0, 1.0)
        fold_u = p["nose_width"] + 2.0 + along * (p["mouth_half"] - p["nose_width"] + 2.5)
        fold_u = fold_u + 3.0 * along * (1.0 - along)
        fold = _bump(((ua - fold_u) / 3.4) ** 2)
        fold *= _ramp(along, 0.0, 0.25) * (1 - _ramp(along, 0.7, 1.0))
        dark += fold * (0.03 + 0.08 * p["age"] + 0.03 * np.maximum(p["smile"], 0.0))
        dark = self._doubled(dark)
        under = (self.nu / (p["nose_width"] + 1.5)) ** 2 + ((self.nv - base - 1) / 4) ** 2
        wing = (np.abs(self.nu) - p["nose_width"] - 0.6) / 1.7
        beside = wing * wing + ((self.nv - base + 2.6) / 4.5) ** 2
        self.nose_at.add(dark, 0.22 * _bump(under) + 0.20 * _bump(beside))
        np.minimum(dark, 0.8, out=dark)
        return dark

    def nostrils(self, albedo: Floats) -> None:
        p = self.p
        base = p["nose_v"] + p["nose_base"]
        du = (np.abs(self.nu) - 0.52 * p["nose_width"]) / (0.25 * p["nose_width"])
        dv = (self.nv - base + 0.9 + 0.4 * np.abs(du)) / 1.15
        shown = np.clip(0.55 + 1.4 * np.sin(p["pitch"]), 0.15, 0.8)
        patch = self.nose_at.cut(albedo)
        _blend(patch, 0.04, _cover(np.sqrt(du * du + dv * dv) - 0.85, 0.8) * shown)
        self.nose_at.paste(albedo, patch)

    def brows(self, albedo: Floats) -> None:
        p = self.p
        span = p["brow_outer_u"] - p["brow_inner_u"]
        middle = 0.5 * (p["brow_outer_u"] + p["brow_inner_u"])
        strength = np.clip(0.85 - 0.6 * (self.hair_tone - 0.1), 0.40, 0.85)
        tone = np.minimum(self.hair_tone * 0.7 + 0.02, self.skin * 0.55)
        for sign in (1.0, -1.0):
            at = self._window(sign * middle, p["brow_top"], 19.0, 12.0)
            patch = at.cut(albedo)
            du, v = sign * at.cut(self.u) - p["brow_inner_u"], at.cut(self.v)
            t = np.clip(du / span, 0.0, 1.0)
            arch = p["brow_arch"] * 4 * t * (1 - t) * (0.6 + 0.6 * t)
            line = p["brow_top"] + p["brow_slope"] * t - arch
            thick = p["brow_thick"] * (1.15 - 0.85 * t) * np.minimum(1.0, 0.55 + 4 * t)
            beyond = np.maximum(-du, np.maximum(du - span, 0.0))
            distance = np.sqrt((v - line) ** 2 + beyond * beyond) - thick
            share = _cover(distance, self.soft + 0.9) * strength
            _blend(patch, tone, np.clip(share * (0.85 + 0.15 * at.cut(self.noise)), 0.0, 1.0))
            at.paste(albedo, patch)

    def _window(self, u: Floats, v: Floats, half_u: float, half_v: float) -> _Window:
        """A rectangle around (u, v) big enough for any pose."""
        p = self.p
        cx, cy = (centres_to_edges(place) / self.unit for place in p.face_to_image(u, v))
        most = float(p["scale"].max())
        w = min(int(2 * half_u * most / self.unit) + 2, self.size)
        h = min(int(2 * half_v * most / self.unit) + 2, self.size)
        left = np.clip((cx - w / 2).astype(np.int64), 0, self.size - w).ravel().tolist()
        top = np.clip((cy - h / 2).astype(np.int64), 0, self.size - h).ravel().tolist()
        return _Window([(slice(y, y + h), slice(x, x + w)) for x, y in zip(left, top, strict=True)])

    def eyes(self, albedo: Floats) -> None:
        p = self.p
        self.catch: list[tuple[_Window, Floats]] = []
        for sign in (1.0, -1.0):
            at = self._window(sign * p["eye_u"], 0.0 * p["eye_u"], 13.0, 10.0)
            patch = at.cut(albedo)
            u, v = at.cut(self.u), at.cut(self.v)
            du = (u - sign * p["eye_u"]) * sign  # positive away from the nose
            half = p["eye_half_width"]
            t = np.clip(du / half, -1.0, 1.0)
            dv = v - 0.9 + p["eye_tilt"] * t
            arch = 1.0 - t * t
            # The opening's highest point lies a little to the nose's side of the middle.
            upper = -(p["lid_height"] + 0.9) * p["openness"] * arch * (1.0 - 0.12 * t)
            lower = 1.7 * arch * (0.35 + 0.65 * p["openness"]) * (1.0 + 0.15 * t)
            beyond = np.maximum(np.abs(du) - half, 0.0)
            inside = _cover(
                np.maximum(np.maximum(upper - dv, dv - lower), np.abs(du) - half), self.soft
            )
            # Sclera: darker in the corners and under the upper lid.
            white = 0.95 - 0.22 * t * t - 0.28 * _cover(dv - upper - 1.3, 1.8)
            _blend(patch, white * (0.75 + 0.25 * self.skin), inside)
            iu = u - sign * p["eye_u"] - p["gaze_u"]
            iv = v - p["gaze_v"]
            r = np.sqrt(iu * iu + iv * iv)
            iris = 0.08 + 0.34 * p["eye_tone"] ** 2
            tone = iris * (1.15 - 0.5 * _cover(np.abs(r - p["iris_radius"]) - 0.4, 1.0))
            tone = tone + (0.02 - tone) * _cover(r - 1.25, self.soft)
            _blend(patch, tone, _cover(r - p["iris_radius"], self.soft) * inside)
            # Lashes, crease of the lid, rim of the lower lid.
            lash = np.sqrt((dv - upper) ** 2 + beyond * beyond)
            thick = 0.55 + 0.55 * p["makeup"] * (1 - self.male) + 0.25 * np.maximum(t, 0.0)
            _blend(patch, 0.07, _cover(lash - thick, self.soft + 0.3) * 0.85)
            crease = np.sqrt((dv - upper * 1.05 + 2.5) ** 2 + (beyond * 0.8) ** 2)
            _blend(patch, self.skin * 0.45, _cover(crease - 0.4, 1.8) * 0.55)
            rim = np.sqrt((dv - lower) ** 2 + beyond * beyond)
            _blend(patch, self.skin * 0.4, _cover(rim - 0.2, 1.4) * (0.40 + 0.3 * p["makeup"]))
            at.paste(albedo, patch)
            lx, ly = np.sign(p["light_x"]) * 0.9, -1.0
            spot = np.sqrt((iu - lx) ** 2 + (iv - ly) ** 2)
            self.catch.append((at, _cover(spot - 0.55, self.soft) * inside * 0.85))

    def mouth(self, albedo: Floats) -> None:
        p = self.p
        middle = 0.5 * (p["lip_top"] + p["lip_bottom"])
        at = self._window(0.0 * middle, middle, 21.0, 14.5)
        patch = at.cut(albedo)
        u, v = at.cut(self.u), at.cut(self.v)
        half = p["mouth_half"]
        t = np.clip(u / half, -1.0, 1.0)
        arch = 1.0 - t * t
        past = np.abs(u) - half
        beyond = np.maximum(past, 0.0)
        seam = p["mouth_v"] - p["mouth_lift"] * t * t
        gap = p["mouth_gap"]
        inner_top = seam - 0.3 * gap * arch
        inner_low = seam + 0.7 * gap * arch
        dip = 1.0 - 0.5 * p["cupid"] * _bump((u / 4.5) ** 2)  # cupid's bow
        top = inner_top - p["upper_lip"] * dip * np.minimum(arch * 1.0, 1.0) ** 0.8
        low = inner_low + p["lower_lip"] * arch**0.75
        rosy = 0.80 - 0.30 * p["makeup"] * (1 - self.male) - 0.05 * self.male
        upper = _cover(np.maximum(np.maximum(top - v, v - inner_top), past), self.soft)
        lower = _cover(np.maximum(np.maximum(inner_low - v, v - low), past), self.soft)
        _blend(patch, self.skin * rosy * 0.86, upper)
        belly = _bump((u / (0.6 * half)) ** 2 + ((v - 0.45 * inner_low - 0.55 * low) / 2.2) ** 2)
        _blend(patch, self.skin * (rosy + 0.22 * belly), lower)
        hollow = _cover(np.maximum(np.maximum(inner_top - v, v - inner_low), past), self.soft)
        tongue = 0.05 + 0.10 * _ramp((v - inner_top) / (gap + 1.0), 0.4, 1.0)
        _blend(patch, tongue, hollow)
        teeth = hollow * _cover(v - inner_top - 0.62 * gap * arch, self.soft + 0.4) * p["teeth"]
        _blend(patch, 0.90 - 0.35 * t * t - 0.06 * np.abs(np.sin(u * 1.1)), teeth)
        closed = 1.0 - _ramp(gap, 0.3, 1.5)
        line = np.sqrt((v - seam) ** 2 + beyond * beyond) - 0.45
        _blend(patch, self.skin * 0.25, _cover(line, self.soft + 0.5) * (0.25 + 0.6 * closed))
        corner = (np.abs(u) - half - 0.3) ** 2 + (v - seam) ** 2
        _blend(patch, self.skin * 0.35, _bump(corner / 6.0) * 0.7)
        at.paste(albedo, patch)

    def beard(self, albedo: Floats) -> None:
        """Stubble, beard or moustache, on men only; the lips stay free."""
        p = self.p
        kind = p["beard"]
        grown = (kind < 0.24).astype(np.float32)
        stubble = ((kind > 0.24) & (kind < 0.5)).astype(np.float32)
        whiskers = np.maximum(p["moustache"] < 0.14, grown)
        v, ua = self.v, self.ua
        base = p["nose_v"] + p["nose_base"] + 2.5
        half = p["mouth_half"]
        lip_u = np.minimum(ua / (half + 1.5), 1.0)
        free = np.sqrt(1.0 - lip_u * lip_u)
        middle = p["mouth_v"] - p["mouth_lift"] * lip_u * lip_u
        off_lips = np.maximum(
            middle - (middle - p["lip_top"] + 0.6) * free - v,
            v - middle - (p["lip_bottom"] + 0.6 - middle) * free,
        )
        # Cheek line: high at the ears, low beside the nose.
        line = base + 13 - 0.006 * np.maximum(ua - 12, 0.0) ** 2 * 4
        goatee = (kind < 0.09).astype(np.float32)
        line = line + goatee * np.maximum(ua - half - 3, 0.0) * 5
        jaw = np.maximum(line - v, 0.8 - off_lips)
        lip = np.maximum(
            np.maximum(base - v + 0.02 * ua * ua, v - p["mouth_v"] - 1), ua - half - 2.5
        )
        lip = np.maximum(lip, 0.8 - off_lips)
        tone = np.clip(self.hair_tone * (0.85 + 0.22 * self.noise), 0.03, 1.0)
        area = _cover(jaw + 0.8 * self.noise, 5.0)
        upper_lip = _cover(lip + 0.4 * self.noise, 2.5)
        share = 0.85 * np.maximum(area * grown, upper_lip * whiskers) * (0.9 + 0.12 * self.noise)
        light = 0.22 * stubble * np.maximum(area, _cover(lip, 5.0))
        _blend(albedo, np.minimum(tone, 0.8 * self.skin), np.clip(share + light, 0.0, 1.0))

    def head(self) -> None:
        """The lit head with all its features."""
        p = self.p
        self.lighting()
        albedo = self.skin * (1.0 + 0.02 * self.noise) * np.ones_like(self.u)
        rows = np.flatnonzero(self.with_beard)
        if len(rows):
            bearded = albedo[rows]
            self._only(rows).beard(bearded)
            albedo[rows] = bearded
        self.brows(albedo)
        self.mouth(albedo)
        self.eyes(albedo)
        self.nostrils(albedo)
        albedo *= 1.0 - self.shadows()
        albedo *= self.light
        albedo += (0.04 + 0.16 * p["exposure"] * p["glare"]) * self.shine
        for at, share in self.catch:
            patch = at.cut(albedo)
            _blend(patch, 1.0, share)
            at.paste(albedo, patch)
        _blend(self.scene, albedo * self.gain, _cover(self.rim, self.soft))

    # -- in front ----------------------------------------------------------------------------

    def hair_front(self) -> None:
        p = self.p
        curly = self.curly
        fringe = (p["fringe"] < 0.22) * (1.0 - self.bald)
        u, v = self.coarse
        ua, y = np.abs(u), self.coarse_plane[1]
        volume = (2.0 + 5.0 * p["hair_style"] + 4.0 * curly) * (1.0 - self.bald)
        lift = 50.0 * self.bald * _ramp(-y, 2.0, 26.0) - volume * _ramp(-y, -25.0, 10.0)
        outer = self.rim + self._doubled(lift) + (0.4 + 0.8 * curly) * self.noise
        recede = p["hairline_v"] - self.male * p["age"] * 7.0 * (
            1.0 + 0.5 * _bump(((ua - 16) / 12) ** 2)
        )
        part = 1.6 * (p["streak"] - 0.5)  # hair combed to one side starts higher on the other
        line = recede + p["hairline_curve"] * u**2 + 0.18 * part * u * (1 - fringe)
        line += fringe * (13.0 + 4.0 * np.sin(0.07 * u + 6 * p["streak"])) - self.bald * 14
        roots = self.strands + curly * (self.noise - self.strands)
        above = self._doubled(v - line) + (0.5 + 1.4 * fringe) * roots
        # Sides: down to the ears, or past the jaw for long hair.
        inset = p["face_width"] * (0.86 + 0.06 * p["fringe"]) - 3.0 * self.long
        low = 5.0 - 2.0 * self.bald + 100 * self.long
        side = self._doubled(np.maximum(inset - ua - 0.12 * np.maximum(-6 - v, 0.0), v - low))
        # One soft minimum of both, so that the temples are round.
        a, b = np.clip(above, -9.0, 9.0), np.clip(side + 0.6 * self.noise, -9.0, 9.0)
        inner = 0.5 * (a + b - np.sqrt((a - b) ** 2 + 12.0)) + 0.8
        shape = np.maximum(outer, inner)
        shade = self.gain * (0.75 + 0.35 * np.clip(self.light, 0.0, 1.2))
        share = _cover(shape, self.soft + 3.5 - 2.5 * fringe) * (1.0 - 0.45 * self.bald)
        # Hair casts a soft shadow on the brow.
        cast = _cover(inner - 2.5, 5.0) * (1 - self.bald) * _cover(self.rim, 1.0)
        self.scene *= 1.0 - 0.20 * cast * (1 - share)
        _blend(self.scene, np.minimum(self.hair_paint * shade, 1.0), share)

    def glasses(self) -> None:
        p = self.p
        worn = self.with_glasses
        shape = p["glasses_shape"]
        wide, tall = 10.2 + 2.0 * shape, 7.2 + 2.6 * (1 - shape)
        du, dv = np.abs(self.ua - p["eye_u"] - 0.6) / wide, np.abs(self.v - 1.5) / tall
        square = (shape * 1.4) % 1.0 > 0.4
        du2, dv2 = du * du, dv * dv
        r = np.where(square, np.sqrt(np.sqrt(du2 * du2 + dv2 * dv2)), np.sqrt(du2 + dv2))
        edge = (r - 1.0) * tall
        thick = 0.35 + 0.75 * (p["glasses_shape"] * 7 % 1)
        bridge = np.maximum(
            np.abs(self.v + 0.8 - 0.02 * self.ua**2) - 0.5, self.ua - p["eye_u"] + wide - 0.8
        )
        temple = np.maximum(np.abs(self.v + 1.5) - 0.7, p["eye_u"] + wide - self.ua)
        temple = np.maximum(temple, self.rim)
        frame = np.minimum(np.minimum(np.abs(edge) - thick, bridge), temple)
        lens = _cover(edge, self.soft) * worn
        dark = (p["dark_lens"] < 0.10) * worn
        _blend(self.scene, 0.05 + 0.003 * (self.v + 10), lens * dark * 0.93)
        reflection = _bump(((self.u - np.sign(self.u) * p["eye_u"] - 3 + self.v) / 5) ** 2)
        _blend(self.scene, 0.9, lens * reflection * 0.28 * (p["glare"] > 0.5))
        metal = 0.08 + 0.5 * (p["glasses_shape"] * 3 % 1 > 0.7).astype(np.float32)
        _blend(self.scene, metal * self.gain, _cover(frame, self.soft + 0.2) * worn * 0.92)
        # The frame's shadow on the cheek.
        self.scene *= 1.0 - 0.12 * worn * _bump(((edge - 1.8) / 2.2) ** 2) * _cover(-self.v, 4.0)

    def hat(self) -> None:
        """Cap, beanie or headband over the hair."""
        p = self.p
        worn = self.with_hat
        kind = p["hat_shape"]
        cap, beanie = kind < 0.45, (kind >= 0.45) & (kind < 0.8)
        line = -22.0 + 0.006 * self.u**2 - 2.0 * p["fringe"]
        top = self.rim - 6.0
        band = np.where(cap | beanie, -100.0, (line - 9.0) - self.v)
        shape = np.maximum(np.maximum(top, self.v - line), band)
        knit = np.where(beanie, 0.10 * np.sin(self.u * 1.3), 0.03 * self.noise)
        fold = np.where(beanie, 0.75 + 0.25 * _cover(line - 9 - self.v, 1.5), 1.0)
        tone = (0.08 + 0.8 * p["hat_tone"]) * (1 + knit) * fold
        tone = tone * self.gain * (0.55 + 0.5 * np.clip(self.light, 0.0, 1.2))
        cast = _cover(self.v - line - 5, 6.0) * _cover(self.rim, 1.0) * worn
        self.scene *= 1.0 - 0.35 * cast
        _blend(self.scene, tone, _cover(shape, self.soft) * worn)
        # A cap's peak stands out from the brow.
        peak = np.maximum(np.abs(self.v - line + 1.5 - 0.004 * self.u**2) - 3.2, self.ua - 33)
        _blend(self.scene, tone * 0.7, _cover(peak, self.soft) * (worn & cap))

    def paint(self) -> Floats:
        """All layers, back to front; (N, S, S) about 0 to 1."""
        # Exposure favours the face: dark skin is lit longer.
        self.gain = (0.75 + 0.4 * self.p["exposure"]) * (0.6 / self.skin) ** 0.3
        self.background()
        self.hair()
        self._paint_some(self.long > 0, _Canvas.hair_behind)
        self.body()
        self.ears()
        self.head()
        self.hair_front()
        self._paint_some(self.with_hat, _Canvas.hat)
        self._paint_some(self.with_glasses, _Canvas.glasses)
        return self.scene

    def _paint_some(self, which: BoolArray, layer: Callable[[_Canvas], None]) -> None:
        """Paint a layer onto those images that have it."""
        rows = np.flatnonzero(which)
        if len(rows):
            part = self._only(rows)
            layer(part)
            self.scene[rows] = part.scene


def _photograph(scene: Floats, faces: FaceParameters) -> NDArray[np.uint8]:
    """Contrast, gamma, blur, sensor noise, poor scans and JPEG, image by image."""
    contrast = 0.80 + 0.45 * faces["contrast"]
    gamma = 0.75 + 0.6 * faces["gamma"]
    bright = np.clip((scene - 0.42) * contrast + 0.45, 0.004, 1.0)
    np.power(bright, gamma, out=bright)
    bright *= 255.0
    n, size = scene.shape[:2]
    pixels = np.empty((n, size, size), np.uint8)
    per_unit = size / REFERENCE_SIZE
    blur, noise = faces["blur"].ravel(), faces["noise"].ravel()
    degrade = faces["degrade"].ravel()
    grains = _cut_sheets(_grain(), size, faces["grain_x"], faces["grain_y"])
    for i, grain in enumerate(grains):
        image = bright[i]
        sigma = (0.35 + 1.2 * float(blur[i]) ** 3) * per_unit
        image = cv2.GaussianBlur(image, (0, 0), sigma)
        if degrade[i] < 0.10:  # enlarged from a smaller image
            small = max(8, int(size * (0.35 + 3.0 * float(degrade[i]))))
            image = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
            image = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
        image = image + grain * np.float32(0.8 + 6.0 * float(noise[i]) ** 3)
        flat = np.clip(image + 0.5, 0, 255).astype(np.uint8)
        if degrade[i] > 0.75:
            quality = int(35 + 200 * (float(degrade[i]) - 0.75))
            coded = encode_image(flat, ".jpg", quality=quality)
            flat = read_image(coded, channels=1)[..., 0]
        pixels[i] = flat
    return pixels


def render_faces(faces: FaceParameters, image_size: int) -> NDArray[np.uint8]:
    """Paint a batch of faces.

    Args:
        faces: N sets of parameters.
        image_size: Side S of the square images in pixels.

    Returns:
        (N, S, S, 1) uint8. An image does not depend on the others of its batch.
    """
    return _photograph(_Canvas(faces, image_size).paint(), faces)[..., None]
