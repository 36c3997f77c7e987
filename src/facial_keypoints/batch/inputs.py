"""The inputs of a batch run: user's names to shards, and shards to images.

A *shard* is an image file, some row groups of a Parquet file, or a tar archive: a part of the input
that is read independently of all others. One thread lists the shards one at a time, in a fixed order;
the workers read the images in them.
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
from glob import has_magic
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from facial_keypoints.batch.storage import (
    STORAGE_ERRORS,
    is_linked_folder,
    is_uri,
    kind_of,
    list_folder,
    open_file,
    reason_of,
)
from facial_keypoints.errors import DataError
from facial_keypoints.io.images import (
    FOREIGN_SUFFIXES,
    IMAGE_SUFFIXES,
    PassedOver,
    StoredImage,
    find_images,
    in_order,
    read_content,
)
from facial_keypoints.io.tables import read_list

__all__ = [
    "IMAGE_COLUMNS",
    "ORIGIN",
    "Shard",
    "find_origin",
    "find_shards",
    "read_already",
    "read_shard",
]

Kind = Literal["file", "parquet", "tar"]

IMAGE_COLUMNS = ("image", "image_bytes", "bytes", "jpg", "png", "content", "path", "file", "source")
"""Names of a Parquet file's column of images, tried in this order if the user names none."""

ORIGIN = b"facial_keypoints_origin"
"""Key in the footer of a table of failures: JSON with the ``root`` and the ``column`` of its run."""

_TOO_LARGE = "the file is too large for an image"
_TARS = (".tar", ".tar.gz", ".tgz")
_LISTS = (".txt", ".lst")
_ROWS_AT_ONCE = 16  # of a Parquet column of images: some 16 × 5 MB of photos
# The name in tables of a member of an archive or of a row of a Parquet file.
_INSIDE = re.compile(r"(.+?\.(?:tar|tar\.gz|tgz|parquet))#(.+)", re.IGNORECASE | re.DOTALL)
_FOOTER_THREADS = 8  # they read footers of Parquet files, mostly waiting for the network


