"""Photos of drawn cats: faces of another kind, with points of their own, on cluttered backgrounds.

They stand for what people label themselves: no point and no box is one that the shipped models know. A cat is a
few polygons and lines in the plane of its face, whose place, size and pose are random.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from facial_keypoints.data.formats.common import Face, Labels
from facial_keypoints.data.formats.writing import WRITERS, write_labels
from facial_keypoints.data.synthetic.scenes import draw_room
from facial_keypoints.geometry import centres_to_edges, iou
from facial_keypoints.io.images import write_image
from facial_keypoints.types import ImageArray, Keypoints, KeypointSchema

__all__ = ["CAT9", "CAT48", "SCHEMAS", "draw_cats", "write_cats"]

Plane = NDArray[np.float64]
Paint = tuple[float, float, float]


def _schema(name: str, sides: int, middle: list[str], pair: tuple[str, str], left: list[str]) -> KeypointSchema:  # fmt: skip
    """Points of the left side, their partners, then those on the midline."""
    right = [n.replace("left", "right") for n in left]
    swap = (*range(sides, 2 * sides), *range(sides), *range(2 * sides, 2 * sides + len(middle)))
    return KeypointSchema(name, (*left, *right, *middle), swap, pair)


CAT9 = _schema(
    "cat9", 3, ["nose", "mouth", "chin"], ("left_eye", "right_eye"),
    ["left_eye", "left_ear_tip", "left_ear_base"],
)  # fmt: skip
"""Eyes, ears, nose, mouth and chin of a drawn cat; left is the cat's own left."""

CAT48 = _schema(
    "cat48", 21, ["nose_top", "nose_bottom", "mouth", "lip", "chin", "forehead"],
    ("left_eye_1", "right_eye_1"),
    [
        *(f"left_eye_{i}" for i in range(1, 9)),
        *(f"left_ear_{i}" for i in range(1, 6)),
        *(f"left_cheek_{i}" for i in range(1, 6)),
        "left_nose", "left_mouth", "left_mouth_corner",
    ],
)  # fmt: skip
"""The outlines of the same parts."""

SCHEMAS = {schema.num_keypoints: schema for schema in (CAT9, CAT48)}
"""The schemas of drawn cats by their number of keypoints."""

_FURS: tuple[Paint, ...] = (
    (120, 118, 115), (205, 140, 70), (58, 54, 52), (225, 220, 210), (140, 105, 75), (180, 165, 140),
)  # fmt: skip
_IRISES: tuple[Paint, ...] = ((120, 170, 70), (215, 180, 60), (110, 160, 200), (200, 120, 40))


