"""Heads: identity, age and expression give the vertices; worn meshes and the 68 points follow them."""

from __future__ import annotations

import numpy as np

AGES = ("baby", "child", "young", "old")
RACES = ("african", "asian", "caucasian")


class Head:
    """MakeHuman's head with its shape targets, from the arrays that ``assets.make_assets`` wrote."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays
        self.base = arrays["base"].astype(np.float32)
        self.names = {str(name): i for i, name in enumerate(arrays["target_names"])}
        self.targets = arrays["targets"].astype(np.float32).reshape(len(self.names), -1)

    def vertices(self, weights: dict[str, float]) -> np.ndarray:
        """Vertices (V, 3) in decimetres: the base mesh and the weighted sum of its targets."""
        rows = np.array([self.names[name] for name in weights])
        change = np.array(list(weights.values()), np.float32) @ self.targets[rows]
        return self.base + change.reshape(-1, 3)

    def worn(self, name: str, vertices: np.ndarray) -> np.ndarray:
        """Points (W, 3) of a worn mesh on a head with those vertices."""
        get = self.arrays.__getitem__
        corners = vertices[get(f"{name}/indices")]
        points = (corners * get(f"{name}/weights")[..., None]).sum(1)
        scale = [
            abs(vertices[int(a), axis] - vertices[int(b), axis]) / length
            for axis, (a, b, length) in enumerate(get(f"{name}/scales"))
        ]
        return (points + get(f"{name}/offsets") * scale)[get(f"{name}/vertex")]


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
