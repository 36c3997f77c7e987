"""Do two checkouts give the same results? Runs the verbs of both on the same inputs and compares the tables.

Example::

    python benchmarks/same_results.py --before ../old --after . --photos photos/ --crops crops/ \
        --video clip.avi --kaggle kaggle/ -o same/

Every table is compared cell by cell; what differs is counted by column, numbers with their largest difference.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path


def commands(options: argparse.Namespace, out: Path, *, tta: str) -> dict[str, list[str]]:
    """The verbs to run, by the name of the table that each writes."""
    photos, crops, track = str(options.photos), str(options.crops), str(out / "track.csv")
    return {
        "photos.csv": ["predict", photos, "-o", str(out / "photos.csv")],
        "crops.csv": ["predict", "--crops", crops, "-o", str(out / "crops.csv")],
        "crops_tta.csv": ["predict", "--crops", tta, crops, "-o", str(out / "crops_tta.csv")],
        "track.csv": ["track", str(options.video), "-o", track],
        "measures.csv": ["measure", photos, "-o", str(out / "measures.csv")],
        "curves.csv": ["measure", track, "-o", str(out / "curves.csv")],
        "aligned/faces.csv": ["align", photos, "-o", str(out / "aligned")],
        "submission.csv": ["submit", "default", "--data", str(options.kaggle), "-o", str(out / "submission.csv")],
    }  # fmt: skip


def run(checkout: Path, words: list[str]) -> None:
    """Run a verb of a checkout; what it says goes to our stderr."""
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve() / "src")}
    command = [sys.executable, "-m", "facial_keypoints", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):  # 1: an image could not be read
        raise SystemExit(f"{checkout}: {' '.join(words)}\n{done.stderr}")


def rows(path: Path) -> list[list[str]]:
    """The cells of a csv."""
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.reader(handle))


def compare(before: Path, after: Path, renamed: dict[str, str]) -> str:
    """One line: equal, or what differs; columns of ``before`` are taken by their new names."""
    old, new = rows(before), rows(after)
    old[0] = [renamed.get(name, name) for name in old[0]]
    if old == new:
        return f"equal, {len(old) - 1} rows"
    if len(old) != len(new):
        return f"{len(old) - 1} rows before, {len(new) - 1} after"
    if old[0] != new[0]:
        return f"columns differ: {sorted(set(old[0]) ^ set(new[0]))}"
    largest: dict[str, float] = {}
    for a, b in zip(old[1:], new[1:], strict=True):
        for name, x, y in zip(old[0], a, b, strict=True):
            if x != y:
                try:
                    gap = abs(float(x) - float(y))
                except ValueError:
                    gap = float("inf")
                largest[name] = max(largest.get(name, 0.0), gap)
    worst = max(largest, key=lambda name: largest[name])
    return f"{len(largest)} columns differ, most {worst} by {largest[worst]:.3g}"


def main() -> None:
    """Run both and print a line for each table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name in ("before", "after", "photos", "crops", "video", "kaggle"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument(
        "--before-tta", default="--tta", help="the flag's name in the older checkout"
    )
    parser.add_argument("--renamed", metavar="OLD=NEW", action="append", default=[])
    options = parser.parse_args()
    renamed = dict(pair.split("=") for pair in options.renamed)
    for name, flag in (("before", options.before_tta), ("after", "--tta")):
        folder = options.out / name
        folder.mkdir(parents=True, exist_ok=True)
        for table, words in commands(options, folder, tta=flag).items():
            if not (folder / table).exists():  # a finished side is not run again
                run(getattr(options, name), words)
    for table in commands(options, options.out, tta="--tta"):
        print(
            f"{table:20} {compare(options.out / 'before' / table, options.out / 'after' / table, renamed)}"
        )


if __name__ == "__main__":
    main()
