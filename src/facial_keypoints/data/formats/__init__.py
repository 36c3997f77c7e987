"""Labelled faces from any supported format, and into some.

A format is a module here with

- ``SUFFIXES`` and ``is_ours(path, content)``: whether a file is of this format;
- ``read(path, find)``: its :class:`~facial_keypoints.data.formats.common.Labels`, in pixels of the whole image;
- ``write(labels, folder)`` and ``HOLDS``, if it can be written: the labels of images that are there already, and
  what the format can hold.

To add one, write its module and name it in ``reading.READERS`` and, if it writes, in ``writing.WRITERS``. Kaggle's
files, whose images are text in the table, are those of :mod:`facial_keypoints.data.kaggle`. ``docs/formats.md`` says
how each format counts pixels.
"""

from __future__ import annotations

import logging
import os
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from facial_keypoints.data.formats.common import Face, Labels
from facial_keypoints.data.formats.faces import (
    Photo,
    faces_of,
    fit_images,
    in_schema,
    photos_of,
)
from facial_keypoints.data.formats.reading import READABLE, find_labels, read_labels, unreadable
from facial_keypoints.data.formats.writing import WRITERS, write_labels
from facial_keypoints.data.kaggle import COMPETITION, load_kaggle, write_table
from facial_keypoints.errors import DataError, OutputError
from facial_keypoints.io.images import write_image
from facial_keypoints.io.tables import column_names
from facial_keypoints.types import FaceDataset, Keypoints, KeypointSchema

__all__ = [
    "READABLE",
    "WRITERS",
    "is_kaggle",
    "load_dataset",
    "load_photos",
    "read_labels",
    "save_dataset",
    "write_labels",
]

_LOG = logging.getLogger(__name__)


def is_kaggle(path: Path) -> bool:
    """Whether a path holds Kaggle's files rather than labels of another format.

    Raises:
        DataError: It holds neither.
    """
    if path.is_dir():
        stems = [
            path / f"{stem}{suffix}" for stem in ("training", "test") for suffix in (".csv", ".zip")
        ]
        if any(file.is_file() for file in stems) or (path / COMPETITION).is_dir():
            return True
    if find_labels(path) is not None:
        return False
    zips = [path] if path.suffix.lower() == ".zip" else sorted(path.glob("*.zip"))
    if any(map(_may_be_kaggles, zips)):
        return True
    if path.suffix.lower() == ".csv" and path.is_file() and "Image" in column_names(path):
        return True
    if any(file.is_file() for file in zips):
        raise DataError(f"{zips[0]} is no zip of Kaggle's: unpack it, and give the folder.")
    raise unreadable(path)


def _may_be_kaggles(file: Path) -> bool:
    """Whether a zip holds one of Kaggle's files, or is damaged, which Kaggle's reader says."""
    try:
        with zipfile.ZipFile(file) as archive:
            return any(Path(name).stem in ("training", "test") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return file.is_file()


def load_dataset(
    path: str | os.PathLike[str],
    *,
    group_by: str | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    schema: KeypointSchema | None = None,
    images: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] | None = None,
) -> FaceDataset:
    """Read labelled faces, whatever the format; the content decides.

    Image files are read as prediction reads them (:func:`~facial_keypoints.io.images.read_image`):
    upright as their EXIF orientation says, so points are pixels of the upright image. Faces of photos are cut out.

    Args:
        path: Kaggle's folder, zip or csv, or a file or folder of another format; ``docs/formats.md`` lists them.
        group_by: Column or attribute that says which faces belong together.
        size: (height, width) to bring images and points to, as prediction does: the whole
            image, its shape kept, in the middle. When left out, images of differing sizes are brought to 96 × 96.
        channels: 1 to make images grey, 3 to make them RGB; when left out, grey where all are grey.
        schema: Keypoints of the faces; those that the data does not name are not labelled, and those that it names
            besides are left out. When left out: the first built-in schema that knows all the names, else one that
            is made from the names.
        images: Folder of the images, where they are not found from the labels.
        say: Takes each sentence about what was read and what was left out; logged when left out.

    Raises:
        DataError: The path holds no data set, or a damaged one.
    """
    location = Path(path)
    if not is_kaggle(location):
        labels = read_labels(
            location,
            schema=schema,
            group_by=group_by,
            images=None if images is None else Path(images),
        )
        dataset = faces_of(labels, size, channels)
        for line in labels.summary():
            (say or _LOG.info)(line)
        return dataset
    dataset = load_kaggle(location, group_by=group_by)
    if schema is not None:
        dataset = in_schema(dataset, schema)
    if size in (None, dataset.image_size) and channels in (None, dataset.images.shape[3]):
        return dataset
    fitted, xy = fit_images(list(dataset.images), dataset.keypoints.xy, size, channels)
    return replace(dataset, images=fitted, keypoints=Keypoints(xy, dataset.schema))


