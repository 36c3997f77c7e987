"""A csv with a column ``image`` of paths and columns ``NAME_x``, ``NAME_y`` of each keypoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facial_keypoints.data.formats.common import Labels, schema_of
from facial_keypoints.errors import DataError
from facial_keypoints.io.tables import column_names, numbers, read_table, write_table
from facial_keypoints.types import FaceDataset, KeypointSchema

__all__ = ["find", "read", "write"]


def find(path: Path) -> Path | None:
    """The csv: ``path`` itself if its first column is ``image``, or ``faces.csv`` in it."""
    inside = path / "faces.csv"
    file = inside if inside.is_file() else path
    if file.suffix.lower() == ".csv" and file.is_file() and column_names(file)[:1] == ["image"]:
        return file
    return None


def read(path: Path, schema: KeypointSchema | None, group_by: str | None) -> Labels:
    """Read the table; each image is one face, and keypoints without columns are not labelled.

    Raises:
        DataError: The table cannot be read, lacks a column, or names keypoints of no schema.
    """
    table = read_table(path)
    columns = [name for name in table.names if name not in ("image", group_by)]
    labels = list(dict.fromkeys(name.rsplit("_", 1)[0] for name in columns))
    schema = schema_of(labels, path, schema)
    wanted = [f"{name}_{axis}" for name in schema.keypoint_names if name in labels for axis in "xy"]
    for name in [*wanted, *([group_by] if group_by else [])]:
        if name not in table.names:
            raise DataError(f"{path} has no column '{name}'.")
    at = [table.names.index(name) for name in wanted]
    order = [k for k, name in enumerate(schema.keypoint_names) if name in labels]
    image = table.names.index("image")
    names, rows, groups = [], [], []
    for count, cells in enumerate(table.rows, start=1):
        xy = np.full((schema.num_keypoints, 2), np.nan)
        values = numbers(wanted, [cells[i] for i in at], f"{path}, row {count}")
        xy[order] = np.reshape(values, (-1, 2))
        rows.append(xy)
        names.append(cells[image])
        if group_by:
            groups.append(cells[table.names.index(group_by)])
    return Labels(path, schema, names, rows, groups=groups if group_by else None)


def write(dataset: FaceDataset, folder: Path, names: Sequence[str]) -> None:
    """Write ``faces.csv`` for images that are there already."""
    rows = (
        [name, *("" if math.isnan(v) else f"{v:.9g}" for v in xy.ravel())]
        for name, xy in zip(names, dataset.keypoints.xy, strict=True)
    )
    write_table(folder / "faces.csv", ["image", *dataset.schema.coordinate_names], rows)
