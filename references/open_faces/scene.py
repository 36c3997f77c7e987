"""What an image shows, drawn by lot from a seed: one person, what is worn, light, camera and background."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from . import head as heads
from .render import EYE, HAIR, LENS, PLAIN, SKIN, Mesh, Scene, vertex_normals

LIGHTS = 18
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
PAIRS = [
    ("decr", "incr"), ("down", "up"), ("in", "out"), ("backward", "forward"), ("concave", "convex"),
    ("compress", "uncompress"),
]  # fmt: skip
GLASSES = ("none", "clear", "tinted", "dark")
HATS = ("none", "beanie", "cap", "scarf", "fedora")
OCCLUDERS = ("none", "hand", "mask", "shape")


@dataclass
class Picture:
    """A scene with what is known about it: points (70, 3) in the world, irises last, and the parameters."""

    scene: Scene
    points: np.ndarray
    tolerance: np.ndarray  # (70,) how far behind what is drawn a point may lie and still be seen
    near_far: tuple[float, float]
    parameters: dict[str, float | int | str]


def identity_weights(names: list[str], rng: np.random.Generator, age: float) -> dict[str, float]:
    """Small random weights of the shape targets of the head; left and right nearly alike."""
    known, weights, drawn = set(names), {}, {}
    strength = 0.32 * np.interp(age, [0.0, 0.2, 0.5], [0.35, 0.6, 1.0])
    for name in names:
        group, _, file = name.partition("/")
        if group in ("macrodetails", "unit") or "trans" in file or "laugh" in file or "dimples" in file or "angle" in file or "back" in file:
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
        both = sorted({u.removeprefix("unit/").removesuffix("Left").removesuffix("Right") for u in known})
        both = [u for u in both if not u.startswith(("eyeBlink", "eyeLook", "tongue", "mouthClose"))]
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
    for unit in ("browInnerUp", "jawLeft", "jawRight", "jawForward", "mouthLeft", "mouthRight", "browDownLeft"):
        weights[f"unit/{unit}"] = weights.get(f"unit/{unit}", 0.0) + max(0.0, rng.normal(0.0, 0.08))
    return weights


def lights(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Directions (L, 3) and colours (L, 3) of a wide sky, a main light and a second one, and ambient light."""
    kind = str(rng.choice(["soft", "hard", "side", "top", "back", "below", "two"], p=[0.34, 0.18, 0.16, 0.1, 0.08, 0.04, 0.1]))

    def toward(azimuth: float, height: float) -> np.ndarray:
        a, h = np.radians([azimuth, height])
        return np.array([np.sin(a) * np.cos(h), np.sin(h), np.cos(a) * np.cos(h)])

    def warmth(spread: float) -> np.ndarray:
        t = rng.normal(0.0, spread)
        return np.exp(np.array([t, 0.0, -t]))

    side = rng.choice([-1.0, 1.0])
    azimuth, height, spread, ratio = {
        "soft": (rng.normal(0, 40), rng.uniform(10, 60), 0.35, rng.uniform(0.3, 1.5)),
        "hard": (rng.normal(0, 45), rng.uniform(5, 65), 0.04, rng.uniform(1.5, 5.0)),
        "side": (side * rng.uniform(50, 100), rng.uniform(-5, 40), rng.uniform(0.05, 0.3), rng.uniform(1.0, 4.0)),
        "top": (rng.normal(0, 40), rng.uniform(60, 85), rng.uniform(0.05, 0.3), rng.uniform(1.0, 3.0)),
        "back": (side * rng.uniform(110, 170), rng.uniform(10, 60), 0.2, rng.uniform(1.0, 3.0)),
        "below": (rng.normal(0, 30), rng.uniform(-60, -15), 0.15, rng.uniform(0.7, 2.5)),
        "two": (side * rng.uniform(30, 80), rng.uniform(0, 50), 0.15, rng.uniform(1.0, 3.0)),
    }[kind]
    main = toward(azimuth, height) + rng.normal(0.0, spread, (8, 3))
    second = toward(-side * rng.uniform(30, 150), rng.uniform(-10, 50)) + rng.normal(0.0, 0.15, (2, 3))
    steps = np.arange(8)
    z = 1.0 - 1.7 * (steps + rng.random(8)) / 8.0
    turn = 2.399963 * steps + rng.uniform(0.0, 7.0)
    sky = np.stack([np.sqrt(1 - z * z) * np.cos(turn), z, np.sqrt(1 - z * z) * np.sin(turn)], axis=1)
    sky_colour = (0.35 + 0.65 * (sky[:, 1:2] + 0.7) / 1.7) * warmth(0.08) / 8.0
    main_colour = np.tile(ratio * warmth(0.12) / 8.0, (8, 1))
    second_ratio = ratio * (rng.uniform(0.4, 1.0) if kind == "two" else rng.uniform(0.0, 0.3))
    second_colour = np.tile(second_ratio * warmth(0.2) / 2.0, (2, 1))
    directions = np.concatenate([main, sky, second])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    colours = np.concatenate([main_colour, sky_colour, second_colour])
    return directions, colours, np.full(3, rng.uniform(0.02, 0.12)), kind


