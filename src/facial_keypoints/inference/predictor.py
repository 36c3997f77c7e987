"""From images to keypoints in the pixels of the original image.

Knows runtimes and images, not how models are stored nor where predictions go.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.cluster import available_cores
from facial_keypoints.crops import checked_image, cut_crop, letterbox
from facial_keypoints.errors import ImageError, ModelError
from facial_keypoints.geometry import (
    box_to_crop,
    face_crop,
    face_sizes,
    flip_images,
    flip_xy,
    has_face_box,
)
from facial_keypoints.inference.detector import FaceDetector, load_detector
from facial_keypoints.inference.refine import look_again
from facial_keypoints.io.images import MAX_PIXELS, in_order, read_image
from facial_keypoints.models.runtime import Runtime, load_runtime
from facial_keypoints.models.spec import ModelSpec
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
"""Pixels; in a smaller image even two eyes and a mouth would share pixels."""


@dataclass(frozen=True, eq=False)
class FittedCrop:
    """One image at the model's input, and the way back; small, however large the image was.

    Args:
        image: (H, W, C) uint8 at the model's input.
        transform: From pixels of the image to pixels of the input.
        image_size: (height, width) of the image.
        source: Its name.
    """

    image: ImageArray
    transform: CropTransform
    image_size: tuple[int, int]
    source: str


MIN_FACE_CONFIDENCE = 0.15
"""Least mean confidence of a detected face's keypoints, in the label style where it is lowest. A box that
shows no face gets less, nearly every face far more. Chosen on held-out images together with the score from
which the shipped detector reports boxes (``docs/experiments.md``, *Photos: from boxes to points*)."""

# Mean distance of the keypoints of two detected faces, in face sizes, below which they are duplicates.
_DUPLICATE_DISTANCE = 0.35


class Predictor:
    """A model with the choices of how to ask it.

    Args:
        runtime: The loaded model.
        style: Label style to answer in. When left out: ``kaggle-a`` if the model has it, else its
            first.
        flip: Ask about the mirrored image too and average: slightly better, twice the time.
        average: Ask about eight moved views of every crop and take the mean: better, nine times the
            time. Badly framed crops get a second look in any case, if the model gives a confidence
            (:mod:`facial_keypoints.inference.refine`).
        detector: Finds the faces of photos; the one that comes with the package, opened when the
            first photo comes, when left out.
        threads: Threads that a photo is searched with; every core when left out.

    Raises:
        ModelError: The model does not answer in that style.

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
        flip: bool = False,
        average: bool = False,
        detector: FaceDetector | None = None,
        threads: int | None = None,
    ) -> None:
        styles = runtime.spec.styles
        if style is None:
            style = "kaggle-a" if "kaggle-a" in styles else styles[0]
        if style not in styles:
            known = ", ".join(styles) if any(styles) else "none: it was trained without styles"
            raise ModelError(
                f"the model '{runtime.spec.name}' does not answer in the label style '{style}'; its "
                f"styles: {known}."
            )
        self.runtime = runtime
        self.style = style
        self.flip = flip
        self.average = average
        self._detector = detector
        self._threads = threads

    @property
    def detector(self) -> FaceDetector:
        """What finds the faces of photos.

        Raises:
            ModelError: None was given, and this build comes without one.
        """
        if self._detector is None:
            self._detector = load_detector(threads=self._threads)
        return self._detector

    @property
    def spec(self) -> ModelSpec:
        """What the model says about itself."""
        return self.runtime.spec

    def check_fits(self, faces: FaceDataset) -> None:
        """Make sure that the model can be asked about these faces as they are.

        Raises:
            ModelError: Its input size, channels or keypoints are others.
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
        if faces.schema.keypoint_names != spec.schema.keypoint_names:
            raise ModelError(
                f"the model '{spec.name}' answers the schema '{spec.schema.name}', but the data is "
                f"labelled in '{faces.schema.name}': convert the data or choose another model."
            )

    def predict_batch(
        self,
        images: ImageArray,
        *,
        styles: Sequence[str] | NDArray[np.str_] | None = None,
        batch_size: int = 256,
    ) -> Keypoints:
        """Answer images that are at the model's input size already.

        Args:
            images: (N, H, W, C) uint8.
            styles: (N,) label style of each answer; the predictor's own where a style is unknown to
                the model, and for all when left out.
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
        points, sure = [], []
        for start in range(0, max(len(images), 1), batch_size):
            batch = images[start : start + batch_size]
            xy, confidence = self._ask(batch)
            rows, own = np.arange(len(batch)), chosen[start : start + batch_size]
            found = xy[rows, own]
            if confidence is not None:
                found, certainty = look_again(
                    self.runtime, batch, own, found, confidence[rows, own], average=self.average
                )
                sure.append(certainty)
            points.append(found)
        return Keypoints(
            np.concatenate(points), spec.schema, confidence=np.concatenate(sure) if sure else None
        )

    def _ask(self, batch: ImageArray) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Answers of the model in all styles, averaged with the mirrored images' if wanted."""
        xy, confidence = self.runtime.run(batch)
        if not self.flip:
            return xy, confidence
        mirrored, mirrored_sure = self.runtime.run(flip_images(batch))
        back = flip_xy(mirrored, self.spec.input_size[1], self.spec.schema)
        if self.spec.output == "points":
            # Such a model keeps its annotators' offset to one side (docs/experiments.md), which a
            # mirror turns to the other: the mean must not be drawn away from it.
            back[..., 0] += (xy[..., 0] - back[..., 0]).mean(axis=-1, keepdims=True)
        xy = np.mean([xy, back], axis=0, dtype=np.float32)
        if confidence is not None and mirrored_sure is not None:
            back = mirrored_sure[..., list(self.spec.schema.swap)]
            confidence = np.mean([confidence, back], axis=0, dtype=np.float32)
        return xy, confidence

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
            min_score: Least score of a face. The detector reports none below its own threshold: 0.4 of the
                shipped one.
            max_faces: Keep only so many, those of the best score.
            source: Name of the image.

        Returns:
            The faces in pixels of the photo, best score first; none is N = 0.

        Raises:
            ModelError: This build comes without a detector and none was given.
            ValueError: The array is no such image.
        """
        image = checked_image(image)
        boxes, scores = self.detector.detect(np.broadcast_to(image, (*image.shape[:2], 3)))
        if min_score is not None:
            boxes, scores = boxes[scores >= min_score], scores[scores >= min_score]
        found = self.predict_detected(image, boxes, scores, source=source)
        return found.subset(np.arange(len(found))[:max_faces])

    def predict_detected(
        self,
        image: ImageArray,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        *,
        source: str = "",
    ) -> Prediction:
        """Predict the keypoints of detected boxes and keep those boxes that show a face, each face once.

        A box is left out where the mean confidence of its keypoints is below
        :data:`MIN_FACE_CONFIDENCE`; a model without confidence keeps it. Of two boxes whose keypoints
        nearly coincide the one with the better score stays.

        Args:
            image: (H, W), (H, W, 1) or (H, W, 3) uint8, grey or RGB.
            boxes: (N, 4) xyxy, edges in pixels of the image, as a detector reports them.
            scores: (N,) their scores.
            source: Name of the image.

        Returns:
            At most N faces in pixels of the image, best score first.

        Raises:
            ValueError: The array is no such image, or a box has no area.
        """
        image = checked_image(image)
        best = np.argsort(-scores, kind="stable")
        keypoints, sure = self._look_twice(image, boxes[best])
        found = _prediction(image, keypoints, boxes[best], scores[best], source)
        return found.subset(self._faces(keypoints, sure))

    def _faces(self, found: Keypoints, sure: NDArray[np.float32]) -> NDArray[np.int64]:
        """Indices of the detected boxes that show a face; of duplicates the first."""
        real = np.flatnonzero(~(sure < MIN_FACE_CONFIDENCE))  # NaN: the model gives no confidence
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
        source: str = "",
    ) -> Prediction:
        """Answer the faces of a photo whose places are known.

        Each face is looked at twice: in the crop of its box, then in one framed and turned by what
        was found, so boxes of any convention will do. The mean of both is taken where they frame
        the face alike, else the second answer (measured: ``docs/experiments.md``).

        Args:
            image: (H, W), (H, W, 1) or (H, W, 3) uint8, grey or RGB.
            boxes: (N, 4) xyxy, edges in pixels of the photo; they may reach beyond it.
            scores: (N,) scores of whatever found them; NaN when left out.
            source: Name of the image.

        Returns:
            N faces in pixels of the photo, with the boxes as they were given.

        Raises:
            ValueError: The array is no image, or a box has no area.
        """
        image = checked_image(image)
        given = np.asarray(boxes, np.float32).reshape(-1, 4)
        keypoints, _ = self._look_twice(image, given)
        return _prediction(image, keypoints, given, scores, source)

    def predict_framed(self, image: ImageArray, crops: Sequence[CropTransform]) -> Keypoints:
        """Answer faces of a photo in crops that are framed already; one look, however they turn out.

        Args:
            image: (H, W), (H, W, 1) or (H, W, 3) uint8, grey or RGB.
            crops: From pixels of the photo to the model's input, one per face, as
                :func:`facial_keypoints.geometry.face_crop` makes them.

        Returns:
            One face per crop in pixels of the photo.
        """
        return self._look(checked_image(image), crops)[0]

    def _look(
        self, image: ImageArray, crops: Sequence[CropTransform]
    ) -> tuple[Keypoints, NDArray[np.float32]]:
        """One look: the faces, and (N,) how sure the style is that is least sure; NaN where unknown."""
        spec = self.spec
        cut = [cut_crop(image, crop, spec.channels) for crop in crops]
        batch = np.stack(cut) if cut else np.zeros((0, *spec.input_size, spec.channels), np.uint8)
        xy, confidence = self._ask(batch)
        style = spec.styles.index(self.style)
        points = np.empty((len(crops), spec.schema.num_keypoints, 2), np.float32)
        for i, crop in enumerate(crops):
            points[i] = crop.inverse().apply(xy[i, style])
        if confidence is None:
            return Keypoints(points, spec.schema), np.full(len(crops), np.nan, np.float32)
        found = Keypoints(points, spec.schema, confidence=confidence[:, style])
        return found, confidence.mean(axis=2).min(axis=1)

    def _look_twice(
        self, image: ImageArray, boxes: NDArray[np.float32]
    ) -> tuple[Keypoints, NDArray[np.float32]]:
        """Look at boxes, then in crops framed by what was found; averages of those framed alike."""
        spec = self.spec
        crops = [box_to_crop(box, spec.input_size) for box in boxes]
        first, sure = self._look(image, crops)
        if not crops or not has_face_box(spec.schema):
            return first, sure
        closer = [face_crop(xy, spec.schema, spec.input_size) for xy in first.xy]
        again, surer = self._look(image, closer)
        alike = np.array([_alike(*pair) for pair in zip(crops, closer, strict=True)])
        share = np.where(alike, 0.5, 1.0).astype(np.float32)
        confidence = None
        if first.confidence is not None and again.confidence is not None:
            confidence = first.confidence + share[:, np.newaxis] * (
                again.confidence - first.confidence
            )
        xy = first.xy + share[:, np.newaxis, np.newaxis] * (again.xy - first.xy)
        return Keypoints(xy, spec.schema, confidence=confidence), sure + share * (surer - sure)

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

        Memory does not grow with the number of files: each reading thread holds one photo.

        Args:
            files: Paths, taken as they are needed.
            boxes: (N, 4) boxes of the faces of each file by its resolved path, instead of a
                detector (:func:`facial_keypoints.io.tables.read_boxes`); a file not named has none.
            min_score: As for :meth:`predict`.
            max_faces: As for :meth:`predict`.
            readers: Threads, each of which reads, searches and answers whole photos; the number of
                cores when left out. Open the model with ``threads=1`` then.
            max_pixels: Refuse larger images.

        Yields:
            For each file in order its prediction, or the error that says why there is none.
        """

        def answer(file: str | os.PathLike[str]) -> Prediction | ImageError:
            name = os.fspath(file)
            try:
                image = read_image(file, channels=3, max_pixels=max_pixels)
                if boxes is None:
                    return self.predict(
                        image, min_score=min_score, max_faces=max_faces, source=name
                    )
                given = boxes.get(str(Path(file).resolve()), np.zeros((0, 4), np.float32))
                return self.predict_boxes(image, given[:max_faces], source=name)
            except ImageError as error:
                return error

        threads = readers or available_cores()
        if boxes is None:
            _ = self.detector  # opened here, once: a missing one is no fault of the first photo
        reading = in_order(answer, files, threads=threads, ahead=4 * threads)
        with closing(reading):  # whoever stops early stops the readers with it
            yield from reading

    def predict_crops(
        self, images: Sequence[ImageArray], *, sources: Sequence[str] | None = None
    ) -> list[Prediction]:
        """Answer images that are one face each.

        An image is brought to the model's input whole: as large as fits, in the middle, its edges
        repeated where it is not as wide as high.

        Args:
            images: Images of any size, (H, W), (H, W, 1) or (H, W, 3) uint8, grey or RGB.
            sources: Name of each image.

        Returns:
            One prediction per image, of one face whose box is the whole image, in the pixels
            of that image.

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
        """Answer image files that are one face each, one after the other.

        Memory does not grow with the number of files: no more than two batches of small input
        images, and one decoded image per reader, exist at any time.

        Args:
            files: Paths, taken as they are needed.
            batch_size: Images computed at once.
            readers: Threads that read and decode; the number of cores when left out.
            max_pixels: Refuse larger images.

        Yields:
            For each file in order its prediction, or the error that says why there is none.
        """

        def prepare(file: str | os.PathLike[str]) -> FittedCrop | ImageError:
            try:
                image = read_image(file, channels=self.spec.channels, max_pixels=max_pixels)
                return self.fit_crop(image, os.fspath(file))
            except ImageError as error:
                return error

        # One more batch is read while this one is computed.
        reading = in_order(
            prepare, files, threads=readers or available_cores(), ahead=2 * batch_size
        )
        with closing(reading):  # whoever stops early stops the readers with it
            while batch := list(islice(reading, batch_size)):
                answers = iter(
                    self.predict_fitted([crop for crop in batch if isinstance(crop, FittedCrop)])
                )
                for item in batch:
                    yield next(answers) if isinstance(item, FittedCrop) else item

    def fit_crop(self, image: ImageArray, source: str = "") -> FittedCrop:
        """Bring an image of one face to the model's input, for :meth:`predict_fitted`.

        Args:
            image: (H, W), (H, W, 1) or (H, W, 3) uint8, grey or RGB.
            source: Its name.

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
        """Answer images of one face each at once, as :meth:`predict_crops` does."""
        if not crops:
            return []
        found = self.predict_batch(np.stack([crop.image for crop in crops]))
        predictions = []
        for i, crop in enumerate(crops):
            face = found.subset(slice(i, i + 1))
            height, width = crop.image_size
            predictions.append(
                Prediction(
                    keypoints=Keypoints(
                        np.asarray(crop.transform.inverse().apply(face.xy), np.float32),
                        face.schema,
                        confidence=face.confidence,
                    ),
                    boxes=np.array([[0, 0, width, height]], np.float32),
                    scores=np.full(1, np.nan, np.float32),
                    image_size=crop.image_size,
                    source=crop.source,
                )
            )
        return predictions


