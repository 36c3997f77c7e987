"""Finding the faces of a photo, with the shipped network or a user's own YuNet.

Knows images and boxes, but no keypoint models. A box is the square *face box* of
:mod:`facial_keypoints.geometry`: roughly from the hairline to the chin.
"""

from __future__ import annotations

import json
import os
import threading
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from facial_keypoints.crops import checked_image, resize_image, to_channels
from facial_keypoints.errors import ModelError
from facial_keypoints.geometry import face_boxes, nms
from facial_keypoints.models.registry import DETECTOR_KEY, find_detector, open_onnx
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.types import ImageArray

__all__ = [
    "DETECTOR_KEY",
    "FaceDetector",
    "OnnxFaceDetector",
    "YuNetFaceDetector",
    "load_detector",
]

Boxes = NDArray[np.float32]

# Outputs of the two layouts of YuNet that OpenCV's FaceDetectorYN reads (2023 and 2022).
_YUNET_OUTPUTS = ("kps_8", "iou")


class FaceDetector(Protocol):
    """Finds faces in a photo."""

    def detect(self, image: ImageArray) -> tuple[Boxes, NDArray[np.float32]]:
        """Find the faces of one image.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            Boxes (N, 4) xyxy, edges in image pixels, and scores (N,) in [0, 1], best first; N = 0
            where none is found.
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
    """The network of this package, in ONNX Runtime.

    A photo is made grey and shrunk (or enlarged) until its longest side is ``longest_side`` pixels.

    Args:
        path: The ``.onnx`` file that ``references/face_detector`` of the project's repository wrote.
        threads: Threads that one photo is searched with; every core when left out.
        threshold: Least score of a face; the file's own when left out.
        longest_side: Pixels of the longest side of what the network sees; the file's own when left
            out. Twice as much finds faces half as large and takes four times as long.

    Raises:
        ModelError: The file is missing, corrupt, or no detector of this package.

    Example:
        >>> boxes, scores = load_detector().detect(photo)  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        threshold: float | None = None,
        longest_side: int | None = None,
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
        self.longest_side = int(about["longest_side"] if longest_side is None else longest_side)
        self._max_enlarge = float(about["max_enlarge"])
        self._overlap = float(about["overlap"])
        self._multiple = int(about["multiple"])
        if self.longest_side < self._multiple:
            raise ValueError(
                f"longest_side must be at least {self._multiple}, received {self.longest_side}."
            )

    def detect(self, image: ImageArray) -> tuple[Boxes, NDArray[np.float32]]:
        """Find the faces of one image.

        Args:
            image: (H, W, 3) uint8 RGB, or (H, W, 1) or (H, W) grey.

        Returns:
            Boxes (N, 4) xyxy, edges in image pixels (they may reach beyond the image), and scores
            (N,) in [0, 1], best first.
        """
        grey = to_channels(checked_image(image), 1)
        height, width = grey.shape[:2]
        scale = min(self.longest_side / max(height, width), self._max_enlarge)
        new_height, new_width = (max(1, round(side * scale)) for side in (height, width))
        step = self._multiple
        canvas = np.zeros(
            (1, -(-new_height // step) * step, -(-new_width // step) * step), np.uint8
        )
        canvas[0, :new_height, :new_width] = resize_image(grey, (new_height, new_width))[..., 0]
        boxes, scores = self._session.run(["boxes", "scores"], {"image": canvas})
        kept = scores[0] >= self.threshold
        boxes, scores = boxes[0][kept], scores[0][kept]
        order = nms(boxes, scores, self._overlap)
        # Edges scale without the half pixel that pixel centres need.
        back = np.array([width / new_width, height / new_height] * 2, np.float32)
        return boxes[order] * back, scores[order]


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

    def detect(self, image: ImageArray) -> tuple[Boxes, NDArray[np.float32]]:
        """Find the faces of one image; see :meth:`FaceDetector.detect`."""
        colour = to_channels(checked_image(image), 3)
        with self._lock:  # the net keeps the size of one image
            self._net.setInputSize((colour.shape[1], colour.shape[0]))
            _, faces = self._net.detect(np.ascontiguousarray(colour[..., ::-1]))
        if faces is None:
            return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
        # x, y, w, h, then right eye, left eye, nose, right and left mouth corner, then the score;
        # right is the person's own.
        points = np.full((len(faces), KAGGLE15.num_keypoints, 2), np.nan)
        names = ("right_eye_center", "left_eye_center", None, "mouth_right_corner", "mouth_left_corner")  # fmt: skip
        for column, name in enumerate(names):
            if name is not None:
                points[:, KAGGLE15.index(name)] = faces[:, 4 + 2 * column : 6 + 2 * column]
        order = np.argsort(-faces[:, 14], kind="stable")
        return face_boxes(points, KAGGLE15)[order], faces[order, 14].astype(np.float32)
