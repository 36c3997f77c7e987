"""Trains the model of iBUG's 68 points, from the backbone of ``default``, for as long as there is time.

All weights learn from the faces of ``wild/`` that have the 68 points (``ytf``, ``helen_afw``). A tenth of the
groups is held out, and is measured now and then. Labels sit to the right of where a mirror would put them, so
mirrored faces have an output of their own, which the finished model lacks.

The crop is :data:`CROP_SCALE` times as wide as the face box, from the same top edge, since the face box cuts
off the chin.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import keras
import numpy as np
from numpy.typing import NDArray

from facial_keypoints.evaluation.metrics import nme
from facial_keypoints.files import atomic_path, output_folder, read_json, write_json
from facial_keypoints.geometry import EYE_LINE, FACE_SIZE
from facial_keypoints.models.codec import CONFIDENCE
from facial_keypoints.models.export import export_onnx
from facial_keypoints.models.keras_model import load_keras_model
from facial_keypoints.models.landmark import STUDENT, build_network
from facial_keypoints.models.registry import find_model
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
from references.collection import CANVAS, join_faces, load_wild, set_names

__all__ = ["CROP_SCALE", "train_ibug68"]

CROP_SCALE = 1.22
SIZE = 112
"""Side of the input, pixels: in a wider crop, as many pixels between the eyes as ``default`` has."""
STYLES = ("ibug", "ibug mirrored")

_SHARE = {"ytf": 0.5, "helen_afw": 0.5}  # how often faces of a set are drawn
_TRUST = {"ytf": 0.6, "helen_afw": 1.0}  # weight of a label: those of ytf are automatic
_PARTS = {"all": range(68), "inner": range(17, 68), "eyelids": range(36, 48)}
_CANVAS_EYES_PX, _CANVAS_EYE_ROW = CANVAS / 4.2, 60.0  # of a wild crop
_EVERY = 250  # steps from one measurement to the next
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


def cut_view(image: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(SIZE, SIZE, 1) the view of a canvas (H, W, 1); edges repeat."""
    view = cv2.warpAffine(
        image, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(view, np.uint8)[..., np.newaxis]


class _Views(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of random views, their points (B, 2, 68, 2) in input pixels and weights (B, 2, 68)."""

    def __init__(self, faces: FaceDataset, batch: int, steps: int, seed: int) -> None:
        super().__init__(workers=1, use_multiprocessing=False)
        sets = set_names(faces)
        chance = np.array([_SHARE[s] / (sets == s).sum() for s in sets])
        self.faces, self.batch, self.steps, self.seed = faces, batch, steps, seed
        self.chance = chance / chance.sum()
        self.trust = np.array([_TRUST[s] for s in sets], np.float32)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(
        self, index: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
        rng = np.random.default_rng((self.seed, index))
        rows = rng.choice(len(self.faces), self.batch, p=self.chance)
        flips = rng.random(self.batch) < 0.5
        views = []
        xy = np.zeros((self.batch, 2, IBUG68.num_keypoints, 2), np.float32)
        weight = np.zeros(xy.shape[:3], np.float32)
        for i, (row, flip) in enumerate(zip(rows, flips, strict=True)):
            angle, zoom, *move = np.clip(rng.standard_normal(4), -2.5, 2.5)
            matrix = view_matrix(
                np.deg2rad(10.0 * angle), np.exp(0.08 * zoom), 0.03 * SIZE * np.array(move), flip
            )
            views.append(cut_view(self.faces.images[row], matrix))
            points = self.faces.keypoints.xy[row] @ matrix[:, :2].T + matrix[:, 2]
            points = points[list(IBUG68.swap)] if flip else points
            inside = ((points > -2.0) & (points < SIZE + 1.0)).all(axis=-1)  # NaN is not inside
            xy[i, int(flip)] = np.where(inside[:, None], points, 0.0)
            weight[i, int(flip)] = self.trust[row] * inside
        changed = [change_light(view, views[i - 1], rng) for i, view in enumerate(views)]
        return np.stack(changed), xy, weight


def predict(model: keras.Model, faces: FaceDataset) -> NDArray[np.float32]:
    """(N, S, 68, 3) answers for the usual view of each face, in pixels of the canvas."""
    matrix = view_matrix()
    views = np.stack([cut_view(image, matrix) for image in faces.images]).astype(np.float32)
    out = np.array(model.predict(views, batch_size=128, verbose=0))
    out[..., :2] = (out[..., :2] - matrix[:, 2]) / matrix[0, 0]
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
    held = np.array([zlib.crc32(group.encode()) % 10 == 0 for group in faces.groups.tolist()])
    return faces.subset(np.flatnonzero(~held)), faces.subset(np.flatnonzero(held))


def _start(faces: FaceDataset) -> keras.Model:
    """The network with the convolutions of ``default`` and a new head."""
    mean = np.nanmean(faces.keypoints.xy, axis=0) * _SCALE + view_matrix()[:, 2]
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


def train_ibug68(
    data: Path,
    directory: Path,
    *,
    steps: int = 20_000,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    threads: int = 8,
    report: Callable[[str], None] | None = None,
) -> ModelSpec:
    """Train the model of 68 points and leave ``model.keras`` and ``model.onnx`` in a folder.

    The rate follows a cosine to zero over the steps. The model is the mean of the weights over the last few
    hundred steps, kept whenever it is the best so far on the held-out faces, so that the folder holds a
    model at any time. A finished training goes on with more steps, from its last weights.

    Args:
        data: A folder with ``wild/``.
        directory: The folder to make.
        steps: Steps of the optimiser, those of before included.
        batch_size: Views of a step.
        learning_rate: Highest rate of AdamW.
        seed: Of the views.
        resume: Go on in ``directory``.
        force: Replace what is in ``directory``.
        threads: For decoding images.
        report: Told how it goes, one line at a time; ``history.txt`` gets the same lines.

    Returns:
        The model's description.

    Raises:
        DataError: The labels are missing or damaged.
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
        mean, averaged = keras.models.clone_model(net), net.get_weights()
        optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=0.02, clipnorm=5.0)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        net.compile(optimizer, PointsLoss(1.0))
        views = _Views(faces, batch_size, steps, seed)
        clock, losses = time.monotonic(), []
        for step in range(first, steps):
            warm = min(1.0, (step - first + 1) / 200)
            rate = learning_rate * warm * (0.5 + 0.5 * np.cos(np.pi * step / steps))
            optimizer.learning_rate.assign(rate)
            losses.append(float(net.train_on_batch(*views[step])))
            keep = min(_MEAN_OVER, (step - first + 1) / (step - first + 20))
            averaged = [
                keep * a + (1 - keep) * w for a, w in zip(averaged, net.get_weights(), strict=True)
            ]
            if (step + 1) % _EVERY and step + 1 < steps:
                continue
            mean.set_weights(averaged)
            out = predict(mean, held)
            found = errors(out[:, 0, :, :2], held)
            told = ", ".join(f"{part} {100 * error:.2f}" for part, error in found.items())
            speed = len(losses) * batch_size / (time.monotonic() - clock)
            say(
                f"step {step + 1} loss {np.mean(losses):.4f} NME % {told}; {speed:.0f} views a second"
            )
            clock, losses = time.monotonic(), []
            score = found["ytf all"] + found["helen_afw all"]
            if score < best:
                best = score
                model = keep_styles(mean, 1)
                out[..., :2] = out[..., :2] * _SCALE + view_matrix()[:, 2]
                truth = held.keypoints.xy * _SCALE + view_matrix()[:, 2]
                apply_calibration(
                    model, calibrate(out[:, :1], truth, np.zeros(len(held), int), SIZE)
                )
                save_model(directory / "model.keras", model, spec, ())
            with atomic_path(last) as temporary:
                np.savez(temporary, *net.get_weights())
            write_json(directory / "state.json", {"step": step + 1, "best": best})
        export_onnx(directory / "model.keras", directory / "model.onnx")
    return spec
