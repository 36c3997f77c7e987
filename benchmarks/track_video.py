"""Speed of tracking by stage, jitter and lag with and without smoothing, for several settings.

Run: ``python benchmarks/track_video.py --data DIR [--write]``, DIR with ``video/bill_gates.avi``
(320x239, 202 frames, one face; or the environment variable ``FACIAL_KEYPOINTS_DATA``). The 1280x720 video
is made of it: each frame three times as large in the middle. Times are those of the fastest run of ``--repeats``.

Jitter is the standard deviation of the second difference of all coordinates over time: on the fifth of
the frames where the face moves least, and on a drawn face that rests, with noise as of a camera.
Lag is measured on that face swinging by known amounts: the shift in time that explains most of the error.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from machine import machine

from facial_keypoints import OneEuro, Predictor, Tracker, load_predictor
from facial_keypoints.data.synthetic.faces import draw_faces
from facial_keypoints.geometry import face_boxes, face_sizes
from facial_keypoints.inference.detector import Detections, FaceDetector, load_detector
from facial_keypoints.inference.smoothing import OneEuroFilter, Smoother
from facial_keypoints.inference.tracker import draw_tracks, track_frames
from facial_keypoints.io.tables import columns, open_table, rows
from facial_keypoints.io.videos import Frame, open_video, write_video
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.types import Prediction

RESULT = Path(__file__).parent / "results" / "track_video.md"
RATE = 25.0
SETTINGS = {
    "raw": None,
    "default": OneEuro(),
    "min cutoff 0.3": OneEuro(min_cutoff=0.3),
    "min cutoff 3": OneEuro(min_cutoff=3.0),
    "beta 0 (a plain low pass)": OneEuro(beta=0.0),
    "beta 3": OneEuro(beta=3.0),
    "beta 30": OneEuro(beta=30.0),
    "derivative cutoff 1 (as in the paper)": OneEuro(derivative_cutoff=1.0),
}


class Counting:
    """A detector with a watch."""

    def __init__(self, detector: FaceDetector) -> None:
        self.detector = detector
        self.calls, self.seconds = 0, 0.0

    def detect(self, image: np.ndarray, effort: str) -> Detections:
        """Detect and count the time."""
        start = time.perf_counter()
        found = self.detector.detect(image, effort)
        self.calls, self.seconds = self.calls + 1, self.seconds + time.perf_counter() - start
        return found


class FixedBox:
    """A detector that always finds the same box."""

    def __init__(self, xy: np.ndarray) -> None:
        self.box = face_boxes(xy[np.newaxis], KAGGLE15)

    def detect(self, image: np.ndarray, effort: str) -> Detections:
        """The box."""
        return Detections(self.box, np.ones(1, np.float32))


class Timed:
    """A frame with a watch on its conversions."""

    def __init__(self, frame: Frame) -> None:
        self.frame, self.index = frame, frame.index
        self.time_s, self.size, self.seconds = frame.time_s, frame.size, 0.0

    def grey(self) -> np.ndarray:
        """Brightness."""
        return self._watched(self.frame.grey)

    def rgb(self) -> np.ndarray:
        """Colours."""
        return self._watched(self.frame.rgb)

    def _watched(self, convert: Callable[[], np.ndarray]) -> np.ndarray:
        start = time.perf_counter()
        image = convert()
        self.seconds += time.perf_counter() - start
        return image


def enlarge(source: Path, target: Path) -> None:
    """The same video at 1280x720."""
    with open_video(source) as video, write_video(target, (720, 1280), rate=video.rate) as writer:
        for frame in video:
            image = np.zeros((720, 1280, 3), np.uint8)
            image[:717, 160:1120] = cv2.resize(frame.rgb(), (960, 717))
            writer.write(image, frame.time_s)


STAGES = ("decode", "convert", "detect", "follow", "smooth", "table", "draw", "write video")


def once(
    path: Path, predictor: Predictor, detector: FaceDetector, folder: Path, *, draw: bool
) -> dict[str, float]:
    """Milliseconds a frame by stage, and frames a second, of one run."""
    watch, smoother = Counting(detector), Smoother()
    tracker = Tracker(Predictor(predictor.runtime, detector=watch))
    spent = dict.fromkeys(STAGES, 0.0)
    begin = last = time.perf_counter()
    busy = time.process_time()

    def add(stage: str) -> None:
        nonlocal last
        now = time.perf_counter()
        spent[stage] += now - last
        last = now

    with (
        open_video(path) as video,
        open_table(folder / "t.csv", columns(predictor.spec.schema, video=True)) as table,
        write_video(folder / "t.mp4", video.size, rate=video.rate) as writer,
    ):
        for frame in video:
            add("decode")
            timed = Timed(frame)
            prediction = tracker.update(timed)
            add("follow")
            spent["convert"] += timed.seconds
            prediction = smoother(prediction)
            add("smooth")
            table.write(rows(prediction))
            add("table")
            if draw:
                drawn = draw_tracks(frame.rgb(), prediction)
                add("draw")
                writer.write(drawn, frame.time_s)
                add("write video")
        count = frame.index + 1
    add("write video" if draw else "table")
    spent["detect"] = watch.seconds
    spent["follow"] -= spent["detect"] + spent["convert"]
    seconds = time.perf_counter() - begin
    return {
        **{stage: 1000.0 * s / count for stage, s in spent.items()},
        "all": 1000.0 * seconds / count,
        "busy": 1000.0 * (time.process_time() - busy) / count,
        "fps": count / seconds,
        "calls": watch.calls,
        "frames": count,
    }


def speed(
    path: Path, predictor: Predictor, detector: FaceDetector, folder: Path, repeats: int
) -> dict[str, float]:
    """The fastest run with a table only, with what drawing adds in the fastest run with both."""
    runs = {
        draw: max(
            (once(path, predictor, detector, folder, draw=draw) for _ in range(repeats)),
            key=lambda run: run["fps"],
        )
        for draw in (False, True)
    }
    drawing = {stage: runs[True][stage] for stage in ("draw", "write video")}
    return {
        **runs[False],
        **drawing,
        "fps drawing": runs[True]["fps"],
        "busy drawing": runs[True]["busy"],
    }


def raw_track(frames: Iterable[Frame], predictor: Predictor, detector: FaceDetector) -> np.ndarray:
    """(T, 15, 2) points of the one face as they were found."""
    tracker = Tracker(Predictor(predictor.runtime, detector=detector))
    found: list[Prediction] = [p for _, p in track_frames(frames, tracker, smoothing=None)]
    missing = sum(len(p) != 1 for p in found)
    if missing:
        raise SystemExit(f"{missing} of {len(found)} frames have not one face")
    return np.array([p.keypoints.xy[0] for p in found], np.float64)


def swinging(kind: str) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Images of a drawn face, its points in each, and its speed in px a second."""
    face = draw_faces(1, seed=3, image_size=96)
    size = float(face_sizes(face.keypoints.xy, KAGGLE15)[0])
    times = np.arange(150) / RATE
    # The peak speeds are 0, 0.5, 2.5 and 2.5 face sizes a second.
    amplitude, hertz = {"rest": (0, 1), "slow": (0.5, 0.16), "fast": (1.6, 0.25), "nod": (0.2, 2)}[
        kind
    ]
    shift = amplitude * size * np.sin(2 * np.pi * hertz * times)
    rng = np.random.default_rng(0)
    images = []
    for dx in shift:
        matrix = np.array([[1, 0, 112 + dx], [0, 1, 70]])
        one = cv2.warpAffine(
            face.images[0, ..., 0],
            matrix,
            (320, 240),
            flags=cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REPLICATE,
        )
        noisy = np.clip(one + rng.normal(0, 4, one.shape), 0, 255).astype(np.uint8)
        images.append(np.repeat(noisy[..., np.newaxis], 3, axis=2))
    truth = (
        face.keypoints.xy[0] + np.stack([112 + shift, np.full_like(shift, 70)], 1)[:, np.newaxis]
    )
    return images, truth, np.gradient(shift, times)


