"""Search spaces, and the settings that are drawn from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from facial_keypoints.errors import DataError
from facial_keypoints.training.recipes import RECIPES
from facial_keypoints.training.sweep import Range, draw_settings, load_space


def space(tmp_path: Path, text: str) -> dict[str, Range | tuple[float | int | str, ...]]:
    file = tmp_path / "space.yaml"
    file.write_text(text)
    return load_space(file)


def test_a_search_space_is_read(tmp_path: Path) -> None:
    found = space(
        tmp_path,
        "learning_rate: {min: 1e-4, max: 0.01, scale: log}\n"  # YAML takes 1e-4 for a text
        "batch_size: [32, 64]\n"
        "patience: {min: 5, max: 9}\n"
        "missing: [mask, mean]\n",
    )
    assert found == {
        "learning_rate": Range(1e-4, 0.01, log=True),
        "batch_size": (32, 64),
        "patience": Range(5, 9, whole=True),
        "missing": ("mask", "mean"),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n", "must map settings"),
        ("", "must map settings"),
        ("a: [1\n", "cannot be read"),
        ("epochs: [1, 2]\n", "must map settings"),
        ("batch_size: 3\n", "it is neither"),
        ("batch_size: []\n", "it is neither"),
        ("batch_size: {min: 3}\n", "it is neither"),
        ("batch_size: [1.5]\n", r"batch_size cannot be \[1.5\] \(no such number"),
        ("batch_size: [0]\n", "must be at least 1"),
        ("learning_rate: {min: 1, max: 0.1}\n", "min must be at most max"),
        ("learning_rate: {min: 0, max: 0.1, scale: log}\n", "more than 0 with"),
        ("flip_probability: {min: 0, max: 0.1, scale: log}\n", "more than 0 with"),
        ("flip_probability: [2]\n", "must be in \\[0, 1\\]"),
        ("missing: {min: mask, max: mean}\n", "no numbers to range over"),
        ("missing: [nothing]\n", "choose from"),
        ("loss: [mean_of_all]\n", "loss cannot be"),
    ],
)
def test_a_wrong_search_space_is_told(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        space(tmp_path, text)


def test_a_missing_search_space_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.yaml cannot be read \(.*No such file"):
        load_space(tmp_path / "none.yaml")


def test_settings_begin_with_the_recipe_itself_and_none_is_tried_twice() -> None:
    wide = {"learning_rate": Range(1e-4, 1e-2, log=True), "batch_size": (32, 64)}
    drawn = draw_settings(wide, RECIPES["fc"], 40, seed=1)
    assert drawn[0] == {"learning_rate": 0.01, "batch_size": 128}
    assert len(drawn) == 40
    assert drawn == draw_settings(wide, RECIPES["fc"], 40, seed=1)
    assert drawn != draw_settings(wide, RECIPES["fc"], 40, seed=2)
    rates = np.array([float(settings["learning_rate"]) for settings in drawn[1:]])
    assert ((rates >= 1e-4) & (rates <= 1e-2)).all()
    assert 10 <= (rates < 1e-3).sum() <= 29  # half of a logarithmic scale
    assert len({tuple(settings.values()) for settings in drawn}) == 40
    few = draw_settings({"missing": ("mask", "mean", "ffill")}, RECIPES["fc"], 40)
    assert sorted(str(settings["missing"]) for settings in few) == ["ffill", "mask", "mean"]


def test_whole_numbers_are_drawn_evenly_to_both_ends() -> None:
    rng = np.random.default_rng(0)
    drawn = [Range(1, 4, whole=True).draw(rng) for _ in range(400)]
    assert set(drawn) == {1, 2, 3, 4}
    assert all(isinstance(value, int) for value in drawn)
    drawn = [Range(8, 512, log=True, whole=True).draw(rng) for _ in range(400)]
    assert min(drawn) >= 8
    assert max(drawn) <= 512
    assert 150 < sum(float(value) < 64 for value in drawn) < 250
