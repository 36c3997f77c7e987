"""The study's questions on Kaggle's rows: seeds, mirroring, fillings, specialists, styles, number of faces.

Run: ``python benchmarks/study.py --data KAGGLE --runs DIR [--group-by COLUMN] [--only NAME ...] [--write]``.
KAGGLE is the folder of Kaggle's files (FACIAL_KEYPOINTS_DATA). All runs have the split of ``compare``. They
take hours: DIR keeps each run, an interrupted call continues where it was, and a finished run is only read.
The tables show the runs that are finished.
"""

from __future__ import annotations

import argparse
import datetime
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from numpy.typing import NDArray

from facial_keypoints.data import load_dataset
from facial_keypoints.data.splits import Split
from facial_keypoints.evaluation.metrics import (
    bootstrap_rmse,
    percentile_interval,
    rmse,
    squared_errors,
)
from facial_keypoints.training.recipes import RECIPES, Recipe
from facial_keypoints.types import BoolArray, FaceDataset, Keypoints, KeypointSchema

RESULT = Path(__file__).parent / "results" / "study.md"
LONG, SHORT = 60, 30  # epochs of the main runs, and of those that answer the other questions
SHARES = (8, 4, 2)  # the learning curve: an eighth, a quarter, half of the training groups
Points = NDArray[np.float32]


@dataclass(frozen=True)
class Trial:
    """A run: a recipe with a seed, on a share of the training faces."""

    recipe: Recipe
    seed: int = 0
    share: int = 1  # one group of training faces in so many
    by_style: bool = False  # an output of its own for each label style

    @property
    def name(self) -> str:
        """Name of its folder."""
        parts = [self.recipe.name, str(self.recipe.epochs), f"s{self.seed}"]
        parts += [self.recipe.missing] * (self.recipe.missing != "mask")
        parts += [f"share{self.share}"] * (self.share > 1)
        parts += ["styles"] * self.by_style
        return "-".join(parts)


def trials() -> list[Trial]:
    """All runs, in the order in which they are trained."""
    short = RECIPES["cnn"].override(epochs=SHORT)
    landmark = RECIPES["landmark"]
    main = [
        Trial(RECIPES[name].override(epochs=LONG), seed)
        for seed in range(3)
        for name in ("fc", "cnn", "cnn-flip")
    ]
    return [
        Trial(landmark),
        *main[:6],
        *(Trial(short, by_style=by_style) for by_style in (False, True)),
        *(Trial(short.override(missing=m)) for m in ("interpolate", "mean", "drop")),
        Trial(RECIPES["specialists"].override(epochs=LONG)),
        *main[6:],
        *(Trial(short, share=share) for share in SHARES),
        Trial(landmark, 1),
        Trial(landmark, 2),
        *(Trial(landmark, share=share) for share in SHARES),
        Trial(short.override(missing="ffill")),
    ]


def split_styles(faces: FaceDataset, styles: Sequence[str]) -> tuple[FaceDataset, BoolArray]:
    """The faces with a keypoint of its own for each label style that labels it.

    Returns:
        The faces, NaN in the keypoints of other styles, and (S, K) which keypoints there are.
    """
    schema, k = faces.schema, faces.schema.num_keypoints
    xy = np.full((len(faces), len(styles), k, 2), np.nan, np.float32)
    for number, style in enumerate(styles):
        rows = faces.styles == style
        xy[rows, number] = faces.keypoints.xy[rows]
    there = ~np.isnan(xy[..., 0]).all(axis=0)
    pairs = [(n, i) for n, i in np.argwhere(there).tolist()]
    names = tuple(f"{schema.keypoint_names[i]} {styles[n]}" for n, i in pairs)
    swap = tuple(pairs.index((n, schema.swap[i])) for n, i in pairs)
    norm = (f"{schema.norm_pair[0]} {styles[0]}", f"{schema.norm_pair[1]} {styles[0]}")
    own = KeypointSchema(f"{schema.name} by style", names, swap, norm)
    return replace(faces, keypoints=Keypoints(xy[:, there], own)), there


def run_trial(trial: Trial, faces: FaceDataset, split: Split, runs: Path) -> Mapping[str, Points]:
    """Train a run, or read it; returns its predictions (N, K, 2) of the validation and test faces."""
    file = runs / f"{trial.name}.npz"
    if not file.exists():
        import keras

        from facial_keypoints.training.fit import predict_run, train

        class Log(keras.callbacks.Callback):  # type: ignore[misc]
            def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
                if epoch % 5 == 4:
                    error = (logs or {}).get("val_rmse_px", float("nan"))
                    print(f"{trial.name} {epoch + 1} {error:.3f} {time.strftime('%T')}", flush=True)

        data, part, warm = faces, split, None
        styles = [s for s in faces.schema.styles if s in set(faces.styles)]
        if trial.by_style:
            data, there = split_styles(faces, styles)
        if trial.share > 1:
            groups = np.unique(faces.groups[split.train])
            kept = np.random.default_rng(trial.seed).permutation(groups)[:: trial.share]
            part = replace(split, train=split.train[np.isin(faces.groups[split.train], kept)])
        if trial.recipe.specialists:
            warm = runs / f"cnn-{trial.recipe.epochs}-s{trial.seed}"
        run = train(
            data, part, trial.recipe, runs / trial.name,
            seed=trial.seed, resume=True, warm_start=warm, callbacks=[Log()],
        )  # fmt: skip
        predicted = {}
        for name, rows in (("val", split.val), ("test", split.test)):
            xy = predict_run(run, data.subset(rows))
            if trial.by_style:
                style = np.array([styles.index(s) for s in faces.styles[rows]])
                full = np.full((len(xy), *there.shape, 2), np.nan, np.float32)
                full[:, there] = xy
                xy = full[np.arange(len(xy)), style]
            predicted[name] = xy.astype(np.float32)
        np.savez_compressed(file, **predicted)  # type: ignore[arg-type]
    with np.load(file) as arrays:
        return {name: arrays[name] for name in ("val", "test")}


