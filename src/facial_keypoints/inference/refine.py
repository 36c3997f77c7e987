"""Refinement: predicting again on a better crop, and test-time augmentation (TTA).

Models are trained on crops like Kaggle's. They are less accurate where a face is small in its crop, cut off, or
off the middle. So the first prediction places a better crop, on which the model predicts again.

- Faces of photos and of video frames are always refined.
- Crops are refined where it helps: a face that is small in its crop gets a new crop from its first prediction;
  for one of low confidence, a few in a hundred, shifted and scaled views are tried.
- TTA then takes the mean over eight moved views of the refined face.

An *output* is an array (..., K, 3) of float32: x, y and confidence of each keypoint; the confidence is NaN for
a model that gives none. How the thresholds were chosen: ``docs/experiments.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.crops import cut_crop, warp_image
from facial_keypoints.errors import ModelError
from facial_keypoints.geometry import box_to_crop, face_crop, face_sizes, has_face_box, rotation
from facial_keypoints.models.runtime import Runtime
from facial_keypoints.models.spec import ModelSpec
from facial_keypoints.types import CropTransform, FloatArray, ImageArray

__all__ = [
    "check_tta",
    "predict_views",
    "refine_boxes",
    "refine_crops",
    "refine_tracks",
    "supports_tta",
]

LOW_CONFIDENCE = 0.6
"""Mean confidence of a crop's keypoints below which other views are tried: in one of thirty of Kaggle's rows with
four points, and in none of its fully labelled rows."""

MARGIN = 0.1
"""By how much the mean confidence of another view must be higher; with 0, some faces became worse."""

OVER_MARGIN = 0.2
"""The same for a face that is tried upside down; with less, more boxes without a face pass for one."""

SMALL = 0.3
"""Size of a face, relative to the crop's side, below which a crop is refined; in Kaggle's images it is 0.38."""

WORSE = 0.1
"""Loss of mean confidence from which the refinement of a tracked face is not used."""

# Zoom and shift (relative to the crop's side) of the views that are tried at low confidence.
_VIEWS = (
    *product((0.8, 1.0, 1.25), (-0.15, 0.0, 0.15), (-0.15, 0.0, 0.15)),
    *((1.6, dx, dy) for dx, dy in ((0.0, 0.0), (0.0, -0.15), (-0.15, 0.0), (0.15, 0.0))),
)

# Angle in degrees, zoom and shift of the views of TTA, in two opposite pairs.
_MOVES = ((8.0, 1.08, 0.03, -0.02), (-8.0, 0.93, -0.03, 0.02), (4.0, 0.95, -0.02, -0.03), (-4.0, 1.05, 0.02, 0.03))  # fmt: skip

Outputs = NDArray[np.float32]
Images = Sequence[ImageArray] | ImageArray
Cut = Callable[[ImageArray, CropTransform, int], ImageArray]


def supports_tta(spec: ModelSpec) -> bool:
    """Whether a model can use TTA: it is of ``default``'s family and has the eyes and the mouth's corners."""
    return spec.output == "points" and bool(spec.confidence) and has_face_box(spec.schema)


def check_tta(spec: ModelSpec) -> None:
    """Check that a model can use test-time augmentation.

    Raises:
        ModelError: It cannot.
    """
    if not supports_tta(spec):
        raise ModelError(
            f"the model '{spec.name}' cannot use test-time augmentation (TTA), which needs a model of "
            "default's family whose keypoints include the eye centres and the mouth's corners: predict "
            "without it."
        )


def predict_views(
    runtime: Runtime, images: Images, views: Sequence[CropTransform], *, cut: Cut = cut_crop
) -> Outputs:
    """Predict one view of each image, without refinement.

    Args:
        runtime: The model.
        images: N images, (H, W), (H, W, 1) or (H, W, 3) uint8; an image may occur several times.
        views: N transforms from pixels of an image to the model's input.
        cut: Cuts the view out of its image.

    Returns:
        (N, S, K, 3) outputs of all S label styles, in pixels of the images.
    """
    spec = runtime.spec
    seen = np.zeros((len(views), *spec.input_size, spec.channels), np.uint8)
    for i, (image, view) in enumerate(zip(images, views, strict=True)):
        seen[i] = cut(image, view, spec.channels)
    outputs = _run(runtime, seen)
    for output, view in zip(outputs, views, strict=True):
        output[..., :2] = view.inverse().apply(output[..., :2])
    return outputs


def refine_boxes(
    runtime: Runtime,
    image: ImageArray,
    boxes: NDArray[np.float32],
    style: int,
    *,
    angles: FloatArray | None = None,
    tta: bool = False,
) -> tuple[Outputs, NDArray[np.float32]]:
    """Predict the faces in boxes of a photo, then again in upright crops placed by the first prediction.

    A face of low confidence is also predicted upside down; that stays if its confidence is clearly higher.
    The result is the mean of both predictions if both crops show the face alike in size and roll, if not the
    second; so boxes may be wider or narrower than the detector's. A model without eyes and mouth corners
    predicts once.

    Args:
        runtime: The model.
        image: (H, W), (H, W, 1) or (H, W, 3) uint8, grey or RGB.
        boxes: (N, 4) xyxy, edges in pixels of the image; they may reach beyond it.
        style: Index of the label style.
        angles: (N,) degrees by which the faces are turned, clockwise; 0 when left out.
        tta: Take the mean over eight moved views of each refined face.

    Returns:
        (N, K, 3) outputs in pixels of the image, and (N,) their mean confidence in the label style where it
        is lowest.

    Raises:
        ValueError: A box has no area.
    """
    spec = runtime.spec
    images = [image] * len(boxes)
    angles = np.zeros(len(boxes)) if angles is None else angles
    crops = [
        box_to_crop(box, spec.input_size, float(angle), spec.crop_scale)
        for box, angle in zip(boxes, angles, strict=True)
    ]
    first = predict_views(runtime, images, crops)
    doubtful = np.flatnonzero(_confidence(first).min(axis=1) < LOW_CONFIDENCE)
    over = [_moved(crops[i], 180.0, 1.0, 0.0, 0.0) for i in doubtful]
    crops += over
    first = np.concatenate([first, predict_views(runtime, images[: len(over)], over)])
    views, second = crops, first
    if has_face_box(spec.schema):
        views = _face_views(spec, first[:, style])
        second = predict_views(runtime, [image] * len(crops), views)
    # The detector's box of a face upside down lies beside the face: only the refinement counts.
    confidence = _confidence(second).min(axis=1)
    better = confidence[len(boxes) :] > confidence[doubtful] + OVER_MARGIN
    rows = np.arange(len(boxes))
    rows[doubtful[better]] = len(boxes) + np.flatnonzero(better)
    crops, views = [crops[i] for i in rows], [views[i] for i in rows]
    first, second = first[rows], second[rows]
    lowest = _confidence(first).min(axis=1)
    if not crops or not has_face_box(spec.schema):
        return first[:, style], lowest
    alike = np.array([_alike(*pair) for pair in zip(crops, views, strict=True)])
    alike &= rows < len(boxes)
    share = np.where(alike, 0.5, 1.0).astype(np.float32)
    refined = first + share.reshape(-1, 1, 1, 1) * (second - first)
    lowest += share * (_confidence(second).min(axis=1) - lowest)
    if not tta:
        return refined[:, style], lowest
    own = [a if same else b for a, b, same in zip(crops, views, alike, strict=True)]
    view_sets = own, _face_views(spec, refined[:, style])
    return _average(runtime, images, view_sets, np.full(len(boxes), style)), lowest


def refine_tracks(
    runtime: Runtime, image: ImageArray, faces: FloatArray, style: int, *, tta: bool = False
) -> Outputs:
    """Predict the faces of a video frame at their expected places, then again where they were found.

    The second crop shows the face in the same place in each frame, which keeps the points steady. The first
    prediction stays where the second has a clearly lower mean confidence.

    Args:
        runtime: The model; its schema must have eyes and mouth corners.
        image: (H, W), (H, W, 1) or (H, W, 3) uint8, the frame.
        faces: (N, K, 2) expected points, in pixels of the frame.
        style: Index of the label style.
        tta: Take the mean over eight moved views of each refined face.

    Returns:
        (N, K, 3) outputs in pixels of the frame.
    """
    spec, images = runtime.spec, [image] * len(faces)
    first = predict_views(runtime, images, _face_views(spec, faces))[:, style]
    views = _face_views(spec, first)
    second = predict_views(runtime, images, views)[:, style]
    worse = _confidence(second) < _confidence(first) - WORSE
    refined: Outputs = np.where(worse[:, np.newaxis, np.newaxis], first, second)
    if not tta or not len(faces):
        return refined
    return _average(
        runtime, images, (views, _face_views(spec, refined)), np.full(len(faces), style)
    )


def refine_crops(
    runtime: Runtime, images: ImageArray, styles: NDArray[np.integer], *, tta: bool = False
) -> Outputs:
    """Predict crops of one face each, and refine those that need it.

    Args:
        runtime: The model. One that does not support TTA (:func:`supports_tta`) predicts once.
        images: (N, H, W, C) uint8 of its input size.
        styles: (N,) index of each label style.
        tta: Take the mean over eight moved views of each face that is found: about nine times the time.

    Returns:
        (N, K, 3) outputs in pixels of the crops.
    """
    spec = runtime.spec
    outputs: Outputs = _run(runtime, images)[np.arange(len(images)), styles]
    # The thresholds were chosen for the shipped model's family.
    if not len(images) or not supports_tta(spec):
        return outputs
    low = _confidence(outputs) < LOW_CONFIDENCE
    found = ~low
    for i in np.flatnonzero(low):
        better = _try_views(runtime, images[i], outputs[i], int(styles[i]))
        if better is not None:
            found[i], outputs[i] = True, better
    smallest = 0.1 * spec.input_size[1]
    limit = SMALL / spec.crop_scale * min(spec.input_size)
    small = ~low & (face_sizes(outputs[..., :2], spec.schema) < limit)
    rows = np.flatnonzero(small)
    if len(rows):
        views = _face_views(spec, outputs[rows], smallest=smallest)
        again = predict_views(runtime, images[rows], views, cut=_warp)
        outputs[rows] = again[np.arange(len(rows)), styles[rows]]
    rows = np.flatnonzero(found)  # TTA cannot help where no view has a face
    if tta and len(rows):
        # The crop itself (if it is poor, an upright one) and the face box have different errors.
        first = _face_views(spec, outputs[rows], smallest=smallest)
        own = [
            f if bad else _whole(spec) for f, bad in zip(first, (low | small)[rows], strict=True)
        ]
        view_sets = own, _face_views(spec, outputs[rows], upright=False, smallest=smallest)
        outputs[rows] = _average(runtime, images[rows], view_sets, styles[rows], cut=_warp)
    return outputs


def _run(runtime: Runtime, batch: ImageArray) -> Outputs:
    """(N, S, K, 3) outputs for images of the model's input size, in its pixels."""
    xy, confidence = runtime.run(batch)
    if confidence is None:
        confidence = np.full(xy.shape[:-1], np.nan, np.float32)
    return np.concatenate([xy, confidence[..., np.newaxis]], axis=-1)


