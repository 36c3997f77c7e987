"""Small videos of drawn faces at known places, for the tests of everything that reads videos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from facial_keypoints.data.synthetic.faces import draw_faces
from facial_keypoints.geometry import face_boxes
from facial_keypoints.inference.detector import Detections
from facial_keypoints.io.videos import Frame
from facial_keypoints.schemas import KAGGLE15

SIDE = 96
FACES = draw_faces(6, seed=3, image_size=SIDE)
Place = tuple[float, float]


def scene(
    places: Sequence[tuple[int, Place]], *, size: tuple[int, int] = (240, 320)
) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) with drawn face ``i`` at the corner ``(x, y)``, later ones in front; the points."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    image = (110 + 20 * np.sin(columns / 40.0) + 10 * np.cos(rows / 23.0)).astype(np.uint8)
    points = []
    for face, (x, y) in places:
        left, top = round(x), round(y)
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + SIDE, size[1]), min(top + SIDE, size[0])
        if x1 > x0 and y1 > y0:
            part = FACES.images[face, y0 - top : y1 - top, x0 - left : x1 - left, 0]
            image[y0:y1, x0:x1] = part
        points.append(FACES.keypoints.xy[face] + np.float32([left, top]))
    return np.repeat(image[..., None], 3, axis=2), np.array(points).reshape(-1, 15, 2)


class Places:
    """A detector that is told where the faces of the frame at hand are, and counts how often it is asked."""

    def __init__(self) -> None:
        self.points = np.zeros((0, 15, 2), np.float32)
        self.calls = 0

    def detect(self, image: np.ndarray, effort: str) -> Detections:
        assert image.ndim == 3
        assert image.shape[2] == 3
        self.calls += 1
        scores = np.full(len(self.points), 0.9, np.float32)
        return Detections(face_boxes(self.points, KAGGLE15), scores)


def film(
    path: Callable[[float], Sequence[tuple[int, Place]]],
    count: int,
    detector: Places,
    *,
    rate: float = 25.0,
    seen: Callable[[float], Sequence[int]] | None = None,
    truth: list[np.ndarray] | None = None,
) -> Iterable[Frame]:
    """Frames of faces that move along ``path(time)``; the detector sees those that ``seen`` lists."""
    for i in range(count):
        image, points = scene(path(i / rate))
        detector.points = points if seen is None else points[list(seen(i / rate))]
        if truth is not None:
            truth.append(points)
        yield Frame(image, i, i / rate)


def write(
    path: Path,
    images: Sequence[np.ndarray],
    *,
    times: Sequence[float] | None = None,
    codec: str = "libx264",
    turn: float | None = None,
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    kind: str | None = None,
    rate: int = 25,
) -> Path:
    """Write images (H, W, 3) as a video."""
    with av.open(str(path), "w", format=kind, options=options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if codec == "libx264":
            stream.options = {"preset": "ultrafast", "crf": "10"}
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if turn is not None:
            stream.set_display_rotation(turn)
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(1000 * times[i]), Fraction(1, 1000)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path
