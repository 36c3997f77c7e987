"""Checks of a data set before training: what is labelled, which images are duplicates, which labels are suspect.

Nothing is changed here. :func:`audit` measures, :func:`flagged_rows` names rows to leave out, and
:mod:`facial_keypoints.evaluation.audit_report` prints the result. Limits are wide and statistics robust,
so that flags are few and mostly right: human labels have heavy tails that are no mistakes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facial_keypoints.crops import to_channels
from facial_keypoints.data.duplicates import (
    exact_groups,
    face_features,
    image_features,
    near_pairs,
)
from facial_keypoints.data.suspects import Suspect, suspected_labels
from facial_keypoints.geometry import fit_similarity, inside_image, resize_xy, transform_xy
from facial_keypoints.io.images import encode_image
from facial_keypoints.types import FaceDataset, ImageArray

__all__ = ["AuditReport", "Flag", "StyleOffset", "audit", "flagged_rows"]

NEAR_THRESHOLD = 0.97  # correlation of whole small images; copies that were resized or recompressed
DISAGREEMENT_EYES = 0.2  # eye distances between two labels of one point on identical images
BLANK_CONTRAST = 6.0  # grey levels, standard deviation of an image
# Robust distances in units of the median row's. On Kaggle's rows, what lies below these limits is
# mostly right: large yaw, glasses, open mouths.
SHAPE_LIMIT = 4.0  # about a point of a four-point face 15 of 96 pixels off
PLACE_LIMIT = 8.0
FACE_LIMIT = 4.0  # robust standard deviations of the reconstruction error
_FAR = 8.0  # usual distances from the median place of a point
_ENOUGH_ROWS = 30  # with fewer rows, what is usual cannot be estimated
SHOWN_SUSPECTS = 100  # of which there is a thumbnail
_COMPONENTS = 30  # principal components that describe usual faces


@dataclass(frozen=True)
class Flag:
    """One reason to check a row.

    Args:
        row: Index into the data set.
        sample_id: The row's identifier.
        reason: Short name of the check: ``swapped``, ``outside``, ``no label``, ``shape``,
            ``placement``, ``blank``, ``no face``, ``copies disagree``.
        detail: One sentence for a person.
        score: How far beyond the limit of the check, which is 1.
    """

    row: int
    sample_id: str
    reason: str
    detail: str
    score: float


@dataclass(frozen=True)
class StyleOffset:
    """Where one label style puts a keypoint compared with another.

    Args:
        keypoint: Its name.
        style: The style compared.
        reference: The style compared with.
        dx: Median difference in pixels of a face at the usual eye distance, along the eyes towards
            the person's left.
        dy: The same, downwards.
        count: Labels of ``style`` behind it.
        reference_count: Labels of ``reference`` behind it.
    """

    keypoint: str
    style: str
    reference: str
    dx: float
    dy: float
    count: int
    reference_count: int


@dataclass(frozen=True)
class AuditReport:
    """What :func:`audit` found; ``thumbnails`` holds PNG bytes of flagged rows by row index.

    ``across_groups`` are copies that different groups of several faces hold. ``suspect_thumbnails`` are those of
    the first ``suspects``: the label is red, the place that the other labels say is yellow.
    """

    source: str
    rows: int
    image_size: tuple[int, int]
    label_counts: dict[str, int]
    styles: dict[str, int]
    patterns: list[tuple[int, tuple[str, ...]]]
    exact_groups: int
    exact_rows: int
    near_pairs: list[tuple[str, str]]
    disagreeing_pairs: int
    test_exact: list[tuple[str, str]]
    test_near: list[tuple[str, str]]
    style_offsets: list[StyleOffset]
    flags: list[Flag]
    across_groups: list[tuple[str, str]]
    suspects: list[Suspect]
    thumbnails: dict[int, bytes] = field(default_factory=dict, repr=False)
    suspect_thumbnails: list[bytes] = field(default_factory=list, repr=False)


def audit(dataset: FaceDataset, test: FaceDataset | None = None) -> AuditReport:
    """Check a data set.

    Args:
        dataset: Labelled faces.
        test: Further images that are searched for among the training ones.

    Returns:
        Counts, duplicates, offsets between label styles, flagged rows, and suspected labels.
    """
    schema = dataset.schema
    labeled = dataset.keypoints.labeled
    patterns = Counter(map(tuple, labeled.tolist()))
    exact = exact_groups(dataset.images)
    sizes = np.bincount(exact)
    images = image_features(dataset.images)
    near = near_pairs(images, images, NEAR_THRESHOLD)
    near = near[exact[near[:, 0]] != exact[near[:, 1]]]
    disagreements, disagreeing = _disagreements(dataset, exact)
    checks = (_blank, _outside, _codes, _swapped, _shapes, _faceless)
    found = [*chain.from_iterable(check(dataset) for check in checks), *disagreements.values()]
    ids = dataset.sample_ids
    flags = [Flag(int(i), str(ids[i]), reason, text, float(s)) for i, reason, text, s in found]
    flags.sort(key=lambda flag: -flag.score)
    test_exact, test_near = _shared(dataset, test, images)
    suspects = suspected_labels(dataset.keypoints, ids)
    return AuditReport(
        source=dataset.source,
        rows=len(dataset),
        image_size=dataset.image_size,
        label_counts=dict(zip(schema.keypoint_names, map(int, dataset.label_counts), strict=True)),
        styles={str(s): int(c) for s, c in Counter(dataset.styles.tolist()).most_common()},
        patterns=[
            (count, tuple(n for n, on in zip(schema.keypoint_names, on_off, strict=True) if not on))
            for on_off, count in patterns.most_common()
        ],
        exact_groups=int((sizes > 1).sum()),
        exact_rows=int(sizes[sizes > 1].sum()),
        near_pairs=[(str(ids[i]), str(ids[j])) for i, j in near],
        disagreeing_pairs=disagreeing,
        test_exact=test_exact,
        test_near=test_near,
        style_offsets=_style_offsets(dataset),
        flags=flags,
        across_groups=[(str(ids[i]), str(ids[j])) for i, j in _across_groups(dataset, exact, near)],
        suspects=suspects,
        suspect_thumbnails=[_suspect_thumbnail(dataset, s) for s in suspects[:SHOWN_SUSPECTS]],
        thumbnails={f.row: _thumbnail(dataset, f.row) for f in flags},
    )


def flagged_rows(report: AuditReport) -> NDArray[np.int64]:
    """Row indices, ascending, that ``--exclude-flagged`` leaves out of training."""
    return np.unique(np.array([flag.row for flag in report.flags], np.int64))


def _across_groups(
    dataset: FaceDataset, exact: NDArray[np.int64], near: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """Copies of one image in different groups, of which each holds several faces."""
    first = np.unique(exact, return_index=True)[1][exact]
    copies = [(int(first[j]), j) for j in range(len(first)) if first[j] != j]
    _, group, counts = np.unique(dataset.groups, return_inverse=True, return_counts=True)
    return [
        (i, j)
        for i, j in [*copies, *near.tolist()]
        if group[i] != group[j] and min(counts[group[i]], counts[group[j]]) > 1
    ]


# --- checks ---------------------------------------------------------------------------------------


_Found = Iterator[tuple[Any, str, str, Any]]
"""Row, reason, detail and score of each flag."""


def _blank(dataset: FaceDataset) -> _Found:
    contrast = dataset.images.reshape(len(dataset), -1).std(axis=1)
    for i in np.flatnonzero(contrast < BLANK_CONTRAST):
        detail = f"The image is nearly of one colour (contrast {contrast[i]:.1f} of 255)."
        yield i, "blank", detail, BLANK_CONTRAST / max(contrast[i], 0.1)


def _outside(dataset: FaceDataset) -> _Found:
    outside = dataset.keypoints.labeled & ~inside_image(dataset.keypoints.xy, dataset.image_size)
    for i in np.flatnonzero(outside.any(axis=1)):
        k = int(np.argmax(outside[i]))
        x, y = dataset.keypoints.xy[i, k]
        name = dataset.schema.keypoint_names[k]
        yield i, "outside", f"{name} at ({x:.1f}, {y:.1f}) lies outside the image.", 1.0


def _codes(dataset: FaceDataset) -> _Found:
    """Labels that stand for "not labelled": at (0, 0) or (-1, -1), or several in one place far from the others."""
    for k, name in enumerate(dataset.schema.keypoint_names):
        rows = np.flatnonzero(dataset.keypoints.labeled[:, k])
        if not len(rows):
            continue
        xy = dataset.keypoints.xy[rows, k].astype(np.float64)
        places, which, counts = np.unique(xy, axis=0, return_inverse=True, return_counts=True)
        middle = np.median(xy, axis=0)
        usual = np.median(np.abs(xy - middle), axis=0) + 1.0  # pixels
        far = (np.abs(places - middle) > _FAR * usual).any(axis=1)
        corner = (places[:, 0] == places[:, 1]) & np.isin(places[:, 0], (0.0, -1.0))
        code = corner | (far & (counts >= 3))
        for i in np.flatnonzero(code[which.reshape(-1)]):
            x, y = xy[i]
            detail = f"{name} is at ({x:g}, {y:g}), as in {counts[which.reshape(-1)[i]]} rows: a code for a missing label?"
            yield rows[i], "no label", detail, 3.0


def _swapped(dataset: FaceDataset) -> _Found:
    """Pairs of which the left point is on the right one's side."""
    schema = dataset.schema
    left = np.array([i for i, j in enumerate(schema.swap) if i < j], np.int64)
    if not len(left):
        return
    xy = dataset.keypoints.xy
    dx = xy[:, left, 0] - xy[:, np.array(schema.swap)[left], 0]
    # Which partner comes first does not say which side it is on; the side in most rows is right.
    usual = np.where((dx > 0).sum(axis=0) >= (dx < 0).sum(axis=0), 1, -1)
    wrong = dx * usual < 0
    for i in np.flatnonzero(wrong.any(axis=1)):
        name = schema.keypoint_names[left[np.argmax(wrong[i])]]
        yield i, "swapped", f"{name} and its partner are on each other's side.", 2.0


