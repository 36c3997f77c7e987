"""What people wear or hold before their faces: layers over the skin, masks, caps, glasses, hands, plain things."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from .head import Head, Pose, rotation
from .render import LENS, Mesh

Geometry = tuple[np.ndarray, np.ndarray]  # points (N, 3) and triangles (T, 3)


def sheet(rows: int, columns: int, *, closed: bool) -> np.ndarray:
    """Triangles between the points of ``rows`` lines of ``columns``; ``closed`` lines are rings."""
    row, column = np.mgrid[: rows - 1, : columns - (not closed)]
    a, b = row * columns + column, row * columns + (column + 1) % columns
    halves = ([a, b, a + columns], [b, b + columns, a + columns])
    return np.concatenate([np.stack(half, -1).reshape(-1, 3) for half in halves])


def tube(path: np.ndarray, radius: float, sides: int = 6) -> Geometry:
    """A tube along ``path`` (N, 3)."""
    step = np.gradient(path, axis=0)
    step /= np.linalg.norm(step, axis=1, keepdims=True) + 1e-9
    other = np.where(abs(step[:, 1:2]) < 0.9, [[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]])
    across = np.cross(step, other)
    across /= np.linalg.norm(across, axis=1, keepdims=True) + 1e-9
    up = np.cross(across, step)
    turn = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    ring = np.cos(turn)[:, None] * across[:, None] + np.sin(turn)[:, None] * up[:, None]
    points = (path[:, None] + radius * ring).reshape(-1, 3)
    return points, sheet(len(path), sides, closed=True)


def merge(parts: list[Geometry]) -> Geometry:
    """One mesh of several."""
    starts = np.cumsum([0] + [len(points) for points, _ in parts[:-1]])
    triangles = [one + start for (_, one), start in zip(parts, starts, strict=True)]
    return np.concatenate([points for points, _ in parts]), np.concatenate(triangles)


def plain(points: np.ndarray, triangles: np.ndarray, **look: Any) -> Mesh:
    """A mesh of one colour."""
    return Mesh(points, triangles, points[:, :2], **look)


class Wardrobe:
    """Where hair, beard, hats and clothes lie on the skin, computed once from the average head."""

    def __init__(self, head: Head) -> None:
        self.head = head
        points = head.average
        x, y, z = abs(points[:, 0]), points[:, 1], points[:, 2]
        ear = (x > 0.72) & (y > 6.78) & (y < 7.42) & (z > -0.05) & (z < 0.62)

        # Hair grows where these are over 0; at 1 it has its whole length.
        edge_z = [-9.0, -0.4, 0.0, 0.3, 0.5, 0.62, 0.85, 1.05, 1.2, 1.5]
        edge_y = [6.3, 6.45, 6.7, 6.95, 7.0, 7.3, 7.5, 7.8, 7.95, 8.0]
        self.scalp = np.clip((y - np.interp(z, edge_z, edge_y) + 0.05) / 0.3, 0.0, 1.0) * ~ear
        mouth = np.array([points[head.fixed[i]].mean(0)[:2] for i in range(48, 60)], np.float32)
        beside = [
            -cv2.pointPolygonTest(mouth, (float(a), float(b)), True) for a, b in points[:, :2]
        ]
        off_lips = np.where(z > 1.0, np.clip((np.array(beside) - 0.005) / 0.05, 0.0, 1.0), 1.0)
        cheek = np.interp(z, [0.4, 0.62, 0.9, 1.15, 1.35, 1.6], [7.2, 7.15, 6.85, 6.75, 6.95, 6.95])
        low = np.interp(z, [0.2, 0.6, 1.0, 1.4], [6.55, 6.3, 6.1, 6.1])
        below_nose = np.clip((6.89 - y) / 0.02, np.where(z > 1.3, 0, 1), 1)
        heights = np.clip((cheek - y) / 0.12, 0, 1) * np.clip((y - low) / 0.15, 0, 1)
        whole = heights * np.clip((z - 0.42) / 0.12, 0, 1) * off_lips * ~ear * below_nose
        near = np.clip((0.42 - x) / 0.08, 0, 1)
        self.beards = {
            "full": whole,
            "goatee": whole * near,
            "moustache": whole * np.clip((y - 6.66) / 0.05, 0, 1) * near,
            "chin": whole * np.clip((6.6 - y) / 0.05, 0, 1) * near,
        }

        # Layers end where these are 0.5; they change by 1 in 0.4 dm.
        self.cloth = 0.5 + (np.interp(z, [-0.6, 0.3, 1.0], [6.05, 5.75, 5.35]) - y) / 0.4
        outside = np.sqrt((x / 0.72) ** 2 + ((y - 7.13) / 0.93) ** 2) - 1.0
        self.hats = {
            "beanie": np.where(ear, 0.0, 0.5 + (y + 0.35 * (0.4 - z) - 7.72) / 0.4),
            "cap": np.where(ear, 0.0, 0.5 + (y + 0.1 * (0.4 - z) - 7.82) / 0.4),
            "scarf": 0.5 + np.minimum(np.maximum(outside, 0.45 - z), y - 5.3) / 0.4,
        }
        t = head.triangles
        edges = np.unique(np.concatenate([t[:, [0, 1]], t[:, [1, 2]], t[:, [2, 0]]]), axis=0)
        self.edges = np.concatenate([edges, edges[:, ::-1]]).T

    def cover(
        self,
        vertices: np.ndarray,
        normals: np.ndarray,
        where: np.ndarray,
        height: float,
        smooth: int,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A layer over the skin with ``where`` (V,) over 0.5: points, triangles, the vertices they come from."""
        points, (a, b), count = vertices + normals * height, self.edges, len(vertices)
        neighbours = np.maximum(np.bincount(a, minlength=count), 1)
        for _ in range(smooth):
            sums = [np.bincount(a, points[b, axis], minlength=count) for axis in range(3)]
            points = np.stack(sums, axis=1) / neighbours[:, None]
        low = np.einsum("ij,ij->i", points - vertices, normals)  # not into the skin
        points = points + normals * np.maximum(0.3 * height - low, 0.0)[:, None]
        triangles = self.head.triangles[(where[self.head.triangles] > 0.5).any(1)]
        used, numbers = np.unique(triangles, return_inverse=True)
        return points[used], numbers.reshape(-1, 3), used

    def press(
        self, strands: np.ndarray, vertices: np.ndarray, normals: np.ndarray, where: np.ndarray
    ) -> np.ndarray:
        """Points of hair; those under a hat ``where`` (V,) is over 0.5 are pressed to the skin."""
        under = np.unique(self.head.skin[where[self.head.skin] > 0.5])
        distance = ((strands[:, None] - vertices[under]) ** 2).sum(-1)
        nearest = under[distance.argmin(1)]
        above = np.einsum("ij,ij->i", strands - vertices[nearest], normals[nearest])
        flat = (distance.min(1) < 0.25) & (strands[:, 1] > vertices[under][:, 1].min() - 0.05)
        pressed = strands - normals[nearest] * np.maximum(above - 0.04, 0.0)[:, None]
        return np.where(flat[:, None], pressed, strands)

    def peak(self, cap: np.ndarray, unit: float, rng: np.random.Generator) -> Geometry:
        """The peak of a cap with those points (N, 3), from its rim forwards."""
        middle = float(cap[:, 2].mean())
        front = cap[cap[:, 2] > middle]
        azimuth, turns = np.arctan2(front[:, 0], front[:, 2] - middle), np.linspace(-1.1, 1.1, 15)
        rim = np.zeros((15, 3))
        for i, turn in enumerate(turns):
            near = abs(azimuth - turn) < 0.2
            beside = front[near] if near.any() else front
            rim[i] = beside[beside[:, 1].argmin()]
        length, drop = unit * rng.uniform(0.5, 0.75), rng.uniform(0.1, 0.5)
        rows = []
        for share in np.linspace(0.0, 1.0, 5):
            reach = length * share * np.cos(turns * 1.3).clip(0.0)
            down = reach * drop + 0.15 * unit * share * (turns / 1.1) ** 2
            rows.append(rim + np.stack([np.zeros(15), -down, reach], axis=1))
        return np.concatenate(rows), sheet(5, 15, closed=False)

    def mask(self, vertices: np.ndarray, unit: float, rng: np.random.Generator) -> Geometry:
        """Cloth over nose, mouth and chin."""
        fixed, rows, columns, wide = self.head.fixed, 20, 33, 1.05
        top = vertices[fixed[28]].mean(0)[1] - rng.uniform(0.0, 0.12) * unit
        low = vertices[self.head.chin][1] - rng.uniform(-0.08, 0.05) * unit
        axis = vertices[fixed[30]].mean(0)[2] - 1.3 * unit

        # How far the skin is from an upright axis, by height and azimuth; cloth spans the hollows.
        skin = vertices[np.unique(self.head.skin)]
        azimuth = np.arctan2(skin[:, 0], skin[:, 2] - axis)
        column = np.round((azimuth / wide + 1.0) / 2.0 * (columns - 1)).astype(int)
        row = np.round((top - skin[:, 1]) / (top - low) * (rows - 1)).astype(int)
        inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        radius = np.zeros((rows, columns), np.float32)
        far = np.hypot(skin[:, 0], skin[:, 2] - axis)[inside]
        np.maximum.at(radius, (row[inside], column[inside]), far)
        spanned = cv2.dilate(radius, np.ones((3, 5), np.uint8))
        smooth = cv2.GaussianBlur(
            spanned, (0, 0), rng.uniform(0.8, 2.5), borderType=cv2.BORDER_REPLICATE
        )
        radius = np.maximum(smooth, spanned * 0.97) + unit * rng.uniform(0.0, 0.05)

        v, u = np.mgrid[0 : 1 : rows * 1j, -1 : 1 : columns * 1j]
        turn = wide * u * (1.0 - 0.25 * v**2)
        at = ((turn / wide + 1) / 2 * (columns - 1)).astype(np.float32)
        reach = cv2.remap(radius, at, (v * (rows - 1)).astype(np.float32), cv2.INTER_LINEAR)
        height = top + (low - top) * v + unit * u**2 * (0.3 * v - 0.1)
        points = np.stack([np.sin(turn) * reach, height, axis + np.cos(turn) * reach], axis=-1)
        return points.reshape(-1, 3), sheet(rows, columns, closed=False)


