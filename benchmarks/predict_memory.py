"""Peak memory and speed of ``predict`` on few files and on many, which must need the same memory.

Run: ``python benchmarks/predict_memory.py [--model MODEL] [--counts 1000,20000] [--write]``. The
files are drawn faces, saved as colour JPEG of 160x160 pixels; each run is a fresh process.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine

RESULT = Path(__file__).parent / "results" / "predict_memory.md"
SIDE = 160
DRAWN = 250


def draw_files(folder: Path, count: int) -> None:
    """Write ``count`` files, the same few hundred drawn faces again and again."""
    import cv2

    from facial_keypoints.data.synthetic.faces import draw_kaggle_like
    from facial_keypoints.io.images import encode_image

    encoded = []
    for face in draw_kaggle_like(DRAWN, seed=0).images:
        large = cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        encoded.append(encode_image(cv2.cvtColor(large, cv2.COLOR_GRAY2RGB), ".jpg"))
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:06}.jpg").write_bytes(encoded[number % DRAWN])


def measure(words: list[str]) -> tuple[float, float]:
    """(MiB, s): peak memory and wall clock of one process of the command line."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "facial_keypoints", *words], stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"predict failed: {' '.join(words)}")
    return usage.ru_maxrss / 1024, time.perf_counter() - started


def main() -> None:
    """Measure each count and format, print the table, and write it with ``--write``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--counts", default="1000,20000")
    parser.add_argument("--write", action="store_true", help=f"write results/{RESULT.name}")
    parser.add_argument("--draw", nargs=2, metavar=("FOLDER", "COUNT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.draw:
        draw_files(Path(args.draw[0]), int(args.draw[1]))
        return
    counts = [int(count) for count in args.counts.split(",")]
    rows: list[tuple[str, int, float, float]] = []
    with tempfile.TemporaryDirectory() as place:
        # Drawn by a child: a process starts with its parent's peak, so this one stays small.
        for count in counts:
            folder = str(Path(place) / str(count))
            subprocess.run([sys.executable, __file__, "--draw", folder, str(count)], check=True)
        for suffix in ("csv", "parquet", "json"):
            for count in counts:
                words = ["predict", "--crops", f"{place}/{count}", "-o", f"{place}/t.{suffix}"]
                memory, wall = measure([*words, "--model", args.model, "--force"])
                rows.append((suffix, count, memory, wall))
    first = {suffix: memory for suffix, count, memory, _ in rows if count == counts[0]}
    lines = [
        "# Memory of predict",
        "",
        f"{datetime.date.today()} · {machine()} · "
        f"{SIDE}×{SIDE} colour JPEG · model '{Path(args.model).stem}' · "
        "`python benchmarks/predict_memory.py --write`",
        "",
        f"| table | files | peak memory MiB | peak, {counts[0]:,} files = 1 | files a second |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {suffix} | {count:,} | {memory:.0f} | {memory / first[suffix]:.2f} | {count / wall:.0f} |"
        for suffix, count, memory, wall in rows
    ]
    lines += [
        "",
        "Files a second counts the start of the process and reading, decoding and writing.",
    ]
    print("\n".join(lines))
    if args.write:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
