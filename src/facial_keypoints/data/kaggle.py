"""Kaggle's *Facial Keypoints Detection* files: csv in, submission out.

This module alone knows the format: ``training.csv`` (30 coordinate columns and ``Image``, a row's
pixels as text), ``test.csv`` (``ImageId,Image``), ``IdLookupTable.csv`` and the submission. The
files are read as Kaggle ships them: plain, zipped one by one, or one zip that holds all of them.

Rows are read one by one straight from the zip, so memory stays near the size of the pixels.
Whatever the bytes are, the answer is a dataset or a :class:`~facial_keypoints.errors.DataError`
that names file, row and column.
"""

from __future__ import annotations

import csv
import io
import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.data.cache import read_cache, write_cache
from facial_keypoints.errors import DataError
from facial_keypoints.io import tables
from facial_keypoints.schemas import KAGGLE15, STYLE_B_POINTS
from facial_keypoints.types import FaceDataset, FloatArray, Keypoints, KeypointSchema

__all__ = [
    "COMPETITION",
    "Lookup",
    "label_cells",
    "load_kaggle",
    "load_lookup",
    "requested_styles",
    "style_of_rows",
    "write_submission",
    "write_table",
]

COMPETITION = "facial-keypoints-detection"
"""Kaggle's name of the competition, and of the folder that its files are usually kept in."""

Part = Literal["train", "test"]
_FILE_STEMS: dict[str, str] = {"train": "training", "test": "test"}
_LONGEST_LINE = 1 << 26  # bytes; a 4096 x 4096 image fits, an endless line does not fill memory
_LARGEST_COORDINATE = 1e6  # pixels; anything beyond is a slip and would overflow float32 sums
_NO_LABEL = frozenset({"", "nan", "na", "n/a", "null"})
_LOOKUP_COLUMNS = ("RowId", "ImageId", "FeatureName")
_COORDINATES = KAGGLE15.coordinate_names


def load_kaggle(
    path: str | os.PathLike[str],
    *,
    part: Part = "train",
    group_by: str | None = None,
    cache: bool = True,
) -> FaceDataset:
    """Read Kaggle's training or test faces.

    Args:
        path: A folder with ``training.csv``/``training.zip`` (``test.*``), a folder that holds such
            a one under the competition's name, a zip that holds them, or one such csv or zip file.
        part: ``train`` reads the labelled faces, ``test`` the unlabelled ones.
        group_by: Name of a further column whose value says which rows belong together (a person).
        cache: Keep the parsed arrays in the user's cache folder, so the next load is instant; a
            changed file is read anew.

    Returns:
        Square grey images (N, side, side, 1), ``kaggle15`` keypoints in pixels (NaN = not
        labelled), ``sample_ids`` the row number from 1 (train) or ``ImageId`` (test), ``styles``
        ``kaggle-a`` / ``kaggle-b`` / "" by which points a row labels.

    Raises:
        DataError: The file is missing, damaged, or not in Kaggle's format.
    """
    if part not in _FILE_STEMS:
        raise ValueError(f"part must be 'train' or 'test', received '{part}'.")
    location = Path(path)
    with ExitStack() as stack:
        table = _find_table(location, f"{_FILE_STEMS[part]}.csv", stack)
        options = (part, group_by or "")
        if cache and (found := read_cache(table.file, options)) is not None:
            return _assemble(found, table.label)
        arrays = _read_faces(table, part, group_by)
        if cache:
            write_cache(table.file, options, arrays)
    return _assemble(arrays, table.label)


def _assemble(arrays: dict[str, NDArray[np.generic]], source: str) -> FaceDataset:
    keypoints = Keypoints(arrays["xy"].astype(np.float32, copy=False), KAGGLE15)
    ids = arrays["ids"].astype(np.str_, copy=False)
    groups = None
    if "groups" in arrays:
        groups = arrays["groups"].astype(np.str_, copy=False)
        # An empty cell says nothing: such a row is a group of its own.
        groups = np.where(groups == "", np.char.add("row ", ids), groups)
    return FaceDataset(
        images=arrays["images"].astype(np.uint8, copy=False),
        keypoints=keypoints,
        sample_ids=ids,
        source=source,
        styles=style_of_rows(keypoints),
        groups=groups,  # type: ignore[arg-type]
    )


