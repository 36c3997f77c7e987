"""Faces that anyone may use, in the canvases of :data:`references.collection.CANVAS`: renders, portraits, and CC BY faces.

The folder of real faces holds ``portraits.zip`` with ``portraits_mesh.npz`` (MediaPipe's mesh of each), and
``wild/webmorph.zip`` with ``wild/labels.csv.gz``, of which only the rows of ``webmorph`` are used.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from facial_keypoints.errors import DataError
from facial_keypoints.geometry import EYE_LINE, FACE_SIZE, face_crop
from facial_keypoints.io.images import read_image
from facial_keypoints.schemas import FROM_IBUG68, IBUG68, KAGGLE15
from facial_keypoints.types import FaceDataset, Keypoints
from references.collection import CANVAS, CANVAS_EYE_ROW, CANVAS_EYES_PX, load_wild

__all__ = [
    "MESH_68",
    "fit_definition",
    "mesh_to_68",
    "read_portraits",
    "read_renders",
    "read_webmorph",
    "shift_labels",
    "shift_of",
    "to_canvas",
]

MESH_68 = (
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389, 71, 63, 105,
    66, 107, 336, 296, 334, 293, 301, 168, 197, 5, 4, 75, 97, 2, 326, 305, 33, 160, 158, 133,
    153, 144, 362, 385, 387, 263, 373, 380, 61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,
    78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip
"""The points of MediaPipe's mesh that come nearest to the 68, in their order."""

_FRONT_ACROSS = 1.5
"""Distance of the outer eye corners in distances of the eyes, seen from the front."""


