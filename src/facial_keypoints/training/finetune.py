"""Adapts a trained model to a user's own keypoints, from tens of labelled faces and in seconds.

The backbone is kept, and a new head is fitted in closed form
(:mod:`facial_keypoints.training.closed_form_head`) on original and augmented views of the faces.
Training all weights afterwards was tried with 50 to 700 faces: the errors on other people did not
improve, and mostly grew. The result is a run folder
(:mod:`facial_keypoints.training.run_folder`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from facial_keypoints.data.cache import data_digest
from facial_keypoints.data.duplicates import duplicate_groups, image_digests, join_groups
from facial_keypoints.data.formats.faces import Photo
from facial_keypoints.errors import DataError
from facial_keypoints.files import output_folder
from facial_keypoints.models.codec import CONFIDENCE
from facial_keypoints.models.keras_model import load_keras_model
from facial_keypoints.models.registry import OWN_DETECTOR, find_model
from facial_keypoints.models.spec import ModelSpec, read_embedded_digests, read_embedded_spec
from facial_keypoints.models.tuned import backbone, build_tuned, read_head
from facial_keypoints.schemas import select_keypoints
from facial_keypoints.training.augment import AugmentConfig, Augmenter, apply_affine, warp
from facial_keypoints.training.closed_form_head import FOLDS, Examples, fit_start
from facial_keypoints.training.detector import train_detector
from facial_keypoints.training.fit import check_images
from facial_keypoints.training.run_folder import Run, begin, finish, load_run
from facial_keypoints.types import FaceDataset, Keypoints

__all__ = ["FinetunedRun", "finetune"]

SMALLEST = 5  # faces, and labels of a keypoint that the base does not have
VIEWS = 8  # of each face, the original image included

_ROWS = 2000  # most views: solving for more takes minutes
_AUGMENT = AugmentConfig(
    # Narrower than in training from scratch, because a user's crops are similar to each other.
    angle=15.0, scale=1.12, shift=4.0, wide=0.0, blur=0.2, low_resolution=0.15, occlusion=0.2
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class FinetunedRun(Run):
    """A finished run folder, with cross-validated predictions.

    Args:
        faces: The N labelled faces of the fit, in the model's keypoints.
        predicted_xy: (N, K, 2) predictions of heads fitted without the face (and its group), pixels.
            Their error is slightly higher than that of the model, which is fitted to all faces.
        base_xy: (N, K, 2) predictions of the base in its best style, NaN for points it does not have.
        style: That style.
    """

    faces: FaceDataset
    predicted_xy: NDArray[np.float32]
    base_xy: NDArray[np.float32]
    style: str


def finetune(
    dataset: FaceDataset,
    directory: Path | str,
    *,
    base: str | os.PathLike[str] = "default",
    photos: Sequence[Photo] | None = None,
    seed: int = 0,
    force: bool = False,
    report: Callable[[str], None] | None = None,
) -> FinetunedRun:
    """Adapt a model to labelled faces and write a run folder.

    Args:
        dataset: Faces at the base's input size and channels
            (``load_dataset(..., size=spec.input_size, channels=spec.channels)``). The model predicts
            the keypoints that are labelled in some face, and their left/right partners. Of more than
            2,000 faces a random 2,000 are used.
        directory: The run folder; nothing is written there if the work is interrupted.
        base: The model to start from: ``default``, a run folder or a ``.keras`` file.
        photos: The whole photos of the faces (:func:`facial_keypoints.data.formats.load_photos`), to train a
            face detector on as well, which finds such faces in other photos. It takes minutes.
        seed: Seed of the views and of the cross-validation folds.
        force: Replace what is in ``directory``.
        report: Called with the current step, for a progress display.

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
        check_images(dataset, base_spec)
        dataset = _labelled_part(dataset, base_spec, seed)
        digest = data_digest(dataset)
        described = {
            "model": str(base), "name": base_spec.name, "data_digest": base_spec.data_digest,
        }  # fmt: skip
        begin(fresh, {"base": described, "seed": seed, "data_digest": digest})
        old_names = base_spec.schema.keypoint_names
        new_names = dataset.schema.keypoint_names
        known = np.array([old_names.index(n) if n in old_names else -1 for n in new_names])

        network = load_keras_model(base_file)
        features, before = backbone(network), read_head(network)
        say(f"computing features of {len(dataset)} faces")
        examples = _examples(dataset, features, seed)
        say("fitting the head")
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
        # The backbone was trained on the base's training faces, so they count as this model's too.
        learnt = {*image_digests(dataset.images), *(read_embedded_digests(base_file) or ())}
        record = {
            "style": style,
            "out_of_fold_px": start.errors_px,
            "choices": start.choices,
            "data_source": dataset.source,
            "faces": len(dataset),
            "views": len(examples.features),
        }
        if photos is not None:
            found = train_detector(photos, fresh / OWN_DETECTOR, seed=seed, report=say)
            record["detector"] = asdict(found)
        record["seconds"] = round(time.monotonic() - clock, 3)
        finish(fresh, model, spec, learnt=learnt, record=record)
    return FinetunedRun(
        **vars(load_run(directory)),
        faces=dataset,
        predicted_xy=start.out_of_fold.astype(np.float32),
        base_xy=base_xy.astype(np.float32),
        style=style,
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
                f"and the model does not have it: label it in at least {SMALLEST}, or leave it out."
            )
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[:_ROWS])
    part = dataset.subset(rows)
    return FaceDataset(
        images=part.images,
        keypoints=Keypoints(part.keypoints.xy[:, kept], schema),
        sample_ids=part.sample_ids,
        source=part.source,
        styles=np.full(len(rows), ""),  # all labels are one style for the new model
        groups=part.groups,
    )