@dataclass(frozen=True, slots=True)
class Shard:
    """Images that are read together.

    Attributes:
        kind: ``file`` (one image), ``parquet`` (row groups) or ``tar`` (all images in it).
        source: Its name as the user wrote it.
        count: Images in it; ``None`` for an archive, whose images are counted when it is read.
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


def find_shards(
    inputs: Iterable[str], *, column: str | None = None, block_size: int = 512
) -> Iterator[Shard]:
    """List the shards of the inputs, in a fixed order, one at a time.

    Local folders and patterns are searched as ``predict`` searches them, those at a URI in the same
    way. A ``.txt`` or ``.lst`` file is a list of names, one a line; ``-`` is such a list on standard
    input. ``.parquet`` files and ``.tar``, ``.tar.gz``, ``.tgz`` archives stand for the images in them.

    Args:
        inputs: Names.
        column: Column of Parquet files with images' bytes or paths.
        block_size: Row groups of a Parquet file are joined until a shard has at least this many rows.

    Raises:
        DataError: An input names nothing, or a Parquet file has no such column.
    """

    def describe(name: str) -> list[Shard]:
        lower = name.lower()
        if lower.endswith(".parquet"):
            return _row_groups(name, column, block_size)
        return [Shard("tar", name, None) if lower.endswith(_TARS) else Shard("file", name)]

    for shards in in_order(
        describe, _names(inputs), threads=_FOOTER_THREADS, ahead=16 * _FOOTER_THREADS
    ):
        yield from shards


def _names(inputs: Iterable[str]) -> Iterator[str]:
    for name in inputs:
        if name == "-":
            yield from read_list(sys.stdin.buffer)
        elif name.lower().endswith(_LISTS) and not has_magic(name):
            try:
                with open_file(name) as handle:
                    yield from read_list(handle)
            except STORAGE_ERRORS as error:
                raise DataError(f"the list {name} cannot be read ({error}).") from error
        elif is_uri(name):
            yield from _at_uri(name)
        else:
            left: dict[Path, PassedOver] = {}  # they end among the failures
            yield from map(os.fspath, find_images([name], passed_over=left))
            yield from (os.fspath(path) for path, why in left.items() if why in ("foreign", "link"))


def _at_uri(name: str) -> Iterator[str]:
    if has_magic(name):
        scheme, rest = name.split("://", 1)
        host, *parts = rest.rstrip("/").split("/")
        found = _matching(f"{scheme}://{host}", parts)
        first = next(found, None)
        if first is None:
            raise DataError(f"no file matches {name}.")
        yield first
        yield from found
    elif (kind := kind_of(name)) == "missing":
        raise DataError(f"there is no image or folder {name}.")
    elif kind == "folder":
        yield from filter(_has_image_suffix, _matching(name, ["**"]))
    else:
        yield name


def _has_image_suffix(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES | FOREIGN_SUFFIXES


def _matching(base: str, parts: list[str]) -> Iterator[str]:
    """Files below ``base`` that match the parts of a pattern; ``**`` is any depth."""
    part, rest = parts[0], parts[1:]
    if not has_magic(part):
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
                # As in local folders, links are not followed: one to a folder above would never end.
                if not is_linked_folder(name):
                    yield from _matching(name, parts)
            elif not rest:
                yield name
        elif fnmatch.fnmatchcase(name.rpartition("/")[2], part):
            if rest and is_folder:
                yield from _matching(name, rest)
            elif not rest and not is_folder:
                yield name


def _row_groups(name: str, column: str | None, block_size: int) -> list[Shard]:
    try:
        with open_file(name) as handle, pq.ParquetFile(handle) as file:
            find_column(file.schema_arrow, column, name)
            counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    except STORAGE_ERRORS as error:
        raise DataError(
            f"{name} cannot be read as a Parquet table ({reason_of(error)})."
        ) from error
    shards, start, rows, first = [], 0, 0, 0
    for number, count in enumerate(counts, start=1):
        rows += count
        if rows >= block_size or (number == len(counts) and rows):
            shards.append(Shard("parquet", name, rows, first, start, number - start))
            start, first, rows = number, first + rows, 0
    return shards


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
    if not is_struct and kind not in (
        pa.binary(),
        pa.large_binary(),
        pa.string(),
        pa.large_string(),
    ):
        raise DataError(
            f"{name}: the column {known[0]} holds {kind}, not the bytes or the paths of images: "
            "name another one with --column."
        )
    return known[0]


def read_shard(
    shard: Shard, *, root: str, column: str | None, max_pixels: int
) -> Iterator[StoredImage]:
    """The images of a shard, in order; reading one that is broken raises ``OSError`` with the reason.

    Args:
        shard: What to read.
        root: Absolute folder that relative local names start from.
        column: As for :func:`find_shards`.
        max_pixels: Most pixels of an image; a file that is larger than such an image uncompressed is
            refused without reading it.
    """
    if shard.kind == "file":
        yield _stored(shard.source, root, max_pixels)
    elif shard.kind == "tar":
        yield from _from_tar(shard, root, max_pixels)
    else:
        yield from _from_parquet(shard, root, column, max_pixels)


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
                    raise OSError(_TOO_LARGE)
                content: bytes = handle.read()
                return content
        except Exception as error:  # filesystems of fsspec raise errors of any HTTP library
            raise OSError(reason_of(error)) from error

    return StoredImage(source, read)


def read_already(name: str, outcome: bytes | Exception) -> StoredImage:
    """An image whose file was read: ``read`` returns the bytes or raises the error that came of it."""

    def read() -> bytes:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return StoredImage(name, read)


def _unreadable(name: str, reason: str) -> StoredImage:
    return read_already(name, OSError(reason))


def find_origin(inputs: Sequence[str], *, root: str, column: str | None) -> bytes:
    """The value of :data:`ORIGIN` for a run's own table of failures.

    Args:
        inputs: Inputs of the run. If the only one is a table of failures, its own value is kept.
        root: Folder of the run that relative local names start from.
        column: Column of the run's Parquet inputs.
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
    root: str  # folder that its name starts from
    column: str | None  # of the Parquet file, if its name is that of a row in one


def _from_parquet(
    shard: Shard, root: str, column: str | None, max_pixels: int
) -> Iterator[StoredImage]:
    """An image for each row; a row may name a member of an archive or a row of another Parquet file."""
    for file, rows in groupby(_rows(shard, root, column), _file_around):
        if not file:
            yield from (_image(shard.source, row, max_pixels) for row in rows)
            continue
        first, *others = rows
        wanted = Counter(str(row.value) for row in (first, *others))
        yield from _from_inside(file, wanted, first.root, first.column, max_pixels)


def _file_around(row: _Row) -> str:
    """The archive or Parquet file in which the named image is; empty for any other row."""
    found = _INSIDE.fullmatch(row.value) if isinstance(row.value, str) else None
    if found is None:
        return ""
    place = _place(found[0], row.root)
    # The name may also be that of an ordinary file.
    return "" if not is_uri(place) and os.path.lexists(place) else found[1]


