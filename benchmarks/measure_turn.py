"""How far a turned head changes the measures, and how well the turn is told, on drawn faces.

The drawn faces know their turn. Points are exact here: what is left is the turn alone.

    python benchmarks/measure_turn.py [--faces 1000]
"""

from __future__ import annotations

import argparse

import numpy as np

from facial_keypoints.data.synthetic_geometry import FaceParameters, Framing, sample_faces
from facial_keypoints.measurement import NOSE_DEPTH, Measurements, measure
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.types import Keypoints

# No nod, no turn by chance: the turn is set below.
FRONTAL = Framing(0.0, 0.0, 3.0, 2.0, 0.05, 1.0, by_eyes=True)
NODDING = Framing(18.0, 7.5, 6.0, 2.8, 0.08, 0.96, by_eyes=False)
SHOWN = (
    "inner_canthal", "outer_canthal", "canthal_index", "left_palpebral_fissure",
    "right_palpebral_fissure", "left_canthal_tilt", "right_canthal_tilt", "left_brow_inner_height",
    "left_brow_outer_height", "mouth_width", "lip_height", "nose_to_top_lip", "asymmetry",
    "nose_deviation", "mouth_deviation", "head_roll",
)  # fmt: skip


def measured(faces: FaceParameters) -> Measurements:
    """Measures of the exact points."""
    return measure(Keypoints(faces.keypoints_xy(96), KAGGLE15))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--faces", type=int, default=1000)
    parser.add_argument("--data", help="not used: the faces are drawn")
    count = parser.parse_args().faces
    rows = np.arange(count)
    faces = sample_faces(rows, rows, seed=5, framing=FRONTAL)
    frontal = measured(faces)
    turns = (5, 10, 15, 20, 25, 30)
    print("Median change by a turn to the person's left, from the same face seen straight on.\n")
    print("| measure | straight on | " + " | ".join(f"{t}°" for t in turns) + " |")
    print("|---" * (len(turns) + 2) + "|")
    changes = []
    for turn in turns:
        turned = FaceParameters({**faces.values, "yaw": np.full((count, 1, 1), np.deg2rad(turn))})
        changes.append(measured(turned))
    for name in SHOWN:
        cells = [f"{np.median(c[name] - frontal[name]):+.3f}" for c in changes]
        print(f"| {name} | {np.median(frontal[name]):.3f} | " + " | ".join(cells) + " |")
    told = " | ".join(f"{np.median(c['head_turn']):.1f}" for c in changes)
    print(f"| head_turn (told) | {np.median(frontal['head_turn']):.1f} | {told} |")

    mixed = sample_faces(rows, rows, seed=6, framing=NODDING)
    true = np.degrees(mixed["yaw"].ravel())
    parallax = np.tan(np.radians(measured(mixed)["head_turn"])) * NOSE_DEPTH
    tangent = np.tan(np.radians(true))
    depth = float((parallax * tangent).sum() / (tangent * tangent).sum())
    print(
        f"\nThe turn on {count} faces that also nod and tilt (turns of {true.std():.0f}° in the mean square):"
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


if __name__ == "__main__":
    main()
