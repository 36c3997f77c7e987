"""Peak memory of ``read_image`` in bytes a pixel, for each kind of file that it reads.

Run: ``python benchmarks/decode_memory.py [--write]``. Each image is drawn and read by processes of their own,
since a process never gives its peak back. The file's own bytes are not counted.
"""

from __future__ import annotations

import argparse
import datetime
import io
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from machine import machine
from PIL import Image

from facial_keypoints.io.images import encode_image, read_image

RESULT = Path(__file__).parent / "results" / "decode_memory.md"
WIDTH, HEIGHT = 6000, 4000
UNIT = 1024 if sys.platform == "linux" else 1  # of ru_maxrss, in bytes


def draw(kind: str) -> bytes:
    """A file of blurred noise, 24 million pixels."""
    small = np.random.default_rng(0).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
    colours = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    deep = colours.astype(np.uint16) << 8
    image = Image.fromarray(colours)
    grey = image.convert("L")
    turned = Image.Exif()
    turned[0x112] = 6  # EXIF orientation: on its side

    def save(pixels: Image.Image, kind: str, **options: object) -> bytes:
        content = io.BytesIO()
        pixels.save(content, kind, **options)
        return content.getvalue()

    return KINDS[kind](save, image, grey, deep, turned)


Draw = Callable[..., bytes]
KINDS: dict[str, Draw] = {
    "JPEG": lambda save, image, *_: save(image, "JPEG"),
    "JPEG, grey": lambda save, _, grey, *__: save(grey, "JPEG"),
    "JPEG, on its side": lambda save, image, _, __, turned: save(image, "JPEG", exif=turned),
    "JPEG, CMYK": lambda save, image, *_: save(image.convert("CMYK"), "JPEG"),
    "JPEG, progressive 4:4:4": lambda save, image, *_: save(
        image, "JPEG", progressive=True, subsampling=0
    ),
    "JPEG, progressive 4:4:4 without its end": lambda save, image, *_: save(
        image, "JPEG", progressive=True, subsampling=0
    )[:-2],
    "PNG": lambda save, image, *_: save(image, "PNG", compress_level=1),
    "PNG with transparency": lambda save, image, grey, *_: save(
        Image.merge("RGBA", (*image.split(), grey)), "PNG", compress_level=1
    ),
    "PNG, 16 bits": lambda save, image, grey, deep, _: cv2.imencode(".png", deep)[1].tobytes(),
    "PNG, 12 of 16 bits": lambda save, image, grey, deep, _: cv2.imencode(".png", deep >> 4)[
        1
    ].tobytes(),
    "GIF": lambda save, _, grey, *__: save(grey, "GIF"),
    "TIFF, LZW": lambda save, image, *_: save(image, "TIFF", compression="tiff_lzw"),
    "WebP": lambda save, image, *_: save(image, "WEBP", method=0),
    "AVIF": lambda save, image, *_: save(image, "AVIF", quality=50, speed=10),
    "JPEG 2000": lambda save, image, *_: save(
        image, "JPEG2000", quality_mode="rates", quality_layers=[20]
    ),
}


def peak_bytes(file: Path) -> float:
    """Bytes a pixel by which this process's peak grows when it reads the file."""
    content = file.read_bytes()
    read_image(encode_image(np.zeros((16, 16, 3), np.uint8), ".jpg"))  # libraries are loaded
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read_image(content, warn=lambda _: None)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return grown * UNIT / (WIDTH * HEIGHT)


def main() -> None:
    """Measure each kind, print the table, and write it with ``--write``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write results/{RESULT.name}")
    parser.add_argument("--draw", nargs=2, metavar=("KIND", "FILE"), help=argparse.SUPPRESS)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.draw:
        Path(args.draw[1]).write_bytes(draw(args.draw[0]))
        return
    if args.read:
        print(peak_bytes(args.read))
        return
    lines = [
        "# Memory of decoding",
        "",
        f"{datetime.date.today()} · {machine()} · {WIDTH}×{HEIGHT} pixels of blurred noise · "
        "`python benchmarks/decode_memory.py --write`",
        "",
        "| file | bytes a pixel |",
        "|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "image")
        for kind in KINDS:
            again = [sys.executable, __file__]
            subprocess.run([*again, "--draw", kind, file], check=True)
            peak = subprocess.run([*again, "--read", file], check=True, capture_output=True)
            lines.append(f"| {kind} | {float(peak.stdout):.1f} |")
    lines += ["", "The peak of the process above what it needed before, without the file itself."]
    print("\n".join(lines))
    if args.write:
        RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
