"""Training, validation and test rows: by group, alike in label styles, the same for the same seed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.errors import DataError
from facial_keypoints.files import read_json, write_json
from facial_keypoints.types import FaceDataset

__all__ = ["Split", "split_dataset", "split_into_folds"]

_PARTS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of a data set in three disjoint parts.

    Args:
        train: Row indices, ascending, int64; likewise ``val`` and ``test``.
        val: See ``train``.
        test: See ``train``.
        seed: The seed it was drawn with.
    """

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]
    seed: int = 0

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, in one step.

        Raises:
            OutputError: The file cannot be written.
        """
        parts = {name: getattr(self, name).tolist() for name in _PARTS}
        write_json(Path(path), {"seed": self.seed, **parts})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Split:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: The file is missing or is no split.
        """
        try:
            content = read_json(Path(path))
            parts = {name: np.asarray(content[name], np.int64).reshape(-1) for name in _PARTS}
            return cls(**parts, seed=int(content["seed"]))
        except (OSError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{path} is no saved split ({error}); split the data again.") from error


def split_dataset(
    dataset: FaceDataset,
    *,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
) -> Split:
    """Split rows so that no group is on two sides and every part has its share of each style.

    Groups are dealt out from the largest, equal sizes in a random order, each to the part that
    lacks most of the styles it brings; a group that fits nowhere exactly makes its part a little
    too big.

    Args:
        dataset: Faces with ``groups`` and ``styles``.
        fractions: Shares of training, validation and test rows; they add up to 1.
        seed: The same seed gives the same split.

    Raises:
        ValueError: The fractions are not positive or do not add up to 1.
        DataError: There are fewer groups than parts, or groups so big that a part stays empty.
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions must be positive and add up to 1, received {fractions}.")
    train, val, test = _deal(dataset, fractions, seed, "a training, a validation and a test part")
    return Split(train, val, test, seed)


def split_into_folds(dataset: FaceDataset, folds: int, *, seed: int = 0) -> list[Split]:
    """Splits of a cross-validation: each row is a test row in one, and a validation row in another.

    The rows are dealt into ``folds`` parts of about one size, by group and style as
    :func:`split_dataset` does. Split number i tests part i, chooses on the part after it, and
    trains on the others.

    Args:
        dataset: Faces with ``groups`` and ``styles``.
        folds: Number of parts, at least 3.
        seed: The same seed gives the same parts.

    Raises:
        ValueError: Fewer than three folds.
        DataError: There are fewer groups than parts, or groups so big that a part stays empty.
    """
    if folds < 3:
        raise ValueError(
            f"a cross-validation needs at least 3 folds (to train, choose and test), received {folds}."
        )
    parts = _deal(dataset, (1 / folds,) * folds, seed, f"{folds} folds")
    splits = []
    for number in range(folds):
        chosen = (number + 1) % folds
        rest = [part for index, part in enumerate(parts) if index not in (number, chosen)]
        splits.append(Split(np.sort(np.concatenate(rest)), parts[chosen], parts[number], seed))
    return splits


def _deal(
    dataset: FaceDataset, fractions: tuple[float, ...], seed: int, wanted: str
) -> list[NDArray[np.int64]]:
    """Rows of each part, ascending; a group is in one part."""
    styles, style_of = np.unique(dataset.styles, return_inverse=True)
    groups, group_of = np.unique(dataset.groups, return_inverse=True)
    counts = np.zeros((len(groups), len(styles)))
    np.add.at(counts, (group_of, style_of), 1)
    totals = np.maximum(counts.sum(axis=0), 1)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(groups))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    # What each part still lacks of each style, as a share of that style: a rare style counts fully.
    room = np.outer(fractions, totals)
    part_of = np.empty(len(groups), np.int64)
    for group in order:
        # The deficit relative to the part's size spreads big groups over all parts in proportion.
        need = (room / totals / np.array(fractions)[:, None]) @ (counts[group] / totals)
        part = int(np.argmax(need))
        part_of[group] = part
        room[part] -= counts[group]
    rows = [np.flatnonzero(part_of[group_of] == part) for part in range(len(fractions))]
    if min(map(len, rows)) == 0:
        raise DataError(
            f"{dataset.source or 'the data'} has {len(dataset)} rows in {len(groups)} groups that "
            f"must stay together, too few for {wanted}; add images of more people."
        )
    return rows
