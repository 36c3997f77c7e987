"""Trains the model of iBUG's 68 points, from the backbone of ``default``, for as long as there is time.

All weights learn from the faces of ``wild/`` that have the 68 points (``ytf``, ``helen_afw``). A tenth of the
groups is held out, and is measured now and then. Labels sit to the right of where a mirror would put them, so
mirrored faces have an output of their own, which the finished model lacks.

The crop is :data:`CROP_SCALE` times as wide as the face box, from the same top edge, since the face box cuts
off the chin.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import keras
import numpy as np
from numpy.typing import NDArray

from facial_keypoints.errors import DataError
from facial_keypoints.evaluation.metrics import nme
from facial_keypoints.files import atomic_path, output_folder, read_json, write_json
from facial_keypoints.geometry import EYE_LINE, FACE_SIZE
from facial_keypoints.models.codec import CONFIDENCE
from facial_keypoints.models.export import export_onnx
from facial_keypoints.models.keras_model import load_keras_model
from facial_keypoints.models.landmark import STUDENT, build_network
from facial_keypoints.models.registry import find_model
from facial_keypoints.models.spec import ModelSpec
from facial_keypoints.schemas import IBUG68, KAGGLE15
from facial_keypoints.training.landmark import (
    apply_calibration,
    calibrate,
    change_light,
    keep_styles,
)
from facial_keypoints.training.losses import PointsLoss
from facial_keypoints.training.run_folder import save_model
from facial_keypoints.types import FaceDataset, Keypoints
from references.collection import (
    CANVAS,
    held_out,
    join_faces,
    learnt_digests,
    load_wild,
    set_names,
)
from references.landmark.train import Ridge

__all__ = ["CROP_SCALE", "train_ibug68"]

CROP_SCALE = 1.13
SIZE = 112
"""Side of the input, pixels: in a wider crop, as many pixels between the eyes as ``default`` has."""
STYLES = ("ibug", "ibug mirrored")

_LABELLED = ("ytf", "helen_afw")
# How often faces of a set are drawn, and the weight of their labels: those of ytf are automatic.
_SHARE = {"ytf": 0.35, "helen_afw": 0.35, "mtfl": 0.26, "webmorph": 0.04}
_TRUST = {"ytf": 0.6, "helen_afw": 1.0, "mtfl": 0.6, "webmorph": 0.6}
# Angle, zoom and shift in input pixels of the views whose mean labels a face.
_MOVES = ((8.0, 1.08, 3.0, -2.0), (-8.0, 0.93, -3.0, 2.0), (4.0, 0.95, -2.0, -3.0), (-4.0, 1.05, 2.0, 3.0))  # fmt: skip
_AGREE_PX = 4.0  # a tenth of the distance between the eyes
_PARTS = {"all": range(68), "inner": range(17, 68), "eyelids": range(36, 48)}
_CANVAS_EYES_PX, _CANVAS_EYE_ROW = CANVAS / 4.2, 60.0  # of a wild crop
_EVERY = 250  # steps from one measurement to the next
_REFIT_VIEWS = 25_000
_FAR_PX = (
    6.0  # where the last layer is fitted, a point that is missed by more counts as missed by this
)
_MEAN_OVER = 0.998  # momentum of the mean of the weights

_SCALE = FACE_SIZE / CROP_SCALE * SIZE / _CANVAS_EYES_PX
_MIDDLE = np.array(
    [(CANVAS - 1) / 2, _CANVAS_EYE_ROW + (SIZE / 2 - EYE_LINE / CROP_SCALE * SIZE) / _SCALE]
)


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


def _to_input(xy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Points of the canvas in pixels of the usual view."""
    matrix = view_matrix()
    return np.asarray(xy * matrix[0, 0] + matrix[:, 2], np.float32)