def to_canvas(
    image: NDArray[np.uint8], xy: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A grey image (H, W) and its 68 points as canvas (160, 160, 1) with the face upright; edges repeat."""
    scale = FACE_SIZE * CANVAS / CANVAS_EYES_PX
    matrix = face_crop(xy, IBUG68, (CANVAS, CANVAS), scale=scale).matrix.copy()
    matrix[1, 2] += CANVAS_EYE_ROW - (EYE_LINE / scale * CANVAS - 0.5)
    factor = float(np.hypot(*matrix[0, :2]))
    if factor < 0.7:  # shrinking without smoothing would alias
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), 0.4 / factor), np.uint8)
    canvas = cv2.warpAffine(
        image, matrix, (CANVAS, CANVAS), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    moved = xy @ matrix[:, :2].T + matrix[:, 2]
    return np.asarray(canvas, np.uint8)[..., np.newaxis], np.asarray(moved, np.float32)


def _faces(
    parts: Iterable[tuple[str, NDArray[np.uint8], NDArray[np.float32]]], source: str
) -> FaceDataset:
    names, images, points = zip(*parts, strict=True)
    canvases, xy = zip(*map(to_canvas, images, points), strict=True)
    return FaceDataset(
        np.stack(canvases), Keypoints(np.stack(xy), IBUG68),
        np.array([f"{source}/{name}" for name in names]), source, groups=np.array(names),
    )  # fmt: skip


def read_renders(
    folder: Path, most: int | None = None
) -> tuple[FaceDataset, NDArray[np.bool_], dict[str, NDArray[np.generic]]]:
    """What ``python -m references.open_faces`` made, one group each.

    Args:
        folder: The folder with its shards.
        most: Read so many faces at most, the first ones.

    Returns:
        The faces, (N, 68) which points are hidden, and the parameters of the renders, (N,) each.

    Raises:
        DataError: There are no shards.
    """
    shards, count = [], 0
    for path in sorted(folder.glob("faces-*.npz")):
        with np.load(path) as shard:
            shards.append({"_name": np.repeat(path.stem, len(shard["images"])), **shard})
        count += len(shards[-1]["images"])
        if most is not None and count >= most:
            break
    if not shards:
        raise DataError(f"{folder} has no renders: make some with python -m references.open_faces.")
    columns = {key: np.concatenate([shard[key] for shard in shards])[:most] for key in shards[0]}
    names = [f"{name}-{i}" for i, name in enumerate(columns.pop("_name").tolist())]
    points = columns.pop("points")[:, :68]
    faces = _faces(zip(names, columns.pop("images"), points, strict=True), "render")
    return faces, columns.pop("occluded")[:, :68], columns


def mesh_to_68(
    mesh: NDArray[np.floating], change: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """The 68 points that MediaPipe's mesh tells.

    Args:
        mesh: (N, 478, 2 or 3) in pixels.
        change: (2 * 478 + 1, 2 * 68) what to add, of ``fit_definition``; nothing when left out.
    """
    found = np.asarray(mesh[:, MESH_68, :2], np.float64)
    if change is not None:
        frame = _Frame(mesh)
        moved = frame.normal(mesh).reshape(len(mesh), -1)
        added = np.column_stack([moved, np.ones(len(mesh))]) @ change
        found = frame.back(frame.normal(found) + added.reshape(len(mesh), 68, 2))
    return np.asarray(found, np.float32)


class _Frame:
    """The middle of the eyes at 0 and the right eye at -0.5, so that meshes of all faces are comparable."""

    def __init__(self, mesh: NDArray[np.floating]) -> None:
        eyes = (
            mesh[:, [*MESH_68[36:48]], :2]
            .astype(np.float64)
            .reshape(len(mesh), 2, 6, 2)
            .mean(axis=2)
        )
        self.middle = eyes.mean(axis=1)[:, np.newaxis]
        size = np.ptp(mesh[..., 1].astype(np.float64), axis=1) / 2.6  # also right in profile
        across = eyes[:, 1] - eyes[:, 0]
        angle = np.arctan2(across[:, 1], across[:, 0])
        cos, sin = np.cos(angle) * size, np.sin(angle) * size
        self.turn = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], axis=1)

    def normal(self, xy: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.asarray((xy[..., :2].astype(np.float64) - self.middle) @ np.linalg.inv(self.turn))

    def back(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(xy @ self.turn + self.middle)


def fit_definition(
    mesh: NDArray[np.floating], xy: NDArray[np.floating], ridge: float = 0.02
) -> NDArray[np.float64]:
    """How the 68 points of one definition follow from MediaPipe's mesh: ridge regression.

    Args:
        mesh: (N, 478, 2 or 3) of faces whose 68 points are known, in pixels.
        xy: (N, 68, 2) those points.
        ridge: Pull towards no change but a constant one.

    Returns:
        For :func:`mesh_to_68`.
    """
    frame = _Frame(mesh)
    x = frame.normal(mesh).reshape(len(mesh), -1)
    y = (frame.normal(xy) - frame.normal(mesh_to_68(mesh))).reshape(len(mesh), -1)
    mean, constant = x.mean(axis=0), y.mean(axis=0)
    z = x - mean
    pull = ridge * np.trace(z.T @ z) / z.shape[1]
    slope = np.linalg.solve(z.T @ z + pull * np.eye(z.shape[1]), z.T @ (y - constant))
    return np.vstack([slope, constant - mean @ slope])


def shift_of(told: NDArray[np.floating], xy: NDArray[np.floating]) -> NDArray[np.float64]:
    """By how much annotators put points elsewhere: (68, 2), in distances of the outer eye corners.

    Points that nobody labelled stay where they are, but for those between the ends of a brow, which are spread evenly.

    Args:
        told: (N, 68, 2) points of upright faces from the front.
        xy: (N, 68, 2) where annotators put them, NaN = not labelled.
    """
    across = np.linalg.norm(told[:, 45] - told[:, 36], axis=-1)[:, np.newaxis, np.newaxis]
    labelled = ~np.isnan(xy[..., 0]).all(axis=0)
    shift = np.zeros((68, 2))
    shift[labelled] = np.nanmedian((xy[:, labelled] - told[:, labelled]) / across, axis=0)
    for first in (17, 22):
        share = np.linspace(0.0, 1.0, 5)[:, np.newaxis]
        shift[first : first + 5] = (1 - share) * shift[first] + share * shift[first + 4]
    mirrored = shift[list(IBUG68.swap)] * [-1.0, 1.0]
    return np.asarray((shift + mirrored) / 2.0)


def shift_labels(xy: NDArray[np.float32], shift: NDArray[np.float64]) -> NDArray[np.float32]:
    """Points (N, 68, 2) of canvases, moved by :func:`shift_of`; sideways as the face's width is seen."""
    across = np.linalg.norm(xy[:, 45] - xy[:, 36], axis=-1)[:, np.newaxis]
    front = np.full_like(across, _FRONT_ACROSS * CANVAS_EYES_PX)
    scale = np.stack([np.minimum(across, front), front], axis=-1)
    return np.asarray(xy + scale * shift, np.float32)


def read_portraits(
    folder: Path, change: NDArray[np.float64] | None = None, *, unusual: float = 0.08
) -> FaceDataset:
    """The portraits, labelled by MediaPipe's mesh.

    Args:
        folder: The folder with ``portraits.zip`` and ``portraits_mesh.npz``.
        change: To another definition of the points: see :func:`mesh_to_68`.
        unusual: Faces are left out whose points are further from a similar one of all others, relative to the
            face's size: the mesh is wrong there, or it is no face.
    """
    with np.load(folder / "portraits_mesh.npz") as file:
        names, mesh = file["names"], file["mesh"].astype(np.float32)
    flat = _Frame(mesh).normal(mesh).reshape(len(mesh), -1)
    centred = flat - np.median(flat, axis=0)
    basis = np.linalg.svd(centred[np.abs(centred).max(axis=1) < 1.0], full_matrices=False)[2][:25]
    rest = np.abs(centred - centred @ basis.T @ basis).max(axis=1)
    good = (rest < unusual) & (np.abs(centred).max(axis=1) < 1.0)
    xy = mesh_to_68(mesh, change)
    with zipfile.ZipFile(folder / "portraits.zip") as archive:
        files = {Path(name).stem: name for name in archive.namelist()}
        return _faces(
            (
                (
                    str(names[i]),
                    read_image(archive.read(files[Path(str(names[i])).stem]), channels=1)[..., 0],
                    xy[i],
                )
                for i in np.flatnonzero(good)
            ),
            "portraits",
        )


def read_webmorph(folder: Path, threads: int = 2) -> FaceDataset:
    """The CC BY faces; of the 68 points those that are labelled, the others NaN."""
    part = next(p for p in load_wild(folder / "wild", threads, sets=("webmorph",)))
    xy = np.full((len(part), 68, 2), np.nan, np.float32)
    for name, numbers in FROM_IBUG68.items():
        if len(numbers) == 1:
            xy[:, numbers[0]] = part.keypoints.xy[:, KAGGLE15.index(name)]
    return FaceDataset(
        part.images, Keypoints(xy, IBUG68), part.sample_ids, "webmorph", groups=part.groups
    )
