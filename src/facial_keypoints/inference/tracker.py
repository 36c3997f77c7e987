"""Tracking the faces of a video: each keeps its number, and the detector runs only when it is needed.

In a new frame each face is predicted at its expected place, which follows from its last points and their speed,
and then refined. The detector runs about once a second for new faces, and at once when there is no face or a
face has to be confirmed (very low confidence, a jump, a change of size). New faces are checked as
``Predictor.predict`` does. A lost face keeps its number for a few seconds, and gets it back if a face of its size
appears near its expected place. ``docs/tracking.md`` has the details.

Knows frames and the predictor, but not where frames come from or where tracks go. It does not recognise people:
someone who comes back elsewhere, or after a cut, is a new track.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.errors import ModelError
from facial_keypoints.geometry import face_angles, face_boxes, face_sizes, has_face_box, iou
from facial_keypoints.inference.detector import Detections
from facial_keypoints.inference.predictor import Predictor, load_predictor
from facial_keypoints.inference.smoothing import OneEuro, Smoother
from facial_keypoints.io.drawing import draw_boxes, draw_keypoints
from facial_keypoints.io.videos import Frame, open_video
from facial_keypoints.types import ImageArray, Keypoints, KeypointSchema, Prediction

__all__ = ["Tracker", "draw_tracks", "track_frames", "track_video"]

DETECT_EVERY_S = 1.0
"""Seconds between two runs of the detector that only search for new faces."""

_SOON_S = 0.2
"""The same while a face is uncertain or was just lost."""

_KEPT_S = 3.0
"""Seconds that a lost face keeps its number."""

_COAST_S = 1.0
"""Seconds for which a lost face is expected to keep its speed."""

_LOW_CONFIDENCE = 0.5
"""Mean confidence of a face's keypoints below which the detector has to confirm it."""

_VERY_LOW_CONFIDENCE = 0.25
"""Mean confidence below which the detector has to confirm it at once."""

# In sizes of the face (the distance between the eyes), which is 0.38 of the crop's side.
_JUMP = 0.6  # distance from the expected place above which a face is uncertain
_GROWTH = 1.35  # change of size in one frame above which a face is uncertain
_SAME = 0.35  # mean distance of points below which two predictions are one face

_OVERLAP = 0.25
"""Least IoU of a detector's box and the box of a track."""

_MOTION_S = 0.12
"""Seconds over which a track's speed is averaged."""

_DEFAULT_SMOOTHING = OneEuro()

_Points = NDArray[np.float32]

_TRACK_COLORS = (
    (76, 195, 255), (255, 157, 46), (138, 226, 120), (240, 120, 190), (250, 225, 90), (160, 150, 255),
)  # fmt: skip


@dataclass(eq=False)
class _Track:
    """One face: its last points (K, 2) with their confidence (K,), and its speed in pixels a second."""

    number: int
    xy: _Points
    confidence: _Points
    time_s: float
    velocity: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))

    def expected(self, time_s: float) -> _Points:
        """Its points (K, 2) at a later time if it keeps its speed."""
        ahead = min(time_s - self.time_s, _COAST_S)
        return (self.xy + self.velocity * ahead).astype(np.float32)

    def move(self, xy: _Points, confidence: _Points, time_s: float) -> None:
        """Take the points of a new frame and update the speed."""
        step = time_s - self.time_s
        if step > 0:
            speed = (xy.mean(axis=0, dtype=np.float64) - self.xy.mean(axis=0)) / step
            self.velocity = self.velocity + step / (step + _MOTION_S) * (speed - self.velocity)
        self.xy, self.confidence, self.time_s = xy, confidence, time_s


@dataclass(eq=False)
class _Sighting:
    """What one frame shows of a track; the confidence is NaN for a model that gives none."""

    track: _Track
    expected: _Points
    xy: _Points
    confidence: _Points
    jumped: bool = False
    score: float = float("nan")

    @property
    def uncertain(self) -> bool:
        return self.jumped or bool(self.confidence.mean() < _LOW_CONFIDENCE)


