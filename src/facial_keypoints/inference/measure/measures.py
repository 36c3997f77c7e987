"""From the 15 points of a face to distances, angles and their error bars.

**Not a medical device.** The numbers are for information only: they come from one image, which shows
no depth, and must not be used to diagnose anything.

Every measure is defined, with its source, in ``docs/measurements.md``. Lengths are ratios (to the
distance between the eye centres, unless said otherwise), so that they do not depend on the size of the
image; millimetres need a scale from the user. Knows points, not images and not files. Numpy only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.errors import DataError
from facial_keypoints.geometry import face_boxes
from facial_keypoints.models.codec import CONFIDENCE_RADIUS, confidence_within
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.types import FloatArray, Keypoints, KeypointSchema, Prediction

__all__ = [
    "NOTICE",
    "TURNED_DEG",
    "Measurements",
    "check_schema",
    "error_scales",
    "measure",
    "mirrored_name",
]

NOTICE = "Not a medical device: these numbers are for information only and must not be used for diagnosis."

Floats: TypeAlias = NDArray[np.float64]
_Points: TypeAlias = dict[str, Floats]

TURNED_DEG = 15.0
"""Yaw beyond which a face is marked ``turned``: see ``docs/measurements.md``."""

NOSE_DEPTH = 0.6
"""How far the nose's tip stands before the eyes, in eye distances. From the labelled points of three sets
of real faces, whose eye distance shrinks with the cosine of the turn while the tip moves with its sine:
0.58 (Helen and AFW), 0.63 (MTFL) and 0.59 (YouTube Faces)."""

DOUBTFUL = 0.6
"""Mean confidence of the points below which a face is marked ``uncertain``."""

CONFIDENCE_SIDE = 96.0
"""Pixels of the side of the face box that error scales are counted in."""

SMALLEST_SCALE = 0.36
"""Least error scale b in pixels of the 96-pixel face box. Confidences near 1 say no more: of the surest fifth
of the points the model card gives a mean error of 0.72 px or more, and the mean error is 2 b."""

_STEP = 1e-4
"""Step of the central differences, in eye distances."""


@dataclass(frozen=True)
class _Measure:
    """One measure: what is returned by ``function`` of points in pixels.

    Args:
        unit: ``px`` for a length in pixels, which is then divided by ``per``; else its own unit.
        function: Points by name, each (N, 2), to (N,).
        points: Names that it needs.
        per: Two points whose distance is the unit of a length.
    """

    unit: str
    function: Callable[[_Points], Floats]
    points: tuple[str, ...]
    per: tuple[str, str] = ("left_eye_center", "right_eye_center")


@dataclass(frozen=True, eq=False)
class Measurements:
    """M measures of N faces.

    Args:
        names: M names; those that end in ``_mm`` are millimetres by the user's scale.
        units: M units: ``ratio``, ``percent``, ``degrees`` or ``mm``.
        values: (N, M) float64; NaN where a point that is needed is NaN.
        sigma: (N, M) float64, one standard deviation, in the same unit; NaN where the points carry no
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
    # Points that fell together give no direction: NaN, not a warning.
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


def _distance(a: str, b: str, per: tuple[str, str] | None = None) -> _Measure:
    def function(p: _Points) -> Floats:
        return np.asarray(np.hypot(*(p[a] - p[b]).T))

    return (
        _Measure("px", function, (a, b)) if per is None else _Measure("px", function, (a, b), per)
    )


def _brow_height(side: str, end: str) -> _Measure:
    brow, corner = f"{side}_eyebrow_{end}_end", f"{side}_eye_{end}_corner"

    def function(p: _Points) -> Floats:
        return _dot(p[corner] - p[brow], _down(p))

    return _Measure("px", function, (brow, corner, *_EYES))


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

    return _Measure("px", function, (point, *_INNER, *_EYES))


def _asymmetry(p: _Points) -> Floats:
    left, right = (
        np.hypot(*(p[f"{side}_eye_inner_corner"] - p[f"mouth_{side}_corner"]).T)
        for side in ("left", "right")
    )
    return np.asarray(left - right)


