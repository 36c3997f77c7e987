"""What the verbs that find faces share: their flags as one value, and the loop over the images."""

from __future__ import annotations

import inspect
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facial_keypoints.cli import ENDING
from facial_keypoints.cli import options as o
from facial_keypoints.cli.progress import make_progress
from facial_keypoints.errors import DataError, ImageError, MissingExtraError, OutputError
from facial_keypoints.files import FULL_DISK

if TYPE_CHECKING:
    from rich.console import Console

    from facial_keypoints.inference.predictor import Predictor
    from facial_keypoints.io.images import PassedOver, StoredImage
    from facial_keypoints.types import ImageArray, Prediction

__all__ = ["FaceOptions", "Faces", "Images", "interrupts", "takes_face_options"]

_TOLD: tuple[tuple[PassedOver, str, str], ...] = (
    (
        "foreign",
        "file looks like an image and was not read: {names}.",
        "files look like images and were not read: {names}.",
    ),
    ("hidden", "hidden image was not taken: {names}.", "hidden images were not taken: {names}."),
    (
        "link",
        "link to a folder was not followed: {names}. Name the folder itself to take its images.",
        "links to folders were not followed: {names}. Name the folders themselves to take their images.",
    ),
    (
        "folder",
        "folder matches the pattern and was not taken: {names}.",
        "folders match the pattern and were not taken: {names}.",
    ),
)

Images = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT",
        help="Images, folders (with all below them), patterns like 'faces/*.jpg', or - for a "
        "list on standard input, one path per line.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class FaceOptions:
    """The flags of the verbs that find faces; a verb that lacks one leaves it at its default.

    Args:
        model: As for ``load_predictor``.
        crops: Each image is one face; no detector runs.
        boxes: Table of boxes to use instead of a detector's.
        detector: As for ``load_predictor``.
        effort: As for ``Predictor``.
        min_score: As for ``Predictor.predict``.
        max_faces: As for ``Predictor.predict``.
        style: As for ``Predictor``.
        tta: As for ``Predictor``.
        max_pixels: As for ``read_image``.
        threads: Threads to compute with; every core when left out.

    Raises:
        typer.BadParameter: Some of them cannot be combined.
    """

    model: o.Model = "default"
    crops: o.Crops = False
    boxes: o.Boxes = None
    detector: o.Detector = "default"
    effort: o.Effort = o.EffortName.normal
    min_score: o.MinScore = None
    max_faces: o.MaxFaces = None
    style: o.Style = None
    tta: o.Tta = False
    max_pixels: o.MaxPixels = o.MAX_PIXELS
    threads: o.Threads = None

    def __post_init__(self) -> None:
        detects = (
            self.detector != "default"
            or self.effort != o.EffortName.normal
            or self.min_score is not None
        )
        if self.crops and (detects or self.boxes is not None or self.max_faces is not None):
            raise typer.BadParameter(
                "--crops takes each image as one face: --boxes, --detector, --effort, --min-score and "
                "--max-faces do not go with it."
            )
        if self.boxes is not None and detects:
            raise typer.BadParameter(
                "--boxes replaces the detector: --detector, --effort and --min-score do not go with it."
            )

    def load_predictor(self, *, threads: int | None) -> Predictor:
        """Open the predictor with these options.

        Args:
            threads: Threads for one photo, or for one batch of crops.
        """
        from facial_keypoints.inference.predictor import load_predictor

        return load_predictor(
            self.model,
            style=self.style,
            tta=self.tta,
            threads=threads,
            detector=None if self.crops or self.boxes else self.detector,
            effort=self.effort.value,
        )


