"""Finding, reading and writing image files.

No other module decodes or encodes images. It is done by Pillow rather than OpenCV: Pillow reads size and format
from the header before it decodes anything, handles EXIF orientation, transparency and 16 bits in every
format, and refuses files that are cut off. ``benchmarks/decode_images.py`` measures the cost. Only the low
bits of 16-bit colours, which Pillow drops, come from OpenCV.
"""

from __future__ import annotations

import ctypes
import glob
import io
import logging
import math
import os
import re
import struct
import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from facial_keypoints.errors import DataError, ImageError, MissingExtraError
from facial_keypoints.files import atomic_path
from facial_keypoints.io.tables import read_list
from facial_keypoints.types import ImageArray

__all__ = [
    "FOREIGN_SUFFIXES",
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "MEDIA_TYPES",
    "WRITABLE_SUFFIXES",
    "PassedOver",
    "StoredImage",
    "count_frames",
    "encode_image",
    "find_images",
    "in_order",
    "read_content",
    "read_frames",
    "read_image",
    "read_size",
    "write_image",
]

MAX_PIXELS = 128_000_000
"""Pixels of the largest image that is decoded by default. Phone cameras have up to 108 million; in
colour, 128 million fill 384 MB."""

# Formats of photographs. EPS, PDF and the like would start other programs.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
_SEEN = 8  # of 255: an image that is nowhere more opaque than this would be white
_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")
# HEIC says its codec among the brands at its beginning; AVIF, which Pillow reads, has others.
_HEIF = re.compile(rb".{4}ftyp.{0,64}?(hei[cxms]|hev[cxms])", re.DOTALL)
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".bmp", ".dib", ".webp",
    ".tif", ".tiff", ".pgm", ".ppm", ".pnm", ".jp2", ".avif",
    ".heic", ".heif", ".hif",
})  # fmt: skip
"""Suffixes of the files that are taken from a folder; a file that is named itself may have any name."""

FOREIGN_SUFFIXES = frozenset({
    ".jxl", ".jxr", ".psd", ".psb", ".xcf", ".svg", ".svgz", ".pdf", ".ai", ".eps", ".ps", ".tga", ".exr",
    ".hdr", ".ico", ".icns", ".pcx", ".dds", ".djvu", ".dcm", ".fits", ".j2k", ".j2c", ".jpx", ".jpf",
    ".pam", ".pbm", ".pfm", ".qoi", ".ras", ".sgi", ".xbm", ".xpm", ".emf", ".wmf", ".avifs", ".heics", ".heifs",
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw",
    ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
})  # fmt: skip
"""Suffixes of images that are not read: such files in a folder are told."""

WRITABLE_SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
"""Suffixes that :func:`write_image` takes, in small letters, with Pillow's names of their formats."""

MEDIA_TYPES = {
    "image/jpeg": ("JPEG", "MPO"), "image/jpg": ("JPEG", "MPO"), "image/pjpeg": ("JPEG", "MPO"),
    "image/png": ("PNG",), "image/apng": ("PNG",), "image/gif": ("GIF",), "image/webp": ("WEBP",),
    "image/bmp": ("BMP",), "image/x-ms-bmp": ("BMP",), "image/tiff": ("TIFF",),
    "image/avif": ("AVIF",), "image/jp2": ("JPEG2000",), "image/x-portable-anymap": ("PPM",),
    "image/x-portable-graymap": ("PPM",), "image/x-portable-pixmap": ("PPM",),
    "image/heic": ("HEIF",), "image/heif": ("HEIF",), "image/heic-sequence": ("HEIF",),
    "image/heif-sequence": ("HEIF",),
}  # fmt: skip
"""Formats, by Pillow's names, that an image of each media type should have."""

_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B")  # Pillow's modes without colour

# What Pillow's readers raise on damaged files.
_DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError,
    AttributeError, MemoryError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip

# After what remains of a JPEG: its end marker, or noise that is decoded if rows are missing. Restart markers
# make that so at any place.
_NOISE = bytes(range(250, 1, -7))
_JPEG_ENDS = (
    b"\xff\xd9",
    _NOISE + b"".join(bytes((0xFF, 0xD0 + i)) + _NOISE for i in range(8)) + b"\xff\xd9",
)

# The chunks of a PNG that hold the pixels and orientation of its first frame.
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND")
_MOST_PAGES = 1000

# Most parts of a file whose count decides the time to decode it, far above those of files that programs write.
# A JPEG of a progressive camera or web page has about ten scans; libtiff allows 100 as well.
_MOST_SCANS = 100
_MOST_STRIPS = 100_000  # and tiles; one row of pixels a strip is the most that is usual
_MOST_READS = 2_000_000  # of Pillow: two or three a segment, chunk or block of a file
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")

_BAND = 2**20  # pixels that are converted at once

# libtiff would write every damage to stderr; Pillow raises it as well. Looked up among the libraries that
# Pillow has loaded.
with suppress(OSError, AttributeError):
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)  # type: ignore[attr-defined]

_LOG = logging.getLogger(__name__)
_header_lock = threading.Lock()
PassedOver = Literal["foreign", "hidden", "link", "folder", "output"]
"""Why :func:`find_images` does not take something: a file that looks like an image by its suffix
(:data:`FOREIGN_SUFFIXES`) or by how it begins, a hidden image, a link to a folder (one to a folder above would
never end), a folder that a pattern matches, the output."""

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class StoredImage:
    """An image that is not a file on this machine but in a table, an archive or an object store.

    Functions that take the path of an image take it as well.

    Attributes:
        name: Its name in tables and messages.
        read: Returns the bytes of the image file, or raises ``OSError``.
    """

    name: str
    read: Callable[[], bytes]

    def __fspath__(self) -> str:
        return self.name


def read_image(
    source: str | os.PathLike[str] | bytes | StoredImage,
    *,
    channels: int | None = 3,
    max_pixels: int = MAX_PIXELS,
    name: str | None = None,
    media_type: str | None = None,
    warn: Callable[[str], None] | None = None,
    check: Callable[[int], None] | None = None,
) -> ImageArray:
    """Read one image, upright as its EXIF orientation says.

    Transparent pixels become white, unless the whole image is (nearly) transparent: then its colours are read. Values of
    16 and 32 bits are divided so that white becomes 255: white is 65535, or the largest value of the bits in
    use where they are fewer than 15 (12-bit cameras) or more than 16. An image that uses less than an eighth of
    that range (thermal cameras) is stretched from its smallest to its largest value.

    Of an image with several pages or frames the first is read; a warning says so.

    Args:
        source: A path, the bytes of a file, or an image that is stored elsewhere.
        channels: 1 for grey, 3 for RGB, ``None`` for 1 if the file is grey and 3 if not.
        max_pixels: Refuse larger images, before they are decoded.
        name: Name of the image in messages; the path when left out.
        media_type: A key of :data:`MEDIA_TYPES`: warn of an image of another format.
        warn: Takes each warning, a sentence with the name; logged once when left out.
        check: Is given the number of pixels before they are decoded, and called again from time to time while
            they are. It ends the decoding by raising a ``FacialKeypointsError``.

    Returns:
        (H, W, channels) uint8, upright.

    Raises:
        ValueError: ``channels`` is another number.
        ImageError: It is missing, empty, damaged, cut off, too large or no image, or has an absurd number of
            scans, strips or other parts.
    """
    if channels not in (1, 3, None):
        raise ValueError(f"channels must be 1 (grey), 3 (RGB) or None, received {channels}.")
    shown = name or ("image" if isinstance(source, bytes) else os.fspath(source))
    try:
        if isinstance(source, bytes):
            content = source
        elif isinstance(source, StoredImage):
            content = source.read()
        else:
            content = read_content(Path(source), max_pixels)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{shown}: cannot be read ({reason}).") from error
    if not content:
        raise ImageError(f"{shown}: the file is empty.")

    def say(text: str) -> None:
        (warn or _log)(f"{shown}: {text}")

    pixels: list[int] = []

    def look() -> None:
        if check is not None and pixels:
            check(pixels[0])

    def decode(content: bytes) -> ImageArray:
        with _open(content, look) as image:
            _check_header(image, shown, max_pixels)
            pixels.append(image.width * image.height)
            look()
            array = _to_array(image, channels, content, say, look)
            if media_type is not None and image.format not in MEDIA_TYPES[media_type]:
                say(f"declared as {media_type}, but read as {image.format}, which its content is.")
            with suppress(*_DAMAGE):  # what follows the first frame may be damaged
                _warn_of_more(image, content, say)
            return array

    try:
        content = _bounded(content)
        try:
            return decode(content)
        except _DAMAGE as error:
            damage = error.with_traceback(None)  # it would hold the pixels decoded so far
        if (repaired := _repaired(content, decode, say)) is None:
            raise damage
        return repaired
    except UnidentifiedImageError:
        raise ImageError(f"{shown}: not an image in a known format.") from None
    except (Image.DecompressionBombError, MissingExtraError, _TooMany) as error:
        raise ImageError(f"{shown}: {error}") from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise ImageError(f"{shown}: the image is damaged or cut off ({reason}).") from error


