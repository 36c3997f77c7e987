"""What the formats share: labels as they were read, made into faces with their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.crops import CROP_SIZE, cut_face, face_box, letterbox, to_channels
from facial_keypoints.data.kaggle import style_of_rows
from facial_keypoints.errors import DataError, ImageError
from facial_keypoints.io.images import read_image
from facial_keypoints.schemas import get_schema, list_schemas
from facial_keypoints.types import FaceDataset, FloatArray, ImageArray, Keypoints, KeypointSchema

__all__ = ["Labels", "faces_of", "fit_images", "refuse_groups", "schema_of"]


@dataclass(frozen=True)
class Labels:
    """N labelled faces, before any image is read.

    Args:
        path: The file that holds them; names of images count from its folder.
        schema: K keypoints.
        names: N files of images; several faces may be of one.
        points: N arrays (K, 2) in pixels of the upright image, NaN = not labelled.
        boxes: N boxes ``x, y, width, height``, or ``None`` for a face without one: faces of photos,
            which are cut out. ``None`` for all: each image is one face.
        groups: N names of what belongs together; ``None`` where nobody said so.
    """

    path: Path
    schema: KeypointSchema
    names: Sequence[str]
    points: Sequence[NDArray[np.float64]]
    boxes: Sequence[Sequence[float] | None] | None = None
    groups: Sequence[str] | None = None


def refuse_groups(path: Path, group_by: str | None) -> None:
    """Refuse to group the faces of a format without columns.

    Raises:
        DataError: A column is named.
    """
    if group_by is not None:
        raise DataError(f"{path} has no columns, so none to group by: leave '{group_by}' out.")


def schema_of(names: Sequence[str], path: Path, schema: KeypointSchema | None) -> KeypointSchema:
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


def faces_of(labels: Labels, size: tuple[int, int] | None, channels: int | None) -> FaceDataset:
    """Read the images of labels; size and channels as for ``load_dataset``.

    Raises:
        DataError: There is no face, an image cannot be read, or sizes differ.
    """
    path = labels.path
    if not labels.names:
        raise DataError(f"{path} holds no face.")
    ids, groups, points = labels.names, labels.groups, labels.points
    if labels.boxes is not None:
        images, points, ids, groups = _cut(labels, labels.boxes, size or CROP_SIZE, channels)
        size = channels = None
    else:
        images = [_read_image(path, i, name, channels) for i, name in enumerate(ids, start=1)]
    if not all(image.shape[2] == 1 for image in images):
        images = [to_channels(image, 3) for image in images]
    try:
        keypoints = Keypoints(np.asarray(points, np.float32), labels.schema)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    is_kaggle = labels.schema.name == "kaggle15"
    styles = style_of_rows(keypoints) if is_kaggle else np.full(len(ids), "")
    stacked, xy = fit_images(images, keypoints.xy, size, channels, str(path))
    return FaceDataset(
        images=stacked,
        keypoints=Keypoints(xy, labels.schema),
        sample_ids=np.asarray(ids),
        source=str(path),
        styles=styles,
        groups=None if groups is None else np.asarray(groups),  # type: ignore[arg-type]
    )


def _cut(
    labels: Labels,
    boxes: Sequence[Sequence[float] | None],
    size: tuple[int, int],
    channels: int | None,
) -> tuple[list[ImageArray], list[NDArray[np.float64]], list[str], list[str]]:
    """Annotated photos as one crop a face; the faces of a photo stay on one side of a split."""
    crops: list[ImageArray] = []
    points: list[NDArray[np.float64]] = []
    ids: list[str] = []
    groups: list[str] = []
    by_photo: dict[str, list[int]] = {}
    for i, name in enumerate(labels.names):
        by_photo.setdefault(name, []).append(i)
    for name, faces in by_photo.items():
        photo = _read_image(labels.path, faces[0] + 1, name, channels)
        for number, i in enumerate(faces):
            box = face_box(labels.points[i], labels.schema, boxes[i])
            if box is None:
                raise DataError(
                    f"{labels.path}: row {i + 1} ({name}) has neither a box nor two labelled points: "
                    "nothing says where the face is."
                )
            crop, xy = cut_face(photo, labels.points[i], box, size)
            crops.append(crop)
            points.append(np.asarray(xy, np.float64))
            ids.append(f"{name}#{number}")
            groups.append(name)
    return crops, points, ids, groups


def _read_image(path: Path, number: int, name: str, channels: int | None) -> ImageArray:
    """An image of a data set, read by prediction's own reader: its labels belong to what that gives."""
    try:
        return read_image(path.parent / name, channels=channels, name=name)
    except ImageError as error:
        raise DataError(f"{path}: row {number}: {error}") from error


def fit_images(
    images: Sequence[ImageArray],
    points: FloatArray,
    size: tuple[int, int] | None,
    channels: int | None,
    source: str,
) -> tuple[ImageArray, NDArray[np.float32]]:
    """One array of images, brought with their points to the size and channels asked for.

    Args:
        images: N images (H, W, C) uint8.
        points: (N, K, 2) in pixels of each; NaN stays NaN.
        size: (height, width), or ``None`` for their own.
        channels: 1 or 3, or ``None`` for their own.
        source: What to call them in messages.

    Returns:
        (N, height, width, C) and (N, K, 2).

    Raises:
        DataError: ``size`` is left out and theirs differ.
    """
    sizes = {image.shape[:2] for image in images}
    if size is None and len(sizes) > 1:
        found = " and ".join(f"{w} × {h}" for h, w in sorted(sizes)[:2])
        raise DataError(
            f"{source} has images of differing sizes ({found}); give size=(height, width) to "
            "resize them."
        )
    xy = np.array(points, np.float32)
    if size is not None or channels is not None:
        fitted = []
        for i, image in enumerate(images):
            height, width = size or (image.shape[0], image.shape[1])
            letterboxed, crop = letterbox(image, (height, width), channels or image.shape[2])
            xy[i] = crop.apply(xy[i])
            fitted.append(letterboxed)
        images = fitted
    return np.stack(images), xy
