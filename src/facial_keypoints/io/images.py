"""Finding, reading and writing image files.

No other module decodes or encodes images. It is done by Pillow rather than OpenCV: Pillow reads size and format
from the header before it decodes anything, handles EXIF orientation, transparency and 16 bits in every
format, and refuses files that are cut off. ``benchmarks/decode_images.py`` measures the cost. Only the low
bits of 16-bit colours, which Pillow drops, come from OpenCV.
"""

from __future__ import annotations

import glob
import io
import logging
import os
import re
import struct
import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

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
    "StoredImage",
    "encode_image",
    "find_images",
    "in_order",
    "read_content",
    "read_image",
    "write_image",
]

MAX_PIXELS = 128_000_000
"""Pixels of the largest image that is decoded by default. Phone cameras have up to 108 million; in
colour, 128 million fill 384 MB."""

# Formats of photographs. EPS, PDF and the like would start other programs.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
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

_LOG = logging.getLogger(__name__)
_header_lock = threading.Lock()
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
) -> ImageArray:
    """Read one image, upright as its EXIF orientation says.

    Transparent pixels become white, unless the whole image is transparent: then its colours are read. Values of
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

    Returns:
        (H, W, channels) uint8, upright.

    Raises:
        ValueError: ``channels`` is another number.
        ImageError: It is missing, empty, damaged, cut off, too large or no image.
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

    def decode(content: bytes) -> ImageArray:
        with _open(content) as image:
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
            array = _to_array(image, channels, content, say)
            if media_type is not None and image.format not in MEDIA_TYPES[media_type]:
                say(f"declared as {media_type}, but read as {image.format}, which its content is.")
            with suppress(*_DAMAGE):  # what follows the first frame may be damaged
                _warn_of_more(image, content, say)
            return array

    try:
        try:
            return decode(content)
        except _DAMAGE:
            if (repaired := _repaired(content, decode, say)) is None:
                raise
            return repaired
    except UnidentifiedImageError:
        raise ImageError(f"{shown}: not an image in a known format.") from None
    except (Image.DecompressionBombError, MissingExtraError) as error:
        raise ImageError(f"{shown}: {error}") from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise ImageError(f"{shown}: the image is damaged or cut off ({reason}).") from error


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


def _open(content: bytes) -> ImageFile.ImageFile:
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
            return Image.open(io.BytesIO(content), formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _repaired(
    content: bytes, decode: Callable[[bytes], ImageArray], say: Callable[[str], None]
) -> ImageArray | None:
    """Read an image again that could not be decoded, without the parts that its pixels do not need.

    Returns:
        As ``decode``; ``None`` if pixels are missing.
    """
    if content.startswith(_PNG_START):
        return decode(_png_pixels(content))
    if not content.startswith(b"\xff\xd8"):
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
    """A PNG without its texts, colour profiles and the like, which may be damaged or too large for Pillow."""
    parts, start = [_PNG_START], len(_PNG_START)
    while start + 12 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if content[start + 4 : start + 8] in _PNG_CHUNKS:
            parts.append(content[start:end])
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


def _to_eight_bits(values: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Values of 16 or 32 bits as 8 bits, as :func:`read_image` says."""
    low, high = int(values.min()), int(values.max())
    black = min(low, 0)
    white = black + 65535
    if not 2**14 <= high - black < 2**16:
        white = black + 2 ** max(8, (high - black).bit_length()) - 1
    if 0 < high - low < (white - black) / 8 and white - black > 255:
        black, white = low, high
    scaled = (values.astype(np.float32) - black) / ((white - black) / 255)
    return np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled).astype(np.uint8)


def _stretch_colours(image: Image.Image, content: bytes) -> Image.Image:
    """The same image with the bits in use of 16, of which Pillow read the upper eight."""
    import cv2

    deep: Any = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if deep is None or deep.dtype != np.uint16 or deep.ndim != 3 or deep.shape[2] not in (3, 4):
        return image
    colours = _to_eight_bits(deep[..., 2::-1])
    if deep.shape[2] == 3:
        stretched = Image.fromarray(colours)
    else:
        alpha = (deep[..., 3:] >> 8).astype(np.uint8)
        stretched = Image.fromarray(np.concatenate([colours, alpha], axis=2))
    return stretched if stretched.size == image.size else image


