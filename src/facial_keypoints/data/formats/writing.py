"""From :class:`~facial_keypoints.data.formats.common.Labels` to files, with the images."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from types import ModuleType

from facial_keypoints.data.formats import coco, csv, cvat, deeplabcut, label_studio, pts, yolo
from facial_keypoints.data.formats.common import Face, Labels
from facial_keypoints.errors import OutputError

__all__ = ["WRITERS", "write_labels"]

WRITERS: dict[str, ModuleType] = {
    "coco": coco,
    "csv": csv,
    "cvat": cvat,
    "label-studio": label_studio,
    "yolo": yolo,
    "deeplabcut": deeplabcut,
    "pts": pts,
}
"""The modules that write, by the names of their formats."""


def write_labels(labels: Labels, folder: Path, format: str, *, copy: bool = True) -> list[str]:
    """Write labels of whole images, and copy the images.

    Args:
        labels: What to write. Their boxes and visibility may be changed by what the format can hold.
        folder: The folder, which exists.
        format: A key of :data:`WRITERS`.
        copy: Whether to copy the images.

    Returns:
        What the format could not hold, a sentence each.

    Raises:
        OutputError: A file cannot be written, or two images have one place in the format's folders.
    """
    module = WRITERS[format]
    lost = _fit(labels, module)
    place = getattr(module, "image_place", str)
    absent = [name for name in labels.images if copy and name not in labels.files]
    taken: dict[str, str] = {}
    for name in labels.images:
        if taken.setdefault(place(name), name) != name:
            raise OutputError(
                f"{taken[place(name)]} and {name} would both be {place(name)}: rename one of them."
            )
    try:
        for name, file in labels.files.items() if copy else ():
            target = folder / place(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists() or not target.samefile(file):
                shutil.copyfile(file, target)
    except OSError as error:
        raise OutputError(f"cannot write into {folder} ({error.strerror}).") from error
    module.write(labels, folder)
    if absent:
        lost.append(
            f"not copied, since they are not found: {len(absent)} images (first: {absent[0]})"
        )
    return lost


def _fit(labels: Labels, module: ModuleType) -> list[str]:
    """Take out what a format cannot hold, and say so."""
    name = module.__name__.rpartition(".")[2].replace("_", " ")
    lost = []
    if not labels.photos:  # a box around all says that an image is one face
        for face in labels.faces:
            size = labels.images[face.image]
            face.box = None if size is None else (0.0, 0.0, float(size[0]), float(size[1]))
    if "several faces" not in module.HOLDS:
        largest: dict[str, Face] = {}
        for face in labels.faces:
            if face.image not in largest or _extent(face) > _extent(largest[face.image]):
                largest[face.image] = face
        if further := len(labels.faces) - len(largest):
            lost.append(f"{name} holds one face an image: {further} smaller faces are left out")
            labels.faces = list(largest.values())
    if "points outside" not in module.HOLDS and (outside := _take_out(labels)):
        lost.append(f"{name} holds no points outside the image: {outside} are left out")
    faces = labels.faces
    occluded = sum(point[2] == 1 for face in faces for point in face.points.values())
    if occluded and "occluded" not in module.HOLDS:
        lost.append(
            f"{name} does not say that a point is occluded: {occluded} are written as visible"
        )
    boxes = sum(face.box is not None for face in faces)
    if boxes and labels.photos and "boxes" not in module.HOLDS:
        lost.append(f"{name} holds no boxes: {boxes} are left out")
    facts = sorted({fact for face in faces for fact in face.about})
    if facts and "facts" not in module.HOLDS:
        lost.append(f"{name} holds nothing but points: left out are {', '.join(facts)}")
    return lost


def _take_out(labels: Labels) -> int:
    """Take points outside their image out, with faces that have no others, and count the points."""
    before = sum(len(face.points) for face in labels.faces)
    for face in labels.faces:
        width, height = labels.images[face.image] or (math.inf, math.inf)
        face.points = {
            name: point
            for name, point in face.points.items()
            if -0.5 <= point[0] <= width - 0.5 and -0.5 <= point[1] <= height - 0.5
        }
    labels.faces = [face for face in labels.faces if face.points]
    return before - sum(len(face.points) for face in labels.faces)


def _extent(face: Face) -> float:
    xs = [point[0] for point in face.points.values()]
    ys = [point[1] for point in face.points.values()]
    return max(
        max(xs, default=0.0) - min(xs, default=0.0), max(ys, default=0.0) - min(ys, default=0.0)
    )
