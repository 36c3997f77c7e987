"""From images to keypoints in pixels of the original image.

Knows runtimes and images, but not how models are stored or where predictions go.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.cluster import available_cores
from facial_keypoints.crops import checked_image, letterbox
from facial_keypoints.errors import ImageError, ModelError
from facial_keypoints.geometry import face_sizes, has_face_box
from facial_keypoints.inference.detector import (
    EFFORTS,
    Detections,
    Effort,
    FaceDetector,
    load_detector,
)
from facial_keypoints.inference.refine import check_tta, refine_boxes, refine_crops, refine_tracks
from facial_keypoints.io.images import MAX_PIXELS, in_order, read_image
from facial_keypoints.models.registry import find_own_detector
from facial_keypoints.models.runtime import Runtime, load_runtime
from facial_keypoints.models.spec import ModelSpec
from facial_keypoints.schemas import tells
from facial_keypoints.types import (
    CropTransform,
    FaceDataset,
    FloatArray,
    ImageArray,
    Keypoints,
    Prediction,
)

__all__ = ["SMALLEST_SIDE", "FittedCrop", "Predictor", "load_predictor"]

SMALLEST_SIDE = 8
"""Least height and width in pixels of an image of a face."""


@dataclass(frozen=True, eq=False)
class FittedCrop:
    """An image of one face scaled to the model's input, which is small however large the image was.

    Args:
        image: (H, W, C) uint8 of the model's input size.
        transform: From pixels of the original image to pixels of the input.
        image_size: (height, width) of the original image.
        source: Name of the image.
        warnings: As for :class:`Prediction`.
    """

    image: ImageArray
    transform: CropTransform
    image_size: tuple[int, int]
    source: str
    warnings: tuple[str, ...] = ()


MIN_FACE_CONFIDENCE = 0.15
"""Least mean confidence of a detected face's keypoints, in the label style where it is lowest. Boxes without a
face get less, nearly all faces far more. Chosen on held-out images together with the shipped detector's
threshold (``docs/experiments.md``, *Photos: from boxes to points*)."""

# Mean distance of the keypoints of two detected faces, in face sizes, below which they are duplicates.
_DUPLICATE_DISTANCE = 0.35


class Predictor:
    """Predicts keypoints with a model and, in photos, a face detector.

    Faces of photos and poor crops are refined: :mod:`facial_keypoints.inference.refine`.

    Args:
        runtime: The loaded model.
        style: Label style of the predictions. When left out: ``kaggle-a`` if the model has it, if not its
            first.
        tta: Test-time augmentation: take the mean over eight moved views of each face. More accurate; a crop
            takes about nine times as long, a face of a photo or video about five times.
        detector: Finds the faces of photos. When left out, the shipped one is opened when it is needed.
        effort: How much of a photo is searched for faces: ``fast``, ``normal`` or ``thorough``
            (:class:`facial_keypoints.inference.detector.OnnxFaceDetector`).
        threads: Threads of the shipped detector; every core when left out.

    Raises:
        ModelError: The model does not have that style, or cannot use TTA.
        ValueError: There is no such effort.

    Example:
        >>> predictor = load_predictor()  # doctest: +SKIP
        >>> predictor.predict(photo).keypoints.xy.shape  # doctest: +SKIP
        (2, 15, 2)
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        style: str | None = None,
        tta: bool = False,
        detector: FaceDetector | None = None,
        effort: Effort = "normal",
        threads: int | None = None,
    ) -> None:
        styles = runtime.spec.styles
        if style is None:
            style = "kaggle-a" if "kaggle-a" in styles else styles[0]
        if style not in styles:
            known = ", ".join(styles) if any(styles) else "none: it was trained without styles"
            raise ModelError(
                f"the model '{runtime.spec.name}' does not have the label style '{style}'; its "
                f"styles: {known}."
            )
        if tta:
            check_tta(runtime.spec)
        if effort not in EFFORTS:
            raise ValueError(f"effort must be one of {', '.join(EFFORTS)}, received {effort!r}.")
        self.runtime = runtime
        self.style = style
        self.tta = tta
        self.effort = effort
        self._detector = detector
        self._threads = threads

    @property
    def detector(self) -> FaceDetector:
        """The face detector.

        Raises:
            ModelError: None was given, and this build has no shipped one.
        """
        if self._detector is None:
            self._detector = load_detector(threads=self._threads)
        return self._detector

    @property
    def spec(self) -> ModelSpec:
        """The model's description."""
        return self.runtime.spec

    def check_fits(self, faces: FaceDataset) -> None:
        """Check that the model can predict these faces as they are.

        Raises:
            ModelError: Their image size or channels differ from the model's, or it does not predict their keypoints.
        """
        spec = self.spec
        if (faces.image_size, faces.images.shape[3]) != (spec.input_size, spec.channels):
            height, width = spec.input_size
            raise ModelError(
                f"the model '{spec.name}' takes images of {width}×{height} pixels with "
                f"{spec.channels} channel(s), but the data has {faces.images.shape[2]}×"
                f"{faces.images.shape[1]} with {faces.images.shape[3]}: resize the data or choose "
                "another model."
            )
        if not tells(spec.schema, faces.schema):
            raise ModelError(
                f"the model '{spec.name}' predicts the schema '{spec.schema.name}', but the data is "
                f"labelled in '{faces.schema.name}': convert the data or choose another model."
            )

    def predict_batch(
        self,
        images: ImageArray,
        *,
        styles: Sequence[str] | NDArray[np.str_] | None = None,
        batch_size: int = 256,
    ) -> Keypoints:
        """Predict images of one face each that have the model's input size already.

        Args:
            images: (N, H, W, C) uint8.
            styles: (N,) label style of each prediction; the predictor's own where the model does not know a
                style, and for all when left out.
            batch_size: Images computed at once.

        Returns:
            N faces in input pixels.
        """
        spec = self.spec
        default = spec.styles.index(self.style)
        chosen = np.full(len(images), default)
        if styles is not None:
            if len(styles) != len(images):
                raise ValueError(
                    f"styles must have one entry per image ({len(images)}), received {len(styles)}."
                )
            index = {style: i for i, style in enumerate(spec.styles)}
            chosen = np.array([index.get(str(style), default) for style in styles], np.intp)
        found = [
            refine_crops(
                self.runtime,
                images[start : start + batch_size],
                chosen[start : start + batch_size],
                tta=self.tta,
            )
            for start in range(0, max(len(images), 1), batch_size)
        ]
        return self._keypoints(np.concatenate(found))

    def predict(
        self,
        image: ImageArray,
        *,
        min_score: float | None = None,
        max_faces: int | None = None,
        source: str = "",
    ) -> Prediction:
        """Find the faces of a photo and their keypoints.

        The detected boxes are checked as :meth:`predict_detected` says.

        Args:
            image: (H, W), (H, W, 1) or (H, W, 3) uint8, grey or RGB, upright.
            min_score: Least score of a face. The detector reports none below its own threshold, which is
                0.4 for the shipped one.
            max_faces: Keep only so many, those with the best scores.
            source: Name of the image.

        Returns:
            The faces in pixels of the photo, best score first; N = 0 without faces.

        Raises:
            ModelError: No detector was given, and this build has no shipped one.
            ValueError: The array has another dtype or shape.
        """
        image = checked_image(image)
        found = self.predict_detected(image, self.detect(image, min_score), source=source)
        return found.subset(np.arange(len(found))[:max_faces])

    def detect(
        self, image: ImageArray, min_score: float | None = None, effort: Effort | None = None
    ) -> Detections:
        """The detector's faces of an image (H, W, 1 or 3), from ``min_score``; by the own effort when left out."""
        found = self.detector.detect(image, effort or self.effort)
        return found.subset(found.scores >= (min_score or 0.0))

    def predict_detected(
        self,
        image: ImageArray,
        detected: Detections,
        *,
        source: str = "",
    ) -> Prediction:
        """Predict the keypoints of detected boxes, and keep only boxes that show a face, and each face once.

        A box shows no face if the mean confidence of its keypoints is below :data:`MIN_FACE_CONFIDENCE`; a
        model without confidence keeps all boxes. Of boxes whose keypoints nearly coincide, the one with the
        best score stays.

        Args:
            image: (H, W), (H, W, 1) or (H, W, 3) uint8, grey or RGB.
            detected: What a detector reports.
            source: Name of the image.

        Returns:
            At most N faces in pixels of the image, best score first.

        Raises:
            ValueError: The array has another dtype or shape, or a box has no area.
        """
        image = checked_image(image)
        best = detected.subset(np.argsort(-detected.scores, kind="stable"))
        keypoints, lowest = self._refine(image, best.boxes, best.angles)
        found = _prediction(image.shape[:2], keypoints, best.boxes, best.scores, source)
        found = replace(found, smallest=detected.smallest)
        return found.subset(self._faces(keypoints, lowest))

    def _faces(self, found: Keypoints, confidence: NDArray[np.float32]) -> NDArray[np.int64]:
        """Indices of the detected boxes that show a face; of duplicates the first."""
        # NaN: the model gives no confidence.
        real = np.flatnonzero(~(confidence < MIN_FACE_CONFIDENCE))
        if not has_face_box(self.spec.schema):
            return real
        kept: list[int] = []
        sizes = face_sizes(found.xy, self.spec.schema)
        for i in real:
            apart = np.linalg.norm(found.xy[kept] - found.xy[i], axis=2).mean(axis=1)
            if not (apart < _DUPLICATE_DISTANCE * sizes[i]).any():
                kept.append(int(i))
        return np.array(kept, np.int64)

    def predict_boxes(
        self,
        image: ImageArray,
        boxes: FloatArray,
        *,
        scores: NDArray[np.float32] | None = None,
        angles: FloatArray | None = None,
        source: str = "",
    ) -> Prediction:
        """Predict the faces of a photo in given boxes.

        Each face is refined (:func:`facial_keypoints.inference.refine.refine_boxes`), so boxes may be wider or
        narrower than the shipped detector's.

        Args:
            image: (H, W), (H, W, 1) or (H, W, 3) uint8, grey or RGB.
            boxes: (N, 4) xyxy, edges in pixels of the photo; they may reach beyond it.
            scores: (N,) scores of the boxes; NaN when left out.
            angles: (N,) degrees by which the faces are turned, clockwise; 0 when left out.
            source: Name of the image.

        Returns:
            N faces in pixels of the photo, with the given boxes.

        Raises:
            ValueError: The array has another dtype or shape, or a box has no area.
        """
        image = checked_image(image)
        given = np.asarray(boxes, np.float32).reshape(-1, 4)
        return _prediction(
            image.shape[:2], self._refine(image, given, angles)[0], given, scores, source
        )

    def predict_tracked(self, image: ImageArray, faces: FloatArray) -> Keypoints:
        """Predict faces of a video frame near their expected places.

        Args:
            image: (H, W), (H, W, 1) or (H, W, 3) uint8, grey or RGB.
            faces: (N, K, 2) expected points of each face, in pixels of the frame, with the eye centres and the
                mouth's corners.

        Returns:
            N faces in pixels of the frame, refined
            (:func:`facial_keypoints.inference.refine.refine_tracks`).
        """
        style = self.spec.styles.index(self.style)
        found = refine_tracks(self.runtime, checked_image(image), faces, style, tta=self.tta)
        return self._keypoints(found)

    def _refine(
        self, image: ImageArray, boxes: NDArray[np.float32], angles: FloatArray | None = None
    ) -> tuple[Keypoints, NDArray[np.float32]]:
        """The faces in boxes, and (N,) their mean confidence in the label style where it is lowest."""
        style = self.spec.styles.index(self.style)
        found, lowest = refine_boxes(self.runtime, image, boxes, style, angles=angles, tta=self.tta)
        return self._keypoints(found), lowest

    def _keypoints(self, outputs: NDArray[np.float32]) -> Keypoints:
        """From (N, K, 3): x, y and confidence."""
        confidence = outputs[..., 2] if self.spec.confidence else None
        return Keypoints(outputs[..., :2], self.spec.schema, confidence=confidence)

    def predict_photos(
        self,
        files: Iterable[str | os.PathLike[str]],
        *,
        boxes: Mapping[str, NDArray[np.float32]] | None = None,
        min_score: float | None = None,
        max_faces: int | None = None,
        readers: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Generator[Prediction | ImageError]:
        """Find faces and keypoints in photo files, one after the other.

        Memory does not grow with the number of files: each thread holds one photo.

        Args:
            files: Paths, taken when they are needed.
            boxes: (N, 4) boxes of each file's faces by its resolved path, instead of the detector's
                (:func:`facial_keypoints.io.tables.read_boxes`); a file that is missing there has no faces.
            min_score: As for :meth:`predict`.
            max_faces: As for :meth:`predict`.
            readers: Threads that each process whole photos; the number of cores when left out. The model
                should be opened with ``threads=1``.
            max_pixels: Refuse larger images.

        Yields:
            For each file, in order, its prediction or the error that says why there is none.
        """

        def predict(file: str | os.PathLike[str]) -> Prediction | ImageError:
            name = os.fspath(file)
            said: list[str] = []
            try:
                image = read_image(file, channels=3, max_pixels=max_pixels, warn=said.append)
            except ImageError as error:
                return error
            if boxes is None:
                found = self.predict(image, min_score=min_score, max_faces=max_faces, source=name)
            else:
                given = boxes.get(str(Path(file).resolve()), np.zeros((0, 4), np.float32))
                found = self.predict_boxes(image, given[:max_faces], source=name)
            return replace(found, warnings=tuple(said))

        threads = readers or available_cores()
        if boxes is None:
            _ = self.detector  # opened once, before the threads begin
        reading = in_order(predict, files, threads=threads, ahead=4 * threads)
        with closing(reading):  # stops the threads when this generator is closed early
            yield from reading

    def predict_crops(
        self, images: Sequence[ImageArray], *, sources: Sequence[str] | None = None
    ) -> list[Prediction]:
        """Predict images of one face each, scaled to the model's input as :func:`letterbox` does.

        Args:
            images: Images of any size, (H, W), (H, W, 1) or (H, W, 3) uint8, grey or RGB.
            sources: Name of each image.

        Returns:
            One prediction per image, in its pixels: one face, whose box is the whole image.

        Raises:
            ImageError: An image is smaller than 8×8.
        """
        names = [""] * len(images) if sources is None else list(sources)
        return self.predict_fitted(
            [self.fit_crop(*pair) for pair in zip(images, names, strict=True)]
        )

    def predict_files(
        self,
        files: Iterable[str | os.PathLike[str]],
        *,
        batch_size: int = 128,
        readers: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Generator[Prediction | ImageError]:
        """Predict image files of one face each, one after the other.

        Memory does not grow with the number of files: at most two batches of small input images, and one
        decoded image per reader, exist at any time.

        Args:
            files: Paths, taken when they are needed.
            batch_size: Images computed at once.
            readers: Threads that read and decode; the number of cores when left out.
            max_pixels: Refuse larger images.

        Yields:
            For each file, in order, its prediction or the error that says why there is none.
        """

        def prepare(file: str | os.PathLike[str]) -> FittedCrop | ImageError:
            said: list[str] = []
            try:
                image = read_image(
                    file, channels=self.spec.channels, max_pixels=max_pixels, warn=said.append
                )
                return replace(self.fit_crop(image, os.fspath(file)), warnings=tuple(said))
            except ImageError as error:
                return error

        # The next batch is read while this one is computed.
        threads = readers or available_cores()
        reading = in_order(prepare, files, threads=threads, ahead=2 * batch_size)
        with closing(reading):  # stops the threads when this generator is closed early
            while batch := list(islice(reading, batch_size)):
                crops = [item for item in batch if isinstance(item, FittedCrop)]
                found = iter(self.predict_fitted(crops))
                for item in batch:
                    yield next(found) if isinstance(item, FittedCrop) else item

    def fit_crop(self, image: ImageArray, source: str = "") -> FittedCrop:
        """Scale an image of one face to the model's input, for :meth:`predict_fitted`.

        Args:
            image: (H, W), (H, W, 1) or (H, W, 3) uint8, grey or RGB.
            source: Name of the image.

        Raises:
            ImageError: It is smaller than 8×8.
        """
        height, width = image.shape[:2]
        if min(height, width) < SMALLEST_SIDE:
            raise ImageError(
                f"{source or 'image'}: {width}×{height} pixels are too few for a face "
                f"(at least {SMALLEST_SIDE}×{SMALLEST_SIDE})."
            )
        image, transform = letterbox(image, self.spec.input_size, self.spec.channels)
        return FittedCrop(image, transform, (height, width), source)

    def predict_fitted(self, crops: Sequence[FittedCrop]) -> list[Prediction]:
        """Predict images of one face each at once, as :meth:`predict_crops` does."""
        if not crops:
            return []
        found = self.predict_batch(np.stack([crop.image for crop in crops]))
        predictions = []
        for i, crop in enumerate(crops):
            face = found.subset(slice(i, i + 1))
            xy = np.asarray(crop.transform.inverse().apply(face.xy), np.float32)
            points = Keypoints(xy, face.schema, confidence=face.confidence)
            height, width = crop.image_size
            box = np.array([[0, 0, width, height]], np.float32)
            found_here = _prediction(crop.image_size, points, box, None, crop.source)
            predictions.append(replace(found_here, warnings=crop.warnings))
        return predictions


def _prediction(
    image_size: tuple[int, int],
    keypoints: Keypoints,
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32] | None,
    source: str,
) -> Prediction:
    scores = np.full(len(boxes), np.nan) if scores is None else scores
    return Prediction(
        keypoints, boxes, np.asarray(scores, np.float32), image_size=image_size, source=source
    )


def load_predictor(
    model: str | os.PathLike[str] = "default",
    *,
    style: str | None = None,
    tta: bool = False,
    threads: int | None = None,
    detector: FaceDetector | str | os.PathLike[str] | None = None,
    effort: Effort = "normal",
) -> Predictor:
    """Open a model for prediction.

    Args:
        model: ``default`` (15 points), ``ibug68`` (68 points), a run folder, a ``.keras`` or an ``.onnx`` file.
        style: As for :class:`Predictor`.
        tta: As for :class:`Predictor`.
        threads: As for :func:`facial_keypoints.models.runtime.load_runtime`; for the detector as well.
        detector: Finds the faces of photos: an object, or a name or file for
            :func:`facial_keypoints.inference.detector.load_detector`. When left out, or ``default``: the one
            that was trained together with the model, if its run folder holds one, else the shipped one.
        effort: As for :class:`Predictor`.

    Raises:
        ModelError: There is no such model or detector, it is corrupt, it does not have the style, or
            it cannot use TTA.
        MissingExtraError: It is a Keras model and Keras is not installed.
    """
    runtime = load_runtime(model, threads=threads)
    if detector is None or detector == "default":
        detector = find_own_detector(model)
    if isinstance(detector, str | os.PathLike):
        detector = load_detector(detector, threads=threads)
    return Predictor(
        runtime, style=style, tta=tta, detector=detector, effort=effort, threads=threads
    )
