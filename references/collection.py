"""All labelled faces of a data folder as one collection of crops, points, styles and groups.

The folder holds any of: ``facial-keypoints-detection/`` (Kaggle's files), ``wild/`` (160-pixel crops
with ``labels.csv.gz``) and ``photos/`` (whole images with ``train_faces.csv``). Faces that are also
in Kaggle's test file are left out, so that a score on that file is not too good.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facial_keypoints.crops import letterbox
from facial_keypoints.data.duplicates import duplicate_groups, image_digests, join_groups
from facial_keypoints.data.formats import load_dataset
from facial_keypoints.data.kaggle import load_kaggle
from facial_keypoints.errors import DataError
from facial_keypoints.geometry import face_sizes
from facial_keypoints.io.images import read_image
from facial_keypoints.schemas import FIVE, KAGGLE15, STYLE_B_POINTS
from facial_keypoints.types import FaceDataset, ImageArray, Keypoints, KeypointSchema

__all__ = [
    "CANVAS",
    "CANVAS_EYES_PX",
    "CANVAS_EYE_ROW",
    "FOLDS",
    "fold_numbers",
    "held_out",
    "join_faces",
    "learnt_digests",
    "load_collection",
    "load_wild",
    "set_names",
    "style_numbers",
    "usual_crops",
]

CANVAS = 160
"""Side of a stored crop, pixels: room to shift, rotate and shrink a 96-pixel view in it."""

CANVAS_EYES_PX, CANVAS_EYE_ROW = CANVAS / 4.2, 60.0
"""In the crops of ``wild/``, upright faces with the eyes' middle at half the width: how far the eyes are apart,
and in which row."""

FOLDS = 4
"""Into so many folds the faces are dealt, whole groups at a time."""

_EYES_PX = 36.2
"""Median distance between the eyes in Kaggle's 96-pixel crops; photos are cut to it."""
_SMALLEST_EYES_PX = 9.0  # in the photo; below, the crop is a blur and its label a guess
_EYE_LINE = 70.0  # canvas row of the eyes in a photo's crop: Kaggle's 38 in the middle 96 rows
_SAME_LABEL_PX = 0.05  # a photo whose points have exactly a Kaggle row's shape is that row
_SAME_IMAGE = 0.945  # correlation after alignment, above which a photo may show a test face
# Labels of photos are scaled up with the image without the half-pixel shift of its centres.
# 0.5 (s - 1) in theory; 0.4 fitted the registration of 1,188 photos to Kaggle's own crops.
_PHOTO_SHIFT = 0.4


def set_names(faces: FaceDataset) -> NDArray[np.str_]:
    """(N,) the set each face comes from: ``kaggle-a``, ``kaggle-b``, ``photos`` or a wild set's name.

    The identifiers tell it: ``row 7`` is Kaggle's, ``photo a.jpg 3`` a photo's, ``ytf/a.jpg`` a wild set's.
    """
    names = []
    for name, style in zip(faces.sample_ids.tolist(), faces.styles.tolist(), strict=True):
        if name.startswith("row "):
            names.append(style)
        else:
            names.append("photos" if name.startswith("photo ") else name.split("/", 1)[0])
    return np.array(names, np.str_)


def style_numbers(faces: FaceDataset) -> NDArray[np.int32]:
    """(N,) index of each face's label style among ``KAGGLE15.styles``."""
    return np.array([KAGGLE15.styles.index(s) for s in faces.styles.tolist()], np.int32)


def fold_numbers(faces: FaceDataset) -> NDArray[np.int32]:
    """(N,) fold 0 to 3 of each face; a group lies in one fold. Ask for all faces, not for some.

    Each set is dealt by itself: large groups one by one to the emptiest fold, the rest by their
    name's checksum.
    """
    sets, folds = set_names(faces), np.zeros(len(faces), np.int32)
    for name in np.unique(sets):
        folds[sets == name] = _folds(faces.groups[sets == name])
    return folds


def held_out(faces: FaceDataset) -> NDArray[np.bool_]:
    """(N,) which faces are not trained on: those of a tenth of the groups, by name."""
    return np.array([zlib.crc32(group.encode()) % 10 == 0 for group in faces.groups.tolist()])


