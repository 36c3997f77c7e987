"""Trains the model ``open`` of 68 points, whose data anybody may use, for as long as there is time.

Renders tell exactly where their points are, by the definition that was chosen on the mesh. Portraits are labelled by
MediaPipe's mesh, brought to that definition by a regression that is fitted to MediaPipe's answers for the renders. The
CC BY faces of ``webmorph`` have 13 of the points; where annotators put them elsewhere than that regression tells, the
labels of renders and portraits are moved. A tenth of each is held out to choose the weights. No weights, faces
or labels of research sets are used, and nothing is chosen on them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from facial_keypoints.data.duplicates import image_digests
from facial_keypoints.files import output_folder
from facial_keypoints.models.spec import ModelSpec
from facial_keypoints.schemas import IBUG68
from facial_keypoints.types import FaceDataset, Keypoints
from references.collection import held_out, join_faces, set_names
from references.open.faces import (
    fit_definition,
    mesh_to_68,
    read_portraits,
    read_renders,
    read_webmorph,
    shift_labels,
    shift_of,
)
from references.points68 import Views, load_last, network, spec_of, teller, train

__all__ = ["train_open"]

# How often faces of a set are drawn, and the weight of their labels.
_SHARE = {"render": 0.6, "portraits": 0.34, "webmorph": 0.06}
_TRUST = {"render": 1.0, "portraits": 0.7, "webmorph": 1.0}
_WRONG_PX = 4.5  # median gap of MediaPipe's points from a render's, above which its mesh is wrong
_HIDDEN = 0.3  # weight of a point that something hides in a render, in points that are seen


def read_faces(
    renders: Path, data: Path, mesh: Path | None, most: int | None = None
) -> tuple[FaceDataset, NDArray[np.float32]]:
    """All faces, and the (N, 68) weight of each label.

    Args:
        renders: Shards of ``python -m references.open_faces``.
        data: The folder with ``clean/`` and ``wild/``.
        mesh: What ``python -m references.open.mesh`` wrote; without it portraits and renders keep their own definitions.
        most: Read so many renders at most.
    """
    drawn, hidden, _ = read_renders(renders, most)
    morphs, change, shift = read_webmorph(data), None, np.zeros((68, 2))
    if mesh is not None:
        with np.load(mesh) as file:
            place = {name: i for i, name in enumerate(file["names"].tolist())}
            meshes = file["mesh"]

        def found(known: FaceDataset) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            rows = [i for i, name in enumerate(known.sample_ids.tolist()) if name in place]
            names = known.sample_ids[rows].tolist()
            return meshes[[place[name] for name in names]], known.keypoints.xy[rows]

        of_drawn, xy = found(drawn)
        gap = np.median(np.linalg.norm(mesh_to_68(of_drawn) - xy, axis=-1), axis=1)
        right = gap < _WRONG_PX
        change = fit_definition(of_drawn[right], xy[right])
        of_morphs, xy = found(morphs.subset(np.flatnonzero(~held_out(morphs))))
        shift = shift_of(mesh_to_68(of_morphs, change), xy)
    portraits = read_portraits(data / "clean", change)
    drawn, portraits = (
        replace(part, keypoints=Keypoints(shift_labels(part.keypoints.xy, shift), IBUG68))
        for part in (drawn, portraits)
    )
    faces = join_faces([drawn, portraits, morphs], str(data))
    sets = set_names(faces)
    trust = np.array([_TRUST[s] for s in sets], np.float32)[:, None] * np.ones(68, np.float32)
    trust[sets == "render"] *= np.where(hidden, _HIDDEN, 1.0)
    return faces, trust


def train_open(
    renders: Path,
    data: Path,
    directory: Path,
    *,
    mesh: Path | None = None,
    steps: int = 20_000,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
    most: int | None = None,
    resume: bool = False,
    force: bool = False,
    report: Callable[[str], None] | None = None,
) -> ModelSpec:
    """Train the model and leave ``model.keras`` and ``model.onnx`` in a folder (:func:`references.points68.train`).

    Args:
        renders: As for :func:`read_faces`.
        data: As for :func:`read_faces`.
        directory: The folder to make.
        mesh: As for :func:`read_faces`.
        steps: Steps of the optimiser, those of before included.
        batch_size: Views of a step.
        learning_rate: Highest rate of AdamW, which follows a cosine to zero.
        seed: Of the weights and the views.
        most: Read so many renders at most.
        resume: Go on in ``directory``.
        force: Replace what is in ``directory``.
        report: Told how it goes, one line at a time; ``history.txt`` gets the same lines.

    Returns:
        The model's description.
    """
    spec = spec_of("open")
    keras.utils.set_random_seed(seed)
    inputs = (renders, data)
    with (
        output_folder(directory, verb="references.open", inputs=inputs, force=force, resume=resume),
        (directory / "history.txt").open("a", encoding="utf-8") as history,
    ):
        say = teller(history, report)
        faces, trust = read_faces(renders, data, mesh, most)
        sets, held = set_names(faces), held_out(faces)
        say(", ".join(f"{(sets == s).sum()} {s}" for s in _SHARE) + f"; {held.sum()} held out")
        net = network(faces.subset(np.flatnonzero(sets == "portraits")), 1)
        state = load_last(net, directory)
        # Of the held-out renders a few are enough.
        few = np.array(
            [
                sets[i] != "render" or zlib.crc32(n.encode()) % 4 == 0
                for i, n in enumerate(faces.sample_ids)
            ]
        )
        chance = ~held * np.array([_SHARE[s] / (sets == s).sum() for s in sets])
        views = Views(
            faces.images, faces.keypoints.xy[:, np.newaxis], chance, trust,
            batch=batch_size, seed=seed, rough=True,
        )  # fmt: skip
        train(
            net, spec, views, sets != "webmorph", faces.subset(np.flatnonzero(held & few)), directory,
            state=state, steps=steps, learning_rate=learning_rate, learnt=set(image_digests(faces.images)), say=say,
        )  # fmt: skip
    return spec
