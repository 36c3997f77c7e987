"""Teaches a trained detector somebody's own keypoints from tens of labelled faces.

1. *Start, in closed form*: the backbone stays as it is; the points that both know start from the
   label style whose answers fit the labels best, every point is corrected by a ridge regression on
   the backbone's own points and features. Cross-validation over faces sets how far the correction
   may go, and says how good it is on faces that it did not see.
2. *Training*: all weights, at a low rate, on changed views of the faces, held near where they
   started. Statistics of batch normalisation stay those of the large data. With enough faces some
   are held out and choose when to stop; otherwise the schedule is fixed and short.

A run folder holds ``run.json`` (settings, base, versions, times), ``schema.json``, ``history.csv``,
``model.keras`` with the model spec inside, and with held-out faces ``split.json``.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from facial_keypoints.data.augment import AugmentConfig, Augmenter, apply_affine, warp
from facial_keypoints.data.cache import data_digest
from facial_keypoints.data.duplicates import duplicate_groups, join_groups
from facial_keypoints.data.splits import Split
from facial_keypoints.errors import DataError, ModelError, OutputError
from facial_keypoints.files import prepare_directory, write_json, write_text
from facial_keypoints.losses import distance_px, pseudo_huber, weighted_mean
from facial_keypoints.models.loading import CONFIDENCE, load_keras_model
from facial_keypoints.models.transfer import FOLDS, Examples, fit_start
from facial_keypoints.models.tuned import backbone, build_tuned, read_out
from facial_keypoints.runtime import shipped_models
from facial_keypoints.schemas import select_keypoints
from facial_keypoints.spec import ModelSpec, embed_spec, read_embedded_spec
from facial_keypoints.training import git_revision, history_csv, library_versions
from facial_keypoints.types import BoolArray, FaceDataset, Keypoints

__all__ = ["FinetuneConfig", "FinetunedRun", "find_base", "finetune"]

SMALLEST = 5
"""Faces, and labels of a point that the base does not know: fewer say nothing about other faces."""

_ROWS = 1200  # views in the ridge: solving for more takes longer than the training after it


@dataclass(frozen=True)
class FinetuneConfig:
    """How a detector is adapted.

    Args:
        steps: Training steps after the closed-form start; 0 keeps the start.
        batch_size: Views a step.
        learning_rate: Peak rate of Adam; a cosine takes it to zero.
        hold: Strength of the pull of the backbone's weights to where they started.
        huber_px: Where the loss turns from square to linear, input pixels.
        views: Views of each face in the closed-form start, the plain picture among them.
        hold_out_from: Groups (persons) from which on a share of them is held out to choose when to
            stop.
        hold_out: That share.
        augment: How far views stray; narrower than in training from scratch, since someone's own
            crops are framed alike.
    """

    steps: int = 300
    batch_size: int = 32
    learning_rate: float = 3e-4
    hold: float = 0.05
    huber_px: float = 1.0
    views: int = 8
    hold_out_from: int = 100
    hold_out: float = 0.2
    augment: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(
            angle=15.0,
            scale=1.12,
            shift=4.0,
            wide=0.0,
            blur=0.2,
            low_resolution=0.15,
            occlusion=0.2,
        )
    )


@dataclass(frozen=True, eq=False)
class FinetunedRun:
    """A finished run folder.

    Args:
        directory: The folder.
        spec: The model's description of itself.
        faces: Faces behind ``answers``: those held out, or all of them.
        answers: (N, K, 2) what the model answers for them, pixels; where none were held out, what
            the closed-form start answers when it is fitted without the face.
        held_out: Whether faces were held out.
        base_answers: (N, K, 2) the base's answers in the best style, NaN for points it does not know.
        style: That style.
        seconds: Time it took.
    """

    directory: Path
    spec: ModelSpec
    faces: FaceDataset
    answers: NDArray[np.float32]
    held_out: bool
    base_answers: NDArray[np.float32]
    style: str
    seconds: float


def find_base(model: str | os.PathLike[str] = "default") -> Path:
    """The ``.keras`` file of a model to start from; :func:`read_embedded_spec` describes it.

    Args:
        model: ``default`` or another shipped name, a run folder, or a ``.keras`` file.

    Raises:
        ModelError: There is no such model, or it is an ONNX file.
    """
    path, shipped = Path(model), shipped_models()
    if str(model) in shipped:
        path = shipped[str(model)].with_suffix(".keras")
    elif path.is_dir():
        path = path / "model.keras"
    if path.suffix.lower() == ".onnx":
        raise ModelError(
            f"{path} is an ONNX model, which cannot be trained further: name default, a run folder or a "
            ".keras file."
        )
    if not path.is_file():
        raise ModelError(
            f"there is no model to start from at {path}: name default, a run folder or a .keras file."
        )
    return path


def finetune(
    dataset: FaceDataset,
    directory: Path | str,
    *,
    base: str | os.PathLike[str] = "default",
    config: FinetuneConfig | None = None,
    seed: int = 0,
    force: bool = False,
    report: Callable[[str], None] | None = None,
) -> FinetunedRun:
    """Adapt a detector to labelled faces and leave a run folder.

    Args:
        dataset: Faces at the base's input size and channels
            (``load_dataset(..., size=spec.input_size, channels=spec.channels)``). The model answers
            the points that are labelled in some face, and their left/right partners.
        directory: The run folder to make; nothing is left there when training is interrupted.
        base: The model to start from, as for :func:`find_base`.
        config: How; the defaults when left out.
        seed: Seed of the views, of their order and of who is held out.
        force: Replace what is in ``directory``.
        report: Told what is going on.

    Raises:
        DataError: There are too few labels.
        ModelError: The base cannot be trained further, or takes other pictures.
        OutputError: The folder exists, or cannot be written.
    """
    directory, config = Path(directory), config or FinetuneConfig()
    say = report or (lambda _: None)
    _refuse_folder(directory, force=force)
    started, clock = time.strftime("%Y-%m-%dT%H:%M:%S%z"), time.monotonic()
    base_file = find_base(base)
    base_spec = read_embedded_spec(base_file)
    _check_pictures(dataset, base_spec)
    dataset = _labelled_part(dataset, base_spec)
    keras.utils.set_random_seed(seed)
    groups = _groups(dataset)
    train, val = _hold_out(groups, config, seed)
    split = Split(train=train, val=np.empty(0, np.int64), test=val, seed=seed)

    say("fitting the new points")
    network = load_keras_model(base_file)
    old_names = base_spec.schema.keypoint_names
    new_names = dataset.schema.keypoint_names
    known = np.array([old_names.index(n) if n in old_names else -1 for n in new_names])
    features = backbone(network)
    before = read_out(network)
    views = _Views(dataset.subset(train), config.augment, seed)
    examples, took_part = _examples(views, features, groups[train], config.views, seed)
    start = fit_start(examples, before, known)
    shown = dataset.subset(val if len(val) else train[took_part])
    plain = features.predict(_float(shown), batch_size=64, verbose=0)
    base_xy = before(plain)[:, start.style, known, :2]
    base_xy[:, known < 0] = np.nan

    model = build_tuned(features, start.read_out, start.anchor_xy)
    history = _train(model, features, views, dataset.subset(val), config, seed, say)
    if len(val):
        answers = np.asarray(model.predict(_float(shown), verbose=0))
        _calibrate(model, answers[:, 0], shown.keypoints.xy)
        answers = answers[:, 0, :, :2]
    else:
        answers = start.out_of_fold

    spec = ModelSpec(
        name=f"{base_spec.name.removesuffix('-tuned')}-tuned",
        schema=dataset.schema,
        input_size=base_spec.input_size,
        channels=base_spec.channels,
        data_digest=data_digest(dataset),
        confidence=CONFIDENCE,
        output="points",
    )
    seconds = time.monotonic() - clock
    settings = {
        "base": {"model": str(base), "name": base_spec.name, "data_digest": base_spec.data_digest},
        "style": base_spec.styles[start.style],
        "config": asdict(config),
        "seed": seed,
        "data_source": dataset.source,
        "data_digest": spec.data_digest,
        "rows": {"train": len(train), "held_out": len(val)},
        "start": {"out_of_fold_px": start.out_of_fold_px, "choice": start.choices},
        "history": history,
        "started": started,
        "train_seconds": round(seconds, 3),
        "versions": library_versions(),
        "git_revision": git_revision(),
    }
    _save(directory, model, spec, settings, history, split if len(val) else None, force=force)
    return FinetunedRun(
        directory, spec, shown, np.asarray(answers, np.float32), bool(len(val)),
        np.asarray(base_xy, np.float32), base_spec.styles[start.style], seconds,
    )  # fmt: skip


def _save(
    directory: Path,
    model: keras.Model,
    spec: ModelSpec,
    settings: dict[str, Any],
    history: dict[str, list[float]],
    split: Split | None,
    *,
    force: bool,
) -> None:
    """Write the run folder elsewhere, then put it in place whole."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent)
    except OSError as error:
        raise OutputError(f"cannot write {directory} ({error.strerror}).") from error
    with temporary as folder:
        fresh = Path(folder) / "run"
        fresh.mkdir()
        model.save(fresh / "model.keras")
        embed_spec(fresh / "model.keras", spec)
        write_json(fresh / "schema.json", asdict(spec.schema))
        write_text(fresh / "history.csv", history_csv(history))
        write_json(fresh / "run.json", settings)
        if split is not None:
            split.save(fresh / "split.json")
        prepare_directory(directory, force=force)
        fresh.replace(directory)


