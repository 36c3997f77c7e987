"""``python -m references.landmark``: makes the shipped keypoint model ``default`` anew."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from facial_keypoints.cluster import available_cores
from facial_keypoints.files import read_json
from facial_keypoints.models.keras_backend import choose_backend
from references import run_command


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and print how the cross-validation model does on the faces that it has not seen."""
    parser = argparse.ArgumentParser(
        prog="python -m references.landmark",
        description="Train the shipped keypoint model from labelled faces and leave a run folder. It "
        "wants a GPU, or days. Finished networks are kept, so --resume repeats at most one.",
        epilog="Example: python -m references.landmark --data faces/ -o runs/default --resume",
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR",
        help="folder with facial-keypoints-detection/, wild/ and photos/, or some of them",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="OUT", help="run folder to make"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="0, the default, is the shipped model's"
    )
    parser.add_argument(
        "--schema", choices=("kaggle15", "ibug68"), default="kaggle15",
        help="ibug68 trains the model of 68 points, from the weights of 'default'",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=int, default=20_000, help="of the training of ibug68 (default: %(default)s)"
    )
    parser.add_argument(
        "--self-training", action="store_true",
        help="with --resume: ibug68 also learns from faces with 5 or 15 points, labelled by its weights so far",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true",
        help="tiny networks and a few steps, to see that data and machine go the whole way",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="continue in OUT")
    parser.add_argument("--force", action="store_true", help="replace what is in OUT")
    options = parser.parse_args(arguments)
    choose_backend()

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    common = {
        "seed": options.seed, "resume": options.resume, "force": options.force,
        "threads": available_cores(), "report": tell,
    }  # fmt: skip
    if options.schema == "ibug68":
        from references.landmark.ibug68 import train_ibug68

        steps = 4 if options.quick else options.steps
        train_ibug68(
            options.data, options.out, steps=steps, self_training=options.self_training, **common
        )
        tell(f"the model is {options.out / 'model.onnx'}")
        return
    from references.landmark.run import QUICK, train_default_run

    train_default_run(
        options.data,
        options.out,
        config=QUICK if options.quick else None,
        **common,
    )
    print("errors of the cross-validation model on faces that it has not seen:")
    for name, errors in read_json(options.out / "run.json")["held_out"].items():
        share = "" if errors["nme"] is None else f", {errors['nme']:.1%} of the eye distance"
        print(f"{name}: {errors['faces']} faces, RMSE {errors['rmse_px']:.2f} px{share}")
    tell(f"the model is {options.out / 'model.onnx'}")


if __name__ == "__main__":
    run_command(main)
