"""Training models of iBUG's 68 points: views of faces, a training of all weights, and a last layer in closed form.

The crop of these models is :data:`CROP_SCALE` times as wide as the face box, from the same top edge, since the face
box cuts off the chin. Faces lie in canvases as those of ``wild/``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import cv2
import keras
import numpy as np
from numpy.typing import NDArray

from facial_keypoints.evaluation.metrics import nme
from facial_keypoints.files import atomic_path, read_json, write_json
from facial_keypoints.geometry import EYE_LINE, FACE_SIZE
from facial_keypoints.models.codec import CONFIDENCE
from facial_keypoints.models.export import export_onnx
from facial_keypoints.models.landmark import STUDENT, build_network
from facial_keypoints.models.spec import ModelSpec
from facial_keypoints.schemas import IBUG68
from facial_keypoints.training.landmark import (
    apply_calibration,
    calibrate,
    change_light,
    keep_styles,
)
from facial_keypoints.training.losses import PointsLoss
from facial_keypoints.training.run_folder import save_model
from facial_keypoints.types import FaceDataset
from references.collection import CANVAS, CANVAS_EYE_ROW, CANVAS_EYES_PX, set_names
from references.landmark.train import Ridge

__all__ = [
    "CROP_SCALE",
    "SIZE",
    "Views",
    "calibrated",
    "cut_view",
    "errors",
    "fit",
    "load_last",
    "network",
    "predict",
    "predict_moved",
    "refit",
    "spec_of",
    "teller",
    "to_input",
    "train",
    "view_matrix",
]

CROP_SCALE = 1.13
SIZE = 96
"""Side of the input, pixels."""

# Angle, zoom and shift in input pixels of the views whose mean labels a face.
_MOVES = ((8.0, 1.08, 3.0, -2.0), (-8.0, 0.93, -3.0, 2.0), (4.0, 0.95, -2.0, -3.0), (-4.0, 1.05, 2.0, 3.0))  # fmt: skip
_PARTS = {"all": range(68), "inner": range(17, 68), "eyelids": range(36, 48)}
_EVERY = 250  # steps from one measurement to the next
_FAR_PX = 6.0  # where the last layer is fitted, a point missed by more counts as missed by this
_REFIT_VIEWS = 25_000
_MEAN_OVER = 0.998  # momentum of the mean of the weights

_SCALE = FACE_SIZE / CROP_SCALE * SIZE / CANVAS_EYES_PX
_MIDDLE = np.array(
    [(CANVAS - 1) / 2, CANVAS_EYE_ROW + (SIZE / 2 - EYE_LINE / CROP_SCALE * SIZE) / _SCALE]
)


def spec_of(name: str) -> ModelSpec:
    """The description of a model of 68 points in one label style."""
    return ModelSpec(
        name=name, schema=IBUG68, input_size=(SIZE, SIZE), styles=("ibug",),
        confidence=CONFIDENCE, output="points", crop_scale=CROP_SCALE,
    )  # fmt: skip


def network(faces: FaceDataset, styles: int) -> keras.Model:
    """The network of ``default`` for 68 points, its weights random; an output of 0 is the faces' mean."""
    mean = to_input(np.nanmean(faces.keypoints.xy, axis=0))
    config = replace(
        STUDENT,
        input_size=(SIZE, SIZE),
        styles=("",) * styles,
        keypoints=IBUG68.num_keypoints,
        mean_xy=mean.round(2).tolist(),
    )
    return build_network(config)


def view_matrix(
    angle: float = 0.0,
    zoom: float = 1.0,
    move: NDArray[np.float64] | float = 0.0,
    flip: bool = False,
) -> NDArray[np.float64]:
    """(2, 3) from the canvas of a wild crop to the model's input; ``move`` is in input pixels."""
    cos, sin = _SCALE * zoom * np.cos(angle), _SCALE * zoom * np.sin(angle)
    linear = np.array([[-cos if flip else cos, -sin], [-sin if flip else sin, cos]])
    return np.column_stack([linear, (SIZE - 1) / 2 + move - linear @ _MIDDLE])


