"""What a batch run reads: from the names that a user gives to pieces, and from pieces to images.

A *piece* is an image file, some row groups of a Parquet file, or a tar archive: what can be read
without looking at anything else. Pieces are found in one thread, in a fixed order, without holding
them all; images are read from them by the workers.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from facial_keypoints.batch.storage import (
    STORAGE_ERRORS,
    is_linked_folder,
    is_uri,
    kind_of,
    list_folder,
    open_file,
)
from facial_keypoints.errors import DataError
from facial_keypoints.io.images import (
    IMAGE_SUFFIXES,
    StoredImage,
    find_images,
    in_order,
    read_content,
)
from facial_keypoints.io.tables import read_list

__all__ = ["IMAGE_COLUMNS", "ORIGIN", "Piece", "find_origin", "find_pieces", "read_piece"]

Kind = Literal["file", "parquet", "tar"]

IMAGE_COLUMNS = ("image", "image_bytes", "bytes", "jpg", "png", "content", "path", "file", "source")
"""Columns of a Parquet file that are looked for, in this order, if none is named."""

ORIGIN = b"facial_keypoints_origin"
"""Key in the footer of a table of failures: JSON with the ``root`` and the ``column`` of its run."""

_TARS = (".tar", ".tar.gz", ".tgz")
_LISTS = (".txt", ".lst")
_ROWS_AT_ONCE = 16  # of a Parquet column of images: some 16 × 5 MB of photos
# What tables call a member of an archive or a row of a Parquet file.
_INSIDE = re.compile(r"(.+?\.(?:tar|tar\.gz|tgz|parquet))#(.+)", re.IGNORECASE | re.DOTALL)
_OPENERS = 8  # threads that read the footers of Parquet files, which wait for the network


@dataclass(frozen=True, slots=True)
class Piece:
    """Images that are read together.

    Attributes:
        kind: ``file`` (one image), ``parquet`` (row groups) or ``tar`` (all images in it).
        source: Its name as the user wrote it.
        count: Images in it; ``None`` where only reading it tells.
        first: Number of the first row in the Parquet file.
        group: First row group.
        groups: How many row groups.
    """

    kind: Kind
    source: str
    count: int | None = 1
    first: int = 0
    group: int = 0
    groups: int = 0


def find_pieces(
    inputs: Iterable[str], *, column: str | None = None, block_size: int = 512
) -> Iterator[Piece]:
    """What the inputs name, in a fixed order, one at a time.

    Local names are searched as ``predict`` searches them; a ``.txt`` or ``.lst`` file is a list of
    names, one a line, as ``-`` is on standard input. At a URI, folders and patterns are searched the
    same way. ``.parquet`` files and ``.tar``, ``.tar.gz``, ``.tgz`` archives stand for the images
    in them.

    Args:
        inputs: Names.
        column: Column of Parquet files with images' bytes or paths.
        block_size: Row groups of a Parquet file are joined to at least so many rows.

    Raises:
        DataError: An input names nothing, or a Parquet file has no such column.
    """

    def describe(name: str) -> list[Piece]:
        lower = name.lower()
        if lower.endswith(".parquet"):
            return _row_groups(name, column, block_size)
        return [Piece("tar", name, None) if lower.endswith(_TARS) else Piece("file", name)]

    for pieces in in_order(describe, _names(inputs), threads=_OPENERS, ahead=16 * _OPENERS):
        yield from pieces


def _names(inputs: Iterable[str]) -> Iterator[str]:
    for name in inputs:
        if name == "-":
            yield from read_list(sys.stdin.buffer)
        elif name.lower().endswith(_LISTS) and not any(sign in name for sign in "*?["):
            yield from _listed(name)
        elif is_uri(name):
            yield from _at_uri(name)
        else:
            yield from map(os.fspath, find_images([name]))


def _listed(name: str) -> Iterator[str]:
    try:
        with open_file(name) as handle:
            yield from read_list(handle)
    except STORAGE_ERRORS as error:
        raise DataError(f"the list {name} cannot be read ({error}).") from error


def _at_uri(name: str) -> Iterator[str]:
    if any(sign in name for sign in "*?["):
        scheme, rest = name.split("://", 1)
        host, *parts = rest.rstrip("/").split("/")
        found = False
        for found_name in _matching(f"{scheme}://{host}", parts):
            found = True
            yield found_name
        if not found:
            raise DataError(f"no file matches {name}.")
        return
    kind = kind_of(name)
    if kind == "missing":
        raise DataError(f"there is no image or folder {name}.")
    if kind == "folder":
        yield from _below(name)
    else:
        yield name


def _below(folder: str) -> Iterator[str]:
    for name, is_folder in list_folder(folder):
        if is_folder:
            # As in local folders: a link to a folder above would go round for ever.
            if not is_linked_folder(name):
                yield from _below(name)
        elif PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES:
            yield name


def _matching(base: str, parts: list[str]) -> Iterator[str]:
    """Files below ``base`` that match the parts of a pattern; ``**`` is any depth."""
    part, rest = parts[0], parts[1:]
    if not any(sign in part for sign in "*?["):
        name = f"{base}/{part}"
        if rest:
            yield from _matching(name, rest)
        elif kind_of(name) == "file":
            yield name
        return
    if part == "**" and rest:
        yield from _matching(base, rest)
    for name, is_folder in list_folder(base):
        if part == "**":
            if is_folder:
                if not is_linked_folder(name):
                    yield from _matching(name, parts)
            elif not rest:
                yield name
        elif fnmatch.fnmatchcase(name.rpartition("/")[2], part):
            if rest and is_folder:
                yield from _matching(name, rest)
            elif not rest and not is_folder:
                yield name


def _row_groups(name: str, column: str | None, block_size: int) -> list[Piece]:
    try:
        with open_file(name) as handle, pq.ParquetFile(handle) as file:
            find_column(file.schema_arrow, column, name)
            counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    except STORAGE_ERRORS as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{name} cannot be read as a Parquet table ({reason}).") from error
    pieces, start, rows, first = [], 0, 0, 0
    for number, count in enumerate(counts, start=1):
        rows += count
        if rows >= block_size or (number == len(counts) and rows):
            pieces.append(Piece("parquet", name, rows, first, start, number - start))
            start, first, rows = number, first + rows, 0
    return pieces


def find_column(schema: pa.Schema, column: str | None, name: str) -> str:
    """The column with the images.

    Raises:
        DataError: There is none, or its type is neither bytes nor text.
    """
    known = [column] if column else [c for c in IMAGE_COLUMNS if c in schema.names]
    if not known or known[0] not in schema.names:
        raise DataError(
            f"{name} has no column {column or 'with a usual name for images'}: name one of its "
            f"columns with --column ({', '.join(schema.names[:20])})."
        )
    kind = schema.field(known[0]).type
    is_struct = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not (is_struct or _is_binary(kind) or _is_text(kind)):
        raise DataError(
            f"{name}: the column {known[0]} holds {kind}, not the bytes or the paths of images: "
            "name another one with --column."
        )
    return known[0]


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def read_piece(
    piece: Piece, *, root: str, column: str | None, max_pixels: int
) -> Iterator[StoredImage]:
    """The images of a piece, in order, each of which reads itself or says why it cannot be.

    Args:
        piece: What to read.
        root: Absolute folder that relative local names start from.
        column: As for :func:`find_pieces`.
        max_pixels: Of an image; files are refused that are too large for it even uncompressed.
    """
    if piece.kind == "file":
        yield _stored(piece.source, root, max_pixels)
    elif piece.kind == "tar":
        yield from _from_tar(piece, root, max_pixels)
    else:
        yield from _from_parquet(piece, root, column, max_pixels)


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    if (
        isinstance(error, FileNotFoundError) and not error.errno
    ):  # fsspec's, which says the name only
        return "No such file"
    return " ".join(str(text).split())[:160] or type(error).__name__


def _place(source: str, root: str) -> str:
    return source if is_uri(source) else os.path.join(root, source)  # noqa: PTH118  (text stays text)


def _stored(source: str, root: str, max_pixels: int) -> StoredImage:
    place = _place(source, root)

    def read() -> bytes:
        if not is_uri(place):
            return read_content(Path(place), max_pixels)
        try:
            with open_file(place) as handle:
                if handle.size() > 16 * max_pixels:
                    raise OSError("the file is too large for an image")
                content: bytes = handle.read()
                return content
        except Exception as error:  # filesystems of fsspec raise errors of any HTTP library
            raise OSError(_reason(error)) from error

    return StoredImage(source, read)


def _known(source: str, content: bytes | None) -> StoredImage:
    def read() -> bytes:
        if content is None:
            raise OSError("the row holds nothing")
        return content

    return StoredImage(source, read)


def _unreadable(source: str, reason: str) -> StoredImage:
    def read() -> bytes:
        raise OSError(reason)

    return StoredImage(source, read)


def find_origin(inputs: Sequence[str], *, root: str, column: str | None) -> bytes:
    """What to put under :data:`ORIGIN` for a run: its root and column, or those of a table of failures.

    Args:
        inputs: Of the run; what one table of failures says is passed on.
        root: Of the run.
        column: Of the run.
    """
    if len(inputs) == 1 and inputs[0].lower().endswith(".parquet"):
        with suppress(*STORAGE_ERRORS), open_file(_place(inputs[0], root)) as handle:
            known: bytes | None = (pq.read_schema(handle).metadata or {}).get(ORIGIN)
            if known is not None:
                return known
    return json.dumps({"root": root, "column": column}).encode()


class _Row(NamedTuple):
    """A row of a Parquet file: bytes or a name, or why it cannot be read."""

    number: int
    value: bytes | str | OSError | None
    root: str  # that its name counts from
    column: str | None  # of the Parquet file that its name may lead into


def _from_parquet(
    piece: Piece, root: str, column: str | None, max_pixels: int
) -> Iterator[StoredImage]:
    """Each row an image; names of members of archives and of rows of other files are followed once."""
    for file, rows in groupby(_rows(piece, root, column), _file_around):
        if not file:
            yield from (_image(piece.source, row, max_pixels) for row in rows)
            continue
        first, *others = rows
        wanted = Counter(str(row.value) for row in (first, *others))
        yield from _from_inside(file, wanted, first.root, first.column, max_pixels)


def _file_around(row: _Row) -> str:
    """The archive or Parquet file that the row's name leads into, else empty."""
    found = _INSIDE.fullmatch(row.value) if isinstance(row.value, str) else None
    if found is None:
        return ""
    place = _place(found[0], row.root)
    # A file may be called so.
    return "" if not is_uri(place) and os.path.lexists(place) else found[1]


