"""VGG Image Annotator: csv, json and project files of version 2, project files of version 3.

VIA writes whole pixels: an integer is a pixel's centre.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from facial_keypoints.data.formats.common import (
    Face,
    Labels,
    Mark,
    gather,
    is_occluded,
    number_names,
)
from facial_keypoints.data.formats.finding import ImageFinder
from facial_keypoints.errors import DataError
from facial_keypoints.io.tables import column_names, read_text

__all__ = ["SUFFIXES", "is_ours", "read"]

SUFFIXES = (".csv", ".json")
# Attributes of a region that usually hold a point's name, and those that say which face it belongs to.
_NAME = re.compile("(name|label|key ?points?|landmarks?|points?|parts?|type|class|feature)$", re.I)
_GROUP = re.compile(
    "(face|group|instance|individual|animal|object|person|subject)([ _]?(id|no|number))?$", re.I
)


def is_ours(path: Path, content: bytes) -> bool:
    """Whether a file is VIA's."""
    if path.suffix.lower() == ".csv":
        return "region_shape_attributes" in column_names(path)
    return b'"shape_attributes"' in content or b'"fid_list"' in content


def read(path: Path, find: ImageFinder) -> Labels:
    """Read the regions: points (and middles of circles) by the attribute that names them, and boxes.

    Raises:
        DataError: It is no such file.
    """
    left_out: Counter[str] = Counter()
    faces: list[Face] = []
    images: dict[str, tuple[int, int] | None] = {}
    try:
        of_csv = path.suffix.lower() == ".csv"
        entries = list(_of_csv(path) if of_csv else _of_json(path, left_out))
        key = _name_attribute([region for _, regions, _ in entries for region in regions])
        for name, regions, about in entries:
            images[name] = None
            marks = [mark for region in regions for mark in _mark(region, key, left_out)]
            if key is None:  # nothing names the points: they are counted
                points = [mark for mark in marks if mark.point is not None]
                for mark, number in zip(points, number_names(len(points)), strict=True):
                    mark.name = number
            found = gather(name, marks, left_out, about)
            for face in found if key is None else ():
                face.numbered = len(face.points)
            faces += found
    except (OSError, ValueError, LookupError, TypeError, AttributeError, csv.Error) as error:
        raise DataError(f"{path} is no file of VIA ({type(error).__name__}: {error}).") from error
    return Labels(path, "VIA", faces, images, left_out=left_out)


_Entry = tuple[str, list[dict[str, Any]], dict[str, str]]
"""Name of an image, its regions, what else is known of it."""


def _of_csv(path: Path) -> Iterator[_Entry]:
    found: dict[str, _Entry] = {}
    for row in csv.DictReader(io.StringIO(read_text(path), newline="")):
        cells = {(key or "").strip().lstrip("#"): value for key, value in row.items()}
        name = cells["filename"]
        entry = found.setdefault(
            name, (name, [], _texts(json.loads(cells.get("file_attributes") or "{}")))
        )
        shape = json.loads(cells.get("region_shape_attributes") or "{}")
        if shape:
            named = json.loads(cells.get("region_attributes") or "{}")
            entry[1].append({"shape_attributes": shape, "region_attributes": named})
    yield from found.values()


def _of_json(path: Path, left_out: Counter[str]) -> Iterator[_Entry]:
    content = json.loads(read_text(path))
    if "view" in content:
        yield from _of_project_3(content, left_out)
        return
    for entry in content.get("_via_img_metadata", content).values():
        regions = entry.get("regions") or []
        listed = list(regions.values()) if isinstance(regions, dict) else regions
        yield str(entry["filename"]), listed, _texts(entry.get("file_attributes") or {})


_SHAPES = {1: ("point", "cx", "cy"), 2: ("rect", "x", "y", "width", "height"), 3: ("circle", "cx", "cy", "r"),
           4: ("ellipse", "cx", "cy", "rx", "ry"), 5: ("line",), 6: ("polyline",), 7: ("polygon",)}  # fmt: skip
"""Version 3's number of a shape: its name and the names of its numbers in version 2."""


