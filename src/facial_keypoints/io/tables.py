"""Tables and lists: csv, json or parquet out, and back in as text.

A row of ``predict`` is one face: ``source, face, x0, y0, x1, y1, score, angle``, then for each
keypoint ``NAME_x, NAME_y, NAME_confidence``, in pixels of the original image. A row of ``track`` begins with
``time_s, frame, track`` instead of ``source, face``. A value that is not known is empty (null). The three
formats hold the same numbers: pixels with three decimals, scores and confidences with four. The angle says by how
many degrees the face is turned, clockwise: 0 is upright.

A csv is read as text, so ``001`` stays ``001``, from whatever program saved it: UTF-8 or UTF-16 with or
without a byte-order mark or Windows' cp1252, with commas, semicolons or tabs, with decimal points or commas.
Parquet needs pyarrow, which the extra ``parquet`` brings.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.errors import DataError, MissingExtraError, OutputError
from facial_keypoints.files import atomic_path
from facial_keypoints.geometry import face_angles
from facial_keypoints.types import KeypointSchema, Prediction

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "TABLE_SUFFIXES",
    "Table",
    "TableWriter",
    "Value",
    "arrow_schema",
    "as_number",
    "as_text",
    "check_table",
    "column_names",
    "columns",
    "numbers",
    "open_table",
    "read_boxes",
    "read_list",
    "read_table",
    "read_text",
    "rows",
    "write_table",
]

TABLE_SUFFIXES = (".csv", ".parquet", ".json")

_ROW_GROUP = 4096
"""Rows that are written to parquet together; until then they take some 10 MB of memory."""

Value = Any
"""A cell: text, a number or ``None``; parquet knows dates and more."""

_TEXT = ("source", "warnings")
_WHOLE = ("face", "frame", "track")
_DECIMAL = ("time_s", "x0", "y0", "x1", "y1", "score", "angle")
# Columns of keypoints, as people spell them.
_POINT = re.compile(
    r".+(?:[_ .-][xy]| ?[\[(][xy][\])]|_confidence)|[xy](?:[_ .-].+|\d+)", re.I | re.DOTALL
)
_EMPTY = frozenset({"", "na", "n/a", "#n/a", "null", "none"})  # as spreadsheets and R write it


class Table(NamedTuple):
    """A table that is being read.

    Attributes:
        names: Of the columns, each once.
        rows: One list of values per row, in the order of ``names``; can be read once.
        header_rows: How many rows the names are from; 0 where they are no rows.
    """

    names: list[str]
    rows: Iterator[list[Value]]
    header_rows: int = 0


class TableWriter(Protocol):
    """A table that is being written."""

    def __init__(self, path: Path, names: Sequence[str], notes: Mapping[str, Any]) -> None: ...

    def write(self, rows: Iterable[Sequence[Value]]) -> None:
        """Append rows; each has a value, or ``None``, for every column."""

    def close(self) -> None:
        """Write what is held back, and close the file."""


def columns(schema: KeypointSchema, *, video: bool = False) -> list[str]:
    """Names of the columns, in order; of a table of tracks if ``video``."""
    names = ["time_s", "frame", "track"] if video else ["source", "face"]
    return [*names, "x0", "y0", "x1", "y1", "score", "angle"] + [
        f"{point}_{what}" for point in schema.keypoint_names for what in ("x", "y", "confidence")
    ]


def rows(prediction: Prediction) -> list[list[Value]]:
    """One list of values per face, in the order of :func:`columns`; ``None`` where a value is not known.

    A prediction with track ids gives the rows of a video.
    """
    points = prediction.keypoints
    n, k = points.xy.shape[:2]
    confidence = np.full((n, k), np.nan) if points.confidence is None else points.confidence
    # float64, so that rounding gives the number that the text shows.
    boxes, xy = (np.round(v.astype(np.float64), 3) for v in (prediction.boxes, points.xy))
    scores, confidence = (
        np.round(v.astype(np.float64), 4)[..., np.newaxis] for v in (prediction.scores, confidence)
    )
    angles = np.round(face_angles(points.xy, points.schema), 1)[:, np.newaxis] + 0.0
    values = np.hstack([boxes, scores, angles, np.dstack([xy, confidence]).reshape(n, 3 * k)])
    names: list[list[Value]]
    if prediction.track_ids is not None:
        time_s = round(prediction.time_s, 6)
        names = [[time_s, prediction.frame_index, track] for track in prediction.track_ids.tolist()]
    else:
        names = [[as_text(prediction.source), face] for face in range(n)]
    return [
        [*name, *(None if math.isnan(v) else v for v in row)]
        for name, row in zip(names, values.tolist(), strict=True)
    ]


def as_text(name: str) -> str:
    """A file's name as text for a table; bytes in it that are no text become replacement characters."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class _CsvTable:
    def __init__(self, path: Path, names: Sequence[str], notes: Mapping[str, Any]) -> None:
        self._handle = path.open("w", encoding="utf-8", errors="replace", newline="")
        self._writer = csv.writer(self._handle, lineterminator="\n")
        self._writer.writerow(names)

    def write(self, rows: Iterable[Sequence[Value]]) -> None:
        self._writer.writerows(rows)

    def close(self) -> None:
        self._handle.close()