def frames_of(images: list[np.ndarray]) -> Iterator[Frame]:
    """Frames of images."""
    for i, image in enumerate(images):
        yield Frame(image, i, i / RATE)


def smoothed(xy: np.ndarray, settings: OneEuro | None) -> np.ndarray:
    """The points after the filter."""
    if settings is None:
        return xy
    one, sizes = OneEuroFilter(settings), face_sizes(xy, KAGGLE15)
    return np.array([one(p, i / RATE, s) for i, (p, s) in enumerate(zip(xy, sizes, strict=True))])


def jitter(xy: np.ndarray, calm: np.ndarray) -> float:
    """Standard deviation of the second difference, in px, where ``calm``."""
    return float((xy[2:] - 2 * xy[1:-1] + xy[:-2])[calm[1:-1]].std())


def lag(xy: np.ndarray, truth: np.ndarray, velocity: np.ndarray) -> tuple[float, float]:
    """Milliseconds by which the points come late, and RMS error in px without its constant part."""
    error = (xy - truth)[25:]
    error -= error.mean(axis=0)
    v = velocity[25:, np.newaxis]
    late = -float((error[..., 0] * v).sum() / (v * v).sum() / error.shape[1])
    return 1000 * late, float(np.sqrt((error**2).sum(axis=-1).mean()))


