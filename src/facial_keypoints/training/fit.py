"""Training one recipe: compile, fit, checkpoint, resume, and the run folder that is left behind.

A run folder holds::

    run.json         recipe, seed, versions, git revision, digest of the data, times
    split.json       which rows trained, chose the best epoch, and tested
    schema.json      the keypoints
    history.csv      error of every epoch, in pixels
    model.keras      the weights of the best epoch, with the model spec inside
    checkpoint/      the last epoch, to continue from; gone when training is complete

Training is repeatable: with one seed, on one machine, an interrupted and resumed run ends with the
same weights as an undisturbed one.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
import json
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
from numpy.typing import NDArray

from facial_keypoints._version import __version__
from facial_keypoints.data.audit import audit, flagged_rows
from facial_keypoints.data.cache import data_digest
from facial_keypoints.data.duplicates import duplicate_groups, image_digests, join_groups
from facial_keypoints.data.missing import MissingStrategy, check_trainable, fill_missing
from facial_keypoints.data.splits import Split, split_dataset, split_into_folds
from facial_keypoints.errors import DataError, ModelError, OutputError
from facial_keypoints.files import (
    alone_in,
    atomic_path,
    mark_folder,
    output_folder,
    read_json,
    write_json,
    write_text,
)
from facial_keypoints.geometry import signed_to_pixels
from facial_keypoints.models.codec import load_keras_model
from facial_keypoints.models.spec import ModelSpec, embed_digests, embed_spec, read_embedded_spec
from facial_keypoints.models.study import build_cnn, build_fc, build_specialists
from facial_keypoints.training.batches import TrainingBatches, targets_and_weights
from facial_keypoints.training.losses import RmsePixels
from facial_keypoints.training.recipes import SPECIALIST_GROUPS, Recipe
from facial_keypoints.types import FaceDataset, ImageArray, KeypointSchema

__all__ = [
    "TrainedRun",
    "compile_model",
    "git_revision",
    "library_versions",
    "load_run",
    "predict_keypoints",
    "recipe_to_json",
    "recorded_errors",
    "run_parts",
    "split_faces",
    "split_folds",
    "train",
    "train_part",
]

CHECKPOINT_SECONDS = (
    15.0  # writing a checkpoint costs about 0.1 s; losing this much work is bearable
)
VALIDATION_BATCH = 256
OTHER_SECONDS = 30.0  # for another process to leave the folder: that of a driver that died, say


@dataclass(frozen=True)
class TrainedRun:
    """A finished run folder.

    Args:
        directory: The folder.
        recipe: What was trained.
        spec: The model's description of itself.
        split: Rows that trained, chose the epoch, and are left for the test.
        history: Per epoch ``loss``, ``rmse_px``, ``val_loss``, ``val_rmse_px``.
        best_epoch: The epoch whose weights were kept, counted from 1.
        train_seconds: Time spent in training, all sittings together.
        num_parameters: Trainable and fixed weights of the model.
    """

    directory: Path
    recipe: Recipe
    spec: ModelSpec
    split: Split
    history: Mapping[str, list[float]]
    best_epoch: int
    train_seconds: float
    num_parameters: int

    @property
    def model_path(self) -> Path:
        """The model file of the best epoch."""
        return self.directory / "model.keras"

    def load_model(self) -> keras.Model:
        """The Keras model with the weights of the best epoch."""
        return load_keras_model(self.model_path)


def split_faces(
    dataset: FaceDataset,
    *,
    seed: int = 0,
    exclude_flagged: bool = False,
) -> tuple[FaceDataset, Split, int]:
    """Group the faces and split them, as ``train`` and ``compare`` do.

    Rows that share a group of the dataset (a person) stay on one side, and so do near-duplicate
    images.

    Args:
        dataset: Labelled faces.
        seed: Seed of the split.
        exclude_flagged: Leave out the training rows that the audit finds suspicious. Test rows
            stay: an error measured only on easy labels would flatter.

    Returns:
        The dataset with its groups, the split, and the number of rows left out.
    """
    dataset = _grouped(dataset)
    (split,), flagged = _cleared(dataset, [split_dataset(dataset, seed=seed)], exclude_flagged)
    return dataset, split, flagged


def split_folds(
    dataset: FaceDataset,
    folds: int,
    *,
    seed: int = 0,
    exclude_flagged: bool = False,
) -> tuple[FaceDataset, list[Split], int]:
    """Group the faces and split them for a cross-validation, in which each is tested once.

    Args:
        dataset: Labelled faces.
        folds: Parts to cut the faces into, as :func:`data.splits.split_into_folds` does.
        seed: Seed of the split.
        exclude_flagged: As for :func:`split_faces`.

    Returns:
        The dataset with its groups, a split per fold, and the number of rows left out.
    """
    dataset = _grouped(dataset)
    splits, flagged = _cleared(
        dataset, split_into_folds(dataset, folds, seed=seed), exclude_flagged
    )
    return dataset, splits, flagged


def _grouped(dataset: FaceDataset) -> FaceDataset:
    alike = duplicate_groups(dataset.images, dataset.keypoints)
    groups = join_groups(dataset.groups, alike)
    return dataset.with_groups(np.array([f"g{group}" for group in groups]))


def _cleared(
    dataset: FaceDataset, splits: list[Split], exclude_flagged: bool
) -> tuple[list[Split], int]:
    """The splits without the flagged training rows, and how many rows are in no training part."""
    if not exclude_flagged:
        return splits, 0
    flagged = flagged_rows(audit(dataset))
    cleared = [replace(split, train=np.setdiff1d(split.train, flagged)) for split in splits]
    trained = np.unique(np.concatenate([split.train for split in splits]))
    return cleared, int(np.isin(trained, flagged).sum())


def predict_keypoints(
    model: keras.Model, images: ImageArray, *, batch_size: int = 256
) -> NDArray[np.float32]:
    """Ask a model of the study for keypoints.

    Args:
        model: (B, H, W, 1) -> (B, K, 2) in the study's targets.
        images: (N, H, W, 1) uint8 images.
        batch_size: Images per step.

    Returns:
        (N, K, 2) float32 in pixels of the images.
    """
    height, width = images.shape[1:3]
    if len(images) == 0:
        return np.zeros((0, int(model.output_shape[1]), 2), np.float32)
    signed = np.asarray(model.predict(images, batch_size=batch_size, verbose=0))
    return signed_to_pixels(signed, (height, width))


def compile_model(model: keras.Model, recipe: Recipe, image_size: tuple[int, int]) -> None:
    """Compile with the recipe's optimiser and loss, averaged over labelled points only."""
    optimizer = keras.optimizers.get(
        {"class_name": recipe.optimizer, "config": dict(recipe.optimizer_options)}
    )
    loss = keras.losses.get(recipe.loss)
    # Keras' default divides by all points, labelled or not, so sparse batches would learn less.
    loss.reduction = "mean_with_sample_weight"
    half_size = (image_size[1] / 2, image_size[0] / 2)
    model.compile(optimizer=optimizer, loss=loss, weighted_metrics=[RmsePixels(half_size)])


