"""Video in and out: frames with their times from a file or a camera, H.264 mp4 and contact sheets.

Frames come one at a time, upright, and are converted to grey or colour only when asked, so memory does
not grow with the length. Knows nothing of faces.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np

from facial_keypoints.crops import resize_image, to_channels
from facial_keypoints.errors import DataError, MissingExtraError, OutputError
from facial_keypoints.files import atomic_path
from facial_keypoints.types import ImageArray

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter

__all__ = [
    "ContactSheet",
    "Frame",
    "ImageFrame",
    "Video",
    "VideoWriter",
    "open_video",
    "write_video",
]

VIDEO_SUFFIXES = (".mp4",)

_CLOCK = 90_000
"""Ticks a second of written videos, MPEG's own: holds the times of 24, 25, 30 and 29.97 frames a second
exactly, and any other to 11 microseconds."""

_SHORT_SECONDS, _SHORT_SHARE = 0.5, 0.02
"""A video that ends this much, and this share, before its declared end was cut off; less is the rounding
of containers and the sound that goes on."""

# What libavformat takes images and text (as ANSI art!) for.
_IMAGE_FORMATS = ("image2", "gif", "ico")
_IMAGE_BRANDS = ("avif", "heic", "heix", "mif1")


class Frame(Protocol):
    """One moment of a video."""

    @property
    def index(self) -> int:
        """Its number, from 0."""

    @property
    def time_s(self) -> float:
        """Its presentation time in seconds."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, upright."""

    def rgb(self) -> ImageArray:
        """(H, W, 3) uint8."""

    def grey(self) -> ImageArray:
        """(H, W, 1) uint8, 0 black to 255 white."""


class Video(Protocol):
    """Frames that are read one after the other, once."""

    @property
    def name(self) -> str:
        """For messages and tables."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of every frame in pixels, upright."""

    @property
    def rate(self) -> float:
        """Frames a second on average."""

    @property
    def frame_count(self) -> int | None:
        """Number of frames, estimated where the file does not say; ``None`` where nothing does."""

    def __iter__(self) -> Iterator[Frame]: ...

    def __enter__(self) -> Video: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class ImageFrame:
    """A frame that is an image in memory.

    Args:
        image: (H, W, 3) uint8 RGB.
        index: Its number.
        time_s: Its time in seconds.
    """

    def __init__(self, image: ImageArray, index: int = 0, time_s: float = 0.0) -> None:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"image must be uint8 with shape (H, W, 3), received {image.dtype} {image.shape}."
            )
        self.image = image
        self.index = index
        self.time_s = time_s

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self.image.shape[0]), int(self.image.shape[1])

    def rgb(self) -> ImageArray:
        """The image."""
        return self.image

    def grey(self) -> ImageArray:
        """(H, W, 1) uint8."""
        return to_channels(self.image, 1)


class _DecodedFrame:
    """A frame of a file, as the decoder gave it until it is asked for pixels."""

    def __init__(self, frame: VideoFrame, index: int, time_s: float, turn: _Turn) -> None:
        self._frame = frame
        self._turn = turn
        self.index = index
        self.time_s = time_s

    @property
    def size(self) -> tuple[int, int]:
        return self._turn.size((self._frame.height, self._frame.width))

    def rgb(self) -> ImageArray:
        return self._turn.apply(self._turn.pixels(self._frame, "rgb24"))

    def grey(self) -> ImageArray:
        # The brightness is stored by itself: three times faster than through colours.
        return self._turn.apply(self._turn.pixels(self._frame, "gray"))[..., np.newaxis]


