"""Finding the faces of a photo, with the shipped network or a user's own YuNet.

Knows images and boxes, but no keypoint models. A box is the square *face box* of
:mod:`facial_keypoints.geometry`: roughly from the hairline to the chin.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from facial_keypoints.crops import checked_image, resize_image, to_channels
from facial_keypoints.errors import ModelError
from facial_keypoints.geometry import face_boxes, iou, nms
from facial_keypoints.models.registry import DETECTOR_KEY, find_detector, open_onnx
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.types import ImageArray

__all__ = [
    "DETECTOR_KEY",
    "EFFORTS",
    "Detections",
    "Effort",
    "FaceDetector",
    "OnnxFaceDetector",
    "YuNetFaceDetector",
    "load_detector",
]

Boxes = NDArray[np.float32]

# Outputs of the two layouts of YuNet that OpenCV's FaceDetectorYN reads (2023 and 2022).
_YUNET_OUTPUTS = ("kps_8", "iou")


Effort = Literal["fast", "normal", "thorough"]
EFFORTS: tuple[Effort, ...] = get_args(Effort)
"""How much of an image is searched for faces; :class:`OnnxFaceDetector` says what each does."""

SMALLEST = 12.0
"""Side of the smallest face that the shipped network finds, in pixels of its input; it finds 95 in 100."""

# Scores. A true face has nearly always more than 0.85, one that lies or stands on its head less.
_HINT, _UNSURE, _RATHER_SURE, _SURE = 0.2, 0.6, 0.75, 0.85

# In pixels of the network's input: sides of the tiles of a level, and the border around a tile. Faces of more
# than twice the border are found by the level before.
_TILE, _BORDER = 256, 48

_MARGIN = 32
"""Black pixels of the network's input around an image in which a face may be cut off."""

_SMALL = 16.0
"""Side below which an unsure box is a hint, in pixels of the network's input."""

_LARGE = 0.2
"""Side of a face, as a share of the image's longest side, from which the image is no crowd."""


@dataclass(frozen=True, eq=False)
class Detections:
    """The faces that a detector found in one image, best first; N = 0 where there are none.

    Args:
        boxes: (N, 4) float32 xyxy, edges in image pixels; they may reach beyond the image.
        scores: (N,) float32 in [0, 1].
        angles: (N,) degrees by which each face is turned, clockwise: 0, 90, 180 or 270; 0 when left out.
        smallest: Side in pixels of the smallest face that was looked for everywhere; NaN if not known.
    """

    boxes: Boxes
    scores: NDArray[np.float32]
    angles: NDArray[np.float32] = None  # type: ignore[assignment]
    smallest: float = float("nan")

    def __post_init__(self) -> None:
        if self.angles is None:
            object.__setattr__(self, "angles", np.zeros(len(self.boxes), np.float32))

    def __len__(self) -> int:
        return len(self.boxes)

    def subset(self, index: NDArray[Any]) -> Detections:
        """The faces selected by ``index``."""
        columns = self.boxes[index], self.scores[index], self.angles[index]
        return Detections(*columns, smallest=self.smallest)


class FaceDetector(Protocol):
    """Finds faces in a photo."""

    def detect(self, image: ImageArray, effort: Effort) -> Detections:
        """Find the faces of one image.

        Args:
            image: (H, W, 3) uint8 RGB, or (H, W, 1) or (H, W) grey.
            effort: How much is searched.
        """


def load_detector(
    detector: str | os.PathLike[str] = "default",
    *,
    threads: int | None = None,
    threshold: float | None = None,
) -> FaceDetector:
    """Open a face detector.

    Args:
        detector: ``default`` for the one that comes with the package, or an ``.onnx`` file: one that
            ``references/face_detector`` wrote, or OpenCV's YuNet.
        threads: Threads that one photo is searched with; every core this process may use when left
            out. OpenCV's YuNet follows ``cv2.setNumThreads`` instead.
        threshold: Least score of a face; the detector's own when left out. The shipped one's is 0.4, low
            because ``Predictor.predict`` checks its boxes by their keypoints. Unchecked, 0.6 keeps boxes
            that show no face as rare.

    Raises:
        ModelError: There is no such file, it is corrupt, or it is no face detector.
    """
    path = find_detector(detector)
    if str(detector) == "default":
        return OnnxFaceDetector(path, threads=threads, threshold=threshold)
    session = open_onnx(path, threads)
    if DETECTOR_KEY in session.get_modelmeta().custom_metadata_map:
        return OnnxFaceDetector(path, threads=threads, threshold=threshold)
    if any(node.name in _YUNET_OUTPUTS for node in session.get_outputs()):
        return YuNetFaceDetector(path, threshold=threshold)
    raise ModelError(
        f"{path} is neither a face detector of this package nor OpenCV's YuNet: name one of those, or "
        "'default'."
    )


