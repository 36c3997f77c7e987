"""The settings of a batch run, and the fixed list of shards in each of its blocks.

Both are written once, before any image is read, so that a resumed run predicts exactly the images of
the first one, even if the folders have changed since. The settings are written last: if they are
there, the list is complete.

Layout of the output folder::

    run.json                 settings and totals
    manifest/00000.parquet   the shards of 256 blocks, one row group a block
    parts/00000000.parquet   the rows of one block; the footer counts its images and lists failures
    failures.parquet         source, reason, block; written at the end from the parts' footers
    statistics.json          written at the end
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
from facial_keypoints.batch.inputs import Shard
from facial_keypoints.batch.storage import STORAGE_ERRORS, Folder, reason_of
from facial_keypoints.errors import DataError, OutputError

__all__ = ["SETTINGS", "Manifest", "Settings", "digest", "part_name"]

SETTINGS = "run.json"
_BLOCKS_PER_FILE = 256
"""Blocks in one file of the manifest; its footer, which a worker reads for each block, has 100 kB."""

_SCHEMA = pa.schema(
    [
        ("kind", pa.dictionary(pa.int8(), pa.string())),
        ("source", pa.binary()),  # a file name may hold any bytes
        ("count", pa.int64()),
        ("first", pa.int64()),
        ("group", pa.int32()),
        ("groups", pa.int32()),
    ]
)


@dataclass(frozen=True)
class Settings:
    """Everything that the rows of a run depend on; a run is resumed only with the same settings.

    Attributes:
        inputs: The inputs as the user gave them.
        root: Absolute folder that relative local names start from.
        column: Column of Parquet inputs.
        block_size: Images in a block.
        crops: Each image is one face.
        min_score: As for ``Predictor.predict``.
        max_faces: As for ``Predictor.predict``.
        max_pixels: As for ``read_image``.
        style: Label style of the predictions.
        tta: As for ``Predictor``.
        model: Name of the model as the user gave it.
        model_digest: SHA-256 of its file.
        detector: Name of the detector as the user gave it; empty with ``crops``.
        detector_digest: SHA-256 of its file.
        columns: Columns of the parts.
        version: Version of this package.
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
        """Refuse to continue a run that was begun with other settings.

        Raises:
            OutputError: The run in ``place`` was begun with other settings.
        """
        # Models are compared by their digests, not by name; the current folder may be another one.
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
    """Name of a block's part in the output folder; names sort in the order of the inputs."""
    return f"parts/{block:08}.parquet"


class Manifest:
    """The blocks of a run.

    Args:
        out: The output folder.
        settings: Settings of the run.
        blocks: Number of blocks.
        inputs: Images in them, without those in archives, which are not counted in advance.
        archives: Number of archives.
    """

    def __init__(
        self, out: Folder, settings: Settings, *, blocks: int, inputs: int, archives: int
    ) -> None:
        self.settings = settings
        self.blocks, self.inputs, self.archives = blocks, inputs, archives
        self._out = out
        self._file = lru_cache(maxsize=1)(self._open_file)

    @classmethod
    def write(cls, out: Folder, settings: Settings, shards: Iterable[Shard]) -> Manifest:
        """Divide the shards into blocks and write the list of them.

        Raises:
            DataError: There are no inputs.
            OutputError: The folder cannot be written.
        """
        blocks = inputs = archives = 0
        writer = _ManifestWriter(out)
        for block in _blocks(shards, settings.block_size):
            writer.add(block)
            blocks += 1
            inputs += sum(shard.count or 0 for shard in block)
            archives += sum(shard.kind == "tar" for shard in block)
        writer.flush()
        if blocks == 0:
            raise DataError(f"there is no image in {', '.join(settings.inputs)}.")
        totals = {"blocks": blocks, "inputs": inputs, "archives": archives}
        content = json.dumps({"settings": asdict(settings), **totals}, indent=2, ensure_ascii=True)
        out.write(SETTINGS, content.encode())
        return cls(out, settings, blocks=blocks, inputs=inputs, archives=archives)

    @classmethod
    def read(cls, out: Folder) -> Manifest:
        """Read the manifest of a run.

        Raises:
            OutputError: It is missing, or this version cannot read it.
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
                f"({reason_of(error)}): write to another folder."
            ) from error

    def shards(self, block: int) -> list[Shard]:
        """The shards of a block, in order."""
        number, row_group = divmod(block, _BLOCKS_PER_FILE)
        rows = self._file(number).read_row_group(row_group).to_pylist()
        return [Shard(**row | {"source": os.fsdecode(row["source"])}) for row in rows]

    def _open_file(self, number: int) -> pq.ParquetFile:
        return pq.ParquetFile(io.BytesIO(self._out.read(_file_name(number))))


def _file_name(number: int) -> str:
    return f"manifest/{number:05}.parquet"


def _blocks(shards: Iterable[Shard], size: int) -> Iterator[list[Shard]]:
    """Blocks of ``size`` files each; row groups and archives, which are large, are blocks by themselves."""
    block: list[Shard] = []
    for shard in shards:
        if shard.kind != "file":
            if block:
                yield block
            yield [shard]
            block = []
            continue
        block.append(shard)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


class _ManifestWriter:
    """Collects blocks and writes a file of the manifest whenever there are enough for one."""

    def __init__(self, out: Folder) -> None:
        self._out, self._number = out, 0
        self._blocks: list[pa.Table] = []

    def add(self, block: list[Shard]) -> None:
        rows = [asdict(shard) | {"source": os.fsencode(shard.source)} for shard in block]
        self._blocks.append(pa.Table.from_pylist(rows, schema=_SCHEMA))
        if len(self._blocks) == _BLOCKS_PER_FILE:
            self.flush()

    def flush(self) -> None:
        if not self._blocks:
            return
        content = io.BytesIO()
        with pq.ParquetWriter(content, _SCHEMA, compression="zstd") as writer:
            for table in self._blocks:
                writer.write_table(table, row_group_size=len(table))
        self._out.write(_file_name(self._number), content.getvalue())
        self._blocks, self._number = [], self._number + 1
