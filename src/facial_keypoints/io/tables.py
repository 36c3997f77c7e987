"""Predictions as tables, one row a face, written as they come: csv, parquet or json.

Columns: ``source, face, x0, y0, x1, y1, score``, then for each keypoint ``NAME_x, NAME_y,
NAME_confidence``; pixels of the original image. Of a video: ``time_s, frame, track`` in place of
``source, face``. What is not known is empty (null). The three
formats hold the same numbers: pixels to a thousandth, scores and confidences to four digits.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.errors import DataError, OutputError
from facial_keypoints.files import atomic_path
from facial_keypoints.types import KeypointSchema, Prediction

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "TABLE_SUFFIXES",
    "TableWriter",
    "columns",
    "open_table",
    "read_boxes",
    "read_table",
    "rows",
]

TABLE_SUFFIXES = (".csv", ".parquet", ".json")

_ROW_GROUP = 4096
"""Rows held back until they are written to parquet together: some 10 MB as Python numbers."""

Value = str | int | float | None


class TableWriter(Protocol):
    """A table that is being written."""

    def write(self, predictions: Iterable[Prediction]) -> None:
        """Append one row per face."""


def columns(schema: KeypointSchema, *, video: bool = False) -> list[str]:
    """Names of the columns, in order; of a table of tracks if ``video``."""
    names = ["time_s", "frame", "track"] if video else ["source", "face"]
    return [*names, "x0", "y0", "x1", "y1", "score"] + [
        f"{point}_{what}" for point in schema.keypoint_names for what in ("x", "y", "confidence")
    ]


def rows(prediction: Prediction) -> list[list[Value]]:
    """One list of values per face, in the order of :func:`columns`; ``None`` is not known.

    A prediction with track ids gives rows of a video.
    """
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
    names: list[list[Value]]
    if prediction.track_ids is not None:
        time_s = round(prediction.time_s, 6)
        names = [[time_s, prediction.frame_index, track] for track in prediction.track_ids.tolist()]
    else:
        # A file name may hold bytes that are no text; a table cannot.
        source = prediction.source.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        names = [[source, face] for face in range(n)]
    return [
        [*name, *(None if math.isnan(v) else v for v in row)]
        for name, row in zip(names, values.tolist(), strict=True)
    ]


class _Table(TableWriter, Protocol):
    def __init__(self, path: Path, names: list[str]) -> None: ...

    def close(self) -> None: ...


class _CsvTable:
    def __init__(self, path: Path, names: list[str]) -> None:
        self._handle = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._handle, lineterminator="\n")
        self._writer.writerow(names)

    def write(self, predictions: Iterable[Prediction]) -> None:
        for prediction in predictions:
            self._writer.writerows(rows(prediction))

    def close(self) -> None:
        self._handle.close()


class _JsonTable:
    """One array with an object a row, each on a line of its own."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self._handle = path.open("w", encoding="utf-8")
        self._names = names
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
    def __init__(self, path: Path, names: list[str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        types: dict[str, Any] = {"source": pa.string()}
        types |= dict.fromkeys(("face", "frame", "track"), pa.int32())
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
def open_table(path: Path, schema: KeypointSchema, *, video: bool = False) -> Iterator[TableWriter]:
    """Open a table for writing; it appears at ``path`` when the block succeeds, whole.

    Args:
        path: Its suffix chooses the format: ``.csv``, ``.parquet`` or ``.json``.
        schema: The keypoints of every prediction that will be written.
        video: A table of tracks: each prediction carries track ids.

    Raises:
        OutputError: The suffix is another, or the file cannot be written.
    """
    kind = _WRITERS.get(path.suffix.lower())
    if kind is None:
        raise OutputError(
            f"{path}: a table is written as {', '.join(TABLE_SUFFIXES)}: choose one of these names."
        )
    with atomic_path(path) as temporary:
        table = kind(temporary, columns(schema, video=video))
        try:
            yield table
        finally:
            table.close()


def read_table(path: Path) -> pa.Table:
    """Read a table that this module, or another program, wrote.

    Args:
        path: Its suffix says the format: ``.csv``, ``.parquet`` or ``.json``, an array of objects.

    Raises:
        DataError: There is no such file, its suffix is another, or it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise DataError(f"{path}: a table to read must be one of {', '.join(TABLE_SUFFIXES)}.")
    if not path.is_file():
        raise DataError(f"there is no table {path}.")
    try:
        if suffix == ".csv":
            # A name stays text: 001 is no number.
            text = pa.csv.ConvertOptions(column_types={"source": pa.string()})
            return pa.csv.read_csv(path, convert_options=text)
        if suffix == ".parquet":
            return pa.parquet.read_table(path)
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, list):
            raise DataError(f"{path}: a json table must be an array of objects, one a row.")
        return pa.Table.from_pylist(value)
    except (pa.ArrowException, ValueError, OSError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{path} cannot be read as a {suffix[1:]} table ({reason}).") from error


def read_boxes(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read the boxes of faces, as ``predict`` writes them or another detector found them.

    Args:
        path: A table with the columns ``source, x0, y0, x1, y1``; others are ignored. A relative
            source is a path from the working directory or, if nothing is there, from the table's
            folder.

    Returns:
        (N, 4) xyxy boxes of each source, in the order of the table, by the source's resolved path.

    Raises:
        DataError: The table cannot be read, lacks a column, or a box is no box.
    """
    table = read_table(path)
    wanted = ("source", "x0", "y0", "x1", "y1")
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(missing)}: boxes need source, x0, y0, x1 and y1 "
            "(pixels)."
        )
    boxes: dict[str, list[list[float]]] = {}
    for number, row in enumerate(table.select(wanted).to_pylist(), start=1):
        try:
            x0, y0, x1, y1 = box = [float(row[name]) for name in wanted[1:]]
        except (TypeError, ValueError):
            box = []
        if not box or not all(map(math.isfinite, box)) or not (x0 < x1 and y0 < y1):
            raise DataError(
                f"{path}, row {number}: no box with x0 < x1 and y0 < y1: "
                f"{', '.join(str(row[name]) for name in wanted[1:])}."
            )
        source = Path(str(row["source"]))
        if not source.exists() and (path.parent / source).exists():
            source = path.parent / source
        boxes.setdefault(str(source.resolve()), []).append(box)
    return {source: np.array(rows, np.float32) for source, rows in boxes.items()}
