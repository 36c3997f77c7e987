"""From the 15 points of a face to distances, angles and their error bars.

**Not a medical device.** The numbers are for information only: they come from one image, which shows
no depth, and must not be used to diagnose anything.

``docs/measurements.md`` defines every measure and names its source. Lengths are ratios, to the distance between
the eye centres where nothing else is said, so they do not depend on the size of the image; millimetres need a
scale from the user. Knows points, but no images and no files. Numpy only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.errors import DataError
from facial_keypoints.geometry import face_boxes
from facial_keypoints.models.codec import CONFIDENCE_RADIUS, confidence_within
from facial_keypoints.schemas import KAGGLE15, source_points
from facial_keypoints.types import FloatArray, Keypoints, KeypointSchema, Prediction

__all__ = [
    "NOTICE",
    "TURNED_DEG",
    "Measurements",
    "check_schema",
    "error_scales",
    "measure",
]

NOTICE = "Not a medical device: these numbers are for information only and must not be used for diagnosis."

Floats: TypeAlias = NDArray[np.float64]
_Points: TypeAlias = dict[str, Floats]

TURNED_DEG = 15.0
"""Yaw beyond which a face is marked ``turned``: see ``docs/measurements.md``."""

NOSE_DEPTH = 0.6
"""How far the nose's tip stands before the eyes, in eye distances. From the labelled points of three sets
of real faces, whose eye distance shrinks with the cosine of the yaw while the tip moves with its sine:
0.58 (Helen and AFW), 0.63 (MTFL) and 0.59 (YouTube Faces)."""

LOW_CONFIDENCE = 0.6
"""Mean confidence of the points below which a face is marked ``uncertain``."""

CONFIDENCE_SIDE = 96.0
"""Error scales are in pixels of a face box with a side of this many pixels."""

SMALLEST_SCALE = 0.36
"""Least error scale b in pixels of the 96-pixel face box, since confidences near 1 are too optimistic: the fifth
of the points with the highest confidence has a mean error of at least 0.72 px in the model card, which is 2 b."""

_STEP = 1e-4
"""Step of the central differences, in eye distances."""

_EYES = ("left_eye_center", "right_eye_center")
_INNER = ("left_eye_inner_corner", "right_eye_inner_corner")
_OUTER = ("left_eye_outer_corner", "right_eye_outer_corner")
_MOUTH = ("mouth_left_corner", "mouth_right_corner")


@dataclass(frozen=True)
class _Measure:
    """One measure: ``function`` of the points, divided by the distance ``per`` if one is given.

    Args:
        unit: Of the result.
        function: Points by name, each (N, 2) in pixels, to (N,).
        points: Names of the points that the function uses.
        per: Two points whose distance is the unit of a length.
    """

    unit: str
    function: Callable[[_Points], Floats]
    points: tuple[str, ...]
    per: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Measurements:
    """M measures of N faces.

    Args:
        names: M names; those that end in ``_mm`` are millimetres by the user's scale.
        units: M units: ``ratio``, ``percent``, ``degrees`` or ``mm``.
        values: (N, M) float64; NaN where a point that is needed is NaN.
        sigma: (N, M) float64, one standard deviation, in the same unit; NaN where the points have no
            confidence.
        warnings: N tuples of ``turned``, ``uncertain``, ``missing points`` and, of the neutral face,
            ``neutral turned``.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    values: Floats
    sigma: Floats
    warnings: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        shape = (len(self.warnings), len(self.names))
        if not self.values.shape == self.sigma.shape == shape or len(self.units) != shape[1]:
            raise ValueError(
                f"values and sigma must have shape {shape} and units {shape[1]} entries, received "
                f"{self.values.shape}, {self.sigma.shape} and {len(self.units)}."
            )

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, name: str) -> Floats:
        """(N,) values of one measure."""
        return self.values[:, self.index(name)]

    def index(self, name: str) -> int:
        """Position of a measure on the M axis.

        Raises:
            ValueError: There is no such measure.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise ValueError(
                f"there is no measure '{name}'; there are {', '.join(self.names)}."
            ) from None


def _unit(vector: Floats) -> Floats:
    # Equal points have no direction: NaN, without numpy's warning.
    length = np.linalg.norm(vector, axis=-1, keepdims=True)
    return vector / np.where(length > 0, length, np.nan)


def _across(p: _Points) -> Floats:
    """Unit vector along the eyes, towards the person's left."""
    return _unit(p["left_eye_center"] - p["right_eye_center"])


def _down(p: _Points) -> Floats:
    """Unit vector down the face, square to the eyes."""
    across = _across(p)
    return np.stack([-across[:, 1], across[:, 0]], axis=-1)