class _Turn:
    """How frames stand upright: the display matrix of the container; and the converter they share.

    Args:
        matrix: The (a, b, c, d) of x' = a x + c y, y' = b x + d y; only quarter turns and mirrors are
            told apart, others are taken for the nearest.
    """

    def __init__(self, matrix: tuple[int, int, int, int] | None = None) -> None:
        from av.video.reformatter import VideoReformatter

        a, b, c, d = matrix or (1, 0, 0, 1)
        self._swapped = abs(b) + abs(c) > abs(a) + abs(d)
        self._mirrored, self._upside_down = (c < 0, b < 0) if self._swapped else (a < 0, d < 0)
        # One for all frames: it keeps what it worked out for this size and format.
        self._converter: VideoReformatter = VideoReformatter()

    @classmethod
    def of(cls, frame: VideoFrame) -> _Turn:
        data: Any = frame.side_data.get("DISPLAYMATRIX")
        if data is not None:
            a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data))
            return cls((a, b, c, d))
        return cls()

    def size(self, stored: tuple[int, int]) -> tuple[int, int]:
        return (stored[1], stored[0]) if self._swapped else stored

    def pixels(self, frame: VideoFrame, kind: str) -> ImageArray:
        array: ImageArray = np.asarray(
            self._converter.reformat(frame, format=kind, threads=1).to_ndarray(), np.uint8
        )
        return array

    def apply(self, image: ImageArray) -> ImageArray:
        if self._swapped:
            image = np.asarray(cv2.transpose(image), np.uint8)
        if self._mirrored or self._upside_down:
            code = -1 if self._mirrored and self._upside_down else int(self._mirrored)
            image = np.asarray(cv2.flip(image, code), np.uint8)
        return image


class _VideoFile:
    """Frames of a file, decoded as they are asked for.

    The first is decoded at once: only it tells the size and the turn for certain.
    """

    def __init__(self, path: Path) -> None:
        av = _av()
        self.name = os.fspath(path)
        self._container = _open_container(path)
        try:
            self._stream: Any = self._video_stream()
            self._stream.thread_type = "AUTO"
            self._packets = self._container.demux(self._stream)
            self._damaged = self._read = 0
            self._start_s = (self._container.start_time or 0) / av.time_base
            self._frames = self._decode()
            first = next(self._frames, None)
            if first is None:
                raise DataError(
                    f"{self.name}: none of its frames can be decoded: the video is damaged, cut off or of an "
                    "unknown kind."
                )
        except BaseException:
            self._container.close()
            raise
        self._first = first
        self._turn = _Turn.of(first)
        self._stored = (first.height, first.width)
        self.size = self._turn.size(self._stored)
        self.rate = float(self._stream.average_rate or self._stream.guessed_rate or 25)
        self._end_s = self._declared_end()

    def _video_stream(self) -> Any:
        from av.stream import Disposition

        kind = self._container.format.name
        brand = self._container.metadata.get("major_brand", "")
        streams = [
            stream
            for stream in self._container.streams.video
            if not stream.disposition & Disposition.attached_pic  # the cover of a song
        ]
        if kind == "tty":  # any text
            raise DataError(f"{self.name}: is a text, not a video.")
        if (
            kind.endswith("_pipe")
            or brand in _IMAGE_BRANDS
            or (kind in _IMAGE_FORMATS and streams and streams[0].frames <= 1)
        ):
            raise DataError(
                f"{self.name}: is an image, not a video: use 'facial-keypoints predict' for images."
            )
        if not streams:
            raise DataError(
                f"{self.name}: has no video stream (it holds "
                f"{' and '.join(sorted({s.type for s in self._container.streams})) or 'nothing'})."
            )
        return streams[0]

    def _declared_end(self) -> float | None:
        """Seconds at which the file says that its images end; ``None`` where it does not."""
        stream = self._stream
        if stream.duration and stream.time_base:
            start = float((stream.start_time or 0) * stream.time_base) - self._start_s
            return float(start + stream.duration * stream.time_base)
        # Matroska writes it as text, hours:minutes:seconds.
        parts = stream.metadata.get("DURATION", "").split(":")
        try:
            hours, minutes, seconds = map(float, parts)
        except ValueError:
            return None
        return 3600 * hours + 60 * minutes + seconds

    @property
    def frame_count(self) -> int | None:
        if self._stream.frames:
            return int(self._stream.frames)
        end = self._end_s
        if end is None and self._container.duration:
            end = self._container.duration / _av().time_base
        return None if end is None else max(1, round(end * self.rate))

    def _decode(self) -> Iterator[VideoFrame]:
        """Frames, past damaged ones, up to the end or to where nothing more can be read."""
        av = _av()
        while True:
            try:
                packet = next(self._packets)
            except StopIteration:
                return
            except av.FFmpegError:
                # What the decoder still holds was whole.
                yield from self._stream.codec_context.decode(None)
                return
            self._read += bool(packet.size)
            try:
                yield from packet.decode()
            except av.FFmpegError:
                self._damaged += 1

    def __iter__(self) -> Iterator[Frame]:
        step = 1.0 / self.rate
        index, time_s = 0, -step
        frame: VideoFrame | None = self._first
        while frame is not None:
            if (frame.height, frame.width) != self._stored:
                raise DataError(
                    f"{self.name}: its frames change from {self._stored[1]}×{self._stored[0]} to "
                    f"{frame.width}×{frame.height} pixels at frame {index}: the frames before are used; "
                    "bring all to one size first (ffmpeg does, with -vf scale)."
                )
            # Some files give no times, or the same one twice.
            own = None if frame.pts is None or frame.time is None else frame.time - self._start_s
            time_s = own if own is not None and own > time_s else time_s + step
            yield _DecodedFrame(frame, index, time_s, self._turn)
            index += 1
            frame = next(self._frames, None)
        self._check_end(index, time_s + step)

    def _check_end(self, count: int, end_s: float) -> None:
        short = self._end_s is not None and self._end_s - end_s > max(
            _SHORT_SECONDS, _SHORT_SHARE * self._end_s
        )
        # An AVI without its index is taken to end where the file ends; its header knows better.
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

    def __enter__(self) -> _VideoFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()


