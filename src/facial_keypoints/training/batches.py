"""From a FaceDataset to the batches that Keras trains on.

Inside the Keras graph an unlabelled point has a finite target and weight 0 instead of NaN. Every batch
depends on (seed, epoch, index) only, so a resumed run sees the batches of an uninterrupted one.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from facial_keypoints.geometry import flip_images, flip_xy
from facial_keypoints.models.codec import encode
from facial_keypoints.types import BoolArray, FaceDataset, ImageArray

__all__ = ["TrainingBatches", "flip_rows", "targets_and_weights"]


def targets_and_weights(
    dataset: FaceDataset, keypoints: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The study's targets (x - W/2) / (W/2) and the weight of each point.

    Args:
        dataset: Faces, NaN = not labelled.
        keypoints: Indices of the keypoints to learn; all when left out.

    Returns:
        Targets (N, K, 2) with 0 (the image's centre) where unlabelled, and weights (N, K): 1
        where labelled, else 0.
    """
    xy = dataset.keypoints.xy if keypoints is None else dataset.keypoints.xy[:, keypoints]
    labeled = ~np.isnan(xy[..., 0])
    targets = np.nan_to_num(encode(xy, dataset.image_size), nan=0.0)
    return targets, labeled.astype(np.float32)


def flip_rows(
    images: ImageArray, xy: NDArray[np.float32], flipped: BoolArray, dataset: FaceDataset
) -> tuple[ImageArray, NDArray[np.float32]]:
    """Mirror some rows: pixels, x coordinates and left/right partners (NaN moves with its keypoint).

    Args:
        images: (B, H, W, C) images.
        xy: (B, K, 2) their points in pixels.
        flipped: (B,) which rows to mirror.
        dataset: The dataset of the rows, for its schema.
    """
    images, xy = images.copy(), xy.copy()
    images[flipped] = flip_images(images[flipped])
    xy[flipped] = flip_xy(xy[flipped], images.shape[2], dataset.schema)
    return images, xy


class TrainingBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Shuffled batches of images (0-255), targets and weights, some rows mirrored.

    A generator seeded with (seed, epoch) shuffles and mirrors the rows of each epoch.

    Args:
        dataset: Training faces.
        batch_size: Rows per batch; the last batch may be smaller.
        seed: Seed of shuffling and mirroring.
        flip_probability: Probability that a row is mirrored.
        keypoints: Indices of the keypoints to learn; all when left out.
        epoch: Number of the epoch to begin with (a resumed run begins later).
    """

    def __init__(
        self,
        dataset: FaceDataset,
        *,
        batch_size: int,
        seed: int,
        flip_probability: float = 0.0,
        keypoints: NDArray[np.int64] | None = None,
        epoch: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.flip_probability = flip_probability
        self.keypoints = keypoints
        self._begin(epoch)

    def _begin(self, epoch: int) -> None:
        self.epoch = epoch
        rng = np.random.default_rng((self.seed, epoch))
        count = len(self.dataset)
        self.order = rng.permutation(count)
        self.flipped = rng.random(count) < self.flip_probability

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch_size)

    def on_epoch_end(self) -> None:
        """Shuffle and choose the mirrored rows of the next epoch."""
        self._begin(self.epoch + 1)

    def __getitem__(
        self, index: int
    ) -> tuple[ImageArray, NDArray[np.float32], NDArray[np.float32]]:
        picked = slice(index * self.batch_size, (index + 1) * self.batch_size)
        rows, flipped = self.order[picked], self.flipped[picked]
        batch = self.dataset.subset(rows)
        if flipped.any():
            images, xy = flip_rows(batch.images, batch.keypoints.xy, flipped, batch)
            batch = FaceDataset(
                images=images,
                keypoints=type(batch.keypoints)(xy, batch.schema),
                sample_ids=batch.sample_ids,
            )
        targets, weights = targets_and_weights(batch, self.keypoints)
        return batch.images, targets, weights