@dataclass
class _Progress:
    """Where training stands; saved with each checkpoint."""

    epoch: int = 0  # epochs done
    best_epoch: int = 0
    best_error: float = float("inf")
    seconds: float = 0.0
    history: dict[str, list[float]] = field(default_factory=dict)


def _dropout_states(model: keras.Model) -> list[keras.Variable]:
    """The states of the dropout layers' generators, which Keras does not save with a model."""
    return [v for v in model.variables if v.path.endswith("seed_generator_state")]


def _load_arrays(path: Path) -> list[NDArray[Any]]:
    with np.load(path, allow_pickle=False) as arrays:
        return [arrays[f"arr_{i}"] for i in range(len(arrays.files))]


class _Checkpoints(keras.callbacks.Callback):  # type: ignore[misc]
    """Remember the best epoch, save the last one, stop early, and continue from what was saved."""

    def __init__(self, directory: Path, *, patience: int, context: Mapping[str, Any]) -> None:
        super().__init__()
        self.directory = directory
        self.patience = patience
        self.context = dict(context)
        self.progress = _Progress()
        self.best_weights: list[NDArray[Any]] = []
        self._clock = self._saved = time.monotonic()

    def load(self) -> keras.Model | None:
        """The model as it was at the last checkpoint, or ``None`` if there is none."""
        latest = self.directory / "latest"
        if not latest.is_dir():
            latest = self.directory / "old"  # killed between the two renames of save()
        if not latest.is_dir():
            return None
        try:
            progress = read_json(latest / "state.json")
            if progress.pop("context") != self.context:
                raise OutputError(
                    f"{self.directory.parent} was begun with other settings or other data: resume it with "
                    "the same ones, or start over with --force."
                )
            self.progress = _Progress(**progress)
            self.best_weights = _load_arrays(latest / "best.npz")
            model = keras.saving.load_model(latest / "last.keras", safe_mode=True)
            for state, value in zip(
                _dropout_states(model), _load_arrays(latest / "dropout.npz"), strict=True
            ):
                state.assign(value)
            return model
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"the checkpoint in {self.directory} cannot be read ({error}): start over with --force."
            ) from error

    def save(self) -> None:
        """Write the last epoch and the best weights; one rename makes them valid together."""
        fresh, latest, old = (self.directory / name for name in ("fresh", "latest", "old"))
        self._saved = time.monotonic()
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            fresh.mkdir(parents=True)
            self.model.save(fresh / "last.keras")
            np.savez(fresh / "best.npz", *self.best_weights)
            np.savez(
                fresh / "dropout.npz",
                *[keras.ops.convert_to_numpy(state) for state in _dropout_states(self.model)],
            )
            write_json(fresh / "state.json", {**asdict(self.progress), "context": self.context})
            shutil.rmtree(old, ignore_errors=True)
            if latest.exists():
                latest.replace(old)
            fresh.replace(latest)
            shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            raise OutputError(
                f"cannot write a checkpoint to {self.directory} ({error.strerror or error}): free some "
                "space and continue with --resume."
            ) from error

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        now, progress = time.monotonic(), self.progress
        logs = logs or {}
        progress.epoch = epoch + 1
        progress.seconds += now - self._clock
        self._clock = now
        for name, value in logs.items():
            progress.history.setdefault(name, []).append(float(value))
        error = float(logs.get("val_rmse_px", logs.get("rmse_px", float("nan"))))
        if not np.isfinite(error):
            raise DataError(
                f"training diverged in epoch {epoch + 1} (the error is {error}): lower the learning rate "
                "with --learning-rate."
            )
        if error < progress.best_error:
            progress.best_error, progress.best_epoch = error, epoch + 1
            self.best_weights = self.model.get_weights()
        if self.patience and progress.epoch - progress.best_epoch >= self.patience:
            self.model.stop_training = True
        if now - self._saved > CHECKPOINT_SECONDS:
            self.save()