class Tracker:
    """Follows the faces of one video, frame by frame.

    Args:
        predictor: Finds the faces and their keypoints; its schema must have eyes and mouth corners.
        detect_every_s: Seconds between two runs of the detector for new faces; 0 runs it in each frame.
        max_faces: Follow at most so many faces; when fewer are followed, the largest new ones are taken.
        min_score: Least score of a new face, as for :meth:`Predictor.predict`.

    Raises:
        ModelError: The model's keypoints lack eyes or mouth corners.
        ValueError: A number is out of range.

    Example:
        >>> tracker = Tracker(load_predictor())  # doctest: +SKIP
        >>> tracker.update(frame).track_ids  # doctest: +SKIP
        array([1, 2])
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        detect_every_s: float = DETECT_EVERY_S,
        max_faces: int | None = None,
        min_score: float | None = None,
    ) -> None:
        if detect_every_s < 0 or (max_faces is not None and max_faces < 1):
            raise ValueError(
                "detect_every_s must not be negative and max_faces at least 1, received "
                f"{detect_every_s} and {max_faces}."
            )
        if not has_face_box(predictor.spec.schema):
            raise ModelError(
                f"tracking needs the eye centres and the mouth's corners, which '{predictor.spec.schema.name}' "
                "lacks: predict the frames as images with 'facial-keypoints predict', or use a model with "
                "these points."
            )
        self._predictor = predictor
        self._detect_every_s = detect_every_s
        self._max_faces = max_faces
        self._min_score = min_score
        self._active: list[_Track] = []
        self._lost: list[_Track] = []
        self._count = 0
        self._detected_s = self._searched_s = -np.inf
        self._scores: dict[int, float] = {}

    @property
    def schema(self) -> KeypointSchema:
        """The keypoints of each face."""
        return self._predictor.spec.schema

    @property
    def track_count(self) -> int:
        """Number of different faces followed so far."""
        return self._count

    def update(self, frame: Frame, *, source: str = "") -> Prediction:
        """Find the faces of the next frame.

        Args:
            frame: A frame later than the one before.
            source: Name of the video.

        Returns:
            The faces of the frame, by track number; their score is NaN where the detector did not run or
            did not find them.
        """
        now = frame.time_s
        image = frame.grey() if self._predictor.spec.channels == 1 else frame.rgb()
        self._lost = [track for track in self._lost if now - track.time_s <= _KEPT_S]
        sightings = self._drop_duplicates(self._follow(image, now))
        if self._should_detect(sightings, now):
            sightings = self._detect(frame, image, sightings)
            self._detected_s = now
        for sighting in sightings:
            sighting.track.move(sighting.xy, sighting.confidence, now)
        self._scores = {sighting.track.number: sighting.score for sighting in sightings}
        return self._prediction(frame, source)

    def _follow(self, image: ImageArray, now: float) -> list[_Sighting]:
        """Predict each face at its expected place."""
        if not self._active:
            return []
        expected = np.stack([track.expected(now) for track in self._active])
        found = self._predictor.predict_tracked(image, expected)
        moved, grown = self._change(expected, found.xy)
        jumped = (moved > _JUMP) | (grown > _GROWTH) | (grown < 1.0 / _GROWTH)
        columns = (self._active, expected, found.xy, _confidence(found), jumped.tolist())
        return [_Sighting(*row) for row in zip(*columns, strict=True)]

    def _sizes(self, xy: _Points) -> NDArray[np.float64]:
        return np.maximum(face_sizes(xy, self.schema), 1e-6)

    def _change(
        self, before: _Points, after: _Points
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How far faces (N, K, 2) moved, in sizes, and by what factor their size changed."""
        sizes = self._sizes(before)
        shift = np.linalg.norm(after.mean(axis=1) - before.mean(axis=1), axis=-1)
        return shift / sizes, self._sizes(after) / sizes

    def _same(self, a: _Points, b: _Points) -> bool:
        apart = float(np.linalg.norm(a - b, axis=-1).mean())
        return apart < _SAME * min(float(self._sizes(a)), float(self._sizes(b)))

    def _drop_duplicates(self, sightings: list[_Sighting]) -> list[_Sighting]:
        """Of tracks that have reached the same face, keep the one whose motion led there."""
        kept: list[_Sighting] = []
        for sighting in sorted(sightings, key=self._surprise):
            if any(self._same(sighting.xy, other.xy) for other in kept):
                self._lose(sighting.track)
            else:
                kept.append(sighting)
        return kept

    def _surprise(self, sighting: _Sighting) -> tuple[float, int]:
        """Distance from the expected place, in fifths of the face's size; then the older track first."""
        moved, _ = self._change(sighting.expected[np.newaxis], sighting.xy[np.newaxis])
        return float(np.round(5.0 * moved[0])), sighting.track.number

    def _lose(self, track: _Track) -> None:
        self._active.remove(track)
        self._lost.append(track)

    def _should_detect(self, sightings: list[_Sighting], now: float) -> bool:
        waited = now - self._detected_s
        if not sightings or any(
            sighting.jumped or sighting.confidence.mean() < _VERY_LOW_CONFIDENCE
            for sighting in sightings
        ):
            return True
        unsettled = bool(self._lost) or any(sighting.uncertain for sighting in sightings)
        return waited >= (min(_SOON_S, self._detect_every_s) if unsettled else self._detect_every_s)

    def _detect(
        self, frame: Frame, image: ImageArray, sightings: list[_Sighting]
    ) -> list[_Sighting]:
        """Confirm the followed faces by the detector's boxes, and begin tracks at the other boxes."""
        # Between two searches for new faces one pass confirms faces, unless they are turned.
        searches = self._searched_s + self._detect_every_s <= frame.time_s
        upright = all(abs(face_angles(s.xy, self.schema)) < 45.0 for s in sightings)
        detected = self._predictor.detect(
            frame.rgb(), self._min_score, "fast" if upright and not searches else None
        )
        if searches:
            self._searched_s = frame.time_s
        boxes, scores, angles = detected.boxes, detected.scores, detected.angles
        schema = self.schema
        xy = np.array([s.xy for s in sightings], np.float32).reshape(-1, schema.num_keypoints, 2)
        pairs = _pairs(face_boxes(xy, schema), boxes)
        for i, j in pairs.items():
            sighting = sightings[i]
            sighting.score = float(scores[j])
            if sighting.uncertain:
                # The box may lie better on the face than the track's expected place.
                found = self._predictor.predict_boxes(
                    image, boxes[j : j + 1], angles=angles[j : j + 1]
                ).keypoints
                confidence = _confidence(found)[0]
                if not confidence.mean() < sighting.confidence.mean():  # true for NaN
                    sighting.xy, sighting.confidence = found.xy[0], confidence
        kept = []
        for i, sighting in enumerate(sightings):
            if sighting.uncertain and i not in pairs:
                self._lose(sighting.track)
            else:
                kept.append(sighting)
        new = [j for j in range(len(boxes)) if j not in pairs.values()]
        return kept + self._begin(frame, image, kept, detected.subset(np.array(new, np.intp)))

    def _begin(
        self,
        frame: Frame,
        image: ImageArray,
        kept: list[_Sighting],
        detected: Detections,
    ) -> list[_Sighting]:
        """Continue lost tracks, or begin new ones, at boxes that have no track and show a face."""
        if not len(detected):
            return []
        found = self._predictor.predict_detected(image, detected)
        faces, confidences = found.keypoints.xy, _confidence(found.keypoints)
        begun: list[_Sighting] = []
        lost = self._find_lost(faces, frame.time_s)
        for j in np.argsort(-self._sizes(faces), kind="stable"):
            xy, confidence = faces[j], confidences[j]
            if any(self._same(xy, sighting.xy) for sighting in kept):
                continue
            if self._max_faces is not None and len(kept) + len(begun) >= self._max_faces:
                break
            track = lost.get(int(j))
            if track is None:
                self._count += 1
                track = _Track(self._count, xy, confidence, frame.time_s)
            else:
                self._lost.remove(track)
                # Its speed while it was lost is not known.
                track.xy, track.time_s, track.velocity = xy, frame.time_s, np.zeros(2)
            self._active.append(track)
            begun.append(_Sighting(track, xy, xy, confidence, score=float(found.scores[j])))
        return begun

    def _find_lost(self, xy: _Points, now: float) -> dict[int, _Track]:
        """The lost track of each face (N, K, 2) that fits one, matched greedily by distance."""
        candidates: list[tuple[float, int, _Track]] = []
        for track in self._lost:
            moved, grown = self._change(np.broadcast_to(track.expected(now), xy.shape), xy)
            fits = (moved < 1.0 + now - track.time_s) & (np.abs(np.log(grown)) < np.log(1.6))
            candidates += [(float(moved[j]), int(j), track) for j in np.flatnonzero(fits)]
        chosen: dict[int, _Track] = {}
        for _, j, track in sorted(candidates, key=lambda c: c[0]):
            if j not in chosen and track not in chosen.values():
                chosen[j] = track
        return chosen

    def _prediction(self, frame: Frame, source: str) -> Prediction:
        tracks = sorted(self._active, key=lambda track: track.number)
        schema = self.schema
        xy = np.array([t.xy for t in tracks], np.float32).reshape(-1, schema.num_keypoints, 2)
        confidence = None
        if tracks and self._predictor.spec.confidence:
            confidence = np.array([t.confidence for t in tracks])
        return Prediction(
            keypoints=Keypoints(xy, schema, confidence=confidence),
            boxes=face_boxes(xy, schema),
            scores=np.array([self._scores[t.number] for t in tracks], np.float32),
            image_size=frame.size,
            source=source,
            frame_index=frame.index,
            time_s=frame.time_s,
            track_ids=np.array([t.number for t in tracks], np.int64),
        )