def _dot(a: Floats, b: Floats) -> Floats:
    return np.asarray((a * b).sum(axis=-1))


def _length(p: _Points, a: str, b: str) -> Floats:
    return np.asarray(np.hypot(*(p[a] - p[b]).T))


def _distance(a: str, b: str, per: tuple[str, str] = _EYES) -> _Measure:
    return _Measure("ratio", lambda p: _length(p, a, b), (a, b), per)


def _brow_height(side: str, end: str) -> _Measure:
    brow, corner = f"{side}_eyebrow_{end}_end", f"{side}_eye_{end}_corner"

    def function(p: _Points) -> Floats:
        return _dot(p[corner] - p[brow], _down(p))

    return _Measure("ratio", function, (brow, corner), _EYES)


def _tilt(side: str) -> _Measure:
    """How much the outer corner is higher than the inner one, against the line of the inner corners."""
    inner, outer = f"{side}_eye_inner_corner", f"{side}_eye_outer_corner"
    sign = 1.0 if side == "left" else -1.0

    def function(p: _Points) -> Floats:
        line = sign * (p["left_eye_inner_corner"] - p["right_eye_inner_corner"])
        eye = p[outer] - p[inner]
        # y is down: a corner that is higher has the smaller y, on the left side a negative cross product.
        cross = line[:, 0] * eye[:, 1] - line[:, 1] * eye[:, 0]
        return np.degrees(np.arctan2(-sign * cross, _dot(line, eye)))

    return _Measure("degrees", function, (inner, outer, *_INNER))


def _from_midline(point: str) -> _Measure:
    """Distance from the line through the middle of the inner eye corners, square to the eyes."""

    def function(p: _Points) -> Floats:
        middle = (p["left_eye_inner_corner"] + p["right_eye_inner_corner"]) / 2.0
        return _dot(p[point] - middle, _across(p))

    return _Measure("ratio", function, (point, *_INNER), _EYES)


def _asymmetry(p: _Points) -> Floats:
    left, right = (_length(p, *pair) for pair in zip(_INNER, _MOUTH, strict=True))
    return left - right


def _canthal_index(p: _Points) -> Floats:
    inner, outer = _length(p, *_INNER), _length(p, *_OUTER)
    return 100.0 * inner / np.where(outer > 0, outer, np.nan)


def _head_roll(p: _Points) -> Floats:
    across = _across(p)
    return np.degrees(np.arctan2(across[:, 1], across[:, 0]))


def _head_yaw(p: _Points) -> Floats:
    """Yaw from the parallax of the nose tip, which lies in front of the eyes.

    With the eyes 2e apart and the tip h in front of them, a yaw of t shows the eyes 2e cos t apart and
    the tip h sin t beside their middle.
    """
    between = p["left_eye_center"] - p["right_eye_center"]
    middle = (p["left_eye_center"] + p["right_eye_center"]) / 2.0
    squared = _dot(between, between)
    offset = _dot(p["nose_tip"] - middle, between) / np.where(squared > 0, squared, np.nan)
    return np.degrees(np.arctan(offset / NOSE_DEPTH))


def _smile(p: _Points) -> Floats:
    """Position of the mouth's corners along the diagonal outwards and up, mean of both sides."""
    middle = (p["left_eye_center"] + p["right_eye_center"]) / 2.0
    width = _dot(p["mouth_left_corner"] - p["mouth_right_corner"], _across(p))
    corners = (p["mouth_left_corner"] + p["mouth_right_corner"]) / 2.0
    return np.asarray((width / 2.0 - _dot(corners - middle, _down(p))) / np.sqrt(2.0))


_MEASURES: dict[str, _Measure] = {
    "inner_canthal": _distance(*_INNER),
    "outer_canthal": _distance(*_OUTER),
    "interpupillary": _distance(*_EYES, per=_OUTER),
    "canthal_index": _Measure("percent", _canthal_index, (*_INNER, *_OUTER)),
    "left_palpebral_fissure": _distance("left_eye_inner_corner", "left_eye_outer_corner"),
    "right_palpebral_fissure": _distance("right_eye_inner_corner", "right_eye_outer_corner"),
    "left_canthal_tilt": _tilt("left"),
    "right_canthal_tilt": _tilt("right"),
    "left_brow_inner_height": _brow_height("left", "inner"),
    "right_brow_inner_height": _brow_height("right", "inner"),
    "left_brow_outer_height": _brow_height("left", "outer"),
    "right_brow_outer_height": _brow_height("right", "outer"),
    "mouth_width": _distance(*_MOUTH),
    "lip_height": _distance("mouth_center_top_lip", "mouth_center_bottom_lip"),
    "nose_to_top_lip": _distance("nose_tip", "mouth_center_top_lip"),
    "asymmetry": _Measure("ratio", _asymmetry, (*_INNER, *_MOUTH), _EYES),
    "nose_deviation": _from_midline("nose_tip"),
    "mouth_deviation": _from_midline("mouth_center_top_lip"),
    "head_roll": _Measure("degrees", _head_roll, _EYES),
    "head_yaw": _Measure("degrees", _head_yaw, ("nose_tip", *_EYES)),
}
# Differences from the neutral face.
_CHANGES: dict[str, _Measure] = {
    "mouth_opening": _MEASURES["lip_height"],
    "smile": _Measure("ratio", _smile, _MOUTH, _EYES),
}


