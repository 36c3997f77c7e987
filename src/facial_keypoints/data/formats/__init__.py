"""Labelled faces from any supported format, and into some.

A format that keeps images as files is a module here with

- ``find(path)``: the file or folder with the labels, or ``None`` where ``path`` is of another format;
- ``read(path, schema, group_by)``: its :class:`~facial_keypoints.data.formats.common.Labels`;
- ``write(dataset, folder, names)``, if it can be written: the labels of images that are there already.

To add one, write its module and name it in ``FORMATS``. Kaggle's files, whose images are text in the
table, are those of :mod:`facial_keypoints.data.kaggle`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from facial_keypoints.data.formats import coco, csv, pts
from facial_keypoints.data.formats.common import faces_of, fit_images, schema_of
from facial_keypoints.data.kaggle import load_kaggle, write_table
from facial_keypoints.errors import OutputError
from facial_keypoints.io.images import write_image
from facial_keypoints.types import FaceDataset, Keypoints, KeypointSchema

__all__ = ["FORMATS", "load_dataset", "save_dataset"]

FORMATS = {"coco": coco, "csv": csv, "pts": pts}
"""The modules by name, in the order in which they are asked whether a path is theirs."""

Format = Literal["kaggle", "coco", "csv"]


def load_dataset(
    path: str | os.PathLike[str],
    *,
    group_by: str | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    schema: KeypointSchema | None = None,
) -> FaceDataset:
    """Read labelled faces, whatever the format; the content decides.

    Image files are read as prediction reads them (:func:`~facial_keypoints.io.images.read_image`):
    upright as their EXIF orientation says, so points are pixels of the upright image.

    Args:
        path: Kaggle's folder, zip or csv; a COCO json or the folder of its ``annotations.json``;
            a csv with an ``image`` column of paths, relative to the csv, or the folder of its
            ``faces.csv``; a folder of ``.pts`` files with their images.
        group_by: Column (csv formats) that says which rows belong together.
        size: (height, width) to bring images and points to, as prediction does: the whole
            image, its shape kept, in the middle; needed where sizes differ.
        channels: 1 to make images grey, 3 to make them RGB; when left out, grey where all are grey.
        schema: Keypoints of the faces; those that the data does not name are not labelled. When
            left out: the first built-in schema that knows all the names.

    Raises:
        DataError: The path holds no data set, or a damaged one.
    """
    location = Path(path)
    for module in FORMATS.values():
        if found := module.find(location):
            return faces_of(module.read(found, schema, group_by), size, channels)
    dataset = load_kaggle(location, group_by=group_by)
    keypoints = dataset.keypoints
    if schema is not None and schema.keypoint_names != dataset.schema.keypoint_names:
        names = dataset.schema.keypoint_names
        schema_of(names, location, schema)
        xy = np.full((len(dataset), schema.num_keypoints, 2), np.nan, np.float32)
        xy[:, [schema.index(name) for name in names]] = keypoints.xy
        keypoints = Keypoints(xy, schema)
    elif size in (None, dataset.image_size) and channels in (None, dataset.images.shape[3]):
        return dataset
    images, xy = fit_images(list(dataset.images), keypoints.xy, size, channels, dataset.source)
    return replace(dataset, images=images, keypoints=Keypoints(xy, keypoints.schema))


def save_dataset(
    dataset: FaceDataset, path: str | os.PathLike[str], format: Format = "kaggle"
) -> None:
    """Write labelled faces into a folder, which is made.

    Args:
        dataset: The faces.
        path: The folder.
        format: ``kaggle`` (``training.csv``; square grey ``kaggle15`` faces only), ``coco``
            (``annotations.json`` and ``images``) or ``csv`` (``faces.csv`` and ``images``).

    Raises:
        ValueError: The format is unknown or cannot hold the faces.
        OutputError: The files cannot be written.
    """
    if format not in ("kaggle", "coco", "csv"):
        raise ValueError(f"format must be 'kaggle', 'coco' or 'csv', received '{format}'.")
    folder = Path(path)
    try:
        (folder / "images" if format != "kaggle" else folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder} ({error.strerror}).") from error
    if format == "kaggle":
        write_table(folder / "training.csv", dataset)
        return
    names = [f"images/{number:06d}.png" for number in range(1, len(dataset) + 1)]
    for name, image in zip(names, dataset.images, strict=True):
        write_image(folder / name, image)
    FORMATS[format].write(dataset, folder, names)
