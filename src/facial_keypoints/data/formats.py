"""Any supported data set in, any out.

Kaggle's files are read by :mod:`facial_keypoints.data.kaggle`; here are the formats that keep images
as files: COCO keypoints (``annotations.json`` beside an ``images`` folder), a csv with a path column
``image`` and columns ``NAME_x``/``NAME_y``, and a folder of images with a 300-W ``.pts`` file each.
The first two say which schema they follow by the names of their keypoints. Annotated photos (COCO and
``.pts``) become one crop a face (:mod:`facial_keypoints.crops`).
"""

from __future__ import annotations

import csv
import glob
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.crops import CROP_SIZE, cut_face, face_box, letterbox, to_channels
from facial_keypoints.data.kaggle import load_kaggle, style_of_rows, write_table
from facial_keypoints.errors import DataError, ImageError, OutputError
from facial_keypoints.files import write_json, write_text
from facial_keypoints.io.images import IMAGE_SUFFIXES, read_image, write_image
from facial_keypoints.schemas import IBUG68, get_schema, list_schemas
from facial_keypoints.types import FaceDataset, FloatArray, ImageArray, Keypoints, KeypointSchema

__all__ = ["load_dataset", "save_dataset"]

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
    for name in ("annotations.json", "faces.csv"):
        if (location / name).is_file():
            location = location / name
    if location.suffix.lower() == ".json" and location.is_file():
        return _load_coco(location, size, channels, schema)
    if location.suffix.lower() == ".csv" and location.is_file() and _has_paths(location):
        return _load_csv(location, size, channels, schema, group_by)
    if location.is_dir() and (files := sorted(location.glob("*.pts"))):
        return _load_pts(location, files, size, channels, schema)
    dataset = load_kaggle(location, group_by=group_by)
    keypoints = dataset.keypoints
    if schema is not None and schema.keypoint_names != dataset.schema.keypoint_names:
        names = dataset.schema.keypoint_names
        _schema_of(names, location, schema)
        xy = np.full((len(dataset), schema.num_keypoints, 2), np.nan, np.float32)
        xy[:, [schema.index(name) for name in names]] = keypoints.xy
        keypoints = Keypoints(xy, schema)
    elif size in (None, dataset.image_size) and channels in (None, dataset.images.shape[3]):
        return dataset
    return _stack(list(dataset.images), keypoints, dataset, size, channels)


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
    if format == "coco":
        write_json(folder / "annotations.json", _coco(dataset, names))
    else:
        columns = [f"{n}_{axis}" for n in dataset.schema.keypoint_names for axis in "xy"]
        lines = [",".join(["image", *columns])]
        for name, xy in zip(names, dataset.keypoints.xy.reshape(len(dataset), -1), strict=True):
            lines.append(",".join([name, *("" if math.isnan(v) else f"{v:.9g}" for v in xy)]))
        write_text(folder / "faces.csv", "\n".join(lines) + "\n")


def _coco(dataset: FaceDataset, names: Sequence[str]) -> dict[str, Any]:
    height, width = dataset.image_size
    labeled = dataset.keypoints.visibility
    points = np.where(np.isnan(dataset.keypoints.xy), 0.0, dataset.keypoints.xy.astype(np.float64))
    triples = np.concatenate([points, labeled[..., None]], axis=2).reshape(len(dataset), -1)
    edges = [[a + 1, b + 1] for a, b in dataset.schema.edges]  # COCO counts from 1
    category = {"id": 1, "name": "face", "keypoints": list(dataset.schema.keypoint_names)}
    return {
        "images": [
            {"id": i, "file_name": name, "width": width, "height": height}
            for i, name in enumerate(names, start=1)
        ],
        "annotations": [
            {
                "id": i,
                "image_id": i,
                "category_id": 1,
                "bbox": [0, 0, width, height],
                "area": width * height,
                "iscrowd": 0,
                "keypoints": row,
                "num_keypoints": int((labeled[i - 1] > 0).sum()),
            }
            for i, row in enumerate(triples.tolist(), start=1)
        ],
        "categories": [{**category, "skeleton": edges}],
    }


