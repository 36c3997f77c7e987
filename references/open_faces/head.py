"""Heads: identity, age and expression give the vertices; worn meshes and the 68 points follow them."""

from __future__ import annotations

import numpy as np

# Vertices of MakeHuman's mesh on the right half of the face. 27 to 30, 33, 51, 57, 62, 66 lie in the middle.
FIXED = {
    27: [132], 28: [135], 29: [5063, 164], 30: [294], 31: [286], 32: [313], 33: [317],
    36: [6781], 37: [6757], 38: [6763], 39: [69], 40: [6772], 41: [6776],
    48: [501], 49: [5354], 50: [450], 51: [455], 57: [492], 58: [486], 59: [480],
    60: [432], 61: [472], 62: [474], 66: [523], 67: [517],
}  # fmt: skip
# Annotators put the jaw points 0 to 8 on the visible outline: where the line between two vertices, seen
# from the third value (degrees from the front), lies farthest out in the direction of the fourth value
# (degrees from sideways to down).
JAW = [
    (5754, 5189, 75, 0), (859, 5182, 75, 0), (869, 5154, 75, 0), (912, 5208, 75, 0), (5240, 5298, 75, 10),
    (3698, 5224, 75, 30), (5294, 5166, 60, 50), (5292, 5215, 30, 75), (747, 5211, 0, 90),
]  # fmt: skip
MIRROR = np.array([
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), 45, 44, 43, 42, 47, 46,
    39, 38, 37, 36, 41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1),
])  # fmt: skip
SAMPLES = 16

AGES = ("baby", "child", "young", "old")
RACES = ("african", "asian", "caucasian")


