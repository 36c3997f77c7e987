"""All labelled faces of a data folder as one collection of crops, points, styles and groups."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["FaceCollection", "load_collection_cache"]

CANVAS = 160
"""Side of a stored crop, pixels: room to shift, turn and shrink a 96-pixel view in it."""


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
        return FaceCollection(*(getattr(self, f)[index] for f in self.__dataclass_fields__))

    def framing(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Middle (N, 2) of each face's usual view, its slack (N, 2), and 1.0 where framing is fixed.

        Kaggle's crops show the eyes at y = 37 of 96. The wild crops have the eyes at y = 60 of 160;
        who cuts their middle sees the eyes at 28, who frames like Kaggle at 37: both must work.
        """
        n = len(self)
        kaggle = np.char.startswith(self.sets, "kaggle")
        photos = self.sets == "photos"
        centre = np.full((n, 2), 79.5, np.float32)
        centre[~kaggle & ~photos, 1] = 75.0
        slack = np.zeros((n, 2), np.float32)
        slack[~kaggle & ~photos, 1] = 5.0
        return centre, slack, kaggle.astype(np.float32)


def load_collection_cache(paths: list[Path], threads: int = 8) -> FaceCollection:
    """Read the packed files that :func:`save_collection_cache` wrote, joined in order."""
    cv2.setNumThreads(1)
    parts: list[dict[str, Any]] = []
    for path in paths:
        with np.load(path) as z:
            part = {k: z[k] for k in z.files}
        ends = np.cumsum(part["length"])
        blob = part["blob"]

        def decode(i: int, ends: Any = ends, blob: Any = blob) -> NDArray[np.uint8]:
            start = 0 if i == 0 else int(ends[i - 1])
            image = np.asarray(cv2.imdecode(blob[start : int(ends[i])], cv2.IMREAD_GRAYSCALE))
            margin = (CANVAS - image.shape[0]) // 2
            if margin:
                image = cv2.copyMakeBorder(
                    image, margin, margin, margin, margin, cv2.BORDER_REPLICATE
                )
            return np.asarray(image, np.uint8)

        with ThreadPoolExecutor(threads) as pool:
            part["images"] = np.stack(list(pool.map(decode, range(len(ends)))))
        parts.append(part)

    def join(key: str) -> Any:
        return np.concatenate([p[key] for p in parts])

    return FaceCollection(
        join("images"), join("xy").astype(np.float32), join("style").astype(np.int32),
        join("sets").astype(np.str_), join("groups").astype(np.str_),
        join("fold").astype(np.int32), join("ids").astype(np.str_),
    )  # fmt: skip