def to_input(xy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Points of the canvas in pixels of the usual view."""
    matrix = view_matrix()
    return np.asarray(xy * matrix[0, 0] + matrix[:, 2], np.float32)


def cut_view(image: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(SIZE, SIZE, 1) the view of a canvas (H, W, 1); edges repeat."""
    view = cv2.warpAffine(
        image, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(view, np.uint8)[..., np.newaxis]


class Views:
    """Batches of random views.

    Args:
        images: N canvases.
        xy: (N, S, 68, 2) what to learn from each face in pixels of the canvas, NaN = nothing; with S = 2 the second is
            learnt by mirrored views only, the first by the others. Not swapped, not mirrored.
        chance: (N,) how often each face is drawn, relative to the others.
        trust: (N,) or (N, 68) weight of its labels.
        batch: B.
        seed: Of the views.
        rough: Blur, shrink and compress some of the views too, as phones and web pages do.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        xy: NDArray[np.float32],
        chance: NDArray[np.float64],
        trust: NDArray[np.float32],
        *,
        batch: int,
        seed: int,
        rough: bool = False,
    ) -> None:
        self.images, self.xy, self.batch, self.seed, self.rough = images, xy, batch, seed, rough
        self.chance = chance / chance.sum()
        self.trust = np.broadcast_to(trust.reshape(len(xy), -1), (len(xy), IBUG68.num_keypoints))

    def draw(
        self, step: int, *, gentle: bool = False
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
        """Views (B, SIZE, SIZE, 1), their points (B, S, 68, 2) in input pixels and weights (B, S, 68).

        Gentle views are less moved, not mirrored, and their light is not changed.
        """
        rng = np.random.default_rng((self.seed, step))
        rows = rng.choice(len(self.xy), self.batch, p=self.chance)
        flips = rng.random(self.batch) < (0.0 if gentle else 0.5)
        views, styles = [], self.xy.shape[1]
        xy = np.zeros((self.batch, styles, IBUG68.num_keypoints, 2), np.float32)
        weight = np.zeros(xy.shape[:3], np.float32)
        for i, (row, flip) in enumerate(zip(rows, flips, strict=True)):
            angle, zoom, *move = np.clip(rng.standard_normal(4), -2.5, 2.5) * (
                0.45 if gentle else 1.0
            )
            matrix = view_matrix(
                np.deg2rad(10.0 * angle), np.exp(0.08 * zoom), 0.03 * SIZE * np.array(move), flip
            )
            views.append(cut_view(self.images[row], matrix))
            style = int(flip) if styles == 2 else 0
            points, trust = self.xy[row, style] @ matrix[:, :2].T + matrix[:, 2], self.trust[row]
            if flip:
                points, trust = points[list(IBUG68.swap)], trust[list(IBUG68.swap)]
            inside = ((points > -2.0) & (points < SIZE + 1.0)).all(axis=-1)  # NaN is not inside
            xy[i, style] = np.where(inside[:, None], points, 0.0)
            weight[i, style] = trust * inside
        if not gentle:
            views = [change_light(view, views[i - 1], rng) for i, view in enumerate(views)]
            if self.rough:
                views = [_roughen(view, rng) for view in views]
        return np.stack(views), xy, weight


def _roughen(view: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Shrink, blur or compress a view (SIZE, SIZE, 1), or leave it."""
    chance, out = rng.random(3), np.asarray(view, np.uint8)
    if chance[0] < 0.25:  # smaller and larger again
        side = int(rng.uniform(0.3, 0.9) * SIZE)
        small = cv2.resize(out, (side, side), interpolation=cv2.INTER_AREA)
        out = np.asarray(cv2.resize(small, (SIZE, SIZE)), np.uint8)
    if chance[1] < 0.1:  # moved while it was taken
        length, angle = float(rng.uniform(2, 6)), rng.uniform(0, np.pi)
        line = np.zeros((13, 13), np.uint8)
        step = (length * np.array([np.cos(angle), np.sin(angle)])).round().astype(int)
        cv2.line(line, tuple(6 - step), tuple(6 + step), 1)
        out = np.asarray(cv2.filter2D(out, -1, line / np.float32(line.sum())), np.uint8)
    if chance[2] < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 80))]
        out = np.asarray(cv2.imdecode(cv2.imencode(".jpg", out, quality)[1], 0), np.uint8)
    return out.reshape(SIZE, SIZE, 1)


