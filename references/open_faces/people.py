"""Who an image shows, drawn by lot: identity, age, expression, lids, gaze and pose of one head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .head import Head, Pose, macro_weights, rotation
from .render import vertex_normals

UNITS = {  # expressions: face units and the range of their weights
    "neutral": {},
    "smile": {"mouthSmile": (0.2, 0.75), "cheekSquint": (0.0, 0.8), "eyeSquint": (0.0, 0.6)},
    "laugh": {
        "mouthSmile": (0.3, 0.8), "jawOpen": (0.1, 0.5), "mouthUpperUp": (0.2, 0.8), "cheekSquint": (0.3, 1.0)
    },
    "half_smile": {"mouthSmileLeft": (0.3, 0.75), "mouthDimpleLeft": (0.0, 0.3), "mouthLeft": (0.0, 0.4)},
    "open": {"jawOpen": (0.15, 1.0), "mouthFunnel": (0.0, 0.5), "browInnerUp": (0.0, 0.8)},
    "surprise": {"jawOpen": (0.2, 0.8), "browInnerUp": (0.5, 1.0), "browOuterUp": (0.4, 1.0), "eyeWide": (0.3, 1.0)},
    "angry": {"browDown": (0.5, 1.0), "mouthPress": (0.0, 0.8), "noseSneer": (0.0, 0.8), "eyeSquint": (0.2, 0.8)},
    "sad": {"browInnerUp": (0.4, 1.0), "mouthFrown": (0.4, 1.0), "mouthShrugLower": (0.0, 0.8)},
    "pucker": {"mouthPucker": (0.4, 1.0), "mouthFunnel": (0.0, 0.6)},
    "disgust": {"noseSneer": (0.4, 1.0), "mouthUpperUp": (0.2, 0.9), "browDown": (0.2, 0.8)},
    "press": {"mouthRollLower": (0.3, 1.0), "mouthRollUpper": (0.3, 1.0), "mouthPress": (0.0, 0.7)},
    "teeth": {"mouthUpperUp": (0.3, 0.9), "mouthLowerDown": (0.3, 1.0), "mouthStretch": (0.2, 0.9)},
    "mixed": {},
}  # fmt: skip
OFTEN = [0.2, 0.14, 0.12, 0.07, 0.09, 0.06, 0.05, 0.05, 0.04, 0.03, 0.03, 0.04, 0.08]
LIDS = ((37, 41), (38, 40), (44, 46), (43, 47))  # points of the upper lid and below them
PAIRS = [
    ("decr", "incr"), ("down", "up"), ("in", "out"), ("backward", "forward"), ("concave", "convex"),
    ("compress", "uncompress"),
]  # fmt: skip


@dataclass
class Person:
    """One head. ``vertices`` are straight, ``pose`` moves them; ``centres`` (2, 3) of the eyes, right first."""

    age: float
    male: float
    race: np.ndarray
    expression: str
    closed: np.ndarray
    gaze: np.ndarray
    angles: tuple[float, float, float]
    vertices: np.ndarray
    normals: np.ndarray
    eyes: np.ndarray
    centres: np.ndarray
    pose: Pose

    @property
    def adult(self) -> bool:
        """Old enough for a beard."""
        return self.age > 0.38

    @property
    def infant(self) -> bool:
        """Without teeth, with little hair."""
        return self.age < 0.09


def identity_weights(names: list[str], rng: np.random.Generator, age: float) -> dict[str, float]:
    """Small random weights of the shape targets of the head; left and right nearly alike."""
    known, weights, drawn = set(names), {}, {}
    strength = 0.32 * np.interp(age, [0.0, 0.2, 0.5], [0.35, 0.6, 1.0])
    for name in names:
        group, _, file = name.partition("/")
        if (
            group in ("macrodetails", "unit")
            or "trans" in file
            or "laugh" in file
            or "dimples" in file
            or "angle" in file
            or "back" in file
        ):
            continue
        stem = file.removeprefix("l-").removeprefix("r-")
        base, _, ending = stem.rpartition("-")
        low = next((a for a, b in PAIRS if b == ending and f"{name[: -len(b)]}{a}" in known), None)
        if low is None:  # the second of a pair is handled with the first
            if group == "head" and ending not in {e for pair in PAIRS for e in pair}:
                weights[name] = float(rng.random() < 0.15) * rng.uniform(0.0, 0.5)
            continue
        if (group, base) not in drawn:
            drawn[group, base] = rng.normal(0.0, strength) if rng.random() < 0.6 else 0.0
        value = float(np.clip(drawn[group, base] + rng.normal(0.0, 0.03), -1.0, 1.0))
        if group in ("neck", "ears"):
            value *= 0.6
        weights[name if value > 0 else f"{name[: -len(ending)]}{low}"] = abs(value)
    return weights


def expression_weights(name: str, rng: np.random.Generator, known: set[str]) -> dict[str, float]:
    """Weights of face units for a named expression, a little uneven between the sides."""
    units = dict(UNITS[name])
    if name == "mixed":
        both = sorted(
            {u.removeprefix("unit/").removesuffix("Left").removesuffix("Right") for u in known}
        )
        both = [
            u for u in both if not u.startswith(("eyeBlink", "eyeLook", "tongue", "mouthClose"))
        ]
        units = {str(u): (0.0, 0.8) for u in rng.choice(both, 5, replace=False)}
    weights, even = {}, rng.random() < 0.75
    for unit, (low, high) in units.items():
        value = rng.uniform(low, high)
        sides = [unit] if f"unit/{unit}" in known else [f"{unit}Left", f"{unit}Right"]
        for side in sides:
            if f"unit/{side}" in known:
                share = rng.uniform(0.85, 1.1) if even else rng.uniform(0.2, 1.1)
                weights[f"unit/{side}"] = value * share
    if name == "half_smile" and rng.random() < 0.5:
        weights = {n.replace("Left", "Right"): value for n, value in weights.items()}
    for unit in (
        "browInnerUp",
        "jawLeft",
        "jawRight",
        "jawForward",
        "mouthLeft",
        "mouthRight",
        "browDownLeft",
    ):
        weights[f"unit/{unit}"] = weights.get(f"unit/{unit}", 0.0) + max(0.0, rng.normal(0.0, 0.08))
    return weights


def closed_lids(rng: np.random.Generator) -> np.ndarray:
    """How much of its opening each eye is closed, from 0 to 1, right eye first."""
    kind = rng.random()
    if kind < 0.72:
        return np.full(2, rng.uniform(0.0, 0.3))
    if kind < 0.84:
        return np.ones(2)
    if kind < 0.88:
        return rng.permutation([1.0, rng.uniform(0.0, 0.4)])
    return np.full(2, rng.uniform(0.3, 0.95))


def close_lids(head: Head, vertices: np.ndarray, closed: np.ndarray) -> np.ndarray:
    """Vertices with each upper lid lowered by exactly that share of its opening."""
    for side, lids, share in zip(("Right", "Left"), (LIDS[:2], LIDS[2:]), closed, strict=True):
        blink = head.target(f"unit/eyeBlink{side}")
        whole = 0.0
        for upper, lower in lids:
            a, b = head.fixed[upper], head.fixed[lower]
            gap = (vertices[a] - vertices[b])[:, 1].mean()
            whole = max(whole, gap / (blink[b] - blink[a])[:, 1].mean())
        vertices = vertices + blink * np.float32(whole * (1.04 if share == 1.0 else share))
    return vertices


def gaze_weights(gaze: np.ndarray) -> dict[str, float]:
    """Weights of the face units that turn the eyeballs to the left (of the person) and up, degrees."""
    sides = ("Out", "In") if gaze[0] > 0 else ("In", "Out")
    upright = "Up" if gaze[1] > 0 else "Down"
    weights = {}
    for side, across in zip(("Left", "Right"), sides, strict=True):
        weights[f"unit/eyeLook{across}{side}"] = abs(float(gaze[0])) / 25.0
        weights[f"unit/eyeLook{upright}{side}"] = abs(float(gaze[1])) / 25.0
    return weights


def draw_angles(rng: np.random.Generator) -> tuple[float, float, float]:
    """Yaw, pitch and roll in degrees: most heads near the camera's direction, some far from it."""
    kind = rng.random()
    if kind < 0.42:
        yaw = float(np.clip(rng.normal(0, 14), -90, 90))
    else:
        yaw = float(rng.uniform(-60, 60) if kind < 0.78 else rng.uniform(-90, 90))
    pitch, roll = (
        float(
            np.clip(rng.normal(0, spread), -45, 45)
            if rng.random() < usual
            else rng.uniform(-45, 45)
        )
        for spread, usual in ((11, 0.75), (9, 0.8))
    )
    return yaw, pitch, roll