def takes_face_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all flags of :class:`FaceOptions`, in place of its parameter ``options``."""
    flags = inspect.signature(FaceOptions, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True)

    @wraps(command)
    def with_options(**given: Any) -> None:
        options = FaceOptions(**{name: given.pop(name) for name in flags})
        command(**given, options=options)

    parameters: list[inspect.Parameter] = []
    for each in own.parameters.values():
        parameters += flags.values() if each.name == "options" else [each]
    # Typer reads the flags of a command from its signature.
    by_name = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    with_options.__signature__ = own.replace(parameters=by_name)  # type: ignore[attr-defined]
    return with_options


class Faces:
    """Predictions of images one after the other; images that cannot be read are listed and skipped.

    Args:
        inputs: Images, folders, patterns, or ``-``.
        options: How to find the faces.
        log: Where to list what was skipped.
        batch_size: Crops computed at once.
        without: An output folder; what it holds is no input.
        as_json: Print what was done and what was not as JSON on standard output in the end.

    Raises:
        DataError: There is no image, or no image for a box.
    """

    def __init__(
        self,
        inputs: list[str],
        options: FaceOptions,
        *,
        log: Console,
        batch_size: int = 128,
        without: Path | None = None,
        as_json: bool = False,
    ) -> None:
        import warnings

        from facial_keypoints.io.images import find_images
        from facial_keypoints.io.tables import read_boxes

        # Pillow warns of odd metadata, which is not used; an image that it cannot read is an error.
        warnings.filterwarnings("ignore", module="PIL")
        # Photos are predicted whole, one per thread; crops in batches, each computed by every thread.
        predictor = options.load_predictor(threads=options.threads if options.crops else 1)
        self.schema = predictor.spec.schema
        self.done = self.bad = 0
        self.smallest = 0.0
        """Side in pixels of the smallest face that was looked for in every image; 0 if no detector ran."""
        self._lost: list[tuple[str, str]] = []  # kind and sentence of each thing that was not done
        self._warnings: list[str] = []
        self._passed_over: dict[Path, PassedOver] = {}
        self._repeated = 0
        self._without = without
        self._as_json = as_json
        self._max_pixels = options.max_pixels
        self._places: set[Path] = set()
        self.interrupted = False
        # Made here, so that its imports succeed before an output is begun.
        self._log, self._progress = log, make_progress("predicting", log)
        found = find_images(inputs, without=without, passed_over=self._passed_over)
        files, self._total = self._noting_repeats(found), None
        if options.boxes is not None or "-" not in inputs:
            # All are known before the first output is written, so that none is taken for an input.
            listed = list(files)
            files, self._total = iter(listed), len(listed)
        boxes = None
        if options.boxes is not None:
            boxes = read_boxes(options.boxes)
            unmatched = sorted(boxes.keys() - {str(Path(file).resolve()) for file in listed})
            if unmatched:
                raise DataError(
                    f"{options.boxes} has boxes of images that are not among the inputs: "
                    f"{_names(unmatched)}. Correct the column source, or name these images too."
                )
        if self._total == 0:
            self._tell_passed_over()
            raise DataError(f"there is no image in {', '.join(inputs)}.")
        self._found = (
            predictor.predict_files(
                files,
                batch_size=batch_size,
                readers=options.threads,
                max_pixels=options.max_pixels,
            )
            if options.crops
            else predictor.predict_photos(
                files,
                boxes=boxes,
                min_score=options.min_score,
                max_faces=options.max_faces,
                readers=options.threads,
                max_pixels=options.max_pixels,
            )
        )

    def _noting_repeats(self, files: Iterator[Path | StoredImage]) -> Iterator[Path | StoredImage]:
        """Count files that are named again, by whatever spelling of their path; they are done again."""
        seen: set[str] = set()
        for file in files:
            place = os.path.abspath(file)  # noqa: PTH100  (a link stays a name of its own)
            self._repeated += place in seen
            seen.add(place)
            yield file

    def __iter__(self) -> Iterator[Prediction]:
        waiting = True
        with interrupts(lambda: waiting) as interrupted:
            try:
                with closing(self._found), self._progress as bar:
                    for found in bar.track(self._found, total=self._total):
                        waiting = False
                        self.done += 1
                        if isinstance(found, ImageError):
                            self.bad += 1
                            lacks_heif = isinstance(found.__cause__, MissingExtraError)
                            self.lose(
                                "HEIC without the extra heif" if lacks_heif else "unreadable",
                                str(found),
                            )
                        else:
                            self.smallest = max(self.smallest, found.smallest)  # not NaN
                            for warning in found.warnings:
                                self._warnings.append(warning)
                                self._log.print(warning)
                            yield found
                        if interrupted.is_set():
                            break
                        waiting = True
            except KeyboardInterrupt:  # while waiting; a second one passes through
                if not self.done:
                    self._log.print("interrupted: nothing was done.")
                    raise typer.Exit(130) from None
            self.interrupted = interrupted.is_set()

    def lose(self, kind: str, message: str) -> None:
        """List something that is not done; it is counted by its kind, and the exit code is then 1."""
        self._lost.append((kind, message))
        self._log.print(f"skipped {message}")

    @contextmanager
    def copying(self, source: str) -> Iterator[None]:
        """Lets a copy of an image that cannot be made cost that copy only; a full disk ends the run."""
        try:
            yield
        except (OutputError, ImageError) as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL_DISK:
                raise
            self.lose("not copied", f"the copy of {source}: {error}")

    def read_again(self, source: str) -> ImageArray:
        """The image of a prediction; keeping a queue of decoded photos would take gigabytes."""
        from facial_keypoints.io.images import read_image

        return read_image(source, max_pixels=self._max_pixels, warn=lambda _: None)

    def place(self, source: str, *, suffix: bool) -> Path:
        """Path in an output folder for files made from an image, its own path below the folder.

        Args:
            source: The image.
            suffix: Keep the suffix; without it, a name that is taken (a.jpg beside a.png) keeps it too.
        """
        path = Path(source)
        below = Path(
            *("up" if part == ".." else part for part in path.parts if part != path.anchor)
        )
        place = below if suffix else below.with_suffix("")
        if place in self._places:
            place = below
        number = 1
        while place in self._places:  # /a.jpg beside a.jpg
            number += 1
            place = below.with_name(f"{below.stem}-{number}{below.suffix}")
        self._places.add(place)
        return place

    def finish(self, **more: Any) -> None:
        """Count what was done and say what was not, once the outputs are written.

        Args:
            more: What the verb counts besides, for the JSON.

        Raises:
            typer.Exit: With 130 after Ctrl-C, with 1 if something was not done.
        """
        foreign = self._tell_passed_over()
        for path in foreign:
            self._lost.append(("of a kind that is not read", str(path)))
        images = self.done + len(foreign)
        kinds = Counter(kind for kind, _ in self._lost)
        if self._repeated:
            kinds["named again and done again"] = self._repeated
        if self._warnings:
            kinds["with a warning" if len(self._warnings) == 1 else "warnings"] = len(
                self._warnings
            )
        counts = [f"{images} {'image' if images == 1 else 'images'}: {self.done - self.bad} done"]
        self._log.print(", ".join(counts + [f"{count} {kind}" for kind, count in kinds.items()]))
        if self.interrupted:
            total = "" if self._total is None else f" of {self._total}"
            self._log.print(f"interrupted: the outputs end after {self.done}{total} images.")
        if self._as_json:
            said = {
                "images": images,
                "done": self.done - self.bad,
                **more,
                "not_done": [{"kind": kind, "reason": reason} for kind, reason in self._lost],
                "repeated": self._repeated,
                "warnings": self._warnings,
                "interrupted": self.interrupted,
            }
            typer.echo(json.dumps(said, indent=2))
        if self.interrupted:
            raise typer.Exit(130)
        if self._lost:
            raise typer.Exit(1)

    def _tell_passed_over(self) -> list[Path]:
        """Say what was not taken; returns the files that look like images."""
        by_reason: dict[PassedOver, list[Path]] = {}
        for path, why in self._passed_over.items():
            by_reason.setdefault(why, []).append(path)
        for why, one, many in _TOLD:
            paths = sorted(by_reason.get(why, []))
            if paths:
                text = f"1 {one}" if len(paths) == 1 else f"{len(paths)} {many}"
                self._log.print(text.format(names=_names([str(path) for path in paths])))
        if "output" in by_reason:
            self._log.print(f"{self._without} is the output: images in it were not taken.")
        return sorted(by_reason.get("foreign", []))


@contextmanager
def interrupts(waiting: Callable[[], bool] = lambda: False) -> Iterator[threading.Event]:
    """Turn Ctrl-C, and the signals that end as it does, into an event to handle between two images.

    Args:
        waiting: Whether nothing can be half done now: then it raises ``KeyboardInterrupt`` at once, as
            the second Ctrl-C always does.
    """
    event = threading.Event()

    def note(*_: object) -> None:
        now = event.is_set() or waiting()
        event.set()
        if now:
            raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGINT", *ENDING) if hasattr(signal, name)]
    previous = {number: signal.getsignal(number) for number in numbers}
    try:
        for number, handler in previous.items():
            if handler is not signal.SIG_IGN:  # nohup ignores SIGHUP
                signal.signal(number, note)
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _names(paths: list[str], most: int = 5) -> str:
    more = f" and {len(paths) - most:,} more" if len(paths) > most else ""
    return ", ".join(paths[:most]) + more