def style_of_rows(keypoints: Keypoints) -> NDArray[np.str_]:
    """(N,) label style of Kaggle rows, told from which points they label.

    ``kaggle-a`` labels at least one point besides the four of style B, ``kaggle-b`` only those,
    "" none.
    """
    four = np.isin(keypoints.schema.keypoint_names, STYLE_B_POINTS)
    labeled = keypoints.labeled
    return np.where(
        labeled[:, ~four].any(axis=1),
        "kaggle-a",
        np.where(labeled[:, four].any(axis=1), "kaggle-b", ""),
    )


# --- finding and opening --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """A csv that can be read once: its bytes, its name in messages, the file on disk behind it."""

    stream: IO[bytes]
    label: str
    file: Path


@contextmanager
def _damage_named(label: str) -> Iterator[None]:
    """What ``zipfile`` and the decompressors raise, each errors of its own, as one DataError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{label} is damaged or cut short ({_printable(str(error))}); download it again."
        ) from error


def _find_table(location: Path, name: str, stack: ExitStack) -> _Table:
    """The csv called ``name`` in a folder or zip, or the csv that ``location`` itself is."""
    try:
        if location.is_dir():
            return _find_in_folder(location, name, stack)
        if not location.is_file():
            raise DataError(f"{location} does not exist; give Kaggle's folder, zip or csv file.")
        if zipfile.is_zipfile(location):
            if table := _find_in_zip(location, name, str(location), location, stack):
                return table
            raise DataError(f"{location} holds no {name}; give the folder or zip that has it.")
        if location.suffix.lower() == ".zip":
            raise DataError(f"{location} is not a zip file, or damaged; download it again.")
        return _Table(stack.enter_context(location.open("rb")), str(location), location)
    except OSError as error:
        raise DataError(f"{location} cannot be read: {error.strerror or error}.") from error


def _find_in_folder(folder: Path, name: str, stack: ExitStack) -> _Table:
    stem = PurePosixPath(name).stem
    for candidate in (folder / name, folder / f"{stem}.zip"):
        if candidate.is_file():
            return _find_table(candidate, name, stack)
    if (inner := folder / COMPETITION).is_dir():
        return _find_in_folder(inner, name, stack)
    for bundle in filter(zipfile.is_zipfile, sorted(folder.glob("*.zip"))):
        if table := _find_in_zip(bundle, name, str(bundle), bundle, stack):
            return table
    raise DataError(
        f"{folder} holds neither {name} nor {stem}.zip; "
        f"give the folder with the files of Kaggle's '{COMPETITION}', or the one that holds it."
    )


def _find_in_zip(
    zipped: Path | IO[bytes], name: str, label: str, file: Path, stack: ExitStack
) -> _Table | None:
    """The table inside a zip, also in a zip inside it; ``None`` when it is not there."""
    with _damage_named(label):
        archive = stack.enter_context(zipfile.ZipFile(zipped))
        for member in archive.namelist():
            windows = PureWindowsPath(member)  # splits at both kinds of slash, knows drive letters
            if ".." in windows.parts or windows.drive or windows.root:
                raise DataError(
                    f"{label} holds the unsafe path '{_printable(member)}', which leaves the "
                    "folder; do not use this zip."
                )
        by_name = {
            PurePosixPath(member).name: member
            for member in archive.namelist()
            if not member.endswith("/") and not member.startswith("__MACOSX/")
        }
        for wanted in (name, f"{PurePosixPath(name).stem}.zip"):
            if found := by_name.get(wanted):
                inner = stack.enter_context(archive.open(found))
                inside = f"{label}/{_printable(found)}"
                if wanted == name:
                    return _Table(io.BufferedReader(inner, 1 << 20), inside, file)  # type: ignore[type-var]
                return _find_in_zip(inner, name, inside, file, stack)
    return None


# --- rows -----------------------------------------------------------------------------------------


def _lines(table: _Table) -> Iterator[str]:
    """Lines without their end (LF or CRLF) and without a byte order mark; blank ones are kept."""
    number = 0
    while True:
        with _damage_named(table.label):
            line = table.stream.readline(_LONGEST_LINE)
        if not line:
            return
        if len(line) == _LONGEST_LINE:
            raise DataError(f"{table.label} has no line ends where rows should be; is it a csv?")
        try:
            yield line.decode("utf-8" if number else "utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            place = f"{table.label}: row {number}" if number else f"{table.label}: its first line"
            raise DataError(f"{place} is not UTF-8 text; save it as a UTF-8 csv.") from error
        number += 1


def _fields(line: str) -> list[str]:
    if '"' not in line:
        return line.split(",")
    # Python's limit of 128 KB a field, one for the whole process, is too small for 256 x 256 pixels.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_LINE))
    try:
        return next(csv.reader([line]))
    except csv.Error:
        return [line]  # reported as a wrong number of columns


def _rows(
    table: _Table, columns: Sequence[str], unused: Sequence[str] = ()
) -> Iterator[tuple[int, list[str]]]:
    """Row number from 1 and the fields of the wanted columns, found by name, in wanted order.

    Args:
        table: The csv.
        columns: Those that are wanted.
        unused: Those that may be there besides.

    Raises:
        DataError: The header lacks a column or has one twice, or a row has the wrong length.
    """
    lines = _lines(table)
    header = [name.strip() for name in _fields(next(lines, ""))]
    if header == [""]:
        raise DataError(f"{table.label} is empty; its first line should name the columns.")
    if any("\0" in name for name in header):
        raise DataError(f"{table.label} is not UTF-8 text; save it as a UTF-8 csv.")
    for name in columns:
        if header.count(name) != 1:
            count = "no" if name not in header else "more than one"
            raise DataError(
                f"{table.label} has {count} column '{name}'; its header must name it once."
            )
    wanted = [header.index(name) for name in columns]
    extra = [name for name in header if name not in (*columns, *unused)]
    if extra:
        raise DataError(
            f"{table.label} has a column '{_printable(extra[0])}' that Kaggle's file does not; remove it "
            "(or name it as the group column)."
        )
    blank_since = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            blank_since = blank_since or number
            continue
        if blank_since:
            raise DataError(f"{table.label}: row {blank_since} is blank; remove it.")
        fields = _fields(line)
        if len(fields) != len(header):
            raise DataError(
                f"{table.label}: row {number} has {len(fields)} fields where the header names "
                f"{len(header)} columns."
            )
        yield number, [fields[i] for i in wanted]


# --- fields to arrays -----------------------------------------------------------------------------


def _read_faces(table: _Table, part: Part, group_by: str | None) -> dict[str, NDArray[np.generic]]:
    columns = ["Image", *(_COORDINATES if part == "train" else ["ImageId"])]
    if group_by is not None:
        columns.append(group_by)
    pixels = bytearray()  # grows in place, so the peak stays near the size of the result
    side = 0
    labels: list[list[float]] = []
    ids: list[str] = []
    seen: set[str] = set()
    groups: list[str] = []
    for number, fields in _rows(table, columns):
        place = f"{table.label}: row {number}, column"
        image = _parse_pixels(fields[0], side, f"{place} Image")
        side = math.isqrt(len(image))
        pixels += image
        if part == "train":
            labels.append(_parse_labels(fields[1:31], place))
            ids.append(str(number))
        else:
            ids.append(_parse_id(fields[1], f"{place} ImageId"))
            if ids[-1] in seen:
                raise DataError(f"{place} ImageId: {ids[-1]} was used before; ids must differ.")
            seen.add(ids[-1])
        if group_by is not None:
            groups.append(fields[-1].strip())
    if not ids:
        raise DataError(f"{table.label} has a header and no rows; it should hold one face per row.")
    arrays: dict[str, NDArray[np.generic]] = {
        "images": np.frombuffer(pixels, np.uint8).reshape(-1, side, side, 1),
        "xy": np.full((len(ids), 15, 2), np.nan, np.float32),
        "ids": np.array(ids, np.str_),
    }
    if part == "train":
        arrays["xy"] = np.array(labels, np.float32).reshape(-1, 15, 2)
    if group_by is not None:
        arrays["groups"] = np.array(groups, np.str_)
    return arrays


def _parse_pixels(text: str, side: int, place: str) -> bytes:
    """The ``side`` x ``side`` numbers from 0 to 255 of one row, a byte each; ``side`` 0: any square."""
    if text.strip() and not text.encode().translate(None, b"0123456789 "):
        # int64, since uint8 would wrap; a number beyond 64 bits becomes the largest one.
        values = np.fromstring(text, np.int64, sep=" ")
        if len(values) == (side or math.isqrt(len(values))) ** 2 and values.max() <= 255:
            return values.astype(np.uint8).tobytes()
    words = text.split()
    if side and len(words) != side * side:
        raise DataError(
            f"{place} has {len(words)} pixels where the rows before it have {side} x {side} = "
            f"{side * side}."
        )
    if not words or math.isqrt(len(words)) ** 2 != len(words):
        raise DataError(
            f"{place} has {len(words)} pixels, which is no square image "
            "(Kaggle's have 96 x 96 = 9216)."
        )
    for number, word in enumerate(words, start=1):
        if not (word.isascii() and word.isdigit() and len(word) <= 3 and int(word) <= 255):
            raise DataError(
                f"{place}: pixel {number} is '{_printable(word)}', not a whole number from 0 to 255."
            )
    return bytes(map(int, words))  # tabs or the like between them


def _parse_labels(fields: list[str], place: str) -> list[float]:
    """The 30 coordinates of one row in pixels, NaN = not labelled."""
    row = []
    for column, field in zip(_COORDINATES, fields, strict=True):
        try:
            value = math.nan if field.strip().lower() in _NO_LABEL else float(field)
        except ValueError:
            value = math.inf
        if abs(value) > _LARGEST_COORDINATE or "_" in field:  # Python reads 1_0 as 10
            raise DataError(
                f"{place} {column}: '{_printable(field)}' is not a coordinate in pixels; leave the "
                "field empty where there is no label."
            )
        row.append(value)
    for i in range(0, len(row), 2):
        if math.isnan(row[i]) != math.isnan(row[i + 1]):
            column = _COORDINATES[i if math.isnan(row[i]) else i + 1]
            raise DataError(
                f"{place} {column} is empty while its partner is not; give both coordinates or none."
            )
    return row


def _parse_id(field: str, place: str) -> str:
    word = field.strip()
    if not (word.isascii() and word.isdigit() and len(word) <= 18):
        raise DataError(f"{place}: '{_printable(field)}' is not a whole number.")
    return str(int(word))


def _printable(text: str) -> str:
    """Foreign text fit for a message: short, on one line, without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:80])


