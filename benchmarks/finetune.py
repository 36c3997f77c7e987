"""What fine-tuning gains: a definition that the detector never saw, learnt from n labelled faces.

    python -m benchmarks.finetune --data DIR base -o base.keras      # once, about half an hour
    python -m benchmarks.finetune --data DIR measure --base base.keras [--write]

DIR holds ``facial-keypoints-detection`` and ``wild``. ``base`` trains the network of the shipped
detector on every set but those labelled after iBUG, and leaves out MTFL's images of anyone who is
in the YouTube Faces set: a shipped model that has seen neither the style nor the people. ``measure``
hands it n faces of the held-out style, and asks it about people of whom it saw nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np

from facial_keypoints.models.keras_backend import choose_backend

choose_backend()

import pandas as pd  # noqa: E402

from benchmarks.machine import machine  # noqa: E402
from facial_keypoints.data.kaggle import load_kaggle  # noqa: E402
from facial_keypoints.io.images import read_image  # noqa: E402
from facial_keypoints.models.codec import CONFIDENCE  # noqa: E402
from facial_keypoints.models.spec import ModelSpec, embed_spec  # noqa: E402
from facial_keypoints.schemas import KAGGLE15  # noqa: E402
from facial_keypoints.types import FaceDataset, Keypoints, KeypointSchema  # noqa: E402
from references.collection import CANVAS  # noqa: E402

NEW_POINTS = {
    "chin": 8,
    "nose_bridge": 27,
    "right_nostril": 31,
    "left_nostril": 35,
    "inner_lip_top": 62,
    "inner_lip_bottom": 66,
}
"""Points of iBUG's 68 that no Kaggle point is made of, with their numbers."""
BASE_STYLES = ("kaggle-a", "kaggle-b", "five")


def person_of(name: str) -> str:
    """Same key for a person in MTFL's LFW images and in YouTube Faces."""
    return name.removeprefix("lfw_5590_").rsplit("_", 1)[0]


def read_crops(data: Path, rows: pd.DataFrame) -> np.ndarray:
    """(N, 160, 160) uint8 crops of the rows."""
    images = np.empty((len(rows), CANVAS, CANVAS), np.uint8)
    for name, part in rows.groupby("set"):
        with zipfile.ZipFile(data / "wild" / f"{name}.zip") as archive:
            for i, file in zip(part.index, part["file"], strict=True):
                crop = read_image(archive.read(file), channels=1, name=file)
                images[rows.index.get_loc(i)] = crop[..., 0]
    return images


def base_faces(data: Path) -> FaceDataset:
    """Kaggle's rows and MTFL's, without the people of YouTube Faces."""
    kaggle = load_kaggle(data / "facial-keypoints-detection")
    margin = (CANVAS - 96) // 2
    around = (margin, margin)
    padded = np.pad(kaggle.images, ((0, 0), around, around, (0, 0)), "edge")
    wild = pd.read_csv(data / "wild" / "labels.csv.gz")
    known = set(wild.loc[wild["set"] == "ytf", "group"])
    mtfl = wild[(wild["set"] == "mtfl") & ~wild["file"].map(person_of).isin(known)]
    columns = [f"{name}_{axis}" for name in KAGGLE15.keypoint_names for axis in "xy"]
    xy = mtfl[columns].to_numpy(np.float32).reshape(-1, 15, 2)
    return FaceDataset(
        np.concatenate([padded, read_crops(data, mtfl)[..., np.newaxis]]),
        Keypoints(np.concatenate([kaggle.keypoints.xy + margin, xy]), KAGGLE15),
        # The identifiers name the set, which decides how a face is cropped.
        np.array([*(f"row {i}" for i in kaggle.sample_ids), *("mtfl/" + mtfl["file"])]),
        styles=np.array([*kaggle.styles, *["five"] * len(mtfl)]),
    )


def train_base(data: Path, out: Path, seconds: float) -> None:
    """Train the shipped detector's network without any iBUG label."""
    from dataclasses import replace

    from facial_keypoints.models.landmark import STUDENT
    from references.landmark.train import FitConfig, Targets, fit_network

    faces = base_faces(data)
    n, s = len(faces), len(BASE_STYLES)
    xy = np.zeros((n, s, 15, 2), np.float32)
    weight = np.zeros((n, s, 15), np.float32)
    style = np.array([BASE_STYLES.index(name) for name in faces.styles])
    xy[np.arange(n), style] = np.nan_to_num(faces.keypoints.xy)
    weight[np.arange(n), style] = faces.keypoints.labeled
    share = np.array([0.2, 0.3, 0.5]) / np.bincount(style, minlength=s)
    model = fit_network(
        replace(STUDENT, styles=BASE_STYLES),
        faces,
        Targets(xy, weight, np.zeros((n, s), np.float32)),
        share[style],
        FitConfig(steps=6000, max_seconds=seconds, batch_size=96),
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )
    model.save(out)
    spec = ModelSpec(
        "base", KAGGLE15, (96, 96), styles=BASE_STYLES, confidence=CONFIDENCE, output="points"
    )
    embed_spec(out, spec)