def _groups(dataset: FaceDataset) -> NDArray[np.int64]:
    """(N,) group numbers: the data's own groups, joined where images are near duplicates."""
    # Near-duplicates are found in images aligned by the eyes; other points would align them wrongly.
    eyes = dataset.schema.norm_pair == ("left_eye_center", "right_eye_center")
    alike = duplicate_groups(dataset.images, dataset.keypoints if eyes else None)
    return np.asarray(join_groups(dataset.groups, alike), np.int64)


class _Views:
    """Augmented views of faces with their points; ``seed`` is the first seed of the views."""

    def __init__(self, faces: FaceDataset, augment: AugmentConfig, seed: int) -> None:
        self.faces = faces
        self.size = faces.image_size[0]
        self.swap = faces.schema.swap
        self.augmenter = Augmenter(augment, self.size, self.swap, seed + 1)
        self.xy = np.nan_to_num(faces.keypoints.xy).astype(np.float32)
        self.weight = faces.keypoints.labeled.astype(np.float32)

    def __call__(self, images: Any, xy: Any, weight: Any) -> tuple[Any, Any, Any]:
        """Views ``(B, H, W, 1)``, points ``(B, K, 2)`` and label weights ``(B, K)`` of rows."""
        n = ops.shape(xy)[0]
        # The augmenter's moves are in pixels of a 96×96 image.
        centre, ratio = ops.full((n, 2), 47.5), self.size / 96.0
        matrix, flip = self.augmenter.geometry(centre, ops.zeros((n, 2)), ops.zeros((n,)))
        matrix = ratio * matrix + np.array([0.0, 0.0, (ratio - 1.0) / 2.0], np.float32)
        changed = self.augmenter.appearance(warp(images, matrix, self.size))
        moved = apply_affine(xy[:, None], matrix, flip, self.swap)[:, 0]
        partner = ops.take(weight, np.asarray(self.swap, "int32"), axis=1)
        weight = ops.where(flip[:, None] > 0.5, partner, weight)
        return changed[..., None], moved, weight


def _examples(dataset: FaceDataset, features: keras.Model, seed: int) -> Examples:
    """Features of original and augmented views of the faces; a group lies in one fold."""
    views = _Views(dataset, _AUGMENT, seed)
    images = dataset.images.astype(np.float32)
    repeats = max(1, min(VIEWS, _ROWS // len(dataset)))
    parts: list[tuple[NDArray[np.float32], ...]] = [(images, views.xy, views.weight)]
    for _ in range(repeats - 1):
        changed = views(images[..., 0], views.xy, views.weight)
        parts.append(tuple(np.asarray(ops.convert_to_numpy(a), np.float32) for a in changed))
    images, xy, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
    names, unit = np.unique(_groups(dataset), return_inverse=True)
    if len(names) < FOLDS:  # too few groups: only the views of a face stay together
        unit = np.arange(len(dataset))
    fold = (np.random.default_rng(seed).permutation(unit.max() + 1) % FOLDS)[unit]
    return Examples(
        features=np.asarray(features.predict(images, batch_size=64, verbose=0), np.float64),
        xy=xy.astype(np.float64),
        labelled=weight > 0,
        fold=np.tile(fold, repeats),
        faces=len(dataset),
    )
