"""Trains the detector that the package ships: large teachers, cleaned labels, one small student.

1. *Teachers*: a large network per fold learns from every labelled point of the other folds. Each
   then predicts the faces of its own fold, which it never saw, so labels that are plainly wrong
   stand out, and the error on new faces is known.
2. *Targets*: for every face and every label style, the mean prediction of the teachers over mirrored
   and slightly moved views, blended with the label where there is one that the teachers confirm.
3. *Student*: the small network of the package learns those dense targets from heavily changed views,
   then from gently changed ones, cropped as they are in use.
4. *Last layer*: fitted once more in closed form to the labels, and the error sizes scaled so that the
   confidence is right on the held-out fold, which the cross-validation model of the student, trained
   without that fold, predicts.

Only `keras.ops` inside the graph, so that TensorFlow on a CPU and JAX on a GPU train alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from facial_keypoints.crops import warp_image
from facial_keypoints.files import atomic_path, write_text
from facial_keypoints.models.landmark import STUDENT, NetworkConfig, Stage, build_network
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.training.augment import AugmentConfig, Augmenter, apply_affine, warp
from facial_keypoints.training.landmark import apply_calibration, calibrate
from facial_keypoints.training.losses import (
    distance_px,
    laplace_nll,
    pseudo_huber,
    weighted_mean,
)
from facial_keypoints.types import CropTransform, FaceDataset
from references.collection import fold_numbers, set_names, style_numbers, usual_crops

__all__ = [
    "GENTLE",
    "TEACHER",
    "DefaultConfig",
    "FitConfig",
    "Ridge",
    "Targets",
    "blend_targets",
    "fit_network",
    "label_targets",
    "measure_offsets",
    "predict_views",
    "refit_last_layer",
    "train_default",
]

TEACHER = NetworkConfig(
    stages=(
        Stage("res", 64, 1, stride=1),
        Stage("res", 96, 2),
        Stage("res", 192, 3),
        Stage("res", 384, 2),
    ),
    stem_channels=48,
    stem_kernel=5,
    stem_stride=2,
    pool_channels=128,
    dropout=0.2,
)
"""About 8 million parameters; only ever used to make targets."""

GENTLE = AugmentConfig(
    gentle=0.7,
    gentle_angle=8.0,
    gentle_scale=1.06,
    gentle_shift=2.0,
    angle=14.0,
    scale=1.13,
    shift=4.0,
    wide=0.05,
    light=0.5,
    blur=0.15,
    low_resolution=0.1,
    noise=0.25,
    jpeg=0.15,
    occlusion=0.12,
)
"""Views as crops come in use: a small network gains from spending itself on those alone, at the end."""

_PLAIN = AugmentConfig(
    gentle=1.0,
    gentle_angle=6.0,
    gentle_scale=1.06,
    gentle_shift=2.0,
    angle=12.0,
    scale=1.12,
    shift=4.0,
    wide=0.0,
    light=0.0,
    blur=0.0,
    low_resolution=0.0,
    noise=0.0,
    jpeg=0.0,
    occlusion=0.0,
)
"""Views without changed light or noise, for the last layer: the features before it can cope with those."""

_SHARE = {
    "kaggle-a": 0.10,
    "kaggle-b": 0.24,
    "photos": 0.10,
    "ytf": 0.14,
    "helen_afw": 0.14,
    "mtfl": 0.25,
    "webmorph": 0.03,
}
"""How often faces of each set are drawn: neither by their number nor all sets alike."""

_LABEL_SHARE = {
    "kaggle-a": (0.6, 3.0),
    "kaggle-b": (0.3, 4.5),
    "photos": (0.25, 5.0),
    "ytf": (0.5, 6.0),
    "helen_afw": (0.7, 6.0),
    "mtfl": (0.4, 5.0),
    "webmorph": (0.6, 4.0),
}
"""Share of the label in a target, by how noisy a set's labels are, and the distance from the teachers
in pixels beyond which the share sinks; at twice that distance it is 0."""

FloatMap = NDArray[np.float32]


@dataclass(frozen=True)
class Targets:
    """What a network should answer for each face, in source pixels.

    Args:
        xy: (N, S, K, 2) finite everywhere; fillers where the weight is 0.
        weight: (N, S, K) weight of each point in the loss.
        offset_x: (N, S) pixels by which labels of a style sit to the right of where a mirror would
            put them. Annotators' files count pixels from 1 or lose half a pixel in resizing; a
            mirrored image must keep that offset, or the network learns the mean of both, without it.
    """

    xy: FloatMap
    weight: FloatMap
    offset_x: FloatMap


@dataclass(frozen=True)
class FitConfig:
    """How one network is trained.

    Args:
        steps: Optimiser steps; the rate follows a cosine to zero over them.
        max_seconds: Ends the cosine early, so that a rented machine is left in time; 0 for never.
        batch_size: Faces a step.
        learning_rate: Peak rate of AdamW.
        weight_decay: Its decay; biases and normalisation are left out.
        huber_px: Where the loss changes from square to linear, pixels.
        scale_weight: Share of the error-size loss.
        mixed_bfloat16: Compute in bfloat16, weights in float32.
        seed: Of the weights, the views and the order of faces.
        augment: How far views stray.
    """

    steps: int = 20_000
    max_seconds: float = 0.0
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    huber_px: float = 1.0
    scale_weight: float = 0.2
    mixed_bfloat16: bool = False
    seed: int = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)


class _Trainer(keras.Model):  # type: ignore[misc]
    """Takes row numbers, makes views on the device, returns the loss of each batch."""

    def __init__(
        self, net: keras.Model, faces: FaceDataset, targets: Targets, config: FitConfig
    ) -> None:
        super().__init__(name="trainer")
        self.net, self.config = net, config
        self.size = net.input_shape[1]
        self.augmenter = Augmenter(config.augment, self.size, KAGGLE15.swap, config.seed + 1)
        centre, slack, fixed = usual_crops(faces)

        def hold(name: str, value: NDArray[Any]) -> Any:
            # Variables, not constants: a graph must not carry half a gigabyte of images.
            variable = self.add_weight(
                name=name, shape=value.shape, dtype=str(value.dtype), trainable=False,
                initializer="zeros", autocast=False,
            )  # fmt: skip
            variable.assign(value)
            return variable

        self.held = {
            "images": hold("images", faces.images[..., 0]),
            "xy": hold("xy", targets.xy.astype(np.float32)),
            "weight": hold("weight", targets.weight.astype(np.float32)),
            "offset_x": hold("offset_x", targets.offset_x.astype(np.float32)),
            "centre": hold("centre", centre.astype(np.float32)),
            "slack": hold("slack", slack.astype(np.float32)),
            "fixed": hold("fixed", fixed.astype(np.float32)),
        }

    def views(self, index: Any) -> tuple[Any, Any, Any]:
        """Views ``(B, H, W, 1)``, points ``(B, S, K, 2)`` and weights for rows ``index``."""
        row = {
            name: ops.take(ops.convert_to_tensor(v), index, axis=0) for name, v in self.held.items()
        }
        matrix, flip = self.augmenter.geometry(row["centre"], row["slack"], row["fixed"])
        images = self.augmenter.appearance(warp(row["images"], matrix, self.size))
        shift = -2.0 * flip[:, None] * row["offset_x"]
        xy = row["xy"] + ops.stack([shift, ops.zeros_like(shift)], axis=-1)[:, :, None]
        xy = apply_affine(xy, matrix, flip, KAGGLE15.swap)
        partner = ops.take(row["weight"], np.asarray(KAGGLE15.swap, "int32"), axis=2)
        weight = ops.where(flip[:, None, None] > 0.5, partner, row["weight"])
        # A point that left the view counts as not labelled.
        inside = ops.all(ops.logical_and(xy > -2.0, xy < self.size + 1.0), axis=-1)
        return images[..., None], xy, weight * ops.cast(inside, "float32")

    def call(self, index: Any, training: bool = False) -> Any:
        """Loss ``(B,)`` (one number repeated) of the rows ``index`` ``(B,)``."""
        images, xy, weight = self.views(ops.reshape(index, (-1,)))
        out = self.net(images, training=training)
        distance = distance_px(xy, out[..., :2])
        loss = weighted_mean(pseudo_huber(distance, self.config.huber_px), weight)
        size = weighted_mean(laplace_nll(ops.stop_gradient(distance), out[..., 2]), weight)
        total = loss + self.config.scale_weight * size
        return ops.zeros_like(weight[:, 0, 0]) + total

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
    """Row numbers drawn by weight, ``steps`` batches an epoch, never the same twice."""

    def __init__(self, probability: NDArray[np.float64], batch: int, steps: int, seed: int) -> None:
        super().__init__()
        self.cumulative = np.cumsum(probability / probability.sum())
        self.batch, self.steps = batch, steps
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, _: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        draw = np.searchsorted(self.cumulative, self.rng.random(self.batch), side="right")
        rows = np.minimum(draw, len(self.cumulative) - 1).astype(np.int32)
        return rows, np.zeros(self.batch, np.float32)


class _Schedule(keras.callbacks.Callback):  # type: ignore[misc]
    """Warm-up, then a cosine to zero, over steps or wall-clock time, whichever is spent first."""

    def __init__(
        self, config: FitConfig, epochs: int, report: Callable[[str], None] | None
    ) -> None:
        super().__init__()
        self.config, self.epochs, self.report = config, epochs, report
        self.start = 0.0

    def progress(self, epoch: int) -> float:
        done = epoch / self.epochs
        if self.config.max_seconds and self.start:
            done = max(done, (time.monotonic() - self.start) / self.config.max_seconds)
        return done

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # The first epoch holds compilation, which is no part of the schedule's time.
        if epoch == 1:
            self.start = time.monotonic()
        done = min(self.progress(epoch), 1.0)
        warm = min(1.0, (epoch + 1) / max(1.0, 0.02 * self.epochs + 1.0))
        rate = self.config.learning_rate * warm * (0.5 + 0.5 * np.cos(np.pi * done)) + 1e-7
        self.model.optimizer.learning_rate.assign(rate)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.report is not None:
            spent = time.monotonic() - self.start if self.start else 0.0
            self.report(
                f"epoch {epoch + 1} loss {(logs or {}).get('loss', np.nan):.4f} {spent:.0f}s"
            )
        if self.progress(epoch + 1) >= 1.0:
            self.model.stop_training = True


def fit_network(
    network: NetworkConfig,
    faces: FaceDataset,
    targets: Targets,
    probability: NDArray[np.float64],
    config: FitConfig,
    *,
    steps_per_epoch: int = 50,
    initial: keras.Model | None = None,
    report: Callable[[str], None] | None = None,
) -> keras.Model:
    """Train one network on random views.

    Args:
        network: Its shape.
        faces: N faces.
        targets: What to answer for them.
        probability: (N,) how often each face is drawn, 0 for held-out faces; need not sum to 1.
        config: How.
        steps_per_epoch: How often the rate moves and ``report`` speaks.
        initial: Weights to start from instead of random ones.
        report: Told one line an epoch.

    Returns:
        The trained network, computing in float32.
    """
    keras.utils.set_random_seed(config.seed)
    if config.mixed_bfloat16:
        keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        net = build_network(network)
        if initial is not None:
            net.set_weights(initial.get_weights())
        trainer = _Trainer(net, faces, targets, config)
        optimizer = keras.optimizers.AdamW(
            config.learning_rate, weight_decay=config.weight_decay, clipnorm=5.0
        )
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        trainer.compile(optimizer=optimizer, jit_compile=keras.backend.backend() == "jax")
        epochs = -(-config.steps // steps_per_epoch)
        rows = _Rows(probability, config.batch_size, steps_per_epoch, config.seed)
        trainer.fit(
            rows, epochs=epochs, verbose=0, callbacks=[_Schedule(config, epochs, report)]
        )  # fmt: skip
        weights = net.get_weights()
    finally:
        keras.config.set_dtype_policy("float32")
    plain = build_network(network)
    plain.set_weights(weights)
    return plain


def label_targets(faces: FaceDataset, weight: FloatMap | None = None) -> Targets:
    """The labels alone: each face answers only in its own style and only where it is labelled.

    Args:
        faces: N faces.
        weight: (N, K) trust in each label, 1 when left out.
    """
    n, s, k = len(faces), len(KAGGLE15.styles), KAGGLE15.num_keypoints
    xy = np.zeros((n, s, k, 2), np.float32)
    trust = np.zeros((n, s, k), np.float32)
    labelled, style = faces.keypoints.labeled, style_numbers(faces)
    rows = np.arange(n)
    xy[rows, style] = np.nan_to_num(faces.keypoints.xy)
    trust[rows, style] = labelled if weight is None else labelled * weight
    return Targets(xy, trust, np.zeros((n, s), np.float32))


def blend_targets(
    faces: FaceDataset,
    teacher_xy: FloatMap,
    label_share: FloatMap,
    offset_x: FloatMap,
    unlabelled_weight: float,
) -> Targets:
    """The teachers' answers in every style, moved towards the label where there is one.

    Args:
        faces: N faces.
        teacher_xy: (N, S, K, 2) source pixels.
        label_share: (N, K) share of the label in its own style's target, 0 where the teachers contradict it.
        offset_x: (N, S) see :class:`Targets`.
        unlabelled_weight: Loss weight of points that no set labels in that style.
    """
    xy = teacher_xy.astype(np.float32).copy()
    rows, style = np.arange(len(faces)), style_numbers(faces)
    labelled = faces.keypoints.labeled
    share = (labelled * label_share)[..., None].astype(np.float32)
    own = xy[rows, style]
    xy[rows, style] = own + share * (np.nan_to_num(faces.keypoints.xy) - own * labelled[..., None])
    weight = np.full(xy.shape[:3], unlabelled_weight, np.float32)
    for s in range(xy.shape[1]):
        seen = labelled[style == s].any(axis=0)
        weight[:, s, seen] = 1.0
    return Targets(xy, weight, offset_x)


def predict_views(
    net: keras.Model,
    faces: FaceDataset,
    index: NDArray[np.intp],
    *,
    centre_xy: FloatMap | None = None,
    views: int = 1,
    scale: float = 1.0,
    threads: int = 8,
) -> tuple[FloatMap, FloatMap]:
    """A network's mean answer over ``views`` fixed views of each face.

    Args:
        net: The network.
        faces: N faces.
        index: M rows to answer for.
        centre_xy: (N, 2) source pixel in the middle of the view; each set's usual crop if left out.
        views: 1: the crop; 2: and mirrored; 8: and three moved and rotated pairs.
        scale: Input pixels per source pixel at input size 96.
        threads: For cutting the views.

    Returns:
        (M, S, K, 2) source pixels, and (M, S, K) mean log scale.
    """
    size = net.input_shape[1]
    middle = usual_crops(faces)[0] if centre_xy is None else centre_xy
    moves = [(0.0, 1.0, 0.0, 0.0), (10.0, 1.06, 2.0, -1.5), (-10.0, 0.94, -2.0, 1.5), (4.0, 0.9, 0.0, 3.0)]  # fmt: skip
    total = np.zeros((len(index), len(KAGGLE15.styles), KAGGLE15.num_keypoints, 3), np.float64)
    chosen = [(*moves[v // 2], v % 2) for v in range(views)]
    for angle, zoom, dx, dy, mirrored in chosen:
        a = np.deg2rad(angle)
        s = scale * zoom * size / 96.0
        sign = -1.0 if mirrored else 1.0
        linear = np.array([[sign * np.cos(a), np.sin(a)], [-sign * np.sin(a), np.cos(a)]]) / s
        offset = middle[index] + np.array([dx, dy]) - linear.sum(axis=1) * (size - 1) / 2.0

        def cut(i: int, linear: Any = linear, offset: Any = offset) -> NDArray[np.uint8]:
            to_source = CropTransform(np.column_stack([linear, offset[i]]), (size, size))
            return warp_image(faces.images[index[i]], to_source.inverse())

        with ThreadPoolExecutor(threads) as pool:
            images = np.stack(list(pool.map(cut, range(len(index)))))
        # Whole batches only: each new shape costs a compilation.
        batch = min(512, len(images))
        padded = np.pad(images, ((0, -len(images) % batch), (0, 0), (0, 0), (0, 0)), mode="edge")
        out = net.predict(padded.astype(np.float32), batch_size=batch, verbose=0)
        out = out[: len(index)]
        if mirrored:
            out = out[:, :, list(KAGGLE15.swap)]
        total[..., :2] += out[..., :2] @ linear.T + offset[:, None, None, :]
        total[..., 2] += out[..., 2]
    total /= len(chosen)
    return total[..., :2].astype(np.float32), total[..., 2].astype(np.float32)


def measure_offsets(faces: FaceDataset, teacher_xy: FloatMap) -> FloatMap:
    """How far each style's labels sit to the right of where a network that mirroring taught predicts them.

    A network trained on mirrored faces, averaged over mirrored views, cannot tell left from right, so
    the median of label minus answer is the offset. Measured per set; a set that lacks a style takes the
    mean of those that have it.

    Args:
        faces: N faces.
        teacher_xy: (N, S, K, 2) such answers, source pixels.

    Returns:
        (N, S) pixels.
    """
    style, sets = style_numbers(faces), set_names(faces)
    own = teacher_xy[np.arange(len(faces)), style]
    dx = faces.keypoints.xy[..., 0] - own[..., 0]
    offsets = np.zeros(teacher_xy.shape[:2], np.float32)
    for s in range(teacher_xy.shape[1]):
        of_style = style == s
        values = {name: float(np.nanmedian(dx[of_style & (sets == name)])) for name in np.unique(sets[of_style])}  # fmt: skip
        if values:
            offsets[:, s] = np.mean(list(values.values()))
            for name, value in values.items():
                offsets[sets == name, s] = value
    return offsets


def _label_share(faces: FaceDataset, teacher_xy: FloatMap) -> FloatMap:
    """(N, K) how much each label counts in its target."""
    own = teacher_xy[np.arange(len(faces)), style_numbers(faces)]
    gap = np.nan_to_num(np.linalg.norm(faces.keypoints.xy - own, axis=-1))
    shares = [_LABEL_SHARE.get(str(s), (0.5, 5.0)) for s in set_names(faces)]
    share, limit = np.array(shares).T[..., None]
    return np.asarray(share * np.clip(2.0 - gap / limit, 0.0, 1.0), np.float32)


def _probability(faces: FaceDataset, allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N,) how often each face is drawn."""
    p, sets = np.zeros(len(faces)), set_names(faces)
    for name in np.unique(sets):
        rows = (sets == name) & allowed
        if rows.any():
            p[rows] = _SHARE.get(str(name), 0.1) / rows.sum()
    return p


