"""Kaggle's *Facial Keypoints Detection* files: csv in, submission out.

This module alone knows the format: ``training.csv`` (30 coordinate columns and ``Image``, a row's
pixels as text), ``test.csv`` (``ImageId,Image``), ``IdLookupTable.csv`` and the submission. The
files are read as Kaggle ships them: plain, zipped one by one, or one zip that holds all of them.

The reader streams: one thread inflates the next piece while another turns digits into pixels with
whole-row numpy arithmetic, so memory stays near the size of the pixels. It trusts nothing: whatever
the bytes are, the answer is a dataset or a :class:`~facial_keypoints.errors.DataError` that names
file, row and column.
"""

from __future__ import annotations

import csv
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import ModuleType
from typing import IO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.data.cache import read_cache, write_cache
from facial_keypoints.errors import DataError
from facial_keypoints.files import write_text
from facial_keypoints.schemas import KAGGLE15, STYLE_B_POINTS
from facial_keypoints.types import FaceDataset, FloatArray, ImageArray, Keypoints

inflate: ModuleType = zlib
_READ_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
with suppress(ImportError):  # igzip inflates 2.4 times as fast; some platforms have no wheel of it
    from isal import isal_zlib

    inflate = isal_zlib
    _READ_ERRORS += (cast("type[Exception]", isal_zlib.error),)

