"""Which images show the same thing: exact copies, near copies, images of one person from one session.

Rows of one group must stay on one side of a split, or a model is scored on images it has seen.

Two similarities are used, both correlations of small images, so brightness and contrast do not count:
of whole images (copies, resized or recompressed copies) and, where eye centres are known, of faces
aligned by the eyes with slow changes of light removed (one person in one session, wherever the crop
lies). The thresholds were chosen on Kaggle's rows: below 0.90 different people join in one group,
above it the images of one session fall apart.
"""

from __future__ import annotations

from hashlib import blake2b

import cv2
import numpy as np
from numpy.typing import NDArray

from facial_keypoints.crops import to_channels, warp_image
from facial_keypoints.geometry import edges_to_centres, fit_similarity
from facial_keypoints.types import CropTransform, ImageArray, Keypoints

__all__ = [
    "duplicate_groups",
    "exact_groups",
    "face_features",
    "image_digests",
    "image_features",
    "join_groups",
    "near_pairs",
]

IMAGE_THRESHOLD = 0.95  # correlation of whole images: Kaggle's pairs above are copies
FACE_THRESHOLD = 0.90  # correlation of aligned faces: one person in one session
_SESSION_ROWS = 8  # groups of so many rows are a session, which has a mean face to compare with
_SESSION_THRESHOLD = 0.80  # correlation of two mean faces: mostly sessions of one person
_ROW_THRESHOLD = 0.85  # correlation of a row with a mean face; at 0.80 other people join
_LARGEST_SHARE = 0.2  # of all rows; a bigger group joins different people: use a stricter threshold
_SIDE = 24  # pixels of the small images
_BLOCK = 256  # rows compared with all others at once; bounds memory for 50,000 images


def image_features(images: ImageArray) -> NDArray[np.float32]:
    """(N, 576) small images with mean 0 and length 1 (0 for a blank one)."""
    small = [
        cv2.resize(to_channels(image, 1), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        for image in images
    ]
    return _unit(np.asarray(small, np.float32).reshape(len(images), _SIDE * _SIDE))


def face_features(images: ImageArray, keypoints: Keypoints) -> NDArray[np.float32]:
    """(N, 576) small faces aligned by the eyes, slow changes of light removed, mean 0 and length 1.

    Rows without both eye centres (the schema's ``norm_pair``), or with eyes in one place or far outside
    the image, are 0.
    """
    left, right = (keypoints.xy[:, i].astype(np.float64) for i in keypoints.schema.norm_indices)
    features = np.zeros((len(images), _SIDE, _SIDE), np.float32)
    # Eyes half a side apart, three eighths of the side from the top: brows to mouth fill the square.
    target = edges_to_centres(_SIDE * np.array([[0.75, 0.375], [0.25, 0.375]]))
    for i, image in enumerate(images):
        span = float(np.linalg.norm(left[i] - right[i]))
        # In pixels; NaN is skipped too. A slip in a label, far outside the image, would blur for hours.
        if not 2.0 <= span <= 2.0 * sum(image.shape[:2]):
            continue
        matrix = fit_similarity(np.stack([left[i], right[i]]), target)
        # Blurred first, against aliasing.
        smooth = cv2.GaussianBlur(to_channels(image, 1), (0, 0), max(span / _SIDE, 0.3))
        crop = CropTransform(matrix, (_SIDE, _SIDE))
        face = warp_image(smooth[..., np.newaxis], crop)[..., 0].astype(np.float32)
        features[i] = face - cv2.GaussianBlur(face, (0, 0), 5.0)
    return _unit(features.reshape(len(images), _SIDE * _SIDE))


def exact_groups(images: ImageArray) -> NDArray[np.int64]:
    """(N,) group number of each image; pixel-identical images share one."""
    flat = np.ascontiguousarray(images).reshape(len(images), int(np.prod(images.shape[1:])))
    rows = flat.view(np.dtype((np.void, max(1, flat.shape[1])))).ravel()
    return np.asarray(np.unique(rows, return_inverse=True)[1], np.int64).reshape(-1)


def image_digests(images: ImageArray) -> list[bytes]:
    """5 bytes of each image of (N, H, W, C) uint8 that tell whether two are equal, pixel by pixel.

    One of 24,000 other images gets the same 5 bytes with a probability of 2e-8.
    """
    return [
        blake2b(np.ascontiguousarray(image).tobytes(), digest_size=5).digest() for image in images
    ]


def near_pairs(
    a: NDArray[np.float32], b: NDArray[np.float32], threshold: float
) -> NDArray[np.int64]:
    """(P, 2) rows of ``a`` and ``b`` whose features correlate above ``threshold``.

    Given one array twice, each pair comes once, smaller row first, and no row with itself.
    """
    found = [np.empty((0, 2), np.int64)]
    for start in range(0, len(a), _BLOCK):
        pairs = np.argwhere(a[start : start + _BLOCK] @ b.T > threshold)
        pairs[:, 0] += start
        found.append(pairs[pairs[:, 0] < pairs[:, 1]] if a is b else pairs)
    return np.concatenate(found)


def duplicate_groups(images: ImageArray, keypoints: Keypoints | None = None) -> NDArray[np.int64]:
    """(N,) group number of each image, from 0; likely copies and frames of one person share one.

    Args:
        images: (N, H, W, C) uint8.
        keypoints: Labels with eye centres, where there are any: without them only copies of whole
            images are found, not a person whose crop moved.

    Returns:
        Group numbers in the order of first appearance.
    """
    exact = exact_groups(images)
    first = np.unique(exact, return_index=True)[1]  # one image stands for all its copies
    spaces = [(image_features(images[first]), IMAGE_THRESHOLD)]
    if keypoints is not None:
        spaces.append((face_features(images[first], keypoints.subset(first)), FACE_THRESHOLD))
    rows = np.arange(len(first))
    groups = rows
    largest = max(_LARGEST_SHARE * len(first), _SESSION_ROWS)
    for features, threshold in spaces:
        groups = _merge(groups, rows, _components(features, threshold, largest))
    if keypoints is not None:
        groups = _join_sessions(groups, spaces[1][0], largest)
    of_row = groups[exact]
    _, appearance, inverse = np.unique(of_row, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(appearance))[inverse], np.int64)