def _shapes(dataset: FaceDataset) -> _Found:
    """Rows whose points form an unusual face, or lie in an unusual place, for their style."""
    for style in np.unique(dataset.styles):
        rows = np.flatnonzero((dataset.styles == style) & dataset.keypoints.labeled.any(axis=1))
        if len(rows) < _ENOUGH_ROWS:
            continue
        xy = dataset.keypoints.xy[rows].astype(np.float64)
        kept = np.isfinite(xy[..., 0]).mean(axis=0) > 0.5
        full = np.isfinite(xy[:, kept, 0]).sum(axis=1) >= min(3, int(kept.sum()))
        rows, xy = rows[full], xy[full][:, kept]
        if len(rows) < _ENOUGH_ROWS or xy.shape[1] < 3:
            continue
        names = np.array(dataset.schema.keypoint_names)[kept]
        reference = np.nanmedian(xy, axis=0)
        fitted, pose = _align(xy, reference)
        reference = np.nanmedian(fitted, axis=0)
        fitted, pose = _align(xy, reference)
        residual = np.nan_to_num(fitted - np.nanmedian(fitted, axis=0))
        shape = _robust_distance(residual.reshape(len(rows), -1), lost=4)
        place = _robust_distance(pose)
        for i in np.flatnonzero(shape > SHAPE_LIMIT):
            name = names[_odd_point(xy[i], reference)]
            detail = f"The points form no usual face of style '{style}'; {name} is furthest off."
            yield rows[i], "shape", detail, shape[i] / SHAPE_LIMIT
        for i in np.flatnonzero((place > PLACE_LIMIT) & (shape <= SHAPE_LIMIT)):
            detail = f"The face is unusually placed, sized or rotated for style '{style}'."
            yield rows[i], "placement", detail, place[i] / PLACE_LIMIT