def glasses(
    eyes: np.ndarray,
    front: float,
    ear: np.ndarray,
    unit: float,
    kind: str,
    rng: np.random.Generator,
) -> list[Mesh]:
    """Frame and lenses before the eye centres (2, 3), right eye first; ``front`` is the z of the corneas."""
    shape = rng.choice([2.0, 2.6, 4.0])
    wide, high = unit * rng.uniform(0.24, 0.31), unit * rng.uniform(0.15, 0.26)
    thick = unit * (rng.uniform(0.008, 0.02) if rng.random() < 0.6 else rng.uniform(0.02, 0.035))
    lift, z = unit * rng.uniform(-0.1, 0.0), front + unit * rng.uniform(0.08, 0.16)
    height, apart = eyes[:, 1].mean() + lift, 1.03 * abs(eyes[:, 0]).mean()

    def bend(x: float | np.ndarray) -> Any:
        return z - 0.35 * np.square(x) / unit

    frame: list[Geometry] = []
    lenses: list[Geometry] = []
    turn = np.linspace(0, 2 * np.pi, 25)
    c, s = np.cos(turn), np.sin(turn)
    for side in (-1.0, 1.0):
        x = side * apart + wide * np.sign(c) * abs(c) ** (2 / shape)
        rim = np.stack([x, height + high * np.sign(s) * abs(s) ** (2 / shape), bend(x)], axis=1)
        frame.append(tube(rim, thick))
        fan = np.stack([np.full(24, 24), np.arange(24), (np.arange(24) + 1) % 24], axis=1)
        lenses.append(
            (np.concatenate([rim[:-1], [rim[:-1].mean(0) + np.array([0, 0, 0.02])]]), fan)
        )
        outer, beside = side * (apart + wide), side * ear[0] * 0.93
        temple = [
            [outer, height + high * 0.5, bend(outer)],
            [beside * 0.97, height + high * 0.5, front - 0.4 * unit],
            [beside, ear[1] + 0.03, ear[2] + 0.1 * unit],
            [beside, ear[1] - 0.1 * unit, ear[2] - 0.15 * unit],
        ]
        frame.append(tube(np.array(temple), thick * 0.9))
    arch = np.array([[-1.0, 0.4], [-0.5, 0.7], [0.0, 0.8], [0.5, 0.7], [1.0, 0.4]])
    bridge = [arch[:, 0] * (apart - wide), height + arch[:, 1] * high, np.full(5, z)]
    frame.append(tube(np.stack(bridge, axis=1), thick))
    colour = rng.uniform(0.0, 0.08, 3) if rng.random() < 0.7 else rng.uniform(0.1, 0.8, 3)
    opacity = {"clear": (0.0, 0.06), "tinted": (0.15, 0.45), "dark": (0.85, 0.98)}[kind]
    glass = plain(
        *merge(lenses), kind=LENS, blend=True, gloss=200.0, opacity=rng.uniform(*opacity), casts=kind == "dark",
        tint=rng.uniform(0.0, 0.05) * (1 + rng.uniform(0, 1, 3)), density=float(rng.choice([0.3, 1.0, 3.0])),
    )  # fmt: skip
    return [plain(*merge(frame), tint=colour, gloss=60.0, shine=2.0), glass]


