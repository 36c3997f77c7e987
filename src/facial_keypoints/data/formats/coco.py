"""COCO keypoints, as CVAT, Label Studio, Roboflow and coco-annotator export them.

A keypoint is a pixel: an integer is a pixel's centre. A box begins at the image's edge, 0.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from facial_keypoints.data.formats.common import Box, Face, Labels, Point, number_names
from facial_keypoints.data.formats.finding import ImageFinder
from facial_keypoints.errors import DataError
from facial_keypoints.files import write_json
from facial_keypoints.io.tables import read_text

__all__ = ["HOLDS", "SUFFIXES", "is_ours", "read", "write"]

SUFFIXES = (".json",)
HOLDS = frozenset({"several faces", "points outside", "occluded", "boxes", "facts"})
_FROM_POINTS = "bbox_from_points"  # a box that COCO asks for and nobody labelled


def is_ours(path: Path, content: bytes) -> bool:
    """Whether a json file is COCO's."""
    return b'"annotations"' in content and b'"images"' in content and b'"image_id"' in content


def read(path: Path, find: ImageFinder) -> Labels:
    """Read the annotations.

    Each is read by the keypoints of its own category. Where each box covers all of its image, as in what this
    package writes, each image is one face.

    Raises:
        DataError: It is no COCO keypoints file.
    """
    left_out: Counter[str] = Counter()
    try:
        content = json.loads(read_text(path))
        categories = {str(c["id"]): c for c in content["categories"]}
        images = {str(i["id"]): i for i in content["images"]}
        sizes = {str(i["file_name"]): _size(i) for i in content["images"]}
        faces = [
            face
            for annotation in content["annotations"]
            if (face := _face(annotation, images, categories, left_out)) is not None
        ]
        kinds = [c for c in categories.values() if c.get("keypoints")]
        edges = (
            tuple((int(a) - 1, int(b) - 1) for a, b in kinds[0].get("skeleton") or ())
            if kinds
            else ()
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(
            f"{path} is no COCO keypoints file ({type(error).__name__}: {error}); "
            "it needs images, annotations and categories with keypoints."
        ) from error
    full = [
        (size := sizes.get(face.image)) is not None and face.box == (0, 0, *size) for face in faces
    ]
    whole = bool(full) and all(full) and len({face.image for face in faces}) == len(faces)
    names = tuple(dict.fromkeys(str(name) for c in kinds for name in c["keypoints"]))
    alone = len({tuple(c["keypoints"]) for c in kinds}) == 1
    return Labels(
        path, "COCO", faces, sizes, names if faces and alone else (), photos=not whole,
        edges=edges if alone else (), left_out=left_out,
    )  # fmt: skip


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    return (int(width), int(height)) if width and height else None


def _face(
    annotation: dict[str, Any],
    images: dict[str, Any],
    categories: dict[str, Any],
    left_out: Counter[str],
) -> Face | None:
    image = images.get(str(annotation["image_id"]))
    if image is None:
        left_out["annotations of an image that is not listed"] += 1
        return None
    category = categories.get(str(annotation.get("category_id", next(iter(categories), ""))), {})
    values = annotation.get("keypoints")
    if annotation.get("iscrowd"):
        left_out["annotations of crowds"] += 1
        return None
    if not values or not any(values[2::3]):  # 0 is not labelled
        left_out["annotations without labelled keypoints"] += 1
        return None
    names = [str(n) for n in category.get("keypoints") or number_names(len(values) // 3)]
    if len(values) != 3 * len(names):
        left_out[
            f"annotations of category '{category.get('name')}' with another number of keypoints than the category"
        ] += 1
        return None
    if len(set(names)) != len(names):
        raise ValueError(f"category '{category.get('name')}' names a keypoint twice")
    points: dict[str, Point] = {
        name: (float(values[3 * i]), float(values[3 * i + 1]), 1 if values[3 * i + 2] == 1 else 2)
        for i, name in enumerate(names)
        if values[3 * i + 2]
    }
    facts = {**(image.get("attributes") or {}), **(annotation.get("attributes") or {})}
    made = facts.pop(_FROM_POINTS, None)
    about = {
        str(k): str(v) for k, v in facts.items() if k not in ("occluded", "keyframe", "rotation")
    }
    box = None if made else _box(annotation.get("bbox"))
    unnamed = 0 if category.get("keypoints") else len(names)
    kind = str(category.get("name", ""))
    return Face(str(image["file_name"]), points, box, kind, about, unnamed)


def _box(bbox: Any) -> Box | None:
    if not bbox or not (bbox[2] > 0 and bbox[3] > 0):
        return None
    x, y, width, height = (float(value) for value in bbox)
    return x, y, x + width, y + height


def write(labels: Labels, folder: Path) -> None:
    """Write ``annotations.json``; each image is a path from its folder."""
    numbers = {name: i for i, name in enumerate(labels.images, start=1)}
    images = []
    for name, i in numbers.items():
        width, height = labels.images[name] or (0, 0)
        images.append({"id": i, "file_name": name, "width": width, "height": height})
    annotations = []
    for number, face in enumerate(labels.faces, start=1):
        about: dict[str, Any] = dict(face.about)
        box = face.box
        if box is None:
            about[_FROM_POINTS] = True
            xs, ys = zip(*((x, y) for x, y, _ in face.points.values()), strict=True)
            box = min(xs), min(ys), max(xs), max(ys)
        x0, y0, x1, y1 = (round(v, 6) for v in box)
        triples = [face.points.get(name, (0.0, 0.0, 0)) for name in labels.names]
        annotations.append({
            "id": number,
            "image_id": numbers[face.image],
            "category_id": 1,
            "bbox": [x0, y0, round(x1 - x0, 6), round(y1 - y0, 6)],
            "area": round((x1 - x0) * (y1 - y0), 6),
            "iscrowd": 0,
            "keypoints": [value for triple in triples for value in triple],
            "num_keypoints": len(face.points),
            **({"attributes": about} if about else {}),
        })  # fmt: skip
    category = {
        "id": 1,
        "name": next((face.kind for face in labels.faces if face.kind), "face"),
        "keypoints": list(labels.names),
        "skeleton": [[a + 1, b + 1] for a, b in labels.edges],  # COCO counts from 1
    }
    write_json(
        folder / "annotations.json",
        {"images": images, "annotations": annotations, "categories": [category]},
    )
