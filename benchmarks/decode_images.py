"""How long ``read_image`` (Pillow) takes beside OpenCV's ``imdecode``, in one run.

Run: ``python benchmarks/decode_images.py [--write]``. One thread, from memory; the ways take turns
and the best time of each counts.
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from machine import machine

from facial_keypoints.io.images import read_image

RESULT = Path(__file__).parent / "results" / "decode_images.md"
SIZES = ((160, 160, 100), (500, 500, 20), (3000, 4000, 1))


def opencv(content: bytes, channels: int) -> np.ndarray:
    """The plain call."""
    flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB
    return np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), flag))


def pillow(content: bytes, channels: int) -> np.ndarray:
    """What this package does."""
    return read_image(content, channels=channels)


def best_ms(ways: list[Callable[[], object]], repeat: int, count: int) -> list[float]:
    """Best time of each way in ms, taken in turns."""
    best = [np.inf] * len(ways)
    for _ in range(repeat):
        for i, way in enumerate(ways):
            started = time.perf_counter()
            for _ in range(count):
                way()
            best[i] = min(best[i], (time.perf_counter() - started) / count * 1e3)
    return best


def main() -> None:
    """Time both on each kind of file, print the table, and write it with ``--write``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--write", action="store_true", help=f"write results/{RESULT.name}")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    lines = [
        "# Decoding images",
        "",
        f"{datetime.date.today()} · {machine()}, one thread · "
        f"blurred noise · best of {args.repeat} in turns · "
        "`python benchmarks/decode_images.py --write`",
        "",
        "| file | pixels | to | OpenCV imdecode ms | read_image ms | read_image / OpenCV |",
        "|---|---|---|---|---|---|",
    ]
    for height, width, count in SIZES:
        noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = cv2.GaussianBlur(noise, (0, 0), 3)
        for suffix in (".jpg", ".png"):
            content = cv2.imencode(suffix, image)[1].tobytes()
            for channels, kind in ((1, "grey"), (3, "RGB")):
                theirs, ours = best_ms(
                    [lambda c=content, k=channels: opencv(c, k),
                     lambda c=content, k=channels: pillow(c, k)],
                    args.repeat, count,
                )  # fmt: skip
                lines.append(
                    f"| {suffix[1:]} | {width}×{height} | {kind} | {theirs:.3f} | {ours:.3f} "
                    f"| {ours / theirs:.2f} |"
                )
    print("\n".join(lines))
    if args.write:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