def _of_project_3(content: dict[str, Any], left_out: Counter[str]) -> Iterator[_Entry]:
    """The entries of a project of version 3: a view shows a file, and each of its metadata is a region of it."""
    attributes = content.get("attribute") or {}

    def told(values: dict[str, Any]) -> dict[str, str]:
        """Attributes by name; of a choice, its options' texts instead of their numbers."""
        found = {}
        for key, value in values.items():
            options = attributes.get(key, {}).get("options") or {}
            parts = str(value).split(",") if options else [str(value)]
            found[attributes.get(key, {}).get("aname", key)] = ", ".join(
                options.get(part, part) for part in parts
            )
        return found

    entries: dict[str, _Entry] = {}
    for key, view in content["view"].items():
        files = view["fid_list"]
        if len(files) == 1:  # several are compared side by side
            file = content["file"][str(files[0])]
            entries[key] = (str(file["fname"] or file["src"]), [], {})
    for data in content["metadata"].values():
        xy, about = data["xy"], told(data.get("av") or {})
        if str(data["vid"]) not in entries:
            left_out["marks in views of several files"] += 1
        elif data.get("z"):
            left_out["marks at a time of a video"] += 1
        elif not xy:  # of the whole file
            entries[str(data["vid"])][2].update(_texts(about))
        else:
            name, *keys = _SHAPES.get(xy[0], (f"shape {xy[0]}",))
            shape = {"name": name, **dict(zip(keys, xy[1:], strict=bool(keys)))}
            entries[str(data["vid"])][1].append(
                {"shape_attributes": shape, "region_attributes": about}
            )
    yield from entries.values()


def _texts(values: dict[str, Any]) -> dict[str, str]:
    """Attributes as text; of a checkbox, what is ticked."""
    found = {}
    for key, value in values.items():
        ticked = [k for k, on in value.items() if on] if isinstance(value, dict) else [value]
        text = ", ".join(str(each).strip() for each in ticked)
        if text and text != "undefined":
            found[str(key)] = text
    return found


def _name_attribute(regions: list[dict[str, Any]]) -> str | None:
    """The attribute that names points: one with a usual name, else the one with most values."""
    values: dict[str, set[str]] = {}
    for region in regions:
        if _place(region["shape_attributes"]) is not None:
            for key, text in _texts(region.get("region_attributes") or {}).items():
                values.setdefault(key, set()).add(text)
    usable = [key for key in values if not _GROUP.match(key) and not is_occluded(key)]
    usual = [key for key in usable if _NAME.match(key)]
    return max(usual or usable, key=lambda key: len(values[key]), default=None)


def _place(shape: dict[str, Any]) -> tuple[float, float] | None:
    if shape.get("name") in ("point", "circle", "ellipse"):
        return float(shape["cx"]), float(shape["cy"])
    return None


def _mark(region: dict[str, Any], key: str | None, left_out: Counter[str]) -> list[Mark]:
    shape = region["shape_attributes"]
    about = _texts(region.get("region_attributes") or {})
    name = about.pop(key, "") if key is not None else ""
    group = next((f"{k} {about.pop(k)}" for k in list(about) if _GROUP.match(k)), None)
    place = _place(shape)
    if place is not None:
        if key is not None and not name:
            left_out["points without a name"] += 1
            return []
        hidden = False
        for k in list(about):
            if is_occluded(k) or k.lower() in ("visibility", "visible"):
                told = about.pop(k)
                off = told.lower() in ("no", "false", "0") if not is_occluded(k) else False
                hidden |= off or is_occluded(told) or (
                    is_occluded(k) and told.lower() not in ("no", "false", "0")
                ) or (k.lower() == "visibility" and told == "1")  # fmt: skip
        return [Mark(name, point=(*place, 1 if hidden else 2), group=group, about=about)]
    if shape.get("name") == "rect":
        x, y, width, height = (float(shape[k]) for k in ("x", "y", "width", "height"))
        return [Mark(name, box=(x, y, x + width, y + height), group=group, about=about)]
    left_out[f"regions that are no points: {shape.get('name')}"] += 1
    return []
