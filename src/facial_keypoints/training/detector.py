"""Trains a face detector on the photos of a data set: for kinds of faces that the shipped detector does not find.

It has the shipped detector's network and starts from its weights. Every image that it sees is a photo anew: at a
random size around one of its faces, rotated, mirrored, in other light. Some photos are held out; they choose the
least score of a face, and tell how many faces it finds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from facial_keypoints.crops import cut_crop
from facial_keypoints.data.formats.faces import Photo
from facial_keypoints.errors import DataError
from facial_keypoints.geometry import centres_to_edges, edges_to_centres, iou, rotation
from facial_keypoints.inference.detector import Effort, FaceDetector, OnnxFaceDetector
from facial_keypoints.models.face_detector import (
    BASE_SIDE,
    STRIDES,
    DetectorConfig,
    build_detector,
    export_detector,
    set_threshold,
    start_from,
)
from facial_keypoints.models.registry import find_detector
from facial_keypoints.training.landmark import change_light
from facial_keypoints.types import BoolArray, CropTransform, FloatArray, ImageArray

__all__ = [
    "DetectorFit",
    "FoundFaces",
    "affine",
    "cell_targets",
    "detector_loss",
    "match_boxes",
    "place_photo",
    "train_detector",
]

REACH = ((0.0, 6.0), (2.6, 6.0), (2.6, np.inf))
"""Sides of the faces that each level answers for, in its cells; where they meet, both do."""

SMALLEST = 9.0
"""Side in pixels below which a face is a blur that counts neither as a face nor as background."""

HELD_OUT = 0.2
"""Share of the photos that choose the least score of a face."""

FEWEST = 5
"""Photos with faces from which a detector is trained."""

LEAST_SCORE = 0.1
"""Least score of the boxes among which the least score of a face is chosen."""

Targets = NDArray[np.float32]


@dataclass(frozen=True)
class DetectorFit:
    """How the detector is trained.

    Args:
        steps: Training steps; the rate falls along a cosine over them.
        batch: Images in a step.
        side: Side of the images, pixels.
        rate: Highest learning rate.
        network: Shape of the network.
        start: Start from the shipped detector's weights.
        longest_side: Of the photos that the exported network is given, pixels.
    """

    steps: int = 400
    batch: int = 16
    side: int = 224
    rate: float = 1e-3
    network: DetectorConfig = field(default_factory=lambda: DetectorConfig(points=0))
    start: bool = True
    longest_side: int = 448


@dataclass(frozen=True)
class FoundFaces:
    """How a detector does on held-out photos.

    Args:
        photos: Held-out photos; 0 if there were too few to hold any out.
        faces: Their faces.
        found: Faces with a box of an IoU of at least 0.5.
        false_boxes: Boxes on no face.
        threshold: Least score of a face.
    """

    photos: int
    faces: int
    found: int
    false_boxes: int
    threshold: float


def affine(
    shape: tuple[int, ...], scale: float, angle_deg: float, flip: bool, middle: FloatArray
) -> NDArray[np.float64]:
    """(2, 3) that brings the middle of an image to ``middle``, scaled, turned clockwise and perhaps mirrored."""
    linear = rotation(np.deg2rad(angle_deg), scale) @ np.diag([-1.0 if flip else 1.0, 1.0])
    centre = np.array([shape[1] - 1, shape[0] - 1]) / 2.0
    return np.column_stack([linear, middle - linear @ centre])


def place_photo(
    shape: tuple[int, ...], boxes: FloatArray, side: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """How a photo lies on a square canvas: whole, or around one of its faces at a random size.

    Args:
        shape: Of the photo.
        boxes: (N, 4) its faces.
        side: Of the canvas, pixels.
        rng: Draws the rest.

    Returns:
        (2, 3) from pixels of the photo to pixels of the canvas.
    """
    flip = rng.random() < 0.5
    angle = float(np.clip(rng.normal(0.0, 14.0), -40, 40)) if rng.random() < 0.4 else 0.0
    if rng.random() < 0.45 or not len(boxes):
        scale = side / max(shape) * rng.uniform(0.7, 1.3)
        return affine(shape, scale, angle, flip, side * (0.5 + rng.uniform(-0.15, 0.15, 2)))
    box = boxes[rng.integers(len(boxes))]
    # As many small faces as large ones: sizes are drawn on a logarithmic scale.
    wanted = np.exp(rng.uniform(np.log(11.0), np.log(side)))
    scale = float(np.clip(wanted / (box[2] - box[0]), 0.08, 3.0))
    matrix = affine(shape, scale, angle, flip, np.zeros(2))
    face = matrix[:, :2] @ edges_to_centres((box[:2] + box[2:]) / 2.0) + matrix[:, 2]
    matrix[:, 2] += side * rng.uniform(0.05, 0.95, 2) - face
    return matrix


def _view(
    photo: Photo, side: int, rng: np.random.Generator
) -> tuple[ImageArray, NDArray[np.float32], BoolArray]:
    """An image (side, side, 1), its boxes (N, 4), and (N,) whether each is surely a face."""
    matrix = place_photo(photo.image.shape, photo.boxes, side, rng)
    border = cv2.BORDER_CONSTANT if rng.random() < 0.5 else cv2.BORDER_REPLICATE
    image = cut_crop(photo.image, CropTransform(matrix, (side, side)), 1, border=border)
    scale = math.sqrt(abs(float(np.linalg.det(matrix[:, :2]))))
    middle = edges_to_centres((photo.boxes[:, :2] + photo.boxes[:, 2:]) / 2.0)
    middle = centres_to_edges(middle @ matrix[:, :2].T + matrix[:, 2])
    half = scale * (photo.boxes[:, 2:] - photo.boxes[:, :2]) / 2.0
    boxes = np.concatenate([middle - half, middle + half], axis=1).astype(np.float32)
    shown = np.prod(np.diff(np.clip(boxes.reshape(-1, 2, 2), 0, side), axis=1)[:, 0], axis=1)
    share = shown / np.maximum(np.prod(2.0 * half, axis=1), 1e-9)
    certain = (share > 0.65) & (2.0 * half[:, 0] >= SMALLEST)
    grey = np.full_like(image, rng.integers(256))
    kept = share > 0.2
    return change_light(image, grey, rng), boxes[kept], certain[kept]


def cell_targets(
    boxes: FloatArray, certain: BoolArray, side: int, points: FloatArray | None = None
) -> Targets:
    """What each cell should answer.

    Args:
        boxes: (N, 4) square boxes in pixels of the image.
        certain: (N,) bool; cells in the middle of the other faces do not count.
        side: Side of the image, pixels.
        points: (N, P, 2) points to learn besides, pixels of the image.

    Returns:
        (M, 6 + 2 P): score, its weight, weight of the place, then the numbers of the place as the network gives
        them.
    """
    if points is None:
        points = np.zeros((len(boxes), 0, 2), np.float32)
    out = []
    for stride, (least, most) in zip(STRIDES, REACH, strict=True):
        n = side // stride
        cells = np.zeros((n, n, 6 + 2 * points.shape[1]), np.float32)
        cells[..., 1] = 1.0
        grid = centres_to_edges(np.arange(n))
        for box, own, yes in zip(
            boxes / stride, centres_to_edges(points) / stride, certain, strict=True
        ):
            x, y = (box[:2] + box[2:]) / 2.0
            size = float(box[2] - box[0])
            # Cells of a very large face are many in its middle; count as if it were of usual size.
            apart = np.maximum(abs(grid[None, :] - x), abs(grid[:, None] - y)) * min(
                6.0 / size, 1.0
            )
            mine = least <= size <= most
            if not yes or not mine:
                near = not yes or least / 1.4 <= size <= most * 1.4
                if near:
                    reach = 1.5 if yes else max(1.5, 0.4 * size)
                    cells[(apart < reach) & (cells[..., 0] == 0), 1] = 0.0
                continue
            score = np.exp(-(np.maximum(apart - 0.5, 0.0) ** 2) / 0.32)
            better = (score > cells[..., 0]) & (score > 0.02)
            cells[better, 0] = score[better]
            cells[better, 1] = 1.0
            cells[better, 2] = np.where(score[better] > 0.3, score[better], 0.0)
            rows, columns = np.nonzero(better)
            middle = centres_to_edges(np.stack([columns, rows], axis=1))
            cells[better, 3:5] = np.array([x, y]) - middle
            cells[better, 5] = np.log(size / BASE_SIDE)
            cells[better, 6:] = (own[None] - middle[:, None]).reshape(len(middle), -1)
        out.append(cells.reshape(n * n, -1))
    return np.concatenate(out)


def detector_loss(target: Any, cells: Any) -> Any:
    """Quality focal loss of the score, and distances of the place in shares of the face's side."""
    goal, weight, placed = target[..., 0], target[..., 1], target[..., 2]
    logit = cells[..., 0]
    # Binary cross-entropy from the logit.
    cross = ops.maximum(logit, 0.0) - logit * goal + ops.softplus(-ops.abs(logit))
    score = ops.sum(weight * ops.square(goal - ops.sigmoid(logit)) * cross)
    side = BASE_SIDE * ops.exp(target[..., 5])
    moved = ops.sum(ops.abs(target[..., 3:5] - cells[..., 1:3]), axis=-1) / side
    grown = ops.abs(target[..., 5] - cells[..., 3])
    points = ops.sum(ops.abs(target[..., 6:] - cells[..., 4:]), axis=-1) / side
    place = ops.sum(placed * (4.0 * moved + 2.0 * grown + points))
    return score / (ops.sum(goal) + 1.0) + place / (ops.sum(placed) + 1.0)


