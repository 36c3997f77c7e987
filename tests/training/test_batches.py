from __future__ import annotations

import numpy as np
import pytest

from conftest import dotted_faces

pytest.importorskip("keras")

from facial_keypoints.training.batches import TrainingBatches, targets_and_weights
from facial_keypoints.types import FaceDataset

pytestmark = pytest.mark.backends


def everything(batches: TrainingBatches) -> tuple[np.ndarray, ...]:
    parts = [batches[i] for i in range(len(batches))]
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def test_nan_becomes_a_finite_target_of_weight_zero(faces: FaceDataset) -> None:
    targets, weights = targets_and_weights(faces)
    assert np.isfinite(targets).all()
    np.testing.assert_array_equal(weights, faces.keypoints.labeled.astype(np.float32))
    assert not targets[weights == 0].any()


def test_each_row_comes_once_and_the_last_batch_is_ragged(faces: FaceDataset) -> None:
    batches = TrainingBatches(faces, batch_size=25, seed=0)
    assert [len(batches[i][0]) for i in range(len(batches))] == [25, 25, 10]
    images, _, _ = everything(batches)
    assert sorted(i.tobytes() for i in images) == sorted(i.tobytes() for i in faces.images)


def test_rows_are_shuffled_anew_in_each_epoch_and_repeatably(faces: FaceDataset) -> None:
    batches = TrainingBatches(faces, batch_size=60, seed=0)
    first = batches[0][0].copy()
    batches.on_epoch_end()
    second = batches[0][0].copy()
    assert not np.array_equal(first, second)
    resumed = TrainingBatches(faces, batch_size=60, seed=0, epoch=1)
    np.testing.assert_array_equal(resumed[0][0], second)


def bright_pixels(images: np.ndarray) -> np.ndarray:
    """(N, 2) x and y of the brightest pixel of each image."""
    width = images.shape[2]
    width = images.shape[2]
    flat = images.reshape(len(images), -1).argmax(axis=1)
    return np.stack([flat % width, flat // width], axis=1)


@pytest.mark.parametrize("asked", [0.0, 0.25, 0.5, 1.0])
def test_the_share_of_mirrored_rows_is_near_the_asked_one(asked: float) -> None:
    faces = dotted_faces(400)
    originals = {image.tobytes() for image in faces.images}
    batches = TrainingBatches(faces, batch_size=64, seed=1, flip_probability=asked)
    images, _, _ = everything(batches)
    mirrored = np.mean([image.tobytes() not in originals for image in images])
    assert mirrored == pytest.approx(asked, abs=0.08)


def test_labels_land_on_the_mirrored_pixels() -> None:
    # The bright pixel marks the left eye; in a mirrored image it is the right eye.
    faces = dotted_faces(50)
    batches = TrainingBatches(faces, batch_size=50, seed=0, flip_probability=1.0)
    images, targets, _ = batches[0]
    half = np.array([16.0, 20.0])
    np.testing.assert_allclose(targets[:, 1] * half + half, bright_pixels(images), atol=1e-4)
    unflipped = TrainingBatches(faces, batch_size=50, seed=0)
    images, targets, _ = unflipped[0]
    np.testing.assert_allclose(targets[:, 0] * half + half, bright_pixels(images), atol=1e-4)


def test_the_dataset_itself_is_not_mirrored(faces: FaceDataset) -> None:
    before = faces.images.copy()
    everything(TrainingBatches(faces, batch_size=16, seed=0, flip_probability=1.0))
    np.testing.assert_array_equal(faces.images, before)


def test_only_the_asked_keypoints_are_taught(faces: FaceDataset) -> None:
    _, targets, weights = TrainingBatches(faces, batch_size=8, seed=0, keypoints=np.array([0, 1]))[
        0
    ]
    assert targets.shape == (8, 2, 2)
    assert weights.shape == (8, 2)
