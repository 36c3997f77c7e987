"""LabelMe: a json file beside each image.

LabelMe counts from the image's edge, so a pixel's centre is at 0.5; this package's are integers.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from facial_keypoints.data.formats.common import Labels, Mark, gather, is_occluded, number_names
from facial_keypoints.data.formats.finding import ImageFinder
from facial_keypoints.errors import DataError
from facial_keypoints.io.tables import read_text

__all__ = ["SUFFIXES", "is_ours", "read"]

SUFFIXES = (".json",)
_HALF = 0.5


def is_ours(path: Path, content: bytes) -> bool:
    """Whether a json file is LabelMe's."""
    return b'"shapes"' in content and (b'"imagePath"' in content or b'"shape_type"' in content)


def read(path: Path, find: ImageFinder) -> Labels:
    """Read the labels of one image. Points are joined to a face by their ``group_id``, or the box around them.

    Raises:
        DataError: It is no such file.
    """
    left_out: Counter[str] = Counter()
    try:
        content = json.loads(read_text(path))
        width, height = content.get("imageWidth"), content.get("imageHeight")
        name = str(content.get("imagePath") or "")
        if not name or find(name) is None:
            beside = find.by_stem(path.stem)
            name = beside.name if beside is not None else name or path.stem
        marks = [mark for shape in content["shapes"] for mark in _marks(shape, left_out)]
        about = {str(key): "yes" for key, on in (content.get("flags") or {}).items() if on is True}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is no json of LabelMe ({type(error).__name__}: {error})."
        ) from error
    size = (int(width), int(height)) if width and height else None
    return Labels(
        path, "LabelMe", gather(name, marks, left_out, about), {name: size}, left_out=left_out
    )


def _marks(shape: dict[str, Any], left_out: Counter[str]) -> list[Mark]:
    name, kind = str(shape.get("label", "")), shape.get("shape_type") or "polygon"
    group = None if shape.get("group_id") is None else str(shape["group_id"])
    places = [(float(x) - _HALF, float(y) - _HALF) for x, y in shape["points"]]
    told = [key for key, on in (shape.get("flags") or {}).items() if on] + [
        shape.get("description")
    ]
    visible = 1 if any(map(is_occluded, told)) else 2
    if kind == "rectangle":
        xs, ys = zip(*places, strict=True)
        box = min(xs) + _HALF, min(ys) + _HALF, max(xs) + _HALF, max(ys) + _HALF
        return [Mark(name, box=box, group=group)]
    if kind in ("point", "points") or len(places) == 1:
        names = (name,) if len(places) == 1 else number_names(len(places))
        group = group if len(places) == 1 or group else name
        return [
            Mark(each, point=(*place, visible), group=group)
            for each, place in zip(names, places, strict=True)
        ]
    left_out[f"shapes that are no points: {kind}"] += 1
    return []
