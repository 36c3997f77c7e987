"""Faces of any size, in any image, whichever way it lies: what is found, and what it costs.

    python -m benchmarks.find_faces --data DIR --keep OUT/sets.pkl [--peers dlib,blazeface,centerface]

Sets are made from the whole photos of the data folder's ``photos``: the one in ten of ``train.zip`` that
``references/face_detector`` holds out, for choosing, or with ``--photos eval`` those of ``eval.zip``,
for reporting.

- *ordinary*: the photos as they are.
- *mosaic*: 8000x6000 pixels, filled with the photos at their own size.
- *close-up*: 2.4 eye distances around a face, enlarged to 900x900 pixels.
- *turned*: the photos turned by 90, 180 and 270 degrees.

A labelled face is *found* if a predicted face has both eye centres within half an eye distance of its own;
its points are *right* if their mean error is less than a tenth. Points are judged where the eyes are 20 pixels apart or
more: the labels were clicked to about 1.4 pixels, whatever the size of the face. A face is *unmatched* if its eyes lie near those of
no labelled face; not every face is labelled, so ``--show DIR`` writes images to look at: of the unmatched
(green) and of the missed (red). Images are decoded before the clock starts.

Peers (the packages that ``benchmarks/detect_faces.py`` names) report boxes: a face is found if one has an IoU of 0.3
with its face box. They use one thread, ours every core.
"""

from __future__ import annotations

import argparse
import os
import pickle
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks.detect_faces import Detect, blaze_detect, center_detect, dlib_detect, read
from benchmarks.machine import machine
from facial_keypoints.geometry import EYE_LINE, FACE_SIZE, iou
from facial_keypoints.inference.detector import EFFORTS, load_detector
from facial_keypoints.inference.predictor import Predictor, load_predictor
from facial_keypoints.io.images import write_image
from facial_keypoints.schemas import KAGGLE15
from references.face_detector.train import load_photos, split_photos

MOSAIC = (6000, 8000)
TURNS = {f"turned {90 * turns}": turns for turns in (1, 2, 3)}
CLOSE_UP, SMALLEST_EYES = 900, 25.0
JUDGED_EYES = 20.0
EYES = [KAGGLE15.index(name) for name in ("right_eye_center", "left_eye_center")]


@dataclass(eq=False)
class Labelled:
    """An image (H, W, 1 or 3) and the eye centres (N, 2, 2) of its labelled faces, the right one first."""

    image: np.ndarray
    eyes: np.ndarray


def photos_of(data: Path, photos: str) -> list[Labelled]:
    """The photos that the sets are made from."""
    if photos == "eval":
        _, images, points = read(data / "photos")
        return [Labelled(i, p[:, :2]) for i, p in zip(images, points, strict=True)]
    held_out = split_photos(load_photos(data / "photos"))[1]
    return [Labelled(p.image[..., None], p.points[p.labelled][:, :2]) for p in held_out]


def mosaics(photos: list[Labelled]) -> list[Labelled]:
    """Images with the photos side by side in rows; the last one is filled with the first photos again."""
    height, width = MOSAIC
    made, left = [], list(photos)
    while left:
        canvas = np.zeros((*MOSAIC, photos[0].image.shape[2]), np.uint8)
        eyes, x, y, row = [], 0, 0, 0
        for photo in [*left, *photos]:
            h, w = photo.image.shape[:2]
            if x + w > width:
                x, y, row = 0, y + row, 0
            if y + h > height:
                break
            canvas[y : y + h, x : x + w] = photo.image
            eyes.append(photo.eyes + np.array([x, y]))
            x, row, left = x + w, max(row, h), left[1:]
        made.append(Labelled(canvas, np.concatenate(eyes)))
    return made


def close_ups(photos: list[Labelled]) -> list[Labelled]:
    """Each labelled face whose eyes are far enough apart, larger than its image."""
    made = []
    for photo in photos:
        for eyes in photo.eyes:
            apart = np.linalg.norm(eyes[1] - eyes[0])
            if apart < SMALLEST_EYES:
                continue
            scale = CLOSE_UP / (2.4 * apart)
            down = np.array([eyes[0, 1] - eyes[1, 1], eyes[1, 0] - eyes[0, 0]])
            middle = eyes.mean(axis=0) + 0.4 * down
            shift = (CLOSE_UP - 1) / 2 - scale * middle
            matrix = np.column_stack([scale * np.eye(2), shift])
            image = cv2.warpAffine(photo.image, matrix, (CLOSE_UP, CLOSE_UP), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)  # fmt: skip
            made.append(
                Labelled(image.reshape(CLOSE_UP, CLOSE_UP, -1), (scale * eyes + shift)[None])
            )
    return made


