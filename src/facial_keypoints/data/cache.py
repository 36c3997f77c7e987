"""Parsed data kept between runs, so the second load of a big text file is instant.

One ``.npz`` file per source in the user's cache folder (``FACIAL_KEYPOINTS_CACHE`` overrides it). An entry
counts only while the source's path, size and time of change are the ones it was made from and its
checksums are right; otherwise the source is read again. A cache that cannot be written costs time
and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.errors import OutputError
from facial_keypoints.files import atomic_path
from facial_keypoints.types import FaceDataset

__all__ = ["data_digest", "read_cache", "write_cache"]

_LOG = logging.getLogger(__name__)
_LAYOUT = 2  # raise when the stored arrays change their meaning: old entries are then ignored

Arrays = dict[str, NDArray[np.generic]]


def _cache_folder() -> Path:
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
    key = "\0".join((str(source.resolve()), *options)).encode(errors="surrogateescape")
    return _cache_folder() / f"{hashlib.sha256(key).hexdigest()}.npz"


def _stamp(source: Path, arrays: Arrays) -> str:
    """What must hold for an entry to count; the entry's name covers path and options."""
    status = source.stat()
    return json.dumps([_LAYOUT, status.st_size, status.st_mtime_ns, sorted(arrays)])


def read_cache(source: Path, options: tuple[str, ...]) -> Arrays | None:
    """The arrays stored for a source file, or ``None`` when there are none that still hold.

    Args:
        source: The file that was parsed.
        options: Everything else that the result depends on.
    """
    try:
        with _entry(source, options).open("rb") as handle:
            entry = np.load(handle, allow_pickle=False)
            arrays: Arrays = {name: entry[name] for name in entry.files}
    except FileNotFoundError:
        return None
    except Exception as error:  # what a damaged zip raises has no common base but Exception
        _LOG.debug("cache entry of %s ignored: %s", source, error)
        return None
    return arrays if str(arrays.pop("stamp", "")) == _stamp(source, arrays) else None


def write_cache(source: Path, options: tuple[str, ...], arrays: Arrays) -> None:
    """Store arrays for a source file; failure (full disk, read-only folder) is only logged.

    Args:
        source: The file that was parsed.
        options: Everything else that the result depends on.
        arrays: What to store, by name.
    """
    try:
        with atomic_path(_entry(source, options)) as temporary:
            stamp = np.array(_stamp(source, arrays))
            np.savez(temporary, stamp=stamp, **arrays)  # type: ignore[arg-type]
    except (OSError, OutputError) as error:
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
