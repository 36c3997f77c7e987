"""Writing outputs so that an interruption leaves the old file or the new one, never half of one."""

from __future__ import annotations

import csv
import errno
import glob
import io
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from facial_keypoints._version import __version__
from facial_keypoints.errors import OutputError

__all__ = [
    "alone_in",
    "atomic_path",
    "make_folder",
    "mark_folder",
    "output_folder",
    "read_json",
    "refuse_existing",
    "refuse_inputs",
    "write_csv",
    "write_json",
    "write_text",
]


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
        temporary.chmod(
            0o666 & ~_umask()
        )  # mkstemp makes files private; outputs are ordinary files
        temporary.replace(target)
    except OSError as error:
        raise _output_error(target, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _output_error(target: Path, error: OSError) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"no space left on the disk while writing {target}: free some and run again."
        )
    reason = error.strerror or str(error)
    return OutputError(f"cannot write {target} ({reason}): choose another output.")


MARKER = ".facial-keypoints.json"
"""The file that tells the folders that this package made."""


@contextmanager
def output_folder(
    directory: Path | str,
    *,
    verb: str,
    inputs: Iterable[str | os.PathLike[str] | None] = (),
    force: bool = False,
    resume: bool | None = None,
) -> Iterator[Path]:
    """Yield the folder to write an output into; what was there before stays until the new one is whole.

    A verb that cannot be resumed writes into a hidden folder beside ``directory``, which takes the
    place of the old one when the block ends, and is removed when it fails. A verb that can be resumed
    writes into ``directory`` itself, and the old folder waits beside it as ``.NAME.old1``: it is
    removed when the block ends, put back when the block fails before anything was computed, and
    else kept until a later run with ``resume`` ends.

    Args:
        directory: The folder that is wanted.
        verb: What makes it; noted in the folder's marker.
        inputs: Files and folders that are read; what is no path of this machine is passed over.
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
        _refuse_held(place, directory, force=force, resume=resume)
    # An empty folder, which may be a disk of its own, is filled where it is.
    if resume is None and (held or not place.is_dir()):
        making = _built_beside(place, verb)
    else:
        making = _filled(place, verb, keep=held and bool(resume), resumable=resume is not None)
    with making as folder:
        try:
            yield folder
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise _output_error(place, error) from error
    for each in place.parent.glob(f".{glob.escape(place.name)}.old[0-9]*"):
        if (each / MARKER).is_file():
            shutil.rmtree(each, ignore_errors=True)


@contextmanager
def _built_beside(place: Path, verb: str) -> Iterator[Path]:
    """A hidden folder beside ``place`` that takes its place when the block ends."""
    with _explained(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    old = None
    try:
        mark_folder(fresh, verb)
        yield fresh
        with _explained(place):
            fresh.chmod(0o777 & ~_umask())  # mkdtemp makes it private
            old = _set_aside(place)
            fresh.replace(place)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        if old is not None and not place.exists():
            old.replace(place)
        raise


@contextmanager
def _filled(place: Path, verb: str, *, keep: bool, resumable: bool) -> Iterator[Path]:
    """``place`` itself; what it held waits beside it unless it is to be kept."""
    was_empty = place.is_dir() and not any(place.iterdir())
    old = None
    with _explained(place):
        if not (keep or was_empty):
            old = _set_aside(place)
    try:
        mark_folder(place, verb)
        yield place
    except BaseException as error:
        if not keep and not (resumable and _computed(place)):
            _empty(place)
            if not was_empty:
                place.rmdir()
            if old is not None:
                old.replace(place)
        elif old is not None:
            error.add_note(f"What the folder held before is kept in {old}.")
        raise


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
        inputs: Files and folders that are read; what is no path of this machine is passed over.

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


def _refuse_held(place: Path, directory: Path | str, *, force: bool, resume: bool | None) -> None:
    """Refuse a folder that holds something, unless it is ours and may be continued or replaced."""
    if not (place / MARKER).is_file():
        raise OutputError(
            f"the output folder {directory} exists already and was not made by facial-keypoints: choose "
            "another folder."
        )
    if resume:
        return
    if not force:
        go_on = "" if resume is None else " continue it with --resume,"
        raise OutputError(
            f"the output folder {directory} exists already: choose another one,{go_on} or replace it with "
            "--force."
        )
    if place in (Path.cwd(), *Path.cwd().parents) or place.is_mount():
        raise OutputError(
            f"--force does not replace {directory}, which is the current folder, holds it, or is a "
            "disk: choose another folder."
        )


def _set_aside(place: Path) -> Path | None:
    if not place.exists():
        return None
    names = (place.with_name(f".{place.name}.old{number}") for number in count(1))
    return place.rename(next(name for name in names if not name.exists()))


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Say in a sentence why something cannot be written."""
    try:
        yield
    except OSError as error:
        raise _output_error(target, error) from error


def _computed(directory: Path) -> bool:
    """Whether a folder holds more than the description of what was to be done."""
    return any(p.is_file() and p.suffix not in {".json", ".txt"} for p in directory.rglob("*"))


def _empty(directory: Path) -> None:
    for each in directory.iterdir():
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each, ignore_errors=True)
        else:
            each.unlink(missing_ok=True)


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
    with _explained(directory):
        directory.mkdir(parents=True, exist_ok=True)
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


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Write rows as CSV under a temporary name and rename it."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    write_text(path, buffer.getvalue())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not JSON.
    """
    return json.loads(path.read_text(encoding="utf-8"))
