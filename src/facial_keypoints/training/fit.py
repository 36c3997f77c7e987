"""Trains one recipe: compile, fit, checkpoint, resume.

The result is a run folder (:mod:`facial_keypoints.training.run_folder`). During training its
``checkpoint/`` holds the last epoch, to continue from.

Training is repeatable: with the same seed and machine, an interrupted and resumed run ends with the
same weights as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
from numpy.typing import NDArray

from facial_keypoints.data.audit import audit, flagged_rows
from facial_keypoints.data.cache import data_digest
from facial_keypoints.data.duplicates import duplicate_groups, image_digests, join_groups
from facial_keypoints.data.missing import (
    MissingStrategy,
    check_trainable,
    fill_missing,
    labelled_keypoints,
)
from facial_keypoints.data.splits import Split, split_dataset, split_into_folds
from facial_keypoints.errors import DataError, ModelError, OutputError
from facial_keypoints.evaluation.scores import EvaluationReport, evaluate_predictions
from facial_keypoints.files import lock_folder, output_folder, read_json, write_json
from facial_keypoints.models.codec import CONFIDENCE, decode
from facial_keypoints.models.keras_model import load_keras_model
from facial_keypoints.models.registry import find_model
from facial_keypoints.models.spec import ModelSpec, read_embedded_digests, read_embedded_spec
from facial_keypoints.models.study import (
    RmsePixels,
    build_cnn,
    build_fc,
    build_specialists,
    start_at,
)
from facial_keypoints.training import run_folder
from facial_keypoints.training.batches import TrainingBatches, targets_and_weights
from facial_keypoints.training.landmark import (
    ViewBatches,
    apply_calibration,
    build_landmark,
    calibrate,
    keep_styles,
    known_styles,
    refit_last_layer,
    style_numbers,
    styled_targets,
)
from facial_keypoints.training.losses import PointsLoss
from facial_keypoints.training.recipes import SPECIALIST_GROUPS, Recipe
from facial_keypoints.types import FaceDataset, ImageArray

__all__ = [
    "check_images",
    "compile_model",
    "measure_run",
    "predict_keypoints",
    "predict_run",
    "recorded_errors",
    "split_faces",
    "train",
]

CHECKPOINT_SECONDS = 15.0  # between two checkpoints; writing one takes about 0.1 s
BATCH = 256  # images at a time where nothing is learnt
LEAST_VIEWS = 1000  # of an epoch of the recipe landmark


def split_faces(
    dataset: FaceDataset, *, folds: int = 0, seed: int = 0, exclude_flagged: bool = False
) -> tuple[FaceDataset, list[Split], int]:
    """Group the faces and split them into training, validation and test faces.

    Rows of one group of the dataset (a person) stay on one side of a split, and so do near-duplicate
    images.

    Args:
        dataset: Labelled faces.
        folds: Number of folds of a cross-validation, in which each face is tested once; 0 for a
            single split.
        seed: Seed of the split.
        exclude_flagged: Leave out the training rows that the audit finds suspicious. Test rows stay:
            an error measured only on easy labels would be too low.

    Returns:
        The dataset with its groups and without keypoints that no face labels, a split for each fold, and
        the number of rows left out.

    Raises:
        DataError: The images are not grey, nothing is labelled, or there are too few groups.
    """
    if dataset.images.shape[3] != 1:
        raise DataError(
            "recipes take grey images: read the data with load_dataset(..., channels=1)."
        )
    dataset = labelled_keypoints(dataset)
    alike = duplicate_groups(dataset.images, dataset.keypoints)
    groups = join_groups(dataset.groups, alike)
    dataset = dataset.with_groups(np.array([f"g{group}" for group in groups]))
    if folds:
        splits = split_into_folds(dataset, folds, seed=seed)
    else:
        splits = [split_dataset(dataset, seed=seed)]
    if not exclude_flagged:
        return dataset, splits, 0
    flagged = flagged_rows(audit(dataset))
    left_out = np.intersect1d(np.concatenate([split.train for split in splits]), flagged)
    splits = [replace(split, train=np.setdiff1d(split.train, flagged)) for split in splits]
    return dataset, splits, len(left_out)


def predict_keypoints(
    model: keras.Model, images: ImageArray, style: NDArray[np.intp] | None = None
) -> NDArray[np.float32]:
    """Predict with the network of a recipe.

    Args:
        model: The network.
        images: (N, H, W, C) uint8.
        style: (N,) number of the label style to predict each image in, for a network that has styles;
            the first for all when left out.

    Returns:
        (N, K, 2) pixels.
    """
    height, width = images.shape[1:3]
    if len(images) == 0:
        return np.zeros((0, int(model.output_shape[-2]), 2), np.float32)
    output = _outputs(model, images)
    if output.ndim == 4:
        chosen = output[np.arange(len(images)), 0 if style is None else style]
        return np.asarray(chosen[..., :2], np.float32)
    return np.asarray(decode(output, (height, width)), np.float32)


def _outputs(model: keras.Model, images: ImageArray) -> NDArray[np.float32]:
    """What a network gives for images, at least one, in batches.

    It is called without a compiled graph: ``model.predict`` would compile one for each network and each
    last, smaller batch.
    """
    return np.concatenate(list(_in_batches(model, images)))


def _in_batches(model: keras.Model, images: ImageArray) -> Iterator[Any]:
    for start in range(0, len(images), BATCH):
        found = model(images[start : start + BATCH], training=False)
        yield keras.tree.map_structure(keras.ops.convert_to_numpy, found)


def predict_run(run: run_folder.Run, faces: FaceDataset) -> NDArray[np.float32]:
    """(N, K, 2) pixels predicted by the model of a run, each face in its own label style."""
    style = style_numbers(faces, run.spec.styles)
    return predict_keypoints(run.load_model(), faces.images, style)


def measure_run(run: run_folder.Run, dataset: FaceDataset, *, seed: int = 0) -> EvaluationReport:
    """Measure a trained recipe on the test faces of its split; ``seed`` is that of the intervals.

    Test faces that the model it started from was trained on are left out.
    """
    if run.split is None:
        raise ModelError(f"{run.directory} has no test faces: name the run folder of a recipe.")
    test = dataset.subset(run.split.test)
    if run.record.get("base"):
        learnt = read_embedded_digests(run.model_path) or ()
        test = test.subset([d not in learnt for d in image_digests(test.images)])
    return evaluate_predictions(test, predict_run(run, test), seed=seed)


def cosine_rate(rate: float, epochs: int) -> keras.callbacks.Callback:
    """A learning rate that falls from ``rate`` to nearly 0 along half a cosine (Loshchilov and Hutter, 2017).

    It depends on the number of the epoch only, so a resumed run continues with the same rates.
    """
    return keras.callbacks.LearningRateScheduler(
        lambda epoch: rate * 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))
    )


def compile_model(model: keras.Model, recipe: Recipe, image_size: tuple[int, int]) -> None:
    """Compile with the recipe's optimiser and loss, averaged over labelled points only."""
    optimizer = keras.optimizers.get(
        {"class_name": recipe.optimizer, "config": dict(recipe.optimizer_options)}
    )
    if recipe.loss == "points":
        loss, pixels = PointsLoss(max(image_size) / 48), (1.0, 1.0)
        # XLA on a CPU makes this network's steps a fifth slower, and takes long to compile.
        jit = keras.backend.backend() == "jax"
    else:
        loss, jit = keras.losses.get(recipe.loss), "auto"
        pixels = (image_size[1] / 2, image_size[0] / 2)
    # Keras' default divides by all points, labelled or not, so sparse batches would learn less.
    loss.reduction = "mean_with_sample_weight"
    model.compile(
        optimizer=optimizer, loss=loss, weighted_metrics=[RmsePixels(pixels)], jit_compile=jit
    )


