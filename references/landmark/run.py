"""The run folder of the shipped detector: everything that ``python -m references.landmark`` leaves behind.

``model.keras`` (with its description inside) and ``model.onnx`` are the detector, ``run.json`` says how
it was made and the errors of its cross-validation model on faces that this never saw, ``history.txt``
has the loss of every network, and ``networks/`` keeps those networks.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import keras
import numpy as np

from facial_keypoints.errors import DataError
from facial_keypoints.evaluation.metrics import median_point_error, nme, rmse
from facial_keypoints.files import output_folder
from facial_keypoints.models.codec import CONFIDENCE
from facial_keypoints.models.export import export_onnx
from facial_keypoints.models.landmark import NetworkConfig, Stage
from facial_keypoints.models.spec import ModelSpec
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.training import run_folder
from facial_keypoints.types import FaceDataset
from references.collection import (
    fold_numbers,
    learnt_digests,
    load_collection,
    set_names,
    style_numbers,
)
from references.landmark.train import DefaultConfig, FitConfig, predict_views, train_default

__all__ = ["QUICK", "collection_digest", "train_default_run"]

_SMALL = NetworkConfig((Stage("res", 16, 1),), stem_channels=16, pool_channels=8)
_FEW = FitConfig(steps=4, batch_size=16)
QUICK = DefaultConfig(
    teacher_folds=(1,), teacher=_FEW, student=_FEW, polish=_FEW,
    teacher_network=_SMALL, student_network=_SMALL, refit_views=1,
)  # fmt: skip
"""Tiny networks and a few steps: shows that data and machine go the whole way, not more."""


def collection_digest(faces: FaceDataset) -> str:
    """SHA-256 of the pixels, points, styles, groups and names of all faces, in their order."""
    digest = hashlib.sha256()
    points = np.nan_to_num(faces.keypoints.xy, nan=-1.0)
    for array in (faces.images, points, style_numbers(faces)):
        digest.update(np.ascontiguousarray(array).tobytes())
    for names in (faces.groups, faces.sample_ids):
        digest.update("\n".join(names.tolist()).encode())
    return digest.hexdigest()


def train_default_run(
    data: Path,
    directory: Path,
    *,
    config: DefaultConfig | None = None,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    threads: int = 8,
    report: Callable[[str], None] | None = None,
) -> ModelSpec:
    """Train the shipped detector from a data folder and leave a run folder.

    Args:
        data: The folder that :func:`references.collection.load_collection` reads.
        directory: The run folder to make.
        config: How; the shipped model's own when left out.
        seed: Added to every seed of the configuration; 0 is the shipped model's.
        resume: Continue in ``directory``: finished networks are kept, the one that was being trained
            starts anew.
        force: Replace what is in ``directory``.
        threads: For reading and cutting images.
        report: Told what is going on, one line at a time; ``history.txt`` gets the same lines.

    Returns:
        The detector's description, with the digest of the data.

    Raises:
        DataError: The folder holds no labelled faces, none of a fold, or damaged ones.
        OutputError: The run folder exists, was begun with other settings or data, or cannot be
            written.
    """
    config = _seeded(config or DefaultConfig(), seed)
    with output_folder(
        directory, verb="references.landmark", inputs=(data,), force=force, resume=resume
    ):
        faces = load_collection(data, threads=threads, report=report)
        folds, sets = fold_numbers(faces), set_names(faces)
        for fold in {*config.teacher_folds, config.held_out_fold}:
            if not (folds == fold).any() or (folds == fold).all():
                raise DataError(
                    f"{data} has too few faces: none are in fold {fold}, or all are. Add labelled faces."
                )
        digest = collection_digest(faces)
        settings = {"config": asdict(config), "seed": seed, "data_digest": digest}
        run_folder.begin(directory, settings)

        clock = time.monotonic()
        with (directory / "history.txt").open("a", encoding="utf-8") as history:

            def say(line: str) -> None:
                history.write(f"{line}\n")
                history.flush()  # read while hours of training go on
                if report is not None:
                    report(line)

            net = train_default(faces, directory / "networks", config, threads=threads, report=say)
        spec = ModelSpec(
            name="landmark",
            schema=KAGGLE15,
            styles=KAGGLE15.styles,
            input_size=config.student_network.input_size,
            data_digest=digest,
            confidence=CONFIDENCE,
            output="points",
        )
        run_folder.finish(
            directory,
            net,
            spec,
            learnt=learnt_digests(data, spec.input_size, threads=threads),
            record={
                "data_source": str(data),
                "faces": {str(s): int((sets == s).sum()) for s in np.unique(sets)},
                "held_out": _held_out_errors(directory / "networks", faces, config, threads),
                "seconds": round(time.monotonic() - clock, 3),
            },
        )
        export_onnx(directory / "model.keras", directory / "model.onnx")
        return spec


def _seeded(config: DefaultConfig, seed: int) -> DefaultConfig:
    def moved(fit: FitConfig) -> FitConfig:
        return replace(fit, seed=fit.seed + 100 * seed)

    return replace(
        config,
        teacher=moved(config.teacher),
        student=moved(config.student),
        polish=moved(config.polish),
    )


def _held_out_errors(
    networks: Path, faces: FaceDataset, config: DefaultConfig, threads: int
) -> dict[str, dict[str, float]]:
    """Errors of the cross-validation model by set on its held-out faces, one view of each crop's middle."""
    model = keras.saving.load_model(networks / "cross_validation.keras", compile=False)
    held = np.flatnonzero(fold_numbers(faces) == config.held_out_fold)
    sets = set_names(faces)[held]
    middle = np.full((len(faces), 2), (faces.images.shape[1] - 1) / 2.0, np.float32)
    xy, _ = predict_views(model, faces, held, centre_xy=middle, threads=threads)
    own = xy[np.arange(len(held)), style_numbers(faces)[held]]
    truth = faces.keypoints.xy[held]
    errors = {}
    for name in np.unique(sets):
        rows = sets == name
        errors[str(name)] = {
            "faces": int(rows.sum()),
            "rmse_px": rmse(truth[rows], own[rows]),
            "median_px": median_point_error(truth[rows], own[rows]),
            "nme": nme(truth[rows], own[rows], KAGGLE15.norm_indices)[0],
        }
    return errors
