"""A folder of images with a 300-W ``.pts`` file each; the images may show several faces."""

from __future__ import annotations

import glob
from pathlib import Path

import numpy as np

from facial_keypoints.data.formats.common import Labels, refuse_groups
from facial_keypoints.errors import DataError
from facial_keypoints.io.images import IMAGE_SUFFIXES
from facial_keypoints.io.tables import read_text
from facial_keypoints.schemas import IBUG68
from facial_keypoints.types import KeypointSchema

__all__ = ["find", "read"]


def find(path: Path) -> Path | None:
    """The folder, if it holds a ``.pts`` file."""
    return path if path.is_dir() and any(path.glob("*.pts")) else None


def read(path: Path, schema: KeypointSchema | None, group_by: str | None) -> Labels:
    """Read the files, which name no keypoints: without a schema they are those of ``ibug68``.

    Raises:
        DataError: A file is damaged, has another number of points, or lacks its image.
    """
    refuse_groups(path, group_by)
    schema = IBUG68 if schema is None else schema
    files = sorted(path.glob("*.pts"))
    names, rows = [], []
    for file in files:
        try:
            inside = read_text(file).split("{", 1)[1].split("}", 1)[0]
            row = np.array(inside.split(), np.float64).reshape(-1, 2)
        except (OSError, ValueError, IndexError) as error:
            raise DataError(
                f"{file} is no .pts file: it needs 'version: 1', 'n_points: N' and N lines of x and y in "
                f"braces ({error})."
            ) from error
        if len(row) != schema.num_keypoints:
            raise DataError(
                f"{file} has {len(row)} points, but the schema '{schema.name}' has "
                f"{schema.num_keypoints}: give the schema that fits."
            )
        image = next(
            (p for p in sorted(path.glob(f"{glob.escape(file.stem)}.*"))
             if p.suffix.lower() in IMAGE_SUFFIXES), None,
        )  # fmt: skip
        if image is None:
            raise DataError(f"{file} has no image of the same name beside it.")
        names.append(image.name)
        # 300-W counts pixels from 1, as Matlab does.
        rows.append(row - 1.0)
    return Labels(files[0], schema, names, rows, boxes=[None] * len(rows))
