"""Adapts a trained model to a user's own keypoints, from tens to thousands of labelled faces.

Either the backbone is kept, and a new head is fitted in closed form
(:mod:`facial_keypoints.training.closed_form_head`) on original and augmented views of the faces, which takes
seconds; or all weights are trained further, with the recipe ``landmark``, which takes minutes. From hundreds of
faces on both are tried and measured on held-out faces. The result is a run folder
(:mod:`facial_keypoints.training.run_folder`).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from facial_keypoints.data.cache import data_digest
from facial_keypoints.data.duplicates import duplicate_groups, image_digests, join_groups
from facial_keypoints.data.formats.faces import Photo, fit_images
from facial_keypoints.data.splits import Split, split_dataset
from facial_keypoints.errors import DataError
from facial_keypoints.evaluation.metrics import bootstrap_rmse, percentile_interval, squared_errors
from facial_keypoints.files import output_folder, read_json, write_json
from facial_keypoints.models.codec import CONFIDENCE
from facial_keypoints.models.keras_model import load_keras_model
from facial_keypoints.models.registry import OWN_DETECTOR, find_model
from facial_keypoints.models.spec import ModelSpec, read_embedded_digests, read_embedded_spec
from facial_keypoints.models.tuned import LinearHead, backbone, build_tuned, read_head
from facial_keypoints.schemas import select_keypoints
from facial_keypoints.training.augment import AugmentConfig, Augmenter, apply_affine, warp
from facial_keypoints.training.closed_form_head import FOLDS, Examples, fit_start
from facial_keypoints.training.detector import train_detector
from facial_keypoints.training.fit import predict_run, train
from facial_keypoints.training.learning_curve import learning_curve
from facial_keypoints.training.recipes import FROM_RATE, RECIPES
from facial_keypoints.training.run_folder import Run, begin, finish, load_run
from facial_keypoints.types import FaceDataset, FloatArray, ImageArray, Keypoints, KeypointSchema

__all__ = ["METHODS", "FinetunedRun", "Method", "finetune"]

Method = Literal["auto", "head", "all"]
METHODS: tuple[Method, ...] = get_args(Method)

HUNDREDS = 100
"""Faces from which ``auto`` tries all weights too."""

FEWEST_GROUPS = 20
"""Groups of faces from which all weights are trained: some of them choose the best epoch, some measure."""

EPOCHS = 40
"""Of a training of all weights."""

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
        faces: N labelled faces in the model's keypoints: of a head all faces of the fit, of a training of all
            weights its test faces.
        predicted_xy: (N, K, 2) predictions, pixels: of heads fitted without the face (and its group), whose
            error is slightly higher than that of the model, which is fitted to all faces; or of the model itself
            for its test faces. NaN where all faces are of one group, or where the base was trained on the face:
            nothing then shows the error on new faces.
        base_xy: (N, K, 2) predictions of the base in its best style, NaN for points it does not have.
        style: That style.
        folds: Number of folds of the cross-validation by groups; 1 if all faces are of one group, 0 for a
            training of all weights.
        known_faces: (N,) bool: faces that the base was trained on.
    """

    faces: FaceDataset
    predicted_xy: NDArray[np.float32]
    base_xy: NDArray[np.float32]
    style: str
    folds: int
    known_faces: NDArray[np.bool_]


