"""300-W's ``.pts`` files: one a face, with the name of its image.

300-W counts pixels from 1, as Matlab does: a pixel's centre is at an integer, the first at 1.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path, PurePosixPath

from facial_keypoints.data.formats.common import Labels, Point, numbered_face
from facial_keypoints.data.formats.finding import ImageFinder
from facial_keypoints.errors import DataError
from facial_keypoints.files import write_text
from facial_keypoints.io.tables import read_text

__all__ = ["HOLDS", "SUFFIXES", "is_ours", "read", "write"]

SUFFIXES = (".pts",)
HOLDS = frozenset({"points outside"})
_FIRST = 1.0


def is_ours(path: Path, content: bytes) -> bool:
    """Whether it is a file of points; its suffix says so."""
    return True


def read(path: Path, find: ImageFinder) -> Labels:
    """Read one file. Points have no names; 68 are those of ``ibug68``. ``nan`` is not labelled.

    Raises:
        DataError: It is damaged.
    """
    try:
        head, _, inside = read_text(path).partition("{")
        lines = inside.split("}", 1)[0].splitlines()
        rows = [tuple(map(float, line.split())) for line in lines if line.strip()]
        if (said := re.search(r"n_points:\s*(\d+)", head)) and int(said[1]) != len(rows):
            raise ValueError(f"it says {said[1]} points and has {len(rows)}")
        if not rows:
            raise ValueError("it has no points")
        points: list[Point | None] = [
            None if math.isnan(x + y) else (x - _FIRST, y - _FIRST, 2) for x, y in rows
        ]
    except (OSError, ValueError, IndexError) as error:
        raise DataError(
            f"{path} is no .pts file: it needs 'version: 1', 'n_points: N' and N lines of x and y in "
            f"braces ({error})."
        ) from error
    image = find.by_stem(path.stem)
    name = image.name if image is not None else f"{path.stem}.png"
    left_out = Counter() if any(points) else Counter({"files without a labelled point": 1})
    faces = [numbered_face(name, points)] if any(points) else []
    return Labels(path, "300-W .pts", faces, {name: None}, left_out=left_out)


def write(labels: Labels, folder: Path) -> None:
    """Write a file beside each image; the face that is largest, if an image has several.

    The points are in the order of the schema.
    """
    for face in labels.faces:
        lines = ["version: 1", f"n_points: {len(labels.names)}", "{"]
        for name in labels.names:
            point = face.points.get(name)
            lines.append(
                "nan nan" if point is None else f"{point[0] + _FIRST:.6f} {point[1] + _FIRST:.6f}"
            )
        target = folder / PurePosixPath(face.image).with_suffix(".pts")
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, "\n".join([*lines, "}"]) + "\n")