def _faceless(dataset: FaceDataset) -> _Found:
    """Images that, aligned by the eyes, differ from what principal components of faces can show."""
    features = face_features(dataset.images, dataset.keypoints)
    rows = np.flatnonzero(features.any(axis=1))
    if len(rows) < 10 * _COMPONENTS:  # too few to know how faces vary
        return
    x = features[rows]
    inlier = np.ones(len(x), bool)
    error = np.zeros(len(x))
    even = np.arange(len(x)) % 2 == 0
    for _ in range(2):  # the second time without the outliers of the first
        for mine in (even, ~even):
            # Components come from the other half: an odd row would add a component of its own.
            others = x[~mine & inlier]
            mean = others.mean(axis=0)
            _, vectors = np.linalg.eigh(np.cov((others - mean).T))
            basis = vectors[:, -_COMPONENTS:]
            centred = x[mine] - mean
            error[mine] = np.linalg.norm(centred - centred @ basis @ basis.T, axis=1)
        inlier = error <= np.quantile(error, 0.95)
    median = float(np.median(error))
    spread = max(1.4826 * float(np.median(np.abs(error - median))), 1e-6)
    score = (error - median) / spread
    detail = "Between the labelled eyes there is no usual face: wrong labels, or another image."
    for i in np.flatnonzero(score > FACE_LIMIT):
        yield rows[i], "no face", detail, score[i] / FACE_LIMIT