def _fit(
    model: keras.Model,
    recipe: Recipe,
    train_rows: FaceDataset,
    val_rows: FaceDataset,
    directory: Path,
    *,
    seed: int,
    digest: str,
    keypoints: NDArray[np.int64] | None = None,
    epochs: int,
    callbacks: Iterable[keras.callbacks.Callback] = (),
) -> tuple[keras.Model, _Progress]:
    """Train a model, or continue where its checkpoint stands; return it with its best weights."""
    context = {"recipe": recipe_to_json(recipe), "seed": seed, "data": digest, "epochs": epochs}
    checkpoints = _Checkpoints(directory / "checkpoint", patience=recipe.patience, context=context)
    saved = checkpoints.load()
    if saved is not None:
        model = saved
    else:
        compile_model(model, recipe, train_rows.image_size)
    done = checkpoints.progress.epoch
    stopped = recipe.patience and done - checkpoints.progress.best_epoch >= recipe.patience
    if done < epochs and not stopped:
        validation = (val_rows.images, *targets_and_weights(val_rows, keypoints))
        batches = TrainingBatches(
            train_rows,
            batch_size=recipe.batch_size,
            seed=seed,
            flip_probability=recipe.flip_probability,
            keypoints=keypoints,
            epoch=done,
        )
        model.fit(
            batches,
            validation_data=validation if len(val_rows) else None,
            validation_batch_size=VALIDATION_BATCH,
            epochs=epochs,
            initial_epoch=done,
            shuffle=False,  # TrainingBatches shuffles rows, repeatably
            verbose=0,
            callbacks=[checkpoints, *callbacks],
        )
        # A part of a run waits here for the others, maybe in another process.
        checkpoints.save()
    model.set_weights(checkpoints.best_weights)
    return model, checkpoints.progress


def recipe_to_json(recipe: Recipe) -> dict[str, Any]:
    """A recipe as run.json holds it."""
    return {**asdict(recipe), "optimizer_options": dict(recipe.optimizer_options)}


