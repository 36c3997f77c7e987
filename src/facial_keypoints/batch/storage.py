"""Files on this machine or on any filesystem that pyarrow or fsspec opens.

A name with ``scheme://`` is opened by pyarrow's own filesystem for it (``s3``, ``gs``, ``abfs``,
``hdfs``, ``file``), else by fsspec's; any other name is a local path. Names are taken literally, without
queries or percent escapes, so endpoints and credentials come from the environment
(``AWS_ENDPOINT_URL``, ``AWS_PROFILE``, ``GOOGLE_APPLICATION_CREDENTIALS`` ...).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from facial_keypoints.errors import DataError, OutputError
from facial_keypoints.files import MARKER, atomic_path, marker, output_folder, refuse_folder

__all__ = ["Folder", "is_linked_folder", "is_uri", "list_folder", "open_file", "reason_of"]

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# On these an upload appears complete or not at all, and a rename would be a copy.
_OBJECT_STORES = ("s3", "gcs", "abfs")

STORAGE_ERRORS = (OSError, pa.ArrowException)
"""What filesystems raise; pyarrow's errors for bad names are not ``OSError``."""


def is_uri(name: str) -> bool:
    """Whether a name has a scheme, so is not a local path."""
    return _URI.match(name) is not None


def open_file(name: str) -> Any:
    """Open a file for reading at any place (pyarrow's ``NativeFile``, which knows ``size()``).

    Raises:
        OSError: It is missing or cannot be read.
        pyarrow.ArrowException: The filesystem refuses the name.
        DataError: The filesystem itself cannot be opened.
    """
    system, path = _resolve(name)
    return system.open_input_file(path)


def list_folder(name: str) -> Iterator[tuple[str, bool]]:
    """Names in a folder, in order, and whether each is a folder; hidden ones are left out.

    Raises:
        DataError: It cannot be listed, or is not a folder.
    """
    system, path = _resolve(name)
    try:
        found = system.get_file_info(pafs.FileSelector(path, recursive=False))
    except STORAGE_ERRORS as error:
        raise DataError(f"cannot list {name} ({reason_of(error)}).") from error
    for info in sorted(found, key=lambda info: str(info.base_name)):
        if not info.base_name.startswith("."):
            yield f"{name.rstrip('/')}/{info.base_name}", info.type == pafs.FileType.Directory


def kind_of(name: str) -> str:
    """``file``, ``folder`` or ``missing``."""
    try:
        system, path = _resolve(name)
        info = system.get_file_info(path)
    except STORAGE_ERRORS as error:
        raise DataError(f"cannot find out what {name} is ({reason_of(error)}).") from error
    if info.type == pafs.FileType.Directory:
        return "folder"
    return "missing" if info.type == pafs.FileType.NotFound else "file"


def is_linked_folder(name: str) -> bool:
    """Whether a folder is a symbolic link, which may lead to a folder above; only local disks have them."""
    system, path = _resolve(name)
    return isinstance(system, pafs.LocalFileSystem) and Path(path).is_symlink()


def _resolve(name: str) -> tuple[Any, str]:
    if not is_uri(name):
        return pafs.LocalFileSystem(), os.fspath(Path(name).absolute())
    scheme, rest = name.split("://", 1)
    host, _, path = rest.partition("/")
    system, root = _system(scheme, host)
    return system, f"{root.rstrip('/')}/{path}" if path else root


@lru_cache(maxsize=64)
def _system(scheme: str, host: str) -> tuple[Any, str]:
    """A filesystem and the start of its paths; kept, since opening one may need the network."""
    address, remedy = f"{scheme}://{host}/", "."
    try:
        with suppress(pa.ArrowInvalid):  # not a scheme of pyarrow
            known: tuple[Any, str] = pafs.FileSystem.from_uri(address)
            return known
        remedy = ": use a scheme of pyarrow (s3, gs, abfs, hdfs, file), or install the fsspec package for it."
        from fsspec.core import url_to_fs

        system, root = url_to_fs(address)
        return pafs.PyFileSystem(pafs.FSSpecHandler(system)), root
    except (*STORAGE_ERRORS, ValueError, ImportError) as error:
        raise DataError(f"cannot open {address} ({reason_of(error)}){remedy}") from error