class _JsonTable:
    """An array with an object a row, each on a line of its own; with notes, ``faces`` of an object."""

    def __init__(self, path: Path, names: Sequence[str], notes: Mapping[str, Any]) -> None:
        self._handle = path.open("w", encoding="utf-8", errors="replace", newline="")
        self._names = names
        if notes:
            self._handle.write(json.dumps(notes, ensure_ascii=False)[:-1] + ',\n"faces": ')
        self._handle.write("[")
        self._separator, self._end = "\n", "]}\n" if notes else "]\n"

    def write(self, rows: Iterable[Sequence[Value]]) -> None:
        for row in rows:
            # JSON has no NaN.
            cells = (None if isinstance(c, float) and math.isnan(c) else c for c in row)
            value = dict(zip(self._names, cells, strict=True))
            line = json.dumps(value, ensure_ascii=False, default=str)
            self._handle.write(self._separator + line)
            self._separator = ",\n"

    def close(self) -> None:
        with self._handle:
            self._handle.write(self._end if self._separator == "\n" else f"\n{self._end}")


class _ParquetTable:
    """The first group of rows decides the columns' types."""

    def __init__(self, path: Path, names: Sequence[str], notes: Mapping[str, Any]) -> None:
        self._path, self._names = path, names
        self._notes = {k: v if isinstance(v, str) else json.dumps(v) for k, v in notes.items()}
        self._writer: Any = None
        self._rows: list[Sequence[Value]] = []

    def write(self, rows: Iterable[Sequence[Value]]) -> None:
        self._rows += rows
        if len(self._rows) >= _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._writer is None:
            schema = arrow_schema(self._names, self._rows).with_metadata(self._notes)
            self._writer = pq.ParquetWriter(self._path, schema, compression="zstd")
        if self._rows:
            schema = self._writer.schema
            values = zip(*self._rows, strict=True)
            arrays = [pa.array(v, kind) for v, kind in zip(values, schema.types, strict=True)]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            self._rows = []

    def close(self) -> None:
        try:
            self._flush()
        finally:
            if self._writer is not None:
                self._writer.close()


def arrow_schema(names: Sequence[str], rows: Sequence[Sequence[Value]] = ()) -> pa.Schema:
    """Types of a parquet table: of the known columns by their names, of others by their values.

    Args:
        names: Of the columns.
        rows: What the table holds; a column without values is taken to hold numbers.

    Raises:
        OutputError: A column holds values of several kinds.
    """
    import pyarrow as pa

    types = dict.fromkeys(_TEXT, pa.string()) | dict.fromkeys(_WHOLE, pa.int32())
    fields = []
    for i, name in enumerate(names):
        try:
            found = pa.array([row[i] for row in rows]).type
        except pa.ArrowException as error:
            raise OutputError(
                f"column '{name}' holds values of several kinds, which parquet cannot: write .csv or .json."
            ) from error
        if pa.types.is_null(found):
            found = types.get(name, pa.float64())
        fields.append((name, types[name] if found == pa.int64() and name in types else found))
    return pa.schema(fields)


_WRITERS: dict[str, type[TableWriter]] = {
    ".csv": _CsvTable,
    ".json": _JsonTable,
    ".parquet": _ParquetTable,
}