def _px(draws: NDArray[np.float64], value: float, sign: str = "") -> str:
    low, high = percentile_interval(draws)
    return f"{value:{sign}.2f} ({low:{sign}.2f} to {high:{sign}.2f})"


def scores(truth: FaceDataset, xys: Sequence[Points]) -> list[str]:
    """RMSE over all test faces and by style, mean of runs, with intervals over groups."""
    cells = []
    for style in (None, *(s for s in truth.schema.styles if s in set(truth.styles))):
        rows = np.arange(len(truth)) if style is None else np.flatnonzero(truth.styles == style)
        part = truth.subset(rows)
        squared = np.stack([squared_errors(part.keypoints.xy, xy[rows]) for xy in xys], axis=1)
        draws = bootstrap_rmse(squared.reshape(*squared.shape[:2], -1), part.groups)
        value = np.mean([rmse(part.keypoints.xy, xy[rows]) for xy in xys])
        cells.append(_px(draws.mean(axis=1), float(value)))
    return cells


def difference(truth: FaceDataset, first: Sequence[Points], second: Sequence[Points]) -> str:
    """RMSE of the second runs minus that of the first, on the same draws of groups."""
    both = [*first, *second]
    squared = np.stack([squared_errors(truth.keypoints.xy, xy) for xy in both], axis=1)
    draws = bootstrap_rmse(squared.reshape(*squared.shape[:2], -1), truth.groups)
    errors = np.array([rmse(truth.keypoints.xy, xy) for xy in both])

    def change(values: NDArray[np.float64]) -> Any:
        return values[..., len(first) :].mean(axis=-1) - values[..., : len(first)].mean(axis=-1)

    return _px(change(draws), float(change(errors)), "+")


def main() -> None:
    """Train what is missing, print the tables, and write them with ``--write``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("FACIAL_KEYPOINTS_DATA"))
    parser.add_argument("--runs", type=Path, help="folder that keeps the runs")
    parser.add_argument("--group-by", help="column of persons, if the data has one")
    parser.add_argument("--only", nargs="*", help="names of runs to train; none = train nothing")
    parser.add_argument("--write", action="store_true", help=f"write results/{RESULT.name}")
    args = parser.parse_args()
    if not (args.data and args.runs):
        print("benchmarks/study.py: skipped, it needs --data and --runs")
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from facial_keypoints.training.fit import split_faces

    faces, (split,), _ = split_faces(load_dataset(args.data, group_by=args.group_by))
    test, val = faces.subset(split.test), faces.subset(split.val)
    found: dict[str, Mapping[str, Points]] = {}
    for trial in trials():
        wanted = args.only is None or trial.name in args.only
        if wanted or (args.runs / f"{trial.name}.npz").exists():
            found[trial.name] = run_trial(trial, faces, split, args.runs)
            error = rmse(test.keypoints.xy, found[trial.name]["test"])
            print(f"{trial.name}: {error:.3f} px on the test faces", flush=True)

    text = tables(found, test, val, len(split.train))
    print(text)
    if args.write:
        RESULT.write_text(text, encoding="utf-8")


def tables(
    found: Mapping[str, Mapping[str, Points]], test: FaceDataset, val: FaceDataset, trained: int
) -> str:
    """All tables as Markdown."""
    lines = [
        "# The study's questions on Kaggle's rows",
        "",
        f"{datetime.date.today()} · `python benchmarks/study.py --write` · {machine()}. {trained} rows train, "
        f"{len(val)} choose the epoch, {len(test)} test, split by person and near-duplicates. RMSE in pixels of "
        "96 with 95 % intervals (bootstrap over groups), mean of the seeds; differences are on the same draws.",
        "",
        "| run | seeds | validation | test, all | style A | style B |",
        "|---|---|---|---|---|---|",
    ]
    kinds: dict[str, list[Mapping[str, Points]]] = {}
    for trial in trials():
        if trial.name in found:
            kind = trial.name.replace(f"-s{trial.seed}", "", 1)
            kinds.setdefault(kind, []).append(found[trial.name])
    for kind, runs in kinds.items():
        errors = ", ".join(f"{rmse(val.keypoints.xy, run['val']):.2f}" for run in runs)
        cells = scores(test, [run["test"] for run in runs])
        lines.append(f"| `{kind}` | {len(runs)} | {errors} | {' | '.join(cells)} |")
    pairs = [
        (f"cnn-{LONG}", f"fc-{LONG}"),
        (f"cnn-{LONG}", f"cnn-flip-{LONG}"),
        (f"cnn-{LONG}", f"specialists-{LONG}"),
        (f"cnn-{LONG}", f"landmark-{RECIPES['landmark'].epochs}"),
        *((f"cnn-{SHORT}", f"cnn-{SHORT}-{m}") for m in ("interpolate", "mean", "ffill", "drop")),
        (f"cnn-{SHORT}", f"cnn-{SHORT}-styles"),
    ]
    lines += ["", "| from | to | test error changes by |", "|---|---|---|"]
    lines += [
        f"| `{a}` | `{b}` | {difference(test, *([run['test'] for run in kinds[n]] for n in (a, b)))} |"
        for a, b in pairs
        if a in kinds and b in kinds
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