def _canthal_index(p: _Points) -> Floats:
    inner = np.hypot(*(p["left_eye_inner_corner"] - p["right_eye_inner_corner"]).T)
    outer = np.hypot(*(p["left_eye_outer_corner"] - p["right_eye_outer_corner"]).T)
    return np.asarray(100.0 * inner / np.where(outer > 0, outer, np.nan))


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
    """Place of the mouth's corners along the diagonal outwards and up, mean of both sides."""
    middle = (p["left_eye_center"] + p["right_eye_center"]) / 2.0
    width = _dot(p["mouth_left_corner"] - p["mouth_right_corner"], _across(p))
    corners = (p["mouth_left_corner"] + p["mouth_right_corner"]) / 2.0
    return np.asarray((width / 2.0 - _dot(corners - middle, _down(p))) / np.sqrt(2.0))


_EYES = ("left_eye_center", "right_eye_center")
_INNER = ("left_eye_inner_corner", "right_eye_inner_corner")
_OUTER = ("left_eye_outer_corner", "right_eye_outer_corner")
_MOUTH = ("mouth_left_corner", "mouth_right_corner")

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
    "asymmetry": _Measure("px", _asymmetry, (*_INNER, *_MOUTH)),
    "nose_deviation": _from_midline("nose_tip"),
    "mouth_deviation": _from_midline("mouth_center_top_lip"),
    "head_roll": _Measure("degrees", _head_roll, _EYES),
    "head_yaw": _Measure("degrees", _head_yaw, ("nose_tip", *_EYES)),
}
# Differences from the neutral face.
_CHANGES: dict[str, _Measure] = {
    "mouth_opening": _MEASURES["lip_height"],
    "smile": _Measure("px", _smile, (*_MOUTH, *_EYES)),
}
_SIGN_FLIPS = frozenset({"asymmetry", "nose_deviation", "mouth_deviation", "head_roll", "head_yaw"})


def mirrored_name(name: str) -> tuple[str, float]:
    """The measure that a mirrored face shows in the place of this one, and its sign.

    Example:
        >>> mirrored_name("left_canthal_tilt")
        ('right_canthal_tilt', 1.0)
        >>> mirrored_name("head_yaw")
        ('head_yaw', -1.0)
    """
    for a, b in (("left_", "right_"), ("right_", "left_")):
        if name.startswith(a):
            return b + name.removeprefix(a), 1.0
    return name, -1.0 if name.removesuffix("_mm") in _SIGN_FLIPS else 1.0


def check_schema(schema: KeypointSchema) -> None:
    """Make sure that a schema names the 15 points that are measured.

    Raises:
        DataError: It does not.
    """
    if missing := [n for n in KAGGLE15.keypoint_names if n not in schema.keypoint_names]:
        raise DataError(
            f"measuring needs the 15 points of '{KAGGLE15.name}', but '{schema.name}' has no "
            f"{missing[0]}{f' and {len(missing) - 1} others' if len(missing) > 1 else ''}: use the model "
            "'default' or another one that answers them."
        )


