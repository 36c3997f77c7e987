"""A csv with a column of images and columns ``NAME_x``, ``NAME_y`` of each keypoint.

Points are pixels: an integer is a pixel's centre. Other spellings (``NAME.x``, ``x_NAME``, ``NAME (x)``, ``nameX``) are
read too, as are names above ``x`` and ``y`` in a header of two rows; two columns for one number are refused. Columns that may be there too:

- ``x0, y0, x1, y1``, or another of ``_BOXES``: the face's box, where 0 is the image's edge. They say that the images
  are photos from which faces are cut out; their cells may be empty. Without them each image is one face.
- ``NAME_visibility`` or ``NAME_v``: 0 not labelled, 1 occluded, 2 visible, as in COCO. ``NAME_visible``: 0 occluded.
- ``group``, or any other column: what is known about the face.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from facial_keypoints.data.formats.common import FARTHEST, Box, Face, Labels, Point, number_names
from facial_keypoints.data.formats.finding import ImageFinder
from facial_keypoints.errors import DataError
from facial_keypoints.io.tables import column_names, numbers, read_table, write_table

__all__ = ["HOLDS", "SUFFIXES", "is_ours", "read", "write"]

SUFFIXES = (".csv",)
HOLDS = frozenset({"several faces", "points outside", "occluded", "boxes", "facts"})
IMAGE_COLUMNS = (
    "image", "filename", "file_name", "file", "image_name", "image_path", "imagename", "path", "source",
    "img", "img_name", "image_file", "photo", "image_id",
)  # fmt: skip
_BOX = ("x0", "y0", "x1", "y1")
_BOXES = (
    _BOX, ("xmin", "ymin", "xmax", "ymax"), ("x_min", "y_min", "x_max", "y_max"), ("left", "top", "right", "bottom"),
    ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"), ("bbox_x", "bbox_y", "bbox_w", "bbox_h"),
    ("bbox_x", "bbox_y", "bbox_width", "bbox_height"), ("x", "y", "w", "h"), ("x", "y", "width", "height"),
)  # fmt: skip
"""Names of a box's corners or, where the third is a width, of its corner and size."""
_SEEN = ("visibility", "v", "visible")
_OURS = ("face", "score", "time_s", "frame")  # further columns of the tables of predict
_SUFFIX = re.compile(r"(.+?)(?:[_ .-]([xy])| ?[\[(]([xy])[\])])", re.I | re.DOTALL)
_GLUED = re.compile(r"(.*[a-z0-9])([XY])|(.*\d)([xy])", re.DOTALL)
_PREFIX = re.compile(r"([xy])(?:[_ .-](.+)|(\d+))", re.I | re.DOTALL)


def _coordinate(column: str) -> tuple[str, str] | None:
    """The keypoint and the axis of a column: ``nose_x``, ``nose.x``, ``nose X``, ``nose (x)``, ``x_nose`` or ``x12``."""
    if match := _SUFFIX.fullmatch(column):
        return match[1], (match[2] or match[3]).lower()
    if match := _PREFIX.fullmatch(column):
        return match[2] or match[3], match[1].lower()
    return None


def _coordinates(columns: Sequence[str]) -> list[tuple[tuple[str, str], str]]:
    """The columns that are coordinates, with their keypoint and axis.

    ``noseX`` and ``p1x`` count only beside ``noseY`` and ``p1y``: a single one may be anything.
    """
    glued = {
        c: (m[1] or m[3], (m[2] or m[4]).lower()) for c in columns if (m := _GLUED.fullmatch(c))
    }
    places = set(glued.values())
    found = []
    for column in columns:
        place = _coordinate(column)
        if place is None and column in glued:
            name, axis = glued[column]
            place = (name, axis) if {(name, "x"), (name, "y")} <= places else None
        if place is not None:
            found.append((place, column))
    return found


def _box_columns(names: Sequence[str]) -> list[str]:
    """The columns of the face's box, if there are some; ``x0`` to ``x2`` are points."""
    lower = {name.lower(): name for name in names}
    for four in _BOXES:
        if set(four) <= set(lower) and not (four == _BOX and "x2" in lower):
            return [lower[name] for name in four]
    return []


def _image_column(names: list[str]) -> str | None:
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in IMAGE_COLUMNS if name in lower), None)


def is_ours(path: Path, content: bytes) -> bool:
    """Whether the header names images and the two coordinates of a point."""
    names = [name.strip() for name in column_names(path)]
    boxes = _box_columns(names)
    return _image_column(names) is not None and bool(
        _coordinates([name for name in names if name not in boxes])
    )