def finetune(
    dataset: FaceDataset,
    directory: Path | str,
    *,
    base: str | os.PathLike[str] = "default",
    method: Method = "auto",
    photos: Sequence[Photo] | None = None,
    seed: int = 0,
    force: bool = False,
    report: Callable[[str], None] | None = None,
) -> FinetunedRun:
    """Adapt a model to labelled faces and write a run folder.

    Args:
        dataset: Faces of any size, grey or colour; they are brought to the base's input as prediction does it.
            The model predicts the keypoints that are labelled in some face, and their left/right partners. Of
            more than 2,000 faces the head is fitted to a random 2,000.
        directory: The run folder; nothing is written there if the work is interrupted.
        base: The model to start from: ``default``, a run folder or a ``.keras`` file.
        method: ``head`` fits a new head in closed form, in seconds; ``all`` trains all weights, for minutes;
            ``auto`` does both from 100 faces on, and keeps the one with the lower error on held-out faces.
        photos: The whole photos of the faces (:func:`facial_keypoints.data.formats.load_photos`), to train a
            face detector on as well, which finds such faces in other photos. It takes minutes.
        seed: Seed of the views, of the cross-validation folds and of the held-out faces.
        force: Replace what is in ``directory``.
        report: Called with the current step, for a progress display.

    Raises:
        DataError: There are too few labels.
        ModelError: The base cannot be adapted.
        OutputError: The folder exists, or cannot be written.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, received {method!r}.")
    directory = Path(directory)
    say = report or (lambda _: None)
    inputs = (dataset.source, base)
    with output_folder(directory, verb="train", inputs=inputs, force=force) as fresh:
        clock = time.monotonic()
        start = _Base.open(base)
        faces = _labelled_part(_fitted(dataset, start.spec), start.spec)
        faces = faces.with_groups(_groups(faces).astype(np.str_))
        groups = len(np.unique(faces.groups))
        if method == "all" and groups < FEWEST_GROUPS:
            raise DataError(
                f"{faces.source or 'the data'} has {groups} groups of faces, too few to train all weights and to "
                f"measure the result: label faces of at least {FEWEST_GROUPS} groups, or use the method head."
            )
        record: dict[str, Any] = {"method": "head"}
        if photos is not None:  # first, since it may refuse them
            found = train_detector(photos, fresh / OWN_DETECTOR, seed=seed, report=say)
            record["detector"] = asdict(found)
        if method == "all" or (
            method == "auto" and len(faces) >= HUNDREDS and groups >= FEWEST_GROUPS
        ):
            trained, compared, curve = _compare(faces, start, fresh / "all", seed, say)
            record["compared"] = compared
            if method == "all" or compared["all_px"] < compared["head_px"]:
                record |= {"method": "all", "learning_curve": curve}
        if record["method"] == "all":
            measured = _keep_all(faces, start, trained, fresh)
        else:
            measured = _write_head(faces, start, fresh, seed, say)
        shutil.rmtree(fresh / "all", ignore_errors=True)
        record["seconds"] = round(time.monotonic() - clock, 3)
        write_json(fresh / "run.json", {**read_json(fresh / "run.json"), **record})
    return FinetunedRun(**vars(load_run(directory)), **measured)


@dataclass(frozen=True, eq=False)
class _Base:
    """The model to start from, taken apart."""

    name: str
    file: Path
    spec: ModelSpec
    features: keras.Model
    head: LinearHead

    @classmethod
    def open(cls, base: str | os.PathLike[str]) -> _Base:
        file = find_model(base, trainable=True)
        spec = read_embedded_spec(file)
        network = load_keras_model(file)
        return cls(str(base), file, spec, backbone(network), read_head(network))

    def known(self, schema: KeypointSchema) -> NDArray[np.int64]:
        """(K,) index of each keypoint among those of the base, -1 where there is none."""
        names = self.spec.schema.keypoint_names
        return np.array([names.index(n) if n in names else -1 for n in schema.keypoint_names])

    def features_of(self, images: ImageArray) -> NDArray[np.float64]:
        found = self.features.predict(images.astype(np.float32), batch_size=64, verbose=0)
        return np.asarray(found, np.float64)

    def measured(
        self,
        faces: FaceDataset,
        predicted_xy: FloatArray,
        features: FloatArray,
        style: int,
        folds: int,
    ) -> dict[str, Any]:
        """What :class:`FinetunedRun` adds to a run."""
        known, seen = self.known(faces.schema), self.has_seen(faces)
        xy = self.head(features)[:, style, known, :2]
        xy[:, known < 0] = np.nan
        predicted = predicted_xy.astype(np.float32)
        predicted[seen] = xy[seen] = np.nan
        if folds == 1:
            predicted[:] = np.nan
        return {
            "faces": faces,
            "predicted_xy": predicted,
            "base_xy": xy.astype(np.float32),
            "style": self.spec.styles[style],
            "folds": folds,
            "known_faces": seen,
        }

    def digests(self) -> frozenset[bytes]:
        """Of the images that it was trained on, where they are known."""
        return read_embedded_digests(self.file) or frozenset()

    def has_seen(self, faces: FaceDataset) -> NDArray[np.bool_]:
        """(N,) whether it was trained on each image."""
        old = self.digests()
        return np.array([digest in old for digest in image_digests(faces.images)], bool)


def _write_head(
    faces: FaceDataset, base: _Base, folder: Path, seed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Fit the closed-form head to all faces and write the run folder; what was measured on them."""
    faces = _at_most(faces, seed)
    digest = data_digest(faces)
    described = {
        "model": base.name, "name": base.spec.name, "data_digest": base.spec.data_digest,
    }  # fmt: skip
    begin(folder, {"base": described, "seed": seed, "data_digest": digest})
    known = base.known(faces.schema)
    say(f"computing features of {len(faces)} faces")
    examples, folds = _examples(faces, base.features, seed)
    say("fitting the head")
    start = fit_start(examples, base.head, known)
    say("measuring with fewer labels")
    seen = base.has_seen(faces)
    curve = learning_curve(
        faces, examples, base.head, known, start.out_of_fold, without=seen, seed=seed
    )
    spec = ModelSpec(
        name=f"{base.spec.name.removesuffix('-tuned')}-tuned",
        schema=faces.schema,
        input_size=base.spec.input_size,
        channels=base.spec.channels,
        data_digest=digest,
        confidence=CONFIDENCE,
        output="points",
    )
    # The backbone was trained on the base's training faces, so they count as this model's too.
    learnt = {*image_digests(faces.images), *base.digests()}
    record = {
        "style": base.spec.styles[start.style],
        "folds": folds,
        "out_of_fold_px": None if folds == 1 or seen.any() else start.errors_px,
        "choices": start.choices,
        "data_source": faces.source,
        "faces": len(faces),
        "views": len(examples.features),
        "learning_curve": [asdict(point) for point in curve],
    }
    model = build_tuned(base.features, start.head, start.anchor_xy)
    finish(folder, model, spec, learnt=learnt, record=record)
    features = examples.features[: len(faces)]
    return base.measured(faces, start.out_of_fold, features, start.style, folds)