def _prediction(
    image: ImageArray,
    keypoints: Keypoints,
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32] | None,
    source: str,
) -> Prediction:
    return Prediction(
        keypoints=keypoints,
        boxes=boxes,
        scores=np.full(len(boxes), np.nan, np.float32)
        if scores is None
        else np.asarray(scores, np.float32),
        image_size=(image.shape[0], image.shape[1]),
        source=source,
    )


def _alike(first: CropTransform, second: CropTransform) -> bool:
    """Whether two crops differ by less than a quarter in scale and 25 degrees in turn."""
    between = second.matrix[:, :2] @ np.linalg.inv(first.matrix[:, :2])
    scale = float(np.hypot(*between[0]))
    turn = float(np.degrees(np.arctan2(between[0, 1], between[0, 0])))
    return 0.8 < scale < 1.25 and abs(turn) < 25.0


def load_predictor(
    model: str | os.PathLike[str] = "default",
    *,
    style: str | None = None,
    flip: bool = False,
    average: bool = False,
    threads: int | None = None,
    detector: FaceDetector | str | os.PathLike[str] | None = None,
) -> Predictor:
    """Open a model and make a predictor of it.

    Args:
        model: ``default`` or another shipped name, a run folder, a ``.keras`` or an ``.onnx`` file.
        style: As for :class:`Predictor`.
        flip: As for :class:`Predictor`.
        average: As for :class:`Predictor`.
        threads: As for :func:`facial_keypoints.models.runtime.load_runtime`; for the detector as well.
        detector: Finds the faces of photos: one of your own, or what
            :func:`facial_keypoints.inference.detector.load_detector` opens; the one that comes with the
            package when left out.

    Raises:
        ModelError: There is no such model or detector, it is corrupt, or it does not know the style.
        MissingExtraError: It is a Keras model and Keras is not installed.
    """
    runtime = load_runtime(model, threads=threads)
    if detector == "default":
        detector = None
    if isinstance(detector, str | os.PathLike):
        detector = load_detector(detector, threads=threads)
    return Predictor(
        runtime, style=style, flip=flip, average=average, detector=detector, threads=threads
    )