def check_table(path: Path) -> None:
    """Refuse a table that cannot be written, before any work is done.

    Raises:
        OutputError: Its suffix is none of :data:`TABLE_SUFFIXES`.
        MissingExtraError: It is ``.parquet``, and pyarrow is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in _WRITERS:
        raise OutputError(
            f"{path}: a table is written as {', '.join(TABLE_SUFFIXES)}: choose one of these names."
        )
    if suffix == ".parquet":
        _need_pyarrow(path)


def _need_pyarrow(path: Path) -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", f"The table {path}") from error


@contextmanager
def open_table(
    path: Path, names: Sequence[str], *, notes: Mapping[str, Any] | None = None
) -> Iterator[TableWriter]:
    """Open a table for writing; it appears at ``path`` when the block succeeds, whole.

    Args:
        path: Its suffix chooses the format: ``.csv``, ``.parquet`` or ``.json``.
        names: Of the columns.
        notes: Facts about the whole table. JSON becomes an object of the notes and, as ``faces``, the
            rows; parquet has them in its metadata; csv leaves them out.

    Raises:
        OutputError: The suffix is another, or the file cannot be written.
        MissingExtraError: As for :func:`check_table`.
    """
    check_table(path)
    with atomic_path(path) as temporary:
        table = _WRITERS[path.suffix.lower()](temporary, names, notes or {})
        try:
            yield table
        finally:
            table.close()


def write_table(path: Path, names: Sequence[str], rows: Iterable[Sequence[Value]]) -> None:
    """Write a table at once, as :func:`open_table` does."""
    with open_table(path, names) as table:
        table.write(rows)


def read_table(path: Path) -> Table:
    """Read a table that this module, or another program, wrote.

    Cells of a csv stay text. Only in a csv that is not separated by commas, decimal commas of keypoints,
    boxes, scores, angles and times become points. Empty rows are left out.

    Args:
        path: Its suffix says the format: ``.csv``, ``.parquet`` or ``.json``, an array of objects.

    Raises:
        DataError: There is no such file, its suffix is another, or it cannot be read. While the rows
            are read: a row has more or fewer values than there are columns.
        MissingExtraError: It is ``.parquet``, and pyarrow is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise DataError(f"{path}: a table to read must be one of {', '.join(TABLE_SUFFIXES)}.")
    if not path.is_file():
        raise DataError(f"there is no table {path}.")
    if suffix == ".parquet":
        _need_pyarrow(path)
    try:
        table = {".csv": _read_csv, ".json": _read_json, ".parquet": _read_parquet}[suffix](path)
    except (ValueError, OSError, AttributeError, TypeError, csv.Error) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{path} cannot be read as a {suffix[1:]} table ({reason}).") from error
    for name in table.names:
        if table.names.count(name) > 1:
            raise DataError(f"{path} has two columns '{name}': rename one of them.")
    return table