def _image(source: str, row: _Row, max_pixels: int) -> StoredImage:
    name = f"{source}#{row.number}"
    if isinstance(row.value, OSError):
        return _unreadable(name, str(row.value))
    if not isinstance(row.value, str):
        return _known(name, row.value)
    if row.value.lower().endswith(_TARS):
        reason = "an archive is no image: name it as an input, its images are then all done again"
        return _unreadable(row.value, reason)
    return _stored(row.value, row.root, max_pixels)


def _from_inside(
    file: str, wanted: Counter[str], root: str, column: str | None, max_pixels: int
) -> Iterator[StoredImage]:
    """Of the images in an archive or a Parquet file those that are wanted, each as often."""
    reason = "there is nothing by this name"
    is_tar = file.lower().endswith(_TARS)
    found = (
        ((image.name, image) for image in _from_tar(Piece("tar", file, None), root, max_pixels))
        if is_tar
        else _from_rows(file, wanted, root, column, max_pixels)
    )
    with closing(found):
        for name, image in found:
            for _ in range(wanted.pop(name, 0)):
                yield image
            if name == file:  # it could not be read to its end
                yield from (StoredImage(name, image.read) for name in wanted.elements())
                return
            if not wanted:
                return
    yield from (_unreadable(name, reason) for name in wanted.elements())