def background(size: int, rng: np.random.Generator) -> np.ndarray:
    """A linear RGB image (S, S, 3) without faces: a gradient with blurred shapes, lines and noise."""
    small = 96
    corners = rng.uniform(0.0, 0.9, (2, 2, 3)) if rng.random() < 0.7 else np.tile(rng.uniform(0, 1, 3), (2, 2, 1))
    grey = rng.uniform(0.5, 1.0)
    corners = corners * (1 - grey) + corners.mean(2, keepdims=True) * grey
    image = cv2.resize(corners.astype(np.float32), (small, small), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.75:
        for _ in range(rng.integers(1, 25)):
            colour = (rng.uniform(0, 1) * (1 + rng.normal(0, 0.08, 3))).clip(0, 1)
            at, other = rng.integers(-20, small + 20, (2, 2))
            form = rng.integers(4)
            if form == 0:
                cv2.circle(image, at.tolist(), int(rng.integers(2, 40)), colour.tolist(), -1)
            elif form == 1:
                cv2.rectangle(image, at.tolist(), other.tolist(), colour.tolist(), -1)
            elif form == 2:
                cv2.line(image, at.tolist(), other.tolist(), colour.tolist(), int(rng.integers(1, 8)))
            else:
                cv2.fillConvexPoly(image, rng.integers(-20, small + 20, (3, 2)).astype(np.int32), colour.tolist())
        image = cv2.GaussianBlur(image, (0, 0), rng.choice([0.6, 1.5, 4.0, 9.0]))
    if rng.random() < 0.5:
        cells = int(rng.choice([6, 16, 48, 96]))
        grain = rng.normal(0.0, rng.uniform(0.02, 0.12), (cells, cells, 1)).astype(np.float32)
        image = image * (1 + cv2.resize(grain, (small, small), interpolation=cv2.INTER_CUBIC)[..., None])
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0.0, 1.0) ** 2.2