def _build(recipe: Recipe, num_keypoints: int, image_size: tuple[int, int]) -> keras.Model:
    build = {"fc": build_fc, "cnn": build_cnn}[recipe.network]
    return build(num_keypoints, image_size)


def _reached(rows: FaceDataset, keypoints: NDArray[np.int64]) -> FaceDataset:
    """The rows that label at least one of the keypoints."""
    return rows.subset(np.flatnonzero(rows.keypoints.labeled[:, keypoints].any(axis=1)))


def build_expert(base: keras.Model, group: Sequence[int], *, name: str) -> keras.Model:
    """A cnn for some keypoints that begins by answering exactly what ``base`` answers for them.

    Args:
        base: A ``cnn`` for all keypoints.
        group: Indices of the expert's keypoints.
        name: Name of the expert.
    """
    expert = build_cnn(len(group), base.input_shape[1:3], name=name)
    for mine, theirs in zip(expert.layers, base.layers, strict=True):
        if mine.name != "coordinates":
            mine.set_weights(theirs.get_weights())
    kernel, bias = base.get_layer("coordinates").get_weights()
    columns = np.array([[2 * k, 2 * k + 1] for k in group]).ravel()
    expert.get_layer("coordinates").set_weights([kernel[:, columns], bias[columns]])
    return expert


@dataclass(frozen=True)
class _Prepared:
    """What all parts of a run share."""

    recipe: Recipe
    train_rows: FaceDataset
    val_rows: FaceDataset
    directory: Path
    seed: int
    digest: str  # of the data and the split: a checkpoint of another split has seen our test faces

    @property
    def groups(self) -> dict[str, NDArray[np.int64]]:
        """Keypoints of each expert."""
        return {
            name: np.array([self.train_rows.schema.index(point) for point in points])
            for name, points in _expert_groups(self.recipe, self.train_rows.schema).items()
        }

    def fit(
        self,
        model: keras.Model,
        folder: str,
        epochs: int,
        callbacks: Sequence[keras.callbacks.Callback],
        keypoints: NDArray[np.int64] | None = None,
    ) -> tuple[keras.Model, _Progress]:
        """Train one network to its end, from its checkpoint if there is one."""
        rows = self.train_rows, self.val_rows
        if keypoints is not None:
            rows = _reached(rows[0], keypoints), _reached(rows[1], keypoints)
        directory = self.directory / folder
        # Two processes would mix up their checkpoints.
        with alone_in(directory, patience=OTHER_SECONDS):
            return _fit(
                model,
                self.recipe,
                *rows,
                directory,
                seed=self.seed,
                digest=self.digest,
                keypoints=keypoints,
                epochs=epochs,
                callbacks=callbacks,
            )

    def build_and_fit(
        self, folder: str, callbacks: Sequence[keras.callbacks.Callback]
    ) -> tuple[keras.Model, _Progress]:
        """Train the recipe's network for all keypoints."""
        schema, image_size = self.train_rows.schema, self.train_rows.image_size
        keras.utils.set_random_seed(self.seed)
        try:
            model = _build(self.recipe, schema.num_keypoints, image_size)
        except ValueError as error:
            raise DataError(str(error)) from error
        return self.fit(model, folder, self.recipe.epochs, callbacks)

    def fit_expert(
        self, base: keras.Model, name: str, callbacks: Sequence[keras.callbacks.Callback]
    ) -> tuple[keras.Model, _Progress]:
        """Train the expert for one group of keypoints, beginning from ``base``."""
        # A seed of its own, so that it does not depend on what was trained before in this process.
        keras.utils.set_random_seed(self.seed + 1 + list(self.groups).index(name))
        keypoints = self.groups[name]
        expert = build_expert(base, keypoints.tolist(), name=name.replace("-", "_"))
        return self.fit(
            expert, f"specialists/{name}", self.recipe.specialist_epochs, callbacks, keypoints
        )


def _expert_groups(recipe: Recipe, schema: KeypointSchema) -> dict[str, tuple[str, ...]]:
    """The groups of keypoints that the schema knows; none for a recipe without specialists."""
    if not recipe.specialists:
        return {}
    return {
        name: points
        for name, points in SPECIALIST_GROUPS.items()
        if set(points) <= set(schema.keypoint_names)
    }