class _Cat:
    """The shapes of one cat's face in pixels."""

    def __init__(self, rng: np.random.Generator, centre: Plane, size: float) -> None:
        self.rng, self.size = rng, size
        self.fur = np.array(_FURS[rng.integers(len(_FURS))]) + rng.uniform(-15, 15, 3)
        roll = np.deg2rad(np.clip(rng.normal(0.0, 10.0), -28, 28))
        yaw, pitch = (np.deg2rad(np.clip(rng.normal(0.0, s), -35, 35)) for s in (16.0, 9.0))
        turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        wide = rng.uniform(0.9, 1.1)

        def place(x: Plane, y: Plane, z: Plane | float) -> Plane:
            """Face coordinates (the head's radius is 1, z towards the viewer) to pixels."""
            flat = [wide * x * np.cos(yaw) + z * np.sin(yaw), y * np.cos(pitch) + z * np.sin(pitch)]
            return np.asarray(centre + size * (np.stack(flat, axis=-1) @ turn.T))

        self.place: Callable[..., Plane] = place
        around = np.linspace(0.0, 2.0 * np.pi, 49)[:-1] - np.pi / 2  # from the top, clockwise
        cheeks = 1.0 + rng.uniform(0.0, 0.1) * np.maximum(np.sin(around), 0.0)
        self.head = place(cheeks * np.cos(around), 0.84 * np.sin(around), 0.0)
        tall, out, apart = rng.uniform(1.2, 1.42), rng.uniform(0.6, 0.85), rng.uniform(0.36, 0.46)
        opened, self.slit = rng.uniform(0.09, 0.17), rng.uniform(0.03, 0.1)
        eye = np.linspace(0.0, 2.0 * np.pi, 17)[:-1]
        self.eyes, self.eye_centres, self.ears = [], [], []
        for side in (1.0, -1.0):  # the cat's left is on the right of the image
            self.eyes.append(
                place(side * (apart + 0.19 * np.cos(eye)), -0.1 + opened * np.sin(eye), 0.3)
            )
            self.eye_centres.append(place(np.array(side * apart), np.array(-0.1), 0.3))
            ear = np.array([[0.93, -0.3], [0.9, -0.8], [out, -tall], [0.45, -1.05], [0.22, -0.8]])
            self.ears.append(place(side * ear[:, 0], ear[:, 1], -0.15))
        x = np.array([0.0, 0.1, 0.0, -0.1])
        self.nose = place(x, np.array([0.2, 0.21, 0.32, 0.21]), 0.5)
        self.slack = size * rng.uniform(0.02, 0.12, 4) * np.array([-1.0, -1.0, 1.0, 1.0])
        half = rng.uniform(0.18, 0.26)
        x = np.array([half, 0.6 * half, 0.0, -0.6 * half, -half])
        self.mouth = place(x, np.array([0.44, 0.5, 0.42, 0.5, 0.44]), 0.42)
        self.lip = place(np.array(0.0), np.array(0.56), 0.4)

    def points(self, schema: KeypointSchema) -> Plane:
        """(K, 2) of one of the two schemas."""
        chin = self.head[24]
        middle_mouth = self.mouth[2]
        if schema is CAT9:
            left, right = (
                [centre, ear[2], ear[0]]
                for centre, ear in zip(self.eye_centres, self.ears, strict=True)
            )
            nose = self.nose.mean(axis=0)
            return np.array([*left, *right, nose, middle_mouth, chin])
        left = [*self.eyes[0][::2], *self.ears[0], *self.head[[10, 13, 16, 19, 22]], self.nose[1], *self.mouth[[1, 0]]]  # fmt: skip
        right = [*self.eyes[1][::2], *self.ears[1], *self.head[[38, 35, 32, 29, 26]], self.nose[3], *self.mouth[[3, 4]]]  # fmt: skip
        return np.array([*left, *right, self.nose[0], self.nose[2], middle_mouth, self.lip, chin, self.head[0]])  # fmt: skip

    def box(self) -> NDArray[np.float64]:
        """(4,) xyxy around head and ears, as a hand would draw it; edges in pixels."""
        outline = centres_to_edges(np.concatenate([self.head, *self.ears]))
        corners = np.concatenate([outline.min(axis=0), outline.max(axis=0)])
        return np.asarray(corners + self.slack)

    def paint_body(self, photo: ImageArray) -> None:
        """Draw the body over a photo, in place."""
        x, wide = self.rng.uniform(-0.3, 0.3), self.rng.uniform(0.9, 1.3)
        self._fill(photo, self._oval(x, 1.9, -0.5, wide, 1.3), 0.85 * self.fur)

    def paint_face(self, photo: ImageArray) -> None:
        """Draw head and ears over a photo, in place."""
        rng, thin = self.rng, max(1, round(0.025 * self.size))
        dark, light = 0.55 * self.fur, 0.5 * self.fur + 125.0
        pink = np.array((215.0, 150.0, 145.0) if rng.random() < 0.7 else (70.0, 55.0, 55.0))
        fill = partial(self._fill, photo)

        def line(shape: Plane, paint: Plane, thick: int = thin) -> None:
            cv2.polylines(photo, [_fixed(shape)], False, paint.tolist(), thick, cv2.LINE_AA, _SHIFT)

        for ear in self.ears:
            fill(ear, self.fur)
            line(ear, dark)
            fill(ear.mean(axis=0) + 0.6 * (ear - ear.mean(axis=0)), pink)
        fill(self.head, self.fur)
        line(self.head, dark)
        if rng.random() < 0.4:  # a patch over one eye
            side = rng.choice([-1.0, 1.0])
            other = np.array(_FURS[rng.integers(len(_FURS))])
            fill(self._oval(side * 0.45, -0.15, 0.15, 0.4, 0.5), other)
        if rng.random() < 0.6:  # a tabby
            for x in (-0.24, 0.0, 0.24):
                line(self.place(np.array([x, 0.7 * x]), np.array([-0.75, -0.4]), 0.1), dark, 3 * thin)  # fmt: skip
            for side, y in ((s, y) for s in (-1.0, 1.0) for y in (0.05, 0.25)):
                line(self.place(side * np.array([0.95, 0.65]), np.array([y, y + 0.04]), 0.1), dark, 2 * thin)  # fmt: skip
        for side in (-1.0, 1.0):
            fill(self._oval(side * 0.16, 0.4, 0.35, 0.24, 0.19), light)
        iris = np.array(_IRISES[rng.integers(len(_IRISES))])
        for eye, centre in zip(self.eyes, self.eye_centres, strict=True):
            fill(eye, iris)
            line(np.concatenate([eye, eye[:1]]), np.array((25.0, 20.0, 20.0)))
            pupil = centre + (eye - centre) * np.array([1.0, 0.9])
            narrow = centre + (pupil - centre) * self.slit / 0.19
            narrow[:, 1] = pupil[:, 1]
            fill(narrow, np.array((15.0, 12.0, 12.0)))
            fill(centre + 0.2 * (eye - centre) - 0.04 * self.size, np.array((245.0, 245.0, 245.0)))
        fill(self.nose, pink)
        line(self.mouth, dark)
        line(np.stack([self.nose[2], self.mouth[2]]), dark)
        for side, y in ((s, y) for s in (-1.0, 1.0) for y in (0.3, 0.4, 0.5)):
            ends = self.place(side * np.array([0.3, rng.uniform(0.9, 1.3)]), np.array([y, y + rng.uniform(-0.2, 0.1)]), 0.4)  # fmt: skip
            line(ends, np.array((235.0, 235.0, 235.0)), max(1, thin // 2))

    def _oval(self, x: float, y: float, z: float, rx: float, ry: float) -> Plane:
        around = np.linspace(0.0, 2.0 * np.pi, 33)
        return self.place(x + rx * np.cos(around), y + ry * np.sin(around), z)

    def _fill(self, photo: ImageArray, shape: Plane, paint: Plane) -> None:
        cv2.fillPoly(photo, [_fixed(shape)], paint.tolist(), cv2.LINE_AA, _SHIFT)


_SHIFT = 4  # bits of a pixel's fractions that OpenCV draws with


def _fixed(shape: Plane) -> NDArray[np.int32]:
    return np.asarray(np.round(shape * (1 << _SHIFT)), np.int32)


def draw_cats(
    *,
    seed: int = 0,
    most: int = 3,
    image_size: tuple[int, int] = (480, 640),
    schema: KeypointSchema = CAT9,
) -> tuple[ImageArray, Keypoints, NDArray[np.float32]]:
    """Draw a photo of one to ``most`` cats; one photo in ten shows none.

    Args:
        seed: Not negative; the same seed gives the same photo.
        most: Most cats in it.
        image_size: (height, width) in pixels.
        schema: :data:`CAT9` or :data:`CAT48`.

    Returns:
        The photo (H, W, 3) uint8 RGB, the points of its N cats in pixels, and their boxes (N, 4) xyxy around head
        and ears, edges in pixels.

    Example:
        >>> photo, cats, boxes = draw_cats(seed=1)
        >>> photo.shape, cats.xy.shape[1:], boxes.shape[1:]
        ((480, 640, 3), (9, 2), (4,))
    """
    height, width = image_size
    rng = np.random.default_rng([seed, 0xCA7])
    photo = np.ascontiguousarray(np.clip(draw_room(rng, height, width), 0, 255).astype(np.uint8))
    wanted = 0 if rng.random() < 0.1 else int(rng.integers(1, most + 1))
    cats: list[_Cat] = []
    for _ in range(10 * wanted):
        if len(cats) == wanted:
            break
        size = min(height, width) * np.exp(rng.uniform(np.log(0.05), np.log(0.24)))
        middle = rng.uniform([1.2 * size, 1.5 * size], [width - 1.2 * size, height - size])
        cat = _Cat(rng, middle, size)
        others = np.reshape([other.box() for other in cats], (-1, 4))
        if not (iou(cat.box()[np.newaxis], others) > 0.0).any():
            cats.append(cat)
    for cat in cats:  # no body lies over a face
        cat.paint_body(photo)
    for cat in cats:
        cat.paint_face(photo)
    soft = cv2.GaussianBlur(photo, (0, 0), rng.uniform(0.4, 1.0))
    noisy = soft + rng.normal(0.0, rng.uniform(2.0, 7.0), (height, width, 1))
    light = rng.uniform(0.7, 1.15) * noisy
    xy = np.reshape([cat.points(schema) for cat in cats], (-1, schema.num_keypoints, 2))
    boxes = np.reshape([cat.box() for cat in cats], (-1, 4)).astype(np.float32)
    return (
        np.clip(np.rint(light), 0, 255).astype(np.uint8),
        Keypoints(xy.astype(np.float32), schema),
        boxes,
    )


def write_cats(
    folder: Path,
    *,
    photos: int = 100,
    seed: int = 0,
    schema: KeypointSchema = CAT9,
    format: str = "csv",
) -> list[str]:
    """Draw photos of cats and write them with their labels.

    Args:
        folder: The folder, which exists.
        photos: How many, at least 1.
        seed: Not negative; photo i of a seed is the same whatever ``photos`` is.
        schema: :data:`CAT9` or :data:`CAT48`.
        format: A key of :data:`~facial_keypoints.data.formats.writing.WRITERS`.

    Returns:
        What the format could not hold, a sentence each.

    Raises:
        OutputError: The files cannot be written.
    """
    place = getattr(WRITERS[format], "image_place", str)
    faces: list[Face] = []
    files: dict[str, Path] = {}
    sizes: dict[str, tuple[int, int] | None] = {}
    for i in range(photos):
        rng = np.random.default_rng([seed, i])
        size = (480, 640) if rng.random() < 0.7 else (640, 480)
        photo, cats, boxes = draw_cats(
            seed=int(rng.integers(2**31)), image_size=size, schema=schema
        )
        name = f"images/cats{i + 1:04d}.jpg"
        files[name] = folder / place(name)
        files[name].parent.mkdir(parents=True, exist_ok=True)
        write_image(files[name], photo)
        sizes[name] = (size[1], size[0])
        for xy, box in zip(cats.xy.tolist(), boxes.tolist(), strict=True):
            points = {key: (x, y, 2) for key, (x, y) in zip(schema.keypoint_names, xy, strict=True)}
            faces.append(Face(name, points, tuple(box), kind="cat"))
    labels = Labels(
        folder, format, faces, sizes, schema.keypoint_names, swap=schema.swap, files=files,
        schema=schema,
    )  # fmt: skip
    return write_labels(labels, folder, format)
