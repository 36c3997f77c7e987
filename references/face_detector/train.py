"""Trains the face detector that the package ships.

``python -m references.face_detector --data DIR -o OUT`` reads ``DIR/photos`` (``train.zip`` with
``train_faces.csv``: eye centres and the middle of the mouth) and ``DIR/wild`` (crops around one face),
and writes ``OUT/face_detector.onnx``.

Every image that the network sees is composed anew: a photo at a random size, rotated and mirrored;
over it, sometimes, further photos, faces cut from other sets, drawn faces, and patches without any.
Not every face of a group photo is labelled. Such faces must not be taught as background: ``--extra``
names a table of what another detector found (``file, right_eye_x, right_eye_y, left_eye_x,
left_eye_y, mouth_x, mouth_y, score``). Those with a high score are learnt as faces, the others are left
out of the loss.
"""

from __future__ import annotations

import csv
import json
import queue
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facial_keypoints.crops import resize_image, to_channels
from facial_keypoints.data.duplicates import duplicate_groups
from facial_keypoints.data.synthetic.faces import draw_faces
from facial_keypoints.data.synthetic.scenes import draw_scene
from facial_keypoints.errors import DataError
from facial_keypoints.geometry import (
    edges_to_centres,
    face_boxes,
    resize_transform,
)
from facial_keypoints.inference.detector import FaceDetector, OnnxFaceDetector
from facial_keypoints.io.images import encode_image, read_image
from facial_keypoints.models.face_detector import (
    DetectorConfig,
    build_detector,
    export_detector,
    set_threshold,
)
from facial_keypoints.schemas import FIVE, KAGGLE15
from facial_keypoints.training.detector import (
    affine,
    cell_targets,
    detector_loss,
    match_boxes,
    place_photo,
)
from facial_keypoints.types import ImageArray
from references.collection import load_wild

__all__ = [
    "FitConfig",
    "LabelledPhoto",
    "SceneComposer",
    "cell_targets",
    "drawn_crops",
    "drawn_scenes",
    "export_detector",
    "load_crops",
    "load_photos",
    "measure_detector",
    "split_photos",
    "square_boxes",
    "train_detector",
]

TRUSTED_SCORE = 0.95
"""Score from which another detector's find is learnt as a face: of 60 checked, none was wrong."""

Points = NDArray[np.float32]
Targets = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LabelledPhoto:
    """A grey photo and its faces.

    Args:
        image: (H, W) uint8.
        points: (N, 3, 2) right eye, left eye and middle of the mouth, pixels.
        certain: (N,) bool; the others count neither as faces nor as background.
        labelled: (N,) bool; the others are another detector's finds.
        name: File name.
    """

    image: ImageArray
    points: Points
    certain: NDArray[np.bool_]
    labelled: NDArray[np.bool_]
    name: str = ""


@dataclass(frozen=True)
class FitConfig:
    """How the network is trained.

    Args:
        minutes: Time to train for; the rate falls along a cosine over it.
        steps: Steps after which to stop earlier.
        batch: Images in a step.
        side: Side of the composed images, pixels.
        rate: Highest learning rate.
        network: Shape of the network.
        longest_side: Of the photos that the exported network is given, pixels.
        seed: Of everything random.
        check_minutes: Time between two exports, each measured on the held-out photos.
    """

    minutes: float = 60.0
    steps: int = 1_000_000
    batch: int = 16
    side: int = 320
    rate: float = 2e-3
    network: DetectorConfig = field(default_factory=DetectorConfig)
    longest_side: int = 448
    seed: int = 0
    check_minutes: float = 8.0


def square_boxes(points: Points) -> NDArray[np.float32]:
    """Face boxes (N, 4) xyxy of faces whose eyes and middle of the mouth (N, 3, 2) are known."""
    return face_boxes(points[:, [1, 0, 2, 2, 2]], FIVE)  # the nose does not count


