"""Splits: groups stay whole, styles keep their shares, seeds decide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facial_keypoints.data.splits import Split, split_dataset, split_into_folds
from facial_keypoints.errors import DataError
from facial_keypoints.schemas import FIVE
from facial_keypoints.types import FaceDataset, Keypoints


def faces(groups: list[int], styles: list[str] | None = None) -> FaceDataset:
    n = len(groups)
    return FaceDataset(
        images=np.zeros((n, 2, 3, 1), np.uint8),
        keypoints=Keypoints(np.full((n, 5, 2), np.nan, np.float32), FIVE),
        sample_ids=np.arange(n).astype(str),
        source="faces.csv",
        styles=np.array(styles if styles else [""] * n),
        groups=np.array(groups, str),
    )


def parts(split: Split) -> list[np.ndarray]:
    return [split.train, split.val, split.test]


def test_rows_of_their_own_split_by_the_fractions() -> None:
    split = split_dataset(faces(list(range(100))), seed=1)
    assert [len(p) for p in parts(split)] == [70, 15, 15]


def test_styles_keep_their_shares_in_every_part() -> None:
    styles = ["a"] * 20 + ["b"] * 180
    split = split_dataset(faces(list(range(200)), styles), seed=0)
    assert [int((p < 20).sum()) for p in parts(split)] == [14, 3, 3]
    assert [len(p) for p in parts(split)] == [140, 30, 30]


def test_a_few_big_groups_of_one_style_reach_every_part() -> None:
    groups = [i // 10 for i in range(60)] + list(range(100, 300))
    split = split_dataset(faces(groups, ["a"] * 60 + ["b"] * 200), seed=3)
    assert all((p < 60).any() and (p >= 60).any() for p in parts(split))


@given(st.lists(st.integers(0, 25), min_size=40, max_size=120), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_every_row_is_in_one_part_and_every_group_on_one_side(groups: list[int], seed: int) -> None:
    data = faces(groups, [["a", "b"][g % 2] for g in groups])
    try:
        split = split_dataset(data, seed=seed)
    except DataError:
        assert len(set(groups)) < 8  # enough groups always split
        return
    assert sorted(np.concatenate(parts(split)).tolist()) == list(range(len(groups)))
    sides = [set(data.groups[p]) for p in parts(split)]
    assert sum(map(len, sides)) == len(set(groups))


def test_the_seed_decides() -> None:
    data = faces(list(range(50)))
    first, again, other = (split_dataset(data, seed=s) for s in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(parts(first), parts(again), strict=True))
    assert not np.array_equal(first.test, other.test)


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(DataError, match=r"faces.csv has 6 rows in 2 groups"):
        split_dataset(faces([0, 0, 0, 1, 1, 1]))
    with pytest.raises(ValueError, match="add up to 1"):
        split_dataset(faces([0, 1, 2]), fractions=(0.5, 0.1, 0.1))


def test_a_split_survives_its_file(tmp_path: Path) -> None:
    split = split_dataset(faces(list(range(20))), seed=4)
    split.save(tmp_path / "split.json")
    again = Split.load(tmp_path / "split.json")
    assert again.seed == 4
    assert all(np.array_equal(a, b) for a, b in zip(parts(split), parts(again), strict=True))


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"train": ["x"], "val": [], "test": [], "seed": 0}']
)
def test_a_bad_split_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(DataError, match=r"split\.json is no saved split"):
        Split.load(tmp_path / "split.json")


def test_folds_test_each_row_once_and_choose_on_each_once() -> None:
    groups = [i // 3 for i in range(60)]
    splits = split_into_folds(faces(groups, ["a", "b", "b"] * 20), 4, seed=2)
    assert sorted(np.concatenate([s.test for s in splits]).tolist()) == list(range(60))
    assert sorted(np.concatenate([s.val for s in splits]).tolist()) == list(range(60))
    for split in splits:
        assert [len(p) for p in parts(split)] == [30, 15, 15]
        assert sorted(np.concatenate(parts(split)).tolist()) == list(range(60))
        sides = [{groups[row] for row in part} for part in parts(split)]
        assert not sides[0] & sides[1]
        assert not sides[0] & sides[2]
        assert not sides[1] & sides[2]


def test_folds_are_the_same_for_the_same_seed_alone() -> None:
    data = faces(list(range(30)))
    first, again, other = (
        split_into_folds(data, 3, seed=seed)[0].test.tolist() for seed in (0, 0, 1)
    )
    assert first == again != other


def test_too_few_folds_or_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 folds"):
        split_into_folds(faces(list(range(30))), 2)
    with pytest.raises(DataError, match=r"30 rows in 3 groups .* too few for 4 folds"):
        split_into_folds(faces([i % 3 for i in range(30)]), 4)
