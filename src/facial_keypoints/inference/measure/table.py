"""Tables of points in, tables of measures out: csv, parquet or json.

Reads what ``predict`` and ``track`` write. The columns that are no points (source, box, time, track, ...)
are kept as they are; then come ``NAME`` and ``NAME_sigma`` of each measure, and ``warnings``.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.errors import DataError, OutputError
from facial_keypoints.files import atomic_path
from facial_keypoints.inference.measure.measures import NOTICE, Measurements
from facial_keypoints.io.tables import TABLE_SUFFIXES, columns, read_table, rows
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.types import Keypoints, KeypointSchema, Prediction

if TYPE_CHECKING:
    from pyarrow import Table

__all__ = [
    "NUM_OTHERS",
    "FaceTable",
    "check_table_name",
    "measure_rows",
    "read_faces",
    "table_of",
    "write_measurements",
]

NUM_OTHERS = 7
"""The first columns of predict's tables are no points: source, face, box, score."""


@dataclass(frozen=True, eq=False)
class FaceTable:
    """Points of N faces with what else the table says of them.

    Args:
        keypoints: N faces with the points of ``kaggle15``.
        others: pyarrow table of N rows: the other columns.
    """

    keypoints: Keypoints
    others: Table

    def column(self, *names: str) -> NDArray[Any] | None:
        """(N,) values of the first of these columns that there is."""
        for name in names:
            if name in self.others.column_names:
                return np.asarray(self.others.column(name).to_numpy())
        return None


def read_faces(path: str | os.PathLike[str]) -> FaceTable:
    """Read a table with a row a face and columns ``NAME_x``, ``NAME_y`` and ``NAME_confidence``.

    Raises:
        DataError: It cannot be read or has no columns for the 15 points.
    """
    path = Path(path)
    table = read_table(path)
    if not table.num_columns:  # json without rows names no columns
        return FaceTable(Keypoints(np.zeros((0, 15, 2), np.float32), KAGGLE15), table)
    names = [n.removesuffix("_x") for n in table.column_names if n.endswith("_x")]
    if missing := [
        column
        for point in KAGGLE15.keypoint_names
        for column in (f"{point}_x", f"{point}_y")
        if column not in table.column_names
    ]:
        raise DataError(
            f"{path}: there is no column '{missing[0]}': measure takes tables that predict or track wrote "
            "with a model of the 15 points."
        )
    xy = np.stack(
        [
            np.stack([_numbers(path, table, f"{point}_{axis}") for axis in "xy"], axis=-1)
            for point in KAGGLE15.keypoint_names
        ],
        axis=1,
    )
    confidence = [f"{point}_confidence" for point in KAGGLE15.keypoint_names]
    sure = None
    if set(confidence) <= set(table.column_names):
        sure = np.stack([_numbers(path, table, name) for name in confidence], axis=1)
        sure = None if np.isnan(sure).all() else sure
    try:
        keypoints = Keypoints(xy, KAGGLE15, confidence=sure)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    points = {f"{point}_{what}" for point in names for what in ("x", "y", "confidence")}
    return FaceTable(keypoints, table.select([n for n in table.column_names if n not in points]))


def _numbers(path: Path, table: Table, name: str) -> NDArray[np.float32]:
    import pyarrow as pa

    try:
        column = table.column(name).cast(pa.float64())
    except pa.ArrowException as error:
        raise DataError(f"{path}: column '{name}' holds something that is no number.") from error
    return np.asarray(column.to_numpy(), np.float32)


def table_of(predictions: Sequence[Prediction], schema: KeypointSchema) -> FaceTable:
    """The faces of images as a table: source, face, box and score, as ``predict`` writes them."""
    import pyarrow as pa

    found = [rows(each) for each in predictions]
    names = columns(schema)[:NUM_OTHERS]
    kinds = [pa.string(), pa.int32(), *[pa.float64()] * (NUM_OTHERS - 2)]
    others = pa.table(
        {
            name: pa.array([row[i] for each in found for row in each], kind)
            for i, (name, kind) in enumerate(zip(names, kinds, strict=True))
        }
    )
    k = schema.num_keypoints
    xy = [each.keypoints.xy for each in predictions]
    sure = [each.keypoints.confidence for each in predictions]
    known = [each for each in sure if each is not None]
    keypoints = Keypoints(
        np.concatenate(xy) if xy else np.zeros((0, k, 2), np.float32),
        schema,
        confidence=np.concatenate(known) if known and len(known) == len(sure) else None,
    )
    return FaceTable(keypoints, others)


def check_table_name(path: Path) -> str:
    """The suffix of a table to be written, in lower case.

    Raises:
        OutputError: It is another than .csv, .parquet or .json.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise OutputError(
            f"{path}: a table is written as {', '.join(TABLE_SUFFIXES)}: choose one of these names."
        )
    return suffix


def measure_rows(found: Measurements) -> list[dict[str, float | str | None]]:
    """One mapping per face: ``NAME`` and ``NAME_sigma`` of each measure, and ``warnings``.

    ``None`` is not known. Rounded to five digits, which are more than any error bar needs.
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


def write_measurements(path: Path, others: Table, found: Measurements) -> None:
    """Write measures beside the columns that say whose they are; whole or not at all.

    Args:
        path: Its suffix chooses the format. JSON is an object with ``notice``, ``units`` and ``faces``;
            parquet carries notice and units in its metadata; csv has room for neither.
        others: pyarrow table of N rows: source, face, box, time and the like.
        found: N faces.

    Raises:
        OutputError: The suffix is another, or the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table, measured = others, measure_rows(found)
    names = [column for name in found.names for column in (name, f"{name}_sigma")]
    for name in (*names, "warnings"):
        kind = pa.string() if name == "warnings" else pa.float64()
        table = table.append_column(name, pa.array([row[name] for row in measured], kind))
    units = dict(zip(found.names, found.units, strict=True))
    suffix = check_table_name(path)
    with atomic_path(path) as temporary:
        if suffix == ".csv":
            with temporary.open("w", encoding="utf-8", newline="") as handle:
                writer = csv.writer(handle, lineterminator="\n")
                writer.writerow(table.column_names)
                writer.writerows(zip(*(c.to_pylist() for c in table.columns), strict=True))
        elif suffix == ".parquet":
            notes = {"notice": NOTICE, "units": json.dumps(units)}
            pq.write_table(table.replace_schema_metadata(notes), temporary, compression="zstd")
        else:
            head = {"notice": NOTICE, "units": units}
            rows = [json.dumps(row, ensure_ascii=False, default=str) for row in table.to_pylist()]
            temporary.write_text(
                json.dumps(head, ensure_ascii=False)[:-1]
                + ',\n"faces": [\n'
                + ",\n".join(rows)
                + "\n]}\n",
                encoding="utf-8",
            )