def load_photos(folder: Path, extra: Path | None = None) -> list[LabelledPhoto]:
    """Read ``train.zip`` with ``train_faces.csv``.

    Args:
        folder: Where both are.
        extra: Table of faces that another detector found besides the labelled ones.

    Raises:
        DataError: A file is missing or an image cannot be decoded.
    """
    names = ("right_eye_center", "left_eye_center", "mouth_center")
    faces: dict[str, list[tuple[list[float], bool, bool]]] = {}
    for row in _rows(folder / "train_faces.csv"):
        numbers = [float(row[f"{name}_{axis}"]) for name in names for axis in "xy"]
        faces.setdefault(row["file"], []).append((numbers, True, True))
    for row in _rows(extra) if extra else ():
        numbers = [
            float(row[f"{name}_{axis}"])
            for name in ("right_eye", "left_eye", "mouth")
            for axis in "xy"
        ]
        certain = float(row["score"]) >= TRUSTED_SCORE
        faces.setdefault(row["file"], []).append((numbers, certain, False))
    photos = []
    with zipfile.ZipFile(folder / "train.zip") as archive:
        for name in archive.namelist():
            where = f"{folder / 'train.zip'} {name}"
            mine = faces.get(name, [])
            photos.append(
                LabelledPhoto(
                    read_image(archive.read(name), channels=1, name=where)[..., 0],
                    np.array([f[0] for f in mine], np.float32).reshape(-1, 3, 2),
                    np.array([f[1] for f in mine], bool),
                    np.array([f[2] for f in mine], bool),
                    name,
                )
            )
    return photos


def _rows(path: Path) -> Iterator[dict[str, str]]:
    if not path.is_file():
        raise DataError(f"there is no {path}: name the folder of the photos and their labels.")
    with path.open(newline="") as handle:
        yield from csv.DictReader(handle)


def _three_points(xy: NDArray[np.float32]) -> Points:
    """(N, 3, 2) of (N, 15, 2): eyes and the middle of the mouth's corners."""
    right, left, *mouth = (
        xy[:, KAGGLE15.index(name)]
        for name in (
            "right_eye_center",
            "left_eye_center",
            "mouth_left_corner",
            "mouth_right_corner",
        )
    )
    return np.stack([right, left, (mouth[0] + mouth[1]) / 2.0], axis=1).astype(np.float32)


def load_crops(folder: Path) -> list[LabelledPhoto]:
    """Crops with one face each, of a folder of 160-pixel crops with ``labels.csv.gz``."""
    crops: list[LabelledPhoto] = []
    for faces in load_wild(folder, threads=1):
        points = _three_points(faces.keypoints.xy)
        known = np.flatnonzero(np.isfinite(points).all(axis=(1, 2)))
        crops.extend(_one_face(faces.images[i, ..., 0], points[i : i + 1]) for i in known)
    return crops


def drawn_crops(count: int, seed: int = 0) -> list[LabelledPhoto]:
    """Drawn faces, one in an image."""
    faces = draw_faces(count, seed=seed, image_size=160)
    points = _three_points(faces.keypoints.xy)
    return [
        _one_face(image, point[np.newaxis])
        for image, point in zip(faces.images[..., 0], points, strict=True)
    ]


def _one_face(image: ImageArray, points: Points) -> LabelledPhoto:
    yes = np.ones(len(points), bool)
    return LabelledPhoto(np.ascontiguousarray(image), points, yes, yes)


def drawn_scenes(count: int, seed: int = 0) -> list[LabelledPhoto]:
    """Photos of drawn faces; every fourth shows none."""
    scenes = []
    for i in range(count):
        photo, faces = draw_scene(i % 4, seed=seed + i)
        scenes.append(_one_face(to_channels(photo, 1)[..., 0], _three_points(faces.xy)))
    return scenes


