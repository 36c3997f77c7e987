"""Every network of the package on the same faces, which none of them has learnt from.

Run: ``python benchmarks/family_table.py --data KAGGLE --runs DIR --validated MODEL --ids FILE [--write]``.
KAGGLE is the folder of Kaggle's files that the runs were trained on (FACIAL_KEYPOINTS_DATA), DIR the
``runs`` folder of ``facial-keypoints compare``, MODEL the shipped detector's cross-validation model
(``networks/cross_validation.keras`` with its description, or its ONNX file) and FILE its ``held_out.txt``. Measured are the rows that are in
the test part of the runs' split and in FILE.
"""

from __future__ import annotations

import argparse
import datetime
import os
from pathlib import Path

import numpy as np

from facial_keypoints.data import load_dataset
from facial_keypoints.data.splits import Split
from facial_keypoints.evaluation.scores import EvaluationReport, evaluate_predictions
from facial_keypoints.inference.predictor import Predictor
from facial_keypoints.models.runtime import load_runtime

RESULT = Path(__file__).parent / "results" / "family_table.md"
RECIPES = ("fc", "cnn", "cnn-flip", "specialists")
ENSEMBLE = RECIPES[1:]


def row(name: str, report: EvaluationReport) -> str:
    """One line of the table."""
    cells = [f"{report.overall.rmse_px:.2f}"]
    for style in ("kaggle-a", "kaggle-b"):
        scores = report.by_style[style]
        low, high = scores.rmse_interval
        cells += [f"{scores.rmse_px:.2f} ({low:.2f}–{high:.2f})", f"{scores.median_px:.2f}"]
    return f"| {name} | {' | '.join(cells)} | {100 * report.overall.nme:.1f} % |"


def main() -> None:
    """Score all, print the table, and write it with ``--write``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("FACIAL_KEYPOINTS_DATA"))
    parser.add_argument("--runs", type=Path, help="folder of run folders, named by recipe")
    parser.add_argument("--validated", type=Path, help="the cross-validation model")
    parser.add_argument("--ids", type=Path, help="names of the faces that it has not seen")
    parser.add_argument("--group-by", help="column of persons, if the data has one")
    parser.add_argument("--write", action="store_true", help=f"write results/{RESULT.name}")
    args = parser.parse_args()
    if not (args.data and args.runs and args.validated and args.ids):
        print("benchmarks/family_table.py: skipped, it needs --data, --runs, --validated and --ids")
        return

    faces = load_dataset(args.data, group_by=args.group_by)
    tests = [Split.load(args.runs / name / "split.json").test for name in RECIPES]
    if any(not np.array_equal(np.sort(tests[0]), np.sort(other)) for other in tests):
        parser.error("the runs were not made with one split: their tables would not compare")
    unseen = set(args.ids.read_text(encoding="utf-8").splitlines())
    rows = np.array([i for i in np.sort(tests[0]) if f"row {faces.sample_ids[i]}" in unseen])
    part = faces.subset(rows)

    answers = {
        f"`{name}`": Predictor(load_runtime(args.runs / name)).predict_batch(part.images).xy
        for name in RECIPES
    }
    answers[f"mean of {', '.join(f'`{n}`' for n in ENSEMBLE)}"] = np.mean(
        [answers[f"`{name}`"] for name in ENSEMBLE], axis=0
    )
    validated = load_runtime(args.validated)
    for name, tta in (
        ("`default`, trained without the fold", False),
        ("the same with TTA, as in `submit`", True),
    ):
        predictor = Predictor(validated, tta=tta)
        answers[name] = predictor.predict_batch(part.images, styles=part.styles).xy

    count = {s: int((part.styles == s).sum()) for s in ("kaggle-a", "kaggle-b")}
    lines = [
        "# The whole family on the same faces",
        "",
        f"{datetime.date.today()} · `python benchmarks/family_table.py --write` · {len(part)} rows of "
        f"Kaggle's training file, {count['kaggle-a']} of style A and {count['kaggle-b']} of style B, that "
        "are in the test part of the study's split and in the fold that the detector's cross-validation model has not seen. "
        "RMSE in pixels of 96 with 95 % intervals (bootstrap over groups).",
        "",
        "| | RMSE, all | style A | median, A | style B | median, B | NME |",
        "|---|---|---|---|---|---|---|",
        *(row(name, evaluate_predictions(part, xy)) for name, xy in answers.items()),
    ]
    print("\n".join(lines))
    if args.write:
        RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
