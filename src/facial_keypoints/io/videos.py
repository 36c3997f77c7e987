"""Reading videos and cameras frame by frame; writing H.264 mp4 and contact sheets.

Frames come one at a time and upright, so memory does not grow with the length of a video; their pixels are
converted only when ``rgb()`` or ``grey()`` is called. Knows nothing of faces.
"""

from __future__ import annotations

import os
import re
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import cv2
import numpy as np

from facial_keypoints.crops import letterbox, resize_image, to_channels
from facial_keypoints.errors import DataError, ImageError, MissingExtraError, OutputError
from facial_keypoints.files import atomic_path
from facial_keypoints.io.images import (
    IMAGE_SUFFIXES,
    count_frames,
    find_images,
    read_frames,
    read_image,
)
from facial_keypoints.types import ImageArray

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter

__all__ = [
    "ContactSheet",
    "Frame",
    "FrameFiles",
    "Video",
    "VideoWriter",
    "find_videos",
    "open_video",
    "write_video",
]

VIDEO_SUFFIXES = (".mp4",)

_COLUMNS, _MOMENTS = 4, 12
"""Images in a row of a contact sheet, and on all of it."""

_CLOCK = 90_000
"""Ticks a second in written videos, as in MPEG: exact for 24, 25, 30 and 29.97 frames a second."""

_SHORT_SECONDS, _SHORT_SHARE = 0.5, 0.02
"""A video was cut off if it ends earlier than declared by this many seconds and by this share of its length.
Less comes from rounding in containers and from sound that lasts longer than the images."""

# Formats and brands by which libavformat opens images as if they were videos.
_IMAGE_FORMATS = ("image2", "gif", "apng", "ico")
_IMAGE_BRANDS = ("avif", "avis", "heic", "heix", "mif1")

FRAME_RATE = 25.0
"""Frames a second of image files, which have no times, unless another rate is given."""

_MOST_STRETCH = 8.0
"""Pixels of videos are at most about twice as wide as high; a file that says more than this is not believed."""

VIDEO_FILES = frozenset({
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".m1v", ".m2ts", ".m2v", ".m4v", ".mjpeg",
    ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogg", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob",
    ".webm", ".wmv", ".y4m",
})  # fmt: skip
"""Suffixes of the videos that are taken from a folder; a file that is named itself may have any name."""


class Frame:
    """One moment of a video.

    Args:
        image: (H, W, 3) uint8 RGB, upright.
        index: Its number, from 0.
        time_s: Its presentation time in seconds.

    Raises:
        ValueError: ``image`` has another dtype or shape.
    """

    def __init__(self, image: ImageArray, index: int = 0, time_s: float = 0.0) -> None:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"image must be uint8 with shape (H, W, 3), received {image.dtype} {image.shape}."
            )
        self._image = image
        self.index = index
        self.time_s = time_s
        self.size = (int(image.shape[0]), int(image.shape[1]))
        """(height, width) in pixels."""

    def rgb(self) -> ImageArray:
        """(H, W, 3) uint8."""
        return self._image

    def grey(self) -> ImageArray:
        """(H, W, 1) uint8, 0 black to 255 white."""
        return to_channels(self._image, 1)