__all__ = [
    "COMPETITION",
    "Lookup",
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
_COMPRESSED_STEP = 1 << 18  # bytes of deflate read at once: about 1 MB of text
_BATCH_SIZE = 1 << 18  # bytes of pixel text parsed at once
_LONGEST_LINE = 1 << 26  # bytes; a 4096 x 4096 picture fits, an endless line does not fill memory
_LARGEST_COORDINATE = 1e6  # pixels; anything beyond is a slip and would overflow float32 sums
_NO_LABEL = frozenset({b"", b"nan", b"na", b"n/a", b"null"})
_LOOKUP_COLUMNS = ("RowId", "ImageId", "FeatureName", "Location")
_COORDINATES = tuple(f"{name}_{axis}" for name in KAGGLE15.keypoint_names for axis in "xy")


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
        Square grey pictures (N, side, side, 1), ``kaggle15`` keypoints in pixels (NaN = not
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
        pool = stack.enter_context(_reading_thread())
        arrays = _read_faces(table, part, group_by, pool)
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

    chunks: Iterator[bytes]
    label: str
    file: Path


def _find_table(location: Path, name: str, stack: ExitStack) -> _Table:
    """The csv called ``name`` in a folder or zip, or the csv that ``location`` itself is."""
    try:
        if location.is_dir():
            return _find_in_folder(location, name, stack)
        if not location.is_file():
            raise DataError(f"{location} does not exist; give Kaggle's folder, zip or csv file.")
        handle = stack.enter_context(location.open("rb"))
        if location.stat().st_size == 0:
            raise DataError(f"{location} is empty; download it again.")
        if handle.read(4) == b"PK\x03\x04":
            handle.seek(0)
            table = _find_in_zip(handle, name, str(location), location, stack)
            if table is None:
                raise DataError(f"{location} holds no {name}; give the folder or zip that has it.")
            return table
        if location.suffix.lower() == ".zip":
            raise DataError(f"{location} is not a zip file, or damaged; download it again.")
        handle.seek(0)
        return _Table(_guarded(_plain_chunks(handle), str(location)), str(location), location)
    except OSError as error:
        raise DataError(f"{location} cannot be read: {error.strerror or error}.") from error


def _find_in_folder(folder: Path, name: str, stack: ExitStack) -> _Table:
    stem = PurePosixPath(name).stem
    for candidate in (folder / name, folder / f"{stem}.zip"):
        if candidate.is_file():
            return _find_table(candidate, name, stack)
    if (inner := folder / COMPETITION).is_dir():
        return _find_in_folder(inner, name, stack)
    for bundle in sorted(folder.glob("*.zip")):
        handle = stack.enter_context(bundle.open("rb"))
        if handle.read(4) == b"PK\x03\x04":
            handle.seek(0)
            if table := _find_in_zip(handle, name, str(bundle), bundle, stack):
                return table
    raise DataError(
        f"{folder} holds neither {name} nor {stem}.zip; "
        f"give the folder with the files of Kaggle's '{COMPETITION}', or the one that holds it."
    )


def _find_in_zip(
    handle: IO[bytes], name: str, label: str, file: Path, stack: ExitStack
) -> _Table | None:
    """The table inside an open zip, also in a zip inside it; ``None`` when it is not there."""
    try:
        archive = stack.enter_context(zipfile.ZipFile(handle))
        members = archive.infolist()
        for member in members:
            _check_member_name(member.filename, label)
        by_name = {
            PurePosixPath(m.filename).name: m
            for m in members
            if not m.is_dir() and not m.filename.startswith("__MACOSX/")
        }
        if info := by_name.get(name):
            chunks = _member_chunks(handle, archive, info)
            label = f"{label}/{_printable(info.filename)}"
            return _Table(_guarded(chunks, label), label, file)
        if info := by_name.get(f"{PurePosixPath(name).stem}.zip"):
            inner = stack.enter_context(archive.open(info))
            return _find_in_zip(inner, name, f"{label}/{_printable(info.filename)}", file, stack)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(
            f"{label} is a damaged zip file ({_printable(str(error))}); download it again."
        ) from error
    except (ValueError, struct.error, UnicodeError, OverflowError) as error:
        raise DataError(
            f"{label} is no valid zip file ({_printable(str(error))}); download it again."
        ) from error
    return None


def _check_member_name(name: str, label: str) -> None:
    windows = PureWindowsPath(name)  # splits at both kinds of slash and knows drive letters
    if ".." in windows.parts or windows.drive or windows.root:
        raise DataError(
            f"{label} holds the unsafe path '{_printable(name)}', which leaves the folder; "
            "do not use this zip."
        )


# --- bytes to lines -------------------------------------------------------------------------------


def _plain_chunks(handle: IO[bytes]) -> Iterator[bytes]:
    while chunk := handle.read(1 << 20):
        yield chunk


def _member_chunks(
    handle: IO[bytes], archive: zipfile.ZipFile, info: zipfile.ZipInfo
) -> Iterator[bytes]:
    """Inflate one member of a zip piece by piece and check its length and CRC."""
    with archive.open(info) as member:  # checks the local header; knows rare compression types
        if info.compress_type != zipfile.ZIP_DEFLATED:
            yield from _plain_chunks(member)
            return
    handle.seek(info.header_offset + 26)
    name_length, extra_length = struct.unpack("<HH", handle.read(4))
    handle.seek(info.header_offset + 30 + name_length + extra_length)
    left, size, crc = info.compress_size, 0, 0
    stream = inflate.decompressobj(-zlib.MAX_WBITS)
    while left and not stream.eof:
        block = handle.read(min(left, _COMPRESSED_STEP))
        if not block:
            break
        left -= len(block)
        while block and not stream.eof:  # bounded, or a zip bomb's block would fill memory
            chunk = stream.decompress(block, 1 << 22)
            block = stream.unconsumed_tail
            size += len(chunk)
            crc = inflate.crc32(chunk, crc)
            if chunk:
                yield chunk
    if not stream.eof or size != info.file_size:
        raise zipfile.BadZipFile(f"ends after {size} of {info.file_size} bytes")
    if crc != info.CRC:
        raise zipfile.BadZipFile("its checksum is wrong")


def _guarded(chunks: Iterator[bytes], label: str) -> Iterator[bytes]:
    """The same chunks, with everything that goes wrong on the way told as DataError."""
    try:
        yield from chunks
    except _READ_ERRORS as error:
        raise DataError(
            f"{label} is damaged or cut short ({_printable(str(error))}); get it again."
        ) from error


def _reading_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="kaggle-reader")


def _lines(table: _Table, pool: ThreadPoolExecutor) -> Iterator[bytes]:
    """Lines without their end (LF or CRLF) and without a byte order mark; blank ones are kept.

    The pool's thread reads, inflates and cuts one piece ahead of the caller; it spends its time
    outside the interpreter's lock. The pool is the caller's to close: a generator that closed it
    would do so whenever the garbage collector runs, which can deadlock.
    """
    pieces = _cut_lines(table)
    first = True
    ahead = pool.submit(next, pieces, None)
    while (lines := ahead.result()) is not None:
        ahead = pool.submit(next, pieces, None)
        for line in lines:
            yield (line.removeprefix(b"\xef\xbb\xbf") if first else line).removesuffix(b"\r")
            first = False


def _cut_lines(table: _Table) -> Iterator[list[bytes]]:
    rest = b""
    for chunk in table.chunks:
        text = rest + chunk
        lines, start = [], 0
        while (end := text.find(b"\n", start)) >= 0:  # faster than split, which looks at each byte
            lines.append(text[start:end])
            start = end + 1
        rest = text[start:]
        if len(rest) > _LONGEST_LINE:
            raise DataError(f"{table.label} has no line ends where rows should be; is it a csv?")
        yield lines
    if rest:
        yield [rest]


def _fields(line: bytes, columns: int = -1) -> list[bytes]:
    """The fields of a line; knowing how many to expect saves looking for commas in the pixels."""
    if b'"' not in line:
        fields = line.split(b",", columns - 1 if columns > 0 else -1)
        return [*fields[:-1], *fields[-1].split(b",")] if b"," in fields[-1] else fields
    try:
        row = next(csv.reader([line.decode("latin-1")]))  # latin-1 keeps every byte as it is
    except (csv.Error, StopIteration):
        return [line]  # a field beyond csv's limit or a lone quote: reported as wrong column count
    return [value.encode("latin-1") for value in row]


def _rows(
    table: _Table, columns: Sequence[str], pool: ThreadPoolExecutor
) -> Iterator[tuple[int, list[bytes]]]:
    """Row number from 1 and the fields of the wanted columns, found by name, in wanted order.

    Raises:
        DataError: The header lacks a column or has one twice, or a row has the wrong length.
    """
    lines = _lines(table, pool)
    header_line = next(lines, None)
    if header_line is None or not header_line.strip():
        raise DataError(f"{table.label} is empty; its first line should name the columns.")
    try:
        header = [name.decode("utf-8").strip() for name in _fields(header_line)]
    except UnicodeDecodeError as error:
        raise DataError(f"{table.label} is not UTF-8 text; save it as a UTF-8 csv.") from error
    if any("\0" in name for name in header):
        raise DataError(f"{table.label} is not UTF-8 text; save it as a UTF-8 csv.")
    for name in columns:
        if header.count(name) != 1:
            count = "no" if name not in header else "more than one"
            raise DataError(
                f"{table.label} has {count} column '{name}'; its header must name it once."
            )
    wanted = [header.index(name) for name in columns]
    extra = [name for name in header if name not in columns]
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
        fields = _fields(line, len(header))
        if len(fields) != len(header):
            raise DataError(
                f"{table.label}: row {number} has {len(fields)} fields where the header names "
                f"{len(header)} columns."
            )
        yield number, [fields[i] for i in wanted]


# --- fields to arrays -----------------------------------------------------------------------------


def _read_faces(
    table: _Table, part: Part, group_by: str | None, pool: ThreadPoolExecutor
) -> dict[str, NDArray[np.generic]]:
    columns = ["Image"]
    if part == "train":
        columns += _COORDINATES
    else:
        columns.append("ImageId")
    if group_by is not None:
        columns.append(group_by)
    reader = _PixelReader(table.label)
    labels = _LabelReader(table.label)
    ids: list[str] = []
    groups: list[str] = []
    for number, fields in _rows(table, columns, pool):
        reader.add(fields[0], number)
        if part == "train":
            labels.add(fields[1:31], number)
            ids.append(str(number))
        else:
            ids.append(_parse_id(fields[1], number, "ImageId", table.label))
        if group_by is not None:
            groups.append(_text(fields[-1], number, group_by, table.label))
    if not ids:
        raise DataError(f"{table.label} has a header and no rows; it should hold one face per row.")
    if part == "test" and len(set(ids)) != len(ids):
        again = next(i for i, key in enumerate(ids) if key in ids[:i])
        raise DataError(
            f"{table.label}: row {again + 1}, column ImageId: {ids[again]} was used before; "
            "ids must differ."
        )
    arrays: dict[str, NDArray[np.generic]] = {
        "images": reader.images(),
        "xy": labels.xy() if part == "train" else np.full((len(ids), 15, 2), np.nan, np.float32),
        "ids": np.array(ids, np.str_),
    }
    if group_by is not None:
        arrays["groups"] = np.array(groups, np.str_)
    return arrays


class _PixelReader:
    """Collects the pixel texts of all rows into one array, a few rows at a time.

    A batch is small enough for its temporaries to stay in the processor's cache and large enough
    for numpy's cost per call not to count.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._side = 0
        self._pixels = bytearray()  # grows in place, so the peak stays near the size of the result
        self._batch: list[bytes] = []
        self._size = 0
        self._first = 1
        self._scratch = np.empty((7, 2 * _BATCH_SIZE), np.uint8)

    def add(self, image: bytes, number: int) -> None:
        """Take the text of row ``number``; rows come in order."""
        if not self._side:
            count = len(image.split())
            self._side = math.isqrt(count)
            if count == 0 or self._side**2 != count:
                raise DataError(
                    f"{self._label}: row {number}, column Image has {count} pixels, which is no "
                    "square picture (Kaggle's have 96 x 96 = 9216)."
                )
        self._batch.append(image)
        self._size += len(image)
        if self._size >= _BATCH_SIZE:
            self._flush()

    def images(self) -> ImageArray:
        """(N, side, side, 1) of everything added."""
        if self._batch:  # the last row may have filled its batch
            self._flush()
        return np.frombuffer(self._pixels, np.uint8).reshape(-1, self._side, self._side, 1)

    def _flush(self) -> None:
        parsed = _parse_pixels(self._batch, self._side**2, self._scratch)
        if parsed is not None:
            self._pixels += parsed.data
        else:
            for number, image in enumerate(self._batch, start=self._first):
                self._pixels += _parse_pixels_slowly(image, self._side, number, self._label).data
        self._first += len(self._batch)
        self._batch, self._size = [], 0


def _parse_pixels(
    images: list[bytes], count: int, scratch: NDArray[np.uint8]
) -> NDArray[np.uint8] | None:
    """``count`` numbers 0-255 from each text, or ``None`` unless single spaces separate them all.

    All arithmetic is on uint8 over the whole text: at the last digit of a number its value is
    ones + 10 tens + 100 hundreds, where the digits before it are neighbours in memory. Three spaces
    in front let the look-back start at once; one or two behind end the last number on an even place.
    """
    length = sum(map(len, images)) + len(images) - 1
    padded = b" ".join([b"  ", *images, b" " if length % 2 else b""])
    text = np.frombuffer(padded, np.uint8)
    size = len(text) - 3
    if scratch.shape[1] < len(text):
        scratch = np.empty((len(scratch), 2 * len(text)), np.uint8)
    mask, digits = scratch[0, : len(text)], scratch[1, : len(text)]
    low, third, hundreds, value, last = scratch[2:, :size]
    np.not_equal(text, 32, out=mask.view(np.bool_))
    np.subtract(text, 48, out=digits)
    digits *= mask
    if digits.max() > 9:
        return None  # something that is neither digit nor space
    expected = count * len(images)
    ends = np.cumsum([len(image) + 1 for image in images]) - 2
    if length - np.count_nonzero(mask) != expected - 1 or not mask[ends + 3].all():
        return None
    here, before = mask[3:], mask[2:-1]
    np.multiply(digits[2:-1], 10, out=low)
    low += digits[3:]
    np.bitwise_and(here, before, out=third)
    np.multiply(digits[1:-2], third, out=hundreds)
    np.multiply(hundreds, 100, out=value)
    value += low  # wraps above 255, which makes it smaller than what was added
    third &= mask[1:-2]
    third &= mask[:-3]  # now marks a fourth digit
    np.less(value, low, out=low.view(np.bool_))
    if hundreds.max() > 2 or low.max() or third.max():
        return None
    # A number and its separator take two places or more, so two neighbours never both end one:
    # taking them together halves the search for the ends, which costs more than all the arithmetic.
    last, value, pair_ends = last[:-1], value[:-1], third[: (size - 1) // 2].view(np.bool_)
    np.greater(here[:-1], here[1:], out=last.view(np.bool_))
    value *= last
    pairs = value.view(np.uint16)
    pairs |= pairs >> 8
    np.not_equal(last.view(np.uint16), 0, out=pair_ends)
    where = np.flatnonzero(pair_ends)
    if len(where) != expected or np.any(where[count - 1 :: count] != ends // 2):
        return None  # one row has a pixel too many, another too few
    pixels: NDArray[np.uint8] = pairs.astype(np.uint8).take(where)
    return pixels


def _parse_pixels_slowly(image: bytes, side: int, number: int, label: str) -> NDArray[np.uint8]:
    """As :func:`_parse_pixels`, for odd spacing; says what is wrong with anything else."""
    words = image.split()
    if len(words) != side * side:
        raise DataError(
            f"{label}: row {number}, column Image has {len(words)} pixels where the rows before it "
            f"have {side} x {side} = {side * side}."
        )
    for place, word in enumerate(words, start=1):
        if not (word.isdigit() and len(word) <= 3 and int(word) <= 255):
            raise DataError(
                f"{label}: row {number}, column Image: pixel {place} is "
                f"'{_shown(word)}', not a whole number from 0 to 255."
            )
    return np.array([int(word) for word in words], np.uint8)


class _LabelReader:
    """Collects the 30 coordinate fields of all rows; what numpy can check is checked at the end."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._rows: list[list[float]] = []

    def add(self, fields: list[bytes], number: int) -> None:
        """Take the fields of row ``number``; rows come in order."""
        try:
            row = [float(field) if field else math.nan for field in fields]
        except ValueError:
            row = [self._value(*item, number) for item in zip(_COORDINATES, fields, strict=True)]
        if b"_" in b"".join(fields):  # Python reads 1_0 as 10
            i = next(i for i, field in enumerate(fields) if b"_" in field)
            raise self._error(number, i, _shown(fields[i]))
        self._rows.append(row)

    def xy(self) -> NDArray[np.float32]:
        """(N, 15, 2) pixels of everything added, NaN = not labelled."""
        values = np.array(self._rows, np.float64)
        wild = np.abs(values) > _LARGEST_COORDINATE  # infinite ones too
        if wild.any():
            row, column = (int(i) for i in np.argwhere(wild)[0])
            raise self._error(row + 1, column, f"{values[row, column]:g}")
        points = values.reshape(len(values), -1, 2)
        missing = np.isnan(points)
        halves = missing[..., 0] != missing[..., 1]
        if halves.any():
            row, point = (int(i) for i in np.argwhere(halves)[0])
            column = 2 * point + int(missing[row, point, 1])
            raise DataError(
                f"{self._label}: row {row + 1}, column {_COORDINATES[column]} is empty while its "
                "partner is not; give both coordinates or none."
            )
        return points.astype(np.float32)

    def _value(self, column: str, field: bytes, number: int) -> float:
        if field.strip().lower() in _NO_LABEL:
            return math.nan
        try:
            return float(field)
        except ValueError:
            raise self._error(number, _COORDINATES.index(column), _shown(field)) from None

    def _error(self, number: int, column: int, shown: str) -> DataError:
        return DataError(
            f"{self._label}: row {number}, column {_COORDINATES[column]}: '{shown}' is not a "
            "coordinate in pixels; leave the field empty where there is no label."
        )


def _parse_id(field: bytes, number: int, column: str, label: str) -> str:
    word = field.strip()
    if not word.isdigit() or len(word) > 18:
        raise DataError(
            f"{label}: row {number}, column {column}: '{_shown(field)}' is not a whole number."
        )
    return str(int(word))


def _text(field: bytes, number: int, column: str, label: str) -> str:
    try:
        return field.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{label}: row {number}, column {column} is not UTF-8 text; save the file as UTF-8."
        ) from error