class Head:
    """MakeHuman's head with its shape targets, from the arrays that ``assets.make_assets`` wrote."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays
        self.base = arrays["base"].astype(np.float32)
        self.names = {str(name): i for i, name in enumerate(arrays["target_names"])}
        self.targets = arrays["targets"].astype(np.float32).reshape(len(self.names), -1)

        numbers = {int(number): i for i, number in enumerate(arrays["number"])}
        self.skin = arrays["skin/vertex"]
        self.triangles = self.skin[arrays["skin/triangles"]]
        average = self.vertices(macro_weights(0.5, 0.5, np.full(3, 1 / 3), 0.5, 0.5))
        self.average = average
        used = np.unique(self.skin)
        flipped = average[used] * [-1.0, 1.0, 1.0]

        def mirrored(indices: np.ndarray) -> np.ndarray:
            distance = ((average[indices][:, None] - flipped) ** 2).sum(-1)
            return np.asarray(used[distance.argmin(1)])

        self.fixed: dict[int, np.ndarray] = {}
        for point, vertex in FIXED.items():
            indices = np.array([numbers[v] for v in vertex])
            self.fixed[point] = indices
            self.fixed[int(MIRROR[point])] = mirrored(indices)
        self.jaw = np.zeros((17, SAMPLES, 3), int)
        self.jaw_weights = np.zeros((17, SAMPLES, 3), np.float32)
        for point, (start, end, turn, _) in enumerate(JAW):
            corners, weights = self.line(average, numbers[start], numbers[end], -turn)
            self.jaw[point], self.jaw_weights[point] = corners, weights
            self.jaw[16 - point] = mirrored(corners.ravel()).reshape(-1, 3)
            self.jaw_weights[16 - point] = weights
        self.brows: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.chin = numbers[JAW[8][0]]  # the chin
        ears = used[(average[used, 1] > 7.0) & (average[used, 2] < 0.6) & (average[used, 2] > 0.2)]
        self.ear = ears[average[ears, 0].argmax()]

    def line(
        self, points: np.ndarray, start: int, end: int, turn: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (S, 3) and weights (S, 3) of points on the skin along a line as seen from ``turn`` degrees."""
        angle = np.radians(turn)
        toward = np.array([np.sin(angle), 0.0, np.cos(angle)])
        side = np.array([np.cos(angle), 0.0, -np.sin(angle)])
        seen = np.stack([points @ side, points[:, 1], points @ toward], axis=1)
        a, b, c = (seen[self.triangles[:, i]] for i in range(3))
        corners, weights = [], []
        for share in np.linspace(0.0, 1.0, SAMPLES):
            at = seen[start] * (1.0 - share) + seen[end] * share
            area = np.cross(b[:, :2] - a[:, :2], c[:, :2] - a[:, :2])
            wb = np.cross(at[:2] - a[:, :2], c[:, :2] - a[:, :2]) / area
            wc = np.cross(b[:, :2] - a[:, :2], at[:2] - a[:, :2]) / area
            w = np.stack([1.0 - wb - wc, wb, wc], axis=1)
            depth = w[:, 0] * a[:, 2] + w[:, 1] * b[:, 2] + w[:, 2] * c[:, 2]
            hit = np.where((w > -1e-4).all(1) & (area > 0), depth, -np.inf).argmax()
            corners.append(self.triangles[hit])
            weights.append(w[hit])
        return np.array(corners), np.array(weights)

    def brow_points(self, style: int, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (10, 3) of the brow mesh and weights: the middle of its hair, given its opacity (S, S)."""
        if style not in self.brows:
            get = self.arrays.__getitem__
            triangles, uv = get(f"brows{style}/triangles"), get(f"brows{style}/uv")
            points = self.worn(f"brows{style}", self.average)
            steps = np.linspace(0.0, 1.0, 9)
            w = np.array([(1 - p - q, p, q) for p in steps for q in steps if p + q <= 1.0])
            place = np.einsum("kc,tcd->tkd", w, points[triangles]).reshape(-1, 3)
            at = np.einsum("kc,tcd->tkd", w, uv[triangles]).reshape(-1, 2)
            size = alpha.shape[0] - 1
            column, row = (at[:, 0] * size).astype(int), ((1.0 - at[:, 1]) * size).astype(int)
            opaque = alpha[row.clip(0, size), column.clip(0, size)].astype(float)
            corners, weights = np.zeros((10, 3), int), np.zeros((10, 3), np.float32)
            for sign, order in ((-1, range(5)), (1, range(9, 4, -1))):
                x, y = place[:, 0] * sign, place[:, 1]
                hair = (opaque > 60) & (x > 0)
                outer, inner = np.percentile(x[hair], [99, 1])
                for place_number, share in zip(order, np.linspace(0.04, 0.96, 5), strict=True):
                    middle = outer + (inner - outer) * share
                    near = hair & (abs(x - middle) < 0.03)
                    height = np.average(y[near], weights=opaque[near])
                    best = int(np.hypot(place[:, 0] * sign - middle, y - height).argmin())
                    corners[place_number] = triangles[best // len(w)]
                    weights[place_number] = w[best % len(w)]
            self.brows[style] = corners, weights
        return self.brows[style]

    def vertices(self, weights: dict[str, float]) -> np.ndarray:
        """Vertices (V, 3) in decimetres: the base mesh and the weighted sum of its targets."""
        rows = np.array([self.names[name] for name in weights])
        change = np.array(list(weights.values()), np.float32) @ self.targets[rows]
        return np.asarray(self.base + change.reshape(-1, 3))

    def target(self, name: str) -> np.ndarray:
        """What a target changes (V, 3)."""
        return np.asarray(self.targets[self.names[name]].reshape(-1, 3))

    def jaw_points(self, posed: np.ndarray, camera: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """Points 0 to 16 (17, 3) of a head turned by ``matrix``: on each line the place farthest out for the camera."""
        places = (posed[self.jaw] * self.jaw_weights[..., None]).sum(2)
        clip = places @ camera[:, :3].T + camera[:, 3]
        seen = clip[..., :2] / clip[..., 3:]
        up = matrix[:2, 1] / max(float(np.linalg.norm(matrix[:2, 1])), 1e-6)
        side = np.array([up[1], -up[0]])  # to the right of the image, when the head is upright
        chosen = np.zeros((17, 3))
        for point in range(17):
            angle = np.radians(JAW[min(point, 16 - point)][3])
            out = np.cos(angle) * side * (-1.0 if point < 8 else 1.0) - np.sin(angle) * up
            chosen[point] = places[point, (seen[point] @ out).argmax()]
        return chosen

    def worn(self, name: str, vertices: np.ndarray) -> np.ndarray:
        """Points (W, 3) of a worn mesh on a head with those vertices."""
        get = self.arrays.__getitem__
        corners = vertices[get(f"{name}/indices")]
        points = (corners * get(f"{name}/weights")[..., None]).sum(1)
        scale = [
            abs(vertices[int(a), axis] - vertices[int(b), axis]) / length
            for axis, (a, b, length) in enumerate(get(f"{name}/scales"))
        ]
        return np.asarray((points + get(f"{name}/offsets") * scale)[get(f"{name}/vertex")])


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Rotation matrix of a head, degrees: yaw to its left, pitch up, roll to its left shoulder."""
    y, p, r = np.radians([yaw, -pitch, -roll])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return np.asarray(about_y @ about_x @ about_z)


def rotate_part(points: np.ndarray, matrix: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Points (N, 3) turned by ``share`` (N,) of the angle of a rotation matrix, about its axis."""
    angle = np.arccos(np.clip((np.trace(matrix) - 1.0) / 2.0, -1.0, 1.0))
    axis = np.array([
        matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]
    ])  # fmt: skip
    length = np.linalg.norm(axis)
    if length < 1e-9:
        return points
    axis /= length
    cosine, sine = np.cos(angle * share)[:, None], np.sin(angle * share)[:, None]
    along = (points @ axis)[:, None] * axis
    return np.asarray(along + (points - along) * cosine + np.cross(axis, points) * sine)


class Pose:
    """Turns a head on its neck: the shoulders keep ``body`` of the rotation, the neck lies between."""

    def __init__(
        self, chin: np.ndarray, eyes: np.ndarray, matrix: np.ndarray, body: np.ndarray
    ) -> None:
        self.chin, self.unit = chin, eyes[1] - chin[1]
        self.pivot = np.array([0.0, chin[1], chin[2] - 1.15 * self.unit])
        self.matrix, self.body = matrix, body

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """World positions (N, 3) of points of the straight head."""
        up = (points[:, 1] - self.chin[1] + 0.45 * (points[:, 2] - self.chin[2])) / self.unit
        share = np.clip((up + 1.1) / 0.95, 0.0, 1.0)
        share = share * share * (3.0 - 2.0 * share)
        own = self.matrix @ self.body.T
        turned = rotate_part((points - self.pivot) @ self.body.T, own, share)
        return np.asarray(turned + self.pivot)


def macro_weights(
    age: float, male: float, race: np.ndarray, muscle: float, weight: float
) -> dict[str, float]:
    """Weights of MakeHuman's main targets; all arguments from 0 to 1, ``race`` (3,) sums to 1.

    Age 0 is an infant, 0.1875 a child, 0.5 a young adult, 1 very old.
    """
    ages = np.interp(age, [0.0, 0.1875, 0.5, 1.0], [0.0, 1.0, 2.0, 3.0])
    low = min(int(ages), 2)
    shares = {AGES[low]: 1.0 - (ages - low), AGES[low + 1]: ages - low}
    steps = {}
    for name, value in (("muscle", muscle), ("weight", weight)):
        steps[name] = {
            f"min{name}": max(0.0, 1.0 - 2.0 * value),
            f"average{name}": 1.0 - abs(2.0 * value - 1.0),
            f"max{name}": max(0.0, 2.0 * value - 1.0),
        }
    weights = {}
    for gender, of_gender in (("male", male), ("female", 1.0 - male)):
        for years, of_age in shares.items():
            share = of_gender * of_age
            for name, of_race in zip(RACES, race, strict=True):
                weights[f"macrodetails/{name}-{gender}-{years}"] = share * float(of_race)
            for muscles, of_muscle in steps["muscle"].items():
                for fat, of_fat in steps["weight"].items():
                    key = f"macrodetails/universal-{gender}-{years}-{muscles}-{fat}"
                    weights[key] = share * of_muscle * of_fat
    return {name: value for name, value in weights.items() if value > 1e-6}
