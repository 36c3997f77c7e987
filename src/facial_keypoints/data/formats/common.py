"""What the formats share: labelled faces as they were read, before any image is opened."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facial_keypoints.errors import DataError
from facial_keypoints.types import KeypointSchema

__all__ = [
    "FARTHEST",
    "Box",
    "Face",
    "Labels",
    "Mark",
    "Point",
    "attach_boxes",
    "gather",
    "is_occluded",
    "number_names",
    "numbered_face",
    "rotated_box",
]

Point = tuple[float, float, int]
"""x and y in pixels of the upright image, an integer is a pixel's centre; visibility 1 (occluded) or 2."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels, where 0 is the image's edge."""

FARTHEST = 1e5
"""Pixels; a coordinate beyond is a slip."""

_OCCLUDED = re.compile("(occluded|hidden|invisible|not[ _-]?visible|obscured|verdeckt)$", re.I)


@dataclass
class Face:
    """A labelled face.

    Args:
        image: Name of its image.
        points: The labelled keypoints by name; one that is not labelled is not in it.
        box: Its box, if it has one.
        kind: The tool's name for what it is (``face``, ``cat``), or "".
        about: What else is known by name, as text; ``group`` says which faces belong together.
        numbered: How many points it has if they have no names but numbers, labelled or not; 0 if they have names.
    """

    image: str
    points: dict[str, Point]
    box: Box | None = None
    kind: str = ""
    about: dict[str, str] = field(default_factory=dict)
    numbered: int = 0


@dataclass
class Labels:
    """The labelled faces of a data set, and what was left out of it.

    Args:
        source: What was read, for messages.
        format: Name of its format.
        faces: The faces; several may be of one image.
        images: Every image that is named, also those without faces: (width, height) as the labels say, or ``None``.
        names: The keypoints in order; when empty, in the order in which the faces name them.
        photos: Whether faces are to be cut out of the images. If not, each image is one face.
        swap: Left/right partner of each of ``names``, if the format says so.
        edges: Pairs of indices of ``names`` to join when drawing.
        norm_pair: The points whose distance normalises errors, if the format says so.
        files: The file of each image that was found.
        left_out: What was not taken, as a noun phrase in the plural, and how many.
        notes: What else is to be known: a sentence each.
        schema: The keypoints with their partners, once they are decided.
    """

    source: Path
    format: str
    faces: list[Face]
    images: dict[str, tuple[int, int] | None] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    photos: bool = True
    swap: tuple[int, ...] | None = None
    edges: tuple[tuple[int, int], ...] = ()
    norm_pair: tuple[str, str] | None = None
    files: dict[str, Path] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    schema: KeypointSchema | None = None

    def __post_init__(self) -> None:
        if not self.names:
            self.names = tuple(dict.fromkeys(name for face in self.faces for name in face.points))
        for face in self.faces:
            self.images.setdefault(face.image, None)
            for name, (x, y, _) in face.points.items():
                if not max(abs(x), abs(y)) <= FARTHEST:
                    raise DataError(
                        f"{self.source}: '{name}' of {face.image} is at ({x:g}, {y:g}), which is no place in "
                        "pixels: correct it, or remove the point."
                    )

    def by_image(self) -> dict[str, list[Face]]:
        """The faces of each image that has any."""
        found: dict[str, list[Face]] = {}
        for face in self.faces:
            found.setdefault(face.image, []).append(face)
        return found

    def summary(self) -> list[str]:
        """What was read and what was not, a sentence each."""
        total = len(self.faces)
        lines = [
            f"{self.source} ({self.format}): {_count(len(self.images), 'image')}, {_count(total, 'face')}, "
            f"{_count(len(self.names), 'keypoint')}"
        ]
        counts = Counter(name for face in self.faces for name in face.points)
        missing = [f"{name} {total - counts[name]}" for name in self.names if counts[name] < total]
        if missing:
            lines.append(f"not labelled: {_listed(missing)} (of {total} faces)")
        occluded = sum(point[2] == 1 for face in self.faces for point in face.points.values())
        if occluded:
            lines.append(f"labelled as occluded: {_count(occluded, 'point')}")
        if outside := self._outside():
            lines.append(f"outside the image: {_count(len(outside), 'point')} ({_listed(outside)})")
        lines += [f"left out: {n} {what}" for what, n in (+self.left_out).items()]
        return lines + self.notes

    def _outside(self) -> list[str]:
        """Points beyond the edges of images whose size is known."""
        return [
            f"{name} of {face.image}"
            for face in self.faces
            if (size := self.images[face.image])
            for name, (x, y, _) in face.points.items()
            if not (-0.5 <= x <= size[0] - 0.5 and -0.5 <= y <= size[1] - 0.5)
        ]


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _listed(items: Sequence[str], most: int = 8) -> str:
    rest = len(items) - most
    return ", ".join(items[:most]) + (f" and {rest} more" if rest > 0 else "")


def number_names(count: int) -> tuple[str, ...]:
    """Names of points that a format only numbers; 68 of them are those of ``ibug68``."""
    if count == 68:
        return tuple(f"ibug68_{i}" for i in range(68))
    return tuple(f"point_{i}" for i in range(1, count + 1))


def numbered_face(image: str, points: Iterable[Point | None], kind: str = "") -> Face:
    """A face whose points have no names, by names that count them; ``None`` is a point that is not labelled."""
    found = list(points)
    named = zip(number_names(len(found)), found, strict=True)
    return Face(image, {n: p for n, p in named if p is not None}, kind=kind, numbered=len(found))


def is_occluded(text: object) -> bool:
    """Whether a tool's free text says that a point is occluded."""
    return bool(_OCCLUDED.match(str(text).strip()))


