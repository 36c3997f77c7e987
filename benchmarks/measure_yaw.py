"""How far yaw changes the measures, and the error of the yaw that they give, on drawn faces.

The points and the yaw of drawn faces are exact, so only the effect of yaw is seen.

    python benchmarks/measure_yaw.py [--faces 1000] [--data DATA]

With real faces (``wild/labels.csv.gz`` in DATA) also how far their noses stand before their eyes: the tip
lies o eye distances beside the middle of the eyes, and the squared ratio of face length to eye distance
grows in proportion to 1 + (o / depth)², since the eye distance shrinks with the cosine of the yaw and the
tip moves with its sine.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np

from facial_keypoints.data.synthetic.geometry import FaceParameters, Spread, sample_faces
from facial_keypoints.inference.measure.measures import NOSE_DEPTH, Measurements, measure
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.types import Keypoints

# Without random pitch and yaw: the yaw is set below.
FRONTAL = Spread(0.0, 0.0, 3.0, 2.0, 0.05, 1.0, by_eyes=True)
ANY_POSE = Spread(18.0, 7.5, 6.0, 2.8, 0.08, 0.96, by_eyes=False)
SHOWN = (
    "inner_canthal", "outer_canthal", "canthal_index", "left_palpebral_fissure",
    "right_palpebral_fissure", "left_canthal_tilt", "right_canthal_tilt", "left_brow_inner_height",
    "left_brow_outer_height", "mouth_width", "lip_height", "nose_to_top_lip", "asymmetry",
    "nose_deviation", "mouth_deviation", "head_roll",
)  # fmt: skip


def measured(faces: FaceParameters) -> Measurements:
    """Measures of the exact points."""
    return measure(Keypoints(faces.keypoints_xy(96), KAGGLE15))


def nose_depths(labels: Path) -> None:
    """Print the nose's depth in each set of labelled faces."""
    from pyarrow import csv

    table = csv.read_csv(labels)
    sets = np.asarray(table["set"])
    names = (
        "left_eye_center",
        "right_eye_center",
        "mouth_left_corner",
        "mouth_right_corner",
        "nose_tip",
    )
    left, right, *mouth, nose = (
        np.stack([table[f"{name}_{axis}"].to_numpy() for axis in "xy"], axis=1) for name in names
    )
    middle, eyes = (left + right) / 2, left - right
    apart = np.hypot(*eyes.T)
    offset = ((nose - middle) * eyes).sum(axis=1) / apart**2
    length = np.hypot(*((mouth[0] + mouth[1]) / 2 - middle).T)
    print("\nDepth of the nose's tip before the eyes, in eye distances:")
    for name in ("helen_afw", "mtfl", "ytf"):
        rows = (sets == name) & np.isfinite(offset) & np.isfinite(length)
        # Annotators put the tip to one side: take the median away.
        o, squared = (
            np.abs(offset[rows] - np.median(offset[rows])),
            (length[rows] / apart[rows]) ** 2,
        )
        edges = [0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6]
        bins = [(o >= low) & (o < high) for low, high in pairwise(edges)]
        bins = [inside for inside in bins if inside.sum() > 30]
        slope, start = np.polyfit(
            [np.mean(o[b] ** 2) for b in bins],
            [np.median(squared[b]) for b in bins],
            1,
            w=[np.sqrt(b.sum()) for b in bins],
        )
        print(f"- {name}: {np.sqrt(start / slope):.2f} ({rows.sum():,} faces)")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--faces", type=int, default=1000)
    parser.add_argument("--data", type=Path)
    args = parser.parse_args()
    count = args.faces
    rows = np.arange(count)
    faces = sample_faces(rows, rows, seed=5, spread=FRONTAL)
    frontal = measured(faces)
    yaws = (5, 10, 15, 20, 25, 30)
    print("Median change by yaw to the person's left, from the same face seen straight on.\n")
    print("| measure | straight on | " + " | ".join(f"{t}°" for t in yaws) + " |")
    print("|---" * (len(yaws) + 2) + "|")
    changes = []
    for yaw in yaws:
        rotated = FaceParameters({**faces.values, "yaw": np.full((count, 1, 1), np.deg2rad(yaw))})
        changes.append(measured(rotated))
    for name in SHOWN:
        cells = [f"{np.median(c[name] - frontal[name]):+.3f}" for c in changes]
        print(f"| {name} | {np.median(frontal[name]):.3f} | " + " | ".join(cells) + " |")
    measured_yaw = " | ".join(f"{np.median(c['head_yaw']):.1f}" for c in changes)
    print(f"| head_yaw (measured) | {np.median(frontal['head_yaw']):.1f} | {measured_yaw} |")

    mixed = sample_faces(rows, rows, seed=6, spread=ANY_POSE)
    true = np.degrees(mixed["yaw"].ravel())
    parallax = np.tan(np.radians(measured(mixed)["head_yaw"])) * NOSE_DEPTH
    tangent = np.tan(np.radians(true))
    depth = float((parallax * tangent).sum() / (tangent * tangent).sum())
    print(
        f"\nThe yaw on {count} faces with pitch and roll as well (yaw of {true.std():.0f}° in the mean square):"
    )
    for label, value in (
        (f"as shipped, {NOSE_DEPTH}", NOSE_DEPTH),
        (f"their own, {depth:.3f}", depth),
    ):
        error = np.degrees(np.arctan(parallax / value)) - true
        print(
            f"- nose depth {label}: RMS {np.sqrt((error**2).mean()):.1f}°, median |error| "
            f"{np.median(np.abs(error)):.1f}°, 95 % within {np.quantile(np.abs(error), 0.95):.1f}°"
        )
    labels = args.data / "wild" / "labels.csv.gz" if args.data else None
    if labels and labels.is_file():
        nose_depths(labels)


if __name__ == "__main__":
    main()