def check_images(dataset: FaceDataset, spec: ModelSpec) -> None:
    """Raise ModelError if a model takes images of another size or channels than the dataset's."""
    if (dataset.image_size, dataset.images.shape[3]) != (spec.input_size, spec.channels):
        raise ModelError(
            f"the model '{spec.name}' takes images of {spec.input_size[1]}×{spec.input_size[0]} pixels "
            f"with {spec.channels} channel(s), but the data has {dataset.image_size[1]}×"
            f"{dataset.image_size[0]} with {dataset.images.shape[3]}: load it at that size."
        )


@dataclass
class _Progress:
    """State of a training; saved with each checkpoint."""

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
    """Keep the weights of the best epoch, save checkpoints, stop early, and load a checkpoint."""

    def __init__(self, directory: Path, *, patience: int) -> None:
        super().__init__()
        self.directory = directory
        self.patience = patience
        self.progress = _Progress()
        self.best_weights: list[NDArray[Any]] = []
        self._measured: list[NDArray[Any]] = []
        self._clock = self._saved = time.monotonic()

    def load(self) -> keras.Model | None:
        """The model as it was at the last checkpoint, or ``None`` if there is none."""
        latest = self.directory / "latest"
        if not latest.is_dir():
            latest = self.directory / "old"  # killed between the two renames of save()
        if not latest.is_dir():
            return None
        try:
            self.progress = _Progress(**read_json(latest / "state.json"))
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
        """Write the last epoch and the best weights; one rename replaces the older checkpoint."""
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
            write_json(fresh / "state.json", asdict(self.progress))
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

    def on_test_end(self, logs: dict[str, float] | None = None) -> None:
        self._measured = self.model.get_weights()  # the averaged ones, if the optimiser averages

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
                "(train: --learning-rate)."
            )
        if error < progress.best_error:
            progress.best_error, progress.best_epoch = error, epoch + 1
            self.best_weights = self._measured or self.model.get_weights()
        if self.patience and progress.epoch - progress.best_epoch >= self.patience:
            self.model.stop_training = True
        if now - self._saved > CHECKPOINT_SECONDS:
            self.save()


