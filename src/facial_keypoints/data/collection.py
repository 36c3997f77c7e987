"""All labelled faces of a data folder as one collection of crops, points, styles and groups.

The folder holds any of: ``facial-keypoints-detection/`` (Kaggle's files), ``wild/`` (160-pixel crops
with ``labels.csv.gz``) and ``photos/`` (whole pictures with ``train_faces.csv``). Faces that are also
in Kaggle's test file are left out, so that a score on that file stays honest.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facial_keypoints.data.duplicates import duplicate_groups, image_digests, join_groups
from facial_keypoints.data.formats import load_dataset
from facial_keypoints.data.kaggle import load_kaggle
from facial_keypoints.errors import DataError
from facial_keypoints.pictures import fit_picture, read_picture
from facial_keypoints.schemas import KAGGLE15, STYLE_B_POINTS
from facial_keypoints.types import ImageArray

__all__ = ["CANVAS", "FOLDS", "FaceCollection", "learnt_digests", "load_collection", "load_wild"]

CANVAS = 160
"""Side of a stored crop, pixels: room to shift, turn and shrink a 96-pixel view in it."""

FOLDS = 4
"""Into so many folds the faces are dealt, whole groups at a time."""

_EYES_PX = 36.2
"""Median distance between the eyes in Kaggle's 96-pixel crops; photos are cut to it."""
_SMALLEST_EYES_PX = 9.0  # in the photo; below, the crop is a blur and its label a guess
_EYE_LINE = 70.0  # canvas row of the eyes in a photo's crop: Kaggle's 38 in the middle 96 rows
_SAME_LABEL_PX = 0.05  # a photo whose points have exactly a Kaggle row's shape is that row
_SAME_PICTURE = 0.945  # correlation after alignment, above which a photo may show a test face
# Labels of photos are scaled up with the picture without the half-pixel shift of its centres.
# 0.5 (s - 1) in theory; 0.4 fitted the registration of 1,188 photos to Kaggle's own crops.
_PHOTO_SHIFT = 0.4