# --- the submission -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Lookup:
    """Kaggle's IdLookupTable: which coordinate of which image each row of a submission asks for.

    Args:
        row_ids: (R,) int64 ``RowId``.
        image_ids: (R,) str ``ImageId``.
        keypoints: (R,) int64 index on the K axis of ``kaggle15``.
        axes: (R,) int64, 0 for x, 1 for y.
        source: Where it was read from, for messages.
    """

    row_ids: NDArray[np.int64]
    image_ids: NDArray[np.str_]
    keypoints: NDArray[np.int64]
    axes: NDArray[np.int64]
    source: str = ""

    def __len__(self) -> int:
        return len(self.row_ids)

    def rows_of(self, ids: NDArray[np.str_] | Sequence[str]) -> NDArray[np.int64]:
        """(R,) position of each row's image in ``ids``.

        Raises:
            DataError: A row asks for an image that is not among ``ids``.
        """
        place = {str(key): i for i, key in enumerate(ids)}
        found = np.array([place.get(str(key), -1) for key in self.image_ids], np.int64)
        if (found < 0).any():
            row = int(np.argmax(found < 0))
            raise DataError(
                f"{self.source}: row {row + 1}, column ImageId: image {self.image_ids[row]} is not "
                f"among the {len(place)} test images; use the table that belongs to them."
            )
        return found


