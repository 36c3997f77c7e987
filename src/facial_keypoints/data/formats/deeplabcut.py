"""DeepLabCut's ``CollectedData_SCORER.csv``, of one animal or several.

A point is a pixel: an integer is a pixel's centre.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from pathlib import Path, PurePosixPath

from facial_keypoints.data.formats.common import Face, Labels
from facial_keypoints.data.formats.finding import ImageFinder
from facial_keypoints.errors import DataError
from facial_keypoints.io.tables import column_names, numbers, read_text, write_table

__all__ = ["HOLDS", "SUFFIXES", "image_place", "is_ours", "read", "write"]

SUFFIXES = (".csv",)
HOLDS = frozenset({"several faces", "points outside"})
_ROWS = ("scorer", "individuals", "bodyparts", "coords")


def is_ours(path: Path, content: bytes) -> bool:
    """Whether a csv begins with DeepLabCut's header."""
    return column_names(path)[:1] == ["scorer"]


def read(path: Path, find: ImageFinder) -> Labels:
    """Read the labelled frames; each individual with a point is a face, and the frames of a video are a group.

    Raises:
        DataError: It is no such file.
    """
    left_out: Counter[str] = Counter()
    faces: list[Face] = []
    images: dict[str, tuple[int, int] | None] = {}
    try:
        rows = [row for row in csv.reader(io.StringIO(read_text(path), newline="")) if any(row)]
        header = {row[0]: row for row in rows[:4] if row[0] in _ROWS}
        body = rows[len(header) :]
        coords = header["coords"]
        # The path of an image is in one cell, or its parts are in several.
        first = next(i for i, cell in enumerate(coords[1:], start=1) if cell)
        parts, people = header["bodyparts"], header.get("individuals")
        columns: dict[tuple[str, str], dict[str, int]] = {}
        for i in range(first, len(coords)):
            who = people[i] if people else ""
            columns.setdefault((who, parts[i]), {})[coords[i]] = i
        names = tuple(dict.fromkeys(part for _, part in columns))
        for number, row in enumerate(body, start=1):
            name = "/".join(cell.replace("\\", "/") for cell in row[:first] if cell)
            if name.isdigit():
                left_out["rows of video frames that were not saved as images"] += 1
                continue
            images[name] = None
            of_image: dict[str, Face] = {}
            for (who, part), place in columns.items():
                cells = [row[place[axis]] for axis in "xy"]
                x, y = numbers([f"{part} x", f"{part} y"], cells, f"{path}, row {number}")
                if math.isnan(x) or math.isnan(y):
                    continue
                face = of_image.setdefault(
                    who, Face(name, {}, kind="single" if who == "single" else "")
                )
                face.points[part] = (x, y, 2)
            if not of_image:
                left_out["images without a labelled point"] += 1
            for who, face in of_image.items():
                video = PurePosixPath(name).parent.name
                face.about = ({"group": video} if video else {}) | (
                    {"individual": who} if who else {}
                )
                faces.append(face)
    except (OSError, ValueError, KeyError, IndexError, StopIteration, csv.Error) as error:
        raise DataError(
            f"{path} is no CollectedData csv of DeepLabCut ({type(error).__name__}: {error})."
        ) from error
    return Labels(path, "DeepLabCut", faces, images, names, left_out=left_out)


def image_place(name: str) -> str:
    """Where DeepLabCut keeps an image: ``labeled-data/VIDEO/FILE``."""
    path = PurePosixPath(name)
    return f"labeled-data/{path.parent.name or 'images'}/{path.name}"


def write(labels: Labels, folder: Path) -> None:
    """Write a ``CollectedData_labels.csv`` into each folder of images in ``labeled-data``."""
    of_image = labels.by_image()
    most = max(map(len, of_image.values()), default=1)
    people = [f"individual{i}" for i in range(1, most + 1)] if most > 1 else [""]
    pairs = [(who, name, axis) for who in people for name in labels.names for axis in "xy"]
    header = [["individuals", "", "", *(who for who, _, _ in pairs)]] if most > 1 else []
    header += [
        ["bodyparts", "", "", *(n for _, n, _ in pairs)],
        ["coords", "", "", *(a for _, _, a in pairs)],
    ]
    rows: dict[str, list[list[str]]] = {}
    for name, members in of_image.items():
        place = PurePosixPath(image_place(name))
        cells = []
        for i in range(most):
            points = members[i].points if i < len(members) else {}
            for point in labels.names:
                cells += [f"{v:.9g}" for v in points[point][:2]] if point in points else ["", ""]
        rows.setdefault(place.parent.name, []).append([*place.parts, *cells])
    for video, lines in rows.items():
        target = folder / "labeled-data" / video / "CollectedData_labels.csv"
        write_table(target, ["scorer", "", "", *["labels"] * len(pairs)], [*header, *lines])