def _image(source: str, row: _Row, max_pixels: int) -> StoredImage:
    name = f"{source}#{row.number}"
    if row.value is None:
        return _unreadable(name, "the row holds nothing")
    if not isinstance(row.value, str):
        return read_already(name, row.value)
    if row.value.lower().endswith(_TARS):
        reason = "an archive is not an image: give the archive itself as an input"
        return _unreadable(row.value, reason)
    return _stored(row.value, row.root, max_pixels)


def _from_inside(
    file: str, wanted: Counter[str], root: str, column: str | None, max_pixels: int
) -> Iterator[StoredImage]:
    """The wanted images of an archive or a Parquet file, each as often as it is wanted."""
    is_tar = file.lower().endswith(_TARS)
    found = (
        ((image.name, image) for image in _from_tar(Shard("tar", file, None), root, max_pixels))
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
    yield from (_unreadable(name, "there is no image of this name") for name in wanted.elements())


def _from_rows(
    file: str, wanted: Counter[str], root: str, column: str | None, max_pixels: int
) -> Generator[tuple[str, StoredImage]]:
    try:
        shards = _row_groups(_place(file, root), column, 1)
    except DataError as error:
        yield file, _unreadable(file, str(error))
        return
    for shard in shards:
        numbers = range(shard.first, shard.first + (shard.count or 0))
        if any(f"{file}#{number}" in wanted for number in numbers):
            for row in _rows(replace(shard, source=file), root, column):
                yield f"{file}#{row.number}", _image(file, row, max_pixels)


def _rows(shard: Shard, root: str, column: str | None) -> Iterator[_Row]:
    """The rows of a shard in order, always as many as its ``count``."""
    done, reason = 0, "the file has fewer rows than when the run began"
    total = shard.count or 0
    try:
        # Without pre_buffer a row group streams through; with it, all its images would be held.
        with (
            open_file(_place(shard.source, root)) as handle,
            pq.ParquetFile(handle, pre_buffer=False, buffer_size=1 << 20) as file,
        ):
            name = find_column(file.schema_arrow, column, shard.source)
            origin = json.loads((file.schema_arrow.metadata or {}).get(ORIGIN, b"{}"))
            start, inner = origin.get("root", root), origin.get("column")
            batches = file.iter_batches(
                batch_size=_ROWS_AT_ONCE,
                row_groups=list(range(shard.group, shard.group + shard.groups)),
                columns=[name],
            )
            for batch in batches:
                values = batch.column(0)
                if pa.types.is_struct(values.type):
                    values = values.field("bytes")
                for value in values.to_pylist()[: total - done]:
                    done += 1
                    yield _Row(shard.first + done - 1, value, start, inner)
    except Exception as error:  # whatever it is, every row is counted, as an image or as a failure
        reason = reason_of(error)
    for number in range(shard.first + done, shard.first + total):
        yield _Row(number, OSError(reason), root, column)


class _Member(tarfile.TarInfo):
    """Refuses an archive that is cut off or damaged: ``tarfile`` takes both for its regular end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        if len(buf) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("its end is missing")
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if not any(buf):  # the regular end
                raise
            raise tarfile.ReadError(str(error)) from error


def _from_tar(shard: Shard, root: str, max_pixels: int) -> Iterator[StoredImage]:
    """Members with an image's name; an error of the archive itself counts as one more failed image."""
    try:
        with (
            open_file(_place(shard.source, root)) as handle,
            tarfile.open(fileobj=handle, mode="r|*", tarinfo=_Member) as archive,  # never seeks
        ):
            for member in archive:
                name = PurePosixPath(member.name)
                is_link = member.islnk() or member.issym()
                if not (member.isfile() or is_link) or name.name.startswith("."):
                    continue
                if not _has_image_suffix(name.name):
                    continue
                source = f"{shard.source}#{member.name}"
                if is_link:  # the file that it links to was read before, or is not in the archive
                    yield _unreadable(source, f"a link to {member.linkname}, not an image")
                    continue
                if member.size > 16 * max_pixels:
                    yield _unreadable(source, _TOO_LARGE)
                    continue
                content: Any = archive.extractfile(member)  # of a regular file, never None
                yield read_already(source, content.read())
    except Exception as error:  # as above
        reason = f"the archive is damaged or cannot be read: {reason_of(error)}"
        yield _unreadable(shard.source, reason)