def read_size(path: str | os.PathLike[str]) -> tuple[int, int, int]:
    """Width and height of an image as it is shown, upright, and its EXIF orientation (1 to 8, 1 = stored upright).

    Only the header is read.

    Raises:
        ImageError: It cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            start = file.read(1 << 20)
            if start.startswith(
                b"\xff\xd8"
            ):  # a JPEG's header is at its start, others may need all of the file
                with suppress(*_DAMAGE):
                    return _header(start)
            return _header(start + file.read())
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not an image in a known format.") from None
    except MissingExtraError as error:
        raise ImageError(f"{path}: {error}") from error
    except _DAMAGE as error:
        raise ImageError(f"{path}: cannot be read ({error}).") from error


def _header(content: bytes) -> tuple[int, int, int]:
    with _open(content) as image:
        # Pillow decodes a PNG to look for EXIF data behind the pixels.
        orientation = 1 if image.format == "PNG" and b"eXIf" not in content else _orientation(image)
        width, height = image.size
        lying = orientation >= 5 and image.format != "TIFF"  # whose size Pillow gives upright
    return (height, width, orientation) if lying else (width, height, orientation)


def count_frames(path: Path) -> tuple[int, float]:
    """Number of frames of an animated GIF, PNG, WebP or AVIF, 1 for other images; seconds that the first is shown.

    Raises:
        ImageError: It cannot be read.
    """
    with _frames_of(path) as image:
        animated = image.format in _ANIMATED
        return int(getattr(image, "n_frames", 1)) if animated else 1, _shown_s(image)


def read_frames(
    path: Path, *, max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[ImageArray | ImageError, float]]:
    """The frames of an animated image, each with its time in seconds.

    Args:
        path: An animated GIF, PNG, WebP or AVIF.
        max_pixels: As for :func:`read_image`, of one frame.

    Yields:
        (H, W, 3) uint8, upright, white where it is transparent. A damaged frame is given as an error, and is the
        last, since the others depend on it.

    Raises:
        ImageError: It cannot be read.
    """
    time_s = 0.0
    with _frames_of(path, max_pixels) as image:
        count = int(getattr(image, "n_frames", 1))
        for number in range(count):
            try:
                image.seek(number)
                frame = ImageOps.exif_transpose(image).convert("RGBA")
            except _DAMAGE as error:
                lost = count - number
                yield ImageError(f"{path}: its last {lost} frames are damaged ({error})."), time_s
                return
            white = Image.new("RGBA", frame.size, (255, 255, 255, 255))
            yield np.array(Image.alpha_composite(white, frame).convert("RGB"), np.uint8), time_s
            time_s += _shown_s(image)


@contextmanager
def _frames_of(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[ImageFile.ImageFile]:
    """The open image, refused as :func:`read_image` refuses it."""
    try:
        with _open(read_content(path, max_pixels)) as image:
            _check_header(image, str(path), max_pixels)
            image.load()
            yield image
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not an image or a video in a known format.") from None
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: the image is damaged or cut off ({error}).") from error


def _shown_s(frame: Image.Image) -> float:
    """Seconds that a frame is shown; as in browsers, 0.1 where the file gives next to nothing."""
    duration = float(frame.info.get("duration") or 0)
    return (duration if duration > 10 else 100) / 1000


def _check_header(image: ImageFile.ImageFile, shown: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{shown}: {width}×{height} pixels are more than the limit of "
            f"{max_pixels:,}: make it smaller, or raise --max-pixels."
        )
    if image.mode == "F":
        raise ImageError(
            f"{shown}: its pixels are floating-point numbers of unknown range: save it with 8 or "
            "16 bits."
        )


def read_content(path: Path, max_pixels: int = MAX_PIXELS) -> bytes:
    """Read an image file, unless it is larger than an image of ``max_pixels`` can be.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not a regular file, or too large.
    """
    if path.exists() and not path.is_file():
        raise ValueError("not a file")  # a pipe or a device may never end
    if (
        path.stat().st_size > 16 * max_pixels
    ):  # bytes: twice as many as uncompressed 16-bit RGBA has
        raise ValueError("the file is too large for an image")
    return path.read_bytes()


class _TooMany(Exception):
    """A file has an absurd number of parts; the message gives the number and the limit."""

    def __init__(self, count: str, parts: str, most: int) -> None:
        super().__init__(
            f"has {count} {parts}, more than the limit of {most:,}: save it anew with an image editor."
        )


class _Reader(io.BytesIO):
    """A file in memory that ends the reading of absurd files and of those that nobody waits for."""

    def __init__(self, content: bytes, look: Callable[[], None]) -> None:
        super().__init__(content)
        self._look = look
        self._reads = 0
        self.left: float = 4 * len(content) + 2**20
        """Bytes that may still be read; the tags of a TIFF may name the same ones again and again."""

    def read(self, size: int | None = -1, /) -> bytes:
        self._look()
        part = super().read(size)
        self._reads += 1
        self.left -= len(part)
        if self._reads > _MOST_READS or self.left < 0:
            raise _TooMany("very many", "segments, chunks or blocks", _MOST_READS)
        return part


def _open(content: bytes, look: Callable[[], None] = lambda: None) -> ImageFile.ImageFile:
    """Read the header, without Pillow's own limit of pixels, which is global and only warns."""
    formats: tuple[str, ...] = _FORMATS
    if _HEIF.match(content):
        formats = ("HEIF",)
        try:
            import pillow_heif
        except ModuleNotFoundError:
            raise MissingExtraError("pillow_heif", "heif", "Reading HEIC") from None
        pillow_heif.register_heif_opener()
    with _header_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            reader = _Reader(content, look)
            image = Image.open(reader, formats=formats)
            reader.left = math.inf
            return image
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _bounded(content: bytes) -> bytes:
    """The same image, unless decoding it would take absurdly long for its pixels.

    Raises:
        _TooMany: It would.
    """
    if content.startswith(_PNG_START):
        # Pillow inflates every profile, of which one is allowed.
        return _png_pixels(content) if content.count(b"iCCP") > 1 else content
    if content.startswith(b"\xff\xd8"):
        if content.count(b"\xff\xda") > _MOST_SCANS:  # others may lie in previews and profiles
            scans = _jpeg_markers(content).count(0xDA)
            if scans > _MOST_SCANS:
                raise _TooMany(f"{scans:,}", "scans", _MOST_SCANS)
    elif content[:2] in (b"II", b"MM"):
        with suppress(struct.error):
            strips, tile = _tiff_strips(content)
            if strips > _MOST_STRIPS:
                raise _TooMany(f"{strips:,}", "strips or tiles", _MOST_STRIPS)
            if tile > MAX_PIXELS:
                raise _TooMany(f"{tile:,}", "pixels in one tile", MAX_PIXELS)
    return content