def main() -> None:
    """Measure and print; write the result file if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("FACIAL_KEYPOINTS_DATA"))
    parser.add_argument("--detector", default="default")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("name the data: --data or FACIAL_KEYPOINTS_DATA")
    path = Path(arguments.data) / "video" / "bill_gates.avi"
    predictor, detector = load_predictor(), load_detector(arguments.detector)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        enlarge(path, folder / "720.mp4")
        videos = {
            "320×239": speed(path, predictor, detector, folder, arguments.repeats),
            "1280×720": speed(folder / "720.mp4", predictor, detector, folder, arguments.repeats),
        }
    with open_video(path) as video:
        real = raw_track(video, predictor, detector)
    sizes = face_sizes(real, KAGGLE15)
    # The speed of the middle of the face over a fifth of a second.
    middle = real.mean(axis=1)
    middle = np.stack(
        [np.convolve(np.pad(m, 2, "edge"), np.ones(5) / 5, "valid") for m in middle.T], 1
    )
    pace = np.linalg.norm(np.gradient(middle, 1 / RATE, axis=0), axis=1) / sizes
    calm = pace <= np.quantile(pace, 0.2)
    drawn = {}
    for kind in ("rest", "slow", "fast", "nod"):
        images, truth, velocity = swinging(kind)
        found = raw_track(frames_of(images), predictor, FixedBox(truth[0]))
        drawn[kind] = found, truth, velocity

    lines = [f"# Tracking a video, {datetime.date.today()}", ""]
    lines += [
        "One face, 202 frames; the shipped keypoint model; all cores. The larger video is the smaller one, "
        f"three times as large. The fastest of {arguments.repeats} runs.",
        "",
        "| ms a frame | " + " | ".join(videos) + " |",
        "|---|---|---|",
    ]
    stages = (*STAGES[:6], "all", *STAGES[6:])
    lines += [
        f"| {'all, with a table only' if stage == 'all' else stage} | "
        + " | ".join(f"{v[stage]:.2f}" for v in videos.values())
        + " |"
        for stage in stages
    ]
    for label, key in (
        ("processor time of all threads, table", "busy"),
        ("processor time of all threads, table and drawn video", "busy drawing"),
        ("**frames a second**, table", "fps"),
        ("**frames a second**, table and drawn video", "fps drawing"),
        ("times that the detector ran", "calls"),
    ):
        lines.append(f"| {label} | " + " | ".join(f"{v[key]:.0f}" for v in videos.values()) + " |")
    peaks = {
        kind: np.abs(v).max() / float(face_sizes(t, KAGGLE15)[0])
        for kind, (_, t, v) in drawn.items()
    }
    lines += [
        "",
        f"Jitter in px: the fifth of the video's frames with the least motion (up to "
        f"{pace[calm].max():.1f} face sizes a second; the median of all is {statistics.median(pace):.1f}; "
        f"a size, the eyes' distance, is {sizes.mean():.0f} px), and a drawn face at rest with noise. "
        "Lag in ms and RMS error in px (its constant part taken away) on the drawn face, "
        f"{float(face_sizes(drawn['rest'][1], KAGGLE15)[0]):.0f} px in size, swinging slowly (up to "
        f"{peaks['slow']:.1f} sizes a second), fast ({peaks['fast']:.1f}) and to and fro twice a second "
        f"({peaks['nod']:.1f}).",
        "",
        "| smoothing | jitter, video | jitter, at rest | slow | fast | to and fro |",
        "|---|---|---|---|---|---|",
    ]
    base = jitter(real, calm)
    at_rest = drawn["rest"][0]
    rest_base = jitter(at_rest[25:], np.ones(len(at_rest) - 25, bool))
    for label, settings in SETTINGS.items():
        on_video = jitter(smoothed(real, settings), calm)
        resting = jitter(smoothed(at_rest, settings)[25:], np.ones(len(at_rest) - 25, bool))
        cells = [
            f"{on_video:.2f} ({on_video / base:.0%})",
            f"{resting:.3f} ({resting / rest_base:.0%})",
        ]
        for kind in ("slow", "fast", "nod"):
            found, truth, velocity = drawn[kind]
            late, rms = lag(smoothed(found, settings), truth, velocity)
            cells.append(f"{late:.0f} ms, {rms:.2f} px")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Default: min cutoff {OneEuro().min_cutoff:g} Hz, beta {OneEuro().beta:g} Hz per face size a second, "
        f"derivative cutoff {OneEuro().derivative_cutoff:g} Hz; the others change one of them.",
        "",
        f"Machine: {machine()}, shared with other programs (load "
        f"{os.getloadavg()[1]:.0f} in the five minutes until the end).",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