def load_photos(
    path: str | os.PathLike[str],
    *,
    group_by: str | None = None,
    schema: KeypointSchema | None = None,
    images: str | os.PathLike[str] | None = None,
) -> list[Photo]:
    """Read labelled photos whole, with the boxes of their faces; arguments as for :func:`load_dataset`.

    Raises:
        DataError: The path holds no labelled photos.
    """
    location = Path(path)
    if is_kaggle(location):
        raise DataError(f"{path} holds faces that are cut out, and a detector learns from photos.")
    folder = None if images is None else Path(images)
    return photos_of(read_labels(location, schema=schema, group_by=group_by, images=folder))


def save_dataset(
    dataset: FaceDataset, path: str | os.PathLike[str], format: str = "kaggle"
) -> list[str]:
    """Write labelled faces into a folder, which is made.

    Args:
        dataset: The faces.
        path: The folder.
        format: ``kaggle`` (``training.csv``; square grey ``kaggle15`` faces only), or a key of
            :data:`~facial_keypoints.data.formats.writing.WRITERS`: the images become PNG files.

    Returns:
        What the format could not hold, a sentence each.

    Raises:
        ValueError: The format is unknown or cannot hold the faces.
        OutputError: The files cannot be written.
    """
    if format not in ("kaggle", *WRITERS):
        raise ValueError(
            f"format must be one of kaggle, {', '.join(WRITERS)}, received '{format}'."
        )
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder} ({error.strerror}).") from error
    if format == "kaggle":
        write_table(folder / "training.csv", dataset)
        return []
    names = _image_names(dataset.sample_ids.tolist())
    place = getattr(WRITERS[format], "image_place", str)
    height, width = dataset.image_size
    faces, files = [], {}
    points = dataset.keypoints
    for i, name in enumerate(names):
        target = folder / place(name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot make the folder {target.parent} ({error.strerror})."
            ) from error
        write_image(target, dataset.images[i])
        files[name] = target
        group = str(dataset.groups[i])
        faces.append(
            Face(
                name,
                {
                    key: (
                        float(points.xy[i, k, 0]),
                        float(points.xy[i, k, 1]),
                        int(points.visibility[i, k]),
                    )
                    for k, key in enumerate(dataset.schema.keypoint_names)
                    if points.labeled[i, k]
                },
                about={} if group == str(dataset.sample_ids[i]) else {"group": group},
            )
        )
    labels = Labels(
        Path(dataset.source), format, faces, dict.fromkeys(names, (width, height)),
        dataset.schema.keypoint_names, photos=False, swap=dataset.schema.swap, edges=dataset.schema.edges,
        files=files, schema=dataset.schema,
    )  # fmt: skip
    return write_labels(labels, folder, format)


def _image_names(ids: list[str]) -> list[str]:
    """Names of PNG files: those of the faces, a number where a face has no name but a number."""
    names: list[str] = []
    taken: set[str] = set()
    for i, text in enumerate(ids, start=1):
        stem, _, number = text.rpartition("#") if "#" in text else (text, "", "0")
        stem = re.sub(r"\.\w{1,5}$", "", stem).removeprefix("images/")
        stem = re.sub(r"[^\w./ -]+", "_", stem).strip("./ ").replace("..", "_")
        name = f"images/{stem}{f'_{number}' if number not in ('', '0') else ''}.png"
        if not stem or stem.isdigit() or name.lower() in taken:
            name = f"images/{i:06d}.png"
        taken.add(name.lower())
        names.append(name)
    return names