def _tiff_strips(content: bytes) -> tuple[int, int]:
    """Number of strips or tiles of the first page of a TIFF, and pixels of a tile."""
    order = "<" if content[:2] == b"II" else ">"
    kinds = {3: order + "H", 4: order + "I", 16: order + "Q"}
    version, at = struct.unpack_from(order + "2xHI", content)
    number, entry = order + "H", struct.Struct(order + "HHI")
    if version == 43:  # BigTIFF
        (at,) = struct.unpack_from(order + "Q", content, 8)
        number, entry = order + "Q", struct.Struct(order + "HHQ")
    (entries,) = struct.unpack_from(number, content, at)
    at += struct.calcsize(number)
    strips, sides = 0, {322: 0, 323: 0}
    for i in range(min(entries, 2**16)):
        start = at + i * (20 if version == 43 else 12)
        tag, kind, count = entry.unpack_from(content, start)
        if tag in (273, 324):
            strips = max(strips, count)
        elif tag in sides and kind in kinds:
            (sides[tag],) = struct.unpack_from(kinds[kind], content, start + entry.size)
    return strips, sides[322] * sides[323]


def _jpeg_markers(content: bytes) -> bytearray:
    """The second byte of each marker of a JPEG, from the first to its end marker, without restarts."""
    markers, at = bytearray(), 2
    while found := _JPEG_MARKER.search(content, at):
        markers.append(content[found.end() - 1])
        if markers[-1] == 0xD9:
            break
        at = found.end() + int.from_bytes(content[found.end() : found.end() + 2], "big")
    return markers