class SceneComposer:
    """Composes the images that the network learns from.

    Args:
        photos: Whole photos; each image is built on one.
        crops: Lists of crops with one face, laid over it; the first list six times as often as
            each other one.
        side: Side of the images, pixels.
    """

    def __init__(
        self, photos: Sequence[LabelledPhoto], crops: Sequence[Sequence[LabelledPhoto]], side: int
    ) -> None:
        self.photos, self.side = photos, side
        self.crops = [c for c in crops if len(c)]

    def compose(self, rng: np.random.Generator) -> tuple[ImageArray, Points, NDArray[np.bool_]]:
        """One image.

        Returns:
            The image (side, side) uint8, its faces' points (N, 3, 2), and (N,) bool whether each
            is surely a face.
        """
        scene = _Scene(self.side, rng)
        base = self._pick(rng)
        matrix = place_photo(base.image.shape, square_boxes(base.points), self.side, rng)
        if rng.random() < 0.6:
            under = self._pick(rng)
            scale = self.side / min(under.image.shape) * rng.uniform(1.0, 1.3)
            scene.lay(under, affine(under.image.shape, scale, 0.0, rng.random() < 0.5, self._middle(rng, 0.1)))  # fmt: skip
        scene.lay(base, matrix)
        if rng.random() < 0.35:
            for _ in range(rng.integers(1, 4)):
                self._add(scene, rng)
        points, certain = scene.faces()
        return _change_light(scene.canvas, rng), points, certain

    def _pick(self, rng: np.random.Generator) -> LabelledPhoto:
        return self.photos[int(rng.integers(len(self.photos)))]

    def _middle(self, rng: np.random.Generator, spread: float) -> NDArray[np.float64]:
        return np.asarray(self.side * (0.5 + rng.uniform(-spread, spread, 2)))

    def _add(self, scene: _Scene, rng: np.random.Generator) -> None:
        kind = rng.random()
        if kind < 0.55 and self.crops:
            rare = rng.random() < 0.15 and len(self.crops) > 1
            crops = self.crops[int(rng.integers(1, len(self.crops))) if rare else 0]
            top = crops[int(rng.integers(len(crops)))]
            scale = np.exp(rng.uniform(np.log(0.12), np.log(1.5)))
        elif kind < 0.7:
            top = self._pick(rng)
            scale = self.side / max(top.image.shape) * rng.uniform(0.2, 0.7)
        elif kind < 0.85:
            top = _draw_signs(rng)
            scale = np.exp(rng.uniform(np.log(0.4), np.log(1.5)))
        else:  # a patch of a photo, mostly without a face, with edges like those of the others
            photo = self._pick(rng)
            height, width = photo.image.shape
            size = int(rng.uniform(0.15, 0.5) * min(height, width))
            y, x = rng.integers(0, height - size + 1), rng.integers(0, width - size + 1)
            moved = photo.points - np.array([x, y], np.float32)
            top = LabelledPhoto(
                np.ascontiguousarray(photo.image[y : y + size, x : x + size]),
                moved, photo.certain, photo.labelled,
            )  # fmt: skip
            scale = np.exp(rng.uniform(np.log(0.5), np.log(2.5)))
        angle = float(rng.normal(0.0, 12.0)) if rng.random() < 0.5 else 0.0
        scene.lay(top, affine(top.image.shape, scale, angle, rng.random() < 0.5, self._middle(rng, 0.5)))  # fmt: skip