def check_schema(schema: KeypointSchema) -> None:
    """Check that a schema has, or tells, the 15 points that are measured.

    Raises:
        DataError: It has not.
    """
    if missing := [n for n in KAGGLE15.keypoint_names if not source_points(schema, n)]:
        raise DataError(
            f"measuring needs the 15 points of '{KAGGLE15.name}', but '{schema.name}' has no "
            f"{missing[0]}{f' and {len(missing) - 1} others' if len(missing) > 1 else ''}: use the model "
            "'default' or another one that predicts them."
        )


def error_scales(confidence: FloatArray) -> Floats:
    """Scales b of the errors that confidences stand for, in pixels of a face box 96 px wide.

    The inverse of :func:`facial_keypoints.models.codec.confidence_within`. Its density has a mean distance of
    2 b from the true point, and a standard deviation of sqrt(3) b in x and in y.

    Args:
        confidence: Probabilities of being within 3 px; NaN gives NaN.

    Example:
        >>> float(error_scales(np.array([0.5])).round(3))
        1.787
    """
    ratio = np.geomspace(1e-3, 30.0, 4000)
    logarithm = np.interp(
        np.asarray(confidence, np.float64), confidence_within(ratio), np.log(ratio)
    )
    radius = CONFIDENCE_RADIUS * CONFIDENCE_SIDE
    return np.maximum(radius / np.exp(logarithm), SMALLEST_SCALE)


def _point_sigma(keypoints: Keypoints) -> Floats:
    """(N, K) standard deviation of each coordinate in image pixels; NaN where there is no confidence."""
    if keypoints.confidence is None:
        return np.full(keypoints.xy.shape[:2], np.nan)
    # The model predicted on a crop framed by the points, whatever box was given.
    boxes = face_boxes(keypoints.xy, keypoints.schema).astype(np.float64)
    scale = (boxes[:, 2] - boxes[:, 0]) / CONFIDENCE_SIDE
    return np.asarray(np.sqrt(3.0) * error_scales(keypoints.confidence) * scale[:, np.newaxis])


def _values(measures: dict[str, _Measure], xy: Floats, schema: KeypointSchema) -> Floats:
    """(N, M) values of M measures."""
    points = {name: xy[:, schema.index(name)] for name in KAGGLE15.keypoint_names}
    columns = []
    for each in measures.values():
        value = each.function(points)
        if each.per:
            unit = _length(points, *each.per)
            value = value / np.where(unit > 0, unit, np.nan)
        columns.append(value)
    return np.stack(columns, axis=1)


def _with_sigma(measures: dict[str, _Measure], keypoints: Keypoints) -> tuple[Floats, Floats]:
    """(N, M) values and their standard deviations to first order: the delta method.

    The errors are a few hundredths of the lengths they enter, so the first order is enough; a test
    compares with samples from the density itself. Errors of different points, and of a point's x and y,
    are taken as independent.
    """
    xy, schema, sigma = keypoints.xy.astype(np.float64), keypoints.schema, _point_sigma(keypoints)
    values = _values(measures, xy, schema)
    apart = _length({name: xy[:, schema.index(name)] for name in _EYES}, *_EYES)
    step = _STEP * np.where(apart > 0, apart, np.nan)
    variance = np.zeros_like(values)
    for name in KAGGLE15.keypoint_names:
        index = schema.index(name)
        used = np.array([name in (*each.points, *each.per) for each in measures.values()])
        for axis in (0, 1):
            up, down = xy.copy(), xy.copy()
            up[:, index, axis] += step
            down[:, index, axis] -= step
            change = _values(measures, up, schema) - _values(measures, down, schema)
            # An angle may jump from -180 to 180 degrees.
            change -= np.where(np.abs(change) > 180.0, 360.0 * np.sign(change), 0.0)
            part = (change / (2.0 * step[:, np.newaxis]) * sigma[:, index, np.newaxis]) ** 2
            # A NaN point makes only those errors NaN that depend on it.
            variance += np.where(used, part, 0.0)
    return values, np.where(np.isnan(values), np.nan, np.sqrt(variance))


