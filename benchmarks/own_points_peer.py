"""Other tools' training on the faces of ``benchmarks.own_points``, for as long as ours took and longer.

    python -m benchmarks.own_points_peer --data DIR --peer-python VENV/bin/python [--base base.keras] [--write]

PEER_PYTHON is a Python that has ``ultralytics`` or ``sleap-nn`` or both; neither is a dependency, and a tool that it
lacks is left out with a sentence. Each tool reads what our writer made of the faces, is trained from random weights on
two threads, and predicts the test faces by its own function. Ours is trained first; its seconds are the first time
given to the others.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.finetune import split_people
from benchmarks.machine import machine
from benchmarks.own_points import error, own_faces
from facial_keypoints.data.formats import save_dataset
from facial_keypoints.inference.predictor import load_predictor
from facial_keypoints.io.images import write_image
from facial_keypoints.models.export import export_onnx
from facial_keypoints.training.finetune import finetune
from facial_keypoints.types import FaceDataset, Keypoints

HERE = Path(__file__).parent
RESULT = HERE / "results" / "own_points_peer.md"
PEERS = {"ultralytics": ("ultralytics_pose.py", "yolo"), "sleap_nn": ("sleap_single.py", "deeplabcut")}  # fmt: skip
"""The script of each package, and the format that it reads."""
ONE_TRAINING = ("sleap_nn",)
"""Packages of which one training gives the answers of all times; of the others, only the first and last are measured."""

NOTES = (
    "- Both tools begin at random weights here. Their users mostly begin at weights learnt from COCO or ImageNet, which are",
    "  downloaded when training starts; nothing could be downloaded on this machine. `finetune` begins at `base`, which",
    "  learnt from faces, but from no image, label or person of these; its own training is not counted in the times.",
    "- Ultralytics (AGPL-3.0) reads what `data convert --to yolo` writes: `yolo11n-pose.yaml`, images of 96, batches of 16 with a",
    "  step each, AdamW at 0.002 falling over the given time (its choice `auto`, MuSGD, takes longer for a step on a",
    "  processor), mirrored by our `flip_idx`, turned by up to 15 degrees, no mosaic since a face fills its image, images in",
    "  memory. All faces train, and the last averaged weights count. Otherwise its defaults.",
    "- SLEAP-NN (BSD-3-Clause) reads what `data convert --to deeplabcut` writes: its sample configuration for one instance (UNet",
    "  of 16 filters, stride 16, output at half the size, sigma 2.5, batches of 4, turned by up to 15 degrees, 0.9 to 1.1 times",
    "  as large), mirrored too, Adam at 0.001 (the default of `train`), lowered on a plateau. A tenth of the faces chooses the",
    "  weights, as by default. Points by its integral refinement, with no threshold.",
    "- 4 % of the points, of the chin mostly, lie outside the crops. Ultralytics refuses images with such points, so they are",
    "  not written, and a heat map has no place for them: hence the column of the points inside.",
    "- `sleap_nn` has one training for all times; each time of `ultralytics` is a training of its own, of the first and last only.",
    "- Settings were not searched, but those that train faster on a processor were preferred. *ms*: the least of all faces, from an array to points, by the tool's own function.",
)  # fmt: skip


def cells(answers: np.ndarray, test: FaceDataset) -> str:
    """Error of all points, and of those inside the image."""
    xy = test.keypoints.xy
    size = np.array(test.image_size[::-1])
    inside = np.where(((xy >= -0.5) & (xy <= size - 0.5)).all(-1, keepdims=True), xy, np.nan)
    # The norm pair is inside every image, so both are divided by the same distance.
    seen = replace(test, keypoints=Keypoints(inside, test.schema))
    return f"{error(answers, test):.2f} | {error(answers, seen):.2f}"


def ours(faces: FaceDataset, test: FaceDataset, base: str, folder: Path) -> tuple[str, float]:
    """Our row, and the seconds of training."""
    began = time.perf_counter()
    run = finetune(faces, folder, base=base, method="all", force=True)
    seconds = time.perf_counter() - began
    export_onnx(run.directory, folder / "exported.onnx")
    predictor = load_predictor(folder / "exported.onnx", threads=1)
    times = []
    for i in range(200):
        began = time.perf_counter()
        predictor.predict_batch(test.images[i : i + 1])
        times.append(time.perf_counter() - began)
    found = predictor.predict_batch(test.images).xy
    row = f"| `finetune --method all`, exported | {seconds:.0f} s, **same time** | | {cells(found, test)} | 0 | {1000 * min(times):.1f} |"  # fmt: skip
    return row, seconds


def peer(
    python: Path,
    package: str,
    faces: FaceDataset,
    test: FaceDataset,
    times: list[float],
    place: Path,
) -> Iterator[str]:
    """A tool's rows, one for each time."""
    script, format = PEERS[package]
    folder = place / package
    for line in save_dataset(faces, folder / "train", format):
        print(f"{package}: {line}", file=sys.stderr)
    names = faces.schema.keypoint_names
    pairs = [(names[i], names[j]) for i, j in enumerate(faces.schema.swap) if i < j]
    (folder / "train" / "symmetry.json").write_text(json.dumps(pairs), encoding="utf-8")
    (folder / "test").mkdir()
    for i, image in enumerate(test.images):
        write_image(folder / "test" / f"{i:05d}.png", image)
    command = [python, HERE / "peers" / script, folder / "train", folder / "test", folder / "out", "--seconds"]  # fmt: skip
    environment = {**os.environ, "YOLO_CONFIG_DIR": str(folder)}
    subprocess.run([*map(str, command), *(f"{t:g}" for t in times)], check=True, env=environment)
    for limit in times:
        same = ", **same time**" * (limit == times[0])
        if not (file := folder / "out" / f"{limit:g}.npz").is_file():
            yield f"| {package} | {limit:.0f} s{same} | 0 | no weights kept yet | | | |"
            continue
        found = np.load(file)
        # A face that the tool does not find gets the mean of the labelled ones.
        nothing = np.isnan(found["xy"])
        answers = np.where(nothing, faces.keypoints.xy.mean(axis=0), found["xy"])
        yield (
            f"| {package} {found['version']} | {float(found['seconds']):.0f} s{same} | {int(found['epochs'])} | "
            f"{cells(answers, test)} | {int(nothing.all(axis=(1, 2)).sum())} | {float(found['ms']):.1f} |"
        )