def _repaired(
    content: bytes, decode: Callable[[bytes], ImageArray], say: Callable[[str], None]
) -> ImageArray | None:
    """Read an image again that could not be decoded, without the parts that its pixels do not need.

    Returns:
        As ``decode``; ``None`` if pixels are missing.
    """
    if content.startswith(_PNG_START):
        return decode(_png_pixels(content))
    markers = _jpeg_markers(content) if content.startswith(b"\xff\xd8") else b"\xd9"
    # It is decoded twice more.
    if 0xD9 in markers or markers.count(0xDA) > _MOST_SCANS // 3:
        return None
    # The end marker may be missing. If rows are missing too, what follows decides how they look.
    first, second = (decode(content.rstrip(b"\xff") + end) for end in _JPEG_ENDS)
    if not np.array_equal(first, second):
        return None
    if (
        b"\xff\xc2" in content
    ):  # progressive: scans after the last that is there would refine all rows
        say("ends without its end marker; its finest details may be missing.")
    return first


def _png_pixels(content: bytes) -> bytes:
    """A PNG without its texts, colour profiles and the like, which may be damaged or too large for Pillow.

    Transparency and orientation are kept if their checksums are right.
    """
    parts, start = [_PNG_START], len(_PNG_START)
    while start + 12 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        kind, checksum = content[start + 4 : start + 8], content[end - 4 : end]
        if kind in _PNG_CHUNKS:
            right = zlib.crc32(content[start + 4 : end - 4]) == int.from_bytes(checksum, "big")
            parts += [content[start:end]] if right or kind[:1].isupper() else []
        start = end
    return b"".join(parts)


@lru_cache(maxsize=10_000)
def _log(message: str) -> None:
    """Log a warning once, although the same image may be read twice, to predict and to draw."""
    _LOG.warning(message)


def _warn_of_more(image: Image.Image, content: bytes, say: Callable[[str], None]) -> None:
    """Say that an image has more pages or frames than the one that is read."""
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return  # the further images of an MPO are previews or depths
    if image.format != "TIFF":
        say("is animated; only its first frame was read.")
        return
    pages = 1
    with suppress(*_DAMAGE), _open(content) as again:
        while pages < _MOST_PAGES:
            again.seek(pages)
            pages += 1
    count = f"at least {pages:,}" if pages == _MOST_PAGES else f"{pages}"
    say(f"has {count} pages; only the first was read. Save each page as a file to read all.")