def error_scales(confidence: FloatArray) -> Floats:
    """Scales b of the error that confidences stand for, in pixels of a face box 96 px wide.

    The inverse of :func:`facial_keypoints.models.codec.confidence_within`, whose density has the mean
    distance 2 b from the truth, and the standard deviation sqrt(3) b of x (and of y).

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


def _point_sigma(keypoints: Keypoints) -> Floats | None:
    """(N, K) standard deviation of each coordinate in image pixels; None where nothing is known."""
    if keypoints.confidence is None:
        return None
    # The model saw the face framed by its points, whatever box it came in.
    boxes = face_boxes(keypoints.xy, keypoints.schema).astype(np.float64)
    scale = (boxes[:, 2] - boxes[:, 0]) / CONFIDENCE_SIDE
    return np.asarray(np.sqrt(3.0) * error_scales(keypoints.confidence) * scale[:, np.newaxis])


def _named(xy: Floats, schema: KeypointSchema) -> _Points:
    return {name: xy[:, schema.index(name)] for name in KAGGLE15.keypoint_names}


def _compute(points: _Points, measures: dict[str, _Measure]) -> Floats:
    """(N, M) values; lengths as ratios."""
    columns = []
    for each in measures.values():
        value = each.function(points)
        if each.unit == "px":
            unit = np.hypot(*(points[each.per[0]] - points[each.per[1]]).T)
            value = value / np.where(unit > 0, unit, np.nan)
        columns.append(value)
    return np.stack(columns, axis=1)


def _lengths(points: _Points, measures: dict[str, _Measure]) -> Floats:
    """(N, M) values; lengths in pixels."""
    return np.stack([each.function(points) for each in measures.values()], axis=1)


def _with_sigma(
    function: Callable[[_Points], Floats],
    measures: dict[str, _Measure],
    xy: Floats,
    schema: KeypointSchema,
    sigma: Floats | None,
) -> tuple[Floats, Floats]:
    """Values and their standard deviations to first order: the delta method.

    The errors are a few hundredths of the lengths they enter, so the first order is enough; the test
    compares with drawing from the density itself. Errors of different points, and of a point's x and y,
    are taken as independent.
    """
    values = function(_named(xy, schema))
    if sigma is None:
        return values, np.full_like(values, np.nan)
    names = KAGGLE15.keypoint_names
    eyes = xy[:, schema.index(_EYES[0])] - xy[:, schema.index(_EYES[1])]
    apart = np.hypot(*eyes.T)
    step = _STEP * np.where(apart > 0, apart, np.nan)
    uses = np.array(
        [[n in (*m.points, *_scale_points(m)) for m in measures.values()] for n in names]
    )
    variance = np.zeros_like(values)
    for k, name in enumerate(names):
        index = schema.index(name)
        for axis in (0, 1):
            up, down = xy.copy(), xy.copy()
            up[:, index, axis] += step
            down[:, index, axis] -= step
            change = function(_named(up, schema)) - function(_named(down, schema))
            slope = _wrapped(change) / (2.0 * step[:, np.newaxis])
            part = (slope * sigma[:, index, np.newaxis]) ** 2
            # A point that is not used must not make a value's error unknown by being NaN itself.
            variance += np.where(uses[k], part, 0.0)
    return values, np.where(np.isnan(values), np.nan, np.sqrt(variance))


def _scale_points(each: _Measure) -> tuple[str, ...]:
    return each.per if each.unit == "px" else ()


def _wrapped(change: Floats) -> Floats:
    """A tiny change of an angle in degrees that jumped over 180."""
    return np.where(np.abs(change) > 180.0, change - 360.0 * np.sign(change), change)


def measure(
    faces: Prediction | Keypoints,
    *,
    neutral: Prediction | Keypoints | None = None,
    mm_per_px: float | None = None,
    ipd_mm: float | None = None,
) -> Measurements:
    """Measure faces by their points. Not a medical device: for information only.

    Args:
        faces: N faces with the points of ``kaggle15`` (another schema with points of these names works).
        neutral: The same person with a resting face, seen in the same way: one face for all, or N. Adds
            ``mouth_opening`` and ``smile``, which are changes from it.
        mm_per_px: Millimetres that one pixel shows at the distance of the face. Adds a length in
            millimetres, named ``..._mm``, beside every ratio.
        ipd_mm: Or the true distance between the pupils of the person, taken as exact.

    Returns:
        One row a face. The error bars come from the points' confidence; they leave out what one
        image cannot show: depth, a turned or nodded head, the lens.

    Raises:
        DataError: The points are others, or the neutral image shows not exactly one face.
        ValueError: Both scales are given, or one is not a positive number.

    Example:
        >>> measure(predictor.predict(image))["canthal_index"]  # doctest: +SKIP
    """
    if mm_per_px is not None and ipd_mm is not None:
        raise ValueError("give mm_per_px or ipd_mm, not both.")
    for name, scale in (("mm_per_px", mm_per_px), ("ipd_mm", ipd_mm)):
        if scale is not None and not (np.isfinite(scale) and scale > 0):
            raise ValueError(f"{name} must be a positive number, received {scale}.")
    keypoints = faces.keypoints if isinstance(faces, Prediction) else faces
    schema = keypoints.schema
    check_schema(schema)
    xy, sigma = keypoints.xy.astype(np.float64), _point_sigma(keypoints)

    def ratios(measures: dict[str, _Measure]) -> tuple[Floats, Floats]:
        return _with_sigma(lambda p: _compute(p, measures), measures, xy, schema, sigma)

    values, errors = ratios(_MEASURES)
    names, units = list(_MEASURES), [_unit_name(each) for each in _MEASURES.values()]
    resting: Measurements | None = None
    if neutral is not None:
        changed, changed_errors = ratios(_CHANGES)
        resting, rest, rest_errors = _rest(neutral, len(keypoints))
        values = np.concatenate([values, changed - rest], axis=1)
        errors = np.concatenate([errors, np.hypot(changed_errors, rest_errors)], axis=1)
        names += list(_CHANGES)
        units += [_unit_name(each) for each in _CHANGES.values()]
    if mm_per_px is not None or ipd_mm is not None:
        lengths = {name: each for name, each in _MEASURES.items() if each.unit == "px"}
        if ipd_mm is not None:
            in_eyes = {n: _Measure("px", m.function, m.points) for n, m in lengths.items()}
            lengths_mm, errors_mm = (part * ipd_mm for part in ratios(in_eyes))
        else:
            plain = {n: _Measure("length", m.function, m.points) for n, m in lengths.items()}
            found = _with_sigma(lambda p: _lengths(p, plain), plain, xy, schema, sigma)
            lengths_mm, errors_mm = (part * float(mm_per_px or 0.0) for part in found)
        values = np.concatenate([values, lengths_mm], axis=1)
        errors = np.concatenate([errors, errors_mm], axis=1)
        names += [f"{name}_mm" for name in lengths]
        units += ["mm"] * len(lengths)
    return Measurements(
        tuple(names),
        tuple(units),
        values,
        errors,
        _warnings(keypoints, values[:, names.index("head_yaw")], resting),
    )


def _unit_name(each: _Measure) -> str:
    return "ratio" if each.unit == "px" else each.unit


def _rest(neutral: Prediction | Keypoints, count: int) -> tuple[Measurements, Floats, Floats]:
    """What the changes are measured from: the neutral's warnings, values and errors."""
    keypoints = neutral.keypoints if isinstance(neutral, Prediction) else neutral
    if len(keypoints) not in {1, count}:
        raise DataError(
            f"the neutral image must show exactly one face, but {len(keypoints)} were found in it: "
            "choose another image, or cut the face out."
        )
    check_schema(keypoints.schema)
    values, errors = _with_sigma(
        lambda p: _compute(p, _CHANGES),
        _CHANGES,
        keypoints.xy.astype(np.float64),
        keypoints.schema,
        _point_sigma(keypoints),
    )
    return measure(neutral), values, errors


def _warnings(
    keypoints: Keypoints, turn_deg: Floats, resting: Measurements | None
) -> tuple[tuple[str, ...], ...]:
    schema = keypoints.schema
    used = [schema.index(name) for name in KAGGLE15.keypoint_names]
    n = len(keypoints)
    neutral_turned = np.zeros(n, bool)
    if resting is not None:
        neutral_turned |= np.array(["turned" in each for each in resting.warnings], bool)
    doubtful = np.zeros(n, bool)
    if keypoints.confidence is not None:
        doubtful |= keypoints.confidence[:, used].mean(axis=1) < DOUBTFUL
    marks = {
        "turned": np.asarray(np.abs(turn_deg) > TURNED_DEG),
        "uncertain": doubtful,
        "missing points": np.asarray(np.isnan(keypoints.xy[:, used]).any(axis=(1, 2))),
        "neutral turned": neutral_turned,
    }
    return tuple(tuple(name for name, mark in marks.items() if mark[i]) for i in range(n))
