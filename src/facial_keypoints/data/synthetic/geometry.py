"""Who is drawn and how they are posed: parameters, the head's shape, and exact keypoints.

Face coordinates (u, v) lie on the front of a head seen straight on: the origin midway between the
eyes, u to the image's right, v down, one unit about a pixel of a 96 x 96 image. The surface is
the paraboloid ``Z = DEPTH - Q u^2 - P (v - PIVOT)^2``; yaw and pitch rotate it, roll, scale and shift
place it in the image. Both directions of that map have a closed form, so the keypoints are exact.
This module draws no pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.geometry import resize_xy
from facial_keypoints.schemas import KAGGLE15, STYLE_B_POINTS

__all__ = ["NARROW", "WIDE", "FaceParameters", "Spread", "sample_faces"]

Floats: TypeAlias = NDArray[np.floating[Any]]

REFERENCE_SIZE = 96  # side in pixels of the image that face units refer to
# Paraboloid fitted roughly to an ellipsoid of half axes 37 (ear to ear), 56 (height), 40 (depth).
DEPTH, PIVOT, Q, P = 40.0, 10.0, 0.0165, 0.004

# name: (mean, standard deviation, lowest, highest). Means follow Kaggle's full rows (eyes at
# (66, 37) and (30, 37), nose tip at 55, mouth corners at 76), in face units.
_IDENTITY: Mapping[str, tuple[float, float, float, float]] = {
    "face_width": (38.0, 2.2, 33.0, 43.0),
    "jaw": (0.13, 0.07, 0.0, 0.28),
    "chin_v": (61.0, 2.5, 55.0, 67.0),
    "crown_v": (-53.0, 3.0, -60.0, -46.0),
    "eye_u": (18.4, 0.8, 16.6, 20.4),
    "eye_half_width": (6.4, 0.45, 5.3, 7.6),
    "eye_tilt": (0.3, 0.6, -1.2, 1.6),
    "lid_height": (2.9, 0.4, 2.0, 3.8),
    "iris_radius": (3.0, 0.2, 2.5, 3.5),
    "brow_inner_u": (9.0, 1.2, 5.5, 12.0),
    "brow_outer_u": (30.0, 1.2, 27.0, 33.0),
    "brow_v": (-8.0, 1.3, -11.0, -5.0),
    "brow_slope": (0.6, 1.2, -2.0, 3.5),
    "brow_arch": (2.2, 0.8, 0.3, 4.2),
    "brow_thick": (1.35, 0.4, 0.6, 2.5),
    "nose_v": (18.0, 1.8, 14.0, 22.0),
    "nose_height": (11.0, 1.8, 7.0, 15.0),
    "nose_width": (7.4, 1.0, 5.4, 10.0),
    "nose_base": (6.0, 0.25, 5.4, 6.6),
    "mouth_v": (38.6, 1.8, 34.0, 43.0),
    "mouth_half_width": (13.6, 1.1, 11.0, 16.5),
    "upper_lip": (3.5, 0.7, 1.8, 5.4),
    "lower_lip": (4.6, 0.8, 2.8, 6.8),
    "cupid": (0.35, 0.12, 0.0, 0.6),
    "hairline_v": (-30.0, 3.0, -38.0, -23.0),
    "hairline_curve": (0.011, 0.006, -0.002, 0.024),
    "ear": (6.0, 1.0, 3.5, 8.5),
}
# Choices that are shared by all images of a person: uniform numbers in [0, 1).
_IDENTITY_CHOICES = (
    "femininity", "age", "skin", "hair_tone", "hair_style", "hair_length", "curl",
    "beard", "moustache", "glasses", "glasses_shape", "makeup", "streak", "eye_tone", "fringe",
)  # fmt: skip
_IMAGE: Mapping[str, tuple[float, float, float, float]] = {
    "smile": (1.2, 1.9, -2.2, 5.0),
    "brow_raise": (0.0, 0.9, -1.8, 2.5),
    "gaze_u": (0.0, 0.7, -1.5, 1.5),
    "gaze_v": (0.0, 0.3, -0.6, 0.6),
    "light_x": (0.0, 0.55, -1.2, 1.2),
    "light_y": (-0.45, 0.3, -1.0, 0.25),
}
_IMAGE_CHOICES = (
    "open", "blink", "hat", "hat_tone", "hat_shape", "ambient", "exposure", "gamma", "contrast",
    "blur", "noise", "degrade", "back_tone", "back_slope_x", "back_slope_y", "back_x", "back_y",
    "back_radius", "back_tilt", "back_split", "back_delta", "back_texture", "clothes", "collar",
    "texture_x", "texture_y", "grain_x", "grain_y", "glasses_off", "glare", "dark_lens",
)  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """How much pose and crop vary between images.

    Args:
        yaw_deg: Standard deviation; clipped at 35 degrees.
        pitch_deg: Standard deviation; clipped at 18 degrees.
        roll_deg: Standard deviation; clipped at 15 degrees.
        shift: Standard deviation of the face's place, in 1/96 of the image.
        zoom: Relative standard deviation of its size.
        size: Mean size; 1 puts the eyes about 36.5/96 of the image apart.
        by_eyes: True: the eyes fix the crop (as in Kaggle's full rows, whose eyes hardly move);
            False: the whole face does, as with a face detector.
    """

    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    shift: float
    zoom: float
    size: float
    by_eyes: bool


# Spread of the eye centres in Kaggle's rows: 1.7 px where all points are labelled, 4 px in the
# four-point rows; eye distances 36.5 +- 2.4 and 35.6 +- 4; tilts 2.8 and 6.5 degrees.
NARROW = Spread(9.0, 7.0, 2.8, 1.6, 0.05, 1.0, by_eyes=True)
WIDE = Spread(14.0, 7.5, 6.0, 2.8, 0.08, 0.96, by_eyes=False)


@dataclass(frozen=True, eq=False)
class FaceParameters:
    """Everything that fixes N images.

    Args:
        values: Name -> (N, 1, 1) float32, ready to broadcast over pixel grids.
    """

    values: Mapping[str, Floats]

    def __getitem__(self, name: str) -> Floats:
        return self.values[name]

    def __len__(self) -> int:
        return len(self.values["yaw"])

    def subset(self, index: NDArray[np.int64] | slice) -> FaceParameters:
        """The faces selected by ``index``."""
        return FaceParameters({name: value[index] for name, value in self.values.items()})

    def image_to_plane(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Undo shift, roll and scale: image pixels (at size 96) to the plane of the face."""
        dx, dy = x - self["shift_x"], y - self["shift_y"]
        cos, sin = np.cos(self["roll"]) / self["scale"], np.sin(self["roll"]) / self["scale"]
        return cos * dx + sin * dy, cos * dy - sin * dx

    def plane_to_face(self, plane_x: Floats, plane_y: Floats) -> tuple[Floats, Floats]:
        """Undo yaw and pitch: points of the plane to face coordinates (u, v)."""
        sin_yaw, cos_yaw = np.sin(self["yaw"]), np.cos(self["yaw"])
        sin_pitch, cos_pitch = np.sin(self["pitch"]), np.cos(self["pitch"])
        y = plane_y - PIVOT
        w = (y + DEPTH * sin_pitch) / cos_pitch
        c = plane_x - (DEPTH - P * w * w) * sin_yaw
        # Points behind the rim have no root; the lower limit of 0.02 stretches the rim there.
        u = 2.0 * c / (cos_yaw + np.sqrt(np.maximum(cos_yaw**2 - 4.0 * Q * sin_yaw * c, 0.02)))
        d = y + (DEPTH - Q * u * u) * sin_pitch
        root = np.sqrt(np.maximum(cos_pitch**2 + 4.0 * P * sin_pitch * d, 0.02))
        return u, 2.0 * d / (cos_pitch + root) + PIVOT

    def face_to_plane(self, u: Floats, v: Floats) -> tuple[Floats, Floats]:
        """The inverse of :meth:`plane_to_face` on the visible side."""
        sin_yaw, cos_yaw = np.sin(self["yaw"]), np.cos(self["yaw"])
        sin_pitch, cos_pitch = np.sin(self["pitch"]), np.cos(self["pitch"])
        t = v - PIVOT
        y = t * cos_pitch - (DEPTH - Q * u * u - P * t * t) * sin_pitch
        w = (y + DEPTH * sin_pitch) / cos_pitch
        x = u * cos_yaw + (DEPTH - P * w * w - Q * u * u) * sin_yaw
        return x, y + PIVOT

    def ridge(self, v: Floats) -> Floats:
        """Height of the nose's ridge above the face at height v, face units."""
        tip = self["nose_v"]
        up = np.clip((v + 3.0) / (tip + 3.0), 0.0, 1.0)
        down = np.clip((v - tip) / 11.0, 0.0, 1.0)
        rise: Floats = self["nose_height"] * (up * up * (1.6 - 0.6 * up))
        return rise * (1 - down * down * (3 - 2 * down))

    def face_to_nose(self, u: Floats, v: Floats) -> tuple[Floats, Floats]:
        """Face coordinates to those of the nose, whose ridge stands off the face and so moves."""
        height = self.ridge(v)
        return u - np.tan(self["yaw"]) * height, v + np.tan(self["pitch"]) * height

    def nose_to_face(self, nose_v: Floats) -> tuple[Floats, Floats]:
        """Face coordinates of a point on the ridge (the inverse of :meth:`face_to_nose`)."""
        v = nose_v
        for _ in range(60):  # a contraction: |ridge'| tan(pitch) < 0.8 for pitch within 18 degrees
            v = nose_v - np.tan(self["pitch"]) * self.ridge(v)
        return np.tan(self["yaw"]) * self.ridge(v), v

    def face_to_image(self, u: Floats, v: Floats) -> tuple[Floats, Floats]:
        """Face coordinates to image pixels (at size 96)."""
        x, y = self.face_to_plane(u, v)
        cos, sin = np.cos(self["roll"]) * self["scale"], np.sin(self["roll"]) * self["scale"]
        return cos * x - sin * y + self["shift_x"], sin * x + cos * y + self["shift_y"]

    def _image_points(
        self, points: Mapping[str, tuple[Floats, Floats]], image_size: int
    ) -> NDArray[np.float32]:
        """(N, 15, 2) pixels of an image of some size; NaN for the points that are not given."""
        xy = np.full((len(self), KAGGLE15.num_keypoints, 2), np.nan, np.float32)
        for name, place in points.items():
            xy[:, KAGGLE15.index(name)] = np.column_stack(
                [value.ravel() for value in self.face_to_image(*place)]
            )
        return resize_xy(xy, image_size / REFERENCE_SIZE).astype(np.float32)

    def face_points(self) -> dict[str, tuple[Floats, Floats]]:
        """Face coordinates (u, v), each (N, 1, 1), of the 15 keypoints by name."""
        points: dict[str, tuple[Floats, Floats]] = {}
        for side, sign in (("left", 1.0), ("right", -1.0)):  # the person's left: image right
            eye, half = sign * self["eye_u"], sign * self["eye_half_width"]
            corner = 0.9 + 0.0 * eye
            points[f"{side}_eye_center"] = (eye + self["gaze_u"], self["gaze_v"] + 0.0 * eye)
            points[f"{side}_eye_inner_corner"] = (eye - half, corner + self["eye_tilt"])
            points[f"{side}_eye_outer_corner"] = (eye + half, corner - self["eye_tilt"])
            points[f"{side}_eyebrow_inner_end"] = (sign * self["brow_inner_u"], self["brow_top"])
            points[f"{side}_eyebrow_outer_end"] = (
                sign * self["brow_outer_u"],
                self["brow_top"] + self["brow_slope"],
            )
            points[f"mouth_{side}_corner"] = (
                sign * self["mouth_half"],
                self["mouth_v"] - self["mouth_lift"],
            )
        points["nose_tip"] = self.nose_to_face(self["nose_v"])
        middle = 0.0 * self["mouth_v"]
        points["mouth_center_top_lip"] = (middle, self["lip_top"])
        points["mouth_center_bottom_lip"] = (middle, self["lip_bottom"])
        return points

    def keypoints_xy(self, image_size: int) -> NDArray[np.float32]:
        """(N, 15, 2) the 15 points by the rules of full rows (style A), pixels of the image."""
        return self._image_points(self.face_points(), image_size)

    def four_point_xy(self, image_size: int) -> NDArray[np.float32]:
        """(N, 15, 2) by the rules of four-point rows (style B); the other 11 points are NaN.

        The nose's point is its base and the mouth's point its centre, 2.5 to 4 face units above the
        lower lip's edge.
        """
        points = self.face_points()
        middle = 0.0 * self["mouth_v"]
        half_lips = (self["lip_bottom"] - self["lip_top"]) / 2.0
        points["nose_tip"] = self.nose_to_face(self["nose_v"] + self["nose_base"])
        lower = self["lip_bottom"] - np.clip(0.62 * half_lips, 2.6, 3.9)
        points["mouth_center_bottom_lip"] = (middle, lower)
        return self._image_points({name: points[name] for name in STYLE_B_POINTS}, image_size)


def _draws(
    table: Mapping[str, tuple[float, float, float, float]],
    choices: tuple[str, ...],
    seed: tuple[int, int],
    keys: NDArray[np.int64],
) -> dict[str, Floats]:
    """One generator per key, so that a face never depends on how many others are drawn."""
    normal = np.empty((len(keys), len(table)))
    uniform = np.empty((len(keys), len(choices)))
    unique, where = np.unique(keys, return_inverse=True)
    for i, key in enumerate(unique):
        rng = np.random.default_rng([*seed, int(key)])
        normal[where == i] = rng.standard_normal(len(table))
        uniform[where == i] = rng.random(len(choices))
    values = {
        name: np.clip(mean + std * normal[:, i], low, high)
        for i, (name, (mean, std, low, high)) in enumerate(table.items())
    }
    values.update({name: uniform[:, i] for i, name in enumerate(choices)})
    return {name: v.astype(np.float32).reshape(-1, 1, 1) for name, v in values.items()}


def sample_faces(
    rows: NDArray[np.int64], identities: NDArray[np.int64], *, seed: int, spread: Spread
) -> FaceParameters:
    """Draw the parameters of N images.

    Args:
        rows: (N,) number of each image; fixes pose, expression, light and background.
        identities: (N,) number of the person shown; fixes what belongs to the person.
        seed: Seed of the whole set. The same seed, row and identity give the same image
            whatever else is drawn with it.
        spread: Spread of pose and crop.
    """
    values = _draws(_IDENTITY, _IDENTITY_CHOICES, (seed, 1), identities)
    pose = dict.fromkeys(("yaw", "pitch", "roll", "zoom", "dx", "dy"), (0.0, 1.0, -3.0, 3.0))
    values |= _draws({**_IMAGE, **pose}, _IMAGE_CHOICES, (seed, 2), rows)

    for name, degrees, limit in (
        ("yaw", spread.yaw_deg, 35.0),
        ("pitch", spread.pitch_deg, 18.0),
        ("roll", spread.roll_deg, 15.0),
    ):
        values[name] = np.deg2rad(np.clip(degrees * values[name], -limit, limit)).astype(np.float32)

    # Women have thinner, more arched brows, fuller lips and narrower jaws, in the mean.
    feminine = values["femininity"] - 0.5
    values["brow_thick"] = values["brow_thick"] * (1.0 - 0.5 * feminine)
    values["brow_arch"] = values["brow_arch"] + 1.2 * feminine
    values["jaw"] = values["jaw"] + 0.08 * feminine
    values["lower_lip"] = values["lower_lip"] * (1.0 + 0.2 * feminine)

    # A third of the mouths are open; wide smiles pull the corners out and up and thin the lips.
    smile = values["smile"]
    gap = np.clip((values["open"] - 0.62) / 0.38, 0.0, 1.0) * 7.0
    laugh = np.clip(1.6 * smile - 1.2, 0.0, 5.0) * (values["open"] > 0.25)
    gap = np.maximum(gap, laugh)
    values["teeth"] = np.clip(smile - 0.8, 0.0, 1.0)
    values["mouth_gap"] = gap
    values["mouth_half"] = values["mouth_half_width"] + 0.75 * smile - 0.25 * gap
    values["mouth_lift"] = 0.55 * smile + 0.1
    thin = 1.0 - 0.06 * np.maximum(smile, 0.0)
    values["upper_lip"] = values["upper_lip"] * thin
    values["lower_lip"] = values["lower_lip"] * thin
    values["lip_top"] = (
        values["mouth_v"] - 0.3 * gap - values["upper_lip"] * (1.0 - values["cupid"] * 0.5)
    )
    values["lip_bottom"] = values["mouth_v"] + 0.7 * gap + values["lower_lip"]
    values["chin_v"] = np.maximum(values["chin_v"] + 0.45 * gap, values["lip_bottom"] + 9.0)
    values["brow_top"] = values["brow_v"] - values["brow_raise"]
    closed = values["blink"] < 0.04
    values["openness"] = np.where(closed, 0.05, 1.0 - 0.09 * np.maximum(smile, 0.0)).astype(
        np.float32
    )
    values["gaze_v"] = np.where(closed, 0.9, values["gaze_v"]).astype(np.float32)

    # The crop: first the pose alone, then scale and shift so that the face fills the image.
    zero = np.zeros_like(values["yaw"])
    values |= {"shift_x": zero, "shift_y": zero, "scale": zero + 1.0}
    points = FaceParameters(values).keypoints_xy(REFERENCE_SIZE)
    eyes = points[:, :2].mean(axis=1)
    distance = np.hypot(*(points[:, 0] - points[:, 1]).T).reshape(-1, 1, 1)
    zoom = spread.size * (1.0 + spread.zoom * values["zoom"])
    values["scale"] = (zoom * (36.5 / distance if spread.by_eyes else 1.0)).astype(np.float32)
    if spread.by_eyes:
        anchor, target = eyes, (48.0, 37.0)
    else:
        anchor, target = points.mean(axis=1), (48.0, 49.5)
    for axis, name in enumerate("xy"):
        jitter = np.clip(values[f"d{name}"], -2.5, 2.5) * spread.shift
        place = anchor[:, axis].reshape(-1, 1, 1) * values["scale"]
        values[f"shift_{name}"] = (target[axis] + jitter - place).astype(np.float32)
    return FaceParameters(values)
