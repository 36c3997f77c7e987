"""Search spaces, and the settings that are drawn from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from facial_keypoints.errors import DataError
from facial_keypoints.training.recipes import RECIPES
from facial_keypoints.training.sweep import Space, draw_settings, load_space


def space(tmp_path: Path, text: str) -> Space:
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
        "learning_rate": {"min": 1e-4, "max": 0.01, "scale": "log"},
        "batch_size": [32, 64],
        "patience": {"min": 5, "max": 9, "scale": "linear"},
        "missing": ["mask", "mean"],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n", "names no settings.*: map settings"),
        ("", "names no settings"),
        ("a: [1\n", "cannot be used"),
        ("epochs: [1, 2]\n", "epochs is no setting to sweep"),
        ("batch_size: 3\n", "batch_size is neither a list nor a range"),
        ("batch_size: []\n", "batch_size is neither a list nor a range"),
        ("batch_size: {min: 3}\n", "batch_size is neither a list nor a range"),
        ("batch_size: [1.5]\n", "batch_size cannot be 1.5"),
        ("batch_size: [0]\n", "must be at least 1"),
        ("learning_rate: {min: 1, max: 0.1}\n", "min must be at most max"),
        ("learning_rate: {min: 0, max: 0.1, scale: log}\n", "more than 0 with"),
        ("flip_probability: {min: 0, max: 0.1, scale: log}\n", "more than 0 with"),
        ("flip_probability: [2]\n", "must be in \\[0, 1\\]"),
        ("missing: {min: mask, max: mean}\n", "min must be at most max"),
        ("missing: [nothing]\n", "missing cannot be nothing, only interpolate"),
        ("loss: [mean_of_all]\n", "mean_of_all"),
    ],
)
def test_a_wrong_search_space_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        space(tmp_path, text)


def test_a_missing_search_space_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.yaml cannot be used \(.*No such file"):
        load_space(tmp_path / "none.yaml")


def test_settings_begin_with_the_recipe_itself_and_none_is_tried_twice() -> None:
    wide = {
        "learning_rate": {"min": 1e-4, "max": 1e-2, "scale": "log"},
        "batch_size": [32, 64],
    }
    drawn = draw_settings(wide, RECIPES["fc"], 40, seed=1)
    assert drawn[0] == {"learning_rate": 0.1, "batch_size": 128}
    assert len(drawn) == 40
    assert drawn == draw_settings(wide, RECIPES["fc"], 40, seed=1)
    assert drawn != draw_settings(wide, RECIPES["fc"], 40, seed=2)
    rates = np.array([float(settings["learning_rate"]) for settings in drawn[1:]])
    assert ((rates >= 1e-4) & (rates <= 1e-2)).all()
    assert 10 <= (rates < 1e-3).sum() <= 29  # half of a logarithmic scale
    assert len({tuple(settings.values()) for settings in drawn}) == 40
    few = draw_settings({"missing": ["mask", "mean", "ffill"]}, RECIPES["fc"], 40)
    assert sorted(str(settings["missing"]) for settings in few) == ["ffill", "mask", "mean"]


def test_whole_numbers_are_drawn_evenly_to_both_ends() -> None:
    whole = {
        "patience": {"min": 1, "max": 4, "scale": "linear"},
        "batch_size": {"min": 8, "max": 512, "scale": "log"},
    }
    drawn = draw_settings(whole, RECIPES["fc"], 400)[1:]
    assert {settings["patience"] for settings in drawn} == {1, 2, 3, 4}
    sizes = [settings["batch_size"] for settings in drawn]
    assert all(isinstance(size, int) and 8 <= size <= 512 for size in sizes)
    assert 150 < sum(float(size) < 64 for size in sizes) < 250
