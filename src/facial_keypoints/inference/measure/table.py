"""Reading tables of points, as ``predict`` and ``track`` write them, and writing tables of measures.

Columns other than points (source, box, time, track, ...) are copied; then come ``NAME`` and ``NAME_sigma`` of
each measure, and ``warnings``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.errors import DataError
from facial_keypoints.inference.measure.measures import NOTICE, Measurements
from facial_keypoints.io.tables import (
    Value,
    as_number,
    columns,
    numbers,
    open_table,
    read_table,
    rows,
)
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.types import Keypoints, KeypointSchema, Prediction

__all__ = [
    "NUM_OTHERS",
    "FaceTable",
    "measure_rows",
    "read_faces",
    "table_of",
    "write_measurements",
]

NUM_OTHERS = 8
"""Columns before the points in tables of predict: source, face, box, score, angle."""

_POINTS = [f"{point}_{axis}" for point in KAGGLE15.keypoint_names for axis in "xy"]
_CONFIDENCES = [f"{point}_confidence" for point in KAGGLE15.keypoint_names]


@dataclass(frozen=True, eq=False)
class FaceTable:
    """Points of N faces, and the table's other columns.

    Args:
        keypoints: N faces with the points of ``kaggle15``.
        names: Of the other columns.
        rows: N rows of the other columns' values.
    """

    keypoints: Keypoints
    names: list[str]
    rows: list[list[Value]]

    def column(self, name: str) -> list[Value] | None:
        """N values of a column, or ``None`` if there is no column of this name."""
        if name not in self.names:
            return None
        at = self.names.index(name)
        return [row[at] for row in self.rows]


def read_faces(path: str | os.PathLike[str]) -> FaceTable:
    """Read a table with a row per face and columns ``NAME_x``, ``NAME_y`` and ``NAME_confidence``.

    Raises:
        DataError: It cannot be read or has no columns for the 15 points.
        MissingExtraError: It is ``.parquet``, and pyarrow is not installed.
    """
    path = Path(path)
    table = read_table(path)
    names = table.names
    if not names:  # json without rows has no columns
        return FaceTable(Keypoints(np.zeros((0, 15, 2), np.float32), KAGGLE15), [], [])
    if missing := [name for name in _POINTS if name not in names]:
        raise DataError(
            f"{path}: there is no column '{missing[0]}': measure takes tables that predict or track wrote "
            "with a model of the 15 points."
        )
    wanted = _POINTS + (_CONFIDENCES if set(_CONFIDENCES) <= set(names) else [])
    of_points = {
        f"{name.removesuffix('_x')}_{what}"
        for name in names
        if name.endswith("_x")
        for what in ("x", "y", "confidence")
    }
    at = [names.index(name) for name in wanted]
    kept = [i for i, name in enumerate(names) if name not in of_points]
    values: list[NDArray[np.float32]] = []
    others: list[list[Value]] = []
    for count, row in enumerate(table.rows, start=1):
        cells = [row[i] for i in at]
        values.append(np.array(numbers(wanted, cells, f"{path}, row {count}"), np.float32))
        others.append([as_number(names[i], row[i]) for i in kept])
    found = np.stack(values) if values else np.zeros((0, len(wanted)), np.float32)
    confidence = found[:, len(_POINTS) :]
    try:
        keypoints = Keypoints(
            found[:, : len(_POINTS)].reshape(-1, KAGGLE15.num_keypoints, 2),
            KAGGLE15,
            confidence=None if np.isnan(confidence).all() else confidence,
        )
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    return FaceTable(keypoints, [names[i] for i in kept], others)


def table_of(predictions: Sequence[Prediction], schema: KeypointSchema) -> FaceTable:
    """The faces of images as a table: source, face, box, score and angle, as ``predict`` writes them."""
    k = schema.num_keypoints
    xy = [each.keypoints.xy for each in predictions]
    known = [c for each in predictions if (c := each.keypoints.confidence) is not None]
    keypoints = Keypoints(
        np.concatenate(xy) if xy else np.zeros((0, k, 2), np.float32),
        schema,
        confidence=np.concatenate(known) if known and len(known) == len(xy) else None,
    )
    others = [row[:NUM_OTHERS] for each in predictions for row in rows(each)]
    return FaceTable(keypoints, columns(schema)[:NUM_OTHERS], others)


def measure_rows(found: Measurements) -> list[dict[str, float | str | None]]:
    """One mapping per face: ``NAME`` and ``NAME_sigma`` of each measure, and ``warnings``.

    Values have five decimals, more than any error bar needs; ``None`` stands for NaN.
    """
    names = [column for name in found.names for column in (name, f"{name}_sigma")]
    values = np.round(np.stack([found.values, found.sigma], axis=2), 5).reshape(
        len(found), len(names)
    )
    return [
        {
            **{name: None if math.isnan(v) else v for name, v in zip(names, row, strict=True)},
            "warnings": ", ".join(warnings),
        }
        for row, warnings in zip(values.tolist(), found.warnings, strict=True)
    ]


def write_measurements(path: Path, faces: FaceTable, found: Measurements) -> None:
    """Write measures beside the other columns of the faces; the file appears only when it is whole.

    Args:
        path: Its suffix chooses the format. JSON is an object with ``notice``, ``units`` and ``faces``;
            parquet has notice and units in its metadata; csv has neither.
        faces: N faces.
        found: Their measures.

    Raises:
        DataError: ``faces`` has a column that is named like a measure.
        OutputError: The suffix is another, or the file cannot be written.
    """
    own = [*(c for name in found.names for c in (name, f"{name}_sigma")), "warnings"]
    if taken := [name for name in faces.names if name in own]:
        raise DataError(f"the table has a column '{taken[0]}', which measure writes: rename it.")
    notes = {"notice": NOTICE, "units": dict(zip(found.names, found.units, strict=True))}
    with open_table(path, [*faces.names, *own], notes=notes) as table:
        table.write(
            [*row, *measured.values()]
            for row, measured in zip(faces.rows, measure_rows(found), strict=True)
        )
