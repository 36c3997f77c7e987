"""The settings of a batch run, and the fixed list of shards in each of its blocks.

Both are written once, before any image is read, so that a resumed run predicts exactly the images of
the first one, even if the folders have changed since. The settings are written last: if they are
there, the list is complete.

Layout of the output folder::

    run.json                 settings and totals
    manifest/00000.parquet   the shards of 256 blocks, one row group a block
    parts/00000000.parquet   the rows of one block; the footer counts its images and lists failures
    failures.parquet         source, reason, block; written at the end from the parts' footers
    warnings.parquet         the same of images that were read, but not all of them
    statistics.json          written at the end
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import chain, groupby, islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facial_keypoints._version import __version__
from facial_keypoints.batch.inputs import Shard
from facial_keypoints.batch.storage import STORAGE_ERRORS, Folder, reason_of
from facial_keypoints.errors import DataError, OutputError
from facial_keypoints.inference.detector import Effort
from facial_keypoints.io.images import MAX_PIXELS

__all__ = ["SETTINGS", "Manifest", "Settings", "part_name"]

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


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that the rows of a run depend on; a run is resumed only with the same settings.

    Attributes:
        inputs: Images, folders, patterns, lists, Parquet files, tar archives
            (:func:`facial_keypoints.batch.inputs.find_shards`).
        root: Absolute folder that relative local names start from.
        column: Column of Parquet inputs.
        block_size: Images in a block; a multiple of 128 gives exactly the numbers of
            ``predict --crops``.
        crops: Each image is one face.
        effort: As for ``Predictor``.
        min_score: As for ``Predictor.predict``.
        max_faces: As for ``Predictor.predict``.
        max_pixels: As for ``read_image``.
        style: As for ``Predictor``; that of the predictions in a run that has begun.
        tta: As for ``Predictor``.
        model: Name of the model as the user gave it.
        model_digest: SHA-256 of its file; this and all below is filled in by ``run_batch``.
        detector: Name of the detector as the user gave it; empty with ``crops``.
        detector_digest: SHA-256 of its file.
        columns: Columns of the parts.
        version: Version of this package.
    """

    inputs: tuple[str, ...]
    root: str = field(default_factory=os.getcwd)
    column: str | None = None
    block_size: int = 512
    crops: bool = False
    effort: Effort = "normal"
    min_score: float | None = None
    max_faces: int | None = None
    max_pixels: int = MAX_PIXELS
    style: str | None = None
    tta: bool = False
    model: str = "default"
    model_digest: str = ""
    detector: str = "default"
    detector_digest: str = ""
    columns: tuple[str, ...] = ()
    version: str = __version__

    def check_same(self, begun: Settings, place: str) -> None:
        """Refuse to continue a run that was begun with other settings.

        Raises:
            OutputError: The run in ``place`` was begun with other settings.
        """
        # Models are compared by their digests, not by name; the current folder may be another one.
        for name, now in vars(self).items():
            before = getattr(begun, name)
            if before == now or name in ("model", "detector", "root"):
                continue
            what = name.replace("_digest", "'s file").replace("_", " ")
            shown = f"{_shown(before)}, not {_shown(now)}"
            if name in ("columns", "model_digest", "detector_digest"):
                shown = "another one"
            raise OutputError(
                f"{place} was begun with other settings ({what}: {shown}): give the same ones to "
                "--resume, or write to another folder."
            )


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(value)
    return "none" if value is None else str(value)


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
        self._file = lru_cache(maxsize=1)(
            lambda number: pq.ParquetFile(io.BytesIO(out.read(_file_name(number))))
        )

    @classmethod
    def write(cls, out: Folder, settings: Settings, shards: Iterable[Shard]) -> Manifest:
        """Divide the shards into blocks and write the list of them.

        Raises:
            DataError: There are no inputs.
            OutputError: The folder cannot be written.
        """
        count = inputs = archives = 0
        blocks = _blocks(shards, settings.block_size)
        for number, first in enumerate(blocks):
            content = io.BytesIO()
            with pq.ParquetWriter(content, _SCHEMA, compression="zstd") as writer:
                for block in chain([first], islice(blocks, _BLOCKS_PER_FILE - 1)):
                    rows = [
                        asdict(shard) | {"source": os.fsencode(shard.source)} for shard in block
                    ]
                    writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), len(rows))
                    count += 1
                    inputs += sum(shard.count or 0 for shard in block)
                    archives += sum(shard.kind == "tar" for shard in block)
            out.write(_file_name(number), content.getvalue())
        if count == 0:
            raise DataError(f"there is no image in {', '.join(settings.inputs)}.")
        totals = {"blocks": count, "inputs": inputs, "archives": archives}
        text = json.dumps({"settings": asdict(settings), **totals}, indent=2, ensure_ascii=True)
        out.write(SETTINGS, text.encode())
        return cls(out, settings, **totals)

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


def _file_name(number: int) -> str:
    return f"manifest/{number:05}.parquet"


def _blocks(shards: Iterable[Shard], size: int) -> Iterator[list[Shard]]:
    """Blocks of ``size`` files each; row groups and archives, which are large, are blocks by themselves."""
    for is_file, run in groupby(shards, key=lambda shard: shard.kind == "file"):
        while block := list(islice(run, size if is_file else 1)):
            yield block