def cut_view(image: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(SIZE, SIZE, 1) the view of a canvas (H, W, 1); edges repeat."""
    view = cv2.warpAffine(
        image, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(view, np.uint8)[..., np.newaxis]


class _Views:
    """Batches of random views.

    Args:
        faces: N faces.
        xy: (N, 2, 68, 2) what to learn from each as it is and mirrored, in pixels of the canvas.
        batch: B.
        seed: Of the views.
    """

    def __init__(self, faces: FaceDataset, xy: NDArray[np.float32], batch: int, seed: int) -> None:
        sets = set_names(faces)
        chance = np.array([_SHARE[s] / (sets == s).sum() for s in sets])
        self.faces, self.xy, self.batch, self.seed = faces, xy, batch, seed
        self.chance = chance / chance.sum()
        self.trust = np.array([_TRUST[s] for s in sets], np.float32)

    def draw(
        self, step: int, *, gentle: bool = False
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
        """Views (B, SIZE, SIZE, 1), their points (B, 2, 68, 2) in input pixels and weights (B, 2, 68).

        Gentle views are less moved, not mirrored, and their light is not changed.
        """
        rng = np.random.default_rng((self.seed, step))
        rows = rng.choice(len(self.faces), self.batch, p=self.chance)
        flips = rng.random(self.batch) < (0.0 if gentle else 0.5)
        views = []
        xy = np.zeros((self.batch, 2, IBUG68.num_keypoints, 2), np.float32)
        weight = np.zeros(xy.shape[:3], np.float32)
        for i, (row, flip) in enumerate(zip(rows, flips, strict=True)):
            angle, zoom, *move = np.clip(rng.standard_normal(4), -2.5, 2.5) * (
                0.45 if gentle else 1.0
            )
            matrix = view_matrix(
                np.deg2rad(10.0 * angle), np.exp(0.08 * zoom), 0.03 * SIZE * np.array(move), flip
            )
            views.append(cut_view(self.faces.images[row], matrix))
            points = self.xy[row, int(flip)] @ matrix[:, :2].T + matrix[:, 2]
            points = points[list(IBUG68.swap)] if flip else points
            inside = ((points > -2.0) & (points < SIZE + 1.0)).all(axis=-1)  # NaN is not inside
            xy[i, int(flip)] = np.where(inside[:, None], points, 0.0)
            weight[i, int(flip)] = self.trust[row] * inside
        if not gentle:
            views = [change_light(view, views[i - 1], rng) for i, view in enumerate(views)]
        return np.stack(views), xy, weight


def predict(
    model: keras.Model, faces: FaceDataset, matrix: NDArray[np.float64]
) -> NDArray[np.float32]:
    """(N, S, 68, 3) answers for one view of each face, in pixels of the canvas."""
    views = np.stack([cut_view(image, matrix) for image in faces.images])
    out = np.array(model.predict(views, batch_size=128, verbose=0))
    out[..., :2] = (out[..., :2] - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    return out


def errors(xy: NDArray[np.float32], faces: FaceDataset) -> dict[str, float]:
    """NME by the outer eye corners, of all 68 points, the inner 51 and the eyelids, by set."""
    sets, found = set_names(faces), {}
    for name in np.unique(sets):
        rows = sets == name
        truth = faces.keypoints.xy[rows]
        for part, points in _PARTS.items():
            other = np.setdiff1d(np.arange(68), points)
            wanted = truth.copy()
            wanted[:, other] = np.nan
            found[f"{name} {part}"] = nme(wanted, xy[rows], IBUG68.norm_indices)[0]
    return found


def read_faces(data: Path, threads: int) -> tuple[FaceDataset, FaceDataset]:
    """The faces to train on and the held-out ones."""
    faces = join_faces(list(load_wild(data / "wild", threads, IBUG68)), str(data))
    held = held_out(faces)
    return faces.subset(np.flatnonzero(~held)), faces.subset(np.flatnonzero(held))


def label_more(
    model: keras.Model, data: Path, threads: int
) -> tuple[FaceDataset, NDArray[np.float32]]:
    """The faces with 5 or 15 points that are not held out, with 68 points that a model gives them.

    A face whose labels disagree with those points is left out.

    Args:
        model: A network of :data:`STYLES`, the mirrored one included.
        data: A folder with ``wild/``.
        threads: For decoding images.

    Returns:
        N faces, and their points (N, 2, 68, 2) as they are and mirrored, pixels of the canvas.
    """
    parts = [part for part in load_wild(data / "wild", threads) if part.source not in _LABELLED]
    faces = join_faces(parts, str(data))
    faces = faces.subset(np.flatnonzero(~held_out(faces)))
    total = np.zeros((len(faces), 2, 68, 2), np.float32)
    for angle, zoom, *move in _MOVES:
        for flip in (False, True):
            matrix = view_matrix(np.deg2rad(angle), zoom, np.array(move), flip)
            xy = predict(model, faces, matrix)[:, int(flip), :, :2]
            total[:, int(flip)] += (xy[:, list(IBUG68.swap)] if flip else xy) / len(_MOVES)
    told = Keypoints(total[:, 0], IBUG68).to_schema(KAGGLE15).xy
    gap = faces.keypoints.xy - told
    for name in set(set_names(faces)):  # each set has rules of its own
        rows = set_names(faces) == name
        seen = faces.keypoints.labeled[rows].any(axis=0)
        gap[np.ix_(rows, seen)] -= np.nanmedian(gap[np.ix_(rows, seen)], axis=0)
    agree = np.nanmean(np.linalg.norm(gap, axis=-1), axis=1) < _AGREE_PX
    more = FaceDataset(
        faces.images,
        Keypoints(total[:, 0], IBUG68),
        faces.sample_ids,
        str(data),
        groups=faces.groups,
    )
    return more.subset(np.flatnonzero(agree)), total[agree]


def _start(faces: FaceDataset) -> keras.Model:
    """The network with the convolutions of ``default`` and a new head."""
    mean = _to_input(np.nanmean(faces.keypoints.xy, axis=0))
    config = replace(
        STUDENT,
        input_size=(SIZE, SIZE),
        styles=STYLES,
        keypoints=IBUG68.num_keypoints,
        mean_xy=mean.round(2).tolist(),
    )
    net = build_network(config)
    base = load_keras_model(find_model("default", trainable=True))
    for layer, old in zip(net.layers[:-2], base.layers[:-2], strict=True):
        layer.set_weights(old.get_weights())
    return net


def _fit(
    net: keras.Model,
    views: _Views,
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


def _refit(net: keras.Model, views: _Views, batches: int) -> None:
    """Fit the last layer's own part for faces that are not mirrored in closed form, in place.

    Ridge regression of what the network misses on its features, over gentle views.
    """
    model = keras.Model(net.input, [net.get_layer("head").input, net.output])
    fit = Ridge()
    for number in range(batches):
        images, xy, weight = views.draw(number, gentle=True)
        features, answers = model.predict_on_batch(images)
        missing = (xy[:, 0] - answers[:, 0, :, :2]) * (weight[:, 0, :, None] > 0)
        length = np.linalg.norm(missing, axis=-1, keepdims=True)
        missing *= np.minimum(1.0, _FAR_PX / np.maximum(length, 1e-6))
        fit.add(features, missing.reshape(len(missing), -1), np.ones(len(missing)))
    slope, constant = fit.solve(ridge=0.03)
    kernel, bias = (np.array(w) for w in net.get_layer("head").get_weights())
    own, unit = (
        slice(2 * 68, 4 * 68),
        4.0 * SIZE / 96.0,
    )  # pixels for an output of 1: see StylePoints
    kernel[:, own] += slope / unit
    bias[own] += constant / unit
    net.get_layer("head").set_weights([kernel, bias])


def train_ibug68(
    data: Path,
    directory: Path,
    *,
    steps: int = 20_000,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
    self_training: bool = False,
    resume: bool = False,
    force: bool = False,
    threads: int = 8,
    report: Callable[[str], None] | None = None,
) -> ModelSpec:
    """Train the model of 68 points and leave ``model.keras`` and ``model.onnx`` in a folder.

    The rate follows a cosine to zero over the steps. The model is the mean of the weights over the last few
    hundred steps, kept whenever it is the best so far on the held-out faces, so that the folder holds a
    model at any time. In the end the last layer is fitted again in closed form. A finished training goes on with
    more steps, from its last weights.

    Args:
        data: A folder with ``wild/``.
        directory: The folder to make.
        steps: Steps of the optimiser, those of before included.
        batch_size: Views of a step.
        learning_rate: Highest rate of AdamW.
        seed: Of the views.
        self_training: Learn from the other sets too, with the 68 points that the weights in ``directory`` give
            them at the start.
        resume: Go on in ``directory``.
        force: Replace what is in ``directory``.
        threads: For decoding images.
        report: Told how it goes, one line at a time; ``history.txt`` gets the same lines.

    Returns:
        The model's description.

    Raises:
        DataError: The labels are missing or damaged, or there are no weights for self-training.
        OutputError: The folder cannot be written.
    """
    spec = ModelSpec(
        name="ibug68", schema=IBUG68, input_size=(SIZE, SIZE), styles=STYLES[:1],
        confidence=CONFIDENCE, output="points", crop_scale=CROP_SCALE,
    )  # fmt: skip
    keras.utils.set_random_seed(seed)
    with (
        output_folder(
            directory, verb="references.landmark", inputs=(data,), force=force, resume=resume
        ),
        (directory / "history.txt").open("a", encoding="utf-8") as history,
    ):

        def say(line: str) -> None:
            history.write(f"{line}\n")
            history.flush()
            if report is not None:
                report(line)

        faces, held = read_faces(data, threads)
        say(f"{len(faces)} faces to train on, {len(held)} held out")
        net, last, first, best = _start(faces), directory / "last.npz", 0, np.inf
        if last.is_file():
            with np.load(last) as weights:
                net.set_weights([weights[name] for name in weights.files])
            state = read_json(directory / "state.json")
            first, best = state["step"], state["best"]
        xy = np.repeat(faces.keypoints.xy[:, np.newaxis], 2, axis=1)
        if self_training:
            if not first:
                raise DataError(
                    f"{directory} has no weights to label faces with: train without --self-training first."
                )
            more, more_xy = label_more(net, data, threads)
            say(f"{len(more)} more faces, labelled by the weights so far")
            faces, xy = join_faces([faces, more], str(data)), np.concatenate([xy, more_xy])
        learnt = learnt_digests(data, spec.input_size, threads=threads)
        clock = time.monotonic()

        def keep(step: int, what: str, mean: keras.Model) -> None:
            nonlocal best
            out = predict(mean, held, view_matrix())
            found = errors(out[:, 0, :, :2], held)
            told = ", ".join(f"{part} {100 * error:.2f}" for part, error in found.items())
            seconds = time.monotonic() - clock
            say(f"step {step} {what} NME % {told}; {seconds:.0f} s")
            if found["ytf all"] + found["helen_afw all"] < best:
                best = found["ytf all"] + found["helen_afw all"]
                model = keep_styles(mean, 1)
                # Confidence is about 1/32 of the face box, so its radius is CROP_SCALE times smaller here.
                xy = CROP_SCALE * _to_input(out[:, :1, :, :2])
                answers = np.append(xy, out[:, :1, :, 2:], axis=-1)
                truth, style = CROP_SCALE * _to_input(held.keypoints.xy), np.zeros(len(held), int)
                apply_calibration(model, calibrate(answers, truth, style, SIZE))
                save_model(directory / "model.keras", model, spec, learnt)
            with atomic_path(last) as temporary:
                np.savez(temporary, *net.get_weights())
            write_json(directory / "state.json", {"step": step, "best": best})

        views = _Views(faces, xy, batch_size, seed)
        mean = _fit(net, views, range(first, steps), learning_rate, keep)
        _refit(mean, views, min(steps, _REFIT_VIEWS // batch_size))
        keep(max(first, steps), "last layer fitted again", mean)
        export_onnx(directory / "model.keras", directory / "model.onnx")
    return spec