def _compare(
    faces: FaceDataset, base: _Base, folder: Path, seed: int, say: Callable[[str], None]
) -> tuple[Run, dict[str, Any], list[dict[str, Any]]]:
    """Train all weights into a folder, and measure them and a head on faces that neither has seen.

    Returns:
        The training, both errors, and the learning curve of the head.
    """
    split = split_dataset(faces, seed=seed)
    learnt, test = (faces.subset(rows) for rows in (np.union1d(split.train, split.val), split.test))
    say("fitting a head to compare with")
    learnt, known = _at_most(learnt, seed), base.known(faces.schema)
    examples, _ = _examples(learnt, base.features, seed)
    start = fit_start(examples, base.head, known)
    curve = learning_curve(
        learnt, examples, base.head, known, start.out_of_fold,
        without=base.has_seen(learnt), seed=seed,
    )  # fmt: skip
    head_xy = start.head(base.features_of(test.images))[:, 0, :, :2]
    recipe = RECIPES["landmark"].override(epochs=EPOCHS, learning_rate=FROM_RATE)
    told = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: say(f"training all weights: epoch {epoch + 1} of {EPOCHS}")
    )
    say("training all weights")
    run = train(faces, split, recipe, folder, seed=seed, base=str(base.file), callbacks=[told])
    squared = np.stack(
        [
            squared_errors(test.keypoints.xy, xy).reshape(len(test), -1)
            for xy in (head_xy, predict_run(run, test))
        ],
        axis=1,
    )
    draws = bootstrap_rmse(squared, test.groups, seed=seed)
    head_px, all_px = np.sqrt(np.nanmean(squared, axis=(0, 2))).tolist()
    compared = {
        "test_faces": len(test), "head_px": head_px, "all_px": all_px,
        "difference_px": percentile_interval(draws[:, 0] - draws[:, 1]),
    }  # fmt: skip
    return run, compared, [asdict(point) for point in curve]


def _keep_all(faces: FaceDataset, base: _Base, run: Run, folder: Path) -> dict[str, Any]:
    """Make a training of all weights the run folder; what it was measured on: its test faces."""
    test = faces.subset(cast(Split, run.split).test)
    predicted = predict_run(run, test)
    for file in run.directory.iterdir():
        file.replace(folder / file.name)
    features = base.features_of(test.images)
    return base.measured(test, predicted, features, 0, 0)


def _fitted(dataset: FaceDataset, spec: ModelSpec) -> FaceDataset:
    """The faces at a model's input size and channels."""
    if (dataset.image_size, dataset.images.shape[3]) == (spec.input_size, spec.channels):
        return dataset
    images, xy = fit_images(
        list(dataset.images), dataset.keypoints.xy, spec.input_size, spec.channels
    )
    keypoints = replace(dataset.keypoints, xy=xy)
    return replace(dataset, images=images, keypoints=keypoints)


def _at_most(dataset: FaceDataset, seed: int) -> FaceDataset:
    """The faces, or a random part of them."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(dataset))[:_ROWS])
    return dataset.subset(rows)


def _labelled_part(dataset: FaceDataset, base: ModelSpec) -> FaceDataset:
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


def _examples(dataset: FaceDataset, features: keras.Model, seed: int) -> tuple[Examples, int]:
    """Features of original and augmented views of the faces, and the number of folds by groups.

    A group lies in one fold. If all faces are of one group, only the views of a face stay together: that
    chooses a head, but does not measure it.
    """
    views = _Views(dataset, _AUGMENT, seed)
    images = dataset.images.astype(np.float32)
    repeats = max(1, min(VIEWS, _ROWS // len(dataset)))
    parts: list[tuple[NDArray[np.float32], ...]] = [(images, views.xy, views.weight)]
    for _ in range(repeats - 1):
        changed = views(images[..., 0], views.xy, views.weight)
        parts.append(tuple(np.asarray(ops.convert_to_numpy(a), np.float32) for a in changed))
    images, xy, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
    names, unit = np.unique(_groups(dataset), return_inverse=True)
    folds = min(FOLDS, len(names))
    if folds == 1:
        unit = np.arange(len(dataset))
    order = np.random.default_rng(seed).permutation(unit.max() + 1)
    fold = (order % (folds if folds > 1 else FOLDS))[unit]
    examples = Examples(
        features=np.asarray(features.predict(images, batch_size=64, verbose=0), np.float64),
        xy=xy.astype(np.float64),
        labelled=weight > 0,
        fold=np.tile(fold, repeats),
        faces=len(dataset),
    )
    return examples, folds