def plain_thing(unit: float, rng: np.random.Generator) -> Geometry:
    """A ball, a can or a card."""
    form, size = rng.integers(3), unit * rng.uniform(0.2, 0.8, 3)
    turn = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    ring = np.stack([np.cos(turn), np.zeros(20), np.sin(turn)], axis=1)
    up = np.array([0.0, 1.0, 0.0])
    if form == 0:
        lines = [ring * np.sin(a) + up * np.cos(a) for a in np.linspace(0, np.pi, 10)]
    elif form == 1:
        lines = [ring * wide + up * y for wide, y in ((0.01, 1), (1, 1), (1, -1), (0.01, -1))]
    else:
        size[2] *= 0.15
        corners = np.array([[1.0, 1, 0], [-1, 1, 0], [-1, -1, 0], [1, -1, 0]])
        deep = np.array([0.0, 0.0, 1.0])
        lines = [corners * wide + deep * z for wide, z in ((0.01, 1), (1, 1), (1, -1), (0.01, -1))]
    points = np.concatenate(lines) * size @ rotation(*rng.normal(0, 35, 3)).T
    return points, sheet(len(lines), len(lines[0]), closed=True)


def hand(
    points: np.ndarray, triangles: np.ndarray, unit: float, rng: np.random.Generator
) -> Geometry:
    """The hand and forearm (N, 3) of the body, turned by lot about the middle of its palm."""
    fingers = points[points[:, 0] > np.quantile(points[:, 0], 0.2)]
    axes = np.linalg.svd(fingers[::7] - fingers[::7].mean(0), full_matrices=False)[2]
    axes[2] *= np.sign(np.linalg.det(axes))
    turned = (points - fingers.mean(0)) @ axes.T  # long, wide, thick
    if rng.random() < 0.5:
        turned, triangles = turned * [1.0, -1.0, 1.0], triangles[:, ::-1]
    tilt = rotation(
        rng.normal(0, 25) + 180 * rng.integers(2), rng.normal(0, 25), rng.uniform(0, 360)
    )
    return turned * unit * rng.uniform(0.95, 1.15) @ tilt.T, triangles


def held(
    thing: Geometry, pose: Pose, target: np.ndarray, front: float, rng: np.random.Generator
) -> Geometry:
    """A thing moved before a place of the face (3,), about there; ``front`` is the z of the nose."""
    points, triangles = thing
    shift = target[:2] + rng.normal(0.0, 0.33, 2) * pose.unit
    points = points + np.array([shift[0], shift[1], front + 0.05 - points[:, 2].min()])
    return pose(points), triangles
