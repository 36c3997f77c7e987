from __future__ import annotations

import numpy as np
import pytest

from facial_keypoints.geometry import face_boxes
from facial_keypoints.inference.smoothing import OneEuro, OneEuroFilter, Smoother
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.types import Keypoints, Prediction


def filtered(xy: np.ndarray, times: np.ndarray, settings: OneEuro, size: float = 1.0) -> np.ndarray:
    one = OneEuroFilter(settings)
    return np.array([one(points, t, size) for points, t in zip(xy, times, strict=True)])


def steps(count: int = 60, rate: float = 25.0) -> np.ndarray:
    return np.arange(count) / rate


def noise(count: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 0.01, (count, 4, 2))


def jitter(xy: np.ndarray) -> float:
    return float(np.std(np.diff(xy, n=2, axis=0)))


def test_a_step_is_followed_as_the_paper_computes_it() -> None:
    # By hand: dt = 0.1 s, min_cutoff 1, beta 0.5, derivative cutoff 1.
    # share(c) = 1 / (1 + 1 / (2 pi c 0.1)): share(1) = 0.628319 / 1.628319 = 0.385870; the speed is 10
    # a second, filtered 3.85870; cutoff 1 + 0.5 * 3.85870 = 2.92935; share 1.840563 / 2.840563.
    settings = OneEuro(min_cutoff=1.0, beta=0.5, derivative_cutoff=1.0)
    out = filtered(np.array([[[0.0, 5.0]], [[1.0, 5.0]]]), np.array([0.0, 0.1]), settings)
    np.testing.assert_allclose(out[0], [[0.0, 5.0]])
    np.testing.assert_allclose(out[1], [[0.647957, 5.0]], atol=1e-6)


def test_the_first_frame_passes_and_rest_stays_rest() -> None:
    still = np.tile(np.random.default_rng(0).uniform(0, 300, (1, 4, 2)), (20, 1, 1))
    out = filtered(still, steps(20), OneEuro())
    np.testing.assert_array_equal(out, still)


def test_jitter_of_a_face_at_rest_shrinks() -> None:
    raw = noise(200)
    assert jitter(filtered(raw, steps(200), OneEuro())) < 0.5 * jitter(raw)
    firm = filtered(raw, steps(200), OneEuro(min_cutoff=0.2, beta=0.0))
    assert jitter(firm) < 0.1 * jitter(raw)


def test_a_wide_open_filter_changes_nothing() -> None:
    raw = noise()
    np.testing.assert_allclose(filtered(raw, steps(), OneEuro(min_cutoff=1e9)), raw, atol=1e-9)


def test_beta_takes_the_lag_from_moving_points() -> None:
    times = steps()
    moving = np.zeros((60, 1, 2))
    moving[..., 0] = times[:, None]  # one face size a second
    slow = moving - filtered(moving, times, OneEuro(beta=0.0))
    quick = moving - filtered(moving, times, OneEuro(beta=10.0))
    # A low pass of cutoff c lags 1 / (2 pi c) seconds.
    assert slow[-1, 0, 0] == pytest.approx(1 / (2 * np.pi * 1.0), rel=0.01)
    assert quick[-1, 0, 0] == pytest.approx(1 / (2 * np.pi * 11.0), rel=0.01)


def test_near_and_far_faces_are_treated_alike() -> None:
    raw, times = noise(), steps()
    near = filtered(50.0 * raw + 100.0, times, OneEuro(), size=50.0)
    np.testing.assert_allclose(near, 50.0 * filtered(raw, times, OneEuro()) + 100.0, atol=1e-9)


def test_rotating_the_points_rotates_the_result() -> None:
    raw, times = noise(), steps()
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    out = filtered(raw, times, OneEuro())
    np.testing.assert_allclose(filtered(raw @ turn.T, times, OneEuro()), out @ turn.T, atol=1e-12)


def test_uneven_times_count() -> None:
    """After a long pause the new sample counts more than after a short one."""
    settings = OneEuro(beta=0.0)
    step = np.array([[[0.0, 0.0]], [[1.0, 0.0]]])
    short = filtered(step, np.array([0.0, 0.01]), settings)[1, 0, 0]
    long = filtered(step, np.array([0.0, 1.0]), settings)[1, 0, 0]
    assert short == pytest.approx(0.059117, abs=1e-5)  # 1 / (1 + 1 / (2 pi 0.01))
    assert long == pytest.approx(0.862697, abs=1e-5)


def test_time_that_stands_still_starts_anew() -> None:
    one = OneEuroFilter()
    one(np.zeros((1, 2)), 1.0)
    np.testing.assert_array_equal(one(np.ones((1, 2)), 1.0), np.ones((1, 2)))


def test_unknown_points_stay_unknown_and_come_back_as_they_are() -> None:
    raw = noise(6)
    raw[2:4, 1] = np.nan
    out = filtered(raw, steps(6), OneEuro())
    assert np.isnan(out[2:4, 1]).all()
    np.testing.assert_array_equal(out[4, 1], raw[4, 1])
    assert np.isfinite(np.delete(out, 1, axis=1)).all()
    assert np.isfinite(out[5, 1]).all()


@pytest.mark.parametrize("wrong", [{"min_cutoff": 0.0}, {"beta": -1.0}, {"derivative_cutoff": 0.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        OneEuro(**wrong)


def face(shift: float) -> np.ndarray:
    xy = np.random.default_rng(5).uniform(0, 5, (15, 2))
    for name, place in (
        ("left_eye_center", (70, 40)),
        ("right_eye_center", (30, 40)),
        ("mouth_left_corner", (65, 80)),
        ("mouth_right_corner", (35, 80)),
    ):
        xy[KAGGLE15.index(name)] = place
    return (xy + shift).astype(np.float32)


def frame(time_s: float, faces: dict[int, float]) -> Prediction:
    xy = np.array([face(shift) for shift in faces.values()], np.float32).reshape(-1, 15, 2)
    return Prediction(
        keypoints=Keypoints(xy, KAGGLE15, confidence=np.full(xy.shape[:2], 0.5, np.float32)),
        boxes=face_boxes(xy, KAGGLE15),
        scores=np.full(len(xy), np.nan, np.float32),
        image_size=(100, 100),
        time_s=time_s,
        track_ids=np.array(list(faces), np.int64),
    )


def test_each_track_has_its_own_filter_and_a_lost_one_starts_anew() -> None:
    smoother = Smoother(OneEuro(beta=0.0))
    smoother(frame(0.00, {1: 0.0, 2: 50.0}))
    second = smoother(frame(0.04, {2: 50.0, 1: 1.0}))
    np.testing.assert_allclose(second.keypoints.xy[0], face(50.0), atol=1e-4)
    moved = second.keypoints.xy[1] - face(0.0)
    np.testing.assert_allclose(moved, 0.2008, atol=1e-3)  # 1 / (1 + 1 / (2 pi 0.04))
    np.testing.assert_allclose(second.boxes, face_boxes(second.keypoints.xy, KAGGLE15))
    np.testing.assert_array_equal(second.keypoints.confidence, np.full((2, 15), 0.5, np.float32))
    assert len(smoother(frame(0.08, {})).keypoints) == 0
    again = smoother(frame(0.12, {1: 9.0}))
    np.testing.assert_array_equal(again.keypoints.xy[0], face(9.0))


def test_predictions_without_tracks_are_refused() -> None:
    plain = frame(0.0, {1: 0.0})
    object.__setattr__(plain, "track_ids", None)
    with pytest.raises(ValueError, match="track ids"):
        Smoother()(plain)
