"""``python -m references.open``: trains the model ``open``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from facial_keypoints.models.keras_backend import choose_backend
from references import run_command


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(
        prog="python -m references.open",
        description="Train the model 'open' of 68 points, whose data anybody may use, and leave a run folder.",
        epilog="Example: python -m references.open --renders renders/ --mesh mesh.npz --data faces/ -o runs/open",
    )
    parser.add_argument(
        "--renders",
        type=Path,
        required=True,
        metavar="DIR",
        help="of python -m references.open_faces",
    )
    parser.add_argument(
        "--mesh", type=Path, metavar="FILE", help="of python -m references.open.mesh"
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder with clean/ and wild/"
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="OUT", help="run folder to make"
    )
    parser.add_argument(
        "--steps", type=int, default=20_000, help="of the optimiser (default: %(default)s)"
    )
    parser.add_argument("--most", type=int, help="renders to read (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="continue in OUT")
    parser.add_argument("--force", action="store_true", help="replace what is in OUT")
    options = parser.parse_args(arguments)
    choose_backend()
    from references.open.train import train_open

    train_open(
        options.renders, options.data, options.out, mesh=options.mesh, steps=options.steps,
        seed=options.seed, most=options.most, resume=options.resume, force=options.force,
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )  # fmt: skip


if __name__ == "__main__":
    run_command(main)
