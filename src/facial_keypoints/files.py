"""Writing outputs so that an interruption leaves the old file or the new one, never half of one."""

from __future__ import annotations

import errno
import glob
import json
import logging
import math
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from facial_keypoints._version import __version__
from facial_keypoints.errors import OutputError

__all__ = [
    "FULL_DISK",
    "atomic_path",
    "json_safe",
    "lock_folder",
    "make_folder",
    "mark_folder",
    "output_folder",
    "read_json",
    "refuse_existing",
    "refuse_folder",
    "refuse_inputs",
    "write_json",
    "write_text",
]


@contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``target`` that replaces it if the block succeeds.

    The temporary name keeps the target's suffix, since writers choose their format by it, and is short
    however long the target's name is.

    Raises:
        OutputError: The disk is full or the folder cannot be written.
    """
    target = Path(target)
    temporary = _hidden_beside(target, "".join(target.suffixes[-2:]))
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:  # its name is known before it is made: whenever Ctrl-C comes, it is removed
            temporary.touch(exist_ok=False)
            yield temporary
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def _hidden_beside(target: Path, suffix: str = "") -> Path:
    """A new hidden path in the target's folder."""
    return target.with_name(f".{secrets.token_hex(8)}{suffix if len(suffix) < 20 else ''}")


@contextmanager
def _explained(target: Path, *, only_full: bool = False) -> Iterator[None]:
    """Raise an OutputError with one sentence instead of an OSError, or of that of a full disk only."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK:
            raise OutputError(
                f"no space left on the disk while writing {target}: free some and run again."
            ) from error
        if only_full:
            raise
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write {target} ({reason}): choose another output.") from error


FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the errors of a disk or quota without space."""

_LOG = logging.getLogger(__name__)

MARKER = ".facial-keypoints.json"
"""Name of the file that marks a folder as made by this package."""


@contextmanager
def output_folder(
    directory: Path | str,
    *,
    verb: str,
    inputs: Iterable[str | os.PathLike[str] | None] = (),
    force: bool = False,
    resume: bool | None = None,
) -> Iterator[Path]:
    """Yield the folder to write an output into; what was there before stays until the new one is complete.

    A verb that cannot be resumed writes into a hidden folder beside ``directory``, which takes the
    place of the old one when the block ends, and is removed when it fails. A verb that can be resumed
    writes into ``directory`` itself, and the old folder waits beside it as ``.NAME.old1``: it is
    removed when the block ends, put back when the block fails before anything was computed, and
    else kept until a later run with ``resume`` ends.

    Args:
        directory: The folder that is wanted.
        verb: What makes it; noted in the folder's marker.
        inputs: Files and folders that are read; names that are no path of this machine are ignored.
        force: Replace a folder that this package made.
        resume: Continue what the folder holds; ``None`` for a verb that cannot be resumed.

    Raises:
        OutputError: It is, holds or lies in an input, holds something and neither ``force`` nor
            ``resume`` is given, was not made by this package, is a file, or cannot be written.
    """
    refuse_inputs(directory, *inputs)
    place = Path(directory).resolve()
    held = _holds_something(place)
    if held:
        has_marker = (place / MARKER).is_file()
        refuse_folder(directory, has_marker=has_marker, force=force, resume=resume)
        if not resume and (place in (Path.cwd(), *Path.cwd().parents) or place.is_mount()):
            raise OutputError(
                f"--force does not replace {directory}, which is the current folder, holds it, or is a "
                "disk: choose another folder."
            )
    was_empty = place.is_dir() and not held
    # An empty folder, which may be a disk of its own, is filled where it is.
    beside = resume is None and not was_empty
    old, folder = None, place
    with _explained(place):
        if beside:
            place.parent.mkdir(parents=True, exist_ok=True)
            folder = _hidden_beside(place)
        elif held and not resume:
            old = _set_aside(place)
    try:
        mark_folder(folder, verb)
        with _explained(place, only_full=True):
            yield folder
        if beside:
            with _explained(place):
                old = _set_aside(place) if place.exists() else None
                folder.replace(place)
    except BaseException as error:
        if (held and resume) or (resume is not None and _computed(folder)):
            if old is not None:
                error.add_note(f"What the folder held before is kept in {old}.")
            raise
        _remove(folder, itself=not was_empty)
        if old is not None and not place.exists():
            old.replace(place)
        raise
    for each in place.parent.glob(f".{glob.escape(place.name)}.old[0-9]*"):
        if (each / MARKER).is_file():
            _remove(each, itself=True)


def mark_folder(directory: Path, verb: str) -> None:
    """Make a folder, if it is not there, and note that this package made it.

    Raises:
        OutputError: It cannot be written.
    """
    if not (directory / MARKER).is_file():
        write_json(directory / MARKER, marker(verb))