def build_expert(base: keras.Model, group: Sequence[int], *, name: str) -> keras.Model:
    """A cnn for a group of keypoints (indices) with the weights, so the predictions, of ``base``."""
    expert = build_cnn(len(group), base.input_shape[1:3], name=name)
    for layer, source in zip(expert.layers, base.layers, strict=True):
        if layer.name != "coordinates":
            layer.set_weights(source.get_weights())
    kernel, bias = base.get_layer("coordinates").get_weights()
    columns = np.array([[2 * k, 2 * k + 1] for k in group]).ravel()
    expert.get_layer("coordinates").set_weights([kernel[:, columns], bias[columns]])
    return expert


@dataclass(frozen=True)
class _Training:
    """What the networks of a run are trained with."""

    recipe: Recipe
    train_rows: FaceDataset
    val_rows: FaceDataset
    directory: Path
    seed: int
    callbacks: Sequence[keras.callbacks.Callback]
    base: tuple[keras.Model, ModelSpec] | None = None

    @property
    def styles(self) -> tuple[str, ...]:
        """Label styles that the network answers in; none for the networks of the study."""
        return known_styles(self.train_rows) if self.recipe.network == "landmark" else ()

    def network(self, folder: str) -> tuple[keras.Model, _Progress]:
        """Train the recipe's network for all keypoints; ``folder`` holds its checkpoint."""
        keras.utils.set_random_seed(self.seed)
        rows, styles = self.train_rows, self.styles
        try:
            if styles:
                model = build_landmark(rows, styles * 2, self.base)
            else:
                build = {"fc": build_fc, "cnn": build_cnn}[self.recipe.network]
                model = build(rows.schema.num_keypoints, rows.image_size)
                start_at(model, np.nanmean(rows.keypoints.xy, axis=0))
        except ValueError as error:
            raise DataError(str(error)) from error
        model, progress = self._fit(model, folder, self.recipe.epochs, rows, self.val_rows)
        if styles:
            model = keep_styles(model, len(styles))
            self._refit(model)
            held = self.val_rows if len(self.val_rows) else rows
            answers, style = _outputs(model, held.images), style_numbers(held, styles)
            found = calibrate(answers, held.keypoints.xy, style, max(rows.image_size))
            apply_calibration(model, found)
        return model, progress

    def _refit(self, model: keras.Model) -> None:
        """Fit the last layer again to the training images, and keep that if it lowers the validation error."""
        rows, held = self.train_rows, self.val_rows
        if not len(held):
            return
        head = model.get_layer("head")
        both = keras.Model(model.input, [head.input, model.output])
        number = style_numbers(held, self.styles)

        def error() -> float:
            xy = _outputs(model, held.images)[np.arange(len(held)), number, :, :2]
            return float(np.nanmean(np.square(xy - held.keypoints.xy)))

        before, trained = error(), head.get_weights()
        parts = zip(*_in_batches(both, rows.images), strict=True)
        features, answers = (np.concatenate(part) for part in parts)
        style = style_numbers(rows, self.styles)
        refit_last_layer(model, features, answers, rows.keypoints.xy, style)
        if error() >= before:
            head.set_weights(trained)

    def _batches(
        self, rows: FaceDataset, keypoints: NDArray[np.int64] | None, epoch: int
    ) -> TrainingBatches:
        options: dict[str, Any] = {
            "batch_size": self.recipe.batch_size,
            "seed": self.seed,
            "flip_probability": self.recipe.flip_probability,
            "epoch": epoch,
        }
        if self.styles:
            # Views of a face differ, so an epoch of few faces shows each several times.
            repeats = math.ceil(LEAST_VIEWS / len(rows))
            rows = rows.subset(np.tile(np.arange(len(rows)), repeats))
            return ViewBatches(rows, styles=self.styles, **options)
        return TrainingBatches(rows, keypoints=keypoints, **options)

    def _targets(
        self, rows: FaceDataset, keypoints: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        styles = self.styles
        if styles:
            return styled_targets(rows.keypoints.xy, style_numbers(rows, styles), 2 * len(styles))
        return targets_and_weights(rows, keypoints)

    def specialists(self, base: keras.Model | None) -> tuple[keras.Model, _Progress]:
        """Train one copy of ``base`` per group of keypoints, then join them into one model."""
        total = _Progress()
        base_history: Mapping[str, list[float]] = {}
        if base is None:
            base, progress = self.network("base")
            total.seconds, base_history = progress.seconds, progress.history
        schema = self.train_rows.schema
        names = schema.keypoint_names
        of_kaggle = {point for points in SPECIALIST_GROUPS.values() for point in points}
        groups = {**SPECIALIST_GROUPS, "others": [n for n in names if n not in of_kaggle]}
        known = {
            group: np.array([schema.index(point) for point in points if point in names])
            for group, points in groups.items()
            if not set(points).isdisjoint(names)
        }
        experts = []
        for number, (name, keypoints) in enumerate(known.items()):
            # Its own seed, so that it does not depend on the networks trained before.
            keras.utils.set_random_seed(self.seed + 1 + number)
            expert, progress = self._fit(
                build_expert(base, keypoints.tolist(), name=name.replace("-", "_")),
                f"specialists/{name}",
                self.recipe.specialist_epochs,
                _labelling(self.train_rows, keypoints),
                _labelling(self.val_rows, keypoints),
                keypoints,
            )
            experts.append(expert)
            total.seconds += progress.seconds
            total.best_epoch = max(total.best_epoch, progress.best_epoch)
            for key, values in progress.history.items():
                total.history[f"{name}/{key}"] = values
        total.history.update(base_history)
        indices = [keypoints.tolist() for keypoints in known.values()]
        return build_specialists(experts, indices, self.train_rows.image_size), total

    def _fit(
        self,
        model: keras.Model,
        folder: str,
        epochs: int,
        train_rows: FaceDataset,
        val_rows: FaceDataset,
        keypoints: NDArray[np.int64] | None = None,
    ) -> tuple[keras.Model, _Progress]:
        """Train a network, or continue from its checkpoint; return it with its best weights."""
        recipe, directory = self.recipe, self.directory / folder
        checkpoints = _Checkpoints(directory / "checkpoint", patience=recipe.patience)
        saved = checkpoints.load()
        if saved is not None:
            model = saved
        else:
            compile_model(model, recipe, train_rows.image_size)
        done = checkpoints.progress.epoch
        batches = self._batches(train_rows, keypoints, done)
        stopped = recipe.patience and done - checkpoints.progress.best_epoch >= recipe.patience
        if done < epochs and not stopped:
            validation = (val_rows.images, *self._targets(val_rows, keypoints))
            averaged = recipe.optimizer_options.get("use_ema", False)
            if averaged:
                # Over a twentieth of the steps, or a short training would remember how it began.
                longest = max(0.0, 1.0 - 20.0 / (epochs * len(batches)))
                model.optimizer.ema_momentum = min(model.optimizer.ema_momentum, longest)
            model.fit(
                batches,
                validation_data=validation if len(val_rows) else None,
                validation_batch_size=BATCH,
                epochs=epochs,
                initial_epoch=done,
                shuffle=False,  # TrainingBatches shuffles rows, repeatably
                verbose=0,
                callbacks=[
                    cosine_rate(recipe.learning_rate, epochs),
                    checkpoints,
                    # The averaged weights are measured, those of the optimiser trained on.
                    *([keras.callbacks.SwapEMAWeights()] if averaged else []),
                    *self.callbacks,
                ],
            )
            checkpoints.save()  # a run of several networks may be interrupted in the next one
        model.set_weights(checkpoints.best_weights)
        return model, checkpoints.progress


def _labelling(rows: FaceDataset, keypoints: NDArray[np.int64]) -> FaceDataset:
    """The rows that label at least one of the keypoints."""
    return rows.subset(np.flatnonzero(rows.keypoints.labeled[:, keypoints].any(axis=1)))


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
    base: str | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> run_folder.Run:
    """Train a recipe and write a run folder.

    The recipe's strategy for missing labels is applied to the training rows only: validation and test
    errors count labelled points only.

    Args:
        dataset: All faces, NaN = not labelled.
        split: The training rows, the validation rows that choose the best epoch, and the test rows,
            which are not used here.
        recipe: What to build and how to train it.
        directory: The run folder.
        seed: Seed of weights, dropout, shuffling and mirroring.
        resume: Continue the run in ``directory``, or return it if it is finished.
        force: Replace what is in ``directory``.
        warm_start: For ``specialists``: run folder of a ``cnn`` trained on the same training rows.
            One is trained first when left out.
        base: For ``landmark``: the model whose weights training starts from: ``default``, a run folder
            or a ``.keras`` file. Random weights when left out.
        callbacks: Further Keras callbacks, such as a progress bar.

    Raises:
        DataError: The data cannot be trained on, or training diverged.
        ModelError: There is no such base, or it cannot be trained further on this data.
        OutputError: The folder exists, or cannot be written.
    """
    directory = Path(directory)
    inputs = (dataset.source, warm_start, base)
    if base is not None and recipe.network != "landmark":
        raise ModelError(
            f"the recipe '{recipe.name}' starts from random weights: only landmark takes --from."
        )
    base_file = None if base is None else find_model(base, trainable=True)
    with (
        output_folder(directory, verb="train", inputs=inputs, force=force, resume=resume),
        lock_folder(directory),  # two processes would overwrite each other's checkpoints
    ):
        digest = data_digest(dataset)
        run_folder.begin(
            directory,
            {
                "recipe": asdict(recipe),
                "seed": seed,
                "data_digest": digest,
                "split": run_folder.split_digest(split),
                "base": None if base_file is None else _described_base(base_file, dataset),
            },
        )
        if run_folder.is_finished(directory):
            return run_folder.load_run(directory)
        # fill_missing refuses unknown names.
        train_rows = fill_missing(
            dataset.subset(split.train), cast(MissingStrategy, recipe.missing)
        )
        check_trainable(train_rows)
        val_rows = dataset.subset(split.val)
        start = None
        if base_file is not None:
            start = load_keras_model(base_file), read_embedded_spec(base_file)
        training = _Training(recipe, train_rows, val_rows, directory, seed, callbacks, start)
        if recipe.specialists:
            base = None if warm_start is None else _warm_start_model(warm_start, split, digest)
            model, progress = training.specialists(base)
        else:
            model, progress = training.network("")
        # Flagged rows that were left out count as seen: they may be copies of training faces.
        seen = np.setdiff1d(np.arange(len(dataset)), split.test)
        learnt = set(image_digests(dataset.images[seen]))
        if base_file is not None:  # its training faces count as this model's too
            learnt |= read_embedded_digests(base_file) or set()
        channels = int(dataset.images.shape[3])
        run = run_folder.finish(
            directory,
            model,
            ModelSpec(
                recipe.name,
                dataset.schema,
                dataset.image_size,
                styles=training.styles or ("",),
                channels=channels,
                data_digest=digest,
                confidence=CONFIDENCE if training.styles else "",
                output="points" if training.styles else "coordinates",
            ),
            learnt=learnt,
            split=split,
            record={
                "data_source": dataset.source,
                "rows": {
                    "train": len(train_rows),
                    "val": len(val_rows),
                    "test": len(split.test),
                },
                "best_epoch": progress.best_epoch,
                "seconds": round(progress.seconds, 3),
                "history": progress.history,
                "warm_start": str(warm_start) if warm_start else None,
            },
        )
        for leftover in ("checkpoint", "base", "specialists"):
            shutil.rmtree(directory / leftover, ignore_errors=True)
        return run


def _described_base(file: Path, dataset: FaceDataset) -> dict[str, str]:
    """The name and digest of a base for the settings; ModelError if the data does not fit it."""
    spec = read_embedded_spec(file)
    check_images(dataset, spec)
    return {"name": spec.name, "digest": hashlib.sha256(file.read_bytes()).hexdigest()}


def _warm_start_model(directory: Path, split: Split, digest: str) -> keras.Model:
    """The model of a run; refused if it was trained on validation or test rows of ours."""
    run = run_folder.load_run(directory)
    if (
        run.spec.data_digest != digest
        or run.split is None
        or not np.array_equal(np.sort(run.split.train), np.sort(split.train))
    ):
        raise DataError(
            f"the run {directory} was trained on other rows, so a warm start from it could leak test "
            "faces into training: train its recipe on this data and split first."
        )
    return run.load_model()


def recorded_errors(directory: Path | str) -> list[float]:
    """Validation errors in pixels, by epoch, of a run of one network, finished or not."""
    directory = Path(directory)
    for file in ("run.json", "checkpoint/latest/state.json", "checkpoint/old/state.json"):
        try:
            history = read_json(directory / file)["history"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return [float(error) for error in history.get("val_rmse_px", [])]
    return []