def _confidence(outputs: Outputs) -> NDArray[np.float32]:
    """Mean confidence over the keypoints."""
    return np.asarray(outputs[..., 2].mean(axis=-1))


def _try_views(runtime: Runtime, image: ImageArray, first: Outputs, style: int) -> Outputs | None:
    """A better output (K, 3) for one crop; ``None`` if no view has a clearly higher confidence."""
    spec = runtime.spec
    views = [_moved(_whole(spec), 0.0, *view) for view in _VIEWS]
    found = predict_views(runtime, [image] * len(views), views, cut=_warp)[:, style]
    best: Outputs = found[_confidence(found).argmax()]
    if _confidence(best) < _confidence(first) + MARGIN:
        return None
    views = _face_views(spec, best[np.newaxis], smallest=0.1 * spec.input_size[1])
    last: Outputs = predict_views(runtime, [image], views, cut=_warp)[0, style]
    return last if _confidence(last) > _confidence(best) else best


def _average(
    runtime: Runtime,
    images: Images,
    view_sets: Sequence[Sequence[CropTransform]],
    styles: NDArray[np.integer],
    *,
    cut: Cut = cut_crop,
) -> Outputs:
    """(N, K, 3) means over the moves of each of the sets of N views."""
    rows = np.arange(len(images))
    found = [
        predict_views(runtime, images, [_moved(v, *move) for v in views], cut=cut)[rows, styles]
        for views in view_sets
        for move in _MOVES
    ]
    return np.asarray(np.mean(found, axis=0), np.float32)