def _prepare(
    dataset: FaceDataset, split: Split, recipe: Recipe, directory: Path, seed: int
) -> _Prepared:
    """Fill the training rows, and write down what the run is of."""
    strategy = cast(MissingStrategy, recipe.missing)  # fill_missing refuses unknown names
    train_rows = fill_missing(dataset.subset(split.train), strategy)
    check_trainable(train_rows)
    split.save(directory / "split.json")
    write_json(directory / "schema.json", asdict(dataset.schema))
    return _Prepared(
        recipe=recipe,
        train_rows=train_rows,
        val_rows=dataset.subset(split.val),
        directory=directory,
        seed=seed,
        digest=f"{data_digest(dataset)} {_rows_digest(split)}",
    )


def run_parts(recipe: Recipe, schema: KeypointSchema) -> list[list[str]]:
    """Parts of a run that can be trained by themselves, for :func:`train_part`.

    Returns:
        Lists of parts: those of one list need what the lists before it made, and not each other.
        Empty for a recipe of a single network.
    """
    experts = list(_expert_groups(recipe, schema))
    return [["base"], experts] if experts else []


def train_part(
    dataset: FaceDataset,
    split: Split,
    recipe: Recipe,
    directory: Path | str,
    part: str,
    *,
    seed: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Train one part of a run, where ``train(..., resume=True)`` finds it.

    Args:
        dataset: As for :func:`train`.
        split: As for :func:`train`.
        recipe: As for :func:`train`.
        directory: The run folder.
        part: One of :func:`run_parts`.
        seed: As for :func:`train`.
        callbacks: As for :func:`train`.

    Raises:
        DataError: The data cannot be trained on, or training diverged.
        OutputError: The folder cannot be written, or holds another run.
    """
    directory = Path(directory)
    if (directory / "run.json").exists():
        return
    mark_folder(directory, "train")
    prepared = _prepare(dataset, split, recipe, directory, seed)
    base, _ = prepared.build_and_fit("base", callbacks if part == "base" else ())
    if part != "base":
        prepared.fit_expert(base, part, callbacks)


def train(
    dataset: FaceDataset,
    split: Split,
    recipe: Recipe,
    directory: Path | str,
    *,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    warm_start: Path | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> TrainedRun:
    """Train a recipe and leave a run folder.

    Missing labels are filled, as the recipe says, in the training rows alone: validation and test
    are always measured on what was labelled.

    Args:
        dataset: All faces, NaN = not labelled.
        split: Which rows train, choose the best epoch, and are never looked at here (test).
        recipe: What to build and how to train it.
        directory: The run folder to make.
        seed: Seed of weights, dropout, shuffling and mirroring.
        resume: Continue the run in ``directory``, or return it if it is complete.
        force: Replace what is in ``directory``.
        warm_start: For ``specialists``: run folder of a ``cnn`` trained on the same training rows.
            One is trained first when left out.
        callbacks: Further Keras callbacks, for progress bars.

    Raises:
        DataError: The data cannot be trained on, or training diverged.
        OutputError: The folder exists, or cannot be written.
    """
    directory = Path(directory)
    inputs = (dataset.source, warm_start)
    with output_folder(directory, verb="train", inputs=inputs, force=force, resume=resume):
        digest = data_digest(dataset)
        if (directory / "run.json").exists():
            done = load_run(directory)
            same = read_json(directory / "run.json")
            if (
                same["recipe"] != _json_round(recipe_to_json(recipe))
                or same["data_digest"] != digest
                or (same["seed"] != seed)
                or _rows(done.split) != _rows(split)
            ):
                raise OutputError(
                    f"{directory} holds a finished run with other settings, other data or another split: "
                    "choose another folder, or replace it with --force."
                )
            return done
        started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        prepared = _prepare(dataset, split, recipe, directory, seed)
        spec = ModelSpec(
            name=recipe.name,
            schema=dataset.schema,
            input_size=dataset.image_size,
            channels=int(dataset.images.shape[3]),
            data_digest=digest,
        )
        if not recipe.specialists:
            model, progress = prepared.build_and_fit("", callbacks)
        else:
            if warm_start is None:
                base, base_progress = prepared.build_and_fit("base", callbacks)
            else:
                base, base_progress = _warm_start_model(warm_start, split, digest), _Progress()
            model, progress = _specialists(prepared, base, base_progress, callbacks)

        def write() -> None:
            # Flagged rows that were left out count as seen too: they may be copies of training faces.
            seen = np.setdiff1d(np.arange(len(dataset)), split.test)
            with atomic_path(directory / "model.keras") as temporary:
                model.save(temporary)
                embed_spec(temporary, spec)
                embed_digests(temporary, image_digests(dataset.images[seen]))
            write_text(directory / "history.csv", _history_csv(progress.history))
            write_json(
                directory / "run.json",
                {
                    "recipe": recipe_to_json(recipe),
                    "seed": seed,
                    "data_source": dataset.source,
                    "data_digest": digest,
                    "rows": {
                        "train": len(prepared.train_rows),
                        "val": len(prepared.val_rows),
                        "test": len(split.test),
                    },
                    "best_epoch": progress.best_epoch,
                    "train_seconds": round(progress.seconds, 3),
                    "num_parameters": int(model.count_params()),
                    "history": progress.history,
                    "warm_start": str(warm_start) if warm_start else None,
                    "started": started,
                    "versions": library_versions(),
                    "git_revision": git_revision(),
                },
            )
            for leftover in ("checkpoint", "base", "specialists"):
                shutil.rmtree(directory / leftover, ignore_errors=True)

        write()
        return load_run(directory)


def _specialists(
    prepared: _Prepared,
    base: keras.Model,
    base_progress: _Progress,
    callbacks: Sequence[keras.callbacks.Callback],
) -> tuple[keras.Model, _Progress]:
    """Train one copy of ``base`` per group of keypoints, then join them into one model."""
    experts, total = [], _Progress(seconds=base_progress.seconds)
    for name in prepared.groups:
        expert, progress = prepared.fit_expert(base, name, callbacks)
        experts.append(expert)
        total.seconds += progress.seconds
        total.best_epoch = max(total.best_epoch, progress.best_epoch)
        for key, values in progress.history.items():
            total.history[f"{name}/{key}"] = values
    total.history.update(base_progress.history)
    groups = [keypoints.tolist() for keypoints in prepared.groups.values()]
    return build_specialists(experts, groups, prepared.train_rows.image_size), total


def _warm_start_model(directory: Path, split: Split, digest: str) -> keras.Model:
    """The model of a run, after making sure that it has seen none of our validation or test rows."""
    run = load_run(directory)
    if run.spec.data_digest != digest or not np.array_equal(
        np.sort(run.split.train), np.sort(split.train)
    ):
        raise DataError(
            f"the run {directory} was trained on other rows, so a warm start from it could leak test "
            "faces into training: train its recipe on this data and split first."
        )
    return run.load_model()


def _rows(split: Split) -> list[list[int]]:
    return [part.tolist() for part in (split.train, split.val, split.test)]


def _rows_digest(split: Split) -> str:
    return hashlib.sha256(json.dumps(_rows(split)).encode()).hexdigest()


def _json_round(value: Any) -> Any:
    """The value as JSON gives it back (tuples become lists)."""
    return json.loads(json.dumps(value))


def load_run(directory: Path | str) -> TrainedRun:
    """Open a finished run folder.

    Raises:
        ModelError: The folder is no finished run.
    """
    directory = Path(directory)
    try:
        run = read_json(directory / "run.json")
        return TrainedRun(
            directory=directory,
            recipe=Recipe(**run["recipe"]),
            spec=read_embedded_spec(directory / "model.keras"),
            split=Split.load(directory / "split.json"),
            history=run["history"],
            best_epoch=int(run["best_epoch"]),
            train_seconds=float(run["train_seconds"]),
            num_parameters=int(run["num_parameters"]),
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{directory} is not a finished run ({error}): continue its training with --resume."
        ) from error


def recorded_errors(directory: Path | str) -> list[float]:
    """Validation errors in pixels, by epoch, of a run of one network, finished or not.

    Empty if nothing was recorded.
    """
    directory = Path(directory)
    for file in ("run.json", "checkpoint/latest/state.json", "checkpoint/old/state.json"):
        try:
            history = read_json(directory / file)["history"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return [float(error) for error in history.get("val_rmse_px", [])]
    return []


def _history_csv(history: Mapping[str, list[float]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = list(history)
    writer.writerow(["epoch", *names])
    for epoch in range(max((len(values) for values in history.values()), default=0)):
        cells = [f"{history[n][epoch]:.6g}" if epoch < len(history[n]) else "" for n in names]
        writer.writerow([epoch + 1, *cells])
    return buffer.getvalue()


def library_versions() -> dict[str, str]:
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


def git_revision() -> str | None:
    """The revision of the source that ran, or ``None`` when it is not a git checkout."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