class _Camera:
    """Frames of a camera, timed by the clock, until the reader stops."""

    def __init__(self, number: int) -> None:
        # OpenCV complains of missing devices by itself, several lines each.
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
        self.name = f"camera {number}"
        self.size = (int(image.shape[0]), int(image.shape[1]))
        self.rate = float(self._capture.get(cv2.CAP_PROP_FPS)) or 30.0
        self.frame_count: int | None = None
        self._first = image

    def __iter__(self) -> Iterator[Frame]:
        start, index, image = time.monotonic(), 0, self._first
        while True:
            rgb = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
            yield ImageFrame(rgb, index, time.monotonic() - start)
            index += 1
            there, image = self._capture.read()
            if not there:
                raise DataError(f"{self.name}: it gives no more images after {index} frames.")

    def __enter__(self) -> _Camera:
        return self

    def __exit__(self, *_: object) -> None:
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
        if path.is_dir():
            raise DataError(f"{path}: is a folder, not a video: name one video file.")
        if not path.exists():
            raise DataError(f"there is no video {path}.")
        if not path.is_file():
            raise DataError(
                f"{path}: is not a regular file: name a video file or a camera's number."
            )
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty.")
        # With "file:", a name with a colon is no address.
        return av.open(f"file:{path}", metadata_errors="replace")
    except PermissionError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    except (av.FFmpegError, OSError) as error:
        raise DataError(
            f"{path}: cannot be opened as a video: it is damaged, cut off or of an unknown kind."
        ) from error


def open_video(source: str | os.PathLike[str]) -> Video:
    """Open a video file, or a camera by its number.

    Frames are upright as the container's rotation says; their times are the container's, counted
    from its start, so that a variable frame rate is kept. All frames have one size.

    Args:
        source: A file of any kind that FFmpeg reads; or a number, ``"0"`` for the first camera.

    Returns:
        The video, to be closed by ``with``. Iterating raises :class:`DataError` after the last
        good frame where the file stops in the middle, is damaged or changes its size.

    Raises:
        DataError: It is missing, empty, a folder, an image, has no video stream, cannot be decoded, or
            there is no such camera.
        MissingExtraError: PyAV is not installed.

    Example:
        >>> with open_video("clip.mp4") as video:  # doctest: +SKIP
        ...     times = [frame.time_s for frame in video]
    """
    path = Path(source)
    if os.fspath(source).isdecimal() and not path.exists():
        return _Camera(int(os.fspath(source)))
    return _VideoFile(path)