def _shown(field: bytes) -> str:
    return _printable(field[:40].decode("utf-8", "replace"))


def _printable(text: str) -> str:
    """A foreign name fit for a message: short, on one line, without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:80])


# --- the submission -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Lookup:
    """Kaggle's IdLookupTable: which coordinate of which picture each row of a submission asks for.

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
        """(R,) position of each row's picture in ``ids``.

        Raises:
            DataError: A row asks for a picture that is not among ``ids``.
        """
        place = {str(key): i for i, key in enumerate(ids)}
        found = np.array([place.get(str(key), -1) for key in self.image_ids], np.int64)
        if (found < 0).any():
            row = int(np.argmax(found < 0))
            raise DataError(
                f"{self.source}: row {row + 1}, column ImageId: image {self.image_ids[row]} is not "
                f"among the {len(place)} test pictures; use the table that belongs to them."
            )
        return found


def load_lookup(path: str | os.PathLike[str]) -> Lookup:
    """Read ``IdLookupTable.csv`` (columns RowId, ImageId, FeatureName and, empty, Location).

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
        pool = stack.enter_context(_reading_thread())  # closed before the files it reads
        for number, fields in _rows(table, _LOOKUP_COLUMNS, pool):
            row_ids.append(int(_parse_id(fields[0], number, "RowId", table.label)))
            image_ids.append(_parse_id(fields[1], number, "ImageId", table.label))
            feature = _shown(fields[2].strip())
            if feature not in index:
                raise DataError(
                    f"{table.label}: row {number}, column FeatureName: '{feature}' is no keypoint "
                    "coordinate of Kaggle's training.csv."
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
    """(N,) label style that each picture's requested points imply.

    ``kaggle-b`` where only the four points of style B are asked for, ``kaggle-a`` where any other
    is, "" for a picture that no row asks about.

    Raises:
        DataError: The table asks for a picture that is not among ``ids``.
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
) -> None:
    """Write Kaggle's submission, ``RowId,Location``, in the order of the look-up table.

    Coordinates are clipped to [0, side]: Kaggle's labels were scaled with the picture's edges at 0
    and 96, so that is the whole range a label can have.

    Args:
        path: The csv to write; replaced in one step when complete.
        ids: N ``ImageId`` of the predicted pictures.
        xy: (N, 15, 2) predicted points in pixels.
        lookup: What to answer.
        side: Width and height of the pictures in pixels.

    Raises:
        DataError: The table asks for a picture without prediction, or for a NaN.
        OutputError: The file cannot be written.
    """
    values = np.asarray(xy, np.float64)[lookup.rows_of(ids), lookup.keypoints, lookup.axes]
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise DataError(
            f"{lookup.source}: row {row + 1} asks for {KAGGLE15.keypoint_names[lookup.keypoints[row]]} "
            f"of image {lookup.image_ids[row]}, which the model did not predict."
        )
    values = np.clip(values, 0.0, float(side))
    lines = ["RowId,Location"]
    lines += [f"{row},{value:.5f}" for row, value in zip(lookup.row_ids, values, strict=True)]
    write_text(Path(path), "".join(f"{line}\n" for line in lines))


