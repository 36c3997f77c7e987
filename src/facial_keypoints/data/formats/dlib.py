"""The XML of dlib's imglab.

imglab writes whole pixels: an integer is a pixel's centre.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from facial_keypoints.data.formats.common import Face, Labels, Point, number_names
from facial_keypoints.data.formats.finding import ImageFinder
from facial_keypoints.data.formats.xml import read_xml
from facial_keypoints.errors import DataError

__all__ = ["SUFFIXES", "is_ours", "read"]

SUFFIXES = (".xml",)


def is_ours(path: Path, content: bytes) -> bool:
    """Whether its root is ``dataset`` with ``images``."""
    return re.search(rb"<dataset[\s>]", content) is not None and b"<image" in content


def read(path: Path, find: ImageFinder) -> Labels:
    """Read the boxes with their parts. Boxes that are marked to be ignored are left out.

    Raises:
        DataError: It is no such file.
    """
    left_out: Counter[str] = Counter()
    faces: list[Face] = []
    images: dict[str, tuple[int, int] | None] = {}
    try:
        for image in read_xml(path).iter("image"):
            name = image.attrib["file"]
            images[name] = None
            for box in image.iter("box"):
                x, y, width, height = (
                    float(box.attrib[k]) for k in ("left", "top", "width", "height")
                )
                points: dict[str, Point] = {
                    part.attrib["name"]: (float(part.attrib["x"]), float(part.attrib["y"]), 2)
                    for part in box.iter("part")
                }
                if box.get("ignore") == "1":
                    left_out["boxes to be ignored"] += 1
                elif not points:
                    left_out["boxes without points"] += 1
                else:
                    hidden = {"occluded": "yes"} if box.get("occluded") == "1" else {}
                    faces.append(Face(
                        name, points, (x, y, x + width, y + height), box.findtext("label", ""), hidden
                    ))  # fmt: skip
    except (ValueError, KeyError) as error:
        raise DataError(
            f"{path} is no XML of dlib's imglab ({type(error).__name__}: {error})."
        ) from error
    names = sorted(dict.fromkeys(name for face in faces for name in face.points), key=_in_order)
    if len(names) == 68 and all(name.isdigit() for name in names):  # iBUG's points
        renamed = dict(zip(names, number_names(68), strict=True))
        names = list(renamed.values())
        for face in faces:
            face.points = {renamed[name]: point for name, point in face.points.items()}
    return Labels(path, "dlib imglab", faces, images, tuple(names), left_out=left_out)


def _in_order(name: str) -> tuple[int, str]:
    """Imglab sorts parts by their names as text; numbers are to be counted."""
    return (int(name), "") if name.isdigit() else (10**9, name)
