"""WFLW's lists: a line a face, 98 points, its box, six attributes and the name of its image.

A point is a pixel: an integer is a pixel's centre.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath

from facial_keypoints.data.formats.common import Face, Labels, Point
from facial_keypoints.data.formats.finding import ImageFinder
from facial_keypoints.errors import DataError
from facial_keypoints.io.images import IMAGE_SUFFIXES
from facial_keypoints.io.tables import read_text

__all__ = ["SUFFIXES", "is_ours", "read"]

SUFFIXES = (".txt",)
_POINTS = 98
_ABOUT = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")
_NAMES = tuple(f"wflw_{i}" for i in range(_POINTS))
_PAIRS = [
    *((i, 32 - i) for i in range(16)),  # jaw
    (33, 46), (34, 45), (35, 44), (36, 43), (37, 42), (38, 50), (39, 49), (40, 48), (41, 47),  # brows
    (55, 59), (56, 58),  # nostrils
    (60, 72), (61, 71), (62, 70), (63, 69), (64, 68), (65, 75), (66, 74), (67, 73), (96, 97),  # eyes
    (76, 82), (77, 81), (78, 80), (87, 83), (86, 84), (88, 92), (89, 91), (95, 93),  # lips
]  # fmt: skip


def is_ours(path: Path, content: bytes) -> bool:
    """Whether the first line has 98 points and an image."""
    words = content.split(b"\n", 1)[0].decode(errors="replace").split()
    return len(words) > 2 * _POINTS and PurePosixPath(words[-1]).suffix.lower() in IMAGE_SUFFIXES


def read(path: Path, find: ImageFinder) -> Labels:
    """Read the list.

    Raises:
        DataError: A line has another number of values.
    """
    faces = []
    try:
        for line in filter(str.strip, read_text(path).splitlines()):
            *words, name = line.split()
            values = list(map(float, words))
            places = zip(values[: 2 * _POINTS : 2], values[1 : 2 * _POINTS : 2], strict=True)
            points: dict[str, Point] = {
                key: (x, y, 2) for key, (x, y) in zip(_NAMES, places, strict=True)
            }
            rest = values[2 * _POINTS :]
            box = (rest[0], rest[1], rest[2], rest[3]) if len(rest) >= 4 else None
            about = {key: str(int(v)) for key, v in zip(_ABOUT, rest[4:], strict=False)}
            faces.append(Face(name, points, box, about=about))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}, line {len(faces) + 1} is no line of WFLW's: 98 points, box, attributes, image ({error})."
        ) from error
    swap = list(range(_POINTS))
    for a, b in _PAIRS:
        swap[a], swap[b] = b, a
    return Labels(
        path, "WFLW", faces, names=_NAMES, swap=tuple(swap), norm_pair=(_NAMES[60], _NAMES[72]),
        left_out=Counter(),
    )  # fmt: skip
