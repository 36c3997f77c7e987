"""Predictions as tables, one row a face, written as they come: csv, parquet or json.

Columns: ``source, face, x0, y0, x1, y1, score``, then for each keypoint ``NAME_x, NAME_y,
NAME_confidence``; pixels of the original picture. What is not known is empty (null). The three
formats hold the same numbers: pixels to a thousandth, scores and confidences to four digits.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from facial_keypoints.errors import OutputError
from facial_keypoints.files import atomic_path
from facial_keypoints.types import KeypointSchema, Prediction

__all__ = ["TABLE_SUFFIXES", "TableWriter", "columns", "open_table", "rows"]

TABLE_SUFFIXES = (".csv", ".parquet", ".json")

_ROW_GROUP = 4096
"""Rows held back until they are written to parquet together: some 10 MB as Python numbers."""

Value = str | int | float | None


class TableWriter(Protocol):
    """A table that is being written."""

    def write(self, predictions: Iterable[Prediction]) -> None:
        """Append one row per face."""


def columns(schema: KeypointSchema) -> list[str]:
    """Names of the columns, in order."""
    names = ["source", "face", "x0", "y0", "x1", "y1", "score"]
    return names + [
        f"{point}_{what}" for point in schema.keypoint_names for what in ("x", "y", "confidence")
    ]


def rows(prediction: Prediction) -> list[list[Value]]:
    """One list of values per face, in the order of :func:`columns`; ``None`` is not known."""
    points = prediction.keypoints
    n, k = points.xy.shape[:2]
    confidence = np.full((n, k), np.nan) if points.confidence is None else points.confidence
    # float64, so that rounding gives the number that the text shows.
    values = np.concatenate(
        [
            np.round(prediction.boxes.astype(np.float64), 3),
            np.round(prediction.scores.astype(np.float64), 4)[:, np.newaxis],
            np.concatenate(
                [
                    np.round(points.xy.astype(np.float64), 3),
                    np.round(confidence.astype(np.float64), 4)[..., np.newaxis],
                ],
                axis=2,
            ).reshape(n, 3 * k),
        ],
        axis=1,
    )
    # A file name may hold bytes that are no text; a table cannot.
    source = prediction.source.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return [
        [source, face, *(None if math.isnan(v) else v for v in row)]
        for face, row in enumerate(values.tolist())
    ]


class _Table(TableWriter, Protocol):
    def __init__(self, path: Path, schema: KeypointSchema) -> None: ...

    def close(self) -> None: ...


class _CsvTable:
    def __init__(self, path: Path, schema: KeypointSchema) -> None:
        self._handle = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._handle, lineterminator="\n")
        self._writer.writerow(columns(schema))

    def write(self, predictions: Iterable[Prediction]) -> None:
        for prediction in predictions:
            self._writer.writerows(rows(prediction))

    def close(self) -> None:
        self._handle.close()


class _JsonTable:
    """One array with an object a row, each on a line of its own."""

    def __init__(self, path: Path, schema: KeypointSchema) -> None:
        self._handle = path.open("w", encoding="utf-8")
        self._names = columns(schema)
        self._separator = "[\n"

    def write(self, predictions: Iterable[Prediction]) -> None:
        for prediction in predictions:
            for row in rows(prediction):
                value = dict(zip(self._names, row, strict=True))
                self._handle.write(self._separator + json.dumps(value, ensure_ascii=False))
                self._separator = ",\n"

    def close(self) -> None:
        self._handle.write("[]\n" if self._separator == "[\n" else "\n]\n")
        self._handle.close()


class _ParquetTable:
    def __init__(self, path: Path, schema: KeypointSchema) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        types: dict[str, Any] = {"source": pa.string(), "face": pa.int32()}
        names = columns(schema)
        self._schema = pa.schema([(name, types.get(name, pa.float64())) for name in names])
        self._table = pa.Table
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[list[Value]] = []

    def write(self, predictions: Iterable[Prediction]) -> None:
        for prediction in predictions:
            self._rows += rows(prediction)
        if len(self._rows) >= _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            values = [list(column) for column in zip(*self._rows, strict=True)]
            arrays = dict(zip(self._schema.names, values, strict=True))
            self._writer.write_table(self._table.from_pydict(arrays, schema=self._schema))
            self._rows = []

    def close(self) -> None:
        self._flush()
        self._writer.close()


_WRITERS: dict[str, type[_Table]] = {
    ".csv": _CsvTable,
    ".json": _JsonTable,
    ".parquet": _ParquetTable,
}


@contextmanager
def open_table(path: Path, schema: KeypointSchema) -> Iterator[TableWriter]:
    """Open a table for writing; it appears at ``path`` when the block succeeds, whole.

    Args:
        path: Its suffix chooses the format: ``.csv``, ``.parquet`` or ``.json``.
        schema: The keypoints of every prediction that will be written.

    Raises:
        OutputError: The suffix is another, or the file cannot be written.
    """
    kind = _WRITERS.get(path.suffix.lower())
    if kind is None:
        raise OutputError(
            f"{path}: a table is written as {', '.join(TABLE_SUFFIXES)}: choose one of these names."
        )
    with atomic_path(path) as temporary:
        table = kind(temporary, schema)
        try:
            yield table
        finally:
            table.close()