def _from_rows(
    file: str, wanted: Counter[str], root: str, column: str | None, max_pixels: int
) -> Generator[tuple[str, StoredImage]]:
    try:
        pieces = _row_groups(_place(file, root), column, 1)
    except DataError as error:
        yield file, _unreadable(file, str(error))
        return
    for piece in pieces:
        numbers = range(piece.first, piece.first + (piece.count or 0))
        if any(f"{file}#{number}" in wanted for number in numbers):
            for row in _rows(replace(piece, source=file), root, column):
                yield f"{file}#{row.number}", _image(file, row, max_pixels)


def _rows(piece: Piece, root: str, column: str | None) -> Iterator[_Row]:
    """The rows of a piece, as many as it says, in order."""
    done, reason = 0, "the file has fewer rows than when the run began"
    total = piece.count or 0
    try:
        # Without pre_buffer a row group streams through; with it, all its images would be held.
        with (
            open_file(_place(piece.source, root)) as handle,
            pq.ParquetFile(handle, pre_buffer=False, buffer_size=1 << 20) as file,
        ):
            name = find_column(file.schema_arrow, column, piece.source)
            origin = json.loads((file.schema_arrow.metadata or {}).get(ORIGIN, b"{}"))
            start, inner = origin.get("root", root), origin.get("column")
            batches = file.iter_batches(
                batch_size=_ROWS_AT_ONCE,
                row_groups=list(range(piece.group, piece.group + piece.groups)),
                columns=[name],
            )
            for batch in batches:
                values = batch.column(0)
                if pa.types.is_struct(values.type):
                    values = values.field("bytes")
                for value in values.to_pylist()[: total - done]:
                    done += 1
                    yield _Row(piece.first + done - 1, value, start, inner)
    except Exception as error:  # whatever it is, each row has to end as one
        reason = _reason(error)
    for number in range(piece.first + done, piece.first + total):
        yield _Row(number, OSError(reason), root, column)


