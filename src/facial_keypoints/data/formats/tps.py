"""TPS files of tpsDig and its family.

Coordinates count from the image's lower left corner, upwards, and from the edge: a pixel's centre is at 0.5.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from facial_keypoints.data.formats.common import Face, Labels, Point, numbered_face
from facial_keypoints.data.formats.finding import ImageFinder
from facial_keypoints.errors import DataError
from facial_keypoints.io.tables import read_text

__all__ = ["SUFFIXES", "is_ours", "read"]

SUFFIXES = (".tps",)
_HALF = 0.5


def is_ours(path: Path, content: bytes) -> bool:
    """Whether it begins as a TPS file does."""
    return content.lstrip().upper().startswith((b"LM", b"\xef\xbb\xbfLM"))


def read(path: Path, find: ImageFinder) -> Labels:
    """Read the specimens. Their images are needed, since y counts from the lower edge.

    A point with a negative coordinate, or ``NA``, is not labelled. ``SCALE`` is not used: points stay pixels.

    Raises:
        DataError: It is damaged.
    """
    left_out: Counter[str] = Counter()
    faces: list[Face] = []
    images: dict[str, tuple[int, int] | None] = {}
    try:
        specimens = _specimens(read_text(path).splitlines(), left_out)
    except (OSError, ValueError, IndexError, UnicodeError) as error:
        raise DataError(
            f"{path} is no TPS file ({error}): a specimen has LM=N, N lines of x and y, and IMAGE=NAME."
        ) from error
    for points, about in specimens:
        name = about.pop("IMAGE", "")
        if not name:
            left_out["specimens without IMAGE="] += 1
            continue
        images[name] = size = find.size(name)
        if size is None:
            left_out[
                "specimens whose image is not found, and so the height that y counts from"
            ] += 1
            continue
        placed: list[Point | None] = [
            None if point is None else (point[0] - _HALF, size[1] - point[1] - _HALF, 2)
            for point in points
        ]
        facts = {"id": about["ID"]} if "ID" in about else {}
        if any(placed):
            faces.append(numbered_face(name, placed))
            faces[-1].about |= facts
        else:
            left_out["specimens without a labelled point"] += 1
    return Labels(path, "TPS", faces, images, left_out=left_out)


_Specimen = tuple[list[tuple[float, float] | None], dict[str, str]]


def _specimens(lines: list[str], left_out: Counter[str]) -> list[_Specimen]:
    found: list[_Specimen] = []
    i = 0
    while i < len(lines):
        key, _, value = (part.strip() for part in lines[i].partition("="))
        key = key.upper()
        i += 1
        if key == "LM":
            count = int(value)
            found.append(([_point(line) for line in lines[i : i + count]], {}))
            if len(found[-1][0]) != count:
                raise ValueError(f"it ends within a specimen of {count} points")
            i += count
        elif key == "LM3":
            raise ValueError("its points have three coordinates")
        elif key == "POINTS":
            left_out["points of curves"] += int(value)
            i += int(value)
        elif key and found:
            found[-1][1][key] = value
    return found


def _point(line: str) -> tuple[float, float] | None:
    x, y = line.replace(",", ".").split()[:2]
    if "NA" in (x.upper(), y.upper()):
        return None
    point = float(x), float(y)
    return None if min(point) < 0 or math.isnan(sum(point)) else point