def _confidence(keypoints: Keypoints) -> _Points:
    """(N, K) confidence; NaN for a model that gives none."""
    known = keypoints.confidence
    return np.full(keypoints.xy.shape[:2], np.nan, np.float32) if known is None else known


def _pairs(tracks: _Points, boxes: _Points) -> dict[int, int]:
    """Indices of tracks and of their boxes, matched greedily by IoU."""
    overlap = iou(tracks, boxes)
    chosen: dict[int, int] = {}
    for flat in np.argsort(-overlap, axis=None, kind="stable"):
        i, j = (int(v) for v in np.unravel_index(flat, overlap.shape))
        if overlap[i, j] < _OVERLAP:
            break
        if i not in chosen and j not in chosen.values():
            chosen[i] = j
    return chosen


def track_frames(
    frames: Iterable[Frame],
    tracker: Tracker,
    *,
    smoothing: OneEuro | None = _DEFAULT_SMOOTHING,
    source: str = "",
) -> Iterator[tuple[Frame, Prediction]]:
    """Follow the faces of frames, one frame at a time.

    Args:
        frames: In order of time.
        tracker: A fresh one.
        smoothing: Settings of the filter; ``None`` for no smoothing.
        source: Name of the video.

    Yields:
        Each frame with its faces.
    """
    smoother = None if smoothing is None else Smoother(smoothing)
    for frame in frames:
        prediction = tracker.update(frame, source=source)
        yield frame, prediction if smoother is None else smoother(prediction)