def _face_views(
    spec: ModelSpec, faces: FloatArray, *, upright: bool = True, smallest: float = 2.0
) -> list[CropTransform]:
    """Views of (N, K, 2 or 3) faces with the eyes where Kaggle's images have them."""
    return [
        face_crop(
            xy,
            spec.schema,
            spec.input_size,
            upright=upright,
            smallest=smallest,
            scale=spec.crop_scale,
        )
        for xy in faces[..., :2]
    ]


def _whole(spec: ModelSpec) -> CropTransform:
    """The view that is the crop itself."""
    return CropTransform(np.eye(2, 3), spec.input_size)


def _moved(view: CropTransform, angle: float, zoom: float, dx: float, dy: float) -> CropTransform:
    """A view rotated about its middle, magnified ``zoom`` times, and shifted by (dx, dy) sides."""
    height, width = view.input_size
    middle = np.array([width - 1, height - 1]) / 2.0
    shown = middle + np.array([dx * width, dy * height]) / zoom
    turn = rotation(-np.deg2rad(angle), zoom)
    matrix = turn @ view.matrix
    matrix[:, 2] += middle - turn @ shown
    return CropTransform(matrix, view.input_size)


def _warp(crop: ImageArray, view: CropTransform, channels: int) -> ImageArray:
    """Cut a view out of a crop that has the model's input size already."""
    return np.asarray(warp_image(crop, view), np.uint8)


def _alike(first: CropTransform, second: CropTransform) -> bool:
    """Whether two crops differ by less than a quarter in scale and 25 degrees in rotation."""
    between = second.matrix[:, :2] @ np.linalg.inv(first.matrix[:, :2])
    scale = float(np.hypot(*between[0]))
    angle = float(np.degrees(np.arctan2(between[0, 1], between[0, 0])))
    return 0.8 < scale < 1.25 and abs(angle) < 25.0
