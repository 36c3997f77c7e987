"""What a batch run is: its settings, and the fixed list of pieces in each of its blocks.

Both are written once, before any image is read, so that a resumed run does exactly what the first
one would have done, even if the folders have changed since. The settings come last: where they are,
the list is whole.

Layout of the output folder::

    run.json             settings; written last of the beginning
    manifest/00000.parquet   256 blocks each, one row group a block
    parts/00000000.parquet   one block's rows, and what became of its images (in the footer)
    failures.parquet     source, reason, block; written at the end from the parts' footers
    statistics.json      written at the end
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facial_keypoints._version import __version__
from facial_keypoints.batch.inputs import Piece
from facial_keypoints.batch.storage import STORAGE_ERRORS, Folder
from facial_keypoints.errors import DataError, OutputError

__all__ = ["SETTINGS", "Manifest", "Settings", "digest", "part_name"]

SETTINGS = "run.json"
_SHARD = 256
"""Blocks in one file of the manifest: a footer of some 100 kB, which a worker reads once a block."""

_SCHEMA = pa.schema(
    [
        ("kind", pa.dictionary(pa.int8(), pa.string())),
        ("source", pa.binary()),  # a file name may hold bytes that are no text
        ("count", pa.int64()),
        ("first", pa.int64()),
        ("group", pa.int32()),
        ("groups", pa.int32()),
    ]
)


@dataclass(frozen=True)
class Settings:
    """What the rows of a run depend on; a run is resumed with the same only.

    Attributes:
        inputs: The names that the user gave.
        root: Absolute folder that relative local names start from.
        column: Column of Parquet inputs.
        block_size: Images in a block.
        crops: Each image is one face.
        min_score: As for ``Predictor.predict``.
        max_faces: As for ``Predictor.predict``.
        max_pixels: As for ``read_image``.
        style: Label style of the answers.
        tta: As for ``Predictor``.
        model: What the user called the model.
        model_digest: SHA-256 of its file.
        detector: What the user called the detector; empty with ``crops``.
        detector_digest: SHA-256 of its file.
        columns: Columns of the parts.
        version: Of this package.
    """

    inputs: tuple[str, ...]
    root: str
    column: str | None
    block_size: int
    crops: bool
    min_score: float | None
    max_faces: int | None
    max_pixels: int
    style: str
    tta: bool
    model: str
    model_digest: str
    detector: str
    detector_digest: str
    columns: tuple[str, ...]
    version: str = __version__

    def check_same(self, begun: Settings, place: str) -> None:
        """Make sure that a run may be continued with these settings.

        Raises:
            OutputError: The run in ``place`` was begun with others.
        """
        # What a name of a model stands for is told by the file; where a run is continued, by nothing.
        for field in dataclasses.fields(self):
            before, now = getattr(begun, field.name), getattr(self, field.name)
            if before == now or field.name in ("model", "detector", "root"):
                continue
            what = field.name.replace("_digest", "'s file").replace("_", " ")
            shown = (
                "another one"
                if field.name in ("columns", "model_digest", "detector_digest")
                else f"{_shown(before)}, not {_shown(now)}"
            )
            raise OutputError(
                f"{place} was begun with other settings ({what}: {shown}): give the same ones to "
                "--resume, or write to another folder."
            )


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(value)
    return "none" if value is None else str(value)


def digest(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


def part_name(block: int) -> str:
    """Name of a block's part in the output folder; in the order of blocks, so of the inputs."""
    return f"parts/{block:08}.parquet"


class Manifest:
    """The blocks of a run.

    Args:
        out: The output folder.
        settings: What the rows depend on.
        blocks: How many blocks.
        inputs: Images that are known to be in them: all but those in archives.
        archives: How many archives.
    """

    def __init__(
        self, out: Folder, settings: Settings, *, blocks: int, inputs: int, archives: int
    ) -> None:
        self.settings = settings
        self.blocks, self.inputs, self.archives = blocks, inputs, archives
        self._out = out
        self._shard = lru_cache(maxsize=1)(self._open_shard)

    @classmethod
    def write(cls, out: Folder, settings: Settings, pieces: Iterable[Piece]) -> Manifest:
        """Cut the inputs into blocks and record them.

        Raises:
            DataError: There are no inputs.
            OutputError: The folder cannot be written.
        """
        blocks = inputs = archives = 0
        shard = _Shard(out)
        for block in _blocks(pieces, settings.block_size):
            shard.add(block)
            blocks += 1
            inputs += sum(piece.count or 0 for piece in block)
            archives += sum(piece.kind == "tar" for piece in block)
        shard.flush()
        if blocks == 0:
            raise DataError(f"there is no image in {', '.join(settings.inputs)}.")
        totals = {"blocks": blocks, "inputs": inputs, "archives": archives}
        content = json.dumps({"settings": asdict(settings), **totals}, indent=2, ensure_ascii=True)
        out.write(SETTINGS, content.encode())
        return cls(out, settings, blocks=blocks, inputs=inputs, archives=archives)

    @classmethod
    def read(cls, out: Folder) -> Manifest:
        """What was recorded.

        Raises:
            OutputError: It is not there, or this version cannot read it.
        """
        try:
            value = json.loads(out.read(SETTINGS))
            settings = value["settings"]
            settings |= {name: tuple(settings[name]) for name in ("inputs", "columns")}
            totals = {name: int(value[name]) for name in ("blocks", "inputs", "archives")}
            return cls(out, Settings(**settings), **totals)
        except (*STORAGE_ERRORS, ValueError, KeyError, TypeError) as error:
            raise OutputError(
                f"{out.name}/{SETTINGS} cannot be read as a run of this version "
                f"({' '.join(str(error).split())[:120]}): write to another folder."
            ) from error

    def pieces(self, block: int) -> list[Piece]:
        """What is in a block, in order."""
        shard, row_group = divmod(block, _SHARD)
        rows = self._shard(shard).read_row_group(row_group).to_pylist()
        return [Piece(**row | {"source": os.fsdecode(row["source"])}) for row in rows]

    def _open_shard(self, shard: int) -> pq.ParquetFile:
        return pq.ParquetFile(io.BytesIO(self._out.read(_shard_name(shard))))


def _shard_name(shard: int) -> str:
    return f"manifest/{shard:05}.parquet"


def _blocks(pieces: Iterable[Piece], size: int) -> Iterator[list[Piece]]:
    """Files by ``size``; row groups and archives, which are large already, by themselves."""
    block: list[Piece] = []
    for piece in pieces:
        if piece.kind != "file":
            if block:
                yield block
            yield [piece]
            block = []
            continue
        block.append(piece)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


class _Shard:
    """Collects blocks and writes a file of the manifest whenever it is full."""

    def __init__(self, out: Folder) -> None:
        self._out, self._number = out, 0
        self._blocks: list[pa.Table] = []

    def add(self, block: list[Piece]) -> None:
        rows = [asdict(piece) | {"source": os.fsencode(piece.source)} for piece in block]
        self._blocks.append(pa.Table.from_pylist(rows, schema=_SCHEMA))
        if len(self._blocks) == _SHARD:
            self.flush()

    def flush(self) -> None:
        if not self._blocks:
            return
        content = io.BytesIO()
        with pq.ParquetWriter(content, _SCHEMA, compression="zstd") as writer:
            for table in self._blocks:
                writer.write_table(table, row_group_size=len(table))
        self._out.write(_shard_name(self._number), content.getvalue())
        self._blocks, self._number = [], self._number + 1