def load_lookup(path: str | os.PathLike[str]) -> Lookup:
    """Read ``IdLookupTable.csv`` (columns RowId, ImageId, FeatureName and, if at all, Location, which is not used).

    Args:
        path: The csv file, or the folder or zip that holds it.

    Raises:
        DataError: It is missing or damaged, or a row names an unknown keypoint.
    """
    index = {name: divmod(i, 2) for i, name in enumerate(_COORDINATES)}
    row_ids: list[int] = []
    image_ids: list[str] = []
    points: list[tuple[int, int]] = []
    with ExitStack() as stack:
        table = _find_table(Path(path), "IdLookupTable.csv", stack)
        for number, fields in _rows(table, _LOOKUP_COLUMNS, unused=["Location"]):
            place = f"{table.label}: row {number}, column"
            row_ids.append(int(_parse_id(fields[0], f"{place} RowId")))
            image_ids.append(_parse_id(fields[1], f"{place} ImageId"))
            feature = fields[2].strip()
            if feature not in index:
                raise DataError(
                    f"{place} FeatureName: '{_printable(feature)}' is no keypoint coordinate of "
                    "Kaggle's training.csv."
                )
            points.append(index[feature])
    if not row_ids:
        raise DataError(f"{table.label} has a header and no rows; download it again.")
    if len(set(row_ids)) != len(row_ids):
        raise DataError(f"{table.label}: a RowId is used twice; download it again.")
    pairs = np.array(points, np.int64)
    return Lookup(
        np.array(row_ids, np.int64),
        np.array(image_ids, np.str_),
        pairs[:, 0],
        pairs[:, 1],
        table.label,
    )


