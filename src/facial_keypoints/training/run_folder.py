"""Run folders: how they are begun, finished and opened.

A run folder holds::

    settings.json    recipe or base, seed, digests of the data; written first
    run.json         the same, versions, git revision, times and errors; written last
    schema.json      the keypoints
    split.json       the training, validation and test rows; not of a fine-tuned model
    history.csv      error of every epoch, in pixels; not of a fine-tuned model
    model.keras      the model, with its description and the digests of its training images
    detector.onnx    a face detector for its kind of faces, if one was trained together with it

The folder of an experiment or a sweep has a ``settings.json`` too.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import platform
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import keras
import numpy as np

from facial_keypoints._version import __version__
from facial_keypoints.data.splits import Split
from facial_keypoints.errors import ModelError, OutputError
from facial_keypoints.files import atomic_path, read_json, write_json
from facial_keypoints.io.tables import write_table
from facial_keypoints.models.keras_model import load_keras_model
from facial_keypoints.models.registry import RUN_MODEL
from facial_keypoints.models.spec import ModelSpec, embed_digests, embed_spec, read_embedded_spec
from facial_keypoints.training.recipes import Recipe

__all__ = [
    "SETTINGS",
    "Run",
    "begin",
    "finish",
    "is_finished",
    "load_run",
    "save_model",
    "split_digest",
]

SETTINGS = "settings.json"


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run folder.

    Args:
        directory: The folder.
        spec: The description in the model file.
        record: Content of ``run.json``.
        split: Training, validation and test rows; ``None`` for a fine-tuned model, which is fitted to
            all faces.
    """

    directory: Path
    spec: ModelSpec
    record: Mapping[str, Any]
    split: Split | None

    @property
    def model_path(self) -> Path:
        """The model file."""
        return self.directory / RUN_MODEL

    @property
    def recipe(self) -> Recipe:
        """The recipe; ModelError for a fine-tuned model, which has none."""
        try:
            return Recipe(**self.record["recipe"])
        except (KeyError, TypeError) as error:
            raise ModelError(
                f"{self.directory} is no training of a recipe: name the run folder of one."
            ) from error

    @property
    def history(self) -> Mapping[str, list[float]]:
        """Per epoch ``loss``, ``rmse_px``, ``val_loss``, ``val_rmse_px``; empty if fine-tuned."""
        return dict(self.record.get("history", {}))

    def load_model(self) -> keras.Model:
        """The Keras model; of a recipe, with the weights of the best epoch."""
        return load_keras_model(self.model_path)


def is_finished(directory: Path) -> bool:
    """Whether the run in a folder is finished."""
    return (directory / "run.json").exists()


def begin(directory: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings that decide the result, or check that they equal those already in the folder.

    A run that is not finished goes on with more epochs than it was begun with.

    Raises:
        OutputError: The folder was begun with other settings.
    """
    file = directory / SETTINGS
    if not file.exists():
        write_json(file, settings)
        return
    try:
        begun = read_json(file)
    except (OSError, ValueError) as error:
        raise OutputError(f"{file} cannot be read ({error}): start over with --force.") from error
    wanted = json.loads(json.dumps(settings))  # as JSON gives it back: tuples become lists
    differing = [name for name in wanted if begun.get(name) != wanted[name]]
    values = {
        name: pair
        for top in differing
        for name, pair in _differing(top, begun.get(top), wanted[top])
    }
    if set(values) == {"epochs"} and differing == ["recipe"] and not is_finished(directory):
        before, now = values["epochs"]
        if now > before:
            write_json(file, settings)
            return
    if differing:
        told = "; ".join(f"{name} {before}, now {now}" for name, (before, now) in values.items())
        raise OutputError(
            f"{directory} was begun with other {' and '.join(differing).replace('_', ' ')}"
            f"{f' ({told})' if told else ''}: resume it with the same ones, choose another folder, or start over "
            "with --force."
        )


def _differing(name: str, before: Any, now: Any) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Names and values of the numbers and words that differ; digests and lists tell a reader nothing."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in now:
            if before.get(key) != now[key]:
                yield from _differing(key, before.get(key), now[key])
    elif not isinstance(now, list | dict) and not name.endswith(("digest", "split")):
        yield name.replace("_", " "), (before, now)


def split_digest(split: Split) -> str:
    """SHA-256 of the training, validation and test rows."""
    rows = [part.tolist() for part in (split.train, split.val, split.test)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def finish(
    directory: Path,
    model: keras.Model,
    spec: ModelSpec,
    *,
    learnt: Iterable[bytes],
    record: Mapping[str, Any],
    split: Split | None = None,
) -> Run:
    """Write the files of a run folder; ``run.json`` is written last and marks the run as finished.

    Args:
        directory: The folder, in which :func:`begin` wrote the settings.
        model: The trained model.
        spec: Its description.
        learnt: Digests of its training and validation images.
        record: What ``run.json`` holds beside the settings; ``history`` is written to ``history.csv`` too.
        split: Training, validation and test rows.

    Raises:
        OutputError: The folder cannot be written.
    """
    save_model(directory / RUN_MODEL, model, spec, learnt)
    write_json(directory / "schema.json", asdict(spec.schema))
    if split is not None:
        split.save(directory / "split.json")
    if "history" in record:
        _write_history(directory / "history.csv", record["history"])
    described = {
        **read_json(directory / SETTINGS),
        **record,
        "num_parameters": int(model.count_params()),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": _library_versions(),
        "git_revision": _git_revision(),
    }
    write_json(directory / "run.json", described)
    return load_run(directory)


def save_model(path: Path, model: keras.Model, spec: ModelSpec, learnt: Iterable[bytes]) -> None:
    """Write a ``.keras`` file with the model's description and the digests of its training images.

    Optimiser and metrics are left out, also those of networks inside the network.

    Raises:
        OutputError: The file cannot be written.
    """
    bare = keras.models.clone_model(model)
    bare.set_weights(model.get_weights())
    with atomic_path(path) as temporary:
        bare.save(temporary)
        embed_spec(temporary, spec)
        embed_digests(temporary, learnt)


def load_run(directory: Path | str) -> Run:
    """Open a finished run folder.

    Raises:
        ModelError: The folder holds no finished run.
    """
    directory = Path(directory)
    split = directory / "split.json"
    try:
        return Run(
            directory=directory,
            spec=read_embedded_spec(directory / RUN_MODEL),
            record=dict(read_json(directory / "run.json")),
            split=Split.load(split) if split.exists() else None,
        )
    except (OSError, TypeError, ValueError) as error:
        raise ModelError(
            f"{directory} is not a finished run ({error}): continue its training with --resume."
        ) from error


def _write_history(path: Path, history: Mapping[str, list[float]]) -> None:
    rows = [
        [epoch, *("" if value is None else f"{value:.6g}" for value in values)]
        for epoch, values in enumerate(zip_longest(*history.values()), start=1)
    ]
    write_table(path, ["epoch", *history], rows)


def _library_versions() -> dict[str, str]:
    """Versions of what trains, by name."""
    backend = keras.backend.backend()
    library = importlib.import_module(backend)
    return {
        "facial-keypoints": __version__,
        "python": platform.python_version(),
        "keras": keras.__version__,
        backend: str(library.__version__),
        "numpy": np.__version__,
    }


def _git_revision() -> str | None:
    """The revision of the source that ran, or ``None`` when it is not a git checkout."""
    try:
        described = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None
