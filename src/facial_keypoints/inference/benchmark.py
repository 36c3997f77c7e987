"""Speed of a model on this machine: single crops, batches of crops, and whole photos."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from facial_keypoints.data.synthetic.scenes import draw_scene
from facial_keypoints.inference.predictor import load_predictor

__all__ = ["Speed", "measure_speed"]


@dataclass(frozen=True)
class Speed:
    """Speed of one task.

    Args:
        task: What was repeated.
        threads: Threads that it used.
        median_ms: Median time in milliseconds.
        best_ms: Shortest time in milliseconds, as on a machine that does nothing else.
        per_second: Faces or photos a second, from the median.
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
        photos: Time whole photos too, with the model's own detector or the shipped one.

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
        work = partial(predictor.runtime.run, images)
        found.append(_time(task, count, faces, work, seconds))
    if photos:
        predictor = load_predictor(model, threads=1)
        photo, _ = draw_scene(3, image_size=(480, 640))
        find, predict = partial(predictor.detector.detect, photo), partial(predictor.predict, photo)
        found.append(_time("finding faces in a photo of 640×480", 1, 1, find, seconds))
        found.append(_time("the same and their keypoints", 1, 1, predict, seconds))
    return found


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
