"""Faces that the package draws itself: seeded, with exact keypoints, also as Kaggle ships its files.

The images carry Kaggle's two label styles, its missing labels, its few people with many images
and its duplicates, so that everything that works on the real files can be tried and tested without
them. ``geometry`` says where things are, ``render`` paints them.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.data.kaggle import label_cells, write_table
from facial_keypoints.data.synthetic.geometry import NARROW, WIDE, Spread, sample_faces
from facial_keypoints.data.synthetic.render import render_faces
from facial_keypoints.files import output_folder
from facial_keypoints.io import tables
from facial_keypoints.io.tables import Value
from facial_keypoints.schemas import KAGGLE15, STYLE_B_POINTS
from facial_keypoints.types import FaceDataset, ImageArray, Keypoints

__all__ = ["draw_faces", "draw_kaggle_like", "write_kaggle_folder"]

# Pixels painted at once: 10 images of size 96. One float32 grid is then 369 KB, so that the few in
# use at a time stay in the second-level cache.
_BATCH_PIXELS = 92_160
_PEOPLE_A = 18  # persons in the full rows, shown one after the other; the real rows show 18
_IMAGES_A = 40  # images of each before another 18 persons come
_DUPLICATE_EVERY = 29  # of the four-point rows; the real ones repeat more often
_TEST_OFFSET = 1_000_000  # rows and persons of test images are numbered from here
_FOUR_POINT_OFFSET = 10_000_000  # and those of four-point rows from here
# Label noise in pixels at size 96. Two labels of identical four-point images differ as if each
# had 1.7 px RMS with heavy tails; 1.0 px is their bulk. Full rows were labelled with more care.
_NOISE_PX = {"kaggle-a": 0.4, "kaggle-b": 1.0}

# Kaggle's full rows miss the lower lip most; eye centres and the nose's tip almost never.
_OFTEN_MISSING = (
    "mouth_center_bottom_lip", "left_eyebrow_outer_end", "right_eyebrow_outer_end",
    "mouth_left_corner", "mouth_right_corner",
)  # fmt: skip


def _paint(
    rows: NDArray[np.int64],
    identities: NDArray[np.int64],
    *,
    seed: int,
    spread: Spread,
    image_size: int,
) -> tuple[ImageArray, NDArray[np.float32], NDArray[np.float32]]:
    """Images (N, S, S, 1), their 15 points by style A and their 4 by style B, (N, 15, 2) each."""
    if image_size < 24:
        raise ValueError(f"image_size must be at least 24 pixels, received {image_size}.")
    if seed < 0:
        raise ValueError(f"seed must not be negative, received {seed}.")
    # A block of this size, freed, makes glibc keep freed memory for the next grid instead of giving it
    # back to the system each time, whose fresh pages cost a quarter of the time. It is never touched.
    np.empty(8 << 20, np.uint8)
    n = len(rows)
    images = np.empty((n, image_size, image_size, 1), np.uint8)
    full = np.empty((n, KAGGLE15.num_keypoints, 2), np.float32)
    four = np.empty_like(full)
    batch = max(1, _BATCH_PIXELS // image_size**2)
    for start in range(0, n, 64 * batch):
        many = slice(start, start + 64 * batch)
        faces = sample_faces(rows[many], identities[many], seed=seed, spread=spread)
        full[many], four[many] = faces.keypoints_xy(image_size), faces.four_point_xy(image_size)
        for first in range(0, len(faces), batch):
            few = slice(first, first + batch)
            images[many][few] = render_faces(faces.subset(few), image_size)
    return images, full, four


def draw_faces(
    count: int, *, seed: int = 0, image_size: int = 96, images_per_person: int = 4
) -> FaceDataset:
    """Draw faces in varied poses with all 15 keypoints, exact.

    The points follow the rules of Kaggle's full rows (style ``kaggle-a``): eye centres are the
    pupils, brow points the ends of the brows' middle lines, the nose's point its tip, and the lips'
    points the outer edges of the lips on the mouth's middle line. A point that hair, dark glasses
    or the head itself hides has its true place.

    Args:
        count: N, number of images; 0 gives an empty set.
        seed: Not negative. Image i of a seed is the same whatever ``count`` is.
        image_size: Side S of the square images in pixels, at least 24.
        images_per_person: How often each person is shown; 16 persons are shown one after the
            other. Rows of one person share a group.

    Returns:
        N faces: images (N, S, S, 1) uint8, keypoints in pixels, none missing.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> draw_faces(2).keypoints.xy.shape
        (2, 15, 2)
    """
    if count < 0 or images_per_person < 1:
        raise ValueError(
            "count must not be negative and images_per_person at least 1, "
            f"received {count} and {images_per_person}."
        )
    rows = np.arange(count, dtype=np.int64)
    people = rows // (16 * images_per_person) * 16 + rows % 16
    images, full, _ = _paint(rows, people, seed=seed, spread=WIDE, image_size=image_size)
    return FaceDataset(
        images=images,
        keypoints=Keypoints(full, KAGGLE15),
        sample_ids=(rows + 1).astype(np.str_),
        source=f"drawn faces (seed {seed})",
        styles=np.full(count, "kaggle-a"),
        groups=np.array([f"person-{i}" for i in people], np.str_),
    )


def draw_kaggle_like(
    count: int, *, seed: int = 0, test: bool = False, label_noise: bool = True
) -> FaceDataset:
    """Draw 96 x 96 faces as Kaggle's ``training.csv`` (or ``test.csv``) holds them.

    First come full rows (``kaggle-a``: 15 points, few people, calm poses; a third of the training
    rows, a fifth of the test rows), then four-point rows (``kaggle-b``: many people, wilder poses).
    In the latter ``nose_tip`` is the base of the nose, some 6 px lower, and
    ``mouth_center_bottom_lip`` the centre of the mouth, 2.5 to 4 px higher. Training rows miss a
    label here and there, and some four-point images come twice with different labels.

    Args:
        count: N, number of rows.
        seed: Not negative. The j-th full and the j-th four-point row of a seed are the same
            whatever ``count`` is.
        test: Draw test rows: other people, no missing points, no duplicates.
        label_noise: Add the annotators' inaccuracy: 0.4 px per coordinate to full rows, 1.0 px to
            four-point rows.

    Returns:
        N faces with styles and groups (the person); NaN = not labelled.

    Raises:
        ValueError: ``count`` or ``seed`` is negative.
    """
    if count < 0:
        raise ValueError(f"count must not be negative, received {count}.")
    num_full = -(-count // (5 if test else 3))
    offset = _TEST_OFFSET if test else 0
    a = np.arange(num_full, dtype=np.int64)
    people_a = a // (_PEOPLE_A * _IMAGES_A) * _PEOPLE_A + a % _PEOPLE_A
    b = np.arange(count - num_full, dtype=np.int64)
    repeats = (b % _DUPLICATE_EVERY == _DUPLICATE_EVERY - 1) & (not test)
    shown = np.where(repeats, b - 11, b)  # a duplicate repeats the image eleven rows before it

    image_size = 96
    images_a, xy_a, _ = _paint(
        a + offset, people_a + offset, seed=seed, spread=NARROW, image_size=image_size
    )
    own = shown[~repeats] + offset + _FOUR_POINT_OFFSET
    images_b, _, xy_b = _paint(own, own, seed=seed, spread=WIDE, image_size=image_size)
    place = np.cumsum(~repeats) - 1  # row -> its image among those painted
    images_b, xy_b = images_b[place[shown]], xy_b[place[shown]]

    xy = np.concatenate([xy_a, xy_b])
    styles = np.where(np.arange(count) < num_full, "kaggle-a", "kaggle-b")
    labels = np.concatenate([a + offset, b + offset + _FOUR_POINT_OFFSET])
    for i, (row, style) in enumerate(zip(labels.tolist(), styles.tolist(), strict=True)):
        rng = np.random.default_rng([seed, 4, row])
        noise = rng.standard_normal(xy[i].shape) * _NOISE_PX[style]
        missing = _missing_points(rng, style)
        if label_noise:
            xy[i] += noise.astype(np.float32)
        if not test:
            xy[i, missing] = np.nan
    groups = [f"full-{i}" for i in people_a + offset] + [f"four-{i}" for i in shown + offset]
    return FaceDataset(
        images=np.concatenate([images_a, images_b]),
        keypoints=Keypoints(xy, KAGGLE15),
        sample_ids=(np.arange(count) + 1).astype(np.str_),
        source=f"drawn Kaggle {'test' if test else 'training'} faces (seed {seed})",
        styles=styles,
        groups=np.array(groups, np.str_),
    )


def _missing_points(rng: np.random.Generator, style: str) -> list[int]:
    """Points that the annotators left out: one or two in 4 % of full rows, the mouth in 0.5 %."""
    draw = rng.random()
    if style == "kaggle-b":
        return [KAGGLE15.index("mouth_center_bottom_lip")] if draw < 0.005 else []
    if draw >= 0.04:
        return []
    choices = [KAGGLE15.index(name) for name in _OFTEN_MISSING]
    return list(rng.choice(choices, size=1 if draw < 0.03 else 2, replace=False))


def write_kaggle_folder(
    directory: str | os.PathLike[str],
    *,
    train: int = 3000,
    test: int = 500,
    seed: int = 0,
    force: bool = False,
) -> None:
    """Draw faces and save them exactly as Kaggle ships its files.

    Writes ``training.csv``, ``test.csv``, ``IdLookupTable.csv`` and ``SampleSubmission.csv``, and
    ``test_labels.csv``, which Kaggle keeps to itself: ``ImageId`` and the 30 coordinates, without
    label noise and each row in the style that the look-up table asks for.

    Args:
        directory: Folder to make; it appears complete or not at all.
        train: Rows of ``training.csv``, at least 1.
        test: Rows of ``test.csv``.
        seed: Not negative.
        force: Replace a folder that holds something.

    Raises:
        OutputError: The folder exists and is not empty, or it cannot be written.
        ValueError: A number is out of range.
    """
    if train < 1 or test < 0:
        raise ValueError(f"train must be at least 1 and test at least 0, received {train}, {test}.")
    with output_folder(Path(directory), verb="data synthesize", force=force) as folder:
        train_faces = draw_kaggle_like(train, seed=seed)
        test_faces = draw_kaggle_like(test, seed=seed, test=True, label_noise=False)
        write_table(folder / "training.csv", train_faces, part="train")
        write_table(folder / "test.csv", test_faces, part="test")
        _write_answers(folder, test_faces)


def _write_answers(directory: Path, faces: FaceDataset) -> None:
    """The look-up table, the sample submission, and the truth of the test images."""
    names = KAGGLE15.keypoint_names
    lookup: list[list[Value]] = []
    truth: list[list[Value]] = []
    for i, style in enumerate(faces.styles):
        asked = STYLE_B_POINTS if style == "kaggle-b" else names
        for name in (f"{point}_{axis}" for point in asked for axis in "xy"):
            lookup.append([len(lookup) + 1, i + 1, name, None])
        truth.append([i + 1, *label_cells(faces.keypoints.xy[i])])
    tables.write_table(
        directory / "IdLookupTable.csv", ["RowId", "ImageId", "FeatureName", "Location"], lookup
    )
    sample = ([row[0], 0] for row in lookup)
    tables.write_table(directory / "SampleSubmission.csv", ["RowId", "Location"], sample)
    columns = ["ImageId", *KAGGLE15.coordinate_names]
    tables.write_table(directory / "test_labels.csv", columns, truth)
