"""What n labelled faces give for 68 points that the base does not know, on people whom it was not taught.

    python -m benchmarks.own_points --data DIR [--base base.keras] [--counts 100 500] [--write]

DIR holds ``wild``, whose 68 iBUG points are taken as if they were somebody's own. Beside the two methods of
``finetune`` stands the study's CNN, trained on the same faces for as long as the slower of them took. With the base of
``benchmarks.finetune``, nobody of the test faces was among the base's training faces; ``default`` has seen their
images.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from facial_keypoints.models.keras_backend import choose_backend

choose_backend()

import pandas as pd  # noqa: E402

from benchmarks.finetune import read_crops, split_people  # noqa: E402
from benchmarks.machine import machine  # noqa: E402
from facial_keypoints.evaluation.metrics import face_nme  # noqa: E402
from facial_keypoints.schemas import IBUG68  # noqa: E402
from facial_keypoints.types import FaceDataset, Keypoints  # noqa: E402

RESULT = Path(__file__).parent / "results" / "own_points.md"


def own_faces(data: Path) -> FaceDataset:
    """Every face with 68 points, cropped as Kaggle crops, its person as its group."""
    wild = pd.read_csv(data / "wild" / "labels.csv.gz")
    rows = wild[wild["set"].isin(["ytf", "helen_afw"])]
    columns = [f"ibug68_{i}_{axis}" for i in range(68) for axis in "xy"]
    xy = rows[columns].to_numpy(np.float32).reshape(-1, 68, 2) - np.float32([32, 27])
    return FaceDataset(
        images=read_crops(data, rows)[:, 27:123, 32:128, None],
        keypoints=Keypoints(xy, IBUG68),
        sample_ids=rows["file"].to_numpy(str),
        source="68 points of ytf and helen_afw",
        styles=rows["set"].to_numpy(str),
        groups=rows["group"].to_numpy(str),
    )


def error(answers: np.ndarray, faces: FaceDataset) -> float:
    """NME in percent of the distance of the norm pair."""
    first, second = (faces.schema.index(name) for name in faces.schema.norm_pair)
    return float(100 * np.nanmean(face_nme(faces.keypoints.xy, answers, (first, second))))


def cnn_for(faces: FaceDataset, test: FaceDataset, folder: Path, seconds: float) -> float:
    """Error of the study's CNN with mirrored images, trained for that many seconds."""
    from facial_keypoints.data.splits import split_dataset
    from facial_keypoints.training.fit import predict_keypoints, train
    from facial_keypoints.training.recipes import RECIPES

    split = split_dataset(faces, seed=0, fractions=(0.8, 0.1, 0.1))
    recipe = RECIPES["cnn-flip"]
    began = time.perf_counter()
    train(faces, split, recipe.override(epochs=4), folder, force=True)
    an_epoch = (time.perf_counter() - began) / 4
    recipe = recipe.override(epochs=max(4, int(seconds / an_epoch)))
    run = train(faces, split, recipe, folder, force=True)
    return error(predict_keypoints(run.load_model(), test.images), test)


def measure(data: Path, base: str, counts: list[int], methods: list[str]) -> Iterator[str]:
    """Rows of the table."""
    from facial_keypoints.inference.predictor import load_predictor
    from facial_keypoints.training.finetune import finetune

    faces = own_faces(data)
    one_each, test_rows = split_people(faces)
    test = replace(faces.subset(test_rows), styles=np.full(len(test_rows), ""))
    people = np.isin(faces.groups, faces.groups[one_each])
    pool = np.random.default_rng(1).permutation(np.flatnonzero(people))
    with tempfile.TemporaryDirectory() as place:
        for count in counts:
            mine = faces.subset(np.sort(pool[:count]))
            mine, longest, twice = replace(mine, styles=np.full(len(mine), "")), 0.0, "–"
            cells = []
            for method in methods:
                began = time.perf_counter()
                run = finetune(mine, Path(place) / "run", base=base, method=method, force=True)
                seconds = time.perf_counter() - began
                longest = max(longest, seconds)
                found = load_predictor(run.directory).predict_batch(test.images).xy
                cells.append(f"{error(found, test):.2f} ({seconds:.0f} s)")
                if run.record.get("learning_curve"):
                    last = run.record["learning_curve"][-1]
                    twice = f"{100 * last['nme']:.2f}"
            cells.append(f"{cnn_for(mine, test, Path(place) / 'cnn', longest):.2f}")
            yield f"| {len(mine)} | {' | '.join(cells)} | {twice} |"


def main() -> None:
    """Measure and print, or write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default=os.environ.get("FACIAL_KEYPOINTS_DATA"))
    parser.add_argument("--base", default="default")
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--methods", nargs="+", default=["head", "all"])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.data is None or not (Path(options.data) / "wild" / "labels.csv.gz").is_file():
        print("benchmarks/own_points.py: skipped, --data names no folder with wild/labels.csv.gz")
        return
    lines = [
        "# 68 points that the base does not know",
        "",
        f"{time.strftime('%Y-%m-%d')} · {machine()}, shared with other work · `python -m benchmarks.own_points "
        f"--data DIR --base {Path(options.base).name}`",
        "",
        "NME in percent of the norm pair's distance, on other people than those labelled.",
        "",
        f"| labelled faces | {' | '.join(options.methods)} | cnn-flip, as long as the slowest | the head's learning "
        "curve says of twice the labels |",
        "|---" * (len(options.methods) + 3) + "|",
    ]
    for row in measure(Path(options.data), options.base, options.counts, options.methods):
        print(row, file=sys.stderr, flush=True)
        lines.append(row)
    text = "\n".join(lines) + "\n"
    print(text)
    if options.write:
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
