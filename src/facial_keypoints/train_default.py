"""Trains the detector that the package ships: large teachers, cleaned labels, one small student.

1. *Teachers*: a large network per fold learns from every labelled point of the other folds. Each
   then answers for the faces that it never saw (out-of-fold), so labels that are plainly wrong
   stand out and an honest error estimate falls out for free.
2. *Targets*: for every face and every label style, the mean answer of the teachers over mirrored
   and slightly moved views, blended with the label where there is one and it is believable.
3. *Student*: the small network of the package learns those dense targets from heavily changed views.

Only `keras.ops` inside the graph, so that TensorFlow on a CPU and JAX on a GPU train alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import cv2
import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from facial_keypoints.data.augment import AugmentConfig, Augmenter, apply_affine, warp
from facial_keypoints.data.collection import FaceCollection
from facial_keypoints.losses import distance_px, laplace_nll, pseudo_huber, weighted_mean
from facial_keypoints.models.landmark import NetworkConfig, Stage, build_network
from facial_keypoints.schemas import KAGGLE15

__all__ = [
    "STUDENT",
    "STUDENT_INT8",
    "TEACHER",
    "FitConfig",
    "Targets",
    "blend_targets",
    "fit_network",
    "label_targets",
    "predict_views",
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

STUDENT = NetworkConfig(
    stages=(Stage("res", 64, 2), Stage("res", 128, 1)), stem_channels=32, pool_channels=48
)
"""29 million multiply-adds: answers in float32 in under half a millisecond on one thread."""

STUDENT_INT8 = NetworkConfig(
    stages=(Stage("res", 32, 1, stride=1), Stage("res", 64, 3), Stage("res", 128, 2)),
    stem_channels=32,
    pool_channels=64,
)
"""61 million multiply-adds: answers as fast once its convolutions are in 8-bit integers."""

FloatMap = NDArray[np.float32]


@dataclass(frozen=True)
class Targets:
    """What a network should answer for each face, in source pixels.

    Args:
        xy: (N, S, K, 2) finite everywhere; fillers where the weight is 0.
        weight: (N, S, K) weight of each point in the loss.
        offset_x: (N, S) pixels by which labels of a style sit to the right of where a mirror would
            put them. Annotators' files count pixels from 1 or lose half a pixel in resizing; a
            mirrored picture must keep that offset, or mirroring averages it away.
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
        huber_px: Where the loss turns from square to linear, pixels.
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
        self, net: keras.Model, faces: FaceCollection, targets: Targets, config: FitConfig
    ) -> None:
        super().__init__(name="trainer")
        self.net, self.config = net, config
        self.size = net.input_shape[1]
        self.augmenter = Augmenter(config.augment, self.size, KAGGLE15.swap, config.seed + 1)
        centre, slack, fixed = faces.framing()

        def hold(name: str, value: NDArray[Any]) -> Any:
            # Variables, not constants: a graph must not carry half a gigabyte of pictures.
            variable = self.add_weight(
                name=name, shape=value.shape, dtype=str(value.dtype), trainable=False,
                initializer="zeros", autocast=False,
            )  # fmt: skip
            variable.assign(value)
            return variable

        self.held = {
            "images": hold("images", faces.images),
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
    faces: FaceCollection,
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


def label_targets(faces: FaceCollection, weight: FloatMap | None = None) -> Targets:
    """The labels alone: each face answers only in its own style and only where it is labelled.

    Args:
        faces: N faces.
        weight: (N, K) trust in each label, 1 when left out.
    """
    n, s, k = len(faces), len(KAGGLE15.styles), KAGGLE15.num_keypoints
    xy = np.zeros((n, s, k, 2), np.float32)
    trust = np.zeros((n, s, k), np.float32)
    labelled = ~np.isnan(faces.xy[..., 0])
    rows = np.arange(n)
    xy[rows, faces.style] = np.nan_to_num(faces.xy)
    trust[rows, faces.style] = labelled if weight is None else labelled * weight
    return Targets(xy, trust, np.zeros((n, s), np.float32))


def blend_targets(
    faces: FaceCollection,
    teacher_xy: FloatMap,
    label_share: FloatMap,
    offset_x: FloatMap,
    unlabelled_weight: float,
) -> Targets:
    """The teachers' answers in every style, moved towards the label where there is one.

    Args:
        faces: N faces.
        teacher_xy: (N, S, K, 2) source pixels.
        label_share: (N, K) share of the label in its own style's target, 0 for a disbelieved one.
        offset_x: (N, S) see :class:`Targets`.
        unlabelled_weight: Loss weight of points that no set labels in that style.
    """
    xy = teacher_xy.astype(np.float32).copy()
    rows = np.arange(len(faces))
    labelled = ~np.isnan(faces.xy[..., 0])
    share = (labelled * label_share)[..., None].astype(np.float32)
    own = xy[rows, faces.style]
    xy[rows, faces.style] = own + share * (np.nan_to_num(faces.xy) - own * labelled[..., None])
    weight = np.full(xy.shape[:3], unlabelled_weight, np.float32)
    for s in range(xy.shape[1]):
        seen = labelled[faces.style == s].any(axis=0)
        weight[:, s, seen] = 1.0
    return Targets(xy, weight, offset_x)


def predict_views(
    net: keras.Model,
    faces: FaceCollection,
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
        centre_xy: (N, 2) source pixel in the middle of the view; each set's framing if left out.
        views: 1: as framed; 2: and mirrored; 8: and three moved and turned pairs.
        scale: Input pixels per source pixel at input size 96.
        threads: For cutting the views.

    Returns:
        (M, S, K, 2) source pixels, and (M, S, K) mean log scale.
    """
    size = net.input_shape[1]
    middle = faces.framing()[0] if centre_xy is None else centre_xy
    moves = [(0.0, 1.0, 0.0, 0.0), (10.0, 1.06, 2.0, -1.5), (-10.0, 0.94, -2.0, 1.5), (4.0, 0.9, 0.0, 3.0)]  # fmt: skip
    total = np.zeros((len(index), len(KAGGLE15.styles), KAGGLE15.num_keypoints, 3), np.float64)
    plan = [(*moves[v // 2], v % 2) for v in range(views)]
    for angle, zoom, dx, dy, mirrored in plan:
        a = np.deg2rad(angle)
        s = scale * zoom * size / 96.0
        sign = -1.0 if mirrored else 1.0
        linear = np.array([[sign * np.cos(a), np.sin(a)], [-sign * np.sin(a), np.cos(a)]]) / s
        offset = middle[index] + np.array([dx, dy]) - linear.sum(axis=1) * (size - 1) / 2.0

        def cut(i: int, linear: Any = linear, offset: Any = offset) -> NDArray[np.uint8]:
            matrix = np.column_stack([linear, offset[i]])
            return np.asarray(
                cv2.warpAffine(
                    faces.images[index[i]],
                    matrix,
                    (size, size),
                    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                    borderMode=cv2.BORDER_REPLICATE,
                )
            )

        with ThreadPoolExecutor(threads) as pool:
            images = np.stack(list(pool.map(cut, range(len(index)))))
        # Whole batches only: each new shape costs a compilation.
        batch = min(512, len(images))
        padded = np.pad(images, ((0, -len(images) % batch), (0, 0), (0, 0)), mode="edge")
        out = net.predict(padded[..., None].astype(np.float32), batch_size=batch, verbose=0)
        out = out[: len(index)]
        if mirrored:
            out = out[:, :, list(KAGGLE15.swap)]
        total[..., :2] += out[..., :2] @ linear.T + offset[:, None, None, :]
        total[..., 2] += out[..., 2]
    total /= len(plan)
    return total[..., :2].astype(np.float32), total[..., 2].astype(np.float32)
