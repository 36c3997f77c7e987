"""Smoothing points over time: the One-Euro filter, a low pass whose cutoff grows with a point's speed.

After Casiez, Roussel and Vogel, *1€ Filter: A Simple Speed-based Low-pass Filter for Noisy Input in
Interactive Systems*, CHI 2012. A point at rest is smoothed strongly, against jitter; a moving point weakly,
against lag. Speeds are in face sizes per second, so the same settings suit near and far faces at any
frame rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.geometry import face_boxes, face_sizes
from facial_keypoints.types import FloatArray, Keypoints, Prediction

__all__ = ["OneEuro", "OneEuroFilter", "Smoother"]


@dataclass(frozen=True)
class OneEuro:
    """Settings of the filter; the defaults are measured, see ``benchmarks/track_video.py``.

    Args:
        min_cutoff: Cutoff in Hz for a point at rest; a smaller value gives less jitter.
        beta: Hz by which the cutoff grows per face size a second; a larger value gives less lag.
        derivative_cutoff: Cutoff in Hz for the speed itself.

    Raises:
        ValueError: A cutoff is not above 0, or beta is below 0.
    """

    min_cutoff: float = 1.0
    beta: float = 10.0
    derivative_cutoff: float = 4.0

    def __post_init__(self) -> None:
        if not (self.min_cutoff > 0 and self.derivative_cutoff > 0 and self.beta >= 0):
            raise ValueError(
                "min_cutoff and derivative_cutoff must be above 0 and beta not below 0, received "
                f"{self.min_cutoff}, {self.derivative_cutoff} and {self.beta}."
            )


class OneEuroFilter:
    """The filter of one face; each point has its own speed and cutoff.

    Args:
        settings: Its settings.
    """

    def __init__(self, settings: OneEuro | None = None) -> None:
        self.settings = settings or OneEuro()
        self._time_s = math.nan
        self._raw: NDArray[np.float64] = np.empty((0, 2))
        self._smooth = self._speed = self._raw

    def __call__(self, xy: FloatArray, time_s: float, size: float = 1.0) -> NDArray[np.float64]:
        """Smooth the points of the next frame.

        Args:
            xy: (K, 2) points in any unit; NaN is not known.
            time_s: Time of the frame in seconds. If it is not later than the one before, the filter starts
                again.
            size: Size of the face in the unit of the points.

        Returns:
            (K, 2) smoothed points. The first points, and those after a NaN, are not changed; NaN stays NaN.
        """
        raw = np.asarray(xy, np.float64)
        step = time_s - self._time_s
        if not step > 0 or self._raw.shape != raw.shape:
            smooth, speed = raw, np.zeros_like(raw)
        else:
            settings = self.settings
            speed = (raw - self._raw) / (step * size)
            speed = _mixed(self._speed, speed, _share(settings.derivative_cutoff, step))
            pace = np.linalg.norm(speed, axis=-1, keepdims=True)
            cutoff = settings.min_cutoff + settings.beta * pace
            smooth = _mixed(self._smooth, raw, _share(cutoff, step))
            known = ~np.isnan(self._smooth)
            smooth, speed = np.where(known, smooth, raw), np.where(known, speed, 0.0)
        self._time_s, self._raw, self._smooth, self._speed = time_s, raw, smooth, speed
        return smooth.copy()


def _share(cutoff: float | NDArray[np.float64], step: float) -> float | NDArray[np.float64]:
    """Weight of the newest sample in a first-order low pass after ``step`` seconds."""
    return 1.0 / (1.0 + 1.0 / (2.0 * math.pi * cutoff * step))


def _mixed(
    old: NDArray[np.float64], new: NDArray[np.float64], share: float | NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.asarray(old + share * (new - old))


class Smoother:
    """Filters for all tracks of a video; a track that is missing from a frame starts again.

    Args:
        settings: Settings of every filter.
    """

    def __init__(self, settings: OneEuro | None = None) -> None:
        self.settings = settings or OneEuro()
        self._filters: dict[int, OneEuroFilter] = {}

    def __call__(self, prediction: Prediction) -> Prediction:
        """Smooth the prediction of the next frame: its points, and the face boxes that follow from them.

        Raises:
            ValueError: It has no track ids.
        """
        if prediction.track_ids is None:
            raise ValueError(
                "smoothing needs a prediction with track ids, as the tracker makes it."
            )
        points = prediction.keypoints
        ids = [int(i) for i in prediction.track_ids]
        self._filters = {i: self._filters.get(i) or OneEuroFilter(self.settings) for i in ids}
        sizes = face_sizes(points.xy, points.schema)
        smooth = np.array(points.xy)
        for row, track in enumerate(ids):
            smooth[row] = self._filters[track](points.xy[row], prediction.time_s, float(sizes[row]))
        return replace(
            prediction,
            keypoints=Keypoints(smooth, points.schema, points.visibility, points.confidence),
            boxes=face_boxes(smooth, points.schema),
        )
