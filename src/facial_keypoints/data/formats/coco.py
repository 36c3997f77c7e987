"""COCO keypoints: ``annotations.json`` beside a folder of images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facial_keypoints.data.formats.common import Labels, refuse_groups, schema_of
from facial_keypoints.errors import DataError
from facial_keypoints.files import write_json
from facial_keypoints.io.tables import read_text
from facial_keypoints.types import FaceDataset, KeypointSchema

__all__ = ["find", "read", "write"]


def find(path: Path) -> Path | None:
    """The json: ``path`` itself, or ``annotations.json`` in it."""
    inside = path / "annotations.json"
    if inside.is_file():
        return inside
    return path if path.suffix.lower() == ".json" and path.is_file() else None


def read(path: Path, schema: KeypointSchema | None, group_by: str | None) -> Labels:
    """Read the annotations: one face an image where each covers all of its image, else faces of photos.

    Raises:
        DataError: It is no COCO keypoints file, or names keypoints of no schema.
    """
    refuse_groups(path, group_by)
    try:
        content = json.loads(read_text(path))
        labels = list(content["categories"][0]["keypoints"])
        schema = schema_of(labels, path, schema)
        order = [schema.index(name) for name in labels]
        files = {image["id"]: str(image["file_name"]) for image in content["images"]}
        sizes = {i["id"]: (i.get("width"), i.get("height")) for i in content["images"]}
        names, rows, boxes, whole = [], [], [], True
        for annotation in content["annotations"]:
            triples = np.array(annotation["keypoints"], np.float64).reshape(len(order), 3)
            row = np.full((schema.num_keypoints, 2), np.nan)
            row[order] = np.where(triples[:, 2:] > 0, triples[:, :2], np.nan)
            rows.append(row)
            names.append(files[annotation["image_id"]])
            box = annotation.get("bbox")
            boxes.append(None if box is None else [float(value) for value in box])
            full = [0, 0, *sizes[annotation["image_id"]]]
            whole &= box is None or list(box) == full
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(
            f"{path} is no COCO keypoints file ({type(error).__name__}: {error}); "
            "it needs images, annotations and categories with keypoints."
        ) from error
    one_each = whole and len(set(names)) == len(names)
    return Labels(path, schema, names, rows, boxes=None if one_each else boxes)


def write(dataset: FaceDataset, folder: Path, names: Sequence[str]) -> None:
    """Write ``annotations.json`` for images that are there already."""
    height, width = dataset.image_size
    labeled = dataset.keypoints.visibility
    points = np.where(np.isnan(dataset.keypoints.xy), 0.0, dataset.keypoints.xy.astype(np.float64))
    triples = np.concatenate([points, labeled[..., None]], axis=2).reshape(len(dataset), -1)
    edges = [[a + 1, b + 1] for a, b in dataset.schema.edges]  # COCO counts from 1
    category = {"id": 1, "name": "face", "keypoints": list(dataset.schema.keypoint_names)}
    content = {
        "images": [
            {"id": i, "file_name": name, "width": width, "height": height}
            for i, name in enumerate(names, start=1)
        ],
        "annotations": [
            {
                "id": i,
                "image_id": i,
                "category_id": 1,
                "bbox": [0, 0, width, height],
                "area": width * height,
                "iscrowd": 0,
                "keypoints": row,
                "num_keypoints": int((labeled[i - 1] > 0).sum()),
            }
            for i, row in enumerate(triples.tolist(), start=1)
        ],
        "categories": [{**category, "skeleton": edges}],
    }
    write_json(folder / "annotations.json", content)
