"""Files of this machine or of any filesystem that pyarrow or fsspec opens, behind one small class.

A name with ``scheme://`` goes to pyarrow's own filesystem for it (``s3``, ``gs``, ``abfs``, ``hdfs``,
``file``), else to fsspec's; anything else is a local path. Names are taken literally: no query and no
percent signs are read into them, so endpoints and credentials come from the environment
(``AWS_ENDPOINT_URL``, ``AWS_PROFILE``, ``GOOGLE_APPLICATION_CREDENTIALS`` ...).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from facial_keypoints.errors import DataError, OutputError
from facial_keypoints.files import MARKER, atomic_path, marker, output_folder

__all__ = ["Folder", "is_linked_folder", "is_uri", "list_folder", "open_file"]

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# Of these a put is seen whole or not at all; a rename would be a copy.
_OBJECT_STORES = ("s3", "gcs", "abfs")

STORAGE_ERRORS = (OSError, pa.ArrowException)
"""What filesystems raise; pyarrow's own errors for bad names are no ``OSError``."""


def is_uri(name: str) -> bool:
    """Whether a name goes to a filesystem by its scheme, instead of being a local path."""
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
    """Names below a folder, one level, in order, and whether each is a folder; hidden ones left out.

    Raises:
        DataError: It cannot be listed, or is no folder.
    """
    system, path = _resolve(name)
    try:
        found = system.get_file_info(pafs.FileSelector(path, recursive=False))
    except STORAGE_ERRORS as error:
        raise DataError(f"cannot look into {name} ({_reason(error)}).") from error
    for info in sorted(found, key=lambda info: str(info.base_name)):
        if not info.base_name.startswith("."):
            yield f"{name.rstrip('/')}/{info.base_name}", info.type == pafs.FileType.Directory


def kind_of(name: str) -> str:
    """``file``, ``folder`` or ``missing``."""
    try:
        system, path = _resolve(name)
        info = system.get_file_info(path)
    except STORAGE_ERRORS as error:
        raise DataError(f"cannot look for {name} ({_reason(error)}).") from error
    if info.type == pafs.FileType.Directory:
        return "folder"
    return "missing" if info.type == pafs.FileType.NotFound else "file"


def is_linked_folder(name: str) -> bool:
    """Whether a folder is a link, which may lead back above itself; only this machine's disks have them."""
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
    """A filesystem, and what its paths begin with; opened once, since that may ask the network."""
    address = f"{scheme}://{host}/"
    try:
        system, root = pafs.FileSystem.from_uri(address)
    except pa.ArrowInvalid:
        system, root = _fsspec(address)
    except STORAGE_ERRORS as error:
        raise DataError(f"cannot open {address} ({_reason(error)}).") from error
    return system, root


def _fsspec(address: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        system, root = url_to_fs(address)
    except (ValueError, ImportError, OSError) as error:
        raise DataError(
            f"cannot open {address} ({_reason(error)}): use a scheme of pyarrow (s3, gs, abfs, hdfs, "
            "file), or install the fsspec package for it."
        ) from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(system)), root


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split())[:160] or type(error).__name__


class Folder:
    """The output folder: files in it appear whole or not at all.

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
        """Make the folder for what the block writes; see ``files.output_folder``.

        At a URI, where folders cannot be renamed, the old content is removed at once.

        Raises:
            OutputError: It may not be written to, or cannot be made.
        """
        if self._local:
            with output_folder(self.name, verb="batch", inputs=inputs, force=force, resume=resume):
                yield
            return
        try:
            if not self.is_empty():
                if not self.exists(MARKER):
                    raise OutputError(
                        f"the output folder {self.name} exists already and was not made by "
                        "facial-keypoints: choose another folder."
                    )
                if not (resume or force):
                    raise OutputError(
                        f"the output folder {self.name} exists already: choose another one, continue "
                        "it with --resume, or replace it with --force."
                    )
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
        # Not hidden under the final name's folder: what lists parts must not meet half of one.
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
        with self._system.open_input_file(f"{self._root}/{name}") as handle:
            content: bytes = handle.read()
        return content

    def open(self, name: str) -> Any:
        """Open a file for reading at any offset."""
        return self._system.open_input_file(f"{self._root}/{name}")

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        kind = self._system.get_file_info(f"{self._root}/{name}").type
        return bool(kind == pafs.FileType.File)

    def is_empty(self) -> bool:
        """Whether there is nothing in it, or no such folder.

        Raises:
            OutputError: It is a file, or cannot be looked into.
        """
        try:
            selector = pafs.FileSelector(self._root, allow_not_found=True)
            return not self._system.get_file_info(selector)
        except STORAGE_ERRORS as error:
            raise self._refused("", error) from error

    def names(self, folder: str) -> list[str]:
        """Names of the finished files in a folder of it, in order; none if there is no such folder."""
        selector = pafs.FileSelector(f"{self._root}/{folder}", allow_not_found=True)
        found = (str(info.base_name) for info in self._system.get_file_info(selector))
        return sorted(name for name in found if not name.startswith("."))

    def tidy(self, folder: str) -> None:
        """Remove what killed processes left half written in a folder of it."""
        if self._local:
            for path in Path(self.name, folder).glob(".*"):
                path.unlink(missing_ok=True)

    def _refused(self, name: str, error: Exception) -> OutputError:
        return OutputError(
            f"cannot write {self.name}/{name} ({_reason(error)}): choose another output, or mend it "
            "and run again with --resume."
        )