def rotated_box(x: float, y: float, width: float, height: float, degrees: float) -> Box:
    """The upright box around a box that was rotated clockwise about its corner (x, y)."""
    turn = math.radians(degrees)
    cos, sin = math.cos(turn), math.sin(turn)
    xs = (0.0, width * cos, width * cos - height * sin, -height * sin)
    ys = (0.0, width * sin, width * sin + height * cos, height * cos)
    return x + min(xs), y + min(ys), x + max(xs), y + max(ys)


# --- points that were labelled one by one ---------------------------------------------------------


@dataclass(eq=False)
class Mark:
    """A point, or a box (``box``), that a tool keeps by itself.

    Args:
        name: Label of the point, or of the box.
        point: The point.
        box: The box.
        group: What the tool joins it to others by; ``None`` if it does not.
        about: As for :class:`Face`.
    """

    name: str
    point: Point | None = None
    box: Box | None = None
    group: str | None = None
    about: Mapping[str, str] = field(default_factory=dict)


def gather(
    image: str,
    marks: Sequence[Mark],
    left_out: Counter[str],
    about: Mapping[str, str] | None = None,
) -> list[Face]:
    """The faces of one image whose points were labelled one by one.

    Points of one group are a face. Others belong to the smallest box that holds them, or are all one face if
    no name comes twice. What cannot be told apart is left out rather than mixed up.

    Args:
        image: Name of the image.
        marks: Its points and boxes.
        left_out: Gets what is not taken.
        about: Facts of the image, for each face.
    """
    groups: dict[Any, list[Mark]] = {}
    boxes = [mark for mark in marks if mark.box is not None]
    for mark in marks:
        if mark.point is not None:
            key: Any = mark.group
            if key is None and len(boxes) > 1:
                key = _holder(mark.point, boxes)
            groups.setdefault(key, []).append(mark)
    faces = []
    for key, members in groups.items():
        names = _names(members)
        if len(set(names)) < len(names):
            what = "images" if key is None else "groups"
            left_out[
                f"{what} in which a point's name comes twice, so that its faces cannot be told apart (first: "
                f"'{_twice(names)}' of {image}): group the points of a face in the tool, or draw a box around each"
            ] += 1
            continue
        points = {n: m.point for n, m in zip(names, members, strict=True) if m.point is not None}
        facts = {k: v for mark in members for k, v in mark.about.items()}
        face = Face(image, points, about={**(about or {}), **facts})
        faces.append(face)
        box = next((b for b in boxes if b is key or (key is not None and b.group == key)), None)
        if box is not None:
            boxes.remove(box)
            face.box, face.kind = box.box, box.name
            face.about |= box.about
    return attach_boxes(faces, boxes, left_out)


def _names(members: Sequence[Mark]) -> list[str]:
    """Names of points: their labels or, where these are alike, an attribute that differs from point to point."""
    labels = [mark.name for mark in members]
    if len(set(labels)) < len(labels):
        for key in set.intersection(*(set(mark.about) for mark in members)):
            told = [mark.about[key] for mark in members]
            if len(set(told)) == len(told):
                for mark in members:
                    mark.about = {k: v for k, v in mark.about.items() if k != key}
                return told
    return labels


def attach_boxes(faces: list[Face], boxes: Sequence[Mark], left_out: Counter[str]) -> list[Face]:
    """Give each box to the face without one whose points it holds; others are left out."""
    for box in sorted(boxes, key=_area):
        held = [
            face for face in faces
            if face.box is None and all(_holds(box, point) for point in face.points.values())
        ]  # fmt: skip
        if held:
            held[0].box = box.box
            held[0].kind = held[0].kind or box.name
            held[0].about = {**box.about, **held[0].about}
        else:
            left_out["boxes without points"] += 1
    return faces


def _twice(names: Sequence[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def _area(mark: Mark) -> float:
    x0, y0, x1, y1 = mark.box or (0, 0, 0, 0)
    return (x1 - x0) * (y1 - y0)


def _holds(box: Mark, point: Point) -> bool:
    x0, y0, x1, y1 = box.box or (0, 0, 0, 0)
    return x0 - 1 <= point[0] <= x1 and y0 - 1 <= point[1] <= y1


def _holder(point: Point, boxes: Sequence[Mark]) -> Mark | None:
    return min((box for box in boxes if _holds(box, point)), key=_area, default=None)