def reason_of(error: Exception) -> str:
    """What an error says, in one short line."""
    if isinstance(error, FileNotFoundError) and not error.errno:  # fsspec's gives the name only
        return "No such file"
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split())[:160] or type(error).__name__


class Folder:
    """The output folder: files in it appear complete or not at all.

    Locally a file is written under a temporary name, flushed to the disk and renamed; on object
    stores it is one put; elsewhere it is written under a temporary name and moved.

    Args:
        name: A local folder or a URI.
    """

    def __init__(self, name: str) -> None:
        self.name = name if is_uri(name) else os.fspath(Path(name).absolute())
        self._system, self._root = _resolve(self.name)
        self._local = not is_uri(name)

    @contextmanager
    def prepared(self, inputs: Sequence[str], *, force: bool, resume: bool) -> Iterator[None]:
        """Make the folder, as ``files.output_folder`` does.

        At a URI, where folders cannot be renamed, ``force`` removes the old content at once.

        Raises:
            OutputError: It exists and may not be replaced, or cannot be made.
        """
        if self._local:
            with output_folder(self.name, verb="batch", inputs=inputs, force=force, resume=resume):
                yield
            return
        try:
            if self._system.get_file_info(pafs.FileSelector(self._root, allow_not_found=True)):
                has_marker = self.exists(MARKER)
                refuse_folder(self.name, has_marker=has_marker, force=force, resume=resume)
                if not resume:
                    self._system.delete_dir_contents(self._root)
            self._system.create_dir(self._root, recursive=True)
        except STORAGE_ERRORS as error:
            raise self._refused("", error) from error
        self.write(MARKER, json.dumps(marker("batch")).encode())
        yield

    def write(self, name: str, content: bytes) -> None:
        """Put a file there.

        Raises:
            OutputError: The disk is full or the place cannot be written.
        """
        if self._local:
            with atomic_path(Path(self.name, name)) as temporary, temporary.open("wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())  # a machine that loses power must not leave an empty part
            return
        target = f"{self._root}/{name}"
        put = self._system.type_name in _OBJECT_STORES
        # The temporary file lies in the root, so that nobody who lists parts reads half of one.
        place = target if put else f"{self._root}/.{name.replace('/', '.')}.{os.getpid()}"
        try:
            if not put:
                self._system.create_dir(target.rpartition("/")[0], recursive=True)
            with self._system.open_output_stream(place) as stream:
                stream.write(content)
            if not put:
                self._system.move(place, target)
        except STORAGE_ERRORS as error:
            raise self._refused(name, error) from error

    def read(self, name: str) -> bytes:
        """Read a file.

        Raises:
            OSError: It is missing or cannot be read.
        """
        with self.open(name) as handle:
            content: bytes = handle.read()
        return content

    def open(self, name: str) -> Any:
        """Open a file for reading at any offset."""
        return self._system.open_input_file(f"{self._root}/{name}")

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        kind = self._system.get_file_info(f"{self._root}/{name}").type
        return bool(kind == pafs.FileType.File)

    def names(self, folder: str) -> list[str]:
        """Names of the finished files in a folder of it, in order; none if there is no such folder."""
        selector = pafs.FileSelector(f"{self._root}/{folder}", allow_not_found=True)
        found = (str(info.base_name) for info in self._system.get_file_info(selector))
        return sorted(name for name in found if not name.startswith("."))

    def tidy(self, folder: str) -> None:
        """Remove the temporary files of killed processes in a folder of it."""
        if self._local:
            for path in Path(self.name, folder).glob(".*"):
                path.unlink(missing_ok=True)

    def _refused(self, name: str, error: Exception) -> OutputError:
        return OutputError(
            f"cannot write {self.name}/{name} ({reason_of(error)}): choose another output, or make it "
            "writable and run again with --resume."
        )
