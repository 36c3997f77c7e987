"""Writing outputs so that an interruption leaves the old file or the new one, never half of one."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from facial_keypoints.errors import OutputError

__all__ = ["alone_in", "atomic_path", "prepare_directory", "read_json", "write_json", "write_text"]


@contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``target`` that replaces it if the block succeeds.

    The temporary name keeps the target's suffix, since writers choose their format by it.

    Raises:
        OutputError: The disk is full or the folder cannot be written.
    """
    target = Path(target)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{target.name}.", suffix="".join(target.suffixes[-2:]), dir=target.parent
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp makes files private; outputs are ordinary files
        temporary.replace(target)
    except OSError as error:
        raise _output_error(target, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _output_error(target: Path, error: OSError) -> OutputError:
    if error.errno == errno.ENOSPC:
        return OutputError(
            f"no space left on the disk while writing {target}: free some and run again."
        )
    reason = error.strerror or str(error)
    return OutputError(f"cannot write {target} ({reason}): choose another output.")


def prepare_directory(directory: Path, *, force: bool = False, keep: bool = False) -> None:
    """Make an output folder, refusing one that holds something.

    Args:
        directory: The folder.
        force: Empty it first.
        keep: Accept what it holds (a run to be resumed).

    Raises:
        OutputError: It exists and is not empty, is a file, or cannot be made.
    """
    try:
        if directory.is_dir():
            if any(directory.iterdir()) and not keep:
                if not force:
                    raise OutputError(
                        f"the output folder {directory} exists already: choose another one, continue it "
                        "with --resume, or replace it with --force."
                    )
                _refuse_to_empty(directory)
                shutil.rmtree(directory)
        elif directory.exists():
            raise OutputError(f"{directory} is a file, not a folder: choose another output.")
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _output_error(directory, error) from error


@contextmanager
def alone_in(directory: Path, *, patience: float) -> Iterator[None]:
    """Keep other processes that ask the same out of a folder.

    The lock goes with the process that holds it, however that ends. Where folders cannot be locked
    (Windows, some network disks) nothing is kept out.

    Args:
        directory: The folder; made if it is not there.
        patience: Seconds to wait for another process to leave.

    Raises:
        OutputError: Another process is still in it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _output_error(directory, error) from error
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        until = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise OutputError(
                        f"another process is at work in {directory}: wait for it, or choose another folder."
                    ) from error
                time.sleep(0.5)
                continue
            except OSError:  # a disk without locks
                pass
            break
        yield
    finally:
        os.close(handle)


def refuse_existing(file: Path, *, force: bool = False) -> None:
    """Refuse an output file that is there already, before any work is done.

    Raises:
        OutputError: It exists and ``force`` is False.
    """
    if file.exists() and not force:
        raise OutputError(
            f"{file} exists already: choose another name, or replace it with --force."
        )


def _refuse_to_empty(directory: Path) -> None:
    """Guard --force against a slip of the finger: a home folder is no output folder."""
    resolved = directory.resolve()
    if resolved in (Path.home(), Path.cwd(), *Path.cwd().parents):
        raise OutputError(f"{directory} is not a folder of results: --force does not empty it.")


def _finite(value: Any) -> Any:
    """JSON has no NaN: write null instead."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text under a temporary name and rename it."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write JSON under a temporary name and rename it; NaN becomes null."""
    write_text(
        path, json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    )


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not JSON.
    """
    return json.loads(path.read_text(encoding="utf-8"))
