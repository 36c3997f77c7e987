"""What the recipe ``landmark`` adds to a training: random views, targets by label style, confidence.

Views are cut with OpenCV while the network waits: on a CPU that takes a sixth of the time that
:mod:`facial_keypoints.training.augment` takes, which is made for a GPU that holds all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import keras
import numpy as np
from numpy.typing import NDArray

from facial_keypoints.models.codec import CONFIDENCE_RADIUS, confidence_within
from facial_keypoints.models.landmark import STUDENT, build_network, with_head
from facial_keypoints.models.spec import ModelSpec
from facial_keypoints.models.tuned import backbone, read_head
from facial_keypoints.training.batches import TrainingBatches
from facial_keypoints.types import FaceDataset, FloatArray, ImageArray, KeypointSchema

__all__ = [
    "ViewBatches",
    "apply_calibration",
    "build_landmark",
    "calibrate",
    "change_light",
    "copy_head",
    "draw_view",
    "keep_styles",
    "known_styles",
    "refit_last_layer",
    "style_numbers",
    "styled_targets",
]

_REFIT_PENALTY = 10.0
"""Pull of the last layer's fit towards no change, in mean squares of the features."""


def known_styles(faces: FaceDataset) -> tuple[str, ...]:
    """The label styles of the faces, those of the schema first; one empty name if they have none."""
    present, order = set(faces.styles.tolist()), faces.schema.styles
    return (*(s for s in order if s in present), *sorted(present - set(order)))


def style_numbers(faces: FaceDataset, styles: Sequence[str]) -> NDArray[np.intp]:
    """(N,) place of each face's label style among ``styles``; 0 for a style that is not there."""
    places = {style: number for number, style in enumerate(styles)}
    return np.array([places.get(style, 0) for style in faces.styles.tolist()], np.intp)


def build_landmark(
    faces: FaceDataset, styles: Sequence[str], base: tuple[keras.Model, ModelSpec] | None = None
) -> keras.Model:
    """The network to train on the faces.

    Args:
        faces: Training faces: their schema, image size and mean points count.
        styles: Label styles, in the order of the S axis; a name may repeat.
        base: A trained network of this family with its description: its backbone is taken, and what
            its head knows of the keypoints. Random weights when left out.

    Returns:
        As :func:`facial_keypoints.models.landmark.build_network`.
    """
    config = replace(
        STUDENT,
        input_size=faces.image_size,
        channels=int(faces.images.shape[3]),
        styles=tuple(styles),
        keypoints=faces.schema.num_keypoints,
        mean_xy=np.nanmean(faces.keypoints.xy, axis=0).round(2).tolist(),
    )
    if base is None:
        return build_network(config)
    model = with_head(backbone(base[0]), config)
    copy_head(model, faces.schema, styles, *base)
    return model


def copy_head(
    model: keras.Model,
    schema: KeypointSchema,
    styles: Sequence[str],
    base: keras.Model,
    base_spec: ModelSpec,
) -> None:
    """Let a new head answer as that of its base for the keypoints that both have, in place.

    A style that the base lacks starts from the mean of the base's styles.
    """
    old, layer = read_head(base), model.get_layer("points")
    s, k, scale = len(styles), schema.num_keypoints, layer.input_size / 96.0
    names = base_spec.schema.keypoint_names
    new = [i for i, name in enumerate(schema.keypoint_names) if name in names]
    known = [names.index(schema.keypoint_names[i]) for i in new]
    rest = np.append(np.array(layer.mean_xy), np.zeros((k, 1)), axis=1)[new]
    head = model.get_layer("head")
    weights = [np.array(w) for w in head.get_weights()]
    for array, answer, start in zip(
        weights, (old.kernel, old.bias), (np.zeros_like(rest), rest), strict=True
    ):
        theirs = answer[..., known, :] - start  # (..., S, K, 3)
        mean = theirs.mean(axis=-3)
        shared, own, log_scale = (
            part.reshape(*array.shape[:-1], *shape)
            for part, shape in zip(
                np.split(array, [2 * k, 2 * k + 2 * k * s], axis=-1),
                ((k, 2), (s, k, 2), (s, k)),
                strict=True,
            )
        )
        shared[..., new, :] = mean[..., :2] / (8.0 * scale)
        for number, style in enumerate(styles):
            mine = mean
            if style in base_spec.styles:
                mine = theirs[..., base_spec.styles.index(style), :, :]
            own[..., number, new, :] = (mine - mean)[..., :2] / (4.0 * scale)
            log_scale[..., number, new] = mine[..., 2]
        flat = [part.reshape(*array.shape[:-1], -1) for part in (shared, own, log_scale)]
        array[...] = np.concatenate(flat, axis=-1)
    head.set_weights(weights)