class Video:
    """Frames that are read one after the other, once; to be closed by ``with``.

    Attributes:
        name: For messages and tables.
        size: (height, width) of every frame in pixels, upright.
        rate: Frames a second on average.
        frame_count: Number of frames, estimated where the file does not give it; ``None`` where it cannot be
            known.
        notes: What was chosen or changed in reading it, a sentence each; complete after the last frame.
    """

    name: str
    size: tuple[int, int]
    rate: float
    frame_count: int | None = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[Frame]:
        raise NotImplementedError

    def close(self) -> None:
        """Close the file or the camera."""

    def _note_sizes(self, count: int, first: tuple[int, int, int]) -> None:
        """Note how many frames have another size than the video, from which one on, and their height and width."""
        index, height, width = first
        self.notes.append(
            f"{count} of its frames have another size (from frame {index} on: {width}×{height} pixels) and were "
            f"fitted into {self.size[1]}×{self.size[0]}."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _DecodedFrame(Frame):
    """A frame of a file, whose pixels are converted when they are needed."""

    def __init__(self, frame: VideoFrame, index: int, time_s: float, upright: _Upright) -> None:
        self._frame = frame
        self._upright = upright
        self.index = index
        self.time_s = time_s
        self.size = upright.size

    def rgb(self) -> ImageArray:
        return self._upright.pixels(self._frame, "rgb24")

    def grey(self) -> ImageArray:
        # Videos store brightness by itself: three times as fast as converting from RGB.
        return self._upright.pixels(self._frame, "gray")


class _Upright:
    """Converts frames to upright, square pixels, as a file's first frame and its stream say.

    Pixels that are wider than high make the frame wider, the others make it higher, so none are lost. Of the
    display matrix only quarter turns and mirrors are recognised; another one counts as the nearest of these.

    Args:
        first: The first frame, which decides the size.
        aspect: Width of a stored pixel over its height.
    """

    def __init__(self, first: VideoFrame, aspect: float) -> None:
        from av.video.reformatter import VideoReformatter

        matrix: Any = first.side_data.get("DISPLAYMATRIX")
        # x' = a x + c y, y' = b x + d y
        a, b, _, c, d, *_ = (
            (1, 0, 0, 0, 1) if matrix is None else struct.unpack("=9i", bytes(matrix))
        )
        self._swapped = abs(b) + abs(c) > abs(a) + abs(d)
        self._mirrored, self._upside_down = (c < 0, b < 0) if self._swapped else (a < 0, d < 0)
        self._stretch = (max(1.0, 1.0 / aspect), max(1.0, aspect))
        height, width = self._squared(first)
        self.size = (width, height) if self._swapped else (height, width)
        # One for all frames: it keeps its tables for this size and format.
        self._converter: VideoReformatter = VideoReformatter()

    def _squared(self, frame: VideoFrame) -> tuple[int, int]:
        """(height, width) of the stored frame in square pixels."""
        return round(frame.height * self._stretch[0]), round(frame.width * self._stretch[1])

    def pixels(self, frame: VideoFrame, kind: str) -> ImageArray:
        """(H, W, 3) for ``rgb24``, (H, W, 1) for ``gray``, uint8; frames of another size are letterboxed."""
        height, width = self._squared(frame)
        image: Any = self._converter.reformat(
            frame, width=width, height=height, format=kind, threads=1
        ).to_ndarray()
        if self._swapped:
            image = cv2.transpose(image)
        if self._mirrored or self._upside_down:
            code = -1 if self._mirrored and self._upside_down else int(self._mirrored)
            image = cv2.flip(image, code)
        if image.ndim == 2:
            image = image[..., np.newaxis]
        if image.shape[:2] != self.size:
            image, _ = letterbox(image, self.size, image.shape[2])
        return np.asarray(image, np.uint8)


class _VideoFile(Video):
    """Frames of a file, decoded when they are needed.

    The first is decoded at once: only a frame gives the true size and display matrix.
    """

    def __init__(self, path: Path, container: Any) -> None:
        super().__init__(os.fspath(path))
        av = _av()
        self._container = container
        try:
            self._stream: Any = self._video_stream()
            self._stream.thread_type = "AUTO"
            self._packets = self._container.demux(self._stream)
            self._damaged = self._read = 0
            self._frames = self._decode()
            first = next(self._frames, None)
            if first is None:
                raise DataError(
                    f"{self.name}: none of its frames can be decoded: the video is damaged, cut off or of an "
                    "unknown kind."
                )
        except BaseException:
            self.close()
            raise
        self._first = first
        aspect = float(self._stream.sample_aspect_ratio or 1)
        if not 1 / _MOST_STRETCH <= aspect <= _MOST_STRETCH:
            aspect = 1.0
        self._upright = _Upright(first, aspect)
        self.size = self._upright.size
        if aspect != 1.0:
            self.notes.append(
                f"its pixels are not square ({first.width}×{first.height} as stored): coordinates are those of "
                f"{self.size[1]}×{self.size[0]} square pixels, as players show it."
            )
        self.rate = float(self._stream.average_rate or self._stream.guessed_rate or 25)
        self._end_s = end_s = self._declared_end(self._stream)
        if end_s is None and self._container.duration:
            end_s = self._container.duration / av.time_base
        estimate = None if end_s is None else max(1, round(end_s * self.rate))
        self.frame_count = self._stream.frames or estimate

    def _video_stream(self) -> Any:
        """The stream that players show: one that lasts, marked as the default, with the most pixels."""
        from av.stream import Disposition

        aside = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
        streams = [s for s in self._container.streams.video if not s.disposition & aside]
        if not streams:
            raise DataError(
                f"{self.name}: has no video stream (it holds "
                f"{' and '.join(sorted({s.type for s in self._container.streams})) or 'nothing'})."
            )
        ends = [self._declared_end(stream) for stream in streams]
        longest = max((end for end in ends if end), default=0.0)

        def rank(number: int) -> tuple[bool, bool, int]:
            stream, end = streams[number], ends[number]
            lasts = end is None or end >= longest / 2  # a preview is a moment
            default = bool(stream.disposition & Disposition.default)
            return lasts, default, stream.codec_context.width * stream.codec_context.height

        best = max(range(len(streams)), key=rank)
        if len(streams) > 1:
            self.notes.append(f"it has {len(streams)} video streams; number {best + 1} was read.")
        return streams[best]

    def _declared_end(self, stream: Any) -> float | None:
        """Seconds at which a stream's frames end, as the file declares it; ``None`` where it does not."""
        if stream.duration and stream.time_base:
            start = float((stream.start_time or 0) * stream.time_base) - self._start_s()
            return float(start + stream.duration * stream.time_base)
        # Matroska writes it as text, hours:minutes:seconds.
        parts = stream.metadata.get("DURATION", "").split(":")
        try:
            hours, minutes, seconds = map(float, parts)
        except ValueError:
            return None
        return 3600 * hours + 60 * minutes + seconds

    def _start_s(self) -> float:
        """Time of the file's start; times of frames count from there."""
        return float((self._container.start_time or 0) / _av().time_base)

    def _decode(self) -> Iterator[VideoFrame]:
        """Whole frames, up to the end or to where nothing more can be read."""
        av = _av()
        while True:
            try:
                packet = next(self._packets)
            except StopIteration:
                return
            except av.FFmpegError:
                # The decoder still holds whole frames.
                yield from self._stream.codec_context.decode(None)
                return
            self._read += bool(packet.size)
            try:
                yield from packet.decode()
            except av.FFmpegError:
                self._damaged += 1

    def __iter__(self) -> Iterator[Frame]:
        step, start_s = 1.0 / self.rate, self._start_s()
        index, time_s = 0, -step
        first, others, changed = self._first, 0, (0, 0, 0)
        for index, frame in enumerate(chain([first], self._frames)):
            if (frame.height, frame.width) != (first.height, first.width):
                changed = changed if others else (index, frame.height, frame.width)
                others += 1
            # Some files give no times, or the same one twice.
            own = None if frame.pts is None or frame.time is None else frame.time - start_s
            time_s = own if own is not None and own > time_s else time_s + step
            yield _DecodedFrame(frame, index, time_s, self._upright)
        if others:
            self._note_sizes(others, changed)
        self._check_end(index + 1, time_s + step)

    def _check_end(self, count: int, end_s: float) -> None:
        short = self._end_s is not None and self._end_s - end_s > max(
            _SHORT_SECONDS, _SHORT_SHARE * self._end_s
        )
        # Without its index, an AVI seems to end where the file ends; its header has the true count.
        declared = self._stream.frames if self._container.format.name == "avi" else 0
        short |= declared - self._read > max(_SHORT_SECONDS * self.rate, _SHORT_SHARE * declared)
        if short:
            raise DataError(
                f"{self.name}: the video stops in the middle, after {count} frames ({end_s:.1f} s): it is "
                "damaged or cut off; the frames until there are used."
            )
        if self._damaged:
            raise DataError(
                f"{self.name}: {self._damaged} of its frames are damaged and were passed over; the other "
                f"{count} are used."
            )

    def close(self) -> None:
        self._container.close()


@dataclass(frozen=True)
class FrameFiles:
    """Image files that are the frames of one video.

    Args:
        name: Of the video, in messages and tables.
        files: In order of time.
    """

    name: str
    files: tuple[Path, ...]


class _Images(Video):
    """Frames that are images: files at a fixed rate, or one animated image with its own times.

    Args:
        name: For messages and tables.
        count: Number of frames.
        rate: Frames a second on average.
        frames: Each image (H, W, 3) with its time in seconds, or why it cannot be read.
    """

    def __init__(
        self,
        name: str,
        count: int,
        rate: float,
        frames: Iterator[tuple[ImageArray | ImageError, float]],
    ) -> None:
        super().__init__(name)
        self.frame_count, self.rate, self._frames = count, rate, frames
        self._lost: list[ImageError] = []
        first = next(self._good(), None)
        if first is None:
            raise DataError(f"{name}: none of its frames can be read; the first: {self._lost[0]}")
        self._first = first
        self.size = (int(first[0].shape[0]), int(first[0].shape[1]))

    def _good(self) -> Iterator[tuple[ImageArray, float]]:
        for image, time_s in self._frames:
            if isinstance(image, ImageError):
                self._lost.append(image)
            else:
                yield image, time_s

    def __iter__(self) -> Iterator[Frame]:
        others, changed, index = 0, (0, 0, 0), 0
        for index, (image, time_s) in enumerate(chain([self._first], self._good())):
            if image.shape[:2] != self.size:
                changed = changed if others else (index, *image.shape[:2])
                others += 1
            yield Frame(letterbox(image, self.size, 3)[0], index, time_s)
        if others:
            self._note_sizes(others, changed)
        if self._lost:
            raise DataError(
                f"{self.name}: {len(self._lost)} of its frames cannot be read and were passed over; the other "
                f"{index + 1} are used; the first: {self._lost[0]}"
            )


def _read_files(
    files: Sequence[Path], rate: float
) -> Iterator[tuple[ImageArray | ImageError, float]]:
    for number, file in enumerate(files):
        try:
            yield read_image(file), number / rate
        except ImageError as error:
            yield error, number / rate


class _Camera(Video):
    """Frames of a camera, timed by the clock, without an end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"camera {number}")
        # OpenCV would log several lines for a missing device.
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            self._capture = cv2.VideoCapture(number)
            opened, image = self._capture.read() if self._capture.isOpened() else (False, None)
        finally:
            cv2.utils.logging.setLogLevel(level)
        if not opened or image is None:
            self._capture.release()
            raise DataError(
                f"there is no camera {number} that can be opened: name a video file or another number."
            )
        self.size = (int(image.shape[0]), int(image.shape[1]))
        self.rate = float(self._capture.get(cv2.CAP_PROP_FPS)) or 30.0
        self._first = image

    def __iter__(self) -> Iterator[Frame]:
        start, index, image = time.monotonic(), 0, self._first
        while True:
            rgb = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
            yield Frame(rgb, index, time.monotonic() - start)
            index += 1
            there, image = self._capture.read()
            if not there:
                raise DataError(f"{self.name}: it gives no more images after {index} frames.")

    def close(self) -> None:
        self._capture.release()


def _av() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise MissingExtraError("av", "video", "Reading and writing videos") from error
    return av


def _open_container(path: Path) -> Any:
    av = _av()
    try:
        if not path.exists():
            raise DataError(f"there is no video {path}.")
        if not path.is_file():
            raise DataError(
                f"{path}: is not a regular file: name a video file or a camera's number."
            )
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty.")
        # Without "file:", FFmpeg would take a name with a colon for an address.
        return av.open(f"file:{path}", metadata_errors="replace")
    except PermissionError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    except (av.FFmpegError, OSError) as error:
        raise DataError(
            f"{path}: cannot be opened as a video: it is damaged, cut off or of an unknown kind."
        ) from error


def open_video(source: str | os.PathLike[str] | FrameFiles, *, rate: float | None = None) -> Video:
    """Open a video file, a camera by its number, an animated image, or image files that are frames.

    Frames are turned upright as the container says, and pixels that are not square are made so, so coordinates
    are those of what players show. Their times are the container's, counted from its start, so a variable frame
    rate is kept. All frames have one size: those of another size are letterboxed into that of the first.

    Args:
        source: A file of any kind that FFmpeg reads, or an animated GIF, PNG, WebP or AVIF; a number, ``"0"``
            for the first camera; a folder of frames; or what :func:`find_videos` found.
        rate: Frames a second of image files; :data:`FRAME_RATE` when left out.

    Returns:
        The video, to be closed by ``with``; its ``notes`` say what was chosen or changed. Iterating raises
        :class:`DataError` after the last good frame where the file stops in the middle or frames are damaged.

    Raises:
        DataError: It is missing, empty, a single image, has no video stream, cannot be decoded, or there is no
            such camera.
        MissingExtraError: PyAV is not installed.

    Example:
        >>> with open_video("clip.mp4") as video:  # doctest: +SKIP
        ...     times = [frame.time_s for frame in video]
    """
    if not isinstance(source, FrameFiles):
        path = Path(source)
        if os.fspath(source).isdecimal() and not path.exists():
            return _Camera(int(os.fspath(source)))
        if not path.is_dir():
            return _open_file(path)
        found = find_videos([os.fspath(source)])
        if len(found) > 1:
            raise DataError(f"{source}: holds {len(found)} videos: open them one by one.")
        if isinstance(found[0], str):
            return _open_file(Path(found[0]))
        source = found[0]
    rate = rate or FRAME_RATE
    return _Images(source.name, len(source.files), rate, _read_files(source.files, rate))


def _open_file(path: Path) -> Video:
    container = _open_container(path)
    kind, brand = container.format.name, container.metadata.get("major_brand", "")
    if not (kind.endswith("_pipe") or kind in _IMAGE_FORMATS or brand in _IMAGE_BRANDS):
        if kind == "tty":  # any text
            container.close()
            raise DataError(f"{path}: is a text, not a video.")
        return _VideoFile(path, container)
    # Pillow knows the times of every animated format; FFmpeg cannot read animated WebP.
    container.close()
    count, shown_s = count_frames(path)
    if count < 2:
        raise DataError(
            f"{path}: is an image, not a video: use 'facial-keypoints predict' for images."
        )
    return _Images(str(path), count, 1.0 / shown_s, read_frames(path))


def find_videos(inputs: Sequence[str]) -> list[str | FrameFiles]:
    """What ``track`` is to follow: videos, cameras, and image files as the frames of videos.

    A folder or a pattern (``*``, ``?``, ``[]``, or ``%06d`` as FFmpeg has it) stands for the videos in it; if it
    holds none, its images are the frames of one video. Several image files among the inputs are the frames of
    one video. Frames are sorted by the numbers in their names, so 2 comes before 10.

    Raises:
        DataError: There is no such file, or no video and no image in a folder.
    """
    found: list[str | FrameFiles] = []
    alone: list[str] = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            files = [
                p for p in sorted(path.iterdir()) if p.is_file() and not p.name.startswith(".")
            ]
        elif path.exists() or not _PATTERN.search(name):
            alone += [name] if path.suffix.lower() in IMAGE_SUFFIXES else []
            found += [] if path.suffix.lower() in IMAGE_SUFFIXES else [name]
            continue
        else:
            files = [Path(str(p)) for p in find_images([re.sub(r"%0?\d*d", "*", name)])]
        videos = [str(p) for p in files if p.suffix.lower() in VIDEO_FILES]
        frames = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
        if not videos and not frames:
            raise DataError(f"{name}: holds no video and no image.")
        found += videos or [FrameFiles(name, _in_time(frames))]
    if len(alone) == 1:  # animated, or refused as an image
        found.append(alone[0])
    elif alone:
        found.append(FrameFiles(str(Path(alone[0]).parent), _in_time(map(Path, alone))))
    return found


_PATTERN = re.compile(r"[*?\[]|%0?\d*d")


def _in_time(files: Iterable[Path]) -> tuple[Path, ...]:
    """The files in order of the numbers in their names."""

    def key(file: Path) -> list[tuple[int, str]]:
        parts = re.split(r"(\d+)", str(file))
        return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]

    return tuple(sorted(files, key=key))


class VideoWriter:
    """Writes frames to an H.264 mp4, each at its own time.

    H.264 stores colours for 2×2 pixels, so an odd height or width grows by one repeated row or column at the
    bottom or the right; coordinates stay the same.
    """

    def __init__(self, path: Path, size: tuple[int, int], rate: float) -> None:
        av = self._av = _av()
        height, width = size
        self._padding = ((0, height % 2), (0, width % 2), (0, 0))
        self._container = av.open(
            f"file:{path}", "w", format="mp4", options={"movflags": "+faststart"}
        )
        # libx264 is part of PyAV's wheels; every build of FFmpeg has MPEG-4.
        name = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        fps = Fraction(rate).limit_denominator(1001)
        stream = self._container.add_stream(name, rate=max(fps, Fraction(1, 10)))
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        if name == "libx264":
            stream.options = {"preset": "superfast", "crf": "20"}
        else:
            stream.bit_rate = max(500_000, int(0.2 * width * height * rate))
        stream.codec_context.time_base = Fraction(1, _CLOCK)
        # BT.601, 16 to 235. Players would assume other colours for large videos.
        stream.codec_context.colorspace, stream.codec_context.color_range = 6, 1
        self._stream = stream
        self._last = -1

    def write(self, image: ImageArray, time_s: float) -> None:
        """Append a frame.

        Args:
            image: (H, W, 3) uint8 RGB of the video's size.
            time_s: Later than the frame before.
        """
        image = np.ascontiguousarray(np.pad(image, self._padding, mode="edge"))
        frame = self._av.VideoFrame.from_ndarray(image, format="rgb24")
        self._last = max(self._last + 1, round(time_s * _CLOCK))
        frame.pts, frame.time_base = self._last, Fraction(1, _CLOCK)
        self._mux(frame)

    def _mux(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def close(self) -> None:
        """Write the frames that the encoder still holds, and close the file."""
        try:
            if self._last >= 0:
                self._mux(None)
        finally:
            self._container.close()


@contextmanager
def write_video(path: Path, size: tuple[int, int], *, rate: float = 25.0) -> Iterator[VideoWriter]:
    """Write a video; the whole file appears at ``path`` when the block succeeds.

    Args:
        path: Its name ends in ``.mp4``.
        size: (height, width) of the frames.
        rate: Frames a second on average, a hint for the encoder: each frame has its own time.

    Raises:
        OutputError: The name ends otherwise, or the file cannot be written.
        MissingExtraError: PyAV is not installed.
    """
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise OutputError(f"{path}: videos are written as mp4: choose a name that ends in .mp4.")
    av = _av()
    with atomic_path(path) as temporary:
        try:
            writer = VideoWriter(temporary, size, rate)
            try:
                yield writer
            finally:
                writer.close()
        except av.FFmpegError as error:
            # PyAV's errors are OSErrors only where the system knows their number.
            raise OutputError(f"cannot write {path} ({error.strerror}).") from error


class ContactSheet:
    """Twelve moments of a video of unknown length on one image, spread evenly over it.

    Every n-th frame is kept, small. When there are twice as many as needed, every other one is dropped
    and n doubles, so memory does not grow.

    Args:
        width: Width of each moment in pixels.
    """

    def __init__(self, width: int = 320) -> None:
        self._width = width
        self._step = 1
        self._seen = 0
        self._kept: list[ImageArray] = []

    def wants(self) -> bool:
        """Whether to :meth:`add` the next frame; call this once for each frame."""
        wanted = self._seen % self._step == 0
        self._seen += 1
        return wanted

    def add(self, image: ImageArray, time_s: float) -> None:
        """Keep a frame, (H, W, 3) uint8 RGB, with its time written on it."""
        height, width = image.shape[:2]
        # A tall video gets the same area as a wide one.
        scale = self._width / max(width, height * 9 / 16 if height <= width else height * 0.75)
        small = resize_image(image, (max(2, round(height * scale)), max(2, round(width * scale))))
        text, font = f"{time_s:.1f} s", cv2.FONT_HERSHEY_SIMPLEX
        for color, thickness in (((16, 20, 24), 3), ((255, 255, 255), 1)):
            at = (6, small.shape[0] - 8)
            cv2.putText(small, text, at, font, 0.5, color, thickness, cv2.LINE_AA)
        self._kept.append(small)
        if len(self._kept) >= 2 * _MOMENTS:
            self._kept, self._step = self._kept[::2], 2 * self._step

    def image(self) -> ImageArray:
        """The sheet, (H, W, 3) uint8 RGB.

        Raises:
            ValueError: No frame was added.
        """
        if not self._kept:
            raise ValueError("a contact sheet needs at least one frame.")
        count = min(_MOMENTS, len(self._kept))
        chosen = np.linspace(0, len(self._kept) - 1, count).round().astype(int)
        gap, white = ((4, 0), (4, 0), (0, 0)), 255
        cells = [np.pad(self._kept[i], gap, constant_values=white) for i in chosen]
        columns = min(_COLUMNS, count)
        cells += [np.full_like(cells[0], white)] * (-count % columns)
        rows = [np.hstack(cells[i : i + columns]) for i in range(0, len(cells), columns)]
        return np.pad(np.vstack(rows), ((0, 4), (0, 4), (0, 0)), constant_values=white)
