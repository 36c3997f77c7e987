"""Trains the model of iBUG's 68 points, from the backbone of ``default``, for as long as there is time.

All weights learn from the faces of ``wild/`` that have the 68 points (``ytf``, ``helen_afw``). A tenth of the
groups is held out, and is measured now and then. Labels sit to the right of where a mirror would put them, so
mirrored faces have an output of their own, which the finished model lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from facial_keypoints.errors import DataError
from facial_keypoints.files import output_folder
from facial_keypoints.models.keras_model import load_keras_model
from facial_keypoints.models.registry import find_model
from facial_keypoints.models.spec import ModelSpec
from facial_keypoints.schemas import IBUG68, KAGGLE15
from facial_keypoints.types import FaceDataset, Keypoints
from references.collection import held_out, join_faces, learnt_digests, load_wild, set_names
from references.points68 import Views, load_last, network, predict_moved, spec_of, teller, train

__all__ = ["train_ibug68"]

_LABELLED = ("ytf", "helen_afw")
# How often faces of a set are drawn, and the weight of their labels: those of ytf are automatic.
_SHARE = {"ytf": 0.35, "helen_afw": 0.35, "mtfl": 0.26, "webmorph": 0.04}
_TRUST = {"ytf": 0.6, "helen_afw": 1.0, "mtfl": 0.6, "webmorph": 0.6}
_AGREE_PX = 4.0  # a tenth of the distance between the eyes


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
        model: A network with an output for mirrored faces too.
        data: A folder with ``wild/``.
        threads: For decoding images.

    Returns:
        N faces, and their points (N, 2, 68, 2) as they are and mirrored, pixels of the canvas.
    """
    parts = [part for part in load_wild(data / "wild", threads) if part.source not in _LABELLED]
    faces = join_faces(parts, str(data))
    faces = faces.subset(np.flatnonzero(~held_out(faces)))
    total = predict_moved(model, faces.images)
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
    net = network(faces, 2)
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
    self_training: bool = False,
    resume: bool = False,
    force: bool = False,
    threads: int = 8,
    report: Callable[[str], None] | None = None,
) -> ModelSpec:
    """Train the model of 68 points and leave ``model.keras`` and ``model.onnx`` in a folder.

    The rate follows a cosine to zero over the steps. What the folder holds, and when:
    :func:`references.points68.train`. A finished training goes on with more steps, from its last weights.

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
    spec = spec_of("ibug68")
    keras.utils.set_random_seed(seed)
    with (
        output_folder(
            directory, verb="references.landmark", inputs=(data,), force=force, resume=resume
        ),
        (directory / "history.txt").open("a", encoding="utf-8") as history,
    ):
        say = teller(history, report)
        faces, held = read_faces(data, threads)
        say(f"{len(faces)} faces to train on, {len(held)} held out")
        net = _start(faces)
        state = load_last(net, directory)
        xy = np.repeat(faces.keypoints.xy[:, np.newaxis], 2, axis=1)
        if self_training:
            if not state[0]:
                raise DataError(
                    f"{directory} has no weights to label faces with: train without --self-training first."
                )
            more, more_xy = label_more(net, data, threads)
            say(f"{len(more)} more faces, labelled by the weights so far")
            faces, xy = join_faces([faces, more], str(data)), np.concatenate([xy, more_xy])
        learnt = learnt_digests(data, spec.input_size, threads=threads)
        sets = set_names(faces)
        chance = np.array([_SHARE[s] / (sets == s).sum() for s in sets])
        trust = np.array([_TRUST[s] for s in sets], np.float32)
        views = Views(faces.images, xy, chance, trust, batch=batch_size, seed=seed)
        train(
            net, spec, views, np.isin(sets, _LABELLED), held, directory, state=state,
            steps=steps, learning_rate=learning_rate, learnt=learnt, say=say,
        )  # fmt: skip
    return spec
