"""A second look at faces whose crop was not framed as the model knows them.

A model that learnt from well-framed crops answers others worse: a face that fills little of its crop, or
one that the crop cuts or shows off the middle. The first answer tells: the face is small in it, or the
confidence is low. Small faces are asked again in a view framed by their own first answer. Doubtful
ones, a few in a hundred, are asked in views shifted and scaled, and the surest answer frames a last
view; an answer that is not clearly surer than the first is not taken. Measured on held-out faces:
``docs/experiments.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.crops import warp_image
from facial_keypoints.geometry import face_crop, face_sizes, has_face_box, rotation
from facial_keypoints.models.runtime import Runtime
from facial_keypoints.types import CropTransform, ImageArray, KeypointSchema

__all__ = ["look_again"]

DOUBTFUL = 0.6
"""Mean confidence of a face's points below which it is looked at again: one face in thirty of Kaggle's
four-point rows, none of its full rows."""

MARGIN = 0.1
"""Mean confidence by which another view must be surer; at 0, answers changed for the worse too."""

SMALL = 0.3
"""Size of a face, as a share of the input's side, below which it is framed anew; Kaggle's have 0.38."""

# Zoom and place of the views in shares of the input's side.
_VIEWS = (
    *product((0.8, 1.0, 1.25), (-0.15, 0.0, 0.15), (-0.15, 0.0, 0.15)),
    *((1.6, dx, dy) for dx, dy in ((0.0, 0.0), (0.0, -0.15), (-0.15, 0.0), (0.15, 0.0))),
)

# Angle in degrees, zoom and place of the views whose answers are averaged; two and two are opposite.
_MOVES = ((8.0, 1.08, 0.03, -0.02), (-8.0, 0.93, -0.03, 0.02), (4.0, 0.95, -0.02, -0.03), (-4.0, 1.05, 0.02, 0.03))  # fmt: skip

Answers = tuple[NDArray[np.float32], NDArray[np.float32]]


def look_again(
    runtime: Runtime,
    images: ImageArray,
    style: NDArray[np.integer],
    xy: NDArray[np.float32],
    confidence: NDArray[np.float32],
    *,
    average: bool = False,
) -> Answers:
    """Better answers for the badly framed faces of a batch.

    Args:
        runtime: The model that gave the first answers.
        images: (N, H, W, C) uint8 at its input size.
        style: (N,) index of the label style of each answer.
        xy: (N, K, 2) first answers, input pixels.
        confidence: (N, K) theirs.
        average: Take the mean over eight views of every face: better, nine times the time.

    Returns:
        xy and confidence, new arrays; all as they are where the model is of another family than the
        shipped one, or its schema lacks eyes or mouth corners.
    """
    xy, confidence = xy.copy(), confidence.copy()
    schema = runtime.spec.schema
    # What well framed means is known for the family of the shipped detector alone.
    known = runtime.spec.output == "points" and has_face_box(schema)
    if not len(images) or not known:
        return xy, confidence
    doubtful = confidence.mean(axis=1) < DOUBTFUL
    found = np.zeros(len(images), bool)
    for i in np.flatnonzero(doubtful):
        better = _try_views(runtime, images[i], int(style[i]), float(confidence[i].mean()))
        if better is not None:
            found[i], xy[i], confidence[i] = True, *better
    small = ~doubtful & (face_sizes(xy, schema) < SMALL * min(images.shape[1:3]))
    rows = np.flatnonzero(small)
    if len(rows):
        views = [_framed(images[i], xy[i], schema, upright=True) for i in rows]
        xy[rows], confidence[rows] = _look(runtime, images[rows], views, style[rows])
    rows = np.flatnonzero(~doubtful | found)  # what was found in no view has nothing to average
    if average and len(rows):
        xy[rows], confidence[rows] = _average(
            runtime, images[rows], style[rows], xy[rows], (doubtful | small)[rows]
        )
    return xy, confidence


def _average(
    runtime: Runtime,
    images: ImageArray,
    style: NDArray[np.integer],
    xy: NDArray[np.float32],
    badly_framed: NDArray[np.bool_],
) -> Answers:
    """Means over moved views: of the image as it is, if it is well framed, and framed by ``xy``."""
    schema = runtime.spec.schema
    # Two framings err differently; where the image's own is bad, a turned one takes its place.
    first = [
        _framed(image, points, schema, upright=True) if bad else _still(image)
        for image, points, bad in zip(images, xy, badly_framed, strict=True)
    ]
    second = [_framed(image, p, schema, upright=False) for image, p in zip(images, xy, strict=True)]
    found = [
        _look(runtime, images, [_moved(view, *move) for view in framing], style)
        for framing in (first, second)
        for move in _MOVES
    ]
    points, sure = zip(*found, strict=True)
    return np.mean(points, axis=0, dtype=np.float32), np.mean(sure, axis=0, dtype=np.float32)


def _try_views(
    runtime: Runtime,
    image: ImageArray,
    style: int,
    confidence: float,
) -> Answers | None:
    """A better answer for one doubtful face; ``None`` where no view's is clearly surer."""
    views = [_moved(_still(image), 0.0, *view) for view in _VIEWS]
    styles = np.full(len(views), style)
    points, sure = _look(runtime, np.repeat(image[None], len(views), axis=0), views, styles)
    best = int(sure.mean(axis=1).argmax())
    if sure[best].mean() < confidence + MARGIN:
        return None
    framed = _framed(image, points[best], runtime.spec.schema, upright=True)
    last, last_sure = _look(runtime, image[None], [framed], styles[:1])
    if last_sure[0].mean() > sure[best].mean():
        return last[0], last_sure[0]
    return points[best], sure[best]


def _look(
    runtime: Runtime, images: ImageArray, views: Sequence[CropTransform], style: NDArray[np.integer]
) -> Answers:
    """Answers of one view of each image, in pixels of the image."""
    seen = [warp_image(image, view) for image, view in zip(images, views, strict=True)]
    points, sure = runtime.run(np.stack(seen))
    if sure is None:
        raise ValueError("a second look needs a model that gives a confidence.")
    rows = np.arange(len(images))
    back = [view.inverse().apply(p) for view, p in zip(views, points[rows, style], strict=True)]
    return np.asarray(back, np.float32), sure[rows, style]


def _still(image: ImageArray) -> CropTransform:
    """The view that is the image itself."""
    return CropTransform(np.eye(2, 3), (image.shape[0], image.shape[1]))


def _moved(view: CropTransform, angle: float, zoom: float, dx: float, dy: float) -> CropTransform:
    """A view turned about its middle, ``zoom`` times as large, and shifted.

    Its middle shows a place (dx, dy) sides off the middle of ``view``.
    """
    height, width = view.input_size
    middle = np.array([width - 1, height - 1]) / 2.0
    shown = middle + np.array([dx * width, dy * height]) / zoom
    turn = rotation(-np.deg2rad(angle), zoom)
    matrix = turn @ view.matrix
    matrix[:, 2] += middle - turn @ shown
    return CropTransform(matrix, view.input_size)


def _framed(
    image: ImageArray, xy: NDArray[np.float32], schema: KeypointSchema, *, upright: bool
) -> CropTransform:
    """A view with the eyes where Kaggle's crops have them."""
    height, width = image.shape[:2]
    return face_crop(xy, schema, (height, width), upright=upright, smallest=0.1 * width)