def _black_and_white(low: int, high: int) -> tuple[int, int]:
    """Values of 16 or 32 bits that become 0 and 255, as :func:`read_image` says, from those in use."""
    black = min(low, 0)
    white = black + 65535
    if not 2**14 <= high - black < 2**16:
        white = black + 2 ** max(8, (high - black).bit_length()) - 1
    if 0 < high - low < (white - black) / 8 and white - black > 255:
        black, white = low, high
    return black, white


def _to_eight_bits(
    values: NDArray[np.integer], black_and_white: tuple[int, int]
) -> NDArray[np.uint8]:
    black, white = black_and_white
    scaled = (values.astype(np.float32) - black) / ((white - black) / 255)
    return np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled).astype(np.uint8)


def _sixteen_bits(image: Image.Image, content: bytes) -> NDArray[np.uint16] | None:
    """(H, W, 3 or 4) colours of 16 bits, of which Pillow read the upper eight; ``None`` if there are none."""
    import cv2

    cv2.utils.logging.setLogLevel(
        cv2.utils.logging.LOG_LEVEL_SILENT
    )  # it would write of unusual tags; Pillow has read the image already
    deep: Any = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if deep is None or deep.dtype != np.uint16 or deep.ndim != 3 or deep.shape[2] not in (3, 4):
        return None
    if deep.shape[1::-1] != image.size:
        return None
    cv2.cvtColor(deep, cv2.COLOR_BGR2RGB if deep.shape[2] == 3 else cv2.COLOR_BGRA2RGBA, dst=deep)
    return deep  # type: ignore[no-any-return]


def _bands(image: Image.Image) -> Iterator[tuple[slice, slice, Image.Image]]:
    """Rows, columns and pixels of parts of an image, so that conversions need no copy of all of it."""
    width = min(image.width, _BAND)
    height = max(1, _BAND // width)
    for y in range(0, image.height, height):
        for x in range(0, image.width, width):
            box = (x, y, min(x + width, image.width), min(y + height, image.height))
            part = image if box == (0, 0, *image.size) else image.crop(box)
            yield slice(y, box[3]), slice(x, box[2]), part


def _orientation(image: Image.Image) -> int:
    with suppress(*_DAMAGE):  # damaged EXIF data holds no orientation
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


def _upright(
    size: tuple[int, int], channels: int, orientation: int
) -> tuple[ImageArray, ImageArray]:
    """An empty array for an image, and a view of it in which pixels lie as in the file.

    Args:
        size: (width, height) in the file.
        channels: 1 or 3.
        orientation: As EXIF numbers them, 1 to 8.
    """
    turned = orientation in (5, 6, 7, 8)
    array: ImageArray = np.empty((*(size if turned else size[::-1]), channels), np.uint8)
    stored = array.swapaxes(0, 1) if turned else array
    # Orientation: whether the rows of the file are in reverse, and its columns.
    down, across = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (-1, 1), 7: (-1, -1), 8: (1, -1)}.get(
        orientation, (1, 1)
    )
    return array, stored[::down, ::across]


