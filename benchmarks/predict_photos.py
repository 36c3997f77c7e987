"""The whole chain on photos: faces found, error of their points, and where the time goes.

Run: ``python benchmarks/predict_photos.py --data DIR [--write]``, DIR with ``photos/eval.zip`` and
``photos/eval_faces.csv`` (or the environment variable ``FACIAL_KEYPOINTS_DATA``). One thread. A labelled
face counts as found if a box shares half its area with the box of its points (intersection over
union); its points are answered in the style of the labels (``kaggle-b``). 50 of the 200 photos have a copy among those
that the models learnt from (``detect_faces.py`` counts the faces found in the others alone).
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import time
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from machine import machine

from facial_keypoints import Predictor, load_predictor, read_image
from facial_keypoints.geometry import box_to_crop, face_boxes, iou
from facial_keypoints.inference.refine import predict_views
from facial_keypoints.schemas import KAGGLE15

RESULT = Path(__file__).parent / "results" / "predict_photos.md"
# Names of the labels, and the keypoints that answer them in style kaggle-b.
POINTS = {
    "left_eye_center": "left_eye_center",
    "right_eye_center": "right_eye_center",
    "nose": "nose_tip",
    "mouth_center": "mouth_center_bottom_lip",
}
INDEX = [KAGGLE15.index(name) for name in POINTS.values()]


def read_labels(path: Path) -> dict[str, np.ndarray]:
    """(N, 15, 2) points of each photo's faces; the mouth's centre stands for both its corners."""
    faces = defaultdict(list)
    with path.open() as handle:
        for row in csv.DictReader(handle):
            xy = np.full((15, 2), np.nan)
            for label, name in POINTS.items():
                xy[KAGGLE15.index(name)] = float(row[f"{label}_x"]), float(row[f"{label}_y"])
            for corner in ("mouth_left_corner", "mouth_right_corner"):
                xy[KAGGLE15.index(corner)] = xy[KAGGLE15.index("mouth_center_bottom_lip")]
            faces[row["file"]].append(xy)
    return {name: np.array(xy) for name, xy in faces.items()}


def timed(seconds: dict[str, list[float]], stage: str, started: float) -> float:
    """Book the time since ``started``; the time now."""
    now = time.perf_counter()
    seconds[stage].append(now - started)
    return now


def measure(predictor: Predictor, archive: Path, labels: dict[str, np.ndarray]) -> list[str]:
    """Lines of the result."""
    error: dict[str, list[float]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    found = total = extra = 0
    confidence: dict[bool, list[float]] = defaultdict(list)
    with zipfile.ZipFile(archive) as photos:
        names = [name for name in photos.namelist() if name in labels]
        for name in names:
            content = photos.read(name)
            clock = time.perf_counter()
            photo = read_image(content, channels=3)
            clock = timed(seconds, "decode", clock)
            detected = predictor.detect(photo)
            clock = timed(seconds, "detect", clock)
            crops = [box_to_crop(box, predictor.spec.input_size) for box in detected.boxes]
            predict_views(predictor.runtime, [photo] * len(crops), crops)
            clock = timed(seconds, "points, first prediction alone", clock)
            predictor.predict_boxes(photo, detected.boxes, angles=detected.angles)
            clock = timed(seconds, "points, refined", clock)
            refined = predictor.predict(photo)
            timed(seconds, "detect, points refined", clock)
            # The first predictions of the boxes that were kept.
            crops = [box_to_crop(box, predictor.spec.input_size) for box in refined.boxes]
            style = predictor.spec.styles.index(predictor.style)
            first = predict_views(predictor.runtime, [photo] * len(crops), crops)[:, style, :, :2]
            boxes = refined.boxes
            truth = labels[name]
            ious = iou(face_boxes(truth, KAGGLE15), boxes)
            total += len(truth)
            hit = ious.max(axis=1, initial=0.0) >= 0.5
            found += int(hit.sum())
            real = ious.max(axis=0, initial=0.0) >= 0.3
            extra += int((~real).sum())
            if refined.keypoints.confidence is not None:
                for known, value in zip(
                    real, refined.keypoints.confidence.mean(axis=1), strict=True
                ):
                    confidence[bool(known)].append(float(value))
            for face in np.flatnonzero(hit):
                box = int(ious[face].argmax())
                left, right = (truth[face, KAGGLE15.index(n)] for n in list(POINTS)[:2])
                for answer, xy in (
                    ("first prediction", first[box]),
                    ("refined", refined.keypoints.xy[box]),
                ):
                    apart = np.linalg.norm(xy[INDEX] - truth[face, INDEX], axis=1).mean()
                    error[answer].append(100 * apart / np.linalg.norm(left - right))
    lines = [
        f"{len(names)} photos, {total} labelled faces: **{found} found ({found / total:.3f})**; "
        f"{extra} boxes on no labelled face ({100 * extra / len(names):.1f} per 100 photos; most are faces "
        "without a label).",
        "",
        "| points of the found faces, error in % of the eyes' distance | mean | median | 95th percentile |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {answer} | {np.mean(e):.2f} | {np.median(e):.2f} | {np.percentile(e, 95):.2f} |"
        for answer, e in error.items()
    ]
    lines += ["", "| stage | median ms a photo | mean ms |", "|---|---|---|"]
    lines += [
        f"| {stage} | {1e3 * np.median(s):.2f} | {1e3 * np.mean(s):.2f} |"
        for stage, s in seconds.items()
    ]
    lines += [
        "",
        "| mean confidence of the points, of boxes | number | lowest tenth below | median |",
    ]
    lines += ["|---|---|---|---|"]
    lines += [
        f"| {'on labelled faces' if known else 'on no labelled face'} | {len(v)} | "
        f"{np.percentile(v, 10):.2f} | {np.median(v):.2f} |"
        for known, v in confidence.items()
    ]
    return lines


def main() -> None:
    """Answer every photo, print the tables, and write them with ``--write``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("FACIAL_KEYPOINTS_DATA"), required=False
    )
    parser.add_argument("--detector", default="default")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.data is None:
        parser.error("say where the photos are: --data DIR")
    folder = Path(options.data) / "photos"
    predictor = load_predictor(style="kaggle-b", threads=1, detector=options.detector)
    lines = measure(predictor, folder / "eval.zip", read_labels(folder / "eval_faces.csv"))
    head = [
        "# Whole photos: detect, crop, answer",
        "",
        f"{datetime.date.today()} · {machine()}, one thread · 200 "
        "colour photos at full size (Caltech 10,000 Web Faces, four labelled points a face) · "
        "`python benchmarks/predict_photos.py --write`",
        "",
    ]
    text = "\n".join([*head, *lines]) + "\n"
    print(text)
    if options.write:
        RESULT.write_text(text)


if __name__ == "__main__":
    main()