class _Member(tarfile.TarInfo):
    """Refuses an archive that just stops or goes on with nonsense: ``tarfile`` takes both for its end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        if len(buf) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it has no end, so something may be missing")
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if not any(buf):  # the end
                raise
            raise tarfile.ReadError(str(error)) from error


def _from_tar(piece: Piece, root: str, max_pixels: int) -> Iterator[StoredImage]:
    """Members with an image's name; a damaged archive is one more, which cannot be read."""
    try:
        with (
            open_file(_place(piece.source, root)) as handle,
            tarfile.open(fileobj=handle, mode="r|*", tarinfo=_Member) as archive,  # never seeks
        ):
            for member in archive:
                name = PurePosixPath(member.name)
                is_link = member.islnk() or member.issym()
                if not (member.isfile() or is_link) or name.name.startswith("."):
                    continue
                if name.suffix.lower() not in IMAGE_SUFFIXES:
                    continue
                source = f"{piece.source}#{member.name}"
                if is_link:  # what it leads to has gone by already, or is not in the archive
                    yield _unreadable(source, f"a link to {member.linkname}, not an image")
                    continue
                if member.size > 16 * max_pixels:
                    yield _unreadable(source, "the file is too large for an image")
                    continue
                content = archive.extractfile(member)
                yield _known(source, content.read() if content is not None else None)
    except Exception as error:  # as above
        reason = f"the archive is damaged or cannot be read: {_reason(error)}"
        yield _unreadable(piece.source, reason)
