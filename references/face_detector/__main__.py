"""``python -m references.face_detector``: makes the shipped face detector anew."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from facial_keypoints.models.keras_backend import choose_backend
from references import run_command


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and write ``face_detector.onnx``."""
    parser = argparse.ArgumentParser(
        prog="python -m references.face_detector",
        description="Train the shipped face detector from photos whose faces are labelled. One in ten "
        "of the photos is held out and chooses the threshold.",
        epilog="Example: python -m references.face_detector --data faces/ -o runs/detector",
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR",
        help="folder with photos/ and, if there is one, wild/",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="OUT", help="folder to write"
    )
    parser.add_argument(
        "--extra", type=Path, metavar="FILE", help="table of faces that another detector found"
    )
    parser.add_argument("--start", type=Path, metavar="FILE", help="weights to start from")
    parser.add_argument("--minutes", type=float, default=60.0, help="time to train for (60)")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate (0.002)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (0)")
    options = parser.parse_args(arguments)
    choose_backend()
    from references.face_detector import train as t

    train, held_out = t.split_photos(t.load_photos(options.data / "photos", options.extra))
    wild = options.data / "wild"
    crops = [t.load_crops(wild)] if wild.is_dir() else []
    file = t.train_detector(
        [*train, *t.drawn_scenes(200)], [*crops, t.drawn_crops(300)], held_out, options.out,
        t.FitConfig(minutes=options.minutes, rate=options.rate, seed=options.seed),
        start=options.start,
    )  # fmt: skip
    print(f"the detector is {file}", file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