def _components(
    features: NDArray[np.float32], threshold: float, largest: float
) -> NDArray[np.int64]:
    """Connected components of rows that correlate above a threshold, raised where one is too big."""
    labels = np.arange(len(features))
    for start in range(0, len(features), _BLOCK):
        rows, others = np.nonzero(features[start : start + _BLOCK] @ features.T > threshold)
        labels = _merge(labels, rows + start, others)
    if threshold < 0.99:
        for label in np.flatnonzero(np.bincount(labels) > largest):
            inside = np.flatnonzero(labels == label)
            stricter = threshold + (1.0 - threshold) / 3.0
            labels[inside] = inside[_components(features[inside], stricter, largest)]
    return labels


def _merge(
    labels: NDArray[np.int64], i: NDArray[np.int64], j: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Labels after joining the components of ``i`` and ``j`` (each label is its least row)."""
    parent = np.arange(len(labels))
    a, b = labels[i], labels[j]
    while np.any(a != b):
        least = np.minimum(a, b)
        np.minimum.at(parent, a, least)
        np.minimum.at(parent, b, least)
        while np.any(parent != parent[parent]):
            parent = parent[parent]
        a, b = parent[a], parent[b]
    return parent[labels]


def join_groups(first: NDArray[np.generic], second: NDArray[np.generic]) -> NDArray[np.int64]:
    """(N,) group numbers of rows that share a group in either of two (N,) groupings, or a chain."""
    labels = []
    for grouping in (first, second):
        _, index, inverse = np.unique(grouping, return_index=True, return_inverse=True)
        labels.append(index[inverse])
    return _merge(labels[0], np.arange(len(first)), labels[1])


def _join_sessions(
    groups: NDArray[np.int64], features: NDArray[np.float32], largest: float
) -> NDArray[np.int64]:
    """Join sessions whose mean faces are alike, and single rows with the session that they resemble."""
    sizes = np.bincount(groups, minlength=len(groups))
    big = np.flatnonzero(sizes >= _SESSION_ROWS)
    if not len(big):
        return groups
    means = _unit(np.stack([features[groups == g].mean(axis=0) for g in big]))
    correlation = features @ means.T
    best = correlation.argmax(axis=1)
    alone = sizes[groups] < _SESSION_ROWS
    near = np.flatnonzero(alone & (correlation.max(axis=1) > _ROW_THRESHOLD))
    joined = _merge(groups, near, big[best[near]])
    a, b = np.nonzero(np.triu(means @ means.T > _SESSION_THRESHOLD, 1))
    together = _merge(joined, big[a], big[b])
    # Mean faces of different people can be alike too (drawn faces are): then sessions stay apart.
    return joined if np.bincount(together).max() > largest else together


def _unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = features - features.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.where(length > 1e-3, centred / np.maximum(length, 1e-3), 0.0).astype(np.float32)
