"""Teaches a trained detector somebody's own keypoints from tens of labelled faces, in seconds.

The backbone stays as it is and a new head is fitted in closed form (:mod:`models.transfer`) on plain
and changed views of the faces. Training all weights after that was tried with 50 to 700 faces: on
people it had not seen the detector never got better by it, and mostly worse.

What is left is a run folder (:mod:`facial_keypoints.training.run_folder`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from facial_keypoints.data.cache import data_digest
from facial_keypoints.data.duplicates import duplicate_groups, image_digests, join_groups
from facial_keypoints.errors import DataError, ModelError
from facial_keypoints.files import output_folder
from facial_keypoints.models.codec import CONFIDENCE
from facial_keypoints.models.keras_model import load_keras_model
from facial_keypoints.models.registry import find_model
from facial_keypoints.models.spec import ModelSpec, read_embedded_digests, read_embedded_spec
from facial_keypoints.models.tuned import backbone, build_tuned, linear_head
from facial_keypoints.schemas import select_keypoints
from facial_keypoints.training.augment import AugmentConfig, Augmenter, apply_affine, warp
from facial_keypoints.training.closed_form_head import FOLDS, Examples, fit_start
from facial_keypoints.training.run_folder import Run, begin, finish, load_run
from facial_keypoints.types import FaceDataset, Keypoints

__all__ = ["FinetunedRun", "finetune"]

SMALLEST = 5
"""Faces, and labels of a point that the base does not know: fewer say nothing about other faces."""

VIEWS = 8
"""Views of each face, the plain image among them."""

_ROWS = 2000  # views at most: solving for more takes minutes
_AUGMENT = AugmentConfig(
    # Narrower than in training from scratch: someone's own crops are framed alike.
    angle=15.0, scale=1.12, shift=4.0, wide=0.0, blur=0.2, low_resolution=0.15, occlusion=0.2
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class FinetunedRun(Run):
    """A finished run folder, and how its model does.

    Args:
        faces: The labelled faces that took part, N, in the model's keypoints.
        answers: (N, K, 2) what a head fitted without the face (and its group) answers for it,
            pixels: an honest estimate of the model's error, slightly too high since the model
            itself is fitted to all faces.
        base_answers: (N, K, 2) the base's answers in its best style, NaN for points it does not know.
        style: That style.
    """

    faces: FaceDataset
    answers: NDArray[np.float32]
    base_answers: NDArray[np.float32]
    style: str


def finetune(
    dataset: FaceDataset,
    directory: Path | str,
    *,
    base: str | os.PathLike[str] = "default",
    seed: int = 0,
    force: bool = False,
    report: Callable[[str], None] | None = None,
) -> FinetunedRun:
    """Adapt a detector to labelled faces and leave a run folder.

    Args:
        dataset: Faces at the base's input size and channels
            (``load_dataset(..., size=spec.input_size, channels=spec.channels)``). The model answers
            the points that are labelled in some face, and their left/right partners. Of more than
            2,000 faces a random 2,000 are used.
        directory: The run folder to make; nothing is left there when the work is interrupted.
        base: The model to start from, ``default``, a run folder or a ``.keras`` file.
        seed: Seed of the views and of the folds of cross-validation.
        force: Replace what is in ``directory``.
        report: Told what is going on.

    Raises:
        DataError: There are too few labels.
        ModelError: The base cannot be adapted, or takes other images.
        OutputError: The folder exists, or cannot be written.
    """
    directory = Path(directory)
    say = report or (lambda _: None)
    inputs = (dataset.source, base)
    with output_folder(directory, verb="train", inputs=inputs, force=force) as fresh:
        clock = time.monotonic()
        base_file = find_model(base, trainable=True)
        base_spec = read_embedded_spec(base_file)
        _check_images(dataset, base_spec)
        dataset = _labelled_part(dataset, base_spec, seed)
        digest = data_digest(dataset)
        told = {
            "model": str(base),
            "name": base_spec.name,
            "data_digest": base_spec.data_digest,
        }
        begin(fresh, {"base": told, "seed": seed, "data_digest": digest})
        old_names = base_spec.schema.keypoint_names
        new_names = dataset.schema.keypoint_names
        known = np.array([old_names.index(n) if n in old_names else -1 for n in new_names])

        network = load_keras_model(base_file)
        features, before = backbone(network), linear_head(network)
        say(f"looking at {len(dataset)} faces")
        examples = _examples(dataset, features, seed)
        say("fitting the points")
        start = fit_start(examples, before, known)
        model = build_tuned(features, start.head, start.anchor_xy)
        base_xy = before(examples.features[: len(dataset)])[:, start.style, known, :2]
        base_xy[:, known < 0] = np.nan

        spec = ModelSpec(
            name=f"{base_spec.name.removesuffix('-tuned')}-tuned",
            schema=dataset.schema,
            input_size=base_spec.input_size,
            channels=base_spec.channels,
            data_digest=digest,
            confidence=CONFIDENCE,
            output="points",
        )
        style = base_spec.styles[start.style]
        # The backbone is the base's, so the base's training faces are this model's too.
        learnt = {*image_digests(dataset.images), *(read_embedded_digests(base_file) or ())}
        record = {
            "style": style,
            "out_of_fold_px": start.out_of_fold_px,
            "choices": start.choices,
            "data_source": dataset.source,
            "faces": len(dataset),
            "views": len(examples.features),
            "seconds": round(time.monotonic() - clock, 3),
        }
        finish(fresh, model, spec, learnt=learnt, record=record)
    return FinetunedRun(
        **vars(load_run(directory)),
        faces=dataset,
        answers=start.out_of_fold.astype(np.float32),
        base_answers=base_xy.astype(np.float32),
        style=style,
    )


def _check_images(dataset: FaceDataset, spec: ModelSpec) -> None:
    if (dataset.image_size, dataset.images.shape[3]) != (spec.input_size, spec.channels):
        raise ModelError(
            f"the model '{spec.name}' takes images of {spec.input_size[1]}×{spec.input_size[0]} pixels "
            f"with {spec.channels} channel(s), but the data has {dataset.image_size[1]}×"
            f"{dataset.image_size[0]} with {dataset.images.shape[3]}: load it at that size."
        )


def _labelled_part(dataset: FaceDataset, base: ModelSpec, seed: int) -> FaceDataset:
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
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[:_ROWS])
    part = dataset.subset(rows)
    return FaceDataset(
        images=part.images,
        keypoints=Keypoints(part.keypoints.xy[:, kept], schema),
        sample_ids=part.sample_ids,
        source=part.source,
        styles=np.full(len(rows), ""),  # whatever they were: these labels are one style
        groups=part.groups,
    )


def _groups(dataset: FaceDataset) -> NDArray[np.int64]:
    """(N,) group numbers: the data's own groups, joined where images are near duplicates."""
    # Likeness of whole faces needs the eyes; other points would align images in odd ways.
    eyes = dataset.schema.norm_pair == ("left_eye_center", "right_eye_center")
    alike = duplicate_groups(dataset.images, dataset.keypoints if eyes else None)
    return np.asarray(join_groups(dataset.groups, alike), np.int64)


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
        # The augmenter counts in pixels of an image of 96, whatever the size of the input.
        centre, ratio = ops.full((n, 2), 47.5), self.size / 96.0
        matrix, flip = self.augmenter.geometry(centre, ops.zeros((n, 2)), ops.zeros((n,)))
        matrix = ratio * matrix + np.array([0.0, 0.0, (ratio - 1.0) / 2.0], np.float32)
        changed = self.augmenter.appearance(warp(images, matrix, self.size))
        moved = apply_affine(xy[:, None], matrix, flip, self.swap)[:, 0]
        partner = ops.take(weight, np.asarray(self.swap, "int32"), axis=1)
        weight = ops.where(flip[:, None] > 0.5, partner, weight)
        return changed[..., None], moved, weight


def _examples(dataset: FaceDataset, features: keras.Model, seed: int) -> Examples:
    """Features of plain and changed views of the faces; a group lies in one fold."""
    views = _Views(dataset, _AUGMENT, seed)
    images = dataset.images.astype(np.float32)
    repeats = max(1, min(VIEWS, _ROWS // len(dataset)))
    parts: list[tuple[NDArray[np.float32], ...]] = [(images, views.xy, views.weight)]
    for _ in range(repeats - 1):
        changed = views(images[..., 0], views.xy, views.weight)
        parts.append(tuple(np.asarray(ops.convert_to_numpy(a), np.float32) for a in changed))
    images, xy, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
    names, unit = np.unique(_groups(dataset), return_inverse=True)
    if len(names) < FOLDS:  # too few groups: whole faces, at least, stay together
        unit = np.arange(len(dataset))
    fold = (np.random.default_rng(seed).permutation(unit.max() + 1) % FOLDS)[unit]
    return Examples(
        features=np.asarray(features.predict(images, batch_size=64, verbose=0), np.float64),
        xy=xy.astype(np.float64),
        labelled=weight > 0,
        fold=np.tile(fold, repeats),
        faces=len(dataset),
    )