def _to_array(
    source: ImageFile.ImageFile,
    channels: int | None,
    content: bytes,
    say: Callable[[str], None],
    look: Callable[[], None],
) -> ImageArray:
    image: Image.Image = source
    sixteen = source.format == "PPM" or ";16" in str(source.tile[:1])
    tags = getattr(source, "tag_v2", {})  # of a TIFF
    if channels is None:
        channels = 1 if image.mode in _GREY else 3
    if channels == 1 and image.format in ("JPEG", "MPO") and image.mode == "RGB":
        image.draft("L", image.size)  # the decoder then skips the colours
    image.load()
    look()
    deep = None
    if sixteen and image.mode in ("RGB", "RGBA", "LA"):
        ranges: Any = image.getextrema()
        if np.max(ranges[: 1 if image.mode == "LA" else 3]) < 64:
            deep = _sixteen_bits(image, content)
    array, stored = _upright(image.size, channels, _orientation(image))
    if image.mode.startswith("I"):  # 16 bits a pixel, in 16 or 32
        _grey(image, tags, stored)
        return array
    if deep is not None:
        use = _black_and_white(int(deep[..., :3].min()), int(deep[..., :3].max()))
    clear = image.has_transparency_data and all(
        np.max(band.convert("RGBA").getchannel("A").getextrema()) < _SEEN
        for _, _, band in _bands(image)
    )
    if clear:
        say("all of it is transparent; its colours were read.")
    wanted = "L" if channels == 1 else "RGB"
    for rows, columns, part in _bands(image):
        look()
        band = part
        if deep is not None:
            band = _eight_bit_colours(deep[rows, columns], use).convert(image.mode)
        if image.has_transparency_data:
            band = _on_white(band.convert("RGBA"), clear)
        if channels == 1 and band.mode not in ("L", "1"):
            band = band.convert("RGB")  # CMYK, palette and Lab cannot be converted to grey directly
        if band.mode != wanted:
            band = band.convert(wanted)
        stored[rows, columns] = np.asarray(band).reshape(band.height, band.width, channels)
    return array


def _eight_bit_colours(colours: NDArray[np.uint16], use: tuple[int, int]) -> Image.Image:
    eight = _to_eight_bits(colours[..., :3], use)
    if colours.shape[2] == 4:
        alpha = (colours[..., 3:] >> 8).astype(np.uint8)
        eight = np.concatenate([eight, alpha], axis=2)
    return Image.fromarray(eight)


def _on_white(image: Image.Image, clear: bool) -> Image.Image:
    if clear:
        image.putalpha(255)
    return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)


def _grey(image: Image.Image, tags: Any, stored: ImageArray) -> None:
    """Fill an array with grey values of 16 or 32 bits."""
    unsigned = image.mode == "I" and tags.get(258) == (32,) and tags.get(339, (1,)) == (1,)

    def values(band: Image.Image) -> NDArray[np.integer]:
        return (
            np.asarray(band).view(np.uint32) if unsigned else np.asarray(band)
        )  # Pillow has no such mode

    ends = [(values(band).min(), values(band).max()) for _, _, band in _bands(image)]
    use = _black_and_white(int(np.min(ends)), int(np.max(ends)))
    for rows, columns, band in _bands(image):
        grey = _to_eight_bits(values(band), use)
        if tags.get(262) == 0:  # white is zero, which Pillow heeds only in 8 bits
            grey = 255 - grey
        stored[rows, columns] = grey[..., np.newaxis]


def encode_image(image: ImageArray, suffix: str = ".png", *, quality: int = 95) -> bytes:
    """The bytes of an image file.

    Args:
        image: (H, W), (H, W, 1) or (H, W, 3) uint8, grey or RGB.
        suffix: A key of :data:`WRITABLE_SUFFIXES`, in small or capital letters; PNG is lossless.
        quality: Of a JPEG, 1 to 95.

    Raises:
        ValueError: The suffix is another one.
        OSError: The format cannot hold the image: a JPEG has at most 65,500 pixels a side.
    """
    if (kind := WRITABLE_SUFFIXES.get(suffix.lower())) is None:
        raise ValueError(f"suffix must be {', '.join(WRITABLE_SUFFIXES)}, received '{suffix}'.")
    # Level 1 takes a third of the default level's time; files are a tenth larger.
    options = {"quality": quality} if kind == "JPEG" else {"compress_level": 1}
    pixels = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


def write_image(path: str | os.PathLike[str], image: ImageArray, *, quality: int = 95) -> None:
    """Write an image file under a temporary name and rename it; a missing folder is made.

    Args:
        path: The file; its suffix, one of :data:`WRITABLE_SUFFIXES`, gives the format.
        image: As for :func:`encode_image`.
        quality: Likewise.

    Raises:
        ValueError: The suffix is another one.
        OutputError: The file cannot be written.
    """
    path = Path(path)
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_image(image, path.suffix, quality=quality))