def write_table(
    path: str | os.PathLike[str], dataset: FaceDataset, *, part: Part = "train"
) -> None:
    """Write faces as Kaggle's ``training.csv`` or ``test.csv``.

    Args:
        path: The csv to write; replaced in one step when complete.
        dataset: Square grey ``kaggle15`` faces.
        part: ``train`` writes labels and pictures, ``test`` ``ImageId`` (from 1) and pictures.

    Raises:
        ValueError: The faces are not square and grey, or follow another schema.
        OutputError: The file cannot be written.
    """
    height, width = dataset.image_size
    if height != width or dataset.images.shape[3] != 1 or dataset.schema.name != "kaggle15":
        raise ValueError(
            "Kaggle's format holds square grey pictures with kaggle15 keypoints, received "
            f"{dataset.images.shape[1:]} with {dataset.schema.name}."
        )
    lines = [",".join((*_COORDINATES, "Image") if part == "train" else ("ImageId", "Image"))]
    words = np.array([str(i) for i in range(256)], object)
    for number, picture in enumerate(_flat(dataset.images), start=1):
        image = " ".join(words[picture])
        if part == "train":
            row = dataset.keypoints.xy[number - 1].reshape(-1)
            labels = ["" if math.isnan(v) else f"{v:.10g}" for v in row.tolist()]
            lines.append(",".join((*labels, image)))
        else:
            lines.append(f"{number},{image}")
    write_text(Path(path), "".join(f"{line}\n" for line in lines))


def _flat(images: ImageArray) -> ImageArray:
    return images.reshape(len(images), int(np.prod(images.shape[1:])))  # -1 fails on no rows