def marker(verb: str) -> dict[str, str]:
    """What the marker says of the verb that made a folder."""
    return {"made_by": f"facial-keypoints {__version__}", "verb": verb}


def refuse_inputs(output: Path | str, *inputs: str | os.PathLike[str] | None) -> None:
    """Refuse an output that would replace what is read, before any work is done.

    Args:
        output: File or folder to be written.
        inputs: Files and folders that are read; names that are no path of this machine are ignored.

    Raises:
        OutputError: ``output`` is or holds an input, or lies in a folder that is one.
    """
    place = Path(output).resolve()
    for each in inputs:
        if not each or not os.path.exists(each):  # noqa: PTH110  (a text too long for a path is none)
            continue
        source = Path(each).resolve()
        if place == source:
            word = "is"
        elif place in source.parents:
            word = "holds"
        elif source in place.parents:
            word = "lies in"
        else:
            continue
        raise OutputError(f"the output {output} {word} the input {each}: choose another output.")


def make_folder(directory: Path, *, add: bool) -> None:
    """Make a folder for files among which others may lie: nothing in it is ever removed.

    Args:
        directory: The folder.
        add: Accept one that holds something.

    Raises:
        OutputError: It holds something and ``add`` is False, is a file, or cannot be made.
    """
    if _holds_something(directory) and not add:
        raise OutputError(
            f"the output folder {directory} holds something already: choose another one, or add to it "
            "with --force."
        )
    with _explained(directory):
        directory.mkdir(parents=True, exist_ok=True)


def _holds_something(place: Path) -> bool:
    with _explained(place):
        if place.is_dir():
            return any(place.iterdir())
    if place.exists():
        raise OutputError(f"{place} is a file, not a folder: choose another output.")
    return False


def refuse_folder(
    directory: Path | str, *, has_marker: bool, force: bool, resume: bool | None
) -> None:
    """Refuse an output folder that holds something, unless it may be continued or replaced.

    Raises:
        OutputError: It has no :data:`MARKER`, so was not made by this package, or neither ``force`` nor ``resume`` is given.
    """
    if not has_marker:
        raise OutputError(
            f"the output folder {directory} exists already and was not made by facial-keypoints: choose "
            "another folder."
        )
    if not (force or resume):
        go_on = "" if resume is None else " continue it with --resume,"
        raise OutputError(
            f"the output folder {directory} exists already: choose another one,{go_on} or replace it with "
            "--force."
        )


def _set_aside(place: Path) -> Path:
    names = (place.with_name(f".{place.name}.old{number}") for number in count(1))
    return place.rename(next(name for name in names if not name.exists()))


def _computed(directory: Path) -> bool:
    """Whether a folder holds results, not only the settings that were to be run."""
    return any(p.is_file() and p.suffix not in {".json", ".txt"} for p in directory.rglob("*"))


def _remove(directory: Path, *, itself: bool) -> None:
    """Remove what is in a folder, as far as possible, and the folder ``itself``."""
    for each in [directory] if itself else [*directory.iterdir()]:
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each, ignore_errors=True)
        else:
            with suppress(OSError):
                each.unlink()


@contextmanager
def lock_folder(directory: Path) -> Iterator[None]:
    """Hold the lock of a folder while the block runs; wait, and say so, while another process holds it.

    The operating system releases the lock when the process ends, however it ends. Where folders
    cannot be locked (Windows, some network disks) the block runs without a lock.

    Args:
        directory: The folder; created if it does not exist.

    Raises:
        OutputError: The folder cannot be made.
    """
    with _explained(directory):
        directory.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _LOG.warning("waiting for another process that is writing to %s", directory)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # a disk without locks
            pass
        yield
    finally:
        os.close(handle)


def refuse_existing(file: Path, *, force: bool = False) -> None:
    """Refuse an output file that is there already or cannot be written, before any work is done.

    A missing folder is made.

    Raises:
        OutputError: It exists and ``force`` is False, is a folder, or its folder cannot be written.
    """
    if file.is_dir():
        raise OutputError(f"{file} is a folder, not a file: choose another name.")
    if file.exists() and not force:
        raise OutputError(
            f"{file} exists already: choose another name, or replace it with --force."
        )
    with _explained(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        trial = _hidden_beside(file)
        try:
            trial.touch(exist_ok=False)
        finally:
            trial.unlink(missing_ok=True)


def json_safe(value: Any) -> Any:
    """The value in types that JSON has.

    Arrays and tuples become lists, NaN and infinity ``None``, and what JSON does not know a text.
    """
    if hasattr(value, "tolist"):  # a numpy array or scalar
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text under a temporary name and rename it."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write :func:`json_safe` of a value under a temporary name and rename it."""
    write_text(
        path, json.dumps(json_safe(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    )


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not JSON.
    """
    return json.loads(path.read_text(encoding="utf-8"))
