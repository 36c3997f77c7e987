"""Labels that are off are ranked first, the others are left in peace."""

from __future__ import annotations

import numpy as np
import pytest
from test_symmetry import faces

from facial_keypoints.data.suspects import suspected_labels
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.types import Keypoints

IDS = np.arange(40).astype(str)


def suspects(xy: np.ndarray) -> list[tuple[str, str]]:
    found = suspected_labels(Keypoints(xy.astype(np.float32), KAGGLE15), IDS)
    assert [s.score for s in found] == sorted((s.score for s in found), reverse=True)
    return [(s.sample_id, s.keypoint) for s in found]


def test_labels_that_are_off_come_first_and_alone() -> None:
    xy = faces()
    assert suspects(xy) == []
    size = np.linalg.norm(xy[:, 0] - xy[:, 1], axis=-1)
    rows = np.flatnonzero(np.isfinite(xy[:, [0, 1, 10, 13]]).all(axis=(1, 2)))[:2]
    truth = xy[rows[0], 10].copy()
    xy[rows[0], 10] += size[rows[0]]
    xy[rows[1], 13] -= size[rows[1]] / 2
    assert suspects(xy) == [(str(rows[0]), "nose_tip"), (str(rows[1]), "mouth_center_top_lip")]
    first = suspected_labels(Keypoints(xy.astype(np.float32), KAGGLE15), IDS)[0]
    assert (first.x, first.y) == pytest.approx(tuple(xy[rows[0], 10]), rel=1e-5)
    assert np.hypot(first.expected_x - truth[0], first.expected_y - truth[1]) < 0.2 * size[rows[0]]


def test_two_labels_that_changed_places_are_both_found() -> None:
    xy = faces()
    row = int(np.flatnonzero(np.isfinite(xy[:, [11, 12]]).all(axis=(1, 2)))[0])
    xy[row, [11, 12]] = xy[row, [12, 11]]
    assert set(suspects(xy)) == {(str(row), "mouth_left_corner"), (str(row), "mouth_right_corner")}


def test_too_few_faces_or_points_tell_nothing() -> None:
    xy = faces()
    xy[0, 0] += 900
    few = Keypoints(xy[:20].astype(np.float32), KAGGLE15)
    assert suspected_labels(few, IDS[:20]) == []
    xy[:, 2:] = np.nan
    assert suspects(xy) == []
