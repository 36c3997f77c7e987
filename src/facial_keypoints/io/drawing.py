"""Points, boxes and names drawn onto a copy of an image; OpenCV only, no matplotlib.

Coordinates are pixels of that image, an integer is the centre of a pixel. Marks scale with the
faces and the image, are placed to a sixteenth of a pixel, and have a dark rim around a light fill,
so that they show on dark and on light skin.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from facial_keypoints.crops import checked_image, to_channels
from facial_keypoints.types import FloatArray, ImageArray, Keypoints, Prediction

__all__ = ["POINT_COLOR", "confidence_color", "draw_boxes", "draw_keypoints", "draw_prediction"]

Color = tuple[int, int, int]

POINT_COLOR: Color = (255, 157, 46)  # RGB, the prediction's orange of the figures
BOX_COLOR: Color = (76, 195, 255)
_RIM: Color = (16, 20, 24)
_LOW_COLOR: Color = (108, 92, 231)  # violet: differs from orange for every kind of colour vision
_SHIFT = 4  # OpenCV's fixed point: coordinates in 1/16 px
_SMALL_BOX = 40.0  # pixels
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def _canvas(image: ImageArray) -> ImageArray:
    """A writable RGB copy (H, W, 3) of a grey (H, W), (H, W, 1) or RGB image."""
    return np.array(to_channels(checked_image(image), 3), order="C")


def _fixed(values: float | FloatArray) -> list[int]:
    """Pixels as OpenCV's fixed-point integers; far outside values are cut before they overflow."""
    scaled = np.clip(np.atleast_1d(np.asarray(values, np.float64)), -30_000, 30_000)
    return [int(v) for v in np.rint(scaled * (1 << _SHIFT))]


def _dot(canvas: ImageArray, xy: FloatArray, radius: float, color: Color) -> None:
    x, y = _fixed(xy)
    for size, fill in ((radius + min(max(0.6, 0.3 * radius), radius), _RIM), (radius, color)):
        cv2.circle(canvas, (x, y), _fixed(size)[0], fill, -1, cv2.LINE_AA, _SHIFT)


