"""Compare models of 68 points with dlib's and MediaPipe's, on the same faces in one run.

    python -m benchmarks.compare_peers_68 --data DATA --dlib shape_predictor_68_face_landmarks.dat \
        --models ibug68 --write

Run it where `dlib-bin` and `mediapipe==0.10.14` are installed (they want numpy below 2); neither is a dependency.
`face_recognition_models` carries dlib's file. The faces are those of `ytf` and `helen_afw` whose groups are held out
(`references.collection.held_out`): `ibug68` has not learnt their 68 points. dlib's model was trained on Helen and AFW.

Errors are the mean point error in percent of the distance between the outer eye corners: all 68 points / inner 51 /
eyelids. In brackets, after each point's mean offset on these very faces is taken away, which favours
those whose definitions of the points differ from the labels' (MediaPipe's mesh, above all).

Ours get the box that the detector gives, its width and place from the labels. The square for dlib is chosen for each
set on other faces, the best of several. MediaPipe's face mesh with attention finds the face itself in the crop enlarged
three times; faces that it does not find are left out of its figures and counted.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from benchmarks.compare_peers import Answer, dlib_answer, fastest
from benchmarks.machine import machine
from facial_keypoints.geometry import EYE_LINE, FACE_SIZE
from facial_keypoints.inference.predictor import Predictor, load_predictor
from facial_keypoints.models.registry import find_model
from facial_keypoints.schemas import IBUG68
from facial_keypoints.types import FaceDataset
from references.collection import CANVAS_EYE_ROW, CANVAS_EYES_PX, held_out, load_wild

RESULT = Path(__file__).parent / "results" / "compare_peers_68.md"
PARTS = (range(68), range(17, 68), range(36, 48))

# The 68 points in the numbering of MediaPipe's mesh.
MESH = [
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389, 71, 63, 105,
    66, 107, 336, 296, 334, 293, 301, 168, 197, 5, 4, 75, 97, 2, 326, 305, 33, 160, 158, 133,
    153, 144, 362, 385, 387, 263, 373, 380, 61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,
    78, 82, 13, 312, 308, 317, 14, 87,
]  # fmt: skip


def face_square() -> np.ndarray:
    """(4,) the face box in a wild crop, xyxy."""
    side = CANVAS_EYES_PX / FACE_SIZE
    top = CANVAS_EYE_ROW + 0.5 - EYE_LINE * side
    return np.array([80 - side / 2, top, 80 + side / 2, top + side], np.float32)


def our_answer(predictor: Predictor) -> Callable[[np.ndarray], np.ndarray]:
    """68 points of a model of this package in a crop."""
    box = face_square()[np.newaxis]

    def answer(image: np.ndarray) -> np.ndarray:
        return predictor.predict_boxes(image, box).keypoints.xy[0]

    return answer


def mediapipe_answer(*, video: bool = False) -> Callable[[np.ndarray], np.ndarray]:
    """68 points by MediaPipe's face mesh with attention; NaN where it finds no face."""
    from mediapipe.python.solutions.face_mesh import FaceMesh

    mesh = FaceMesh(static_image_mode=not video, max_num_faces=1, refine_landmarks=True)

    def answer(image: np.ndarray) -> np.ndarray:
        large = cv2.cvtColor(cv2.resize(image, None, fx=3, fy=3), cv2.COLOR_GRAY2RGB)
        found = mesh.process(large).multi_face_landmarks
        if not found:
            return np.full((68, 2), np.nan)
        points = np.array([(p.x, p.y) for p in found[0].landmark])[MESH]
        return points * image.shape[::-1] - 0.5

    return answer


def best_square(answer: Answer, tune: FaceDataset) -> Callable[[np.ndarray], np.ndarray]:
    """A peer that is given a square: the one that suits other faces best."""
    squares = itertools.product(
        (79.5,), CANVAS_EYE_ROW + np.array([8.0, 14.0, 20.0, 26.0]), (72, 84, 96)
    )
    best = min(
        squares,
        key=lambda s: errors(tune, np.stack([answer(i, s) for i in tune.images[..., 0]]))[0][0],
    )
    return lambda image: answer(image, best)


