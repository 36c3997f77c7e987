"""Recipes: a network with its missing-label strategy, augmentation, optimiser and schedule.

A recipe is data. Adding one here makes it known to ``train``, ``compare``, the help pages and the
tests. This module imports no Keras, so that the command line can list recipes at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["FROM_RATE", "RECIPES", "SPECIALIST_GROUPS", "Recipe"]

FROM_RATE = 5e-4
"""Learning rate for training a base's weights: at the recipe's own, the first epochs would undo what it learnt."""

SPECIALIST_GROUPS: Mapping[str, tuple[str, ...]] = {
    "eye-centers": ("left_eye_center", "right_eye_center"),
    "nose-tip": ("nose_tip",),
    "mouth": ("mouth_left_corner", "mouth_right_corner", "mouth_center_top_lip"),
    "bottom-lip": ("mouth_center_bottom_lip",),
    "eye-corners": (
        "left_eye_inner_corner",
        "left_eye_outer_corner",
        "right_eye_inner_corner",
        "right_eye_outer_corner",
    ),
    "brow-ends": (
        "left_eyebrow_inner_end",
        "left_eyebrow_outer_end",
        "right_eyebrow_inner_end",
        "right_eyebrow_outer_end",
    ),
}
"""Keypoints of each specialist. Left/right partners are in one group, since mirroring swaps them."""


@dataclass(frozen=True)
class Recipe:
    """How one model is built and trained.

    Args:
        name: Its name on the command line.
        description: One line for help pages and reports.
        network: ``fc`` or ``cnn`` of ``models.study``, or ``landmark`` of ``models.landmark``, which is
            trained on random views and answers in every label style, with confidence.
        optimizer: Keras' optimiser name.
        optimizer_options: Its arguments, ``learning_rate`` among them.
        loss: Keras' loss name, or ``points`` for that of ``training.losses``; it is averaged over
            labelled points only.
        batch_size: Rows per step.
        epochs: Largest number of passes over the training rows.
        patience: Epochs without a better validation error before training stops; 0 = never.
        missing: Strategy for unlabelled points, one of ``data.missing.MISSING_STRATEGIES``.
        flip_probability: Share of training rows that are mirrored, anew in each epoch.
        specialists: Train a network per group of keypoints on top of ``network``.
        specialist_epochs: Epochs of each of those, after its warm start.
    """

    name: str
    description: str
    network: str
    optimizer: str
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    loss: str = "mean_squared_error"
    batch_size: int = 128
    epochs: int = 50
    patience: int = 0
    missing: str = "mask"
    flip_probability: float = 0.0
    specialists: bool = False
    specialist_epochs: int = 12

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.epochs < 1 or self.specialist_epochs < 1:
            raise ValueError("batch size and epochs must be at least 1.")
        if self.patience < 0:
            raise ValueError(
                f"patience must be 0 (never stop early) or more, received {self.patience}."
            )
        if not 0.0 <= self.flip_probability <= 1.0:
            raise ValueError(
                f"flip probability must be in [0, 1], received {self.flip_probability}."
            )

    @property
    def learning_rate(self) -> float:
        """The first epoch's; it falls along half a cosine to nearly 0 in the last."""
        return float(self.optimizer_options["learning_rate"])

    def override(self, **changes: Any) -> Recipe:
        """The recipe with the given fields replaced; ``None`` keeps the recipe's own value.

        ``learning_rate`` goes into ``optimizer_options``.
        """
        changes = {key: value for key, value in changes.items() if value is not None}
        rate = changes.pop("learning_rate", None)
        if rate is not None:
            changes["optimizer_options"] = {**self.optimizer_options, "learning_rate": rate}
        return replace(self, **changes)


_CNN = Recipe(
    "cnn",
    "the study's convolutional network",
    network="cnn",
    optimizer="adam",
    optimizer_options={"learning_rate": 0.001},
)
_ALL = (
    Recipe(
        "fc",
        "the study's fully connected network",
        network="fc",
        optimizer="sgd",
        optimizer_options={"learning_rate": 0.1, "momentum": 0.9, "nesterov": True},
    ),
    _CNN,
    replace(
        _CNN,
        name="cnn-flip",
        description="the convolutional network, trained on faces mirrored at random",
        flip_probability=0.5,
    ),
    replace(
        _CNN,
        name="specialists",
        description="six convolutional networks, one per group of keypoints, warm-started from cnn",
        flip_probability=0.5,
        specialists=True,
    ),
    Recipe(
        "landmark",
        "the shipped model's network: random views, label styles, averaged weights, confidence",
        network="landmark",
        optimizer="adamw",
        optimizer_options={
            "learning_rate": 0.002,
            "weight_decay": 0.02,
            "clipnorm": 5.0,
            "use_ema": True,
            "ema_momentum": 0.995,
        },
        loss="points",
        batch_size=64,
        epochs=120,
        flip_probability=0.5,
    ),
)

RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in _ALL}
"""Every recipe by name."""