def _text(canvas: ImageArray, text: str, xy: FloatArray, height_px: float) -> None:
    """Light text with a dark rim, ``xy`` its lower left corner, kept inside the image."""
    scale = height_px / 22.0  # capitals of the font are 22 px high at scale 1
    thickness = max(1, round(height_px / 12))
    (width, height), baseline = cv2.getTextSize(text, _FONT, scale, thickness)
    rows, columns = canvas.shape[:2]
    x = round(float(np.clip(xy[0], 0, max(0, columns - width))))
    y = round(float(np.clip(xy[1], min(height, rows - 1), max(0, rows - 1 - baseline // 2))))
    # The rim is the same text moved about: OpenCV 5 makes bolder text wider, so it would not fit.
    for dx, dy in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        cv2.putText(canvas, text, (x + dx, y + dy), _FONT, scale, _RIM, thickness, cv2.LINE_AA)
    cv2.putText(canvas, text, (x, y), _FONT, scale, (255, 255, 255), thickness, cv2.LINE_AA)


def _radius(xy: FloatArray, image_size: tuple[int, int]) -> float:
    """Radius in px for the points (K, 2) of one face: by its size and their number, within bounds by the image's."""
    known = xy[~np.isnan(xy[:, 0])]
    extent = float(np.ptp(known, axis=0).max()) if len(known) > 1 else 0.0
    largest = max(1.0, 0.008 * max(image_size))
    if not extent:
        return largest
    fewer = min(1.0, float(np.sqrt(15 / len(known))))  # 68 points must not cover the face
    return max(0.6, fewer * min(0.022 * extent, largest))


def confidence_color(confidence: float) -> Color:
    """RGB from violet (confidence 0) to the point colour (1)."""
    low, high = np.array(_LOW_COLOR), np.array(POINT_COLOR)
    red, green, blue = np.rint(low + np.clip(confidence, 0.0, 1.0) * (high - low)).tolist()
    return int(red), int(green), int(blue)


def draw_keypoints(image: ImageArray, keypoints: Keypoints, *, edges: bool = False) -> ImageArray:
    """Draw the points of N faces, coloured by confidence (:func:`confidence_color`) where there is one.

    Args:
        image: (H, W), (H, W, 1) grey or (H, W, 3) RGB uint8; not changed.
        keypoints: In pixels of ``image``; NaN points are left out, points outside it not visible.
        edges: Join the schema's edges by lines, below the points.

    Returns:
        A new (H, W, 3) RGB image.

    Raises:
        ValueError: ``image`` has another dtype or shape.
    """
    canvas = _canvas(image)
    size = canvas.shape[0], canvas.shape[1]
    confidence = keypoints.confidence
    for n, xy in enumerate(keypoints.xy):
        radius = _radius(xy, size)
        labeled = keypoints.labeled[n]
        if edges:
            for a, b in keypoints.schema.edges:
                if labeled[a] and labeled[b]:
                    _line(canvas, xy[a], xy[b], radius)
        for k in np.flatnonzero(labeled):
            color = POINT_COLOR if confidence is None else confidence_color(confidence[n, k])
            _dot(canvas, xy[k], radius, color)
    return canvas


def _line(canvas: ImageArray, start: FloatArray, end: FloatArray, radius: float) -> None:
    first, second = _fixed(start), _fixed(end)
    weight = max(1, round(0.45 * radius))
    for thickness, shade in ((weight + 1, _RIM), (weight, POINT_COLOR)):
        cv2.line(canvas, first, second, shade, thickness, cv2.LINE_AA, _SHIFT)


def draw_boxes(
    image: ImageArray,
    boxes: FloatArray,
    *,
    labels: Sequence[str] = (),
    color: Color = BOX_COLOR,
) -> ImageArray:
    """Draw N boxes, each with its label above it.

    A box narrower than 40 pixels gets a thin line without a rim and no label: they would hide the face.

    Args:
        image: (H, W), (H, W, 1) grey or (H, W, 3) RGB uint8; not changed.
        boxes: (N, 4) xyxy in pixels of ``image``; a box with NaN is left out.
        labels: N texts, or none at all.
        color: RGB of the lines.

    Returns:
        A new (H, W, 3) RGB image.

    Raises:
        ValueError: ``image`` has another dtype or shape, or the labels are not as many as the boxes.
    """
    canvas = _canvas(image)
    if labels and len(labels) != len(boxes):
        raise ValueError(f"labels must be {len(boxes)}, one per box, received {len(labels)}.")
    size = max(canvas.shape[:2])
    for i, box in enumerate(np.asarray(boxes, np.float64)):
        if np.isnan(box).any():
            continue
        first, second = _fixed(box[:2]), _fixed(box[2:])
        side = float(box[2] - box[0])
        small = side < _SMALL_BOX
        weight = max(1, round(min(size / 400, side / 60)))
        for thickness, shade in ((weight + 2, _RIM), (weight, color))[small:]:
            cv2.rectangle(canvas, first, second, shade, thickness, cv2.LINE_AA, _SHIFT)
        if labels and not small:
            height = float(np.clip(0.08 * (box[2] - box[0]), 7.0, max(7.0, size / 40)))
            _text(canvas, labels[i], np.array([box[0], box[1] - 0.4 * height]), height)
    return canvas


def draw_prediction(image: ImageArray, prediction: Prediction) -> ImageArray:
    """Draw what a predictor found: boxes with scores, points coloured by confidence where known.

    Boxes without a score come from no detector (a crop that is one face already) and are left out.

    Args:
        image: The image, uint8 grey or RGB; not changed.
        prediction: Boxes and points in its pixels; no faces draw nothing.

    Returns:
        A new (H, W, 3) RGB image.

    Raises:
        ValueError: ``image`` is not of the size that the prediction was made on.
    """
    if image.shape[:2] != tuple(prediction.image_size):
        raise ValueError(
            f"image must have the prediction's size {tuple(prediction.image_size)} (height, width), "
            f"received {image.shape[:2]}."
        )
    detected: NDArray[np.bool_] = ~np.isnan(prediction.scores)
    drawn = draw_boxes(
        image,
        prediction.boxes[detected],
        labels=[f"{score:.2f}" for score in prediction.scores[detected]],
    )
    return draw_keypoints(drawn, prediction.keypoints)