def _read_parquet(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    batches = (zip(*(c.to_pylist() for c in b.columns), strict=True) for b in table.to_batches())
    return Table(table.column_names, (list(row) for batch in batches for row in batch))


def _read_json(path: Path) -> Table:
    value = json.loads(read_text(path))
    if not isinstance(value, list):
        raise DataError(f"{path}: a json table must be an array of objects, one a row.")
    names = list(dict.fromkeys(name for row in value for name in row.keys()))  # noqa: SIM118  (objects only)
    return Table(names, ([row.get(name) for name in names] for row in value))


def column_names(path: Path) -> list[str]:
    """Columns of a csv, from its first lines: the file may be larger than memory, or no table.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with path.open("rb") as handle:
            start = handle.read(1 << 16)
        head = [
            line.strip("\r")
            for line in start.decode(_encoding(start), "replace").split("\n", 3)[:3]
        ]
        return _header(csv.reader(head, delimiter=_delimiter(head[0])))[0]
    except (OSError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a csv table ({error}).") from error


_BELOW = frozenset({"x", "y", "v", "visibility", "visible", "confidence", "likelihood"})


def _header(lines: Iterable[list[str]]) -> tuple[list[str], int]:
    """The names of a csv's columns, and how many of its first rows they are from.

    Names of points may stand in one row, once or in each column, and x and y in the row below. Columns of something
    else have a name in one of both rows or, as pandas writes the first one, in a third row.
    """
    rows = [[cell.strip() for cell in row] for row in islice(lines, 3)]
    first, second, third = (*rows, [], [], [])[:3]
    if len(second) != len(first) or not {"x", "y"} <= {cell.lower() for cell in second}:
        return first, 1
    names: list[str] = []
    point = ""
    for above, below in zip(first, second, strict=True):
        is_part = below.lower() in _BELOW
        point = above or point if is_part else ""
        if (not point) if is_part else (above and below):
            return first, 1
        names.append(f"{point}_{below}" if is_part else above or below)
    if not names[0] and third[:1] != [""] and third and not any(third[1:]):
        return [third[0], *names[1:]], 3
    return names, 2


def _delimiter(text: str) -> str:
    return max(",;\t", key=text.partition("\n")[0].count)


def _read_csv(path: Path) -> Table:
    text = read_text(path)
    delimiter = _delimiter(text)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    start = list(islice(lines, 3))
    names, header_rows = _header(start)
    body = chain(start[header_rows:], lines)
    if not names:
        raise ValueError("it is empty")
    decimal = [
        i
        for i, name in enumerate(names)
        if delimiter != "," and (name in _DECIMAL or _POINT.fullmatch(name))
    ]

    def read() -> Iterator[list[Value]]:
        try:
            for number, row in enumerate(filter(any, body), start=1):
                if len(row) < len(names) or any(row[len(names) :]):
                    raise DataError(
                        f"{path}, row {number}: {len(row)} values for {len(names)} columns: is the file whole?"
                    )
                for i in decimal:
                    row[i] = row[i].replace(",", ".")
                yield row[: len(names)]
        except csv.Error as error:
            raise DataError(f"{path} cannot be read as a csv table ({error}).") from error

    return Table(names, read(), header_rows)


_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def _encoding(start: bytes) -> str:
    return "utf-16" if start.startswith(_MARKS[1:]) else "utf-8-sig"


def read_text(path: Path) -> str:
    """Read a text file, whatever program saved it: UTF-8, UTF-16 with its mark, or Windows' cp1252.

    Raises:
        OSError: It cannot be read.
        UnicodeDecodeError: It is none of these.
    """
    content = path.read_bytes()
    try:
        return content.decode(_encoding(content))
    except UnicodeDecodeError:
        if content.startswith(_MARKS):
            raise
        return content.decode("cp1252")


def read_list(handle: Any) -> Iterator[str]:
    """Names in a list, one a line; empty lines are left out.

    Args:
        handle: Binary file or standard input's buffer, in UTF-8 or, with a byte-order mark, UTF-16. Bytes
            that are no text are kept as Python keeps them in file names.

    Raises:
        DataError: It has UTF-16's byte-order mark but is not UTF-16.
    """
    reader = handle if hasattr(handle, "peek") else io.BufferedReader(handle)
    encoding = _encoding(reader.peek(2))
    text = io.TextIOWrapper(reader, encoding, errors="surrogateescape", newline="\n")
    try:
        for line in text:
            if line.strip():
                yield line.rstrip("\r\n")
    except UnicodeError as error:
        raise DataError(f"a list of names is neither UTF-8 nor UTF-16 ({error}).") from error
    finally:
        text.detach()  # the handle is the caller's to close


def numbers(names: Sequence[str], cells: Sequence[Value], place: str) -> list[float]:
    """The numbers in cells of a row; NaN where a cell is empty, ``NA``, ``null`` or the like.

    Args:
        names: Of the columns.
        cells: As many values.
        place: What to call the row in messages.

    Raises:
        DataError: A cell holds something else.
    """
    found = []
    for name, cell in zip(names, cells, strict=True):
        try:
            found.append(_number(cell))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{place}: column '{name}' holds '{str(cell)[:40]}', which is no number."
            ) from error
    return found


def _number(value: Value) -> float:
    if value is None or (isinstance(value, str) and value.strip().lower() in _EMPTY):
        return math.nan
    return float(value)


def as_number(name: str, value: Value) -> Value:
    """The number that ``predict`` or ``track`` wrote in a cell of a csv; other cells stay as they are.

    Args:
        name: Of the column: faces, frames and tracks are whole numbers, boxes, scores, angles and times decimal ones.
        value: The cell; an empty one becomes ``None``, and a track ``007`` stays text.
    """
    if not isinstance(value, str) or name not in (*_WHOLE, *_DECIMAL):
        return value
    try:
        found = _number(value)
    except ValueError:
        return value
    if math.isnan(found):
        return None
    whole = int(found) if math.isfinite(found) else 0
    if str(whole) == value:
        return whole
    return found if name in _DECIMAL and math.isfinite(found) else value


def read_boxes(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read the boxes of faces from a table of ``predict`` or of another detector.

    Args:
        path: A table with the columns ``source, x0, y0, x1, y1``; others are ignored. A relative
            source is a path from the working directory or, if nothing is there, from the table's
            folder.

    Returns:
        (N, 4) xyxy boxes of each source, in the order of the table, by the source's resolved path.

    Raises:
        DataError: The table cannot be read, lacks a column, or a box is no box.
        MissingExtraError: As for :func:`read_table`.
    """
    table = read_table(path)
    wanted = ("source", "x0", "y0", "x1", "y1")
    if missing := [name for name in wanted if name not in table.names]:
        raise DataError(
            f"{path} has no column {', '.join(missing)}: boxes need source, x0, y0, x1 and y1 "
            "(pixels)."
        )
    at = [table.names.index(name) for name in wanted]
    boxes: dict[str, list[list[float]]] = {}
    for count, row in enumerate(table.rows, start=1):
        name, *cells = (row[i] for i in at)
        x0, y0, x1, y1 = box = numbers(wanted[1:], cells, f"{path}, row {count}")
        if not (all(map(math.isfinite, box)) and x0 < x1 and y0 < y1):
            raise DataError(
                f"{path}, row {count}: no box with x0 < x1 and y0 < y1: "
                f"{', '.join(map(str, cells))}."
            )
        source = Path(str(name))
        if not source.exists() and (path.parent / source).exists():
            source = path.parent / source
        boxes.setdefault(str(source.resolve()), []).append(box)
    return {source: np.array(rows, np.float32) for source, rows in boxes.items()}