def _disagreements(
    dataset: FaceDataset, exact: NDArray[np.int64]
) -> tuple[dict[int, tuple[int, str, str, float]], int]:
    """Flags by row for identical images with different labels, and the number of such pairs.

    Args:
        dataset: N faces.
        exact: (N,) group number of each image; identical ones share one.
    """
    xy = dataset.keypoints.xy
    a, b = dataset.schema.norm_indices
    first = np.unique(exact, return_index=True)[1][exact]
    copies = [j for j in np.argsort(exact, kind="stable").tolist() if first[j] != j]
    eyes = np.nanmedian(np.linalg.norm(xy[:, a] - xy[:, b], axis=1)) if copies else np.nan
    flags = {}
    count = 0
    for j in copies:
        i = int(first[j])
        apart = np.linalg.norm(xy[i] - xy[j], axis=1)
        if not np.isfinite(apart).any():
            continue
        k = int(np.nanargmax(apart))
        count += bool(apart[k] > 0)
        if not apart[k] > DISAGREEMENT_EYES * eyes:
            continue
        for row, other in ((i, j), (j, i)):
            detail = (
                f"{dataset.schema.keypoint_names[k]} is {apart[k]:.1f} px from where the identical "
                f"image {dataset.sample_ids[other]} has it."
            )
            flags[row] = (row, "copies disagree", detail, apart[k] / (DISAGREEMENT_EYES * eyes))
    return flags, count