NOTES = (
    "- The model starts as `base`: the shipped detector's network after half an hour on 2 shared cores,",
    "  on Kaggle's rows and MTFL only. It has seen no label made by iBUG's rules, and nobody of YouTube",
    "  Faces. Its errors are higher than the shipped model's, which had longer training and every set.",
    "- *known*: the 15 points by iBUG's rules, a held-out style. *new*: chin, nose bridge, both nostrils,",
    "  inner lips above and below, points that `base` has no output for.",
    "- Half of the labelled faces are YouTube Faces frames, one a person, half Helen/AFW images.",
    "- `train cnn-flip` sees 20,000 images, all labelled faces train, and the epoch with the least",
    "  training error counts; ± is missing where it was trained once.",
    "- *seconds* include opening the model and answering the test faces.",
    "- Not shown: the shipped model on a style that it has not seen, since it has seen all there are;",
    "  other cameras than these; people who are both in Helen and among Kaggle's faces were not searched.",
)


def crop_schema() -> KeypointSchema:
    """The 15 points by iBUG's rules and six more of its points."""
    names = (*KAGGLE15.keypoint_names, *NEW_POINTS)
    swap = [*KAGGLE15.swap, *range(15, len(names))]
    for a, b in (("left_nostril", "right_nostril"),):
        i, j = names.index(a), names.index(b)
        swap[i], swap[j] = j, i
    return KeypointSchema("ibug21", names, tuple(swap), KAGGLE15.norm_pair)


def ibug_faces(data: Path) -> FaceDataset:
    """Every face labelled after iBUG, cropped as Kaggle crops (eyes at y = 33 of 96)."""
    wild = pd.read_csv(data / "wild" / "labels.csv.gz")
    rows = wild[wild["set"].isin(["ytf", "helen_afw"])]
    columns = [f"{name}_{axis}" for name in KAGGLE15.keypoint_names for axis in "xy"]
    columns += [f"ibug68_{i}_{axis}" for i in NEW_POINTS.values() for axis in "xy"]
    schema = crop_schema()
    xy = rows[columns].to_numpy(np.float32).reshape(-1, schema.num_keypoints, 2)
    return FaceDataset(
        images=read_crops(data, rows)[:, 27:123, 32:128, None],
        keypoints=Keypoints(xy - np.float32([32, 27]), schema),
        sample_ids=rows["file"].to_numpy(str),
        source="ytf and helen_afw",
        styles=rows["set"].to_numpy(str),  # the set, only to report it apart
        groups=rows["group"].to_numpy(str),
    )


def split_people(faces: FaceDataset) -> tuple[np.ndarray, np.ndarray]:
    """Rows to draw labelled faces from, one a person, and rows to test on, at most three."""
    rng = np.random.default_rng(0)
    pool, test = [], []
    for name in ("ytf", "helen_afw"):
        rows = np.flatnonzero(faces.styles == name)
        people = rng.permutation(np.unique(faces.groups[rows]))
        for i, person in enumerate(people):
            own = rng.permutation(rows[faces.groups[rows] == person])
            if i < len(people) // 2:
                pool.append(own[0])
            elif i < len(people) // 2 + 200:
                test.extend(own[:3])
    return np.array(pool), np.array(test)


def percent(answers: np.ndarray, faces: FaceDataset) -> dict[str, float]:
    """Mean point error over eye distance in percent: known and new points, by set."""
    xy = faces.keypoints.xy
    eyes = np.linalg.norm(xy[:, 0] - xy[:, 1], axis=-1)
    error = 100 * np.linalg.norm(answers - xy, axis=-1) / eyes[:, None]
    found = {}
    for name in ("ytf", "helen_afw"):
        rows = faces.styles == name
        found[f"known {name}"] = float(np.nanmean(error[rows, :15]))
        found[f"new {name}"] = float(np.nanmean(error[rows, 15:]))
    return found