def read(path: Path, find: ImageFinder) -> Labels:
    """Read the table.

    Raises:
        DataError: The table cannot be read, or lacks a column.
    """
    table = read_table(path)
    place = {name: i for i, name in enumerate(table.names)}
    image = _image_column(table.names)
    boxes = _box_columns(table.names)
    axes = _point_columns(path, [name for name in table.names if name not in boxes])
    names = tuple(dict.fromkeys(name for name, _ in axes))
    if image is None or not names:
        raise DataError(
            f"{path} names no images and points: it needs a column 'image' and columns NAME_x and NAME_y."
        )
    wanted = [axes[name, axis] for name in names for axis in "xy"]
    seen = [next((c for word in _SEEN if (c := f"{n}_{word}") in place), None) for n in names]
    numbered = len(names) if all(name.isdigit() for name in names) else 0
    known = (
        dict(zip(sorted(names, key=int), number_names(numbered), strict=True)) if numbered else {}
    )
    unused = [f"{n}_confidence" for n in names]
    used = {image, *wanted, *boxes, *seen, *unused, *_OURS}
    facts = [name for name in table.names if name not in used]
    faces: list[Face] = []
    left_out: Counter[str] = Counter()
    for count, cells in enumerate(table.rows, start=1):
        where = f"{path}, row {count}"
        values = numbers(wanted, [cells[place[name]] for name in wanted], where)
        points: dict[str, Point] = {}
        for i, name in enumerate(names):
            x, y = values[2 * i : 2 * i + 2]
            column = seen[i]
            visible = "2" if column is None else str(cells[place[column]]).strip()[:1]
            if column == f"{name}_visible":  # yes or no
                visible = "1" if visible in "0fFnN" else "2"
            if _labelled(x, y, f"{where}: column '{name}_") and visible != "0":
                points[known.get(name, name)] = (x, y, 1 if visible == "1" else 2)
        corners = numbers(boxes, [cells[place[name]] for name in boxes], where) if boxes else []
        box: Box | None = None
        if corners and "w" in boxes[2].lower():
            corners[2:] = corners[0] + corners[2], corners[1] + corners[3]
        if corners and corners[0] < corners[2] and corners[1] < corners[3]:
            box = (corners[0], corners[1], corners[2], corners[3])
        name = str(cells[place[image]]).strip()
        if not name:
            left_out["rows that name no image"] += 1
            continue
        about = {fact: str(cells[place[fact]]).strip() for fact in facts}
        about = {k: v for k, v in about.items() if v}
        faces.append(Face(name, points, box, about=about, numbered=numbered))
    several = len({face.image for face in faces}) < len(faces)
    labels = Labels(
        path,
        "csv",
        faces,
        names=tuple(known.values()) or names,
        photos=bool(boxes) or several,
        left_out=left_out,
    )
    labels.notes += _understood(table.header_rows, axes, known)
    if odd := [name for name in facts if name != "group"]:
        labels.notes.append(
            f"no coordinates, and not used: column{'s' if len(odd) > 1 else ''} {', '.join(odd)} "
            "(--group-by COLUMN keeps the faces of a person together)"
        )
    return labels


def _point_columns(path: Path, columns: Sequence[str]) -> dict[tuple[str, str], str]:
    """The column of each keypoint and axis; each keypoint has both, and one column for each."""
    axes: dict[tuple[str, str], str] = {}
    for (name, axis), column in _coordinates(columns):
        if (other := axes.setdefault((name, axis), column)) != column:
            raise DataError(
                f"{path}: the columns '{other}' and '{column}' both hold the {axis} of '{name}': remove one of them."
            )
    for (name, axis), column in axes.items():
        missing = "y" if axis == "x" else "x"
        if (name, missing) not in axes:
            raise DataError(f"{path} has no column '{name}_{missing}' beside '{column}'.")
    return axes


def _understood(
    header_rows: int, axes: Mapping[tuple[str, str], str], numbered: Container[str]
) -> list[str]:
    """How the header was read, where it is not one row of ``NAME_x`` and ``NAME_y`` or of numbers."""
    notes = []
    if header_rows > 1:
        notes.append(
            f"the first {header_rows} rows are the header: a name above x and y is a keypoint's"
        )
    respelt = [n for (n, a), c in axes.items() if a == "x" and c != f"{n}_x" and n not in numbered]
    if respelt:
        x, y = (axes[respelt[0], axis] for axis in "xy")
        more = f", and likewise {len(respelt) - 1} more" if len(respelt) > 1 else ""
        notes.append(f"columns '{x}' and '{y}' are x and y of '{respelt[0]}'{more}")
    return notes


def _labelled(x: float, y: float, place: str) -> bool:
    """Whether a point is labelled; half a point, or one that lies nowhere, is refused."""
    if math.isnan(x) != math.isnan(y):
        axis, partner = ("x", "y") if math.isnan(x) else ("y", "x")
        raise DataError(
            f"{place}{axis}' is empty, but its partner '_{partner}' is not: give both or none."
        )
    for value, axis in ((x, "x"), (y, "y")):
        if abs(value) > FARTHEST:
            raise DataError(
                f"{place}{axis}' holds {value:.15g}, which is no coordinate in pixels: has it lost its decimal "
                "point?"
            )
    return not math.isnan(x)


def write(labels: Labels, folder: Path) -> None:
    """Write ``faces.csv``; each image is a path from its folder."""
    facts = list(dict.fromkeys(name for face in labels.faces for name in face.about))
    occluded = [
        name for name in labels.names
        if any(face.points.get(name, (0, 0, 2))[2] == 1 for face in labels.faces)
    ]  # fmt: skip
    header = ["image", *facts, *(_BOX if labels.photos else ())]
    header += [f"{name}_{axis}" for name in labels.names for axis in "xy"]
    header += [f"{name}_visibility" for name in occluded]

    def row(face: Face) -> list[str]:
        cells = [face.image, *(face.about.get(name, "") for name in facts)]
        if labels.photos:
            cells += [f"{v:.9g}" for v in face.box] if face.box else [""] * 4
        for name in labels.names:
            point = face.points.get(name)
            cells += [f"{v:.9g}" for v in point[:2]] if point else ["", ""]
        return cells + [str(face.points.get(name, (0, 0, 0))[2]) for name in occluded]

    write_table(folder / "faces.csv", header, map(row, labels.faces))
