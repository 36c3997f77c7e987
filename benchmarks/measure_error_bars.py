"""Whether the error bars of the measures are right: measured points against labelled ones.

    python -m benchmarks.measure_error_bars --data DATA [--model MODEL --ids held_out.txt]

Both the predicted and the labelled points of a face are measured; their difference is compared with the
error bar that the confidence gave. Only frontal faces with all 15 points count. Name a model and the list of the
faces that it has not seen (training leaves ``held_out.txt``); without them, or without data, drawn faces
are measured, which no model has seen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from facial_keypoints import load_predictor, measure
from facial_keypoints.data.synthetic.faces import draw_faces
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.types import Keypoints
from references.collection import load_collection, set_names


def report(title: str, predicted: Keypoints, truth: np.ndarray, *, each: bool) -> None:
    """Print one line for the set, or one for each measure."""
    found, true = measure(predicted), measure(Keypoints(truth.astype(np.float32), KAGGLE15))
    straight = np.array(["turned" not in warnings for warnings in found.warnings])
    difference = (found.values - true.values)[straight]
    ratio = np.abs(difference) / found.sigma[straight]
    known = np.isfinite(ratio)
    if not each:
        values = ratio[known]
        print(
            f"| {title} | {straight.sum()} | {np.mean(values < 1):.2f} | {np.mean(values < 2):.2f} |"
        )
        return
    for m, name in enumerate(found.names):
        rows, unit = known[:, m], {"ratio": "", "percent": " %", "degrees": "°"}[found.units[m]]
        digits = 1 if unit else 3
        bar = np.median(found.sigma[straight][rows, m])
        rms, bias = np.sqrt(np.mean(difference[rows, m] ** 2)), np.mean(difference[rows, m])
        print(
            f"| {name} | {bar:.{digits}f}{unit} | {rms:.{digits}f}{unit} | {bias:+.{digits}f}{unit} | "
            f"{np.mean(ratio[rows, m] < 1):.2f} | {np.mean(ratio[rows, m] < 2):.2f} |"
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--ids", type=Path, help="names of the faces that the model has not seen")
    args = parser.parse_args()
    predictor = load_predictor(args.model, threads=1)
    drawn = draw_faces(300, seed=77, image_size=96)
    sets = {"drawn": (drawn.images, drawn.keypoints.xy, drawn.styles)}
    if args.data and args.ids:
        faces = load_collection(args.data, threads=1)
        unseen = np.isin(faces.sample_ids, args.ids.read_text().splitlines())
        labelled = faces.keypoints.labeled.all(axis=1)
        for name in ("kaggle-a", "webmorph", "helen_afw", "ytf"):
            rows = np.flatnonzero(unseen & labelled & (set_names(faces) == name))
            middle = faces.images[rows, 32:128, 32:128]
            sets[name] = (middle, faces.keypoints.xy[rows] - 32, faces.styles[rows])
    print(
        "Of the values, how many lie within one and two of their error bars (normal: 0.68, 0.95)\n"
    )
    print("| faces | unturned | within 1 | within 2 |\n|---|---|---|---|")
    answers = {}
    for name, (images, truth, styles) in sets.items():
        answers[name] = predictor.predict_batch(images, styles=styles)
        report(name, answers[name], truth, each=False)
    last = list(sets)[-2 if len(sets) > 1 else -1]
    print(f"\nEach measure on {last}\n")
    print("| measure | median error bar | RMS difference | mean | within 1 | within 2 |")
    print("|---|---|---|---|---|---|")
    report(last, answers[last], sets[last][1], each=True)


if __name__ == "__main__":
    main()