def measure(
    faces: Prediction | Keypoints,
    *,
    neutral: Prediction | Keypoints | None = None,
    mm_per_px: float | None = None,
    ipd_mm: float | None = None,
) -> Measurements:
    """Measure faces by their points. Not a medical device: for information only.

    Args:
        faces: N faces with the points of ``kaggle15`` (a schema that tells them, like ``ibug68``, works too).
        neutral: The same person with a resting face in a similar view: one face for all, or N. Adds
            ``mouth_opening`` and ``smile``, which are changes from it.
        mm_per_px: Millimetres per pixel at the distance of the face. Adds a length in millimetres, named
            ``..._mm``, for every ratio.
        ipd_mm: Or the true distance between the pupils of the person, taken as exact.

    Returns:
        One row per face. The error bars come from the points' confidence. They do not include what one
        image cannot show: depth, the head's yaw and pitch, the lens.

    Raises:
        DataError: A point is missing from the schema, or the neutral image does not show exactly one face.
        ValueError: Both scales are given, or one is not a positive number.

    Example:
        >>> measure(predictor.predict(image))["canthal_index"]  # doctest: +SKIP
    """
    if mm_per_px is not None and ipd_mm is not None:
        raise ValueError("give mm_per_px or ipd_mm, not both.")
    for name, value in (("mm_per_px", mm_per_px), ("ipd_mm", ipd_mm)):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive number, received {value}.")
    keypoints = faces.keypoints if isinstance(faces, Prediction) else faces
    check_schema(keypoints.schema)
    keypoints = keypoints.to_schema(KAGGLE15)
    measures, parts = dict(_MEASURES), [_with_sigma(_MEASURES, keypoints)]
    neutral_turned = np.zeros(len(keypoints), bool)
    if neutral is not None:
        resting = neutral.keypoints if isinstance(neutral, Prediction) else neutral
        if len(resting) not in {1, len(keypoints)}:
            raise DataError(
                f"the neutral image must show exactly one face, but {len(resting)} were found in it: "
                "choose another image, or cut the face out."
            )
        check_schema(resting.schema)
        resting = resting.to_schema(KAGGLE15)
        changed, changed_errors = _with_sigma(_CHANGES, keypoints)
        rest, rest_errors = _with_sigma(_CHANGES, resting)
        parts.append((changed - rest, np.hypot(changed_errors, rest_errors)))
        measures |= _CHANGES
        neutral_turned |= _is_turned(resting)
    scale = mm_per_px if ipd_mm is None else ipd_mm
    if scale is not None:
        per = () if ipd_mm is None else _EYES
        lengths = {
            f"{name}_mm": replace(each, unit="mm", per=per)
            for name, each in _MEASURES.items()
            if each.per
        }
        lengths_mm, errors_mm = (part * scale for part in _with_sigma(lengths, keypoints))
        parts.append((lengths_mm, errors_mm))
        measures |= lengths
    values, sigma = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    units = tuple(each.unit for each in measures.values())
    warnings = _warnings(keypoints, neutral_turned)
    return Measurements(tuple(measures), units, values, sigma, warnings)


def _is_turned(keypoints: Keypoints) -> NDArray[np.bool_]:
    """(N,) whether the yaw is beyond :data:`TURNED_DEG`."""
    yaw = {"head_yaw": _MEASURES["head_yaw"]}
    values = _values(yaw, keypoints.xy.astype(np.float64), keypoints.schema)
    return np.asarray(np.abs(values[:, 0]) > TURNED_DEG)


def _warnings(
    keypoints: Keypoints, neutral_turned: NDArray[np.bool_]
) -> tuple[tuple[str, ...], ...]:
    used = [keypoints.schema.index(name) for name in KAGGLE15.keypoint_names]
    uncertain = np.zeros(len(keypoints), bool)
    if keypoints.confidence is not None:
        uncertain |= keypoints.confidence[:, used].mean(axis=1) < LOW_CONFIDENCE
    marks: dict[str, NDArray[np.bool_]] = {
        "turned": _is_turned(keypoints),
        "uncertain": uncertain,
        "missing points": np.asarray(np.isnan(keypoints.xy[:, used]).any(axis=(1, 2))),
        "neutral turned": neutral_turned,
    }
    return tuple(
        tuple(name for name, mark in marks.items() if mark[i]) for i in range(len(keypoints))
    )