class _Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batch ``i`` of a seed is always the same."""

    def __init__(self, photos: Sequence[Photo], fit: DetectorFit, seed: int) -> None:
        super().__init__(workers=2, max_queue_size=8)
        self.photos, self.fit, self.seed = photos, fit, seed

    def __len__(self) -> int:
        return self.fit.steps

    def __getitem__(self, index: int) -> tuple[ImageArray, Targets]:
        rng = np.random.default_rng((self.seed, index))
        images, targets = [], []
        for row in rng.integers(len(self.photos), size=self.fit.batch):
            image, boxes, certain = _view(self.photos[row], self.fit.side, rng)
            images.append(image)
            targets.append(cell_targets(boxes, certain, self.fit.side))
        return np.stack(images), np.stack(targets)


def train_detector(
    photos: Sequence[Photo],
    path: Path,
    *,
    fit: DetectorFit | None = None,
    seed: int = 0,
    report: Callable[[str], None] | None = None,
) -> FoundFaces:
    """Train a detector and write it as ONNX.

    Args:
        photos: Photos with the boxes of all their faces; a face without a box is learnt as background.
        path: The file to write.
        fit: How; as :class:`DetectorFit` says when left out.
        seed: Of the held-out photos and the views.
        report: Called with the current step, for a progress display.

    Returns:
        What it finds on the held-out photos.

    Raises:
        DataError: Too few photos have faces.
        MissingExtraError: The converter to ONNX is not installed.
    """
    fit, say = fit or DetectorFit(), report or (lambda _: None)
    learnt, held_out = _split(photos, seed)
    with_faces = [photo for photo in learnt if len(photo.boxes)]
    if len(with_faces) < FEWEST:
        raise DataError(
            f"a detector needs at least {FEWEST} photos with labelled faces, better 100; there are "
            f"{len(with_faces)}."
        )
    keras.utils.set_random_seed(seed)
    model = build_detector(fit.network)
    if fit.start:
        start_from(model, find_detector())
    optimizer = keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(
            0.0, fit.steps, warmup_target=fit.rate, warmup_steps=fit.steps // 10
        ),
        weight_decay=0.01,
        global_clipnorm=5.0,
        use_ema=True,
        ema_momentum=max(0.0, 1.0 - 20.0 / fit.steps),
    )
    model.compile(optimizer, loss=detector_loss, jit_compile=False)
    told = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda step, logs: say(
            f"training the detector: step {step + 1} of {fit.steps}"
        )
    )
    model.fit(_Batches(learnt, fit, seed), epochs=1, verbose=0, callbacks=[told])
    export_detector(model, path, fit.network, longest_side=fit.longest_side)
    if not held_out:
        return FoundFaces(0, 0, 0, 0, 0.5)
    say(f"measuring the detector on {len(held_out)} held-out photos")
    found = _measure(OnnxFaceDetector(path, threshold=LEAST_SCORE), held_out)
    set_threshold(path, found.threshold)
    return found


def _split(photos: Sequence[Photo], seed: int) -> tuple[list[Photo], list[Photo]]:
    """Photos to learn from, and held-out ones, if there are enough of both; a group stays together."""
    groups = sorted({photo.group for photo in photos})
    count = round(HELD_OUT * len(groups))
    if count < 2:
        return list(photos), []
    order = np.random.default_rng(seed).permutation(len(groups))
    held = {groups[i] for i in order[:count]}
    return [p for p in photos if p.group not in held], [p for p in photos if p.group in held]


def match_boxes(
    detector: FaceDetector, image: ImageArray, boxes: FloatArray, effort: Effort = "normal"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores of a detector's boxes on a photo.

    Args:
        detector: The detector.
        image: The photo.
        boxes: (N, 4) its faces, xyxy, edges in pixels.
        effort: How much is searched.

    Returns:
        (N,) best score of a box with an IoU of at least 0.5 for each face, 0 where there is none; and the scores
        of the boxes on no face.
    """
    found = detector.detect(image, effort)
    common = iou(boxes, found.boxes)
    hit = np.where(common >= 0.5, found.scores[None], 0.0).max(axis=1, initial=0.0)
    return hit, found.scores[common.max(axis=0, initial=0.0) < 0.35]


def _measure(detector: FaceDetector, photos: Sequence[Photo]) -> FoundFaces:
    """Choose the least score by the F1 score; of equally good ones a low one, for points check boxes too."""
    hits, false = (
        np.concatenate(column)
        for column in zip(*(match_boxes(detector, p.image, p.boxes) for p in photos), strict=True)
    )
    thresholds = np.linspace(0.2, 0.8, 25)
    found = np.array([(hits >= t).sum() for t in thresholds])
    wrong = np.array([(false >= t).sum() for t in thresholds])
    f1 = 2.0 * found / np.maximum(found + wrong + len(hits), 1)
    best = np.flatnonzero(f1 >= f1.max() - 1e-9)
    i = int(best[len(best) // 4])
    return FoundFaces(len(photos), len(hits), int(found[i]), int(wrong[i]), float(thresholds[i]))