def _load_coco(
    path: Path,
    size: tuple[int, int] | None,
    channels: int | None,
    schema: KeypointSchema | None,
) -> FaceDataset:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        labels = list(content["categories"][0]["keypoints"])
        schema = _schema_of(labels, path, schema)
        order = [schema.index(name) for name in labels]
        files = {image["id"]: str(image["file_name"]) for image in content["images"]}
        sizes = {i["id"]: (i.get("width"), i.get("height")) for i in content["images"]}
        names, rows, boxes, whole = [], [], [], True
        for annotation in content["annotations"]:
            triples = np.array(annotation["keypoints"], np.float64).reshape(len(order), 3)
            row = np.full((schema.num_keypoints, 2), np.nan)
            row[order] = np.where(triples[:, 2:] > 0, triples[:, :2], np.nan)
            rows.append(row)
            names.append(files[annotation["image_id"]])
            box = annotation.get("bbox")
            boxes.append(None if box is None else [float(value) for value in box])
            full = [0, 0, *sizes[annotation["image_id"]]]
            whole &= box is None or list(box) == full
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(
            f"{path} is no COCO keypoints file ({type(error).__name__}: {error}); "
            "it needs images, annotations and categories with keypoints."
        ) from error
    if whole and len(set(names)) == len(names):
        return _assemble(path, names, rows, schema, size, channels, None)
    return _cut(path, names, rows, boxes, schema, size, channels)


def _load_pts(
    folder: Path,
    files: Sequence[Path],
    size: tuple[int, int] | None,
    channels: int | None,
    schema: KeypointSchema | None,
) -> FaceDataset:
    schema = IBUG68 if schema is None else schema
    names, rows = [], []
    for file in files:
        try:
            inside = file.read_text(encoding="utf-8").split("{", 1)[1].split("}", 1)[0]
            row = np.array(inside.split(), np.float64).reshape(-1, 2)
        except (OSError, ValueError, IndexError) as error:
            raise DataError(
                f"{file} is no .pts file: it needs 'version: 1', 'n_points: N' and N lines of x and y in "
                f"braces ({error})."
            ) from error
        if len(row) != schema.num_keypoints:
            raise DataError(
                f"{file} has {len(row)} points, but the schema '{schema.name}' has "
                f"{schema.num_keypoints}: give the schema that fits."
            )
        image = next(
            (p for p in sorted(folder.glob(f"{glob.escape(file.stem)}.*"))
             if p.suffix.lower() in IMAGE_SUFFIXES), None,
        )  # fmt: skip
        if image is None:
            raise DataError(f"{file} has no image of the same name beside it.")
        names.append(image.name)
        # 300-W counts pixels from 1, as Matlab does.
        rows.append(row - 1.0)
    return _cut(folder / files[0].name, names, rows, [None] * len(rows), schema, size, channels)


def _cut(
    path: Path,
    names: Sequence[str],
    rows: Sequence[NDArray[np.float64]],
    boxes: Sequence[Sequence[float] | None],
    schema: KeypointSchema,
    size: tuple[int, int] | None,
    channels: int | None,
) -> FaceDataset:
    """Annotated photos as one crop a face; the faces of a photo stay on one side of a split."""
    crops: list[ImageArray] = []
    points: list[NDArray[np.float32]] = []
    ids: list[str] = []
    groups: list[str] = []
    by_photo: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        by_photo.setdefault(name, []).append(i)
    for name, faces in by_photo.items():
        photo = _read_image(path, faces[0] + 1, name, channels)
        for number, i in enumerate(faces):
            box = face_box(rows[i], schema, boxes[i])
            if box is None:
                raise DataError(
                    f"{path}: row {i + 1} ({name}) has neither a box nor two labelled points: nothing says "
                    "where the face is."
                )
            crop, xy = cut_face(photo, rows[i], box, size or CROP_SIZE)
            crops.append(crop)
            points.append(xy)
            ids.append(f"{name}#{number}")
            groups.append(name)
    return _bundle(path, ids, crops, points, schema, None, None, groups)


def _has_paths(path: Path) -> bool:
    with path.open("rb") as handle:
        header = handle.readline(1 << 16).decode("utf-8-sig", "replace").strip().split(",")
    return header[0].strip('"') == "image"


def _load_csv(
    path: Path,
    size: tuple[int, int] | None,
    channels: int | None,
    schema: KeypointSchema | None,
    group_by: str | None,
) -> FaceDataset:
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle)
            columns = [c for c in reader.fieldnames or [] if c not in ("image", group_by)]
            labels = list(dict.fromkeys(c.rsplit("_", 1)[0] for c in columns))
            schema = _schema_of(labels, path, schema)
            names, rows, groups = [], [], []
            for number, row in enumerate(reader, start=1):
                values = []
                for name in schema.keypoint_names:
                    if name not in labels:
                        values += [math.nan, math.nan]
                        continue
                    for axis in "xy":
                        column = f"{name}_{axis}"
                        if column not in row or row[column] is None:
                            raise DataError(f"{path}: row {number} has no column {column}.")
                        try:
                            values.append(float(row[column]) if row[column] else math.nan)
                        except ValueError:
                            raise DataError(
                                f"{path}: row {number}, column {column}: '{row[column][:40]}' is no "
                                "coordinate in pixels."
                            ) from None
                rows.append(np.array(values).reshape(-1, 2))
                names.append(row["image"])
                if group_by is not None:
                    if row.get(group_by) is None:
                        raise DataError(f"{path} has no column '{group_by}' to group by.")
                    groups.append(row[group_by])
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a UTF-8 csv ({error}).") from error
    grouped = groups if group_by is not None else None
    return _assemble(path, names, rows, schema, size, channels, grouped)