def turned(photo: Labelled, turns: int) -> Labelled:
    """A photo turned by 90 degrees counterclockwise, ``turns`` times."""
    eyes = photo.eyes
    for i in range(turns):
        width = photo.image.shape[1 - i % 2]
        eyes = np.stack([eyes[..., 1], width - 1 - eyes[..., 0]], axis=-1)
    return Labelled(np.ascontiguousarray(np.rot90(photo.image, turns)), eyes)


def make_sets(photos: list[Labelled]) -> dict[str, list[Labelled]]:
    """All sets, by name."""
    sets = {"ordinary": photos, "mosaic": mosaics(photos), "close-up": close_ups(photos)}
    return sets | {name: [turned(p, k) for p in photos] for name, k in TURNS.items()}


def judge(truth: np.ndarray, eyes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) labelled faces that are found, (N,) those whose points are right, (M,) unmatched faces."""
    apart = np.linalg.norm(truth[:, 1] - truth[:, 0], axis=1)[:, None]
    gaps = np.linalg.norm(truth[:, None] - eyes[None], axis=-1) / apart[..., None]  # (N, M, 2)
    near = (gaps < 0.5).all(axis=2)
    right = gaps.mean(axis=2) < 0.1
    # A face with its eyes swapped is in the right place, but wrong.
    swapped = np.linalg.norm(truth[:, None, ::-1] - eyes[None], axis=-1) / apart[..., None]
    return near.any(axis=1), right.any(axis=1), ~(near | (swapped < 0.5).all(axis=2)).any(axis=0)


def measure(predictor: Predictor, images: list[Labelled], folder: Path | None) -> dict[str, float]:
    """Shares found and right, unmatched faces per 100 images, and the median milliseconds."""
    counts, spent = np.zeros(5), []
    for number, photo in enumerate(images):
        began = time.perf_counter()
        found = predictor.predict(photo.image)
        spent.append((time.perf_counter() - began) * 1e3)
        eyes = found.keypoints.xy[:, EYES]
        hit, right, alone = judge(photo.eyes, eyes)
        judged = np.linalg.norm(photo.eyes[:, 1] - photo.eyes[:, 0], axis=1) >= JUDGED_EYES
        counts += len(hit), hit.sum(), judged.sum(), right[judged].sum(), alone.sum()
        if folder is not None and (not hit.all() or alone.any()):
            show(folder / f"{number:04d}.jpg", photo.image, photo.eyes[~hit], eyes[alone])
    faces, hits, judged, rights, unmatched = counts
    return {
        "faces": faces, "found": hits / faces, "right": rights / judged, "images": len(images),
        "unmatched": 100 * unmatched / len(images), "median": np.median(spent), "mean": np.mean(spent),
    }  # fmt: skip


PEERS = {
    "dlib": lambda: dlib_detect(0),
    "blazeface": lambda: blaze_detect("FULL"),
    "centerface": lambda: center_detect(640),
}


def measure_peer(detect: Detect, images: list[Labelled]) -> dict[str, float]:
    """As :func:`measure`, for a detector that reports boxes."""
    counts, spent = np.zeros(3), []
    for photo in images:
        rgb = np.ascontiguousarray(np.broadcast_to(photo.image, (*photo.image.shape[:2], 3)))
        began = time.perf_counter()
        boxes = detect(rgb)[0]
        spent.append((time.perf_counter() - began) * 1e3)
        across = photo.eyes[:, 1] - photo.eyes[:, 0]
        side = np.linalg.norm(across, axis=1)[:, None] / FACE_SIZE
        down = np.stack([-across[:, 1], across[:, 0]], axis=1) / FACE_SIZE
        middle = photo.eyes.mean(axis=1) + (0.5 - EYE_LINE) * down
        hits = iou(np.concatenate([middle - side / 2, middle + side / 2], axis=1), boxes) > 0.3
        counts += len(photo.eyes), hits.any(axis=1).sum(), (~hits.any(axis=0)).sum()
    faces, found, unmatched = counts
    return {
        "faces": faces, "found": found / faces, "right": np.nan, "images": len(images),
        "unmatched": 100 * unmatched / len(images), "median": np.median(spent), "mean": np.mean(spent),
    }  # fmt: skip


def show(file: Path, image: np.ndarray, missed: np.ndarray, alone: np.ndarray) -> None:
    """Write an image with the misses (red) and the unmatched faces (green)."""
    scale = 640 / max(image.shape[:2])
    drawn = cv2.resize(np.broadcast_to(image, (*image.shape[:2], 3)), None, fx=scale, fy=scale)
    for eyes, colour in ((missed, (255, 0, 0)), (alone, (0, 255, 0))):
        for face in eyes:
            middle, radius = face.mean(axis=0) * scale, np.linalg.norm(face[1] - face[0]) * scale
            cv2.circle(drawn, tuple(int(v) for v in middle), max(4, int(radius)), colour, 2)
    write_image(file, drawn)


def times(photos: list[Labelled], model: str, detector: str) -> tuple[float, float]:
    """Mean milliseconds of ordinary 640x480 photos, and of a 12-megapixel portrait, on one thread."""
    predictor = load_predictor(model, threads=1, detector=detector)
    cv2.setNumThreads(1)
    one = [p for p in photos if len(p.eyes) == 1]
    portrait = max(
        one, key=lambda p: np.linalg.norm(p.eyes[0, 1] - p.eyes[0, 0]) / max(p.image.shape)
    )
    small = [cv2.resize(p.image, (640, 480), interpolation=cv2.INTER_CUBIC) for p in one[:40]]
    large = cv2.resize(portrait.image, (4000, 3000), interpolation=cv2.INTER_CUBIC)

    def spent(image: np.ndarray) -> float:
        best = np.inf
        for _ in range(3):
            began = time.process_time()  # as long as alone on the machine, however busy it is
            predictor.predict(image)
            best = min(best, time.process_time() - began)
        return best * 1e3

    answer = float(np.mean([spent(image) for image in small])), spent(large)
    cv2.setNumThreads(-1)
    return answer


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("FACIAL_KEYPOINTS_DATA"))
    parser.add_argument("--photos", choices=["held-out", "eval"], default="held-out")
    parser.add_argument("--model", default="default", help="of the keypoints")
    parser.add_argument("--detector", default="default", help="another face detector's file")
    parser.add_argument("--effort", choices=EFFORTS, default="normal")
    parser.add_argument("--peers", help="measure these too, comma-separated: " + ", ".join(PEERS))
    parser.add_argument("--only", help="sets to measure, comma-separated")
    parser.add_argument("--keep", type=Path, help="file to keep the sets in, for the next run")
    parser.add_argument("--show", type=Path, help="folder for images of misses and unmatched faces")
    parser.add_argument("--no-times", action="store_true", help="only count")
    options = parser.parse_args()
    if options.data is None:
        parser.error("name the data folder by --data or FACIAL_KEYPOINTS_DATA")
    if options.keep and options.keep.is_file():
        sets = pickle.loads(options.keep.read_bytes())
    else:
        sets = make_sets(photos_of(Path(options.data), options.photos))
        if options.keep:
            options.keep.write_bytes(pickle.dumps(sets))
    print(machine())
    detector = load_detector(options.detector)
    predictor = load_predictor(options.model, detector=detector, effort=options.effort)
    chosen = options.only.split(",") if options.only else list(sets)
    print("\n| set | images | faces | found | points right | unmatched per 100 images | ms, median | mean |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for name in chosen:
        folder = options.show / name.replace(" ", "_") if options.show else None
        measured = {"": measure(predictor, sets[name], folder)}
        for peer in options.peers.split(",") if options.peers else []:
            measured[f", {peer}"] = measure_peer(PEERS[peer](), sets[name])
        for who, m in measured.items():
            print(f"| {name}{who} | {m['images']} | {m['faces']:.0f} | {m['found']:.3f} | {m['right']:.3f} | {m['unmatched']:.1f} | {m['median']:.0f} | {m['mean']:.0f} |", flush=True)  # fmt: skip
    if not options.no_times:
        small, large = times(sets["ordinary"], options.model, options.detector)
        print(f"\nOne thread: ordinary 640x480 {small:.1f} ms, portrait 4000x3000 {large:.1f} ms, {large / small:.1f} times as much")  # fmt: skip


if __name__ == "__main__":
    main()
