"""One block after the other: read its images, answer them, write its part. Knows nothing of Ray.

A part is the rows of one block as ``predict`` writes them, and, in its footer, what became of each
image that has no row. One file, one rename: there is no moment in which a block is half done, and
doing it twice gives the same file again.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import time
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facial_keypoints.batch.inputs import read_piece
from facial_keypoints.batch.manifest import Manifest, Settings, digest, part_name
from facial_keypoints.batch.storage import STORAGE_ERRORS, Folder
from facial_keypoints.errors import FacialKeypointsError, ImageError, ModelError
from facial_keypoints.inference.predictor import Predictor, load_predictor
from facial_keypoints.io.images import StoredImage, in_order
from facial_keypoints.io.tables import columns, rows
from facial_keypoints.types import KeypointSchema, Prediction

__all__ = ["BlockStatus", "BlockWorker", "PackedModel", "find_status"]

CROPS_AT_ONCE = 128
"""As for ``predict``: a block holds a multiple of it, so that both compute the same batches."""

_FOOTER = b"facial_keypoints_block"


@dataclass(frozen=True)
class PackedModel:
    """A model file that travels to the workers, who may not see the driver's disk.

    Attributes:
        suffix: Of the file, which says what it is.
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
        return digest(self.content)

    def unpack(self, folder: Path, name: str) -> Path:
        """Write the file to a folder of this machine."""
        path = folder / f"{name}{self.suffix}"
        path.write_bytes(self.content)
        return path


@dataclass(frozen=True)
class BlockStatus:
    """What became of a block.

    Attributes:
        block: Its number.
        inputs: Images in it.
        predicted: Of these, images that were answered; the others failed.
        without_faces: Of those answered, images in which no face was found.
        faces: Rows.
        failures: Source and reason of each image that failed, in order.
        read_s: Seconds until its bytes were there, added up over images, which overlap.
        work_s: Wall clock of the block without writing.
        bytes_read: Size of its images' files.
    """

    block: int
    inputs: int = 0
    predicted: int = 0
    without_faces: int = 0
    faces: int = 0
    failures: tuple[tuple[str, str], ...] = ()
    read_s: float = 0.0
    work_s: float = 0.0
    bytes_read: int = 0


def table_schema(schema: KeypointSchema) -> pa.Schema:
    """Columns of a part: those of ``predict``'s Parquet tables."""
    types = {"source": pa.string(), "face": pa.int32()}
    return pa.schema([(name, types.get(name, pa.float64())) for name in columns(schema)])


def find_status(out: Folder, block: int) -> BlockStatus | None:
    """What the part of a block says about it; ``None`` where there is no part, or no whole one."""
    try:
        with out.open(part_name(block)) as handle:
            value = json.loads(pq.read_metadata(handle).metadata[_FOOTER])
        value["failures"] = tuple((source, reason) for source, reason in value["failures"])
        status = BlockStatus(**value)
    except (*STORAGE_ERRORS, ValueError, KeyError, TypeError):
        return None
    return status if status.block == block else None


class BlockWorker:
    """Holds one predictor and does blocks with it.

    Args:
        out: The output folder.
        settings: Of the run.
        model: The model.
        detector: The face detector; ``None`` for crops.
        readers: Threads that fetch the bytes of the next images; they decode nothing.
    """

    def __init__(
        self,
        out: str,
        settings: Settings,
        model: PackedModel,
        detector: PackedModel | None,
        readers: int,
    ) -> None:
        # Pillow warns of metadata that nobody asked for; an image that it cannot read is an error.
        warnings.filterwarnings("ignore", module="PIL")
        self._out = Folder(out)
        self._settings = settings
        self._readers = readers
        self._manifest = Manifest.read(self._out)
        self.predictor = load_packed(settings, model, detector)
        self._schema = table_schema(self.predictor.spec.schema)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Do the block whose number is in the row, unless its part is there already.

        Returns:
            ``block``, ``inputs``, ``failed``, ``faces``, and ``error``: the sentence that ends the run
            where the part cannot be written, else empty.
        """
        block = int(row["block"])
        try:
            # It may have been done before its worker or node died.
            status = find_status(self._out, block) or self.work(block)
        except FacialKeypointsError as error:
            return {"block": block, "inputs": 0, "failed": 0, "faces": 0, "error": str(error)}
        return {
            "block": block,
            "inputs": status.inputs,
            "failed": len(status.failures),
            "faces": status.faces,
            "error": "",
        }

    def work(self, block: int) -> BlockStatus:
        """Answer a block and write its part.

        Raises:
            OutputError: The part cannot be written.
        """
        started = time.perf_counter()
        clock = _Clock()
        names: list[str] = []
        table: list[list[Any]] = []
        failures: list[tuple[str, str]] = []
        empty = 0
        with closing(self._answers(self._images(block, names, clock))) as answers:
            for number, answer in enumerate(answers):
                if isinstance(answer, Prediction):
                    table += rows(answer)
                    empty += not len(answer)
                else:
                    reason = str(answer).removeprefix(f"{names[number]}: ")
                    failures.append((_text(names[number]), _text(reason)))
        status = BlockStatus(
            block=block,
            inputs=len(names),
            predicted=len(names) - len(failures),
            without_faces=empty,
            faces=len(table),
            failures=tuple(failures),
            read_s=round(clock.seconds, 3),
            work_s=round(time.perf_counter() - started, 3),
            bytes_read=clock.bytes,
        )
        self._out.write(part_name(block), self._part(table, status))
        return status

    def _images(self, block: int, names: list[str], clock: _Clock) -> Iterator[StoredImage]:
        """The images of a block, the bytes of the next few being fetched while one is answered."""
        settings = self._settings
        waiting = (
            image
            for piece in self._manifest.pieces(block)
            for image in read_piece(
                piece,
                root=settings.root,
                column=settings.column,
                max_pixels=settings.max_pixels,
            )
        )
        fetched = in_order(clock.fetch, waiting, threads=self._readers, ahead=2 * self._readers)
        with closing(fetched):
            for image, seconds, size in fetched:
                clock.seconds += seconds
                clock.bytes += size
                names.append(image.name)
                yield image

    def _answers(self, images: Iterator[StoredImage]) -> Generator[Prediction | ImageError]:
        """One thread reads images' pixels and answers: a worker is to fill one core, not two."""
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
    """Open the models that came with a job, on one thread.

    Raises:
        ModelError: They are no models, or do not know the style.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        return load_predictor(
            model.unpack(Path(folder), "model"),
            style=settings.style or None,
            tta=settings.tta,
            threads=1,
            detector=None if detector is None else detector.unpack(Path(folder), "detector"),
        )


class _Clock:
    """Adds up what reading took."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.bytes = 0

    @staticmethod
    def fetch(image: StoredImage) -> tuple[StoredImage, float, int]:
        """Read an image's bytes now; the image then gives them, or the error, to whoever asks."""
        started = time.perf_counter()
        try:
            content = image.read()
        except (OSError, ValueError) as problem:
            error = problem
        else:
            seconds = time.perf_counter() - started
            return StoredImage(image.name, lambda: content), seconds, len(content)

        def fail() -> bytes:
            raise error

        return StoredImage(image.name, fail), time.perf_counter() - started, 0


def _text(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "replace")
