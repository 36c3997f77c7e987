"""Which moved labels ``data audit`` suspects, and how many others: labels of real faces, some of them moved.

    python benchmarks/suspected_labels.py DATA

DATA holds ``wild/labels.csv.gz``: labels of real faces, each set by its own team. One label in a hundred is moved into a
random direction by a share of the eyes' distance, at most one in a face. The labels have slips of their own, so some of
those that count as false alarms are none.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

import numpy as np
from machine import machine
from numpy.typing import NDArray

from facial_keypoints.data.suspects import LIMIT, suspected_labels
from facial_keypoints.schemas import FIVE, IBUG68, KAGGLE15
from facial_keypoints.types import Keypoints, KeypointSchema

MOVED_BY = (0.1, 0.2, 0.3, 0.5)  # of the eyes' distance
SETS = (
    ("helen_afw", KAGGLE15, 1000), ("ytf", KAGGLE15, 1000), ("webmorph", KAGGLE15, 215),
    ("helen_afw", KAGGLE15, 100), ("helen_afw", IBUG68, 500), ("mtfl", FIVE, 1000),
)  # fmt: skip


def read(path: Path, name: str, schema: KeypointSchema, count: int) -> NDArray[np.float64]:
    """(N, K, 2) labels of faces of a set, chosen at random."""
    from pyarrow import csv

    table = csv.read_csv(path)
    rows = np.flatnonzero(np.asarray(table["set"]) == name)
    rows = np.random.default_rng(0).permutation(rows)[:count]
    return np.stack(
        [
            np.stack([table[f"{point}_{axis}"].to_numpy()[rows] for axis in "xy"], axis=1)
            for point in schema.keypoint_names
        ],
        axis=1,
    )


def measure(xy: NDArray[np.float64], schema: KeypointSchema) -> tuple[list[float], float]:
    """The share of moved labels that are suspected, by how far they were moved, and false alarms in 100 faces."""
    ids = np.arange(len(xy)).astype(str)
    a, b = (schema.keypoint_names.index(name) for name in schema.norm_pair)
    eyes = np.linalg.norm(xy[:, a] - xy[:, b], axis=1)
    recall, false = [], []
    for share in MOVED_BY:
        hits = planted = 0
        for trial in range(max(1, 500 // len(xy))):
            rng = np.random.default_rng(trial)
            moved = xy.copy()
            faces = rng.permutation(len(xy))[: max(1, len(xy) * len(schema.keypoint_names) // 100)]
            places = {}
            for n in faces.tolist():
                k = int(rng.choice(np.flatnonzero(np.isfinite(xy[n, :, 0]))))
                angle = rng.uniform(0, 2 * np.pi)
                moved[n, k] += share * eyes[n] * np.array([np.cos(angle), np.sin(angle)])
                places[n, schema.keypoint_names[k]] = True
            found = suspected_labels(Keypoints(moved.astype(np.float32), schema), ids)
            right = sum((s.row, s.keypoint) in places for s in found)
            hits, planted = hits + right, planted + len(places)
            false.append(100 * (len(found) - right) / len(xy))
        recall.append(hits / planted)
    return recall, float(np.mean(false))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    labels = parser.parse_args().data / "wild" / "labels.csv.gz"
    print(f"{datetime.date.today()} · `python benchmarks/suspected_labels.py DATA` · {machine()}\n")
    print(
        f"Share of moved labels that are suspected at the limit {LIMIT:g}, by how far they were moved.\n"
    )
    print("| set | points | faces |", *(f"{share:g} eye distances |" for share in MOVED_BY), end="")
    print(" false alarms in 100 faces |\n|---|---|---|" + "---|" * (len(MOVED_BY) + 1))
    for name, schema, count in SETS:
        xy = read(labels, name, schema, count)
        recall, false = measure(xy, schema)
        cells = (name, schema.num_keypoints, len(xy), *(f"{r:.2f}" for r in recall), f"{false:.1f}")
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