def _draw_signs(rng: np.random.Generator) -> LabelledPhoto:
    """Letters, rings and bars: what else has two dark spots over a third."""
    height, width = (int(v) for v in rng.integers(40, 200, 2))
    image = np.full((height, width), rng.integers(0, 256), np.uint8)
    for _ in range(rng.integers(1, 7)):
        shade, thick = int(rng.integers(0, 256)), int(rng.integers(1, 6))
        x, y = int(rng.integers(-10, width)), int(rng.integers(5, height + 10))
        kind = rng.random()
        if kind < 0.6:
            letters = "".join(chr(int(c)) for c in rng.integers(33, 127, rng.integers(1, 12)))
            cv2.putText(image, letters, (x, y), int(rng.integers(0, 8)), rng.uniform(0.4, 3.0), shade, thick, cv2.LINE_AA)  # fmt: skip
        elif kind < 0.8:
            axes = (int(rng.integers(2, 40)), int(rng.integers(2, 40)))
            cv2.ellipse(image, (x, y), axes, rng.uniform(0, 180), 0, 360, shade, -1 if thick > 4 else thick)  # fmt: skip
        else:
            w, h = (int(v) for v in rng.integers(2, 60, 2))
            cv2.rectangle(image, (x, y), (x + w, y + h), shade, -1 if thick > 2 else thick)
    if rng.random() < 0.5:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 3.0)), np.uint8)
    return _one_face(image, np.zeros((0, 3, 2), np.float32))


class _Scene:
    """A canvas on which photos are laid, and what can still be seen of their faces."""

    def __init__(self, side: int, rng: np.random.Generator) -> None:
        self.side = side
        shade = 0 if rng.random() < 0.5 else int(rng.integers(0, 256))
        self.canvas = np.full((side, side), shade, np.uint8)
        self._points: list[Points] = []
        self._state: list[NDArray[np.int8]] = []  # 1 a face, 0 left out, -1 gone

    def lay(self, photo: LabelledPhoto, matrix: NDArray[np.float64]) -> None:
        """Lay a photo over what is there."""
        scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
        image, to = photo.image, matrix
        if scale < 0.6:  # warping alone would skip pixels
            height, width = image.shape
            size = (max(1, round(height * scale)), max(1, round(width * scale)))
            image = resize_image(image[..., np.newaxis], size)[..., 0]
            to = matrix @ np.vstack([resize_transform(size, (height, width)).matrix, [0, 0, 1]])
        height, width = image.shape
        corners = edges_to_centres(np.array([[0, 0], [width, 0], [width, height], [0, height]]))
        outline = corners @ to[:, :2].T + to[:, 2]
        mask = np.zeros((self.side, self.side), np.uint8)
        cv2.fillConvexPoly(mask, np.round(outline).astype(np.int32), 1)
        for points, state in zip(self._points, self._state, strict=True):
            covered = _share(mask, square_boxes(points))
            state[covered > 0.25] = np.minimum(state[covered > 0.25], 0)
            state[covered > 0.6] = -1
        warped = cv2.warpAffine(image, to, (self.side, self.side), flags=cv2.INTER_LINEAR)
        np.copyto(self.canvas, warped, where=mask.astype(bool))
        points = (photo.points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
        if np.linalg.det(matrix[:, :2]) < 0:
            points = points[:, [1, 0, 2]]
        seen = _share(mask, square_boxes(points))
        state = np.where(photo.certain, 1, 0).astype(np.int8)
        state[seen < 0.65] = np.minimum(state[seen < 0.65], 0)
        state[seen < 0.2] = -1
        self._points.append(points)
        self._state.append(state)

    def faces(self) -> tuple[Points, NDArray[np.bool_]]:
        points, state = np.concatenate(self._points), np.concatenate(self._state)
        side = np.ptp(square_boxes(points)[:, ::2], axis=1)
        state[(side < 9.0) & (state > 0)] = 0  # a blur: neither a face nor background
        kept = state >= 0
        return points[kept], state[kept] > 0


def _share(mask: NDArray[np.uint8], boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) share of each box that the mask covers."""
    side = len(mask)
    total = cv2.integral(mask)
    x0, y0, x1, y1 = np.clip(np.round(boxes), 0, side).astype(int).T
    inside = total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return np.asarray(inside / np.maximum(area, 1.0), np.float64)


def _change_light(original: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Light, blur, noise, compression and things in front."""
    image: Any = original.copy()
    side = len(image)
    if rng.random() < 0.15:
        x, y = rng.integers(0, side, 2)
        w, h = rng.integers(side // 20, side // 4, 2)
        image[y : y + h, x : x + w] = rng.integers(0, 256)
    if rng.random() < 0.2:
        small = int(side * rng.uniform(0.4, 0.9))
        image = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)
    elif rng.random() < 0.15:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.3))
    if rng.random() < 0.7:
        ramp = np.arange(256) / 255.0
        ramp = ramp ** np.exp(rng.normal(0.0, 0.35))
        ramp = (ramp - 0.5) * np.exp(rng.normal(0.0, 0.25)) + 0.5 + rng.normal(0.0, 0.1)
        image = cv2.LUT(image, np.clip(ramp * 255.0, 0, 255).astype(np.uint8))
    if rng.random() < 0.25:
        noise = rng.integers(0, 256, image.shape, dtype=np.uint8)
        share = rng.uniform(0.02, 0.12)
        image = cv2.addWeighted(image, 1.0 - share, noise, share, 0.0)
    if rng.random() < 0.25:
        coded = encode_image(image, ".jpg", quality=int(rng.integers(25, 90)))
        image = read_image(coded, channels=1)[..., 0]
    return np.asarray(image, np.uint8)


