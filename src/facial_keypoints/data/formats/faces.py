"""From labels to faces: their images are read, and photos are cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.crops import (
    CROP_SIZE,
    cut_face,
    face_box,
    letterbox,
    resize_image,
    to_channels,
)
from facial_keypoints.data.formats.common import Labels
from facial_keypoints.data.formats.keypoints import points_of
from facial_keypoints.data.kaggle import style_of_rows
from facial_keypoints.errors import DataError, ImageError
from facial_keypoints.io.images import read_image
from facial_keypoints.schemas import tells
from facial_keypoints.types import FaceDataset, FloatArray, ImageArray, Keypoints, KeypointSchema

__all__ = ["Photo", "faces_of", "fit_images", "in_schema", "photos_of"]

PHOTO_SIDE, FACE_SIDE = 640, 24
"""Photos that are kept in memory are shrunk to this longest side, but no face to less than this side, in pixels."""


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo and the boxes of all its faces.

    Args:
        image: (H, W) uint8, grey.
        boxes: (N, 4) float32 square boxes xyxy, edges in pixels; they may reach beyond the image.
        group: Photos of one group belong on one side of a split.
    """

    image: ImageArray
    boxes: NDArray[np.float32]
    group: str = ""


def faces_of(labels: Labels, size: tuple[int, int] | None, channels: int | None) -> FaceDataset:
    """Read the images of labels; size and channels as for ``load_dataset``.

    Faces whose image cannot be read, or that nothing says the place of, are left out, which is added to
    ``labels.left_out``; further notes are added as well.

    Raises:
        DataError: No face is left.
    """
    schema = labels.schema
    if schema is None:
        raise ValueError("labels need a schema: use read_labels.")
    xy, visibility = points_of(labels.faces, schema.keypoint_names)
    problems: list[str] = []
    found = list(_images_of(labels, schema, xy, size or CROP_SIZE, channels, problems))
    if not found:
        raise DataError(
            f"{labels.source} holds no face that can be read: {problems[0]}"
            if problems
            else f"{labels.source} holds no face with a box or two labelled points."
        )
    if problems:
        labels.notes.append(f"first image that is left out: {problems[0]}")
    rows = [row for row, _, _, _ in found]
    ids = [name for _, name, _, _ in found]
    images = [image for _, _, image, _ in found]
    if labels.photos:
        size = channels = None
        by_points = sum(labels.faces[row].box is None for row in rows)
        if by_points:
            labels.notes.append(f"{by_points} faces without a box are cut out by their points")
    if not all(image.shape[2] == 1 for image in images):
        images = [to_channels(image, 3) for image in images]
    shapes = {image.shape[:2] for image in images}
    if size is None and len(shapes) > 1:
        differing = " and ".join(f"{w} × {h}" for h, w in sorted(shapes)[:2])
        labels.notes.append(
            f"images of differing sizes ({differing}) are fitted into {CROP_SIZE[1]} × {CROP_SIZE[0]}; 'data convert "
            "--size' makes others"
        )
        size = CROP_SIZE
    points = np.array([moved for _, _, _, moved in found], np.float32)
    stacked, fitted = fit_images(images, points, size, channels)
    keypoints = Keypoints(fitted, schema, visibility[rows])
    # The faces of a photo stay on one side of a split.
    alone = [labels.faces[row].image for row in rows] if labels.photos else ids
    groups = [labels.faces[row].about.get("group") or alone[n] for n, row in enumerate(rows)]
    return FaceDataset(
        images=stacked,
        keypoints=keypoints,
        sample_ids=np.asarray(ids),
        source=str(labels.source),
        styles=style_of_rows(keypoints) if schema.name == "kaggle15" else np.full(len(ids), ""),
        groups=np.asarray(groups),
    )