class VideoWriter:
    """Frames into an H.264 mp4 that every player shows, each at its own time.

    Odd sizes grow by a repeated row or column, which H.264's colours need; coordinates stay.
    """

    def __init__(self, path: Path, size: tuple[int, int], rate: float) -> None:
        av = _av()
        self._av = av
        height, width = size
        self._padding = (height % 2, width % 2)
        self._container = av.open(
            f"file:{path}", "w", format="mp4", options={"movflags": "+faststart"}
        )
        # libx264 comes with the wheels; a build of FFmpeg without it has at least MPEG-4.
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
        # Said, since players take large videos without a word for another kind: BT.601, 16 to 235.
        stream.codec_context.colorspace, stream.codec_context.color_range = 6, 1
        self._stream = stream
        self._last = -1

    def write(self, image: ImageArray, time_s: float) -> None:
        """Append a frame.

        Args:
            image: (H, W, 3) uint8 RGB of the video's size.
            time_s: Later than the frame before.
        """
        down, right = self._padding
        if down or right:
            image = np.pad(image, ((0, down), (0, right), (0, 0)), mode="edge")
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        self._last = max(self._last + 1, round(time_s * _CLOCK))
        frame.pts, frame.time_base = self._last, Fraction(1, _CLOCK)
        self._mux(frame)

    def _mux(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def close(self) -> None:
        """Write what the encoder still holds."""
        try:
            if self._last >= 0:
                self._mux(None)
        finally:
            self._container.close()


@contextmanager
def write_video(path: Path, size: tuple[int, int], *, rate: float = 25.0) -> Iterator[VideoWriter]:
    """Write a video; it appears at ``path`` when the block succeeds, whole.

    Args:
        path: Its name ends in ``.mp4``.
        size: (height, width) of the frames.
        rate: Frames a second on average; a hint for the encoder, each frame has its own time.

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
    """Some moments of a video of unknown length on one image, spread evenly over it.

    Every n-th frame is kept, small; when there are twice as many as wanted, every other one is dropped
    and n doubles. So memory stays flat.

    Args:
        columns: Images in a row.
        rows: Rows.
        width: Width of each in pixels.
    """

    def __init__(self, columns: int = 4, rows: int = 3, width: int = 320) -> None:
        self._columns = columns
        self._wanted = columns * rows
        self._width = width
        self._step = 1
        self._seen = 0
        self._kept: list[ImageArray] = []

    def wants(self) -> bool:
        """Whether the next frame is one to :meth:`add`; to be asked once a frame."""
        wanted = self._seen % self._step == 0
        self._seen += 1
        return wanted

    def add(self, image: ImageArray, time_s: float) -> None:
        """Keep a frame, (H, W, 3) uint8 RGB, with its time written on it."""
        height, width = image.shape[:2]
        # A tall video is brought to the area of a wide one.
        scale = self._width / max(width, height * 9 / 16 if height <= width else height * 0.75)
        small = resize_image(image, (max(2, round(height * scale)), max(2, round(width * scale))))
        text, font = f"{time_s:.1f} s", cv2.FONT_HERSHEY_SIMPLEX
        for color, thickness in (((16, 20, 24), 3), ((255, 255, 255), 1)):
            at = (6, small.shape[0] - 8)
            cv2.putText(small, text, at, font, 0.5, color, thickness, cv2.LINE_AA)
        self._kept.append(small)
        if len(self._kept) >= 2 * self._wanted:
            self._kept, self._step = self._kept[::2], 2 * self._step

    def image(self) -> ImageArray:
        """The sheet, (H, W, 3) uint8 RGB.

        Raises:
            ValueError: No frame was added.
        """
        if not self._kept:
            raise ValueError("a contact sheet needs at least one frame.")
        count = min(self._wanted, len(self._kept))
        chosen = np.linspace(0, len(self._kept) - 1, count).round().astype(int)
        shown = [self._kept[i] for i in chosen]
        columns = min(self._columns, count)
        gap = 4
        height, width = shown[0].shape[:2]
        rows = -(-count // columns)
        sheet = np.full(
            (rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8
        )
        for i, small in enumerate(shown):
            top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
            sheet[top : top + height, left : left + width] = small
        return sheet
