"""Partners told from where points lie, and partners that do not fit."""

from __future__ import annotations

import numpy as np

from facial_keypoints.data.symmetry import mirrored_misfit, partners_by_place
from facial_keypoints.geometry import rotation
from facial_keypoints.schemas import KAGGLE15

MEAN = np.array(
    [[37, 18], [19, 18], [34, 18], [40, 18], [22, 18], [16, 18], [33, 13], [42, 14], [23, 13],
     [14, 14], [28, 27], [34, 36], [22, 36], [28, 34], [28, 39]], np.float64,
)  # fmt: skip
ALONE = tuple(range(15))


def faces(count: int = 40, lean: float = 0.0) -> np.ndarray:
    """Faces of all places, sizes and small rolls, some points not labelled."""
    rng = np.random.default_rng(4)
    xy = MEAN + rng.normal(0, 0.5, (count, 15, 2))
    xy = np.stack([f @ rotation(lean + rng.normal(0, 0.2), rng.uniform(1, 9)).T for f in xy])
    xy += rng.uniform(0, 900, (count, 1, 2))
    xy[rng.random((count, 15)) < 0.1] = np.nan
    return xy


def test_partners_are_told_from_where_points_lie() -> None:
    for lean in (0.0, 0.4, -0.4):
        assert partners_by_place(faces(lean=lean), ALONE) == KAGGLE15.swap


def test_partners_that_are_told_stay() -> None:
    told = list(ALONE)
    told[0], told[2] = 2, 0  # whatever the places say
    found = partners_by_place(faces(), told)
    assert (found[0], found[2], found[1], found[4]) == (2, 0, 1, 4)


def test_where_one_side_only_is_labelled_there_are_no_partners() -> None:
    side = [0, 2, 3, 6, 7, 11]
    assert partners_by_place(faces()[:, side], range(6)) == tuple(range(6))
    assert partners_by_place(np.full((12, 4, 2), np.nan), range(4)) == (0, 1, 2, 3)


def test_wrong_partners_lie_far_from_the_usual_face() -> None:
    right, usual = mirrored_misfit(faces(), KAGGLE15.swap)
    assert (right < 1.5 * usual).all()
    crossed = list(KAGGLE15.swap)
    crossed[0], crossed[5], crossed[1], crossed[3] = 5, 0, 3, 1
    wrong, _ = mirrored_misfit(faces(), crossed)
    assert set(np.flatnonzero(wrong > 2 * usual)) >= {0, 1, 3, 5}
