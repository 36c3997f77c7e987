"""Tables of points in, tables of measures out: csv, parquet or json.

Reads what ``predict`` and ``track`` write. The columns that are no points (source, box, time, track, ...)
are kept as they are; then come ``NAME`` and ``NAME_sigma`` of each measure, and ``warnings``.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.errors import DataError, OutputError
from facial_keypoints.files import atomic_path
from facial_keypoints.measurement import NOTICE, Measurements
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.types import Keypoints

if TYPE_CHECKING:
    from pyarrow import Table

__all__ = ["FaceTable", "read_faces", "write_measurements"]


@dataclass(frozen=True, eq=False)
class FaceTable:
    """Points of N faces with what else the table says of them.

    Args:
        keypoints: N faces in the schema ``kaggle15``.
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
    table = _read(path)
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


def _read(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(f"there is no table {path}.")
    try:
        match path.suffix.lower():
            case ".parquet":
                return pq.read_table(path)
            case ".csv":
                # A name may look like a number.
                text = pa.csv.ConvertOptions(column_types={"source": pa.string()})
                return pa.csv.read_csv(path, convert_options=text)
            case _:
                content = json.loads(path.read_text(encoding="utf-8"))
                if not isinstance(content, list):
                    raise ValueError("it is no list of rows")
                return pa.Table.from_pylist(content)
    except (pa.ArrowException, OSError, ValueError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path} cannot be read as a table ({reason}).") from error


def _numbers(path: Path, table: Table, name: str) -> NDArray[np.float32]:
    import pyarrow as pa

    try:
        column = table.column(name).cast(pa.float64())
    except pa.ArrowException as error:
        raise DataError(f"{path}: column '{name}' holds something that is no number.") from error
    return np.asarray(column.to_numpy(), np.float32)


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
    import pyarrow.csv
    import pyarrow.parquet as pq

    table = others
    for m, name in enumerate(found.names):
        for column, values in ((name, found.values), (f"{name}_sigma", found.sigma)):
            # NaN is not known: empty. Five digits are more than any error bar needs.
            rounded = pa.array(np.round(values[:, m], 5), from_pandas=True, type=pa.float64())
            table = table.append_column(column, rounded)
    warnings = pa.array([", ".join(each) for each in found.warnings], pa.string())
    table = table.append_column("warnings", warnings)
    units = dict(zip(found.names, found.units, strict=True))
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet", ".json"):
        raise OutputError(
            f"{path}: a table is written as .csv, .parquet, .json: choose one of these names."
        )
    with atomic_path(path) as temporary:
        if suffix == ".csv":
            pa.csv.write_csv(table, temporary, pa.csv.WriteOptions(quoting_style="needed"))
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