@dataclass(frozen=True, eq=False)
class FaceCollection:
    """N faces of several sets on one canvas.

    Args:
        images: (N, 160, 160) uint8 grey; a Kaggle row sits in the middle, its edge repeated.
        xy: (N, 15, 2) float32 canvas pixels, NaN = not labelled.
        style: (N,) int32 index into the schema's styles.
        sets: (N,) name of the set that a face comes from.
        groups: (N,) group key: one person, or near-duplicate pictures.
        folds: (N,) int32 fold 0-3; a group lies in one fold.
        ids: (N,) identifiers.
    """

    images: NDArray[np.uint8]
    xy: NDArray[np.float32]
    style: NDArray[np.int32]
    sets: NDArray[np.str_]
    groups: NDArray[np.str_]
    folds: NDArray[np.int32]
    ids: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, index: NDArray[Any]) -> FaceCollection:
        """The faces selected by ``index``."""
        return FaceCollection(*(getattr(self, f.name)[index] for f in fields(self)))

    def framing(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Middle (N, 2) of each face's usual view, its slack (N, 2), and 1.0 where framing is fixed.

        Kaggle's crops show the eyes at row 37 of 96. The wild crops have the eyes at row 60 of 160;
        who cuts their middle sees the eyes at 28, who frames like Kaggle at 37: both must work.
        """
        n = len(self)
        kaggle = np.char.startswith(self.sets, "kaggle")
        wild = ~kaggle & (self.sets != "photos")
        centre = np.full((n, 2), (CANVAS - 1) / 2.0, np.float32)
        centre[wild, 1] = 75.0
        slack = np.zeros((n, 2), np.float32)
        slack[wild, 1] = 5.0
        return centre, slack, kaggle.astype(np.float32)


def load_collection(
    data: Path, *, threads: int = 8, report: Callable[[str], None] | None = None
) -> FaceCollection:
    """Read every labelled face of a data folder.

    Args:
        data: The folder (see the module's description); missing parts are skipped.
        threads: For decoding pictures.
        report: Told one line per part.

    Raises:
        DataError: Nothing labelled is there, or a part is damaged.
    """
    say = report or (lambda _: None)
    parts: list[FaceCollection] = []
    kaggle_folder, test_images = data / "facial-keypoints-detection", None
    if kaggle_folder.is_dir():
        parts.append(_kaggle(kaggle_folder))
        say(f"{len(parts[-1])} faces from Kaggle's training file")
        if any(kaggle_folder.glob("test.*")):
            test_images = load_kaggle(kaggle_folder, part="test").images[..., 0]
    if (data / "photos" / "train_faces.csv").is_file():
        parts.append(_photos(data / "photos", parts[0] if parts else None, test_images))
        say(f"{len(parts[-1])} faces from photos that are neither in Kaggle's files nor tiny")
    if (data / "wild" / "labels.csv.gz").is_file():
        for part in load_wild(data / "wild", threads):
            parts.append(part)
            say(f"{len(part)} faces from {part.sets[0]}")
    if not parts:
        raise DataError(
            f"{data} holds no labelled faces: it needs facial-keypoints-detection/, wild/labels.csv.gz "
            "or photos/train_faces.csv."
        )
    return _join(parts)


def learnt_digests(data: Path, size: tuple[int, int], *, threads: int = 8) -> set[bytes]:
    """Digests of the folder's faces as :func:`data.formats.load_dataset` gives them to a model.

    Kaggle's rows and the wild crops are images that somebody may measure a model on. Faces of
    ``photos`` are not among them: how a photo is cut depends on its labels.

    Args:
        data: The folder, as for :func:`load_collection`.
        size: (height, width) of the model's input.
        threads: For decoding images.
    """
    found: set[bytes] = set()
    if (kaggle := data / "facial-keypoints-detection").is_dir():
        found.update(image_digests(load_dataset(kaggle, size=size, channels=1).images))
    if (data / "wild" / "labels.csv.gz").is_file():
        for part in load_wild(data / "wild", threads):
            fitted = [fit_picture(image[..., np.newaxis], size, 1)[0] for image in part.images]
            found.update(image_digests(np.stack(fitted)))
    return found


def _folds(groups: NDArray[np.str_]) -> NDArray[np.int32]:
    """Large groups one by one to the emptiest fold, the rest by their name's checksum."""
    names, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    fold = np.array([zlib.crc32(str(n).encode()) % FOLDS for n in names], np.int32)
    load = np.zeros(FOLDS, int)
    for g in np.argsort(-counts, kind="stable"):
        if counts[g] < 0.02 * len(groups):  # Kaggle's persons are at least that, others are less
            break
        fold[g] = int(np.argmin(load))
        load[fold[g]] += counts[g]
    return np.asarray(fold[inverse], np.int32)


def _make(
    images: NDArray[np.uint8],
    xy: NDArray[np.float32],
    style: NDArray[np.int32] | str,
    sets: NDArray[np.str_] | str,
    groups: Iterable[str],
    ids: Iterable[str],
) -> FaceCollection:
    n, keys = len(images), np.array(list(groups), np.str_)
    styles = np.full(n, KAGGLE15.styles.index(style)) if isinstance(style, str) else style
    return FaceCollection(
        images, xy.astype(np.float32), styles.astype(np.int32),
        np.full(n, sets) if isinstance(sets, str) else sets,
        keys, _folds(keys), np.array(list(ids), np.str_),
    )  # fmt: skip


def _kaggle(folder: Path) -> FaceCollection:
    rows = load_kaggle(folder)
    known = np.isin(rows.styles, KAGGLE15.styles)
    rows = rows.subset(np.flatnonzero(known))
    size = rows.images.shape[1]
    if size > CANVAS:
        raise DataError(f"{folder}: pictures must be at most {CANVAS} px wide, these have {size}.")
    margin = (CANVAS - size) // 2
    pad = ((0, 0), (margin, CANVAS - size - margin), (margin, CANVAS - size - margin))
    groups = np.empty(len(rows), dtype="U24")
    for style in np.unique(rows.styles):
        i = np.flatnonzero(rows.styles == style)
        found = duplicate_groups(rows.images[i], rows.keypoints.subset(i))
        groups[i] = [f"{style} {g:05d}" for g in found]
    persons = _persons()
    for row, image in enumerate(rows.images):
        groups[row] = persons.get(f"{zlib.crc32(image.tobytes()):08x}", groups[row])
    parts = [np.flatnonzero(rows.styles == style) for style in np.unique(rows.styles)]
    images = np.pad(rows.images[..., 0], pad, mode="edge")
    styles = np.array([KAGGLE15.styles.index(str(s)) for s in rows.styles], np.int32)
    made = [
        _make(
            images[i],
            rows.keypoints.xy[i] + margin,
            styles[i],
            rows.styles[i],
            groups[i],
            (f"row {n}" for n in rows.sample_ids[i]),
        )
        for i in parts  # each style dealt into folds by itself
    ]
    return _join(made)


def _persons() -> dict[str, str]:
    """Group of each picture whose person is known, by the checksum of its pixels.

    Few persons fill style A. Likeness finds a sitting, not a person, so near-duplicate groups alone
    would put one person's sittings on both sides of a split.
    """
    file = resources.files("facial_keypoints.data") / "kaggle_persons.json"
    persons = json.loads(file.read_text(encoding="utf-8"))["persons"]
    return {key: f"person {number:02d}" for number, keys in enumerate(persons) for key in keys}


def _join(parts: list[FaceCollection]) -> FaceCollection:
    return FaceCollection(
        *(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(FaceCollection))
    )


def _numbers(row: dict[str, str], names: Iterable[str], where: str) -> list[float]:
    try:
        return [float(row[name]) if row[name] else np.nan for name in names]
    except (KeyError, ValueError) as error:
        raise DataError(f"{where}: {error} is no coordinate; write a number or nothing.") from error


def _decode(blob: bytes, where: str) -> ImageArray:
    return read_picture(blob, channels=1, name=where)[..., 0]


def load_wild(folder: Path, threads: int) -> Iterator[FaceCollection]:
    """One collection for each set of a folder of 160-pixel crops with ``labels.csv.gz``."""
    columns = [f"{name}_{axis}" for name in KAGGLE15.keypoint_names for axis in "xy"]
    labels = folder / "labels.csv.gz"
    with gzip.open(labels, "rt", newline="") as handle:
        rows = [
            (r["set"], r["file"], r["group"], _numbers(r, columns, f"{labels} row {n}"))
            for n, r in enumerate(csv.DictReader(handle), start=2)
        ]
    for name in dict.fromkeys(r[0] for r in rows):
        mine = [r for r in rows if r[0] == name]
        with zipfile.ZipFile(folder / f"{name}.zip") as archive:
            blobs = [archive.read(r[1]) for r in mine]  # one reader: zip files share a position
        with ThreadPoolExecutor(threads) as pool:
            where = [f"{folder / name}.zip {r[1]}" for r in mine]
            images = np.stack(list(pool.map(_decode, blobs, where)))
        if images.shape[1:] != (CANVAS, CANVAS):
            raise DataError(
                f"{folder / name}.zip: crops must be {CANVAS}x{CANVAS}, got {images.shape[1:]}."
            )
        xy = np.array([r[3] for r in mine], np.float32).reshape(-1, 15, 2)
        fifteen = bool((~np.isnan(xy[..., 0])).sum(axis=1).max() > 5)
        yield _make(
            images, xy, "ibug" if fifteen else "five", name,
            (f"wild:{_person(r[1], r[2])}" for r in mine), (f"{name}/{r[1]}" for r in mine),
        )  # fmt: skip


def _person(file: str, group: str) -> str:
    """The person's name where a file name tells it: LFW and YouTube Faces share their persons."""
    match = re.match(r"lfw_5590_(.+)_\d{4}\.jpg$", file)
    return match.group(1) if match else group


def _photos(
    folder: Path, kaggle: FaceCollection | None, test: NDArray[np.uint8] | None
) -> FaceCollection:
    names = [
        f"{p}_{a}"
        for p in ("left_eye_center", "right_eye_center", "nose", "mouth_center")
        for a in "xy"
    ]
    with (folder / "train_faces.csv").open(newline="") as handle:
        rows = [
            (r["file"], _numbers(r, names, f"{folder / 'train_faces.csv'} row {n}"))
            for n, r in enumerate(csv.DictReader(handle), start=2)
        ]
    points = np.array([r[1] for r in rows], np.float64).reshape(-1, 4, 2)
    middle = points[:, :2].mean(axis=1)
    # Turned faces have their eyes close together; the way down to the mouth tells their size too.
    size = np.maximum(
        np.linalg.norm(points[:, 0] - points[:, 1], axis=1),
        0.93 * np.linalg.norm(middle - points[:, 3], axis=1),
    )
    keep = size >= _SMALLEST_EYES_PX
    if kaggle is not None:
        keep &= ~_labels_known(points, kaggle)
    scale = _EYES_PX / np.maximum(size, 1.0)
    images, kept = [], np.flatnonzero(keep)
    with zipfile.ZipFile(folder / "train.zip") as archive:
        for i in kept:
            photo = _decode(archive.read(rows[i][0]), f"{folder / 'train.zip'} {rows[i][0]}")
            s = scale[i]
            if s < 0.6:  # shrinking without smoothing would alias
                photo = np.asarray(cv2.GaussianBlur(photo, (0, 0), 0.4 / s), np.uint8)
            to = np.array([(CANVAS / 2), _EYE_LINE]) - s * middle[i]
            images.append(
                cv2.warpAffine(
                    photo,
                    np.array([[s, 0, to[0]], [0, s, to[1]]]),
                    (CANVAS, CANVAS),
                    flags=cv2.INTER_LINEAR if s < 1 else cv2.INTER_CUBIC,
                    borderMode=cv2.BORDER_REPLICATE,
                )
            )
    crops = np.array(images, np.uint8).reshape(-1, CANVAS, CANVAS)
    xy = np.full((len(kept), 15, 2), np.nan, np.float32)
    s = scale[kept][:, None, None]
    to = np.array([CANVAS / 2, _EYE_LINE]) - scale[kept][:, None] * middle[kept]
    columns = [KAGGLE15.index(name) for name in STYLE_B_POINTS]
    xy[:, columns] = points[kept] * s + to[:, None] - _PHOTO_SHIFT * (s - 1.0)
    unseen = np.ones(len(kept), bool) if test is None else ~_shows_test_face(crops, test)
    files = np.array([rows[i][0] for i in kept], np.str_)
    ids = np.array([f"photo {rows[i][0]} {i}" for i in kept], np.str_)
    groups = (
        join_groups(files, duplicate_groups(crops[..., None])) if len(crops) else np.empty(0, int)
    )
    return _make(
        crops[unseen],
        xy[unseen],
        "kaggle-b",
        "photos",
        (f"photo {g}" for g in groups[unseen]),
        ids[unseen],
    )


def _labels_known(points: NDArray[np.float64], kaggle: FaceCollection) -> NDArray[np.bool_]:
    """(M,) bool: which photo faces are Kaggle rows: their labels are the same up to scale and place."""
    columns = [KAGGLE15.index(name) for name in STYLE_B_POINTS]
    rows = kaggle.xy[kaggle.style == KAGGLE15.styles.index("kaggle-b")][:, columns].astype(float)
    rows = rows[~np.isnan(rows).any(axis=(1, 2))]
    if not len(rows):
        return np.zeros(len(points), bool)

    def shape(p: NDArray[np.float64]) -> NDArray[np.float64]:
        flat = (p - p.mean(axis=1, keepdims=True)).reshape(len(p), -1)
        return np.asarray(flat / np.linalg.norm(flat, axis=1, keepdims=True))

    cosine = np.nan_to_num(shape(points) @ shape(rows).T, nan=-1.0).max(axis=1)
    span = 45.0  # pixels: usual norm of four centred points in a 96-pixel crop
    return np.asarray(cosine > 1.0 - 0.5 * (_SAME_LABEL_PX / span) ** 2)


def _shows_test_face(crops: NDArray[np.uint8], test: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(M,) bool: which crops may show a picture of the test file, at any likely framing."""

    def unit(x: NDArray[Any]) -> NDArray[np.float32]:
        x = x.reshape(len(x), -1).astype(np.float32)
        x = x - x.mean(axis=1, keepdims=True)
        return np.asarray(x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-3), np.float32)

    quarter = 4
    templates = unit(
        np.stack(
            [
                cv2.resize(t[16:80, 16:80], (16, 16), interpolation=cv2.INTER_AREA)
                for t in test
            ]
        )
    )  # fmt: skip
    drop = np.zeros(len(crops), bool)
    for n, crop in enumerate(crops):
        windows = []
        for s in (0.8, 0.9, 1.0, 1.1, 1.22):
            side = round(CANVAS * s / quarter)
            small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
            every = np.lib.stride_tricks.sliding_window_view(small, (16, 16))
            x, y = round(80 * s / quarter) - 8, round((_EYE_LINE + 10) * s / quarter) - 8
            near = every[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5]
            windows.append(near.reshape(-1, 256))
        best = (templates @ unit(np.concatenate(windows)).T).max(axis=1)
        row = int(best.argmax())
        drop[n] = best[row] > 0.78 and _aligned_likeness(test[row], crop) > _SAME_PICTURE
    return drop


def _aligned_likeness(a: NDArray[np.uint8], crop: NDArray[np.uint8]) -> float:
    """Correlation of two faces after the best affine alignment; 0 where none is found."""
    soft = [cv2.GaussianBlur(i, (0, 0), 1.5).astype(np.float32) for i in (a, crop[36:132, 32:128])]
    start = np.array([[1, 0, 6], [0, 1, 6]], np.float32)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-4)
    try:
        likeness, _ = cv2.findTransformECC(
            soft[0][12:84:2, 12:84:2].copy(), soft[1][::2, ::2].copy(), start, cv2.MOTION_AFFINE, stop
        )  # fmt: skip
    except cv2.error:  # it did not converge: they are not alike
        return 0.0
    return float(likeness)
