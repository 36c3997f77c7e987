"""Labels of any format read, and written in another: files in, files out. Knows no HTTP.

The formats are those of :mod:`facial_keypoints.data.formats`, which work on folders: the files lie in one for as long
as they are converted, in memory where the system has such a place.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from facial_keypoints.data.formats import is_kaggle, read_labels, write_labels
from facial_keypoints.errors import DataError, FacialKeypointsError
from facial_keypoints.schemas import load_schema
from facial_keypoints.types import KeypointSchema

__all__ = ["Converted", "convert_labels"]

_MEMORY = "/dev/shm"  # of Linux


@dataclass(frozen=True)
class Converted:
    """Labels that were converted.

    Args:
        schema: Their keypoints, as the JSON file that ``--schema`` takes.
        files: The text of each file that was written, by its path.
        read: What was read and what was left out, a sentence each.
        lost: What the new format cannot hold, a sentence each.
    """

    schema: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)
    read: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def convert_labels(
    files: Sequence[tuple[str, bytes]],
    to: str | None,
    images: Mapping[str, tuple[int, int]],
    schema: bytes | None = None,
) -> Converted:
    """Read labels, and write them in another format.

    Args:
        files: Path and content of each file of the labels; or a schema alone, in YAML.
        to: A key of ``WRITERS``; ``None`` to read only.
        images: (width, height) of the upright images by their names. Formats that count in shares of the image, or
            from its lower edge, need them; points that were labelled at another size are scaled.
        schema: Content of a schema in JSON; told from the labels when left out.

    Raises:
        DataError: The labels cannot be read or written; the sentence names files as they were sent.
    """
    place = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    try:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            given, written = Path(folder, "labels"), Path(folder, "written")
            written.mkdir()
            paths = [_put(given, name, content) for name, content in files]
            for name, (width, height) in images.items():
                _put(given, name, f"P5 {width} {height} 255\n".encode())  # an image's header alone
            source = paths[0] if len(paths) == 1 else given
            try:
                return _convert(source, given, written, to, schema)
            except FacialKeypointsError as error:
                raise DataError(_without(given, str(error))) from error
    except (OSError, ValueError, RecursionError) as error:  # odd names, a full disk, deep JSON
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"the labels cannot be converted ({reason}).") from error


def _convert(
    source: Path, given: Path, written: Path, to: str | None, schema: bytes | None
) -> Converted:
    if source.suffix.lower() in (".yaml", ".yml") and b"kpt_shape" not in source.read_bytes():
        return Converted(_as_mapping(load_schema(source)))
    if is_kaggle(source):
        raise DataError(
            f"{source} holds the pixels of faces that are cut out: 'facial-keypoints data convert FILE --to csv -o "
            "faces' makes images and labels of it."
        )
    wanted = None
    if schema is not None:
        file = written.with_name("schema.json")
        file.write_bytes(schema)
        wanted = load_schema(file)
    labels = read_labels(source, schema=wanted, within=given)
    read = [_without(given, line) for line in labels.summary()]
    lost = [] if to is None else write_labels(labels, written, to, copy=False)
    texts = {
        file.relative_to(written).as_posix(): file.read_text(encoding="utf-8")
        for file in sorted(written.rglob("*"))
        if file.is_file()
    }
    assert labels.schema is not None  # read_labels decides it
    return Converted(_as_mapping(labels.schema), texts, read, lost)


def _without(folder: Path, text: str) -> str:
    """A sentence that names files as they were sent."""
    return text.replace(f"{folder}/", "").replace(str(folder), "this folder")


def _put(folder: Path, name: str, content: bytes) -> Path:
    """Write a file at its path below a folder, whatever the path says."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    file = folder.joinpath(*(p for p in parts if not re.fullmatch(r"/+|\.\.|[A-Za-z]:", p)))
    if file == folder:
        file = folder / "labels"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def _as_mapping(schema: KeypointSchema) -> dict[str, Any]:
    names = schema.keypoint_names
    return {
        "name": schema.name,
        "keypoints": list(names),
        "pairs": [[names[i], names[j]] for i, j in enumerate(schema.swap) if i < j],
        "norm_pair": list(schema.norm_pair),
        "edges": [[names[i], names[j]] for i, j in schema.edges],
    }