def main() -> None:
    """Measure and print, or write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default=os.environ.get("FACIAL_KEYPOINTS_DATA"))
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--base", default="default")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--longer", type=float, nargs="*", default=[300.0, 900.0])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.data is None or not (Path(options.data) / "wild" / "labels.csv.gz").is_file():
        print(
            "benchmarks/own_points_peer.py: skipped, --data names no folder with wild/labels.csv.gz"
        )
        return
    if options.peer_python is None or not options.peer_python.is_file():
        print(
            "benchmarks/own_points_peer.py: skipped, --peer-python names no Python with another tool"
        )
        return
    faces = own_faces(Path(options.data))
    one_each, test_rows = split_people(faces)
    test = replace(faces.subset(test_rows), styles=np.full(len(test_rows), ""))
    people = np.isin(faces.groups, faces.groups[one_each])
    pool = np.random.default_rng(1).permutation(np.flatnonzero(people))
    mine = faces.subset(np.sort(pool[: options.count]))
    mine = replace(mine, styles=np.full(len(mine), ""))
    lines = [
        f"# {options.count} faces with 68 points, taught to other tools",
        "",
        f"{time.strftime('%Y-%m-%d')} · {machine()} · `python -m benchmarks.own_points_peer --data DIR --peer-python "
        f"PYTHON --base {Path(options.base).name}`",
        "",
        f"NME in percent of the norm pair's distance on {len(test)} faces of other people.",
        "",
        "| tool | training | epochs | all points | points inside the image | faces not found | ms a face, one thread |",
        "|---" * 7 + "|",
    ]  # fmt: skip

    def note(row: str) -> None:
        print(row, file=sys.stderr, flush=True)
        lines.append(row)

    with tempfile.TemporaryDirectory() as place:
        mean = np.repeat(mine.keypoints.xy.mean(axis=0)[None], len(test), axis=0)
        note(
            f"| the mean of the labelled faces, whatever the image | | | {cells(mean, test)} | | |"
        )
        row, seconds = ours(mine, test, options.base, Path(place) / "run")
        note(row)
        for package in PEERS:
            asked = [options.peer_python, "-c", f"import {package}"]
            if subprocess.run(asked, check=False, capture_output=True).returncode:
                print(f"{package}: left out, {options.peer_python} does not have it")
                continue
            times = [round(seconds), *options.longer]
            times = times if package in ONE_TRAINING else times[:: len(times) - 1 or 1]
            for row in peer(options.peer_python, package, mine, test, times, Path(place)):  # fmt: skip
                note(row)
    text = "\n".join([*lines, "", *NOTES]) + "\n"
    print(text)
    if options.write:
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