def _to_array(
    source: ImageFile.ImageFile, channels: int | None, content: bytes, say: Callable[[str], None]
) -> ImageArray:
    image: Image.Image = source
    deep = source.format == "PPM" or ";16" in str(source.tile[:1])
    tags = getattr(source, "tag_v2", {})  # of a TIFF
    if channels is None:
        channels = 1 if image.mode in _GREY else 3
    if channels == 1 and image.format in ("JPEG", "MPO") and image.mode == "RGB":
        image.draft("L", image.size)  # the decoder then skips the colours
    image.load()
    deep = deep and image.mode in ("RGB", "RGBA", "LA")
    if deep and np.max(image.convert("RGB").getextrema()) < 64:
        # Only the pixels are replaced, so that the orientation is still known.
        image.im = _stretch_colours(image, content).convert(image.mode).im
    with suppress(*_DAMAGE):  # damaged EXIF data holds no orientation
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # 16 bits a pixel, in 16 or 32
        values = np.asarray(image)
        if image.mode == "I" and tags.get(258) == (32,) and tags.get(339, (1,)) == (1,):
            values = values.view(np.uint32)  # Pillow has no mode for them
        grey = _to_eight_bits(values)[..., np.newaxis]
        if tags.get(262) == 0:  # white is zero, which Pillow heeds only in 8 bits
            grey = 255 - grey
        return np.repeat(grey, channels, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() == (0, 0):
            say("all of it is transparent; its colours were read.")
            image.putalpha(255)
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    wanted = "L" if channels == 1 else "RGB"
    if channels == 1 and image.mode not in ("L", "1"):
        image = image.convert("RGB")  # CMYK, palette and Lab cannot be converted to grey directly
    if image.mode != wanted:
        image = image.convert(wanted)
    array: ImageArray = np.array(image, np.uint8)
    return array.reshape(image.height, image.width, channels)


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
    passed_over: list[Path] | None = None,
) -> Iterator[Path | StoredImage]:
    """Find the images that the inputs name.

    A folder gives the files in it and below it with a suffix of :data:`IMAGE_SUFFIXES`, in order of name,
    without hidden files. A pattern with ``*``, ``?`` or ``[]`` gives the files that match; ``**`` stands for
    folders of any depth. ``-`` reads one path per line from standard input.

    Args:
        inputs: Names.
        without: An output folder that may lie in a folder of the inputs: what it holds is not taken.
        passed_over: Gets the files of folders that look like images (:data:`FOREIGN_SUFFIXES`) and are
            not taken, and ``without`` if it holds something.

    Yields:
        Paths, one at a time. A folder that may not be looked into is given as an image that cannot be read.

    Raises:
        DataError: There is no such file or folder, or no file matches.
    """
    for name in inputs:
        path = Path(name)
        if name == "-":
            yield from map(Path, read_list(sys.stdin.buffer))
        elif path.is_dir():
            leave = None if without is None else without.resolve()
            yield from _in_folder(path, leave, [] if passed_over is None else passed_over)
        elif path.exists() or not any(sign in name for sign in "*?["):
            if not path.exists():
                raise DataError(f"there is no image or folder {name}.")
            yield path
        else:
            # Path.glob does not take absolute patterns.
            matches = sorted(p for p in glob.iglob(name, recursive=True) if not Path(p).is_dir())  # noqa: PTH207
            if not matches:
                raise DataError(f"no file matches {name}.")
            yield from map(Path, matches)


def _in_folder(
    folder: Path, leave: Path | None, passed_over: list[Path]
) -> Iterator[Path | StoredImage]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(
                # Links are not followed: one to a folder above would never end.
                (e.name, e.is_dir(follow_symlinks=False))
                for e in entries
                if not e.name.startswith(".")
            )
    except OSError as error:
        yield StoredImage(str(folder), partial(_raise, error))
        return
    for name, is_folder in found:
        path = folder / name
        suffix = path.suffix.lower()
        if is_folder and leave is not None and path.resolve() == leave:
            passed_over += [path] if any(path.iterdir()) else []
        elif is_folder:
            yield from _in_folder(path, leave, passed_over)
        elif suffix in IMAGE_SUFFIXES:
            yield path
        elif suffix in FOREIGN_SUFFIXES:
            passed_over.append(path)


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