class OnnxFaceDetector:
    """The network of this package, in ONNX Runtime, at several scales and in several orientations.

    The network finds upright faces from 12 pixels. First it sees the whole image in grey, shrunk (or
    enlarged) until its longest side is that of the file's settings. This is all that the effort ``fast`` does;
    with ``normal`` its answer decides what else is searched:

    - *Close-ups*: if no sure face lies inside the frame, the image again, smaller and with a margin.
    - *Turned images*: if there is still no sure face, the image turned by 90, 180 and 270 degrees. Small faces are
      then searched in the orientation of the best box.
    - *Small faces*: levels of twice, four times, ... the scale, in tiles. The first level, and if the image
      shows no large face the others up to half the image's own resolution, are searched whole; the rest only
      around hints, which are small boxes of a low score. Tiles inside a larger face are left out.

    ``thorough`` searches all levels whole, in all orientations.

    Args:
        path: The ``.onnx`` file that ``references/face_detector`` of the project's repository wrote.
        threads: Threads that one photo is searched with; every core when left out.
        threshold: Least score of a face; the file's own when left out.

    Raises:
        ModelError: The file is missing, corrupt, or no detector of this package.

    Example:
        >>> load_detector().detect(photo, "thorough").boxes  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        threshold: float | None = None,
    ) -> None:
        self.path = find_detector(path)
        self._session = open_onnx(self.path, threads)
        metadata = self._session.get_modelmeta().custom_metadata_map
        names = {node.name for node in self._session.get_outputs()}
        if DETECTOR_KEY not in metadata or not {"boxes", "scores"} <= names:
            raise ModelError(
                f"{path} is no face detector of this package (its metadata has no {DETECTOR_KEY}): "
                "name default, OpenCV's YuNet, or a file that references/face_detector of the project's "
                "repository made."
            )
        self.about: dict[str, Any] = json.loads(metadata[DETECTOR_KEY])
        """Settings and description from the file's metadata."""
        about = self.about
        self.threshold = float(about["threshold"] if threshold is None else threshold)
        self._longest_side = int(about["longest_side"])
        self._max_enlarge = float(about["max_enlarge"])
        self._overlap = float(about["overlap"])
        self._multiple = int(about["multiple"])

    def detect(self, image: ImageArray, effort: Effort = "normal") -> Detections:
        """Find the faces of one image; see :meth:`FaceDetector.detect`."""
        pyramid = _Pyramid(checked_image(image))
        height, width = pyramid.size
        scale = min(self._longest_side / max(height, width), self._max_enlarge)
        if effort == "fast":
            return self._best([self._run(pyramid, pyramid.frame, scale)], SMALLEST / scale)
        thorough = effort == "thorough"
        seen = self._search_whole(pyramid, scale, 0, thorough)
        orientations = [0]
        if thorough or not self._is_upright(pyramid, _join(seen)):
            for turns in (1, 2, 3):
                seen += self._search_whole(pyramid, scale, turns, thorough)
            every = _join(seen)
            best = [every.scores[every.angles == 90 * k].max(initial=0.0) for k in range(4)]
            best[0] = max(best[0] + 0.1, _RATHER_SURE)  # upright unless another is clearly better
            orientations = [0, 1, 2, 3] if thorough else [int(np.argmax(best))]
            # In the wrong orientation, too, faces look a little like faces.
            likely = np.isin(every.angles, 90 * np.array(orientations)) | (every.scores >= _SURE)
            seen = [every.subset(likely)]
        for turns in orientations:
            finest = self._search_levels(pyramid, scale, turns, seen, thorough)
        return self._best(seen, SMALLEST / finest)

    def _search_whole(
        self, pyramid: _Pyramid, scale: float, turns: int, thorough: bool
    ) -> list[Detections]:
        """The whole image; and smaller, with a margin, until there is a sure face that the frame does not cut."""
        seen = [self._run(pyramid, pyramid.frame, scale, turns=turns)]
        boxes = seen[0].boxes[seen[0].scores >= _SURE]
        slack = 0.05 * (boxes[:, 2:] - boxes[:, :2])
        inside = (boxes[:, :2] > -slack) & (boxes[:, 2:] < pyramid.frame[2:] + slack)
        sure = inside.all(axis=1).any()
        for smaller in (scale / 2, scale / 4):
            if thorough or not sure:
                found = self._run(pyramid, pyramid.frame, smaller, turns=turns, margin=_MARGIN)
                sure = (found.scores >= _SURE).any()
                seen.append(found)
        return seen

    def _is_upright(self, pyramid: _Pyramid, found: Detections) -> bool:
        """Whether the best face is sure, or rather sure and gets no higher score when it is turned."""
        best = found.scores.max(initial=0.0)
        if not _RATHER_SURE <= best < _SURE:
            return bool(best >= _SURE)
        box = found.boxes[found.scores.argmax()]
        middle, side = (box[:2] + box[2:]) / 2, box[2] - box[0]
        region = _clip(np.concatenate([middle - side, middle + side]), pyramid)
        views = (self._run(pyramid, region, _BORDER / side, turns=k) for k in (1, 2, 3))
        return not any((view.scores > best).any() for view in views)

    def _search_levels(
        self, pyramid: _Pyramid, scale: float, turns: int, seen: list[Detections], thorough: bool
    ) -> float:
        """Search the finer levels in one orientation, and add what is found to what was seen.

        Returns:
            The finest scale that was searched whole.
        """
        finest, first, last = scale, scale, _join(seen)
        while 1.0 / scale > 1.45:
            known = self._best(seen)
            sure = known.boxes[known.scores >= _SURE]
            hints = _hints(last, sure, _SMALL / scale)
            scale = min(2.0 * scale, 1.0)
            crowd = np.ptp(sure[:, ::2], axis=1).max(initial=0.0) < _LARGE * max(pyramid.size)
            whole = thorough or (scale <= 0.5 and (crowd or scale == 2.0 * first))
            parts = []
            for tile in _tiles(pyramid.size, scale, None if whole else hints, sure):
                border = _BORDER / scale
                region = _clip(tile + np.array([-border, -border, border, border]), pyramid)
                found = self._run(pyramid, region, scale, turns=turns)
                middle = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
                mine = ((tile[:2] <= middle) & (middle < tile[2:])).all(axis=1)
                mine &= found.boxes[:, 2] - found.boxes[:, 0] <= 2.0 * border
                parts.append(found.subset(mine))
            last = _join(parts)
            seen.append(last)
            finest = scale if whole else finest
        return finest

    def _run(
        self,
        pyramid: _Pyramid,
        region: NDArray[Any],
        scale: float,
        *,
        turns: int = 0,
        margin: int = 0,
    ) -> Detections:
        """One pass of the network.

        Args:
            pyramid: The image.
            region: (4,) xyxy of what the network sees, in pixels of the image.
            scale: Pixels of the network's input per pixel of the image.
            turns: Quarter turns, counterclockwise, before the network sees it.
            margin: Black pixels around it.

        Returns:
            All boxes that are at least hints, in pixels of the image.
        """
        view, region = pyramid.cut(region, scale)
        height, width = view.shape
        turned = np.rot90(view, turns)
        inner = slice(margin, margin + turned.shape[0]), slice(margin, margin + turned.shape[1])
        step = self._multiple
        sides = (-(-(side + 2 * margin) // step) * step for side in turned.shape)
        canvas = np.zeros((1, *sides), np.uint8)
        canvas[0][inner] = turned
        boxes, scores = (a[0] for a in self._session.run(["boxes", "scores"], {"image": canvas}))
        faces = np.flatnonzero(scores >= self.threshold)
        faces = faces[nms(boxes[faces], scores[faces], self._overlap)]
        hints = np.flatnonzero((scores >= _HINT) & (scores < self.threshold))
        rows = np.concatenate([faces, hints])
        boxes, scores = boxes[rows] - margin, scores[rows]
        for k in reversed(range(turns)):  # undo the last turn first
            x0, y0, x1, y1 = boxes.T
            side = (width, height)[k % 2]
            boxes = np.stack([side - y1, x0, side - y0, x1], axis=1)
        # Edges scale without the half pixel that pixel centres need.
        back = np.array([(region[2] - region[0]) / width, (region[3] - region[1]) / height] * 2)
        boxes = (boxes * back + np.tile(region[:2], 2)).astype(np.float32)
        return Detections(boxes, scores, np.full(len(boxes), 90.0 * turns, np.float32))

    def _best(self, seen: list[Detections], smallest: float = float("nan")) -> Detections:
        """The faces among the boxes seen, each once, best first."""
        found = _join(seen)
        found = found.subset(found.scores >= self.threshold)
        found = found.subset(nms(found.boxes, found.scores, self._overlap))
        # Noses and eyes of large faces look like small faces.
        middle, side = (
            (found.boxes[:, :2] + found.boxes[:, 2:]) / 2,
            np.ptp(found.boxes[:, ::2], axis=1),
        )
        large = found.boxes[:, np.newaxis]
        inside = (large[..., :2] <= middle) & (middle <= large[..., 2:])
        part = inside.all(axis=2) & (side < 0.4 * side[:, np.newaxis])
        part &= (found.scores >= _SURE)[:, np.newaxis]
        return replace(found.subset(~part.any(axis=0)), smallest=smallest)


class _Pyramid:
    """An image, and its halves as soon as they are needed."""

    def __init__(self, image: ImageArray) -> None:
        self.size = image.shape[0], image.shape[1]
        self.frame = np.array([0.0, 0.0, image.shape[1], image.shape[0]])
        self._halves = [image]

    def cut(self, region: NDArray[Any], scale: float) -> tuple[ImageArray, NDArray[np.int64]]:
        """A region in grey, at a scale.

        Returns:
            (h, w) uint8, and the region (4,) that it shows exactly, in pixels of the image.
        """
        level = max(0, int(np.floor(-np.log2(scale))))
        while len(self._halves) <= level and min(self._halves[-1].shape[:2]) >= 32:
            last = self._halves[-1]
            rows, columns = last.shape[0] // 2, last.shape[1] // 2
            # OpenCV halves many times faster than it shrinks by other factors.
            half = resize_image(last[: 2 * rows, : 2 * columns], (rows, columns))
            self._halves.append(to_channels(half, 1))
        level = min(level, len(self._halves) - 1)
        source, step = self._halves[level], 2**level
        x0, y0 = (region[:2] // step).astype(int)
        x1, y1 = np.minimum(-(-region[2:] // step), source.shape[1::-1]).astype(int)
        part = to_channels(source[y0:y1, x0:x1], 1)
        size = max(1, round((y1 - y0) * step * scale)), max(1, round((x1 - x0) * step * scale))
        return resize_image(part, size)[..., 0], np.array([x0, y0, x1, y1]) * step


def _join(parts: list[Detections]) -> Detections:
    """All boxes of several passes."""
    if not parts:
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    return Detections(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.angles for part in parts]),
    )


def _clip(region: NDArray[Any], pyramid: _Pyramid) -> NDArray[Any]:
    """The part of a region (4,) that lies in the image."""
    return np.asarray(np.clip(region, 0.0, np.tile(pyramid.frame[2:], 2)))


def _hints(found: Detections, sure: Boxes, largest: float) -> NDArray[np.float32]:
    """Middles (N, 2) of small boxes that may be faces; those that overlap a sure face are not."""
    boxes = found.boxes[
        (found.scores < _UNSURE) & (found.boxes[:, 2] - found.boxes[:, 0] < largest)
    ]
    boxes = boxes[iou(boxes, sure).max(axis=1, initial=0.0) < 0.3]
    return np.asarray((boxes[:, :2] + boxes[:, 2:]) / 2)


def _tiles(
    size: tuple[int, int], scale: float, hints: NDArray[np.float32] | None, sure: Boxes
) -> list[NDArray[np.float64]]:
    """Tiles (4,) xyxy of a level, in pixels of the image; neighbours are joined, up to 4 by 4.

    Args:
        size: (height, width) of the image.
        scale: Of the level.
        hints: (N, 2) points; only tiles with one are wanted. All are when left out.
        sure: (M, 4) faces; what lies inside one is not wanted.
    """
    rows, columns = (max(1, round(side * scale / _TILE)) for side in size)
    y, x = np.linspace(0, size[0], rows + 1), np.linspace(0, size[1], columns + 1)
    wanted = np.full((rows, columns), hints is None)
    if hints is not None:
        i, j = (
            np.clip(np.searchsorted(edges, places, "right") - 1, 0, len(edges) - 2)
            for edges, places in ((y, hints[:, 1]), (x, hints[:, 0]))
        )
        wanted[i, j] = True
    for x0, y0, x1, y1 in sure:
        inside = (y[:-1] >= y0) & (y[1:] <= y1), (x[:-1] >= x0) & (x[1:] <= x1)
        wanted[np.ix_(*inside)] = False
    tiles = []
    for i, j in np.argwhere(wanted):
        if wanted[i, j]:
            right, below = j + 1, i + 1
            while right < min(columns, j + 4) and wanted[i, right]:
                right += 1
            while below < min(rows, i + 4) and wanted[below, j:right].all():
                below += 1
            wanted[i:below, j:right] = False
            tiles.append(np.array([x[j], y[i], x[right], y[below]]))
    return tiles


class YuNetFaceDetector:
    """OpenCV's ``FaceDetectorYN`` with a model file of the user's own.

    YuNet's boxes are tighter and follow the face's outline; these are made from its eyes and mouth
    corners instead, so that they are face boxes like those of the shipped detector.

    Args:
        path: A YuNet ``.onnx`` file.
        threshold: Least score of a face; 0.7 when left out.
        overlap: IoU from which the weaker of two boxes is dropped.

    Raises:
        ModelError: There is no such file, or OpenCV cannot read it.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, threshold: float | None = None, overlap: float = 0.3
    ) -> None:
        path = find_detector(path)
        self._lock = threading.Lock()
        try:
            self._net: Any = cv2.FaceDetectorYN.create(
                str(path), "", (320, 320), 0.7 if threshold is None else threshold, overlap
            )
            # Only a first run shows whether the file holds a YuNet.
            self._net.detect(np.zeros((320, 320, 3), np.uint8))
        except cv2.error as error:
            reason = " ".join(str(error).split())[:160]
            raise ModelError(
                f"OpenCV cannot read {path} as a YuNet face detector ({reason})."
            ) from error

    def detect(self, image: ImageArray, effort: Effort = "normal") -> Detections:
        """Find the faces of one image in one pass, whatever the effort; see :meth:`FaceDetector.detect`."""
        colour = to_channels(checked_image(image), 3)
        with self._lock:  # the net keeps the size of one image
            self._net.setInputSize((colour.shape[1], colour.shape[0]))
            _, faces = self._net.detect(np.ascontiguousarray(colour[..., ::-1]))
        if faces is None:
            return _join([])
        # x, y, w, h, then right eye, left eye, nose, right and left mouth corner, then the score;
        # right is the person's own.
        points = np.full((len(faces), KAGGLE15.num_keypoints, 2), np.nan)
        names = ("right_eye_center", "left_eye_center", None, "mouth_right_corner", "mouth_left_corner")  # fmt: skip
        for column, name in enumerate(names):
            if name is not None:
                points[:, KAGGLE15.index(name)] = faces[:, 4 + 2 * column : 6 + 2 * column]
        order = np.argsort(-faces[:, 14], kind="stable")
        scores = faces[order, 14].astype(np.float32)
        return Detections(face_boxes(points, KAGGLE15)[order], scores)