def in_schema(dataset: FaceDataset, schema: KeypointSchema) -> FaceDataset:
    """The faces with the keypoints of another schema; those that the data does not have are not labelled.

    Raises:
        DataError: They have no keypoint in common.
    """
    old = dataset.schema.keypoint_names
    shared = [name for name in old if name in schema.keypoint_names]
    if not shared:
        own = dataset.schema
        remedy = (
            f" Compare in those that it labels: --schema {own.name}." if tells(schema, own) else ""
        )
        raise DataError(
            f"{dataset.source} labels none of the keypoints of the schema '{schema.name}'.{remedy}"
        )
    xy = np.full((len(dataset), schema.num_keypoints, 2), np.nan, np.float32)
    visibility = np.zeros(xy.shape[:2], np.int8)
    to, start = [schema.index(name) for name in shared], [old.index(name) for name in shared]
    xy[:, to], visibility[:, to] = (
        dataset.keypoints.xy[:, start], dataset.keypoints.visibility[:, start],
    )  # fmt: skip
    return replace(dataset, keypoints=Keypoints(xy, schema, visibility))


def photos_of(labels: Labels) -> list[Photo]:
    """The photos of labels, also those without a face, with the boxes that their faces are cut out by.

    Photos that cannot be read, or with a face that nothing says the place of, are left out.

    Raises:
        DataError: The images are no photos.
    """
    schema = labels.schema
    if schema is None:
        raise ValueError("labels need a schema: use read_labels.")
    if not labels.photos:
        raise DataError(
            f"each image of {labels.source} is one face, and a detector learns from whole photos: leave "
            "--with-detector out, or label whole photos."
        )
    of_image = labels.by_image()
    photos = []
    for name in labels.images:
        faces = of_image.get(name, [])
        xy, _ = points_of(faces, schema.keypoint_names)
        boxes = [face_box(xy[i], schema, face.box) for i, face in enumerate(faces)]
        known = [box for box in boxes if box is not None]
        try:
            image = _read(labels, name, 1)
        except ImageError:
            continue
        if len(known) < len(faces):
            continue
        height, width = image.shape[:2]
        smallest = min((float(box[2] - box[0]) for box in known), default=np.inf)
        scale = min(1.0, max(PHOTO_SIDE / max(height, width), FACE_SIDE / smallest))
        image = resize_image(image, (max(1, round(height * scale)), max(1, round(width * scale))))
        group = next((face.about["group"] for face in faces if face.about.get("group")), name)
        photos.append(
            Photo(image[..., 0], scale * np.reshape(known, (-1, 4)).astype(np.float32), group)
        )
    return photos


def _images_of(
    labels: Labels,
    schema: KeypointSchema,
    xy: NDArray[np.float64],
    size: tuple[int, int],
    channels: int | None,
    problems: list[str],
) -> Iterator[tuple[int, str, ImageArray, FloatArray]]:
    """Number, name, image and points (K, 2) of each face; what cannot be read is told."""
    of_image: dict[str, list[int]] = {}
    for i, face in enumerate(labels.faces):
        of_image.setdefault(face.image, []).append(i)
    for name, members in of_image.items():
        try:
            photo = _read(labels, name, channels)
        except ImageError as error:
            problems.append(str(error))
            labels.left_out["faces whose image is not found or cannot be read"] += len(members)
            continue
        for number, i in enumerate(members):
            if not labels.photos:
                yield i, name, photo, xy[i]
            elif (box := face_box(xy[i], schema, labels.faces[i].box)) is None:
                labels.left_out["faces with neither a box nor two labelled points"] += 1
            else:
                yield i, f"{name}#{number}", *cut_face(photo, xy[i], box, size)


def _read(labels: Labels, name: str, channels: int | None) -> ImageArray:
    """An image, read by prediction's own reader: its labels belong to what that gives."""
    if name not in labels.files:
        raise ImageError(f"{name}: the image is not found; --images DIR says where the images are.")
    return read_image(labels.files[name], channels=channels, name=name)


def fit_images(
    images: Sequence[ImageArray],
    points: FloatArray,
    size: tuple[int, int] | None,
    channels: int | None,
) -> tuple[ImageArray, NDArray[np.float32]]:
    """One array of images, brought with their points to the size and channels asked for.

    Args:
        images: N images (H, W, C) uint8.
        points: (N, K, 2) in pixels of each; NaN stays NaN.
        size: (height, width), or ``None`` for their own, which is then the same for all.
        channels: 1 or 3, or ``None`` for their own.

    Returns:
        (N, height, width, C) and (N, K, 2).
    """
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
