"""How many 96 x 96 faces the package draws a second, on one thread.

Run: ``python benchmarks/synthesize_speed.py [--write]``. Runs of 250 faces one after another, in
seconds of processor time, so that other work on the machine counts little; what it does to the
shared caches and cores still shows, hence the best run beside the median.
"""

from __future__ import annotations

import argparse
import datetime
import time
from pathlib import Path

import cv2
import numpy as np
from machine import machine

from facial_keypoints.data.synthetic.faces import draw_faces

RESULT = Path(__file__).parent / "results" / "synthesize_speed.md"
GOAL = 500


def main() -> None:
    """Measure, print and, if asked, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, default=250, help="faces of one run")
    parser.add_argument("--repeat", type=int, default=20, help="runs")
    parser.add_argument("--write", action="store_true", help=f"save to {RESULT.name}")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)  # numpy's elementwise work is single-threaded anyway
    draw_faces(16)  # noise sheets are made once
    rates = []
    for run in range(arguments.repeat):
        started = time.process_time()
        draw_faces(arguments.faces, seed=run)
        rates.append(arguments.faces / (time.process_time() - started))
    text = f"""# Drawn faces a second

{datetime.date.today().isoformat()}, {machine()}, shared with
other work; one thread. `python benchmarks/synthesize_speed.py --write`: {arguments.repeat} runs of
{arguments.faces} faces of 96 x 96 with keypoints, noise and JPEG, in processor time.

| | faces a second | ms a face |
|---|---|---|
| best run | {max(rates):.0f} | {1e3 / max(rates):.2f} |
| median run | {np.median(rates):.0f} | {1e3 / np.median(rates):.2f} |
| goal | {GOAL} | {1e3 / GOAL:.2f} |

numpy {np.__version__}, OpenCV {cv2.__version__}.
"""
    print(text)
    if arguments.write:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