def draw_person(head: Head, rng: np.random.Generator) -> Person:
    """One head by lot."""
    low, high = [(0.02, 0.09), (0.09, 0.36), (0.4, 0.65), (0.65, 1.0)][
        rng.choice(4, p=[0.08, 0.17, 0.5, 0.25])
    ]
    age = float(rng.uniform(low, high))
    male = float(np.clip(rng.choice([0.0, 1.0]) + rng.normal(0, 0.15), 0, 1))
    race = rng.dirichlet([0.4, 0.4, 0.4])
    fat = float(np.clip(rng.normal(0.5, 0.2), 0, 1))
    weights = macro_weights(age, male, race, float(rng.uniform(0.2, 0.8)), fat)
    weights |= identity_weights(list(head.names), rng, age)
    expression = str(rng.choice(list(UNITS), p=OFTEN))
    units = {name for name in head.names if name.startswith("unit/")}
    weights |= expression_weights(expression, rng, units)
    gaze = (
        rng.normal(0, [10.0, 7.0]).clip(-25, 25) if rng.random() < 0.8 else rng.uniform(-25, 25, 2)
    )
    closed = closed_lids(rng)
    open_eyed = head.vertices(weights | gaze_weights(gaze))
    vertices = close_lids(head, open_eyed, closed)
    eyes = head.worn("eyes", open_eyed)
    centres = []
    for sign in (-1.0, 1.0):
        own = eyes[eyes[:, 0] * sign > 0]
        least, most = own.min(0), own.max(0)
        middle = (least + most) / 2.0
        centres.append([middle[0], middle[1], least[2] + (most[1] - least[1]) / 2.0])
    yaw, pitch, roll = draw_angles(rng)
    body = rotation(
        yaw * rng.uniform(0.2, 1.0), pitch * rng.uniform(0, 0.3), roll * rng.uniform(0, 0.6)
    )
    pose = Pose(vertices[head.chin], np.mean(centres, axis=0), rotation(yaw, pitch, roll), body)
    normals = vertex_normals(vertices, head.triangles)
    return Person(
        age, male, race, expression, closed, gaze, (yaw, pitch, roll), vertices, normals, eyes, np.array(centres), pose
    )  # fmt: skip