def find_images(
    inputs: Iterable[str],
    *,
    without: Path | None = None,
    passed_over: dict[Path, PassedOver] | None = None,
) -> Iterator[Path | StoredImage]:
    """Find the images that the inputs name.

    A folder gives the files in it and below it with a suffix of :data:`IMAGE_SUFFIXES`, in order of name,
    without hidden files. A pattern with ``*``, ``?`` or ``[]`` gives the files that match; ``**`` stands for
    folders of any depth. ``-`` reads one path per line from standard input.

    Args:
        inputs: Names.
        without: An output folder that may lie in a folder of the inputs, or below the fixed part of a
            pattern: what it holds is not taken.
        passed_over: Gets what is not taken, and why.

    Yields:
        Paths, one at a time. A folder that may not be looked into is given as an image that cannot be read.

    Raises:
        DataError: There is no such file or folder, or no file matches.
    """
    for name in inputs:
        path = Path(name)
        # Path.exists and the like raise errors for names that are too long or not to be looked up.
        exists = os.path.exists(name)  # noqa: PTH110
        leave = None if without is None else without.resolve()
        told = {} if passed_over is None else passed_over
        if name == "-":
            yield from map(Path, read_list(sys.stdin.buffer))
        elif os.path.isdir(name):  # noqa: PTH112
            yield from _in_folder(path, leave, told)
        elif exists or not glob.has_magic(name):
            if not exists:
                raise DataError(f"there is no image or folder {name}.")
            yield path
        else:
            # Path.glob does not take absolute patterns.
            matches = sorted(map(Path, glob.iglob(name, recursive=True)))  # noqa: PTH207
            files = [p for p in matches if not p.is_dir()]
            if not files:
                raise DataError(f"no file matches {name}.")
            if "**" not in name:
                told.update({p: "folder" for p in matches if p.is_dir()})
            base = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts)).resolve()
            inside = leave is not None and base in leave.parents
            for file in files:
                if inside and without is not None and leave in file.resolve().parents:
                    told[without] = "output"
                else:
                    yield file


def _in_folder(
    folder: Path, leave: Path | None, passed_over: dict[Path, PassedOver]
) -> Iterator[Path | StoredImage]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(
                # Links are not followed: one to a folder above would never end.
                (e.name, e.is_dir(follow_symlinks=False))
                for e in entries
                if not e.name.startswith(".")
                or os.path.splitext(e.name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122
            )
    except OSError as error:
        yield StoredImage(str(folder), partial(_raise, error))
        return
    for name, is_folder in found:
        path = folder / name
        suffix = path.suffix.lower()
        if is_folder and leave is not None and path.resolve() == leave:
            if any(path.iterdir()):
                passed_over[path] = "output"
        elif name.startswith("."):
            passed_over[path] = "hidden"
        elif is_folder:
            yield from _in_folder(path, leave, passed_over)
        elif path.is_symlink() and path.is_dir():
            passed_over[path] = "link"
        elif suffix in IMAGE_SUFFIXES:
            yield path
        elif suffix in FOREIGN_SUFFIXES or (path.is_file() and _begins_as_image(path)):
            passed_over[path] = "foreign"


def _begins_as_image(path: Path) -> bool:
    """Whether a file without an image's suffix holds one of the usual kinds all the same."""
    with suppress(OSError), path.open("rb") as file:
        return (
            re.match(rb"\xff\xd8\xff|\x89PNG\r|GIF8|RIFF....WEBP", file.read(16), re.DOTALL)
            is not None
        )
    return False


def _raise(error: OSError) -> NoReturn:
    raise error


def in_order(
    function: Callable[[_T], _R], items: Iterable[_T], *, threads: int, ahead: int
) -> Generator[_R]:
    """Results of ``function`` in the order of ``items``, computed by threads.

    At most ``ahead`` results are computed or waiting at any time, so memory does not grow with the number
    of items. When the generator is closed early, calls that have not begun are dropped.
    """
    pending: deque[Future[_R]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
