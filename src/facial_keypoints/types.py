"""The data types of the package: arrays in frozen dataclasses, checked on construction.

Axis letters everywhere: B batch, N faces or samples, K keypoints, H/W image rows/columns,
h/w heatmap rows/columns, C channels. Coordinates are pixels, x right, y down, an integer is the
centre of a pixel; NaN means *not labelled*. "Left" is the person's own left (image right).

This module knows numpy and the schemas and nothing else: no file format, no model, no image library.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.schemas import KeypointSchema, conversion, get_schema

__all__ = [
    "Array",
    "BoolArray",
    "CropTransform",
    "FaceDataset",
    "FloatArray",
    "ImageArray",
    "KeypointSchema",
    "Keypoints",
    "Prediction",
]

Array: TypeAlias = NDArray[np.generic]
FloatArray: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
ImageArray: TypeAlias = NDArray[np.uint8]
BoolArray: TypeAlias = NDArray[np.bool_]

NOT_LABELLED, VISIBLE = 0, 2  # COCO's visibility codes; 1 is labelled but occluded


@dataclass(frozen=True, eq=False)
class Keypoints:
    """Keypoints of N faces in one schema.

    Args:
        xy: (N, K, 2) float32, image pixels, NaN where not labelled (both coordinates together).
        schema: The schema that fixes the K axis.
        visibility: (N, K) int8 after COCO: 0 not labelled, 1 labelled but occluded, 2 visible.
            Derived from ``xy`` when left out.
        confidence: (N, K) float32 in [0, 1], or ``None`` where nothing estimates it.

    Raises:
        ValueError: Shapes disagree, only one coordinate of a point is NaN, or a value is infinite.
    """

    xy: NDArray[np.float32]
    schema: KeypointSchema
    visibility: NDArray[np.int8] = field(default=None)  # type: ignore[arg-type]
    confidence: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        xy = np.asarray(self.xy, dtype=np.float32)
        k = self.schema.num_keypoints
        if xy.ndim != 3 or xy.shape[1:] != (k, 2):
            raise ValueError(
                f"xy must have shape (N, {k}, 2) for schema '{self.schema.name}', received {xy.shape}."
            )
        missing = np.isnan(xy)
        if np.any(missing[..., 0] != missing[..., 1]):
            row, point = (int(i) for i in np.argwhere(missing[..., 0] != missing[..., 1])[0])
            raise ValueError(
                f"xy[{row}, {point}] ({self.schema.keypoint_names[point]}) has only one of x and y; "
                "set both or make both NaN."
            )
        if np.isinf(xy).any():
            raise ValueError(
                "xy holds an infinite value; use NaN for a point that is not labelled."
            )
        object.__setattr__(self, "xy", xy)
        labeled = ~missing[..., 0]
        if self.visibility is None:
            visibility = np.where(labeled, VISIBLE, NOT_LABELLED).astype(np.int8)
        else:
            visibility = np.asarray(self.visibility, dtype=np.int8)
            if visibility.shape != labeled.shape:
                raise ValueError(
                    f"visibility must have shape {labeled.shape}, received {visibility.shape}."
                )
            if np.any((visibility > NOT_LABELLED) != labeled):
                raise ValueError("visibility must be 0 exactly where xy is NaN.")
        object.__setattr__(self, "visibility", visibility)
        if self.confidence is not None:
            confidence = np.asarray(self.confidence, dtype=np.float32)
            if confidence.shape != labeled.shape:
                raise ValueError(
                    f"confidence must have shape {labeled.shape}, received {confidence.shape}."
                )
            object.__setattr__(self, "confidence", confidence)

    def __len__(self) -> int:
        return len(self.xy)

    @property
    def labeled(self) -> BoolArray:
        """(N, K) bool: which points carry a label."""
        return self.visibility > NOT_LABELLED

    def subset(self, index: Array | Sequence[int] | slice) -> Keypoints:
        """The faces selected by ``index`` (anything that indexes axis 0)."""
        return Keypoints(
            xy=self.xy[index],
            schema=self.schema,
            visibility=self.visibility[index],
            confidence=None if self.confidence is None else self.confidence[index],
        )

    def to_schema(self, schema: str | KeypointSchema) -> Keypoints:
        """The same faces in the keypoints of another schema, each of which is a keypoint here or a mean of some.

        Args:
            schema: A schema, or the name of a built-in one: ``kaggle15`` or ``five`` for points in ``ibug68``.

        Returns:
            N faces. The confidence is the mean of that of the points used; a point is NaN where one of them is.

        Raises:
            ValueError: A keypoint of the schema cannot be computed from those that there are.
        """
        wanted = get_schema(schema) if isinstance(schema, str) else schema
        parts = conversion(self.schema, wanted)

        def merged(values: NDArray[Any], reduce: Callable[..., NDArray[Any]]) -> NDArray[Any]:
            return np.stack([reduce(values[:, part], axis=1) for part in parts], axis=1)

        return Keypoints(
            merged(self.xy, np.mean),
            wanted,
            merged(self.visibility, np.min),
            None if self.confidence is None else merged(self.confidence, np.mean),
        )


@dataclass(frozen=True, eq=False)
class FaceDataset:
    """N face images of one size with their keypoints.

    Args:
        images: (N, H, W, C) uint8 0-255, C = 1 grey or 3 RGB.
        keypoints: N rows; all NaN if the images have no labels (a test set).
        sample_ids: N identifiers that subsets keep (row number, file name).
        source: Origin of the faces, for messages and reports.
        styles: N label styles (the annotators' rules that a row follows); "" where unknown.
        groups: N group keys: rows of one group (same person, near-duplicate images) are never divided
            by a split. Each row is its own group when left out.

    Raises:
        ValueError: Shapes or dtypes disagree.
    """

    images: ImageArray
    keypoints: Keypoints
    sample_ids: NDArray[np.str_]
    source: str = ""
    styles: NDArray[np.str_] = field(default=None)  # type: ignore[arg-type]
    groups: NDArray[np.str_] = field(default=None)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        images = self.images
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise ValueError(
                "images must be uint8 with shape (N, H, W, 1 or 3), "
                f"received {images.dtype} {images.shape}."
            )
        n = len(images)
        ids = np.asarray(self.sample_ids, dtype=np.str_)
        styles = np.full(n, "") if self.styles is None else np.asarray(self.styles, dtype=np.str_)
        groups = ids if self.groups is None else np.asarray(self.groups, dtype=np.str_)
        for name, value in (
            ("keypoints", self.keypoints),
            ("sample_ids", ids),
            ("styles", styles),
            ("groups", groups),
        ):
            if len(value) != n:
                raise ValueError(
                    f"{name} must have one entry per image ({n}), received {len(value)}."
                )
        object.__setattr__(self, "sample_ids", ids)
        object.__setattr__(self, "styles", styles)
        object.__setattr__(self, "groups", groups)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def schema(self) -> KeypointSchema:
        """The schema of the keypoints."""
        return self.keypoints.schema

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self.images.shape[1]), int(self.images.shape[2])

    @property
    def label_counts(self) -> NDArray[np.int64]:
        """(K,) number of labelled faces behind each keypoint."""
        return np.asarray(self.keypoints.labeled.sum(axis=0), dtype=np.int64)

    def subset(self, index: Array | Sequence[int] | slice) -> FaceDataset:
        """The faces selected by ``index`` (anything that indexes axis 0)."""
        return FaceDataset(
            images=self.images[index],
            keypoints=self.keypoints.subset(index),
            sample_ids=self.sample_ids[index],
            source=self.source,
            styles=self.styles[index],
            groups=self.groups[index],
        )

    def with_groups(self, groups: NDArray[np.str_]) -> FaceDataset:
        """The same faces with other group keys."""
        return replace(self, groups=groups)

    def with_keypoints(self, xy: NDArray[np.float32]) -> FaceDataset:
        """The same faces with other coordinates, (N, K, 2), NaN = not labelled."""
        return replace(self, keypoints=Keypoints(xy=xy, schema=self.schema))


@dataclass(frozen=True, eq=False)
class CropTransform:
    """An affine map from image pixels to model input pixels.

    Args:
        matrix: (2, 3) float64: ``input_xy = matrix[:, :2] @ image_xy + matrix[:, 2]``.
        input_size: (height, width) of the crop in input pixels.
    """

    matrix: NDArray[np.float64]
    input_size: tuple[int, int]

    def __post_init__(self) -> None:
        matrix = np.asarray(self.matrix, dtype=np.float64)
        if matrix.shape != (2, 3) or not np.isfinite(matrix).all():
            raise ValueError(
                f"matrix must be a finite (2, 3) array, received shape {matrix.shape}."
            )
        if abs(float(np.linalg.det(matrix[:, :2]))) < 1e-12:
            raise ValueError("matrix has no inverse: the crop has no area.")
        object.__setattr__(self, "matrix", matrix)

    def inverse(self) -> CropTransform:
        """The map back from input pixels to image pixels (``input_size`` is kept)."""
        linear = np.linalg.inv(self.matrix[:, :2])
        offset = -linear @ self.matrix[:, 2]
        return CropTransform(np.column_stack([linear, offset]), self.input_size)

    def apply(self, xy: FloatArray) -> FloatArray:
        """Map points (..., 2); NaN passes through untouched. Returns a new array of xy's dtype."""
        mapped = np.asarray(xy, np.float64) @ self.matrix[:, :2].T + self.matrix[:, 2]
        return mapped.astype(np.result_type(xy, np.float32))


@dataclass(frozen=True, eq=False)
class Prediction:
    """The faces in one image or video frame; without faces N is 0.

    Args:
        keypoints: N faces in pixels of the original image.
        boxes: (N, 4) float32 xyxy in image pixels.
        scores: (N,) float32 detector score in [0, 1]; NaN where no detector ran.
        image_size: (height, width) of the image.
        source: Path or name of the image.
        frame_index: Number of the frame in a video, else 0.
        time_s: Presentation time of the frame in seconds, else 0.
        track_ids: (N,) int64, from 1: the same number for the same face in all frames of a video;
            ``None`` without tracking.
        warnings: What was left out or guessed when the image was read, such as further pages, a sentence each.
        smallest: Side in pixels of the smallest face that was looked for everywhere in the image; NaN where no
            detector ran, or if it does not say.
    """

    keypoints: Keypoints
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    image_size: tuple[int, int]
    source: str = ""
    frame_index: int = 0
    time_s: float = 0.0
    track_ids: NDArray[np.int64] | None = None
    warnings: tuple[str, ...] = ()
    smallest: float = float("nan")

    def __post_init__(self) -> None:
        n = len(self.keypoints)
        if self.track_ids is not None and self.track_ids.shape != (n,):
            raise ValueError(f"track_ids must have shape ({n},), received {self.track_ids.shape}.")
        if self.boxes.shape != (n, 4) or self.scores.shape != (n,):
            raise ValueError(
                f"boxes must have shape ({n}, 4) and scores ({n},), "
                f"received {self.boxes.shape} and {self.scores.shape}."
            )

    def __len__(self) -> int:
        return len(self.keypoints)

    def subset(self, index: Array | Sequence[int] | slice) -> Prediction:
        """The faces selected by ``index`` (anything that indexes axis 0)."""
        return replace(
            self,
            keypoints=self.keypoints.subset(index),
            boxes=self.boxes[index],
            scores=self.scores[index],
            track_ids=None if self.track_ids is None else self.track_ids[index],
        )

    def to_schema(self, schema: str | KeypointSchema) -> Prediction:
        """The same faces in the keypoints of another schema (:meth:`Keypoints.to_schema`).

        Args:
            schema: A schema, or the name of a built-in one: ``kaggle15`` for a prediction of 68 points.

        Raises:
            ValueError: A keypoint of the schema cannot be computed from those of the prediction.
        """
        return replace(self, keypoints=self.keypoints.to_schema(schema))