def refit_last_layer(
    net: keras.Model,
    faces: FaceDataset,
    offset_x: FloatMap,
    index: NDArray[np.intp],
    *,
    views: int = 8,
    ridge: float = 0.01,
    seed: int = 0,
) -> None:
    """Fit each style's own part of the last layer to the labels, in closed form.

    Ridge regression of what the network misses on its features, over gently moved views. A group
    counts by the root of its number of images: style A is many images of few persons. The network
    is changed in place.

    Args:
        net: The network.
        faces: N faces.
        offset_x: (N, S) see :class:`Targets`.
        index: Rows to fit on.
        views: Views of each face.
        ridge: Strength of the pull towards no change, in mean squares of features.
        seed: Of the views.
    """
    size, k = net.input_shape[1], KAGGLE15.num_keypoints
    model = keras.Model(net.input, [net.get_layer("head").input, net.output])
    targets = label_targets(faces)
    targets = Targets(targets.xy, targets.weight, offset_x)
    viewer = _Trainer(net, faces, targets, FitConfig(augment=_PLAIN, seed=seed))
    kernel, bias = (np.array(w) for w in net.get_layer("head").get_weights())
    styles = style_numbers(faces)[index]
    for style in np.unique(styles):
        rows = index[styles == style]
        _, group, count = np.unique(faces.groups[rows], return_inverse=True, return_counts=True)
        share = 1.0 / np.sqrt(count[group])
        batch = min(256, len(rows))
        fit = Ridge()
        for _ in range(views):
            for start in range(0, len(rows), batch):
                part = slice(start, start + batch)
                chosen = np.resize(rows[part], batch).astype(np.int32)  # one shape, one compilation
                images, xy, weight = viewer.views(ops.convert_to_tensor(chosen))
                features, answers = (ops.convert_to_numpy(t) for t in model(images, training=False))
                gap = ops.convert_to_numpy(xy)[:, style] - answers[:, style, :, :2]
                missing = gap * ops.convert_to_numpy(weight)[:, style, :, None]
                n = len(rows[part])
                fit.add(features[:n], missing[:n].reshape(n, -1), share[part])
        change, constant = fit.solve(ridge)
        seen = np.repeat(faces.keypoints.labeled[rows].any(axis=0), 2)  # other points stay
        columns = slice(2 * k * (1 + style), 2 * k * (2 + style))
        unit = 4.0 * size / 96.0  # what a head number of 1 moves a style's own point by
        kernel[:, columns] += change * seen / unit
        bias[columns] += constant * seen / unit
    net.get_layer("head").set_weights([kernel, bias])