def _shared(
    dataset: FaceDataset, test: FaceDataset | None, images: NDArray[np.float32]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(training id, test id) of identical and of nearly identical images."""
    if test is None or test.images.shape[1:] != dataset.images.shape[1:]:
        return [], []
    both = exact_groups(np.concatenate([dataset.images, test.images]))
    train_key, test_key = both[: len(dataset)], both[len(dataset) :]
    shared = np.flatnonzero(np.isin(test_key, train_key))
    exact = [(int(np.argmax(train_key == test_key[j])), int(j)) for j in shared]
    near = near_pairs(images, image_features(test.images), NEAR_THRESHOLD)
    near = near[train_key[near[:, 0]] != test_key[near[:, 1]]]

    def named(pairs: Iterable[Sequence[int]]) -> list[tuple[str, str]]:
        return [(str(dataset.sample_ids[i]), str(test.sample_ids[j])) for i, j in pairs]

    return named(exact), named(near.tolist())


# --- geometry of label sets -----------------------------------------------------------------------


def _align(
    xy: NDArray[np.float64], reference: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rotate, scale and shift each row's points onto the reference, by least squares.

    Returns:
        (N, K, 2) aligned points and (N, 4) pose: centre x, centre y, log scale, roll in radians.
    """
    matrix = fit_similarity(xy, reference)
    aligned = transform_xy(matrix, xy)
    factor = matrix[:, 0, 0] + 1j * matrix[:, 1, 0]
    scale = np.maximum(np.abs(factor), 1e-6)
    return aligned, np.column_stack([np.nanmean(xy, axis=1), -np.log(scale), -np.angle(factor)])


def _odd_point(xy: NDArray[np.float64], reference: NDArray[np.float64]) -> int:
    """Index of the point of (K, 2) without which the others fit the reference best."""
    others = np.repeat(xy[None], len(xy), axis=0)
    others[np.arange(len(xy)), np.arange(len(xy))] = np.nan
    misfit = np.nansum((_align(others, reference)[0] - reference) ** 2, axis=(1, 2))
    return int(np.argmin(np.where(np.isnan(xy[:, 0]), np.inf, misfit)))


def _robust_distance(x: NDArray[np.float64], lost: int = 0) -> NDArray[np.float64]:
    """(N,) Mahalanobis distance to the bulk of the rows; the typical row's is 1.

    The covariance comes from the 90 % nearest rows, found by repetition. ``lost`` directions (those
    that an alignment removed) have no variance and are left out.
    """
    apart = np.abs(x - np.median(x, axis=0))
    worst = (apart / (np.median(apart, axis=0) + 1e-6)).max(axis=1)
    inside = worst <= np.quantile(worst, 0.75)
    distance = np.ones(len(x))
    for _ in range(5):
        centre = x[inside].mean(axis=0)
        values, vectors = np.linalg.eigh(np.atleast_2d(np.cov((x[inside] - centre).T)))
        keep = slice(lost, None)
        scale = np.sqrt(np.maximum(values[keep], 1e-3 * values[-1] + 1e-9))
        distance = np.linalg.norm((x - centre) @ vectors[:, keep] / scale, axis=1)
        inside = distance <= np.quantile(distance, 0.9)
    return distance / max(float(np.median(distance)), 1e-9)


def _style_offsets(dataset: FaceDataset) -> list[StyleOffset]:
    """Median place of each keypoint in a frame fixed by the eyes, each style against the largest."""
    a, b = dataset.schema.norm_indices  # the person's left and right
    xy = dataset.keypoints.xy.astype(np.float64)
    z = xy[..., 0] + 1j * xy[..., 1]
    span = z[:, a] - z[:, b]
    with np.errstate(invalid="ignore", divide="ignore"):
        frame = (z - ((z[:, a] + z[:, b]) / 2)[:, None]) / span[:, None]
    frame[~(np.abs(span) > 1.0)] = np.nan
    styles = [s for s, _ in Counter(s for s in dataset.styles.tolist() if s).most_common()]
    if len(styles) < 2 or not np.isfinite(frame).any():
        return []
    eyes = float(np.nanmedian(np.abs(span)))
    offsets = []
    for style in styles[1:]:
        mine, theirs = frame[dataset.styles == style], frame[dataset.styles == styles[0]]
        for k, name in enumerate(dataset.schema.keypoint_names):
            p, q = mine[np.isfinite(mine[:, k]), k], theirs[np.isfinite(theirs[:, k]), k]
            if k in (a, b) or not len(p) or not len(q):
                continue  # the eyes are the frame
            offsets.append(
                StyleOffset(
                    keypoint=name,
                    style=style,
                    reference=styles[0],
                    dx=float(np.median(p.real) - np.median(q.real)) * eyes,
                    dy=float(np.median(p.imag) - np.median(q.imag)) * eyes,
                    count=len(p),
                    reference_count=len(q),
                )
            )
    return offsets


# --- thumbnails -----------------------------------------------------------------------------------

_THUMBNAIL_SIDE = 144  # pixels


def _thumbnail(dataset: FaceDataset, row: int) -> bytes:
    """The image with its labels as PNG."""
    canvas, scale = _canvas(dataset, row)
    for xy in dataset.keypoints.xy[row]:
        _dot(canvas, xy, scale, (60, 220, 60))
    return encode_image(canvas)


def _suspect_thumbnail(dataset: FaceDataset, suspect: Suspect) -> bytes:
    canvas, scale = _canvas(dataset, suspect.row)
    for xy in dataset.keypoints.xy[suspect.row]:
        _dot(canvas, xy, scale, (60, 220, 60), radius=1)
    _dot(canvas, (suspect.expected_x, suspect.expected_y), scale, (255, 220, 0))
    _dot(canvas, (suspect.x, suspect.y), scale, (255, 40, 40))
    return encode_image(canvas)


def _canvas(dataset: FaceDataset, row: int) -> tuple[ImageArray, float]:
    """The image in RGB at the size of thumbnails, and its scale."""
    image = dataset.images[row]
    scale = _THUMBNAIL_SIDE / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    resized = cv2.resize(to_channels(image, 3), size, interpolation=cv2.INTER_CUBIC)
    return np.asarray(resized, np.uint8), scale


def _dot(
    canvas: ImageArray,
    xy: Sequence[float],
    scale: float,
    colour: tuple[int, int, int],
    radius: int = 3,
) -> None:
    """Draw a point of the image; one outside is not drawn."""
    place = resize_xy(np.array(xy, np.float64), scale)
    if np.isfinite(place).all() and inside_image(place, canvas.shape[:2]):
        cv2.circle(canvas, np.rint(place).astype(int).tolist(), radius, colour, -1, cv2.LINE_AA)