def scratch(faces: FaceDataset, test: FaceDataset, folder: Path, seed: int) -> np.ndarray:
    """Answers of ``cnn-flip`` trained on the same faces until it has seen 20,000 images."""
    from facial_keypoints.data.splits import Split
    from facial_keypoints.training.fit import predict_keypoints, train
    from facial_keypoints.training.recipes import RECIPES

    none = np.empty(0, np.int64)
    recipe = RECIPES["cnn-flip"].override(epochs=20_000 // len(faces), batch_size=32, patience=0)
    run = train(
        faces, Split(np.arange(len(faces)), none, none), recipe, folder, seed=seed, force=True
    )
    return predict_keypoints(run.load_model(), test.images)


def measure(
    data: Path, base: str, counts: list[int], seeds: int, from_scratch: bool, out: Path | None
) -> None:
    """Print, and write, a table of errors by number of labelled faces."""
    from facial_keypoints.inference.predictor import load_predictor
    from facial_keypoints.training.finetune import finetune

    faces = ibug_faces(data)
    pool, test_rows = split_people(faces)
    test = faces.subset(test_rows)
    records: list[dict] = []

    def note(method: str, n: int, seed: int, answers: np.ndarray, began: float) -> None:
        row = {"faces": n, "method": method, "seed": seed, "seconds": time.perf_counter() - began}
        records.append({**row, **percent(answers, test)})
        print(json.dumps(records[-1]), file=sys.stderr, flush=True)
        write(records, test, out)

    nothing = np.full((len(test), len(NEW_POINTS), 2), np.nan, np.float32)
    as_is = {}
    for style in load_predictor(base).spec.styles:
        known = load_predictor(base, style=style).predict_batch(test.images).xy
        as_is[style] = np.concatenate([known, nothing], axis=1)
        note(f"as it is, style {style}", 0, 0, as_is[style], time.perf_counter())
    with tempfile.TemporaryDirectory() as folder:
        for n in counts:
            for seed in range(seeds):
                order = np.random.default_rng(seed + 1).permutation(pool)
                ytf, helen = (order[faces.styles[order] == s] for s in ("ytf", "helen_afw"))
                mine = faces.subset(np.concatenate([ytf[: n // 2], helen[: n - n // 2]]))
                began = time.perf_counter()
                run = finetune(mine, Path(folder) / "run", base=base, seed=seed, force=True)
                offset = np.nanmean(mine.keypoints.xy - run.base_xy, axis=0)
                answers = load_predictor(run.directory).predict_batch(test.images).xy
                note("finetune", n, seed, answers, began)
                moved = as_is[run.style] + offset
                note("as it is, mean offset of each point taken away", n, seed, moved, began)
                if from_scratch:
                    began = time.perf_counter()
                    answers = scratch(mine, test, Path(folder) / "cnn", seed)
                    note("train cnn-flip", n, seed, answers, began)


def write(records: list[dict], test: FaceDataset, out: Path | None) -> None:
    """The table in Markdown: mean over seeds, with the spread of the seeds."""
    out = out or Path(os.devnull)
    table = pd.DataFrame(records).sort_values(["faces", "method"], kind="stable")
    columns = [c for c in table.columns if c.startswith(("known", "new"))]
    lines = [
        "# Fine-tuning on a style and people that the model never saw",
        "",
        f"{time.strftime('%Y-%m-%d')} · {machine()}, shared "
        f"with other work · `python -m benchmarks.finetune --data DIR measure --base base.keras --write`",
        "",
        "Mean point error in percent of the distance between the eyes, ± the spread over seeds (which "
        f"faces are labelled). {(test.styles == 'ytf').sum()} YouTube Faces frames and "
        f"{(test.styles == 'helen_afw').sum()} Helen/AFW images of other people than those labelled.",
        "",
        "| labelled faces | method | " + " | ".join(columns) + " | seconds |",
        "|---|---|" + "---|" * (len(columns) + 1),
    ]
    for (n, method), part in table.groupby(["faces", "method"], sort=False):
        cells = []
        for column in columns:
            mean, spread = part[column].mean(), part[column].std()
            cells.append(
                "–"
                if np.isnan(mean)
                else f"{mean:.2f}" + (f" ± {spread:.2f}" if len(part) > 1 else "")
            )
        lines.append(f"| {n} | {method} | {' | '.join(cells)} | {part['seconds'].mean():.0f} |")
    out.write_text("\n".join([*lines, "", *NOTES]) + "\n", encoding="utf-8")


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default=os.environ.get("FACIAL_KEYPOINTS_DATA"))
    steps = parser.add_subparsers(dest="step")
    base = steps.add_parser("base")
    base.add_argument("-o", "--out", type=Path, required=True)
    base.add_argument("--seconds", type=float, default=1800)
    tuning = steps.add_parser("measure")
    tuning.add_argument("--base", default="default")
    tuning.add_argument("--counts", type=int, nargs="+", default=[10, 25, 50, 200])
    tuning.add_argument("--seeds", type=int, default=3)
    tuning.add_argument("--no-scratch", action="store_true", help="leave cnn-flip out")
    tuning.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.data is None or not (Path(options.data) / "wild" / "labels.csv.gz").is_file():
        print("benchmarks/finetune.py: skipped, --data names no folder with wild/labels.csv.gz")
        return
    if options.step == "base":
        train_base(Path(options.data), options.out, options.seconds)
    elif options.step == "measure":
        result = Path(__file__).parent / "results" / "finetune.md" if options.write else None
        scratch_too = not options.no_scratch
        measure(
            Path(options.data), options.base, options.counts, options.seeds, scratch_too, result
        )
    else:
        print("benchmarks/finetune.py: skipped, it takes an hour: say base, then measure")


if __name__ == "__main__":
    main()
