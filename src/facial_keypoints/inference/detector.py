"""Finding the faces of a photo: a small network that comes with the package, or a user's own YuNet.

Knows images and boxes, nothing of keypoints models. A box is the square *face box* of
:mod:`facial_keypoints.framing`: roughly from the hairline to the chin.
"""

from __future__ import annotations

import json
import os
import threading
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from facial_keypoints.cluster import available_cores
from facial_keypoints.errors import ModelError
from facial_keypoints.framing import face_boxes
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.types import ImageArray

if TYPE_CHECKING:
    import onnxruntime

__all__ = [
    "DETECTOR_KEY",
    "FaceDetector",
    "OnnxFaceDetector",
    "YuNetFaceDetector",
    "find_detector",
    "load_detector",
    "suppress_overlaps",
]

DETECTOR_KEY = "facial_keypoints_detector"
"""Name of the entry in an ONNX file's metadata that describes a detector of this package."""

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
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, received {threads}.")
    path = find_detector(detector)
    if str(detector) == "default":
        return OnnxFaceDetector(path, threads=threads, threshold=threshold)
    session = _open(path, threads)
    if DETECTOR_KEY in session.get_modelmeta().custom_metadata_map:
        return OnnxFaceDetector(path, threads=threads, threshold=threshold)
    if any(node.name in _YUNET_OUTPUTS for node in session.get_outputs()):
        return YuNetFaceDetector(path, threshold=threshold)
    raise ModelError(
        f"{path} is neither a face detector of this package nor OpenCV's YuNet: name one of those, or "
        "'default'."
    )


def find_detector(detector: str | os.PathLike[str] = "default") -> Path:
    """The file of a face detector; one that a user names may still be missing.

    Raises:
        ModelError: This build comes without the detector ``default``.
    """
    if str(detector) != "default":
        return Path(detector)
    path = Path(str(resources.files("facial_keypoints.models"))) / "weights" / "face_detector.onnx"
    if not path.is_file():
        raise ModelError(
            "this build of facial-keypoints comes without the face detector 'default': give the "
            "boxes of the faces, or name a detector's .onnx file."
        )
    return path


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
        self.path = Path(path)
        self._session = _open(self.path, threads)
        metadata = self._session.get_modelmeta().custom_metadata_map
        names = {node.name for node in self._session.get_outputs()}
        if DETECTOR_KEY not in metadata or not {"boxes", "scores"} <= names:
            raise ModelError(
                f"{path} is no face detector of this package (its metadata has no {DETECTOR_KEY}): "
                "name default, OpenCV's YuNet, or a file that references/face_detector of the project's "
                "repository made."
            )
        self.about: dict[str, Any] = json.loads(metadata[DETECTOR_KEY])
        """What the file says of itself."""
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
        gray = _to_gray(image)
        height, width = gray.shape
        scale = min(self.longest_side / max(height, width), self._max_enlarge)
        new_height, new_width = (max(1, round(side * scale)) for side in (height, width))
        # Averaging over areas keeps what lies between the pixels of a plain resize from flickering.
        how = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_LINEAR
        small = (
            gray
            if (new_height, new_width) == (height, width)
            else cv2.resize(gray, (new_width, new_height), interpolation=how)
        )
        step = self._multiple
        canvas = np.zeros(
            (1, -(-new_height // step) * step, -(-new_width // step) * step), np.uint8
        )
        canvas[0, :new_height, :new_width] = small
        boxes, scores = self._session.run(["boxes", "scores"], {"image": canvas})
        kept = scores[0] >= self.threshold
        boxes, scores = boxes[0][kept], scores[0][kept]
        order = suppress_overlaps(boxes, scores, self._overlap)
        # Edges scale without the half pixel that pixel centres need.
        back = np.array([width / new_width, height / new_height] * 2, np.float32)
        return boxes[order] * back, scores[order]


class YuNetFaceDetector:
    """OpenCV's ``FaceDetectorYN`` with a model file of the user's own.

    YuNet's boxes are tighter and follow the face's outline; these are made from its eyes and mouth
    corners instead, so that they are framed like all others.

    Args:
        path: A YuNet ``.onnx`` file.
        threshold: Least score of a face; 0.7 when left out.
        overlap: Share of common area (IoU) from which the weaker of two boxes is dropped.

    Raises:
        ModelError: OpenCV cannot read the file.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, threshold: float | None = None, overlap: float = 0.3
    ) -> None:
        if not Path(path).is_file():
            raise ModelError(f"there is no face detector {path}: name a YuNet .onnx file.")
        self._lock = threading.Lock()
        try:
            self._net: Any = cv2.FaceDetectorYN.create(
                str(path), "", (320, 320), 0.7 if threshold is None else threshold, overlap
            )
            # Whether the file holds a YuNet shows only when it is asked.
            self._net.detect(np.zeros((320, 320, 3), np.uint8))
        except cv2.error as error:
            reason = " ".join(str(error).split())[:160]
            raise ModelError(
                f"OpenCV cannot read {path} as a YuNet face detector ({reason})."
            ) from error

    def detect(self, image: ImageArray) -> tuple[Boxes, NDArray[np.float32]]:
        """Find the faces of one image; see :meth:`FaceDetector.detect`."""
        _check(image)
        colour = np.broadcast_to(np.atleast_3d(image), (*image.shape[:2], 3))
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


def suppress_overlaps(
    boxes: Boxes, scores: NDArray[np.float32], overlap: float
) -> NDArray[np.int64]:
    """Which boxes to keep: of any two that share too much, the one with the better score.

    Args:
        boxes: (N, 4) xyxy.
        scores: (N,).
        overlap: Share of common area (intersection over union) from which a box is dropped.

    Returns:
        Indices of the boxes kept, best first.
    """
    rest = np.argsort(-scores, kind="stable")
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept = []
    while len(rest):
        first, rest = rest[0], rest[1:]
        kept.append(first)
        sides = np.minimum(boxes[first, 2:], boxes[rest, 2:]) - np.maximum(
            boxes[first, :2], boxes[rest, :2]
        )
        common = np.prod(np.maximum(sides, 0.0), axis=1)
        rest = rest[common < overlap * (area[first] + area[rest] - common)]
    return np.array(kept, np.int64)


def _open(path: Path, threads: int | None) -> onnxruntime.InferenceSession:
    import onnxruntime

    if not path.is_file():
        raise ModelError(
            f"there is no face detector {path}: name an .onnx file, or 'default' for the one that "
            "comes with the package."
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or available_cores()
    options.inter_op_num_threads = 1
    # Threads that spin while they wait take the cores from those that read images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what goes wrong is told in our own sentence
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base but Exception
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{path} is no readable ONNX model ({reason}).") from error


def _check(image: ImageArray) -> None:
    flat = image.ndim == 2
    if image.dtype != np.uint8 or not (flat or (image.ndim == 3 and image.shape[2] in (1, 3))):
        raise ValueError(
            f"image must be uint8 with shape (H, W, 3), (H, W, 1) or (H, W), received {image.dtype} "
            f"{image.shape}."
        )
    if 0 in image.shape:
        raise ValueError(f"image must have pixels, received shape {image.shape}.")


def _to_gray(image: ImageArray) -> ImageArray:
    _check(image)
    if image.ndim == 3 and image.shape[2] == 3:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    return np.ascontiguousarray(image.reshape(image.shape[:2]))