def usual_crops(
    faces: FaceDataset,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Middle (N, 2) of each face's usual crop, its slack (N, 2), and 1.0 where the crop is fixed.

    Kaggle's crops show the eyes at row 37 of 96. The wild crops have the eyes at row 60 of 160;
    who cuts their middle sees the eyes at 28, who crops like Kaggle at 37: both must work.
    """
    n, sets = len(faces), set_names(faces)
    kaggle = np.char.startswith(sets, "kaggle")
    wild = ~kaggle & (sets != "photos")
    centre = np.full((n, 2), (CANVAS - 1) / 2.0, np.float32)
    centre[wild, 1] = 75.0
    slack = np.zeros((n, 2), np.float32)
    slack[wild, 1] = 5.0
    return centre, slack, kaggle.astype(np.float32)


def load_collection(
    data: Path, *, threads: int = 8, report: Callable[[str], None] | None = None
) -> FaceDataset:
    """Read every labelled face of a data folder.

    Args:
        data: The folder (see the module's description); missing parts are skipped.
        threads: For decoding images.
        report: Told one line per part.

    Returns:
        N faces in the middle of 160-pixel images (N, 160, 160, 1); a Kaggle row has its edge
        repeated. Points are pixels of that canvas.

    Raises:
        DataError: Nothing labelled is there, or a part is damaged.
    """
    say = report or (lambda _: None)
    parts: list[FaceDataset] = []
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
            say(f"{len(part)} faces from {part.source}")
    if not parts:
        raise DataError(
            f"{data} holds no labelled faces: it needs facial-keypoints-detection/, wild/labels.csv.gz "
            "or photos/train_faces.csv."
        )
    return join_faces(parts, str(data))


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
            fitted = [letterbox(image, size, 1)[0] for image in part.images]
            found.update(image_digests(np.stack(fitted)))
    return found


def _folds(groups: NDArray[np.str_]) -> NDArray[np.int32]:
    names, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    fold = np.array([zlib.crc32(str(n).encode()) % FOLDS for n in names], np.int32)
    load = np.zeros(FOLDS, int)
    for g in np.argsort(-counts, kind="stable"):
        if counts[g] < 0.02 * len(groups):  # Kaggle's persons are at least that, others are less
            break
        fold[g] = int(np.argmin(load))
        load[fold[g]] += counts[g]
    return np.asarray(fold[inverse], np.int32)


def _kaggle(folder: Path) -> FaceDataset:
    rows = load_kaggle(folder)
    known = np.isin(rows.styles, KAGGLE15.styles)
    rows = rows.subset(np.flatnonzero(known))
    size = rows.images.shape[1]
    if size > CANVAS:
        raise DataError(f"{folder}: images must be at most {CANVAS} px wide, these have {size}.")
    margin = (CANVAS - size) // 2
    around = (margin, CANVAS - size - margin)
    groups = np.empty(len(rows), dtype="U24")
    for style in np.unique(rows.styles):
        i = np.flatnonzero(rows.styles == style)
        found = duplicate_groups(rows.images[i], rows.keypoints.subset(i))
        groups[i] = [f"{style} {g:05d}" for g in found]
    persons = _persons()
    for row, image in enumerate(rows.images):
        groups[row] = persons.get(f"{zlib.crc32(image.tobytes()):08x}", groups[row])
    return FaceDataset(
        np.pad(rows.images, ((0, 0), around, around, (0, 0)), mode="edge"),
        Keypoints(rows.keypoints.xy + margin, KAGGLE15),
        np.array([f"row {n}" for n in rows.sample_ids]),
        styles=rows.styles,
        groups=groups,
    ).subset(np.argsort(rows.styles, kind="stable"))


def _persons() -> dict[str, str]:
    """Group of each image whose person is known, by the checksum of its pixels.

    Style A shows few persons. Near-duplicates find images of one session, not of one person, so by
    themselves they would leave a person on both sides of a split.
    """
    file = Path(__file__).with_name("kaggle_persons.json")
    persons = json.loads(file.read_text(encoding="utf-8"))["persons"]
    return {key: f"person {number:02d}" for number, keys in enumerate(persons) for key in keys}


def join_faces(parts: list[FaceDataset], source: str) -> FaceDataset:
    """Faces of one schema and size, one part after the other."""
    return FaceDataset(
        np.concatenate([p.images for p in parts]),
        Keypoints(np.concatenate([p.keypoints.xy for p in parts]), parts[0].schema),
        np.concatenate([p.sample_ids for p in parts]),
        source,
        np.concatenate([p.styles for p in parts]),
        np.concatenate([p.groups for p in parts]),
    )


def _points(row: dict[str, str], names: Iterable[str], where: str) -> NDArray[np.float64]:
    """(K, 2) the points of a row, whose columns are ``names`` with ``_x`` and ``_y``."""
    columns = [f"{name}_{axis}" for name in names for axis in "xy"]
    try:
        points = np.array([float(row[c]) if row[c] else np.nan for c in columns]).reshape(-1, 2)
    except (KeyError, ValueError) as error:
        raise DataError(f"{where}: {error} is no coordinate; write a number or nothing.") from error
    if np.isinf(points).any() or (np.isnan(points).sum(axis=1) == 1).any():
        raise DataError(f"{where}: a point has one coordinate; write both x and y, or neither.")
    return points


def _decode(blob: bytes, where: str) -> ImageArray:
    return read_image(blob, channels=1, name=where)[..., 0]


def load_wild(
    folder: Path,
    threads: int,
    schema: KeypointSchema = KAGGLE15,
    sets: Container[str] | None = None,
) -> Iterator[FaceDataset]:
    """The faces of each set of a folder of 160-pixel crops with ``labels.csv.gz``; ``source`` names the set.

    Faces without a point of the schema are left out. ``sets`` are those to read, all when left out.
    """
    names, labels = schema.keypoint_names, folder / "labels.csv.gz"
    with gzip.open(labels, "rt", newline="") as handle:
        rows = [
            (r["set"], r["file"], r["group"], _points(r, names, f"{labels} row {n}"))
            for n, r in enumerate(csv.DictReader(handle), start=2)
            if sets is None or r["set"] in sets
        ]
    rows = [r for r in rows if not np.isnan(r[3]).all()]
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
        xy = np.array([r[3] for r in mine], np.float32)
        fifteen = bool((~np.isnan(xy[..., 0])).sum(axis=1).max() > 5)
        yield FaceDataset(
            images[..., np.newaxis],
            Keypoints(xy, schema),
            np.array([f"{name}/{r[1]}" for r in mine]),
            name,
            np.full(len(mine), "ibug" if fifteen else "five"),
            np.array([f"wild:{_person(r[1], r[2])}" for r in mine]),
        )


def _person(file: str, group: str) -> str:
    """The person's name where a file name tells it: LFW and YouTube Faces share their persons."""
    match = re.match(r"lfw_5590_(.+)_\d{4}\.jpg$", file)
    return match.group(1) if match else group


def _photos(
    folder: Path, kaggle: FaceDataset | None, test: NDArray[np.uint8] | None
) -> FaceDataset:
    names = ("left_eye_center", "right_eye_center", "nose", "mouth_center")
    with (folder / "train_faces.csv").open(newline="") as handle:
        rows = [
            (r["file"], _points(r, names, f"{folder / 'train_faces.csv'} row {n}"))
            for n, r in enumerate(csv.DictReader(handle), start=2)
        ]
    points = np.array([r[1] for r in rows], np.float64).reshape(-1, 4, 2)
    middle = points[:, :2].mean(axis=1)
    size = face_sizes(
        points[:, [0, 1, 2, 3, 3]], FIVE
    )  # one point of the mouth for its two corners
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
    return FaceDataset(
        crops[..., np.newaxis],
        Keypoints(xy, KAGGLE15),
        ids,
        "photos",
        np.full(len(ids), "kaggle-b"),
        np.array([f"photo {g}" for g in groups], np.str_),
    ).subset(unseen)


def _labels_known(points: NDArray[np.float64], kaggle: FaceDataset) -> NDArray[np.bool_]:
    """(M,) bool: which photo faces are Kaggle rows: their labels are the same up to scale and place."""
    columns = [KAGGLE15.index(name) for name in STYLE_B_POINTS]
    rows = kaggle.keypoints.xy[kaggle.styles == "kaggle-b"][:, columns].astype(float)
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
    """(M,) bool: which crops may show an image of the test file, in any likely crop."""

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
        drop[n] = best[row] > 0.78 and _aligned_likeness(test[row], crop) > _SAME_IMAGE
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
