"""Predictions against labels: one report per recipe, and the comparison of recipes.

Knows arrays and metrics, not models: predictions come as (N, K, 2) pixels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.evaluation import metrics
from facial_keypoints.evaluation.metrics import Interval
from facial_keypoints.files import json_safe
from facial_keypoints.types import FaceDataset, FloatArray

__all__ = [
    "CED_THRESHOLDS",
    "ComparisonResult",
    "EvaluationReport",
    "HeldOutReport",
    "KeypointScores",
    "RecipeResult",
    "Scores",
    "evaluate_held_out",
    "evaluate_predictions",
    "rank",
]

CED_THRESHOLDS = np.linspace(0.0, 0.20, 201)
"""NME values at which reports store the CED curve: from 0 to twice the failure threshold."""

FAILURE_THRESHOLD = 0.10
"""NME above which a face counts as a failure, and end of the AUC (the literature's 10 %)."""

PCK_THRESHOLDS = (0.05, 0.10)
"""Shares of the norm distance at which PCK is reported."""


@dataclass(frozen=True)
class KeypointScores:
    """Errors of one keypoint in pixels; NaN where nothing is labelled.

    Args:
        name: Keypoint name.
        num_labels: Labelled points behind the numbers.
        rmse_px: Over the labelled coordinates.
        rmse_interval: 95 % bootstrap interval of ``rmse_px``.
        mae_px: Mean absolute coordinate error.
        median_px: Median Euclidean error.
    """

    name: str
    num_labels: int
    rmse_px: float
    rmse_interval: Interval
    mae_px: float
    median_px: float


@dataclass(frozen=True, eq=False)
class Scores:
    """Errors of one set of faces; NaN where nothing is labelled.

    Args:
        num_faces: Faces of the set, labelled or not.
        num_groups: Groups (persons, near-duplicates) among them: what the bootstrap resamples.
        num_labels: Labelled points; there are two coordinates to each.
        rmse_px: Over the labelled coordinates (Kaggle's formula).
        rmse_interval: 95 % bootstrap interval of ``rmse_px``.
        mae_px: Mean absolute coordinate error.
        median_px: Median Euclidean point error.
        nme: Mean over faces of mean point error / norm distance, a fraction.
        nme_faces: Faces behind ``nme``, AUC, failure rate and CED.
        nme_missing: Faces with labels that lack the norm pair and therefore do not count in ``nme``.
        auc: Area under the CED curve up to 0.10, 1 is perfect.
        failure_rate: Share of faces with an NME above 0.10.
        pck: Share of points within a share of the norm distance, by that share.
        ced: (201,) share of faces with an NME of at most :data:`CED_THRESHOLDS`.
        keypoints: One entry per keypoint in schema order.
    """

    num_faces: int
    num_groups: int
    num_labels: int
    rmse_px: float
    rmse_interval: Interval
    mae_px: float
    median_px: float
    nme: float
    nme_faces: int
    nme_missing: int
    auc: float
    failure_rate: float
    pck: Mapping[float, float]
    ced: NDArray[np.float64]
    keypoints: tuple[KeypointScores, ...]


@dataclass(frozen=True, eq=False)
class EvaluationReport:
    """How well predictions match the labels of a dataset.

    Args:
        schema_name: Schema of the keypoints.
        norm_pair: The two keypoints whose distance normalises NME and PCK.
        source: Where the faces came from.
        seed: Seed of the bootstrap.
        overall: All faces.
        by_style: The faces of each label style, in order of name.
    """

    schema_name: str
    norm_pair: tuple[str, str]
    source: str
    seed: int
    overall: Scores
    by_style: Mapping[str, Scores]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values: arrays become lists, NaN becomes ``None``."""
        return dict(json_safe(dataclasses.asdict(self)))


def _scores(dataset: FaceDataset, predicted: FloatArray, seed: int) -> Scores:
    truth = dataset.keypoints.xy.astype(np.float64)
    pair = dataset.schema.norm_indices
    drawn = metrics.bootstrap_rmse(
        metrics.squared_errors(truth, predicted), dataset.groups, seed=seed
    )
    faces = metrics.face_nme(truth, predicted, pair)
    nme, nme_faces, nme_missing = metrics.nme(truth, predicted, pair)
    per_keypoint = metrics.rmse_per_keypoint(truth, predicted)
    counts = dataset.label_counts
    return Scores(
        num_faces=len(dataset),
        num_groups=len(np.unique(dataset.groups)),
        num_labels=int(counts.sum()),
        rmse_px=metrics.rmse(truth, predicted),
        rmse_interval=metrics.bootstrap_interval(truth, predicted, dataset.groups, seed=seed),
        mae_px=metrics.mae(truth, predicted),
        median_px=metrics.median_point_error(truth, predicted),
        nme=nme,
        nme_faces=nme_faces,
        nme_missing=nme_missing,
        auc=metrics.auc_at(faces, FAILURE_THRESHOLD),
        failure_rate=metrics.failure_rate(faces, FAILURE_THRESHOLD),
        pck={t: metrics.pck(truth, predicted, pair, t) for t in PCK_THRESHOLDS},
        ced=metrics.ced_curve(faces, CED_THRESHOLDS),
        keypoints=tuple(
            KeypointScores(
                name=name,
                num_labels=int(counts[k]),
                rmse_px=float(per_keypoint[k]),
                rmse_interval=metrics.percentile_interval(drawn[:, k]),
                mae_px=metrics.mae(truth[:, k : k + 1], predicted[:, k : k + 1]),
                median_px=metrics.median_point_error(truth[:, k : k + 1], predicted[:, k : k + 1]),
            )
            for k, name in enumerate(dataset.schema.keypoint_names)
        ),
    )


def evaluate_predictions(
    dataset: FaceDataset, predicted_xy: FloatArray, *, seed: int = 0
) -> EvaluationReport:
    """Measure predictions on a dataset: overall, per label style and per keypoint.

    Args:
        dataset: N faces with labels (NaN = not labelled), label styles and groups.
        predicted_xy: (N, K, 2) pixels, finite wherever there is a label.
        seed: Seed of the bootstrap; reports with the same seed on the same faces are paired.

    Returns:
        Every number with its count of labels; NaN, not an error, where there is none.

    Raises:
        ValueError: Shapes differ, or a prediction is not finite at a labelled point.
    """
    predicted = np.asarray(predicted_xy, np.float64)
    overall = _scores(dataset, predicted, seed)
    by_style = {
        str(style): _scores(dataset.subset(rows), predicted[rows], seed)
        for style in np.unique(dataset.styles)
        for rows in [np.flatnonzero(dataset.styles == style)]
    }
    return EvaluationReport(
        schema_name=dataset.schema.name,
        norm_pair=dataset.schema.norm_pair,
        source=dataset.source,
        seed=seed,
        overall=overall,
        by_style=by_style,
    )


@dataclass(frozen=True, eq=False)
class HeldOutReport:
    """Errors of a model on faces that it was not trained on and, separately, on its training faces.

    Args:
        held_out: The faces that are not known to be training faces; no faces, and NaN, where all are.
        on_training_faces: The model's training and validation faces; ``None`` where there are none,
            or none are known.
        num_training_faces: How many these are; ``None`` where the model does not say which faces it
            learnt from, so that any face of ``held_out`` may be a training face.
    """

    held_out: EvaluationReport
    on_training_faces: EvaluationReport | None
    num_training_faces: int | None

    def to_dict(self) -> dict[str, Any]:
        """The report on the held-out faces, as plain JSON values, with two more entries.

        ``training_faces`` is their number (``None`` if not known), ``on_training_faces`` the report on
        them (``None`` if there is none).
        """
        apart = self.on_training_faces
        return {
            **self.held_out.to_dict(),
            "training_faces": self.num_training_faces,
            "on_training_faces": None if apart is None else apart.to_dict(),
        }


def evaluate_held_out(
    dataset: FaceDataset,
    predicted_xy: FloatArray,
    seen: Sequence[bool] | NDArray[np.bool_] | None,
    *,
    seed: int = 0,
) -> HeldOutReport:
    """Measure predictions separately on a model's training faces and on all other faces.

    Args:
        dataset: As for :func:`evaluate_predictions`.
        predicted_xy: As for :func:`evaluate_predictions`.
        seen: (N,) whether a face is a training or validation face; ``None`` if that is not known.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: As for :func:`evaluate_predictions`.
    """
    training = np.zeros(len(dataset), bool) if seen is None else np.asarray(seen, bool)

    def part(rows: NDArray[np.bool_]) -> EvaluationReport:
        index = np.flatnonzero(rows)
        return evaluate_predictions(dataset.subset(index), predicted_xy[index], seed=seed)

    return HeldOutReport(
        held_out=part(~training),
        on_training_faces=part(training) if training.any() else None,
        num_training_faces=None if seen is None else int(training.sum()),
    )


@dataclass(frozen=True, eq=False)
class RecipeResult:
    """One recipe, trained and measured on the held-out faces.

    Args:
        name: Recipe name, as in ``cnn-flip``.
        description: One sentence about it.
        report: Its evaluation.
        predicted_xy: (N, K, 2) pixels on the comparison's test faces.
        history: Per epoch, lists by Keras' names; ``rmse_px`` and ``val_rmse_px`` are drawn. Empty
            for what is not trained (a mean face).
        settings: What was chosen: epochs, batch size, loss, optimiser, missing-label strategy ...
        train_seconds: Wall clock of the training.
        num_parameters: Weights of the model.
        seen_faces: Number of the held-out faces that it was trained on; more than 0 for a shipped
            model only, whose error is then no measure of new faces.
    """

    name: str
    description: str
    report: EvaluationReport
    predicted_xy: FloatArray
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    train_seconds: float = math.nan
    num_parameters: int = 0
    seen_faces: int = 0

    @property
    def warning(self) -> str:
        """What a reader must know about its errors; empty if they are those on new faces."""
        if not self.seen_faces:
            return ""
        return f"trained on {self.seen_faces:,} of these test faces: no measure of new faces"

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, without the predictions."""
        values = dict(vars(self))
        del values["report"], values["predicted_xy"]
        return dict(json_safe({**values, "report": self.report.to_dict()}))


def rank(recipes: Sequence[RecipeResult]) -> tuple[RecipeResult, ...]:
    """Recipes from the lowest to the highest overall RMSE.

    Those without one (NaN) come after them, and those trained on some of the faces last.
    """

    def key(recipe: RecipeResult) -> tuple[bool, bool, float]:
        error = recipe.report.overall.rmse_px
        return recipe.seen_faces > 0, math.isnan(error), 0.0 if math.isnan(error) else error

    return tuple(sorted(recipes, key=key))


@dataclass(frozen=True, eq=False)
class ComparisonResult:
    """Recipes compared on the same held-out faces.

    Args:
        test: The held-out faces on which all recipes were measured.
        recipes: At least one, in the order they were trained.
        train: The training faces, for the chart of missing labels; ``None`` leaves it out.
        split: Counts and settings of the split, shown as they are (``{"train": 3845, ...}``).
        split_note: A sentence or two on how the split was made.
        missing_results: One recipe under several missing-label strategies, shown in a table of
            its own; ``name`` is the strategy.
        audit: Summary of the data audit, shown as it is; empty leaves it out.
        versions: Package versions.
        command: The command line that repeats the comparison.
        created: Date and time, as text.
        machine: The kind of machine, as text.

    Raises:
        ValueError: There is no recipe, names repeat, or predictions do not fit the test faces.
    """

    test: FaceDataset
    recipes: tuple[RecipeResult, ...]
    train: FaceDataset | None = None
    split: Mapping[str, Any] = field(default_factory=dict)
    split_note: str = ""
    missing_results: tuple[RecipeResult, ...] = ()
    audit: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    created: str = ""
    machine: str = ""

    def __post_init__(self) -> None:
        names = [r.name for r in self.recipes]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"recipes must be one or more with different names, received {names}.")
        shape = self.test.keypoints.xy.shape
        for recipe in self.recipes:
            if np.shape(recipe.predicted_xy) != shape:
                raise ValueError(
                    f"recipe '{recipe.name}': predicted_xy must have shape {shape}, "
                    f"received {np.shape(recipe.predicted_xy)}."
                )

    @property
    def ranking(self) -> tuple[RecipeResult, ...]:
        """The recipes from lowest to highest overall RMSE, as :func:`rank` orders them."""
        return rank(self.recipes)

    def difference(self, better: RecipeResult, worse: RecipeResult) -> tuple[float, Interval]:
        """How much lower one recipe's RMSE is than another's, with its 95 % interval, in px.

        The bootstrap is paired (both are resampled on the same groups), so a difference can be
        significant even where the two recipes' own intervals overlap.
        """
        truth = self.test.keypoints.xy
        columns = np.stack(
            [metrics.squared_errors(truth, r.predicted_xy) for r in (better, worse)], axis=1
        )
        drawn = metrics.bootstrap_rmse(columns, self.test.groups)
        gap = worse.report.overall.rmse_px - better.report.overall.rmse_px
        return gap, metrics.percentile_interval(drawn[:, 1] - drawn[:, 0])

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, without images and predictions."""
        return dict(
            json_safe(
                {
                    "source": self.test.source,
                    "schema": self.test.schema.name,
                    "created": self.created,
                    "command": self.command,
                    "machine": self.machine,
                    "versions": self.versions,
                    "split": self.split,
                    "split_note": self.split_note,
                    "ranking": [r.name for r in self.ranking],
                    "recipes": [r.to_dict() for r in self.recipes],
                    "missing_results": [r.to_dict() for r in self.missing_results],
                    "audit": self.audit,
                }
            )
        )
