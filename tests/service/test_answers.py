"""The work on each image, without HTTP."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("fastapi")

from PIL import Image

from facial_keypoints import load_predictor
from facial_keypoints.errors import ImageError
from facial_keypoints.inference.detector import Detections
from facial_keypoints.service import Limits
from facial_keypoints.service.answers import Answer, Answerer, Job, Question

FILE = io.BytesIO()
Image.fromarray(np.full((60, 50, 3), 90, np.uint8)).save(FILE, "PNG")


class Story:
    """Answers one image whose request ends at a moment: a word of ``said``."""

    def __init__(self, end: str, *, crops: bool) -> None:
        self.said: list[str] = []
        self.end = end
        self.job = Job("a.png", FILE.getvalue(), None, None, Question(crops=crops))
        predictor = load_predictor(threads=1, detector=self)
        (self.answer,) = Answerer(predictor, Limits(), self.lease)([self.job])

    def say(self, word: str) -> None:
        self.said.append(word)
        if word == self.end:
            self.job.over.set()

    @contextmanager
    def lease(self) -> Iterator[Callable[[int], None]]:
        self.say("begun")
        yield lambda pixels: self.say(f"{pixels} pixels")
        self.say("ended")

    def detect(self, image: np.ndarray, effort: str) -> Detections:
        self.say("detected")
        return Detections(np.array([[5, 5, 45, 55]], np.float32), np.ones(1, np.float32))


@pytest.mark.parametrize("crops", [False, True])
def test_the_pixels_of_an_image_are_taken_before_it_is_decoded(crops: bool) -> None:
    story = Story("never", crops=crops)
    assert isinstance(story.answer, Answer)
    assert story.said[:2] == ["begun", "3000 pixels"]
    assert story.said.count("detected") == (not crops)


@pytest.mark.parametrize(
    ("end", "crops"),
    [("begun", False), ("begun", True), ("3000 pixels", False), ("3000 pixels", True), ("detected", False)],
)  # fmt: skip
def test_the_work_ends_at_its_next_step_when_the_request_is_over(end: str, crops: bool) -> None:
    story = Story(end, crops=crops)
    assert isinstance(story.answer, ImageError)
    assert str(story.answer) == "a.png: the request ended before its answer."
    assert story.said[-1] == end