class _Batches:
    """Composes batches in threads, ahead of the training."""

    def __init__(self, composer: SceneComposer, config: FitConfig, threads: int = 2) -> None:
        self._composer, self._config = composer, config
        self._queue: queue.Queue[tuple[ImageArray, Targets]] = queue.Queue(8)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(i,), daemon=True) for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self, number: int) -> None:
        rng = np.random.default_rng([self._config.seed, number])
        side = self._config.side
        while not self._stop.is_set():
            images, targets = [], []
            for _ in range(self._config.batch):
                image, points, certain = self._composer.compose(rng)
                images.append(image)
                targets.append(cell_targets(square_boxes(points), certain, side, points))
            batch = np.stack(images)[..., np.newaxis], np.stack(targets)
            while not self._stop.is_set():
                try:
                    self._queue.put(batch, timeout=0.5)
                    break
                except queue.Full:
                    continue

    def get(self) -> tuple[ImageArray, Targets]:
        return self._queue.get(timeout=120)

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def split_photos(
    photos: Sequence[LabelledPhoto], share: float = 0.1
) -> tuple[list[LabelledPhoto], list[LabelledPhoto]]:
    """Photos to train on and photos held out; copies of one image stay on one side."""
    small: Any = np.stack(
        [cv2.resize(p.image, (96, 96), interpolation=cv2.INTER_AREA) for p in photos]
    )[..., None]
    groups = duplicate_groups(small)
    order = np.random.default_rng(0).permutation(groups.max() + 1)
    held = set(order[: round(share * len(order))].tolist())
    train = [p for p, g in zip(photos, groups, strict=True) if g not in held]
    return train, [p for p, g in zip(photos, groups, strict=True) if g in held]