def keep_styles(model: keras.Model, count: int) -> keras.Model:
    """The same network with its first ``count`` label styles only, without those of mirrored faces."""
    s, k = model.output_shape[1:3]
    layer = model.get_layer("points")
    config = replace(
        STUDENT,
        input_size=model.input_shape[1:3],
        styles=("",) * count,
        keypoints=k,
        mean_xy=layer.mean_xy,
    )
    kept = with_head(backbone(model), config)
    scales = 2 * k * (1 + s)  # where the log scales begin
    columns = np.r_[0 : 2 * k * (1 + count), scales : scales + k * count]
    kept.get_layer("head").set_weights(
        [w[..., columns] for w in model.get_layer("head").get_weights()]
    )
    return kept


def styled_targets(
    xy: FloatArray, style: NDArray[np.intp], styles: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Labels as targets of a network that answers in every label style.

    Args:
        xy: (N, K, 2) labels in input pixels, NaN = not labelled.
        style: (N,) number of each face's style.
        styles: S.

    Returns:
        Targets (N, S, K, 2) and weights (N, S, K): 1 for a labelled point in its own style, else 0
        with a target of 0.
    """
    n, k = xy.shape[:2]
    targets = np.zeros((n, styles, k, 2), np.float32)
    weights = np.zeros((n, styles, k), np.float32)
    rows = np.arange(n)
    targets[rows, style] = np.nan_to_num(xy)
    weights[rows, style] = ~np.isnan(xy[..., 0])
    return targets, weights


def draw_view(
    image: ImageArray, flipped: bool, rng: np.random.Generator
) -> tuple[ImageArray, NDArray[np.float64]]:
    """A view of a face: turned, scaled, moved and perhaps mirrored; edges repeat.

    Args:
        image: (H, W, C) uint8.
        flipped: Whether to mirror it.
        rng: Draws the rest.

    Returns:
        The view (H, W, C) and the (2, 3) matrix from pixels of the image to those of the view.
    """
    height, width = image.shape[:2]
    angle, zoom, *move = np.clip(rng.standard_normal(4), -2.5, 2.5)
    angle, scale = np.deg2rad(10.0 * angle), np.exp(0.08 * zoom)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[-cos if flipped else cos, -sin], [-sin if flipped else sin, cos]])
    middle = np.array([width - 1, height - 1]) / 2.0
    moved = middle + np.array(move) * (0.03 * max(height, width))
    matrix = np.column_stack([linear, moved - linear @ middle])
    view = cv2.warpAffine(
        image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(view, np.uint8).reshape(image.shape), matrix


def change_light(view: ImageArray, other: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Change occlusion, light and sharpness of a view (H, W, C); ``other`` may cover a part of it."""
    height, width = view.shape[:2]
    chance = rng.random(4)
    x: NDArray[Any] = view
    if chance[0] < 0.3:  # a rectangle of grey or of another face
        x = x.copy()
        h, w = (rng.uniform(0.1, 0.45, 2) * (height, width)).astype(int)
        top, left = (rng.uniform(-0.1, 0.9, 2) * (height, width)).astype(int).clip(0)
        part = np.s_[top : top + h, left : left + w]
        x[part] = other[part] if rng.random() < 0.5 else rng.integers(256)
    if chance[1] < 0.3:  # from soft to sharpened
        soft = np.asarray(cv2.GaussianBlur(x, (0, 0), 1.5)).reshape(x.shape)
        share = rng.uniform(-0.6, 1.0)
        x = np.asarray(cv2.addWeighted(x, 1.0 - share, soft, share, 0.0)).reshape(view.shape)
    if chance[2] < 0.7:  # gamma, contrast, brightness, and a ramp from one side
        gamma, gain = np.exp(rng.uniform(-0.6, 0.6)), np.exp(rng.uniform(-0.6, 0.35))
        levels = (np.linspace(0.0, 1.0, 256) ** gamma - 0.5) * gain + 0.5 + rng.uniform(-0.2, 0.2)
        x = cv2.LUT(x, (255.0 * levels).clip(0, 255).astype(np.uint8)).reshape(view.shape)
        side, depth = rng.uniform(-np.pi, np.pi), rng.uniform(0.0, 50.0)
        ramp = (
            np.cos(side) * np.linspace(-1, 1, width)
            + np.sin(side) * np.linspace(-1, 1, height)[:, None]
        )
        x = (x + (depth * ramp)[..., None]).clip(0, 255).astype(np.uint8)
    if chance[3] < 0.3:
        noise = rng.standard_normal(x.shape, np.float32) * rng.uniform(0.0, 14.0)
        x = (x + noise).clip(0, 255).astype(np.uint8)
    return x


class ViewBatches(TrainingBatches):
    """Shuffled batches of views, targets (B, 2 S, K, 2) in input pixels and weights (B, 2 S, K).

    Mirrored faces have S styles of their own behind the others: labels of many data sets sit to the
    right of where a mirror would put them (Kaggle's style B by 1.1 px), and one output for both would
    learn the mean. A view depends on (seed, epoch, index of the batch) only. A point that left the view
    counts as not labelled.

    Args:
        dataset: Training faces.
        styles: Label styles, in the order of the S axis.
        options: Those of :class:`TrainingBatches`.
    """

    def __init__(self, dataset: FaceDataset, *, styles: Sequence[str], **options: object) -> None:
        super().__init__(dataset, **options)  # type: ignore[arg-type]
        self.styles = styles
        self.style = style_numbers(dataset, styles)

    def __getitem__(
        self, index: int
    ) -> tuple[ImageArray, NDArray[np.float32], NDArray[np.float32]]:
        picked = slice(index * self.batch_size, (index + 1) * self.batch_size)
        rows, flipped = self.order[picked], self.flipped[picked]
        rng = np.random.default_rng((self.seed, self.epoch, index))
        drawn = [
            draw_view(self.dataset.images[row], flip, rng)
            for row, flip in zip(rows, flipped, strict=True)
        ]
        views = np.stack([view for view, _ in drawn])
        matrices = np.stack([matrix for _, matrix in drawn])
        views = np.stack([change_light(v, views[i - 1], rng) for i, v in enumerate(views)])
        xy = self.dataset.keypoints.xy[rows] @ matrices[:, :, :2].transpose(0, 2, 1)
        xy = xy + matrices[:, None, :, 2]
        xy[flipped] = xy[flipped][:, list(self.dataset.schema.swap)]
        size = np.array(self.dataset.image_size[::-1])
        xy[~((xy > -2.0) & (xy < size + 1.0)).all(axis=-1)] = np.nan
        count = len(self.styles)
        return views, *styled_targets(xy, self.style[rows] + count * flipped, 2 * count)


def calibrate(
    answers: FloatArray, xy: FloatArray, style: NDArray[np.integer[Any]], input_size: int
) -> NDArray[np.float64]:
    """Fit each style's log error scale so that the confidence derived from it is right.

    Confidence is the probability of an error below 1/32 of the input's side under the learnt density; per style,
    a slope and a shift of the log scale are chosen that make the labels most likely.

    Args:
        answers: (M, S, K, 3) of faces that the network was not trained on, in the pixels of ``xy``.
        xy: (M, K, 2) labels, NaN = not labelled.
        style: (M,) their styles.
        input_size: Longer side of the input, pixels.

    Returns:
        (S, 2) slope and shift; 1 and 0 for a style without labels.
    """
    radius_px = CONFIDENCE_RADIUS * input_size
    out = np.tile([1.0, 0.0], (answers.shape[1], 1))
    slopes, shifts = np.meshgrid(np.linspace(0.4, 1.6, 49), np.linspace(-1.5, 1.5, 121))
    for s in range(answers.shape[1]):
        rows = style == s
        gap = np.linalg.norm(answers[rows, s, :, :2] - xy[rows], axis=-1)
        good = ~np.isnan(gap)
        if not good.any():
            continue
        hit, scale = gap[good] < radius_px, answers[rows, s, :, 2][good]
        losses = []
        for slope, shift in zip(slopes.ravel(), shifts.ravel(), strict=True):
            ratio = radius_px * np.exp(-np.clip(slope * scale + shift, -4.0, 4.0))
            confidence = np.clip(confidence_within(ratio), 1e-4, 1.0 - 1e-4)
            losses.append(-np.mean(np.where(hit, np.log(confidence), np.log(1.0 - confidence))))
        best = int(np.argmin(losses))
        out[s] = slopes.ravel()[best], shifts.ravel()[best]
    return out


def apply_calibration(net: keras.Model, calibration: NDArray[np.float64]) -> None:
    """Fold slope and shift of each style's log scale into the head of a network, in place."""
    s, k = net.output_shape[1:3]
    kernel, bias = (np.array(w) for w in net.get_layer("head").get_weights())
    for number, (slope, shift) in enumerate(calibration):
        columns = slice(k * (2 + 2 * s + number), k * (3 + 2 * s + number))
        kernel[:, columns] *= slope
        bias[columns] = bias[columns] * slope + shift
    net.get_layer("head").set_weights([kernel, bias])


def refit_last_layer(
    net: keras.Model,
    features: FloatArray,
    answers: FloatArray,
    xy: FloatArray,
    style: NDArray[np.integer[Any]],
) -> None:
    """Fit each style's own part of the last layer to labelled images in closed form, in place.

    Ridge regression of what the network misses on its features. After a training on random views of some hundred
    faces this takes a twentieth off the error on others (``docs/experiments.md``).

    Args:
        net: The network.
        features: (N, F) input of its head for N images.
        answers: (N, S, K, 3) its answers.
        xy: (N, K, 2) labels in input pixels; a point that is not labelled (NaN) asks for no change.
        style: (N,) their styles.
    """
    s, k = net.output_shape[1:3]
    kernel, bias = (np.array(w) for w in net.get_layer("head").get_weights())
    unit = 4.0 * max(net.input_shape[1:3]) / 96.0  # pixels for an output of 1: see StylePoints
    for number in range(s):
        rows = style == number
        if not rows.any():
            continue
        x = features[rows].astype(np.float64)
        missing = np.nan_to_num(xy[rows] - answers[rows, number, :, :2]).reshape(len(x), -1)
        mean, change = x.mean(axis=0), missing.mean(axis=0)
        x -= mean
        pull = _REFIT_PENALTY * float(np.mean(x**2)) * len(x)
        slope = np.linalg.solve(x.T @ x + pull * np.eye(x.shape[1]), x.T @ (missing - change))
        columns = slice(2 * k * (1 + number), 2 * k * (2 + number))
        kernel[:, columns] += slope / unit
        bias[columns] += (change - mean @ slope) / unit
    net.get_layer("head").set_weights([kernel, bias])