def requested_styles(lookup: Lookup, ids: NDArray[np.str_] | Sequence[str]) -> NDArray[np.str_]:
    """(N,) label style that each image's requested points imply.

    ``kaggle-b`` where only the four points of style B are asked for, ``kaggle-a`` where any other
    is, "" for an image that no row asks about.

    Raises:
        DataError: The table asks for an image that is not among ``ids``.
    """
    rows = lookup.rows_of(ids)
    four = np.isin(KAGGLE15.keypoint_names, STYLE_B_POINTS)
    styles = np.full(len(ids), "", dtype="<U8")
    styles[rows] = "kaggle-b"
    styles[rows[~four[lookup.keypoints]]] = "kaggle-a"
    return styles


def write_submission(
    path: str | os.PathLike[str],
    ids: NDArray[np.str_] | Sequence[str],
    xy: FloatArray,
    lookup: Lookup,
    *,
    side: int = 96,
    schema: KeypointSchema = KAGGLE15,
) -> None:
    """Write Kaggle's submission, ``RowId,Location``, in the order of the look-up table.

    Coordinates are clipped to [0, side]: Kaggle's labels were scaled with the image's edges at 0
    and 96, so that is the whole range a label can have.

    Args:
        path: The csv to write; replaced in one step when complete.
        ids: N ``ImageId`` of the predicted images.
        xy: (N, K, 2) predicted points in pixels.
        lookup: What to answer.
        side: Width and height of the images in pixels.
        schema: The K keypoints.

    Raises:
        DataError: The table asks for an image without prediction, or for a NaN.
        OutputError: The file cannot be written.
    """
    points = np.full((len(xy), KAGGLE15.num_keypoints, 2), np.nan)
    for k, name in enumerate(schema.keypoint_names):
        if name in KAGGLE15.keypoint_names:
            points[:, KAGGLE15.index(name)] = xy[:, k]
    values = points[lookup.rows_of(ids), lookup.keypoints, lookup.axes]
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise DataError(
            f"{lookup.source}: row {row + 1} asks for {KAGGLE15.keypoint_names[lookup.keypoints[row]]} "
            f"of image {lookup.image_ids[row]}, which the model did not predict."
        )
    values = np.clip(values, 0.0, float(side))
    rows = ([row, f"{value:.5f}"] for row, value in zip(lookup.row_ids, values, strict=True))
    tables.write_table(Path(path), ["RowId", "Location"], rows)


def write_table(
    path: str | os.PathLike[str], dataset: FaceDataset, *, part: Part = "train"
) -> None:
    """Write faces as Kaggle's ``training.csv`` or ``test.csv``.

    Args:
        path: The csv to write; replaced in one step when complete.
        dataset: Square grey ``kaggle15`` faces.
        part: ``train`` writes labels and images, ``test`` ``ImageId`` (from 1) and images.

    Raises:
        ValueError: The faces are not square and grey, or follow another schema.
        OutputError: The file cannot be written.
    """
    height, width = dataset.image_size
    if height != width or dataset.images.shape[3] != 1 or dataset.schema.name != "kaggle15":
        raise ValueError(
            "Kaggle's format holds square grey images with kaggle15 keypoints, received "
            f"{dataset.images.shape[1:]} with {dataset.schema.name}."
        )
    words = np.array([str(i) for i in range(256)], object)
    images = (" ".join(words[image.ravel()]) for image in dataset.images)
    if part == "train":
        labels = map(label_cells, dataset.keypoints.xy)
        rows = ([*cells, image] for cells, image in zip(labels, images, strict=True))
        tables.write_table(Path(path), [*_COORDINATES, "Image"], rows)
    else:
        tables.write_table(Path(path), ["ImageId", "Image"], enumerate(images, start=1))


def label_cells(xy: FloatArray) -> list[str]:
    """The 30 cells of the coordinates (15, 2) of a face, empty where not labelled."""
    return ["" if math.isnan(v) else f"{v:.10g}" for v in xy.ravel().tolist()]
