"""How fast a model is on this machine: crops one by one and in batches, and whole photos."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from facial_keypoints.data.synthetic.scenes import draw_scene
from facial_keypoints.inference.predictor import Predictor, load_predictor

__all__ = ["Speed", "measure_speed"]


@dataclass(frozen=True)
class Speed:
    """One figure.

    Args:
        task: What was done again and again.
        threads: Threads it was done with.
        median_ms: Milliseconds that it took half of the times.
        best_ms: Milliseconds that it took at best: what a quiet machine would show.
        per_second: Faces or photos a second, by the median.
    """

    task: str
    threads: int
    median_ms: float
    best_ms: float
    per_second: float


def measure_speed(
    model: str | os.PathLike[str] = "default",
    *,
    threads: int,
    batch_size: int = 256,
    seconds: float = 2.0,
    photos: bool = True,
) -> list[Speed]:
    """Time a model with one thread and with several.

    Args:
        model: As for :func:`facial_keypoints.inference.predictor.load_predictor`.
        threads: Threads of the batches.
        batch_size: Faces of a batch.
        seconds: How long each task is repeated.
        photos: Time whole photos too, with the shipped detector.

    Returns:
        One figure a task; decoding of image files is not part of any.

    Raises:
        ModelError: As for :func:`facial_keypoints.inference.predictor.load_predictor`.
    """
    found = []
    for count, faces in ((1, 1), (threads, batch_size)):
        predictor = load_predictor(model, threads=count)
        spec = predictor.spec
        images = np.random.default_rng(0).integers(
            0, 256, (faces, *spec.input_size, spec.channels), np.uint8
        )
        task = "one face" if faces == 1 else f"batch of {faces} faces"
        found.append(_time(task, count, faces, _runs(predictor, images), seconds))
    if photos:
        predictor = load_predictor(model, threads=1)
        photo, _ = draw_scene(3, image_size=(480, 640))
        for task, work in (
            ("finding faces in a photo of 640×480", lambda: predictor.detector.detect(photo)),
            ("the same and their keypoints", lambda: predictor.predict(photo)),
        ):
            found.append(_time(task, 1, 1, work, seconds))
    return found


def _runs(predictor: Predictor, images: np.ndarray) -> Callable[[], object]:
    return lambda: predictor.runtime.run(images)


def _time(
    task: str, threads: int, things: int, work: Callable[[], object], seconds: float
) -> Speed:
    for _ in range(3):  # the first runs allocate
        work()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < 5 or time.perf_counter() < end:
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    median = float(np.median(taken))
    return Speed(task, threads, 1e3 * median, 1e3 * min(taken), things / median)