def measure_detector(
    detector: FaceDetector, photos: Sequence[LabelledPhoto]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores of a detector on each labelled face, and on what is no face.

    Returns:
        (F,) best score of a box with an IoU of at least 0.5 for each labelled face, 0 where there is
        none; and the scores of boxes on no face, labelled or not, highest first.
    """
    found: list[float] = []
    false: list[float] = []
    for photo in photos:
        hit, wrong = match_boxes(detector, photo.image, square_boxes(photo.points), "fast")
        found.extend(hit[photo.labelled])
        false.extend(wrong)
    return np.array(found, np.float64), np.sort(np.array(false, np.float64))[::-1]


def train_detector(
    train: Sequence[LabelledPhoto],
    crops: Sequence[Sequence[LabelledPhoto]],
    held_out: Sequence[LabelledPhoto],
    out: Path,
    config: FitConfig,
    *,
    start: Path | None = None,
) -> Path:
    """Train and export.

    Args:
        train: Photos to learn from.
        crops: Lists of crops with one face to lay over them.
        held_out: Photos that choose the threshold.
        out: Folder for ``face_detector.onnx``, ``face_detector.weights.h5`` and ``log.jsonl``.
        config: How.
        start: Weights to start from.

    Returns:
        The ONNX file.
    """
    import keras

    keras.utils.set_random_seed(config.seed)
    # Three times as fast as float32 on a processor with bfloat16 units, and as good.
    with _layers_compute_in("mixed_bfloat16"):
        model = build_detector(config.network)
    if start is not None:
        model.load_weights(start)
    optimizer = keras.optimizers.AdamW(config.rate, weight_decay=0.01, global_clipnorm=5.0)
    model.compile(optimizer, loss=detector_loss, jit_compile=False)
    batches = _Batches(SceneComposer(train, crops, config.side), config)
    began, checked, losses = time.monotonic(), 0.0, []
    mean = [np.array(w) for w in model.get_weights()]
    out.mkdir(parents=True, exist_ok=True)
    try:
        for step in range(config.steps):
            passed = (time.monotonic() - began) / 60.0
            share = max(step / config.steps, passed / config.minutes)
            if share >= 1.0:
                break
            warm = min((step + 1) / 300.0, 1.0)
            optimizer.learning_rate = (
                config.rate * warm * (0.5 + 0.5 * np.cos(np.pi * share) + 0.005)
            )
            losses.append(float(model.train_on_batch(*batches.get())))
            if step % 8 == 0:  # the mean of the last few hundred steps beats the last one
                keep = min(0.98, (step + 1) / (step + 20))
                now = model.get_weights()
                mean = [keep * m + (1.0 - keep) * w for m, w in zip(mean, now, strict=True)]
            if passed - checked >= config.check_minutes:
                checked = passed
                _check(mean, held_out, out, config, {"step": step, "minutes": passed, "loss": float(np.mean(losses[-500:]))})  # fmt: skip
    finally:
        batches.close()
    _check(
        mean, held_out, out, config, {"step": len(losses), "loss": float(np.mean(losses[-500:]))}
    )
    return out / "face_detector.onnx"


@contextmanager
def _layers_compute_in(policy: str) -> Iterator[None]:
    """Layers made in this block compute so; what is made after it is as before."""
    import keras

    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def _check(
    weights: list[Any],
    held_out: Sequence[LabelledPhoto],
    out: Path,
    config: FitConfig,
    entry: dict[str, float],
) -> None:
    """Export the weights so far, measure them and choose the threshold."""
    with _layers_compute_in("float32"):
        model = build_detector(config.network)
    model.set_weights(weights)
    model.save_weights(out / "face_detector.weights.h5")
    file = out / "face_detector.onnx"
    export_detector(model, file, config.network, longest_side=config.longest_side)
    detector = OnnxFaceDetector(file, threshold=0.02, threads=1)
    found, false = measure_detector(detector, held_out)
    # One false box in 100 of these photos; whole ones in their full size have about three.
    allowed = max(1, round(0.01 * len(held_out)))
    threshold = float(np.clip(false[allowed] if len(false) > allowed else 0.3, 0.2, 0.8))
    set_threshold(file, threshold)
    per_hundred = 100.0 / max(len(held_out), 1)
    entry |= {"threshold": threshold, "recall": float(np.mean(found >= threshold)) if len(found) else 0.0}  # fmt: skip
    entry |= {f"recall@{t}": round(float(np.mean(found >= t)), 4) for t in (0.3, 0.4, 0.5) if len(found)}  # fmt: skip
    entry |= {f"false@{t}": round(float(np.sum(false >= t) * per_hundred), 2) for t in (0.3, 0.4, 0.5)}  # fmt: skip
    with (out / "log.jsonl").open("a") as handle:
        handle.write(json.dumps({k: round(float(v), 5) for k, v in entry.items()}) + "\n")