def track_video(
    source: str | os.PathLike[str],
    *,
    predictor: Predictor | None = None,
    smoothing: OneEuro | None = _DEFAULT_SMOOTHING,
    detect_every_s: float = DETECT_EVERY_S,
    max_faces: int | None = None,
    min_score: float | None = None,
) -> Iterator[Prediction]:
    """Follow the faces of a video, frame by frame; memory does not grow with its length.

    Args:
        source: A file of any kind that FFmpeg reads, or a camera's number (``"0"``).
        predictor: Finds the faces and their keypoints; the shipped models when left out.
        smoothing: Settings of the filter; ``None`` for no smoothing.
        detect_every_s: As for :class:`Tracker`.
        max_faces: As for :class:`Tracker`.
        min_score: As for :class:`Tracker`.

    Yields:
        For each frame the faces in its pixels, with ``track_ids``, ``frame_index`` and ``time_s``;
        a frame without faces gives N = 0.

    Raises:
        DataError: As for :func:`facial_keypoints.io.videos.open_video`. If the video stops in the middle,
            after its last good frame.
        MissingExtraError: PyAV is not installed.

    Example:
        >>> for prediction in track_video("clip.mp4"):  # doctest: +SKIP
        ...     prediction.time_s, prediction.track_ids, prediction.keypoints.xy
    """
    tracker = Tracker(
        predictor or load_predictor(),
        detect_every_s=detect_every_s,
        max_faces=max_faces,
        min_score=min_score,
    )
    with open_video(source) as video:
        for _, prediction in track_frames(video, tracker, smoothing=smoothing, source=video.name):
            yield prediction


def draw_tracks(image: ImageArray, prediction: Prediction) -> ImageArray:
    """Draw the faces of a frame, box and number in the colour of their track.

    Args:
        image: The frame, (H, W, 3) uint8 RGB; not changed.
        prediction: With track ids, in its pixels.

    Returns:
        A new (H, W, 3) RGB image.

    Raises:
        ValueError: The prediction has no track ids.
    """
    if prediction.track_ids is None:
        raise ValueError("drawing tracks needs a prediction with track ids.")
    drawn = draw_keypoints(image, prediction.keypoints)
    for track, box in zip(prediction.track_ids, prediction.boxes, strict=True):
        color = _TRACK_COLORS[(int(track) - 1) % len(_TRACK_COLORS)]
        drawn = draw_boxes(drawn, box[np.newaxis], labels=[f"{track}"], color=color)
    return drawn
