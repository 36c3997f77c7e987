"""Predicts one block after the other: read its images, predict, write its part. Knows nothing of Ray.

A part is a Parquet file with the rows of one block as ``predict`` writes them; its footer counts the
images and lists those that failed. It is written under a temporary name and renamed, so a block is
either missing or complete, and computing it again gives the same file.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import time
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facial_keypoints.batch.inputs import read_already, read_shard
from facial_keypoints.batch.manifest import Manifest, Settings, part_name
from facial_keypoints.batch.storage import STORAGE_ERRORS, Folder
from facial_keypoints.errors import FacialKeypointsError, ImageError, ModelError
from facial_keypoints.inference.predictor import Predictor, load_predictor
from facial_keypoints.io.images import StoredImage, in_order
from facial_keypoints.io.tables import arrow_schema, columns, rows
from facial_keypoints.types import Prediction

__all__ = ["BlockStatus", "BlockWorker", "PackedModel", "find_status"]

CROPS_AT_ONCE = 128
"""As for ``predict``; if the block size is a multiple of it, both compute the same batches."""

_FOOTER = b"facial_keypoints_block"


@dataclass(frozen=True)
class PackedModel:
    """A model file as bytes, sent to workers that may not share a disk with the driver.

    Attributes:
        suffix: Suffix of the file, which gives its format.
        content: Its bytes.
    """

    suffix: str
    content: bytes

    @classmethod
    def of(cls, path: Path) -> PackedModel:
        """Read a model file.

        Raises:
            ModelError: It cannot be read.
        """
        try:
            return cls(path.suffix, path.read_bytes())
        except OSError as error:
            raise ModelError(f"the model {path} cannot be read ({error.strerror}).") from error

    @property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.content).hexdigest()

    def unpack(self, folder: Path, name: str) -> Path:
        """Write the file to a folder of this machine."""
        path = folder / f"{name}{self.suffix}"
        path.write_bytes(self.content)
        return path


@dataclass(frozen=True)
class BlockStatus:
    """Counts of a finished block.

    Attributes:
        block: Its number.
        inputs: Images in it.
        predicted: Images that were predicted; all others failed.
        without_faces: Predicted images in which no face was found.
        faces: Rows of the part.
        failures: Source and reason of each image that failed, in order.
        warnings: Source and sentence of what was left out of images that were read, such as further pages.
        read_s: Seconds of reading files, added up over the images, which are read in parallel.
        work_s: Seconds from the block's start to its end, without writing the part.
        bytes_read: Size of its images' files.
    """

    block: int
    inputs: int = 0
    predicted: int = 0
    without_faces: int = 0
    faces: int = 0
    failures: tuple[tuple[str, str], ...] = ()
    warnings: tuple[tuple[str, str], ...] = ()
    read_s: float = 0.0
    work_s: float = 0.0
    bytes_read: int = 0

    @property
    def failed(self) -> int:
        """Number of images that failed."""
        return len(self.failures)

    @property
    def warned(self) -> int:
        """Number of warnings."""
        return len(self.warnings)


def find_status(out: Folder, block: int) -> BlockStatus | None:
    """The counts in the part of a block; ``None`` if the part is missing or not complete."""
    try:
        with out.open(part_name(block)) as handle:
            value = json.loads(pq.read_metadata(handle).metadata[_FOOTER])
        for name in ("failures", "warnings"):
            value[name] = tuple((source, reason) for source, reason in value[name])
        status = BlockStatus(**value)
    except (*STORAGE_ERRORS, ValueError, KeyError, TypeError):
        return None
    return status if status.block == block else None


class BlockWorker:
    """Predicts blocks with one predictor.

    Args:
        out: The output folder.
        settings: Settings of the run.
        model: The model.
        detector: The face detector; ``None`` for crops.
        readers: Threads that read the files of the next images, without decoding them.
    """

    def __init__(
        self,
        out: str,
        settings: Settings,
        model: PackedModel,
        detector: PackedModel | None,
        readers: int,
    ) -> None:
        # Pillow warns of metadata that is not used here; an image that it cannot read is an error.
        warnings.filterwarnings("ignore", module="PIL")
        self._out = Folder(out)
        self._settings = settings
        self._readers = readers
        self._manifest = Manifest.read(self._out)
        self.predictor = load_packed(settings, model, detector)
        self._schema = arrow_schema(columns(self.predictor.spec.schema))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Predict the block whose number is in the row, unless its part exists already.

        Returns:
            ``inputs``, the images of the block, and ``error``: empty, or the message with which the
            run ends because the part cannot be written.
        """
        block = int(row["block"])
        try:
            # It may have been finished just before its worker or node died.
            status = find_status(self._out, block) or self.work(block)
        except FacialKeypointsError as error:
            return {"inputs": 0, "error": str(error)}
        return {"inputs": status.inputs, "error": ""}

    def work(self, block: int) -> BlockStatus:
        """Predict a block and write its part.

        Raises:
            OutputError: The part cannot be written.
        """
        started = time.perf_counter()
        read = _Read()
        table: list[list[Any]] = []
        failures: list[tuple[str, str]] = []
        said: list[tuple[str, str]] = []
        empty = 0
        with closing(self._answers(self._images(block, read))) as answers:
            for number, answer in enumerate(answers):
                name = read.names[number]
                if isinstance(answer, Prediction):
                    said += [
                        (_text(name), _text(w.removeprefix(f"{name}: "))) for w in answer.warnings
                    ]
                    table += rows(answer)
                    empty += not len(answer)
                else:
                    failures.append((_text(name), _text(str(answer).removeprefix(f"{name}: "))))
        status = BlockStatus(
            block=block,
            inputs=len(read.names),
            predicted=len(read.names) - len(failures),
            without_faces=empty,
            faces=len(table),
            failures=tuple(failures),
            warnings=tuple(said),
            read_s=round(read.seconds, 3),
            work_s=round(time.perf_counter() - started, 3),
            bytes_read=read.size,
        )
        self._out.write(part_name(block), self._part(table, status))
        return status

    def _images(self, block: int, read: _Read) -> Iterator[StoredImage]:
        """The images of a block; the next few files are read while one image is predicted."""
        settings = self._settings
        images = partial(
            read_shard,
            root=settings.root,
            column=settings.column,
            max_pixels=settings.max_pixels,
        )
        waiting = chain.from_iterable(map(images, self._manifest.shards(block)))
        fetched = in_order(_fetch, waiting, threads=self._readers, ahead=2 * self._readers)
        with closing(fetched):
            for image, seconds, size in fetched:
                read.names.append(image.name)
                read.seconds += seconds
                read.size += size
                yield image

    def _answers(self, images: Iterator[StoredImage]) -> Generator[Prediction | ImageError]:
        """Predictions of the images, decoded and computed by one thread: a worker has one core."""
        settings = self._settings
        if settings.crops:
            return self.predictor.predict_files(
                images, batch_size=CROPS_AT_ONCE, readers=1, max_pixels=settings.max_pixels
            )
        return self.predictor.predict_photos(
            images,
            min_score=settings.min_score,
            max_faces=settings.max_faces,
            readers=1,
            max_pixels=settings.max_pixels,
        )

    def _part(self, table: list[list[Any]], status: BlockStatus) -> bytes:
        schema = self._schema.with_metadata({_FOOTER: json.dumps(asdict(status)).encode()})
        by_column = zip(*table, strict=True) if table else ([] for _ in schema)
        arrays = [
            pa.array(values, field.type) for values, field in zip(by_column, schema, strict=True)
        ]
        content = io.BytesIO()
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), content, compression="zstd")
        return content.getvalue()


def load_packed(settings: Settings, model: PackedModel, detector: PackedModel | None) -> Predictor:
    """Open a packed model and detector for one thread.

    Raises:
        ModelError: They are not models, or the model does not know the style.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        return load_predictor(
            model.unpack(Path(folder), "model"),
            style=settings.style or None,  # a run of a model without styles has an empty one
            tta=settings.tta,
            threads=1,
            detector=None if detector is None else detector.unpack(Path(folder), "detector"),
            effort=settings.effort,
        )


@dataclass
class _Read:
    """What was read of a block so far."""

    names: list[str] = field(default_factory=list)
    seconds: float = 0.0
    size: int = 0


def _fetch(image: StoredImage) -> tuple[StoredImage, float, int]:
    """Read an image's file now; returns the read image, the seconds and the bytes."""
    started = time.perf_counter()
    outcome: bytes | Exception
    try:
        outcome = image.read()
    except (OSError, ValueError) as error:
        outcome = error
    seconds = time.perf_counter() - started
    size = len(outcome) if isinstance(outcome, bytes) else 0
    return read_already(image.name, outcome), seconds, size


def _text(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "replace")