def _schema_of(names: Sequence[str], path: Path, schema: KeypointSchema | None) -> KeypointSchema:
    """The schema that was asked for, or the built-in one that fits the names most closely."""
    if len(set(names)) != len(names):
        raise DataError(f"{path} names a keypoint twice.")
    if schema is not None:
        if unknown := [name for name in names if name not in schema.keypoint_names]:
            raise DataError(
                f"{path} labels '{unknown[0]}', which the schema '{schema.name}' does not list: add it "
                "there or rename the column."
            )
        return schema
    known = [get_schema(name) for name in list_schemas()]
    exact = [s for s in known if set(s.keypoint_names) == set(names)]
    for found in [*exact, *(s for s in known if names and set(names) < set(s.keypoint_names))]:
        return found
    raise DataError(
        f"{path} labels {len(names)} keypoints that make up no known schema "
        f"({', '.join(list_schemas())}): rename them, or describe them in a schema file."
    )


def _assemble(
    path: Path,
    names: Sequence[str],
    rows: Sequence[NDArray[np.float64]],
    schema: KeypointSchema,
    size: tuple[int, int] | None,
    channels: int | None,
    groups: Sequence[str] | None,
) -> FaceDataset:
    images = [
        _read_image(path, number, name, channels) for number, name in enumerate(names, start=1)
    ]
    return _bundle(path, names, images, rows, schema, size, channels, groups)


def _bundle(
    path: Path,
    names: Sequence[str],
    images: Sequence[ImageArray],
    rows: Sequence[FloatArray],
    schema: KeypointSchema,
    size: tuple[int, int] | None,
    channels: int | None,
    groups: Sequence[str] | None,
) -> FaceDataset:
    if not names:
        raise DataError(f"{path} holds no face.")
    try:
        keypoints = Keypoints(np.asarray(rows, np.float32), schema)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    grey = all(image.shape[2] == 1 for image in images)
    if not grey:
        images = [to_channels(image, 3) for image in images]
    styles = style_of_rows(keypoints) if schema.name == "kaggle15" else np.full(len(names), "")
    like = FaceDataset(
        images=np.zeros((len(names), 1, 1, 1), np.uint8),
        keypoints=keypoints,
        sample_ids=np.asarray(names),
        source=str(path),
        styles=styles,
        groups=None if groups is None else np.asarray(groups),  # type: ignore[arg-type]
    )
    return _stack(images, keypoints, like, size, channels)


def _read_image(path: Path, number: int, name: str, channels: int | None) -> ImageArray:
    """An image of a data set, read by prediction's own reader: its labels belong to what that gives."""
    try:
        return read_image(path.parent / name, channels=channels, name=name)
    except ImageError as error:
        raise DataError(f"{path}: row {number}: {error}") from error


def _stack(
    images: Sequence[ImageArray],
    keypoints: Keypoints,
    like: FaceDataset,
    size: tuple[int, int] | None,
    channels: int | None,
) -> FaceDataset:
    """One array of images, brought with their points to the size and channels asked for."""
    sizes = {image.shape[:2] for image in images}
    if size is None and len(sizes) > 1:
        found = " and ".join(f"{w} × {h}" for h, w in sorted(sizes)[:2])
        raise DataError(
            f"{like.source} has images of differing sizes ({found}); give size=(height, width) "
            "to resize them."
        )
    xy = keypoints.xy.copy()
    if size is not None or channels is not None:
        fitted = []
        for i, image in enumerate(images):
            height, width = size or (image.shape[0], image.shape[1])
            letterboxed, crop = letterbox(image, (height, width), channels or image.shape[2])
            xy[i] = crop.apply(xy[i])
            fitted.append(letterboxed)
        images = fitted
    return FaceDataset(
        images=np.stack(images),
        keypoints=Keypoints(xy, keypoints.schema),
        sample_ids=like.sample_ids,
        source=like.source,
        styles=like.styles,
        groups=like.groups,
    )
