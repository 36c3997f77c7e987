"""Faces for tests: dots at known places, quick to make and learnable."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest

from facial_keypoints.schemas import KAGGLE15, STYLE_B_POINTS
from facial_keypoints.types import FaceDataset, Keypoints

TWO_GROUPS = {
    "upper": tuple(name for name in KAGGLE15.keypoint_names if "eye" in name),
    "lower": tuple(name for name in KAGGLE15.keypoint_names if "eye" not in name),
}
"""Groups for specialists in tests, where two networks show what six would."""


def dotted_faces(count: int, *, height: int = 40, width: int = 32, seed: int = 0) -> FaceDataset:
    """Dark images whose brightest pixel is at the left eye's centre; H and W differ on purpose.

    Two in three rows carry style B's four points only, as in Kaggle's files.
    """
    rng = np.random.default_rng(seed)
    xy = rng.uniform(4, min(height, width) - 5, (count, 15, 2)).round().astype(np.float32)
    images = rng.integers(0, 60, (count, height, width, 1), dtype=np.uint8)
    images[np.arange(count), xy[:, 0, 1].astype(int), xy[:, 0, 0].astype(int), 0] = 255
    styles = np.where(np.arange(count) < (count + 2) // 3, "kaggle-a", "kaggle-b")
    other = [k for k, n in enumerate(KAGGLE15.keypoint_names) if n not in STYLE_B_POINTS]
    rows = np.flatnonzero(styles == "kaggle-b")
    xy[np.ix_(rows, other)] = np.nan
    return FaceDataset(
        images=images,
        keypoints=Keypoints(xy, KAGGLE15),
        sample_ids=np.arange(1, count + 1).astype(str),
        source="dotted faces",
        styles=styles,
    )


@pytest.fixture
def faces() -> FaceDataset:
    """Sixty small dotted faces."""
    return dotted_faces(60)


@pytest.fixture(autouse=True)
def _keras_computes_as_before() -> Iterator[None]:
    """No test may leave Keras computing in another precision: later ones would learn something else."""
    yield
    if "keras" in sys.modules:
        assert sys.modules["keras"].config.dtype_policy().name == "float32"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test begins first, or one worker waits for the other in the end."""
    items.sort(key=lambda item: item.name != "test_the_notebook_gives_its_committed_output")
