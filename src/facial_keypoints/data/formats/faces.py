"""From labels to faces: their images are read, and photos are cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.crops import CROP_SIZE, cut_face, face_box, letterbox, to_channels
from facial_keypoints.data.formats.common import Labels
from facial_keypoints.data.formats.reading import points_of
from facial_keypoints.data.kaggle import style_of_rows
from facial_keypoints.errors import DataError, ImageError
from facial_keypoints.io.images import read_image
from facial_keypoints.types import FaceDataset, FloatArray, ImageArray, Keypoints

__all__ = ["faces_of", "fit_images"]


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
    of_image: dict[str, list[int]] = {}
    for i, face in enumerate(labels.faces):
        of_image.setdefault(face.image, []).append(i)
    rows: list[int] = []
    images: list[ImageArray] = []
    points: list[FloatArray] = []
    ids: list[str] = []
    by_points = 0
    first_problem = ""
    for name, members in of_image.items():
        try:
            if (file := labels.files.get(name)) is None:
                raise ImageError(f"{name}: the image is not found.")
            photo = read_image(file, channels=channels, name=name)
        except ImageError as error:
            first_problem = first_problem or str(error)
            labels.left_out["faces whose image is not found or cannot be read"] += len(members)
            continue
        for number, i in enumerate(members):
            if not labels.photos:
                images.append(photo)
                points.append(xy[i])
            else:
                box = face_box(xy[i], schema, labels.faces[i].box)
                if box is None:
                    labels.left_out["faces with neither a box nor two labelled points"] += 1
                    continue
                by_points += labels.faces[i].box is None
                crop, moved = cut_face(photo, xy[i], box, size or CROP_SIZE)
                images.append(crop)
                points.append(moved)
            rows.append(i)
            ids.append(f"{name}#{number}" if labels.photos else name)
    if not rows:
        problem = f": {first_problem}" if first_problem else "."
        raise DataError(f"{labels.source} holds no face that can be read{problem}")
    if first_problem:
        labels.notes.append(f"first problem: {first_problem}")
    if by_points:
        labels.notes.append(f"{by_points} faces without a box are cut out by their points")
    if labels.photos:
        size = channels = None
    if not all(image.shape[2] == 1 for image in images):
        images = [to_channels(image, 3) for image in images]
    shapes = {image.shape[:2] for image in images}
    if size is None and len(shapes) > 1:
        found = " and ".join(f"{w} × {h}" for h, w in sorted(shapes)[:2])
        labels.notes.append(
            f"images of differing sizes ({found}) are fitted into {CROP_SIZE[1]} × {CROP_SIZE[0]} ('data convert "
            "--size' makes others)"
        )
        size = CROP_SIZE
    stacked, fitted = fit_images(images, np.asarray(points, np.float32), size, channels)
    keypoints = Keypoints(fitted, schema, visibility[rows])
    about = [labels.faces[i].about for i in rows]
    groups = [facts.get("group") or ids[n] for n, facts in enumerate(about)]
    if labels.photos:  # the faces of a photo stay on one side of a split
        groups = [facts.get("group") or labels.faces[i].image for i, facts in zip(rows, about, strict=True)]
    return FaceDataset(
        images=stacked,
        keypoints=keypoints,
        sample_ids=np.asarray(ids),
        source=str(labels.source),
        styles=style_of_rows(keypoints) if schema.name == "kaggle15" else np.full(len(ids), ""),
        groups=np.asarray(groups),
    )


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
