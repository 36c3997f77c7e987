"""Parsed data kept between runs, so the second load of a big text file is instant.

One file per source in the user's cache folder (``FACIAL_KEYPOINTS_CACHE`` overrides it), holding
plain numpy arrays without pickles. An entry counts only while the source's path, size and time of
change are the ones it was made from and its checksum is right; anything else is silently read anew.
A cache that cannot be written costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.types import FaceDataset

__all__ = ["cache_folder", "data_digest", "read_cache", "write_cache"]

_LOG = logging.getLogger(__name__)
_LAYOUT = 1  # raise when the stored arrays change their meaning: old entries are then ignored

Arrays = dict[str, NDArray[np.generic]]


def cache_folder() -> Path:
    """Where entries are kept: ``FACIAL_KEYPOINTS_CACHE`` or the platform's user cache folder."""
    if chosen := os.environ.get("FACIAL_KEYPOINTS_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        place = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        place = Path.home() / "Library" / "Caches"
    else:
        place = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(place, "facial-keypoints")


def _entry(source: Path, options: tuple[str, ...]) -> Path:
    key = "\0".join((str(source.resolve()), *options))
    return (
        cache_folder() / f"{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()}.fkp"
    )


def _stamp(source: Path, options: tuple[str, ...]) -> dict[str, object]:
    status = source.stat()
    return {
        "layout": _LAYOUT,
        "source": os.fsencode(source.resolve()).hex(),
        "options": list(options),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
    }


def read_cache(source: Path, options: tuple[str, ...]) -> Arrays | None:
    """The arrays stored for a source file, or ``None`` when there are none that still hold.

    Args:
        source: The file that was parsed.
        options: Everything else that the result depends on.
    """
    try:
        stamp = _stamp(source, options)
        with _entry(source, options).open("rb") as handle:
            head = json.loads(handle.readline(1 << 16))
            if any(head.get(key) != value for key, value in stamp.items()):
                return None
            arrays: Arrays = {}
            crc = 0
            for name in head["names"]:
                arrays[name] = np.load(handle, allow_pickle=False)
                crc = zlib.crc32(np.ascontiguousarray(arrays[name]).data, crc)
            return arrays if crc == head["crc"] else None
    except (
        OSError,
        EOFError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        MemoryError,
    ) as error:
        if not isinstance(error, FileNotFoundError):
            _LOG.debug("cache entry of %s ignored: %s", source, error)
        return None


def write_cache(source: Path, options: tuple[str, ...], arrays: Arrays) -> None:
    """Store arrays for a source file; failure (full disk, read-only folder) is only logged.

    Args:
        source: The file that was parsed.
        options: Everything else that the result depends on.
        arrays: What to store, by name.
    """
    temporary = ""
    try:
        crc = 0
        for value in arrays.values():
            crc = zlib.crc32(np.ascontiguousarray(value).data, crc)
        head = {**_stamp(source, options), "names": list(arrays), "crc": crc}
        target = _entry(source, options)
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".new-", dir=target.parent)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(json.dumps(head).encode() + b"\n")
            for value in arrays.values():
                np.save(handle, value, allow_pickle=False)
        Path(temporary).replace(target)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        _LOG.warning("the cache of %s was not written: %s", source, error)


def data_digest(dataset: FaceDataset) -> str:
    """sha256 over images, labels and label styles: names training data in a model card.

    Args:
        dataset: N faces; their order counts, their ids and groups do not.
    """
    digest = hashlib.sha256()
    keypoints = dataset.keypoints
    digest.update(f"{dataset.images.shape} {dataset.schema.keypoint_names}".encode())
    digest.update(np.ascontiguousarray(dataset.images).data)
    # One bit pattern for every NaN, one byte order everywhere.
    xy = np.where(np.isnan(keypoints.xy), np.float32(np.nan), keypoints.xy).astype("<f4")
    digest.update(np.ascontiguousarray(xy).data)
    digest.update("\0".join(dataset.styles.tolist()).encode())
    return digest.hexdigest()