def _refuse_folder(directory: Path, *, force: bool) -> None:
    """Say at once, not after the training, that the folder is taken."""
    if not force and directory.exists():
        prepare_directory(directory)


def _float(faces: FaceDataset) -> NDArray[np.float32]:
    return faces.images.astype(np.float32)


def _check_pictures(dataset: FaceDataset, spec: ModelSpec) -> None:
    if (dataset.image_size, dataset.images.shape[3]) != (spec.input_size, spec.channels):
        raise ModelError(
            f"the model '{spec.name}' takes pictures of {spec.input_size[1]}×{spec.input_size[0]} pixels "
            f"with {spec.channels} channel(s), but the data has {dataset.image_size[1]}×"
            f"{dataset.image_size[0]} with {dataset.images.shape[3]}: load it at that size."
        )


def _labelled_part(dataset: FaceDataset, base: ModelSpec) -> FaceDataset:
    """The faces with labels, in a schema of the points that have any."""
    labeled = dataset.keypoints.labeled
    rows = np.flatnonzero(labeled.any(axis=1))
    if len(rows) < SMALLEST:
        raise DataError(
            f"{dataset.source or 'the data'} has {len(rows)} labelled faces; fine-tuning needs at least "
            f"{SMALLEST}, better 50."
        )
    full = dataset.schema
    schema = select_keypoints(full, np.asarray(labeled.any(axis=0)))
    kept = [full.index(name) for name in schema.keypoint_names]
    counts = labeled.sum(axis=0) + labeled.sum(axis=0)[list(full.swap)] * (
        np.arange(full.num_keypoints) != full.swap
    )
    for k in kept:
        if full.keypoint_names[k] not in base.schema.keypoint_names and counts[k] < SMALLEST:
            raise DataError(
                f"{dataset.source or 'the data'} labels '{full.keypoint_names[k]}' in {counts[k]} faces, "
                f"and the model does not know it: label it in at least {SMALLEST}, or leave it out."
            )
    part = dataset.subset(rows)
    return FaceDataset(
        images=part.images,
        keypoints=Keypoints(part.keypoints.xy[:, kept], schema),
        sample_ids=part.sample_ids,
        source=part.source,
        styles=np.full(len(rows), ""),
        groups=part.groups,
    )