def errors(faces: FaceDataset, xy: np.ndarray) -> tuple[list[float], list[float]]:
    """Errors of the parts in percent, as is and with each point's mean offset taken away."""
    truth = faces.keypoints.xy
    first, second = IBUG68.norm_indices
    eyes = np.linalg.norm(truth[:, first] - truth[:, second], axis=-1)[:, np.newaxis]
    gaps = xy - truth
    kinds = gaps, gaps - np.nanmean(gaps, axis=0)
    each = [100 * np.linalg.norm(gap, axis=-1) / eyes for gap in kinds]
    asis, removed = ([float(np.nanmean(e[:, list(p)])) for p in PARTS] for e in each)
    return asis, removed


def measure(data: Path, dlib_file: Path, models: list[str], most: int) -> list[str]:
    """The lines of the result."""
    rng = np.random.default_rng(0)
    ours = {name: load_predictor(name, threads=1) for name in models}
    dlib_ = dlib_answer(dlib_file)
    names = [*ours, "dlib, 68 points", "MediaPipe mesh with attention"]
    lines = [f"| set | faces | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for part in load_wild(data / "wild", 2, IBUG68):
        held = held_out(part)
        test = part.subset(rng.permutation(np.flatnonzero(held))[:most])
        tune = part.subset(rng.permutation(np.flatnonzero(~held))[:40])
        answers = [our_answer(p) for p in ours.values()]
        answers += [best_square(dlib_, tune), mediapipe_answer()]
        cells = []
        for answer in answers:
            xy = np.stack([answer(image) for image in test.images[..., 0]])
            asis, removed = (" / ".join(f"{v:.2f}" for v in e) for e in errors(test, xy))
            lost = int(np.isnan(xy[:, 0, 0]).sum())
            cells.append(f"{asis} ({removed}){f', {lost} faces not found' if lost else ''}")
        lines.append(f"| {part.source} | {len(test)} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)

    image = test.images[0, ..., 0]
    video = mediapipe_answer(video=True)
    runs: dict[str, Callable[[], object]] = {
        "dlib, 68 points": lambda: dlib_(image, (79.5, 78.0, 84.0)),
        "MediaPipe mesh with attention, as on a video": lambda: video(image),
    }
    for name in ["default", *ours]:
        runtime = load_predictor(name, threads=1).runtime
        side = runtime.spec.input_size[0]
        view = cv2.resize(image, (side, side))[np.newaxis, ..., np.newaxis]
        runs[name] = lambda runtime=runtime, view=view: runtime.run(view)
    times = fastest(runs)
    dlib_time = times["dlib, 68 points"]
    import mediapipe

    mesh_file = (
        Path(mediapipe.__file__).parent
        / "modules/face_landmark/face_landmark_with_attention.tflite"
    )
    files = {name: find_model(name) for name in ["default", *ours]}
    files |= {
        "dlib, 68 points": dlib_file,
        "MediaPipe mesh with attention, as on a video": mesh_file,
    }
    lines += [
        "",
        "| one face, one thread, least of many | ms | dlib's time | file, MB |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {1e3 * t:.3f} | {t / dlib_time:.2f} | {files[name].stat().st_size / 1e6:.1f} |"
        for name, t in sorted(times.items(), key=lambda item: item[1])
    ]
    return lines


def main() -> None:
    """Measure and print, or write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("FACIAL_KEYPOINTS_DATA"))
    parser.add_argument("--dlib", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["ibug68"])
    parser.add_argument("--faces", type=int, default=400, help="at most so many of each set")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.data is None or not (Path(options.data) / "wild" / "labels.csv.gz").is_file():
        print(
            "benchmarks/compare_peers_68.py: skipped, --data names no folder with wild/labels.csv.gz"
        )
        return
    lines = [
        "# 68 points beside dlib and MediaPipe",
        "",
        f"{time.strftime('%Y-%m-%d')} · {machine()}, shared with other work · `python -m "
        "benchmarks.compare_peers_68 --data DIR --dlib FILE`",
        "",
        "Mean point error in % of the distance between the outer eye corners, all 68 points / inner 51 / eyelids; in",
        "brackets with each point's mean offset on these faces taken away. Held-out groups, on which the step to keep",
        "was chosen; the convolutions of `ibug68` start from `default`, which learnt 15 points of these faces.",
        "",
        *measure(Path(options.data), options.dlib, options.models, options.faces),
    ]  # fmt: skip
    text = "\n".join(lines) + "\n"
    print(text)
    if options.write:
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