class Ridge:
    """Weighted ridge regression ``y = x @ slope + constant`` from sums, so that rows need not be kept."""

    def __init__(self) -> None:
        self.total = 0.0
        self.x: Any = 0.0
        self.y: Any = 0.0
        self.xx: Any = 0.0
        self.xy: Any = 0.0

    def add(self, x: NDArray[Any], y: NDArray[Any], weight: NDArray[np.float64]) -> None:
        """Count rows ``x`` (N, F) and ``y`` (N, T) with their weights (N,)."""
        x, y = x.astype(np.float64), y.astype(np.float64)
        w = weight[:, None]
        self.total += float(weight.sum())
        self.x, self.y = self.x + (w * x).sum(0), self.y + (w * y).sum(0)
        self.xx, self.xy = self.xx + (w * x).T @ x, self.xy + (w * x).T @ y

    def solve(self, ridge: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """``slope`` (F, T) and ``constant`` (T,); the constant is not pulled."""
        x, y = self.x / self.total, self.y / self.total
        covariance = self.xx / self.total - np.outer(x, x)
        covariance[np.diag_indices_from(covariance)] += ridge
        slope = np.linalg.solve(covariance, self.xy / self.total - np.outer(x, y))
        return slope, y - x @ slope


@dataclass(frozen=True)
class DefaultConfig:
    """How the shipped detector is made.

    Args:
        teacher_folds: One teacher is trained without each of these folds.
        held_out_fold: The fold that the cross-validation model never sees. The figures come from it,
            so its teacher must not have seen it either.
        teacher: Fit of each teacher.
        student: Fit of the student on far-strayed views.
        polish: Its second fit on gentle views.
        teacher_network: Shape of the teachers.
        student_network: Shape of the student.
        refit_views: Views of each face that its last layer is fitted to in the end.
    """

    teacher_folds: tuple[int, ...] = (0, 1, 2, 3)
    held_out_fold: int = 1
    teacher: FitConfig = field(default_factory=lambda: FitConfig(steps=13_000, batch_size=256))
    student: FitConfig = field(
        default_factory=lambda: FitConfig(steps=27_000, batch_size=1024, learning_rate=4e-3, seed=1)
    )
    polish: FitConfig = field(
        default_factory=lambda: FitConfig(
            steps=1_000, batch_size=128, learning_rate=5e-4, seed=5, augment=GENTLE
        )
    )
    teacher_network: NetworkConfig = TEACHER
    student_network: NetworkConfig = STUDENT
    refit_views: int = 8

    def __post_init__(self) -> None:
        if self.held_out_fold not in self.teacher_folds:
            raise ValueError(
                f"held_out_fold {self.held_out_fold} needs a teacher that has not seen it: add it to "
                f"teacher_folds {self.teacher_folds}."
            )


def _kept_network(
    file: Path,
    shape: NetworkConfig,
    fit: Callable[[Callable[[str], None]], keras.Model],
    name: str,
    say: Callable[[str], None],
) -> keras.Model:
    """The network whose weights are in ``file``; it is trained and kept there if they are not."""
    if file.is_file():
        net = build_network(shape)
        net.load_weights(file)
        return net
    say(f"training {name}")
    net = fit(lambda line: say(f"{name}: {line}"))
    with atomic_path(file) as temporary:
        net.save_weights(temporary)
    return net


def train_default(
    faces: FaceDataset,
    directory: Path,
    config: DefaultConfig | None = None,
    *,
    threads: int = 8,
    report: Callable[[str], None] | None = None,
) -> keras.Model:
    """Train the shipped detector from labelled faces; called again, it resumes.

    Every finished network is kept in ``directory``, so an interrupted training loses at most the
    network that it was at.

    Args:
        faces: What :func:`references.collection.load_collection` read.
        directory: Where finished networks and answers are kept.
        config: How; the shipped model's own when left out.
        threads: For cutting views.
        report: Told one line an epoch.

    Returns:
        The student, answering ``(B, S, K, 3)``.
    """
    config, say = config or DefaultConfig(), report or (lambda _: None)
    directory.mkdir(parents=True, exist_ok=True)
    rows, folds = np.arange(len(faces)), fold_numbers(faces)

    def network(
        name: str, shape: NetworkConfig, fit: Callable[[Callable[[str], None]], keras.Model]
    ) -> keras.Model:
        return _kept_network(directory / f"{name}.weights.h5", shape, fit, name, say)

    answers = {}
    for fold in config.teacher_folds:
        file = directory / f"teacher{fold}.npy"
        if not file.is_file():
            fit = replace(config.teacher, seed=config.teacher.seed + fold)
            chance = _probability(faces, folds != fold)
            teacher = network(
                f"teacher{fold}",
                config.teacher_network,
                lambda tell, fit=fit, chance=chance: fit_network(  # type: ignore[misc]
                    config.teacher_network, faces, label_targets(faces), chance, fit, report=tell
                ),
            )
            say(f"predicting with teacher{fold}")
            xy, _ = predict_views(teacher, faces, rows, views=8, threads=threads)
            with atomic_path(file) as temporary:
                np.save(temporary, xy)
        answers[fold] = np.load(file)

    def student(name: str, teacher_xy: FloatMap, allowed: NDArray[np.bool_]) -> keras.Model:
        offset = measure_offsets(faces.subset(np.flatnonzero(allowed)), teacher_xy[allowed])
        every = np.zeros((len(faces), offset.shape[1]), np.float32) + offset.mean(axis=0)
        every[allowed] = offset
        shifted = teacher_xy.copy()
        shifted[..., 0] += every[:, :, None]
        targets = blend_targets(faces, shifted, _label_share(faces, shifted), every, 0.1)
        chance = _probability(faces, allowed)
        shape = config.student_network
        rough = network(
            f"{name}-rough",
            shape,
            lambda tell: fit_network(shape, faces, targets, chance, config.student, report=tell),
        )
        net = network(
            name,
            shape,
            lambda tell: fit_network(
                shape, faces, targets, chance, config.polish, initial=rough, report=tell
            ),
        )
        say(f"fitting the last layer of {name}")
        refit_last_layer(net, faces, every, np.flatnonzero(allowed), views=config.refit_views)
        return net

    seen = folds != config.held_out_fold
    validated = student("cross_validation", answers[config.held_out_fold], seen)
    held = np.flatnonzero(~seen)
    middle = np.full((len(faces), 2), (faces.images.shape[1] - 1) / 2.0, np.float32)
    xy, log_scale = predict_views(validated, faces, held, centre_xy=middle, threads=threads)
    calibration = calibrate(
        np.concatenate([xy, log_scale[..., None]], -1),
        faces.keypoints.xy[held],
        style_numbers(faces)[held],
        max(config.student_network.input_size),
    )
    # To measure it on new faces: the cross-validation model, and the faces that it has not seen.
    apply_calibration(validated, calibration)
    with atomic_path(directory / "cross_validation.keras") as temporary:
        validated.save(temporary)
    write_text(directory / "held_out.txt", "".join(f"{i}\n" for i in faces.sample_ids[held]))
    net = student("student", np.mean(list(answers.values()), axis=0), np.ones(len(faces), bool))
    apply_calibration(net, calibration)
    return net
