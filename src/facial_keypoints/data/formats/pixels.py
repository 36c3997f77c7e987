"""Bringing labels into the pixels of the images that were found, which may be turned or of another size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from facial_keypoints.data.formats.common import Face, Labels, Point
from facial_keypoints.errors import ImageError
from facial_keypoints.io.images import read_size

__all__ = ["match_sizes"]


def match_sizes(labels: Labels) -> None:
    """Bring points into the pixels of the images that were found, and say where that is not possible."""
    turned: list[tuple[str, int]] = []
    scaled, odd, broken = [], [], []
    of_image = labels.by_image()
    for name, file in labels.files.items():
        said = labels.images[name]
        try:
            width, height, orientation = read_size(file)
        except ImageError:
            broken.append(name)
            continue
        labels.images[name] = (width, height)
        if said is None or said == (width, height):
            continue
        if orientation >= 5 and said == (height, width):
            turned.append((name, orientation))
        elif abs(said[0] * height - said[1] * width) <= 0.01 * said[0] * height:
            scaled.append(name)
            _move(of_image.get(name, ()), _scaled(width / said[0], height / said[1]))
        else:
            odd.append(name)
            labels.images[name] = said  # which its points are in
    lying = [
        sum(
            _outside(of_image.get(name, ()), labels.images[name], lying=stored)
            for name, _ in turned
        )
        for stored in (False, True)
    ]
    if lying[0] > lying[1]:
        for name, orientation in turned:
            _move(of_image.get(name, ()), _upright(orientation, labels.images[name] or (0, 0)))
        labels.notes.append(
            f"{len(turned)} images are stored lying, and so are their labels: both are turned upright"
        )
    if scaled:
        labels.notes.append(f"{len(scaled)} images have another size than when they were labelled (first: {scaled[0]}): "
                            "their points are scaled")  # fmt: skip
    if odd:
        labels.notes.append(f"{len(odd)} images have another shape than the labels say (first: {odd[0]}): "
                            "are they the images that were labelled?")  # fmt: skip
    missing = [name for name in labels.images if name not in labels.files]
    with_faces = {face.image for face in labels.faces} & set(missing)
    if with_faces:
        first = next(name for name in missing if name in with_faces)
        labels.notes.append(
            f"{len(with_faces)} of {len(labels.images)} images are not found (first: {first}); --images DIR says "
            "where they are"
        )
    if broken:
        labels.notes.append(f"{len(broken)} images cannot be read (first: {broken[0]})")


def _outside(faces: Sequence[Face], size: tuple[int, int] | None, *, lying: bool) -> int:
    """Points beyond the edges of an image, taken upright or as it is stored."""
    width, height = (size or (0, 0))[:: -1 if lying else 1]
    places = [point for face in faces for point in face.points.values()]
    return sum(not (0 <= x < width and 0 <= y < height) for x, y, _ in places)


_Move = Callable[[float, float], tuple[float, float]]
"""A map of places that count from an image's edge."""


def _scaled(across: float, down: float) -> _Move:
    return lambda x, y: (x * across, y * down)


def _upright(orientation: int, size: tuple[int, int]) -> _Move:
    """The map from the edges of a stored image to those of the upright one of ``size``."""
    width, height = size
    return {
        5: lambda x, y: (y, x),
        6: lambda x, y: (width - y, x),
        7: lambda x, y: (width - y, height - x),
        8: lambda x, y: (y, height - x),
    }[orientation]


def _move(faces: Sequence[Face], move: _Move) -> None:
    """Move the points and boxes of faces."""
    for face in faces:
        moved: dict[str, Point] = {}
        for key, (x, y, visible) in face.points.items():
            u, v = move(x + 0.5, y + 0.5)
            moved[key] = (u - 0.5, v - 0.5, visible)
        face.points = moved
        if face.box is not None:
            (x0, y0), (x1, y1) = move(*face.box[:2]), move(*face.box[2:])
            face.box = min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)
