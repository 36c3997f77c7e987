"""The work on each image: decode it, predict, and write the answer. Runs in threads; knows no HTTP."""

from __future__ import annotations

import copy
import json
import math
import threading
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from facial_keypoints.errors import ImageError
from facial_keypoints.inference.alignment import TEMPLATE_SIZE, align
from facial_keypoints.inference.detector import Effort
from facial_keypoints.inference.measure.measures import measure
from facial_keypoints.inference.measure.table import NUM_OTHERS, measure_rows
from facial_keypoints.inference.predictor import FittedCrop, Predictor
from facial_keypoints.io.images import encode_image, read_image
from facial_keypoints.io.tables import columns, rows
from facial_keypoints.service.limits import Limits
from facial_keypoints.types import ImageArray, Prediction

__all__ = [
    "AlignQuestion", "AlignedFace", "Answer", "Answerer", "Job", "MeasureQuestion", "Question"
]  # fmt: skip


T = TypeVar("T")


class Question(BaseModel):
    """What a request wants to know about its images: the keypoints; fields are its query parameters."""

    model_config = ConfigDict(extra="forbid")

    crops: bool = Field(False, description="Each image is one face already: no detector runs.")
    effort: Effort | None = Field(
        None,
        description="How much of an image is searched for faces: fast is one pass over the whole; normal "
        "searches further where faces may be small, cut off or turned; thorough searches everywhere, at every size and in "
        "every orientation. The service's own, which is normal, when left out.",
    )
    min_score: float | None = Field(
        None, ge=0, le=1, description="Lowest score of a face; the detector's own when left out."
    )
    max_faces: int | None = Field(
        None, ge=1, description="Most faces of an image; those of the highest score are kept."
    )
    source: str = Field(
        "", max_length=1000, description="Name of an image that is sent without one."
    )
    style: str | None = Field(None, description="Label style of the keypoints.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        detects = (self.effort, self.min_score, self.max_faces)
        if self.crops and any(value is not None for value in detects):
            raise ValueError(
                "With crops each image is one face: leave out effort, min_score and max_faces."
            )
        return self


class MeasureQuestion(Question):
    """A request for measures instead of keypoints."""

    ipd_mm: float | None = Field(
        None, gt=0, allow_inf_nan=False,
        description="True distance between the pupils in millimetres; adds lengths in millimetres.",
    )  # fmt: skip
    mm_per_px: float | None = Field(
        None, gt=0, allow_inf_nan=False,
        description="Instead: millimetres per pixel at the distance of the face.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _one_scale(self) -> Self:
        if self.ipd_mm is not None and self.mm_per_px is not None:
            raise ValueError("Give ipd_mm or mm_per_px, not both.")
        return self


class AlignQuestion(Question):
    """A request for aligned faces instead of keypoints."""

    size: int = Field(TEMPLATE_SIZE, ge=8, le=1024, description="Side of each face in pixels.")
    margin: float = Field(
        0.0, ge=0, le=10,
        description="Margin around the face on each side, as a share of the side.",
    )  # fmt: skip
    format: Literal["zip", "png"] = Field(
        "zip",
        description="zip: every face, with faces.csv and problems.json; png: the best face of one image.",
    )


@dataclass(frozen=True, eq=False)
class Job:
    """One image and the question about it.

    Args:
        name: Name of the image.
        content: Bytes of its file.
        media_type: Declared type; ``None`` if there was none.
        boxes: (N, 4) xyxy of its faces in pixels of the upright image; ``None`` to detect them.
        question: The question.
        warnings: What was left out or differs, such as further pages; filled while the image is read.
        over: Set when nobody waits for the answer any more.
    """

    name: str
    content: bytes
    media_type: str | None
    boxes: NDArray[np.float32] | None
    question: Question
    warnings: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """End the work on an image that nobody waits for.

        Raises:
            ImageError: Nobody does.
        """
        if self.over.is_set():
            raise ImageError(f"{self.name or 'image'}: the request ended before its answer.")

    @property
    def kind(self) -> Hashable | None:
        """Jobs of the same kind are answered together: crops in one style, in one run of the model.

        ``None`` for photos, which are answered alone: most of their time goes to decoding and detection,
        which a batch does not make faster.
        """
        together = self.question.crops and not isinstance(self.question, AlignQuestion)
        return (self.question.style,) if together else None


@dataclass(frozen=True, eq=False)
class AlignedFace:
    """One aligned face.

    Args:
        face: Its number in the image.
        png: The aligned face as a PNG file.
        matrix: (2, 3) from pixels of the image to pixels of the aligned face.
        score: Score of the face; NaN where no detector ran.
    """

    face: int
    png: bytes
    matrix: NDArray[np.float64]
    score: float


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer to one image.

    Args:
        body: JSON object: source, width, height, faces.
        found: Number of faces.
        aligned: The aligned faces, if requested.
        units: Units of the measures, if requested.
    """

    body: bytes
    found: int
    aligned: list[AlignedFace] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """Faces without an aligned one, since their points coincide; all where none was requested."""
        return self.found - len(self.aligned)


class Answerer:
    """Answers jobs with one model in all its styles.

    Args:
        predictor: The predictor of the service; several threads use its model and detector at once.
        limits: Limits of pixels and faces.
        lease: Gives room for the pixels of an image, see ``WorkQueue.lease``.
    """

    def __init__(
        self,
        predictor: Predictor,
        limits: Limits,
        lease: Callable[[], AbstractContextManager[Callable[[int], None]]],
    ) -> None:
        self._limits, self._lease = limits, lease
        self._in_style: dict[str | None, Predictor] = {None: predictor}
        for style in predictor.spec.styles:
            self._in_style[style] = copy.copy(predictor)  # the same model and detector
            self._in_style[style].style = style

    def __call__(self, jobs: Sequence[Job]) -> list[Answer | Exception]:
        """Answer jobs of one kind: for each the answer or the error."""
        predictor = self._in_style[jobs[0].question.style]
        if jobs[0].kind is None:
            return [_attempt(self._photo, predictor, job) for job in jobs]
        # Resized one by one: a batch of decoded photos would need gigabytes.
        fitted = [_attempt(self._fit, predictor, job) for job in jobs]
        crops = [f for f in fitted if isinstance(f, FittedCrop)]
        predicted = _attempt(predictor.predict_fitted, crops)
        if isinstance(predicted, Exception):
            # Each alone, so that only the one at fault has no answer.
            return [predicted] if len(jobs) == 1 else [self([job])[0] for job in jobs]
        found = iter(predicted)
        return [
            _attempt(_write, job, next(found)) if isinstance(crop, FittedCrop) else crop
            for job, crop in zip(jobs, fitted, strict=True)
        ]

    def _fit(self, predictor: Predictor, job: Job) -> FittedCrop:
        with self._lease() as take:
            return predictor.fit_crop(self._read(job, predictor.spec.channels, take), job.name)

    def _read(self, job: Job, channels: int, take: Callable[[int], None]) -> ImageArray:
        def check(pixels: int) -> None:
            job.check()
            take(pixels)

        def warn(text: str) -> None:
            if text not in job.warnings:  # an image that is repaired is read twice
                job.warnings.append(text)

        return read_image(
            job.content,
            channels=channels,
            max_pixels=self._limits.pixels,
            name=job.name or "image",
            media_type=job.media_type,
            warn=warn,
            check=check,
        )

    def _photo(self, predictor: Predictor, job: Job) -> Answer:
        with self._lease() as take:
            return self._answer(predictor, job, self._read(job, 3, take))

    def _answer(self, predictor: Predictor, job: Job, image: ImageArray) -> Answer:
        question, name = job.question, job.name
        job.check()
        if job.boxes is not None:
            _check_boxes(job.boxes, image, name)
            found = predictor.predict_boxes(image, job.boxes, source=name)
        elif question.crops:
            found = predictor.predict_crops([image], sources=[name])[0]
        else:
            most = min(question.max_faces or self._limits.faces, self._limits.faces)
            # As predictor.predict does, with a check in between.
            detected = predictor.detect(image, question.min_score, question.effort)
            job.check()
            found = predictor.predict_detected(image, detected, source=name)
            found = found.subset(np.arange(len(found))[:most])
        if isinstance(question, AlignQuestion):
            return _write_aligned(job, question, image, found)
        return _write(job, found)


def _attempt(work: Callable[..., T], *values: Any) -> T | Exception:
    """What a function returns, or the error that it raises: one image costs no other its answer."""
    try:
        return work(*values)
    except Exception as error:
        return error


def _check_boxes(boxes: NDArray[np.float32], image: ImageArray, name: str) -> None:
    height, width = image.shape[:2]
    outside = (boxes[:, 2:] <= 0).any(axis=1) | (boxes[:, :2] >= (width, height)).any(axis=1)
    if outside.any():
        box = ", ".join(f"{v:g}" for v in boxes[np.argmax(outside)])
        raise ImageError(
            f"{name or 'image'}: the box [{box}] lies outside its {width}×{height} pixels."
        )


def _write(job: Job, found: Prediction) -> Answer:
    """Points as ``predict`` writes them to JSON, or measures as ``measure`` does."""
    names = columns(found.keypoints.schema)
    table: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in rows(found)]
    question = job.question
    if not isinstance(question, MeasureQuestion):
        for row in table:
            row["keypoints"] = {
                name: [row[f"{name}_{of}"] for of in ("x", "y", "confidence")]
                for name in found.keypoints.schema.keypoint_names
            }
        return Answer(_body(job, found, table), len(table))
    measured = measure(found, ipd_mm=question.ipd_mm, mm_per_px=question.mm_per_px)
    others = names[:NUM_OTHERS]
    table = [
        {name: row[name] for name in others} | measures
        for row, measures in zip(table, measure_rows(measured), strict=True)
    ]
    units = dict(zip(measured.names, measured.units, strict=True))
    return Answer(_body(job, found, table), len(table), units=units)


def _write_aligned(
    job: Job, question: AlignQuestion, image: ImageArray, found: Prediction
) -> Answer:
    faces: list[AlignedFace] = []
    for i in range(len(found)):
        # One by one, so that only one is held as an array.
        face = found.keypoints.subset([i])
        one = align(image, face, size=question.size, margin=question.margin)
        if one.aligned[0]:
            png = encode_image(one.images[0])
            faces.append(AlignedFace(i, png, one.matrices[0], found.scores[i]))
    return Answer(_body(job, found, []), len(found), aligned=faces)


def _body(job: Job, found: Prediction, table: list[dict[str, Any]]) -> bytes:
    height, width = found.image_size
    value = {"source": found.source, "width": width, "height": height, "faces": table}
    if not math.isnan(found.smallest):
        value["smallest_face"] = round(found.smallest, 1)
    if job.warnings:
        value["warnings"] = job.warnings
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
