"""The faces of images, for the verbs that go on from points: measure and align."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from facial_keypoints.errors import DataError, ImageError

if TYPE_CHECKING:
    from rich.console import Console

    from facial_keypoints.types import Prediction

__all__ = ["Crops", "Faces", "Search"]

Crops = Annotated[
    bool, typer.Option("--crops", help="Each image is one face already: look for none.")
]


@dataclass(frozen=True)
class Search:
    """How faces are looked for, as the flags of ``predict`` say it.

    Args:
        crops: Each image is one face: no detector is asked.
        detector: As for ``predict``.
        min_score: As for ``predict``.
        max_faces: As for ``predict``.

    Raises:
        typer.BadParameter: They do not go together.
    """

    crops: bool = False
    detector: str = "default"
    min_score: float | None = None
    max_faces: int | None = None

    def __post_init__(self) -> None:
        if self.crops and replace(self, crops=False) != Search():
            raise typer.BadParameter(
                "--crops takes each image as one face: --detector, --min-score and --max-faces do "
                "not go with it."
            )


class Faces:
    """Predictions of images one after the other; images that cannot be read are listed and passed over.

    Args:
        inputs: Images, folders, patterns, or ``-``.
        model: As for ``predict``.
        search: How to find the faces.
        log: Where to list what was skipped.
    """

    def __init__(self, inputs: list[str], model: str, search: Search, *, log: Console) -> None:
        import warnings

        from facial_keypoints.inference.predictor import load_predictor

        # Pillow warns of metadata that nobody asked for; an image that it cannot read is an error.
        warnings.filterwarnings("ignore", module="PIL")
        # Photos are answered by many threads, each of which computes alone.
        self._predictor = load_predictor(
            model,
            threads=None if search.crops else 1,
            detector=None if search.crops else search.detector,
        )
        self._inputs, self._search, self._log = inputs, search, log
        self.schema = self._predictor.spec.schema
        self.done = self.bad = 0

    def __iter__(self) -> Iterator[Prediction]:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        from facial_keypoints.io.images import find_images

        # Counted first, so that the bar knows the end; standard input can be read only once.
        total = None if "-" in self._inputs else sum(1 for _ in find_images(self._inputs))
        if total == 0:
            raise DataError(f"there is no image in {', '.join(self._inputs)}.")
        files = find_images(self._inputs)
        answers = (
            self._predictor.predict_files(files)
            if self._search.crops
            else self._predictor.predict_photos(
                files, min_score=self._search.min_score, max_faces=self._search.max_faces
            )
        )
        log = self._log
        columns = (TextColumn("finding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with (
            closing(answers),
            Progress(*columns, console=log, transient=True, disable=not log.is_terminal) as bar,
        ):
            for answer in bar.track(answers, total=total):
                self.done += 1
                if isinstance(answer, ImageError):
                    self.bad += 1
                    log.print(f"skipped {answer}")
                    continue
                yield answer