def tube(path: np.ndarray, radius: float, sides: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Points and triangles of a tube along ``path`` (N, 3)."""
    step = np.gradient(path, axis=0)
    step /= np.linalg.norm(step, axis=1, keepdims=True) + 1e-9
    other = np.where(abs(step[:, 1:2]) < 0.9, [[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]])
    across = np.cross(step, other)
    across /= np.linalg.norm(across, axis=1, keepdims=True) + 1e-9
    up = np.cross(across, step)
    turn = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    ring = np.cos(turn)[:, None] * across[:, None] + np.sin(turn)[:, None] * up[:, None]
    return (path[:, None] + radius * ring).reshape(-1, 3), grid(len(path), sides)


def grid(rows: int, columns: int) -> np.ndarray:
    """Triangles between the vertices of ``rows`` rings of ``columns``."""
    row, column = np.mgrid[: rows - 1, :columns]
    a, b = row * columns + column, row * columns + (column + 1) % columns
    return np.concatenate([
        np.stack([a, b, a + columns], -1).reshape(-1, 3), np.stack([b, b + columns, a + columns], -1).reshape(-1, 3)
    ])  # fmt: skip


def plain(points: np.ndarray, triangles: np.ndarray, **look: object) -> Mesh:
    """A mesh of one colour; its texture coordinates are its own x and y."""
    return Mesh(points, triangles, points[:, :2] * 0.5, **look)


def merge(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """One mesh of several."""
    starts = np.cumsum([0] + [len(points) for points, _ in parts[:-1]])
    triangles = [triangle + start for (_, triangle), start in zip(parts, starts, strict=True)]
    return np.concatenate([points for points, _ in parts]), np.concatenate(triangles)


class Wardrobe:
    """What is computed once from the average head: where hair, beard, hats, masks and clothes lie on the skin."""

    def __init__(self, head: heads.Head) -> None:
        self.head = head
        points = head.average
        x, y, z = abs(points[:, 0]), points[:, 1], points[:, 2]
        ear = (x > 0.72) & (y > 6.78) & (y < 7.42) & (z > -0.05) & (z < 0.62)
        edge = [(-9, 6.3), (-0.4, 6.45), (0.0, 6.7), (0.3, 6.95), (0.5, 7.0), (0.62, 7.3), (0.85, 7.5), (1.05, 7.8), (1.2, 7.95), (1.5, 8.0)]
        line = np.interp(z, *np.array(edge).T)
        self.scalp = np.clip((y - line + 0.05) / 0.3, 0.0, 1.0) * ~ear
        fixed = np.array([points[head.fixed[i]].mean(0)[:2] for i in range(48, 60)], np.float32)
        lips = np.array([-cv2.pointPolygonTest(fixed, (float(a), float(b)), True) for a, b in points[:, :2]])
        off_lips = np.where(z > 1.0, np.clip((lips - 0.005) / 0.05, 0.0, 1.0), 1.0)
        cheek = np.interp(z, [0.4, 0.62, 0.9, 1.15, 1.35, 1.6], [7.2, 7.15, 6.85, 6.75, 6.95, 6.95])
        low = np.interp(z, [0.2, 0.6, 1.0, 1.4], [6.55, 6.3, 6.1, 6.1])
        whole = np.clip((cheek - y) / 0.12, 0, 1) * np.clip((y - low) / 0.15, 0, 1) * np.clip((z - 0.42) / 0.12, 0, 1)
        whole = whole * off_lips * ~ear * np.clip((6.89 - y) / 0.02, np.where(z > 1.3, 0, 1), 1)
        near = np.clip((0.42 - x) / 0.08, 0, 1)
        self.beards = {
            "full": whole,
            "goatee": whole * near,
            "moustache": whole * np.clip((y - 6.66) / 0.05, 0, 1) * near,
            "chin": whole * np.clip((6.6 - y) / 0.05, 0, 1) * near,
        }
        # Layers end where these are 0.5; they change by 1 in 0.4 dm.
        self.cloth = 0.5 + (np.interp(z, [-0.6, 0.3, 1.0], [6.05, 5.75, 5.35]) - y) / 0.4
        oval = np.sqrt((x / 0.72) ** 2 + ((y - 7.13) / 0.93) ** 2)
        self.scarf = 0.5 + np.minimum(np.maximum(oval - 1.0, 0.45 - z), y - 5.3) / 0.4
        self.beanie = np.where(ear, 0.0, 0.5 + (y + 0.35 * (0.4 - z) - 7.72) / 0.4)
        self.cap = np.where(ear, 0.0, 0.5 + (y + 0.1 * (0.4 - z) - 7.82) / 0.4)
        self.links = self._links()

    def _links(self) -> tuple[np.ndarray, np.ndarray]:
        """Both ends of every edge of the skin, for smoothing."""
        t = self.head.triangles
        edges = np.unique(np.concatenate([t[:, [0, 1]], t[:, [1, 2]], t[:, [2, 0]]]), axis=0)
        return edges[:, 0], edges[:, 1]

    def mask(self, vertices: np.ndarray, unit: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Cloth over nose, mouth and chin: points and triangles."""
        fixed, rows, columns = self.head.fixed, 20, 33
        top = vertices[fixed[28]].mean(0)[1] - rng.uniform(0.0, 0.12) * unit
        low = vertices[self.head.fixed_jaw][1] - rng.uniform(-0.08, 0.05) * unit
        axis = vertices[fixed[30]].mean(0)[2] - 1.3 * unit
        seen = vertices[np.unique(self.head.skin)]
        around = np.arctan2(seen[:, 0], seen[:, 2] - axis)
        at = np.round((around / 1.05 + 1.0) / 2.0 * (columns - 1)).astype(int)
        row = np.round((top - seen[:, 1]) / (top - low) * (rows - 1)).astype(int)
        inside = (at >= 0) & (at < columns) & (row >= 0) & (row < rows)
        radius = np.zeros((rows, columns), np.float32)
        np.maximum.at(radius, (row[inside], at[inside]), np.hypot(seen[:, 0], seen[:, 2] - axis)[inside])
        radius = cv2.dilate(radius, np.ones((3, 5), np.uint8))
        radius = np.maximum(cv2.GaussianBlur(radius, (0, 0), rng.uniform(0.8, 2.5), borderType=cv2.BORDER_REPLICATE), radius * 0.97)
        radius += unit * rng.uniform(0.0, 0.05)
        v, u = np.mgrid[0:1:rows * 1j, -1:1:columns * 1j]
        turn = 1.05 * u * (1.0 - 0.25 * v**2)
        radius = cv2.remap(radius, (((turn / 1.05 + 1) / 2) * (columns - 1)).astype(np.float32), (v * (rows - 1)).astype(np.float32), cv2.INTER_LINEAR)
        height = top + (low - top) * v - 0.1 * unit * u**2 * (1 - v) + 0.2 * unit * u**2 * v
        points = np.stack([np.sin(turn) * radius, height, axis + np.cos(turn) * radius], axis=-1).reshape(-1, 3)
        r, c = np.mgrid[: rows - 1, : columns - 1]
        a = r * columns + c
        triangles = np.concatenate([
            np.stack([a, a + columns, a + 1], -1).reshape(-1, 3), np.stack([a + 1, a + columns, a + columns + 1], -1).reshape(-1, 3)
        ])  # fmt: skip
        return points, triangles

    def cover(
        self, vertices: np.ndarray, normals: np.ndarray, where: np.ndarray, height: float, smooth: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A layer over the part of the skin with ``where`` (V,) over 0.5: points, triangles and the vertices they come from."""
        points = vertices + normals * height
        a, b = self.links
        count = np.maximum(np.bincount(a, minlength=len(points)) + np.bincount(b, minlength=len(points)), 1)[:, None]
        for _ in range(smooth):
            mean = np.stack([
                np.bincount(a, points[b, k], minlength=len(points)) + np.bincount(b, points[a, k], minlength=len(points))
                for k in range(3)
            ], axis=1) / count  # fmt: skip
            points = mean
        low = np.einsum("ij,ij->i", points - vertices, normals)  # not into the skin
        points = points + normals * np.maximum(0.3 * height - low, 0.0)[:, None]
        triangles = self.head.triangles[(where[self.head.triangles] > 0.5).any(1)]
        used, numbers = np.unique(triangles, return_inverse=True)
        return points[used], numbers.reshape(-1, 3), used


def glasses(
    eyes: np.ndarray, front: float, ear: np.ndarray, unit: float, kind: str, rng: np.random.Generator
) -> tuple[list[Mesh], str]:
    """Frame and lenses before the eye centres (2, 3); ``front`` is the z of the corneas."""
    shape = rng.choice([2.0, 2.6, 4.0])
    wide, high = unit * rng.uniform(0.24, 0.31), unit * rng.uniform(0.15, 0.26)
    thick = unit * (rng.uniform(0.008, 0.02) if rng.random() < 0.6 else rng.uniform(0.02, 0.035))
    turn = np.linspace(0, 2 * np.pi, 25)
    lift, parts, lenses = unit * rng.uniform(-0.1, 0.0), [], []
    z = front + unit * rng.uniform(0.08, 0.16)
    for eye in eyes:
        c, s = np.cos(turn), np.sin(turn)
        rim = np.stack([
            eye[0] * 1.03 + wide * np.sign(c) * abs(c) ** (2 / shape),
            eye[1] + lift + high * np.sign(s) * abs(s) ** (2 / shape),
            np.zeros(25),
        ], axis=1)  # fmt: skip
        rim[:, 2] = z - 0.35 * (rim[:, 0] / unit) ** 2 * unit
        parts.append(tube(rim, thick))
        middle = rim[:-1].mean(0) + [0, 0, 0.02]
        fan = np.stack([np.full(24, 24), np.arange(24), (np.arange(24) + 1) % 24], axis=1)
        lenses.append((np.concatenate([rim[:-1], middle[None]]), fan))
    inner = [abs(eye[0]) * 1.03 - wide for eye in eyes]
    bridge = np.array([[-inner[0], 0.4], [-inner[0] * 0.5, 0.7], [0.0, 0.8], [inner[1] * 0.5, 0.7], [inner[1], 0.4]])
    height = eyes[:, 1].mean() + lift
    parts.append(tube(np.column_stack([bridge[:, 0], height + bridge[:, 1] * high, np.full(5, z)]), thick))
    for sign in (-1.0, 1.0):
        outer = sign * (abs(eyes[:, 0]).mean() * 1.03 + wide)
        side = sign * ear[0] * 0.93
        path = np.array([
            [outer, height + high * 0.5, z - 0.35 * (outer / unit) ** 2 * unit],
            [side * 0.97, height + high * 0.5, front - 0.4 * unit], [side, ear[1] + 0.03, ear[2] + 0.1 * unit],
            [side, ear[1] - 0.1 * unit, ear[2] - 0.15 * unit],
        ])  # fmt: skip
        parts.append(tube(path, thick * 0.9))
    dark = rng.random() < 0.7
    frame = tuple((rng.uniform(0.0, 0.08, 3) if dark else rng.uniform(0.1, 0.8, 3)).tolist())
    opacity = {"clear": rng.uniform(0.0, 0.06), "tinted": rng.uniform(0.15, 0.45), "dark": rng.uniform(0.85, 0.98)}[kind]
    tint = tuple((rng.uniform(0.0, 0.05) * (1 + rng.uniform(0, 1, 3))).tolist())
    return [
        plain(*merge(parts), tint=frame, gloss=60.0, shine=2.0),
        plain(
            *merge(lenses), kind=LENS, tint=tint, blend=True, opacity=opacity, gloss=200.0, casts=kind == "dark",
            density=float(rng.choice([0.3, 1.0, 3.0]))
        ),
    ], kind  # fmt: skip


def hand_or_shape(
    kind: str, pose: heads.Pose, target: np.ndarray, front: float, unit: float, hand: tuple[np.ndarray, ...],
    rng: np.random.Generator,
) -> Mesh:  # fmt: skip
    """Something before a place of the face (3,): a hand in the colour of the skin, or a plain thing."""
    if kind == "hand":
        points, uv, triangles = hand
        points = points - points.mean(0)
        fingers = points[points[:, 0] > np.quantile(points[:, 0], 0.2)]
        points = points - fingers.mean(0)
        axes = np.linalg.svd(fingers[::7] - fingers.mean(0), full_matrices=False)[2]
        axes[2] *= np.sign(np.linalg.det(axes))
        points = points @ axes.T  # long, wide, thick
        if rng.random() < 0.5:
            points = points * [1.0, -1.0, 1.0]
            triangles = triangles[:, ::-1]
        points = points * unit * rng.uniform(0.95, 1.15) / 1.0
        turn = rng.uniform(0.0, 2 * np.pi)
        tilt = heads.rotation(rng.normal(0, 25) + 180 * rng.integers(2), rng.normal(0, 25), np.degrees(turn))
        points = points @ tilt.T
        shift = rng.normal(0.0, 0.3, 2) * unit
        place = np.array([target[0] + shift[0], target[1] + shift[1], front + 0.05])
        points = points + place + [0, 0, -points[:, 2].min()]
        return Mesh(pose(points), triangles, uv, kind=SKIN, gloss=18.0, shine=0.5)
    form = rng.integers(3)
    size = unit * rng.uniform(0.2, 0.8, 3)
    turn = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    if form == 0:  # a ball
        rings = np.linspace(0, np.pi, 10)
        points = np.stack([
            np.outer(np.sin(rings), np.cos(turn)), np.outer(np.cos(rings), np.ones(20)), np.outer(np.sin(rings), np.sin(turn))
        ], -1).reshape(-1, 3)  # fmt: skip
        triangles = grid(10, 20)
    elif form == 1:  # a can or cup
        ring = np.stack([np.cos(turn), np.zeros(20), np.sin(turn)], axis=1)
        points = np.concatenate([ring * 0.01 + [0, 1, 0], ring + [0, 1, 0], ring - [0, 1, 0], ring * 0.01 - [0, 1, 0]])
        triangles = grid(4, 20)
    else:  # a card, a phone, a book
        size[2] *= 0.15
        square = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
        rows = [np.column_stack([square * s, np.full(4, z)]) for s, z in ((0.01, 1), (1, 1), (1, -1), (0.01, -1))]
        points, triangles = np.concatenate(rows), grid(4, 4)
    points = points * size @ heads.rotation(*rng.normal(0, 35, 3)).T
    shift = rng.normal(0.0, 0.35, 2) * unit
    place = np.array([target[0] + shift[0], target[1] + shift[1], front + 0.05])
    points = points + place + [0, 0, -points[:, 2].min()]
    colour = tuple((rng.uniform(0, 0.9) * (1 + rng.normal(0, 0.2, 3))).clip(0, 1).tolist())
    return plain(pose(points), triangles, tint=colour, gloss=40.0)


class People:
    """Draws pictures by lot; ``make(seed, index)`` is the same on every machine."""

    def __init__(self, arrays: dict[str, np.ndarray], textures: dict[str, np.ndarray], size: int) -> None:
        self.arrays, self.textures, self.size = arrays, textures, size
        self.head = heads.Head(arrays)
        self.wardrobe = Wardrobe(self.head)
        self.skins = [name for name in textures if name.split("_")[0] in ("young", "middleage", "old")]
        self.hairs = sorted(name.removeprefix("hair_").split("/")[0] for name in arrays if name.startswith("hair_"))
        self.hairs = sorted(set(self.hairs))
        self.eyes = [name for name in textures if name.startswith("materials/")]
        uv = arrays["eyes/uv"]
        self.irises = [np.argsort(((uv - at) ** 2).sum(1))[:12] for at in ((0.293, 0.297), (0.705, 0.703))]
        self.units = {name for name in self.head.names if name.startswith("unit/")}
        skin_uv = arrays["skin/uv"]
        cheeks = abs(self.head.average[self.head.skin] - [0.35, 6.95, 1.3]).sum(1).argsort()[:20]
        self.skin_colour = {}
        for name in self.skins:
            image = textures[name]
            row = ((1 - skin_uv[cheeks, 1]) * (image.shape[0] - 1)).astype(int)
            column = (skin_uv[cheeks, 0] * (image.shape[1] - 1)).astype(int)
            self.skin_colour[name] = ((image[row, column, :3] / 255.0) ** 2.2).mean(0)

    def make(self, seed: int, index: int) -> Picture:
        rng = np.random.default_rng([seed, index])
        get, head, wardrobe = self.arrays.__getitem__, self.head, self.wardrobe

        # Who.
        group = rng.choice(4, p=[0.08, 0.17, 0.5, 0.25])
        age = [rng.uniform(0.02, 0.09), rng.uniform(0.09, 0.36), rng.uniform(0.4, 0.65), rng.uniform(0.65, 1.0)][group]
        male = float(np.clip(rng.choice([0.0, 1.0]) + rng.normal(0, 0.15), 0, 1))
        race = rng.dirichlet([0.4, 0.4, 0.4])
        weights = heads.macro_weights(age, male, race, rng.uniform(0.2, 0.8), np.clip(rng.normal(0.5, 0.2), 0, 1))
        weights |= identity_weights(list(head.names), rng, age)
        adult = age > 0.38

        # Expression: the lids are closed last, by exactly the wanted share of their opening.
        expression = str(rng.choice(list(UNITS), p=OFTEN))
        for name, value in expression_weights(expression, rng, self.units).items():
            weights[name] = weights.get(name, 0.0) + value
        gaze = np.clip(rng.normal(0, [10.0, 7.0]), -25, 25) if rng.random() < 0.8 else rng.uniform(-25, 25, 2)
        look = {}
        for side, inward in (("Left", "Out"), ("Right", "In")):
            other = "In" if inward == "Out" else "Out"
            look[f"unit/eyeLook{inward if gaze[0] > 0 else other}{side}"] = abs(gaze[0]) / 25.0
            look[f"unit/eyeLook{'Up' if gaze[1] > 0 else 'Down'}{side}"] = abs(gaze[1]) / 25.0
        vertices = head.vertices(weights | look)  # the units turn the eyeballs too
        eye_points = head.worn("eyes", vertices)
        style = rng.random()
        if style < 0.72:
            closed = np.full(2, rng.uniform(0.0, 0.3))
        elif style < 0.84:
            closed = np.ones(2)
        elif style < 0.88:
            closed = rng.permutation([1.0, rng.uniform(0.0, 0.4)])
        else:
            closed = np.full(2, rng.uniform(0.3, 0.95))
        for k, side in enumerate(("Right", "Left")):
            blink = head.targets[head.names[f"unit/eyeBlink{side}"]].reshape(-1, 3)
            shares = []
            for up, down in (((37, 41), (38, 40)), ((44, 46), (43, 47)))[k]:
                a, b = head.fixed[up], head.fixed[down]
                gap = float((vertices[a] - vertices[b])[:, 1].mean())
                shares.append(gap / float((blink[b] - blink[a])[:, 1].mean()))
            vertices = vertices + blink * np.float32(closed[k] * max(max(shares), 0.0) * (1.04 if closed[k] == 1 else 1.0))
        centres = np.zeros((2, 3))
        x = eye_points[:, 0]
        for k, sign in enumerate((-1.0, 1.0)):
            own = x * sign > 0
            low, high = eye_points[own].min(0), eye_points[own].max(0)
            centres[k] = [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2] + (high[1] - low[1]) / 2]

        # Pose and camera.
        kind = rng.random()
        yaw = rng.normal(0, 14) if kind < 0.42 else rng.uniform(-60, 60) if kind < 0.78 else rng.uniform(-90, 90)
        pitch = float(np.clip(rng.normal(0, 11), -45, 45) if rng.random() < 0.75 else rng.uniform(-45, 45))
        roll = float(np.clip(rng.normal(0, 9), -45, 45) if rng.random() < 0.8 else rng.uniform(-45, 45))
        yaw = float(np.clip(yaw, -90, 90))
        matrix = heads.rotation(yaw, pitch, roll)
        body = heads.rotation(yaw * rng.uniform(0.2, 1.0), pitch * rng.uniform(0, 0.3), roll * rng.uniform(0, 0.6))
        chin = vertices[head.fixed_jaw]
        pose = heads.Pose(chin, centres.mean(0), matrix, body)
        unit = pose.unit
        posed = pose(vertices)
        normals = vertex_normals(posed, head.triangles)
        straight_normals = vertex_normals(vertices, head.triangles)

        # Points.
        style_of_brows = int(rng.integers(1, 13))
        brow_name = f"eyebrow{style_of_brows:03}/eyebrow{style_of_brows:03}"
        brows = head.worn(f"brows{style_of_brows}", vertices)
        corners, shares = head.brow_points(style_of_brows, self.textures[brow_name][..., 3])
        points = np.zeros((70, 3))
        for point, where in head.fixed.items():
            points[point] = posed[where].mean(0)
        points[17:27] = pose((brows[corners] * shares[..., None]).sum(1))
        posed_eyes = pose(eye_points)
        points[68], points[69] = (posed_eyes[own].mean(0) for own in self.irises)
        if points[68] @ matrix[:, 0] > points[69] @ matrix[:, 0]:
            points[[68, 69]] = points[[69, 68]]
        between = float(np.linalg.norm(centres[1] - centres[0]))
        side_length = between * rng.uniform(3.5, 4.9)
        distance = float(np.exp(rng.uniform(np.log(4.5), np.log(30.0))))
        middle = points[[36, 39, 42, 45, 30, 48, 54, 33]].mean(0) * 0.75 + pose(chin[None])[0] * 0.25
        aim = middle + np.append(rng.normal(0, 0.05, 2) * side_length, 0.0)
        eye = aim + [0.0, 0.0, distance]
        near, far = max(distance - 3.2, 0.6), distance + 5.0
        camera = np.zeros((4, 4))
        camera[0, 0] = camera[1, 1] = 2.0 * distance / side_length
        camera[2, 2], camera[2, 3], camera[3, 2] = -(far + near) / (far - near), -2 * far * near / (far - near), -1.0
        view = np.eye(4)
        view[:3, 3] = -eye
        camera = camera @ view
        points[:17] = self.jaw_points(posed, camera, matrix)

        # Skin, eyes, hair.
        dark = race[0] + 0.1 * race[1] * rng.random()
        likely = [name for name in self.skins if ("african" in name) == (dark > rng.uniform(0.3, 0.7))]
        skin_name = likely[rng.integers(len(likely))]
        melanin = rng.normal(0.0, 0.25) if "african" in skin_name else abs(rng.normal(0.0, 0.35)) * (1.0 + race[0] + race[1]) / 1.5
        tint = np.exp(-melanin * np.array([0.86, 1.0, 1.1]) + rng.normal(0, 0.04, 3)).clip(0.15, 1.5)
        if "african" in skin_name:
            tint = tint * [0.9, 1.04, 1.08]
        tint = tint * (np.array([1.06, 0.97, 0.95]) if group == 0 else 1.0)
        albedo = self.skin_colour[skin_name] * tint
        wrinkles = float(np.interp(age, [0.45, 1.0], [0.0, 1.3])) * rng.uniform(0.5, 1.0)
        shine = float(np.exp(rng.normal(-0.6, 0.7)))
        skin_look = dict(texture=skin_name, kind=SKIN, tint=tuple(tint.tolist()), gloss=float(rng.uniform(8, 40)), shine=shine, bumps=0.02, wrinkles=wrinkles)  # fmt: skip
        uv, triangles = get("skin/uv"), get("skin/triangles")
        meshes = [Mesh(posed[head.skin], triangles, uv, normals=normals[head.skin], **skin_look)]
        eye_name = self.eyes[rng.integers(len(self.eyes))]
        brown = rng.random() < 0.25 + 0.75 * (1 - race[2])
        iris = rng.uniform(0.12, 0.8) * np.array([1.0, 0.62, 0.4]) if brown else rng.uniform(0.5, 1.2, 3) * np.ones(3)
        meshes.append(Mesh(posed_eyes, get("eyes/triangles"), get("eyes/uv"), eye_name, EYE, blend=True, casts=False, gloss=250.0, shine=1.5, paint=self.iris_paint(iris, rng), tint=(0.85, 0.83, 0.8)))  # fmt: skip
        teeth = f"teeth{rng.integers(1, 6)}"
        has_teeth = age > 0.06
        if has_teeth:
            meshes.append(Mesh(pose(head.worn(teeth, vertices)), get(f"{teeth}/triangles"), get(f"{teeth}/uv"), "teeth_shape01/teeth", blend=True, casts=False, gloss=60.0))  # fmt: skip
        meshes.append(Mesh(pose(head.worn("tongue", vertices)), get("tongue/triangles"), get("tongue/uv"), "tongue01/tongue01_diffuse", casts=False, tint=(0.7, 0.5, 0.5)))  # fmt: skip
        grey = float(np.clip((age - 0.6) / 0.3, 0, 1)) * rng.random()
        blond = rng.random() ** 2 * race[2] ** 2
        hair = np.array([0.02, 0.014, 0.01]) + np.exp(rng.normal(-3.6, 0.7)) * np.array([1.0, 0.6, 0.35])
        hair = hair * (1 - blond) + blond * np.array([0.45, 0.3, 0.14])
        hair = hair * (1 - grey) + grey * np.array([0.5, 0.5, 0.5])
        colour = tuple(hair.tolist())
        brow_colour = tuple((hair * rng.uniform(0.4, 1.0)).clip(0, 0.25).tolist())
        meshes.append(Mesh(pose(brows), get(f"brows{style_of_brows}/triangles"), get(f"brows{style_of_brows}/uv"), brow_name, HAIR, blend=True, tint=brow_colour, opacity=rng.uniform(0.6, 1.8) * (0.6 if age < 0.1 else 1.0), shine=0.2, casts=False))  # fmt: skip
        lash = int(rng.integers(1, 5))
        meshes.append(Mesh(pose(head.worn(f"lashes{lash}", vertices)), get(f"lashes{lash}/triangles"), get(f"lashes{lash}/uv"), f"eyelashes0{lash}/eyelashes0{lash}", HAIR, blend=True, tint=tuple((0.5 * hair).clip(0, 0.03).tolist()), opacity=rng.uniform(0.3, 1.0) * (0.55 if male > 0.5 else 1.0), shine=0.1, casts=False))  # fmt: skip

        hat = str(rng.choice(HATS, p=[0.8, 0.07, 0.06, 0.05, 0.02]))
        covers = {"beanie": wardrobe.beanie, "cap": wardrobe.cap, "scarf": wardrobe.scarf}
        short, long = ["short01", "short02", "short03", "short04"], ["bob02", "braid01", "long01", "ponytail01"]
        draw = rng.random()
        if age < 0.07:
            style_of_hair = "bald" if draw < 0.3 else "fur"
        elif male > 0.5:
            style_of_hair = "bald" if draw < (0.1 if age < 0.6 else 0.25) else "fur" if draw < 0.45 else str(rng.choice(short, p=[0.3, 0.35, 0.1, 0.25]))
        else:
            style_of_hair = "fur" if draw < 0.06 else str(rng.choice(long if draw < 0.8 else short, p=[0.15, 0.28, 0.28, 0.29] if draw < 0.8 else [0.3, 0.35, 0.1, 0.25]))
        if hat == "scarf" and style_of_hair != "bald":
            style_of_hair = "bald"
        if hat in ("cap", "beanie", "fedora") and style_of_hair not in ("bald", "fur"):
            style_of_hair = "fur" if rng.random() < 0.6 else style_of_hair
        fur = 0.0
        if style_of_hair == "fur":
            fur = unit * (rng.uniform(0.02, 0.1) if race[0] < 0.4 or hat != "none" else np.exp(rng.uniform(np.log(0.03), np.log(0.4))))
            paint = np.ones((len(head.skin), 4))
            paint[:, 3] = wardrobe.scalp[head.skin]
            meshes.append(Mesh(posed[head.skin], triangles, uv, kind=HAIR, paint=paint, normals=normals[head.skin], tint=colour, shells=10, length=float(fur), density=float(rng.uniform(1.0, 2.2)), shine=0.15, casts=False))  # fmt: skip
        elif style_of_hair != "bald":
            name = f"hair_{style_of_hair}"
            strands = head.worn(name, vertices)
            if hat in covers:
                strands = self.press(strands, vertices, straight_normals, covers[hat])
            paint = np.ones((len(head.skin), 4))
            paint[:, 3] = wardrobe.scalp[head.skin]
            meshes.append(Mesh(posed[head.skin], triangles, uv, kind=HAIR, paint=paint, normals=normals[head.skin], tint=colour, shells=2, length=0.02, density=3.0, shine=0.1, casts=False))  # fmt: skip
            meshes.append(Mesh(pose(strands), get(f"{name}/triangles"), get(f"{name}/uv"), f"{style_of_hair}/{style_of_hair}_diffuse", HAIR, blend=True, tint=colour, gloss=float(rng.uniform(20, 120)), shine=float(rng.uniform(0.1, 0.6))))  # fmt: skip
        beard, beard_length = "none", 0.0
        if male > 0.5 and adult and rng.random() < 0.5:
            beard = str(rng.choice(list(wardrobe.beards), p=[0.6, 0.15, 0.15, 0.1]))
            beard_length = unit * float(np.exp(rng.uniform(np.log(0.008), np.log(0.13))))
            paint = np.ones((len(head.skin), 4))
            paint[:, 3] = wardrobe.beards[beard][head.skin]
            meshes.append(Mesh(posed[head.skin], triangles, uv, kind=HAIR, paint=paint, normals=normals[head.skin], tint=tuple((hair * 0.8).tolist()), shells=8, length=beard_length, density=float(rng.uniform(0.7, 2.0)), shine=0.1, casts=False))  # fmt: skip

        # Clothes, hats, glasses, masks, things before the face.
        def colours(low: float = 0.0, high: float = 0.8) -> tuple[float, ...]:
            return tuple((rng.uniform(low, high) * (1 + rng.normal(0, 0.35, 3))).clip(0, 1).tolist())

        def layer(where: np.ndarray, height: float, smooth: int, **look: object) -> Mesh:
            covered, faces, used = wardrobe.cover(vertices, straight_normals, where, height, smooth)
            pattern = covered[:, :2] * rng.uniform(0.3, 3.0)
            paint = np.ones((len(covered), 4))
            paint[:, 3] = where[used]
            return Mesh(pose(covered), faces, pattern, paint=paint, **look)

        if rng.random() < 0.9:
            meshes.append(layer(wardrobe.cloth, unit * rng.uniform(0.03, 0.1), 2, casts=False, tint=colours(), gloss=8.0, shine=0.3))
        if hat in covers:
            look = dict(tint=colours(), gloss=8.0, shine=0.3)
            height = unit * {"beanie": rng.uniform(0.08, 0.2), "cap": rng.uniform(0.08, 0.16), "scarf": rng.uniform(0.05, 0.12)}[hat]
            cover = layer(covers[hat], height + fur, 3 if hat == "scarf" else 2, **look)
            meshes.append(cover)
            if hat == "cap":
                meshes.append(self.brim(vertices, straight_normals, height + fur, pose, unit, look, rng))
        elif hat == "fedora":
            meshes.append(Mesh(pose(head.worn("fedora", vertices) + [0, fur * 0.5, 0]), get("fedora/triangles"), get("fedora/uv"), tint=colours(0, 0.4), gloss=8.0, shine=0.3))  # fmt: skip
        front = float(eye_points[:, 2].max())
        glasses_kind = str(rng.choice(GLASSES, p=[0.76 if adult else 0.92, 0.15 if adult else 0.05, 0.03 if adult else 0.01, 0.06 if adult else 0.02]))
        if glasses_kind != "none":
            ear = np.array([abs(vertices[head.fixed_ear][0]), centres[:, 1].mean(), vertices[head.fixed_ear][2]])
            made, _ = glasses(centres, front, ear, unit, glasses_kind, rng)
            for mesh in made:
                mesh.points = pose(mesh.points)
                meshes.append(mesh)
        occluder = str(rng.choice(OCCLUDERS, p=[0.78, 0.09, 0.05, 0.08]))
        if occluder == "mask":
            covered, faces = wardrobe.mask(vertices, unit, rng)
            meshes.append(plain(pose(covered), faces, tint=colours(0.05, 0.9), gloss=8.0, shine=0.2))
        elif occluder != "none":
            target = vertices[head.fixed[int(rng.choice([30, 33, 51, 57, 36, 45, 39, 42, 48, 54, 66]))]].mean(0)
            face_front = float(vertices[head.fixed[30]][0, 2]) - (0.0 if rng.random() < 0.7 else 0.25 * unit)
            thing = hand_or_shape(occluder, pose, target, face_front, unit, (get("hand/points"), get("hand/uv"), get("hand/triangles")), rng)  # fmt: skip
            if occluder == "hand":
                thing.texture, thing.tint, thing.shine = skin_name, skin_look["tint"], shine
            meshes.append(thing)

        toward, strength, ambient, light = lights(rng)
        scene = Scene(meshes, camera, eye, toward, strength, ambient, background(self.size, rng) * rng.uniform(0.3, 1.6), centre=pose(centres.mean(0)[None])[0] - [0, 0.3 * unit, 0.5 * unit], radius=2.5 * unit)  # fmt: skip
        tolerance = np.full(70, 0.06)
        tolerance[:17] = 0.15
        tolerance[17:27] = 0.12
        tolerance[68:] = 0.02
        luminance = float(albedo @ [0.2126, 0.7152, 0.0722])
        parameters = {
            "seed": seed, "index": index, "age": age, "male": male, "african": race[0], "asian": race[1], "caucasian": race[2],
            "skin": skin_name.split("/")[0], "skin_lightness": 116.0 * luminance ** (1 / 3) - 16.0, "expression": expression,
            "eyes_closed_right": closed[0], "eyes_closed_left": closed[1], "gaze_yaw": gaze[0], "gaze_pitch": gaze[1],
            "yaw": yaw, "pitch": pitch, "roll": roll, "distance": distance, "side": side_length / between, "hair": style_of_hair,
            "hair_luminance": float(hair @ [0.2126, 0.7152, 0.0722]), "beard": beard, "beard_length": beard_length / unit,
            "brows": style_of_brows, "glasses": glasses_kind, "hat": hat, "occluder": occluder, "light": light,
            "brightness": float(np.clip(rng.normal(0.52, 0.11), 0.2, 0.85)), "noise": float(abs(rng.normal(0, 0.006))),
        }  # fmt: skip
        return Picture(scene, points, tolerance, (near, far), parameters)

    def jaw_points(self, posed: np.ndarray, camera: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """Points 0 to 16 (17, 3): on each line over the jaw the place farthest out as the camera sees it."""
        places = (posed[self.head.jaw] * self.head.jaw_weights[..., None]).sum(2)
        seen = places @ camera[:3, :3].T + camera[:3, 3]
        depth = places @ camera[3, :3] + camera[3, 3]
        seen = seen[..., :2] / depth[..., None]
        up = matrix[:2, 1] / max(float(np.linalg.norm(matrix[:2, 1])), 1e-6)
        side = np.array([up[1], -up[0]])  # to the left half of the face, when it is seen from the front
        chosen = np.zeros((17, 3))
        for point in range(17):
            angle = np.radians(heads.JAW[min(point, 16 - point)][3])
            out = np.cos(angle) * side * (-1.0 if point < 8 else 1.0) - np.sin(angle) * up
            chosen[point] = places[point, (seen[point] @ out).argmax()]
        return chosen

    def iris_paint(self, iris: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Colours (V, 4) of the eye mesh: the iris tinted, the white as it is."""
        uv = self.arrays["eyes/uv"]
        near = np.min([((uv - at) ** 2).sum(1) for at in ((0.293, 0.297), (0.705, 0.703))], axis=0) < 0.118**2
        paint = np.ones((len(uv), 4))
        paint[near, :3] = iris
        return paint

    def press(
        self, strands: np.ndarray, vertices: np.ndarray, normals: np.ndarray, covered: np.ndarray
    ) -> np.ndarray:
        """Hair under a hat, pressed to the skin."""
        under = np.unique(self.head.skin[covered[self.head.skin] > 0.5])
        distance = ((strands[:, None] - vertices[under]) ** 2).sum(-1)
        nearest = under[distance.argmin(1)]
        offset = np.einsum("ij,ij->i", strands - vertices[nearest], normals[nearest])
        flat = (distance.min(1) < 0.5**2) & (strands[:, 1] > vertices[under][:, 1].min() - 0.05)
        pressed = strands.copy()
        pressed[flat] -= normals[nearest][flat] * np.maximum(offset[flat, None] - 0.04, 0.0)
        return pressed

    def brim(
        self, vertices: np.ndarray, normals: np.ndarray, height: float, pose: heads.Pose, unit: float,
        look: dict, rng: np.random.Generator,
    ) -> Mesh:  # fmt: skip
        """The peak of a cap: from the rim over the forehead forwards."""
        covered, _, used = self.wardrobe.cover(vertices, normals, self.wardrobe.cap, height, 2)
        covered = covered[self.wardrobe.cap[used] > 0.5]
        centre_z = float(covered[:, 2].mean())
        front = covered[:, 2] > centre_z
        turns = np.linspace(-1.1, 1.1, 15)
        azimuth = np.arctan2(covered[front, 0], covered[front, 2] - centre_z)
        rim = []
        for turn in turns:
            near = abs(azimuth - turn) < 0.2
            candidates = covered[front][near] if near.any() else covered[front]
            rim.append(candidates[candidates[:, 1].argmin()])
        rim = np.array(rim)
        length, drop = unit * rng.uniform(0.5, 0.75), rng.uniform(0.1, 0.5)
        rows = []
        for share in np.linspace(0.0, 1.0, 5):
            row = rim.copy()
            reach = length * share * np.cos(turns * 1.3).clip(0.0)
            row[:, 2] += reach
            row[:, 1] -= reach * drop + 0.15 * unit * share * (turns / 1.1) ** 2
            rows.append(row)
        points = np.concatenate(rows)
        row, column = np.mgrid[:4, :14]
        a = row * 15 + column
        triangles = np.concatenate([
            np.stack([a, a + 1, a + 15], -1).reshape(-1, 3), np.stack([a + 1, a + 16, a + 15], -1).reshape(-1, 3)
        ])  # fmt: skip
        return Mesh(pose(points), triangles, points[:, :2], **look)