def predict(
    model: keras.Model, images: NDArray[np.uint8], matrix: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """(N, S, 68, 3) answers for one view of each canvas, the usual one when left out, in pixels of the canvas."""
    matrix = view_matrix() if matrix is None else matrix
    views = np.stack([cut_view(image, matrix) for image in images])
    out = np.array(model.predict(views, batch_size=128, verbose=0))
    out[..., :2] = (out[..., :2] - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    return out


def predict_moved(model: keras.Model, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, S, 68, 2) mean answers for four moved views, in pixels of the canvas; style 1 answers for mirrored ones."""
    total = np.zeros((len(images), model.output_shape[1], IBUG68.num_keypoints, 2), np.float32)
    for angle, zoom, *move in _MOVES:
        for style in range(total.shape[1]):
            matrix = view_matrix(np.deg2rad(angle), zoom, np.array(move), bool(style))
            xy = predict(model, images, matrix)[:, style, :, :2]
            total[:, style] += (xy[:, list(IBUG68.swap)] if style else xy) / len(_MOVES)
    return total


def errors(
    xy: NDArray[np.float32], truth: NDArray[np.float32], sets: NDArray[np.str_]
) -> dict[str, float]:
    """NME by the outer eye corners of (N, 68, 2) answers: all 68 points, the inner 51 and the eyelids, by set."""
    found = {}
    for name in np.unique(sets):
        rows = sets == name
        for part, points in _PARTS.items():
            other = np.setdiff1d(np.arange(68), points)
            wanted = truth[rows]
            wanted[:, other] = np.nan
            found[f"{name} {part}"] = nme(wanted, xy[rows], IBUG68.norm_indices)[0]
    return found


def calibrated(net: keras.Model, faces: FaceDataset) -> tuple[keras.Model, NDArray[np.float32]]:
    """A network without the output for mirrored faces, its confidence made right on faces that it has not learnt.

    Returns:
        The model, and the (N, 68, 2) answers of ``net`` for these faces in pixels of the canvas.
    """
    out = predict(net, faces.images)
    model = keep_styles(net, 1)
    # Confidence is about 1/32 of the face box, so its radius is CROP_SCALE times smaller here.
    answers = np.append(CROP_SCALE * to_input(out[:, :1, :, :2]), out[:, :1, :, 2:], axis=-1)
    truth, style = CROP_SCALE * to_input(faces.keypoints.xy), np.zeros(len(faces), int)
    apply_calibration(model, calibrate(answers, truth, style, SIZE))
    return model, out[:, 0, :, :2]


def fit(
    net: keras.Model,
    views: Views,
    steps: range,
    learning_rate: float,
    keep: Callable[[int, str, keras.Model], None],
) -> keras.Model:
    """Train a network in place.

    Args:
        net: The network.
        views: What to learn from.
        steps: The first step, and the last of the schedule, which is a cosine from step 0 on.
        learning_rate: Highest rate of AdamW.
        keep: Called now and then with the number of steps, the mean loss, and the network with the mean of the
            last weights.

    Returns:
        The network with the mean of the last weights.
    """
    mean, averaged = keras.models.clone_model(net), net.get_weights()
    mean.set_weights(averaged)
    optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=0.02, clipnorm=5.0)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    net.compile(optimizer, PointsLoss(1.0))
    losses = []
    for step in steps:
        done = step - steps.start + 1
        wave = 0.5 + 0.5 * np.cos(np.pi * step / steps.stop)
        optimizer.learning_rate.assign(learning_rate * wave * min(1.0, done / 200))
        losses.append(float(net.train_on_batch(*views.draw(step))))
        share = max(1 - _MEAN_OVER, 20 / (done + 20))
        averaged = [a + share * (w - a) for a, w in zip(averaged, net.get_weights(), strict=True)]
        if (step + 1) % _EVERY == 0 or step + 1 == steps.stop:
            mean.set_weights(averaged)
            keep(step + 1, f"loss {np.mean(losses):.4f}", mean)
            losses = []
    return mean


def refit(net: keras.Model, views: Views, batches: int) -> None:
    """Fit the last layer's own part for faces that are not mirrored in closed form, in place.

    Ridge regression of what the network misses on its features, over gentle views.
    """
    model = keras.Model(net.input, [net.get_layer("head").input, net.output])
    ridge = Ridge()
    for number in range(batches):
        images, xy, weight = views.draw(number, gentle=True)
        features, answers = model.predict_on_batch(images)
        missing = (xy[:, 0] - answers[:, 0, :, :2]) * (weight[:, 0, :, None] > 0)
        length = np.linalg.norm(missing, axis=-1, keepdims=True)
        missing *= np.minimum(1.0, _FAR_PX / np.maximum(length, 1e-6))
        ridge.add(features, missing.reshape(len(missing), -1), np.ones(len(missing)))
    slope, constant = ridge.solve(ridge=0.03)
    kernel, bias = (np.array(w) for w in net.get_layer("head").get_weights())
    own = slice(2 * 68, 4 * 68)
    unit = 4.0 * SIZE / 96.0  # pixels for an output of 1: see StylePoints
    kernel[:, own] += slope / unit
    bias[own] += constant / unit
    net.get_layer("head").set_weights([kernel, bias])


def teller(history: TextIO, report: Callable[[str], None] | None) -> Callable[[str], None]:
    """Writes lines to a file at once, and passes them on."""

    def say(line: str) -> None:
        history.write(f"{line}\n")
        history.flush()
        if report is not None:
            report(line)

    return say


def load_last(net: keras.Model, directory: Path) -> tuple[int, float]:
    """Take the last weights of a training folder; the steps done and the best score, 0 and infinity without any."""
    last = directory / "last.npz"
    if not last.is_file():
        return 0, np.inf
    with np.load(last) as weights:
        net.set_weights([weights[name] for name in weights.files])
    state = read_json(directory / "state.json")
    return int(state["step"]), float(state["best"])


def train(
    net: keras.Model,
    spec: ModelSpec,
    views: Views,
    to_refit: NDArray[np.bool_],
    held: FaceDataset,
    directory: Path,
    *,
    state: tuple[int, float],
    steps: int,
    learning_rate: float,
    learnt: set[bytes],
    say: Callable[[str], None],
) -> None:
    """Train a network, and leave ``model.keras``, ``model.onnx``, ``last.npz`` and ``state.json`` in a folder.

    The model is the mean of the weights over the last few hundred steps, kept whenever the mean of its errors over
    the sets of held-out faces is the lowest so far, so that the folder holds a model at any time. In the end the
    last layer is fitted again in closed form.

    Args:
        net: The network.
        spec: Its description.
        views: What to learn from.
        to_refit: (N,) the faces of ``views`` that the last layer is fitted to.
        held: Faces to measure on.
        directory: The folder.
        state: Steps done and best score, of :func:`load_last`.
        steps: Steps of the optimiser, those of before included.
        learning_rate: Highest rate of AdamW.
        learnt: Digests of the training images, for the model's file.
        say: Told how it goes, one line at a time.
    """
    (first, best), clock = state, time.monotonic()
    sets = set_names(held)

    def keep(step: int, what: str, mean: keras.Model) -> None:
        nonlocal best
        model, answers = calibrated(mean, held)
        found = errors(answers, held.keypoints.xy, sets)
        told = ", ".join(f"{part} {100 * error:.2f}" for part, error in found.items())
        say(f"step {step} {what} NME % {told}; {time.monotonic() - clock:.0f} s")
        score = sum(error for part, error in found.items() if part.endswith(" all"))
        if score < best:
            best = score
            save_model(directory / "model.keras", model, spec, learnt)
        with atomic_path(directory / "last.npz") as temporary:
            np.savez(temporary, *net.get_weights())
        write_json(directory / "state.json", {"step": step, "best": best})

    mean = fit(net, views, range(first, steps), learning_rate, keep)
    views.chance = views.chance * to_refit
    views.chance /= views.chance.sum()
    refit(mean, views, min(steps, _REFIT_VIEWS // views.batch))
    keep(max(first, steps), "last layer fitted again", mean)
    export_onnx(directory / "model.keras", directory / "model.onnx")