def _groups(dataset: FaceDataset) -> NDArray[np.int64]:
    """(N,) group numbers: the data's own groups, joined where pictures are near duplicates."""
    # Likeness of whole faces needs the eyes; other points would align pictures in odd ways.
    eyes = dataset.schema.norm_pair == ("left_eye_center", "right_eye_center")
    alike = duplicate_groups(dataset.images, dataset.keypoints if eyes else None)
    return np.asarray(join_groups(dataset.groups, alike), np.int64)


def _hold_out(
    groups: NDArray[np.int64], config: FinetuneConfig, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that train and rows held out; none are held out when there are few groups."""
    names = np.random.default_rng(seed).permutation(np.unique(groups))
    count = round(config.hold_out * len(names)) if len(names) >= config.hold_out_from else 0
    chosen = np.isin(groups, names[:count])
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


class _Views:
    """Changed views of faces with their points.

    Args:
        faces: N faces of one size.
        augment: How far views stray.
        seed: First seed of the views.
    """

    def __init__(self, faces: FaceDataset, augment: AugmentConfig, seed: int) -> None:
        self.faces = faces
        self.size = faces.image_size[0]
        self.swap = faces.schema.swap
        self.augmenter = Augmenter(augment, self.size, self.swap, seed + 1)
        labeled = faces.keypoints.labeled
        self.xy = np.nan_to_num(faces.keypoints.xy).astype(np.float32)
        self.weight = labeled.astype(np.float32)

    def __call__(self, images: Any, xy: Any, weight: Any) -> tuple[Any, Any, Any]:
        """Views ``(B, H, W, 1)``, points ``(B, K, 2)`` and label weights ``(B, K)`` of rows."""
        n = ops.shape(xy)[0]
        # The augmenter counts in pixels of a picture of 96, whatever the size of the input.
        centre, ratio = ops.full((n, 2), 47.5), self.size / 96.0
        matrix, flip = self.augmenter.geometry(centre, ops.zeros((n, 2)), ops.zeros((n,)))
        matrix = ratio * matrix + np.array([0.0, 0.0, (ratio - 1.0) / 2.0], np.float32)
        changed = self.augmenter.appearance(warp(images, matrix, self.size))
        moved = apply_affine(xy[:, None], matrix, flip, self.swap)[:, 0]
        partner = ops.take(weight, np.asarray(self.swap, "int32"), axis=1)
        weight = ops.where(flip[:, None] > 0.5, partner, weight)
        return changed[..., None], moved, weight


def _examples(
    views: _Views,
    features: keras.Model,
    groups: NDArray[np.int64],
    views_per_face: int,
    seed: int,
) -> tuple[Examples, NDArray[np.int64]]:
    """Features of plain and changed views of the faces, and which faces took part.

    Args:
        views: The faces.
        features: The backbone.
        groups: (N,) group numbers; a group lies in one fold.
        views_per_face: Views of each face, the plain picture among them.
        seed: Of the folds, and of the faces if there are too many for all to take part.
    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(groups))[:_ROWS])
    groups = groups[chosen]
    repeats = max(1, min(views_per_face, _ROWS // len(chosen)))
    images = views.faces.images[chosen].astype(np.float32)
    xy, weight = views.xy[chosen], views.weight[chosen]
    parts: list[tuple[NDArray[np.float32], ...]] = [(images, xy, weight)]
    for _ in range(repeats - 1):
        changed = views(images[..., 0], xy, weight)
        parts.append(tuple(np.asarray(ops.convert_to_numpy(a), np.float32) for a in changed))
    images, xy, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
    # Whole groups lie in one fold; with too few groups, whole faces do.
    names, unit = np.unique(groups, return_inverse=True)
    if len(names) < FOLDS:
        unit = np.arange(len(groups))
    fold = (rng.permutation(unit.max() + 1) % FOLDS)[unit]
    return Examples(
        features=np.asarray(features.predict(images, batch_size=64, verbose=0), np.float64),
        xy=xy.astype(np.float64),
        labelled=weight > 0,
        fold=np.tile(fold, repeats),
        faces=len(chosen),
    ), chosen


class _Tuner(keras.Model):  # type: ignore[misc]
    """Takes row numbers, makes views, returns the loss of each batch."""

    def __init__(
        self, net: keras.Model, features: keras.Model, views: _Views, config: FinetuneConfig
    ) -> None:
        super().__init__(name="tuner")
        self.net, self.views, self.config = net, views, config
        self.held = {
            "images": self._hold("images", views.faces.images[..., 0]),
            "xy": self._hold("xy", views.xy),
            "weight": self._hold("weight", views.weight),
        }
        self.near = [
            (w, self._hold(f"start_{i}", np.asarray(ops.convert_to_numpy(w))))
            for i, w in enumerate(features.trainable_weights)
        ]

    def _hold(self, name: str, value: NDArray[Any]) -> Any:
        # Variables, not constants: a graph must not carry the pictures.
        variable = self.add_weight(
            name=name, shape=value.shape, dtype=str(value.dtype), trainable=False,
            initializer="zeros", autocast=False,
        )  # fmt: skip
        variable.assign(value)
        return variable

    def call(self, index: Any, training: bool = False) -> Any:
        """Loss ``(B,)`` (one number repeated) of the rows ``index`` ``(B,)``."""
        index = ops.reshape(index, (-1,))
        row = {n: ops.take(ops.convert_to_tensor(v), index, axis=0) for n, v in self.held.items()}
        images, xy, weight = self.views(row["images"], row["xy"], row["weight"])
        # A point that left the view counts as not labelled.
        size = self.views.size
        inside = ops.all(ops.logical_and(xy > -2.0, xy < size + 1.0), axis=-1)
        weight = weight * ops.cast(inside, "float32")
        # Never in training mode: tens of faces would spoil the statistics of batch normalisation.
        # The expected error keeps its place too; on faces learnt by heart it could only fall.
        out = self.net(images, training=False)[:, 0, :, :2]
        loss = weighted_mean(pseudo_huber(distance_px(xy, out), self.config.huber_px), weight)
        for w, start in self.near:
            loss = loss + self.config.hold * ops.sum(ops.square(w - start))
        return ops.zeros_like(weight[:, 0]) + loss

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The loss that :meth:`call` has worked out already."""
        return ops.mean(y_pred)


class _Rows(keras.utils.PyDataset):  # type: ignore[misc]
    """Row numbers, every face once before any comes again."""

    def __init__(self, count: int, batch: int, steps: int, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        rounds = -(-steps * batch // count)
        rows = np.concatenate([rng.permutation(count) for _ in range(rounds)])
        self.rows = rows[: steps * batch].reshape(steps, batch).astype(np.int32)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        return self.rows[i], np.zeros(self.rows.shape[1], np.float32)


_ROUND = 25  # steps between two looks at the held-out faces
_PATIENCE = 6  # looks without a better one before training stops


def _train(
    model: keras.Model,
    features: keras.Model,
    views: _Views,
    val: FaceDataset,
    config: FinetuneConfig,
    seed: int,
    say: Callable[[str], None],
) -> dict[str, list[float]]:
    """Train all weights; with held-out faces the best weights win, the start among them."""
    history: dict[str, list[float]] = {"loss": []}
    if not config.steps:
        return history
    tuner = _Tuner(model, features, views, config)
    optimizer = keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(config.learning_rate, config.steps), clipnorm=5.0
    )
    tuner.compile(optimizer=optimizer, jit_compile=keras.backend.backend() == "jax")
    best, kept = _error_px(model, val), model.get_weights()
    if len(val):
        history["val_error_px"] = []
    since = 0
    rounds = -(-config.steps // _ROUND)
    for i in range(rounds):
        rows = _Rows(len(views.xy), config.batch_size, _ROUND, seed + i)
        fitted = tuner.fit(rows, epochs=1, verbose=0, shuffle=False)
        history["loss"].append(float(fitted.history["loss"][0]))
        if not np.isfinite(history["loss"][-1]):
            raise DataError("training diverged: lower the learning rate.")
        words = f"training, round {i + 1} of {rounds}"
        if len(val):
            error = _error_px(model, val)
            history["val_error_px"].append(error)
            words += f", held-out faces {error:.2f} px (best {min(error, best):.2f})"
            since = 0 if error < best else since + 1
            if error < best:
                best, kept = error, model.get_weights()
        say(words)
        if since >= _PATIENCE:
            break
    if len(val):
        model.set_weights(kept)
    return history


def _error_px(model: keras.Model, faces: FaceDataset) -> float:
    """Mean point error over the labelled points; NaN without faces."""
    if not len(faces):
        return float("nan")
    answers = np.asarray(model.predict(_float(faces), verbose=0))[:, 0, :, :2]
    return float(np.nanmean(np.linalg.norm(answers - faces.keypoints.xy, axis=-1)))


def _calibrate(model: keras.Model, answers: NDArray[np.float32], xy: NDArray[np.float32]) -> None:
    """Set the general size of the expected errors to what held-out faces show.

    Args:
        model: The network; the last third of its head's biases is shifted.
        answers: (N, K, 3) its answers.
        xy: (N, K, 2) labels.
    """
    errors = np.linalg.norm(answers[..., :2] - xy, axis=-1)
    seen: BoolArray = ~np.isnan(errors)
    shift = np.log(errors[seen].mean() / (2.0 * np.exp(answers[..., 2][seen])).mean())
    head = model.get_layer("head")
    kernel, bias = head.get_weights()
    bias.reshape(-1, 3)[:, 2] += shift
    head.set_weights([kernel, bias])
