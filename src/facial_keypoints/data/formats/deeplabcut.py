"""DeepLabCut's ``CollectedData_SCORER``, csv or h5, of one animal or several.

A point is a pixel: an integer is a pixel's centre. DeepLabCut writes both files with the same labels, so the ``.h5`` in
a folder is read only where the csv is missing.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from facial_keypoints.data.formats.common import Face, Labels
from facial_keypoints.data.formats.finding import ImageFinder
from facial_keypoints.errors import DataError
from facial_keypoints.io.tables import column_names, numbers, read_text, write_table

__all__ = ["HOLDS", "SUFFIXES", "image_place", "is_ours", "read", "write"]

SUFFIXES = (".csv", ".h5")
HOLDS = frozenset({"several faces", "points outside"})
_ROWS = ("scorer", "individuals", "bodyparts", "coords")


def is_ours(path: Path, content: bytes) -> bool:
    """Whether a csv begins with DeepLabCut's header, or an HDF5 file has its name."""
    if path.suffix.lower() == ".csv":
        return column_names(path)[:1] == ["scorer"]
    return path.name.startswith("CollectedData") and content.startswith(b"\x89HDF")


def read(path: Path, find: ImageFinder) -> Labels:
    """Read the labelled frames; each individual with a point is a face, and the frames of a video are a group.

    Raises:
        DataError: It is no such file, or an ``.h5`` that cannot be read.
    """
    left_out: Counter[str] = Counter()
    faces: list[Face] = []
    images: dict[str, tuple[int, int] | None] = {}
    try:
        if path.suffix.lower() == ".csv":
            rows = [row for row in csv.reader(io.StringIO(read_text(path), newline="")) if any(row)]
        else:
            rows = _of_h5(path)
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
            f"{path} is no CollectedData file of DeepLabCut ({type(error).__name__}: {error})."
        ) from error
    return Labels(path, "DeepLabCut", faces, images, names, left_out=left_out)


def _of_h5(path: Path) -> list[list[Any]]:
    """The rows of the csv that DeepLabCut writes beside an ``.h5``; nothing in the file is unpickled.

    Raises:
        DataError: h5py is not installed, or pandas wrote the file in its layout ``table``.
    """
    instead = f"give {path.with_suffix('.csv').name}, which DeepLabCut writes beside it"
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise DataError(
            f"reading {path} needs h5py: run pip install 'facial-keypoints[train]', or {instead}."
        ) from error
    with h5py.File(path) as file:
        frame = file[next(iter(file))]
        if "nblocks" not in frame.attrs:
            raise DataError(f"{path} has pandas' layout 'table', which is not read: {instead}.")
        heads, columns = _axis(frame, "axis0")
        levels, index = _axis(frame, "axis1")
        values: dict[tuple[str, ...], Any] = {}
        for block in range(int(frame.attrs["nblocks"])):
            items = _axis(frame, f"block{block}_items")[1]
            values.update(zip(items, frame[f"block{block}_values"][:].T, strict=True))
    blank = [""] * (len(levels) - 1)
    rows = [
        [head, *blank, *level]
        for head, level in zip(heads, zip(*columns, strict=True), strict=True)
    ]
    body = zip(*(values[column].tolist() for column in columns), strict=True)
    return rows + [[*place, *cells] for place, cells in zip(index, body, strict=True)]


def _axis(frame: Any, name: str) -> tuple[list[str], list[tuple[str, ...]]]:
    """The names of an axis' levels, and the labels along it, a part for each level."""

    def texts(data: Any) -> list[str]:
        return [v.decode() if isinstance(v, bytes) else str(v) for v in data[:].tolist()]

    if name in frame:
        return [""], [(text,) for text in texts(frame[name])]
    heads, levels = [], []
    for i in range(int(frame.attrs[f"{name}_nlevels"])):
        level, codes = frame[f"{name}_level{i}"], frame[f"{name}_label{i}"][:].tolist()
        heads.append(bytes(level.attrs["name"]).decode())
        labels = texts(level)
        levels.append([labels[code] for code in codes])
    return heads, list(zip(*levels, strict=True))


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
