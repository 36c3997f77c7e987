"""Image files to arrays, in order, by several threads; arrays to image files.

No other module calls a decoder or an encoder. Pillow does both, not OpenCV: it tells size and kind from
the header before it decodes anything, knows the EXIF orientation, transparency and 16 bits of every
format, and refuses what is cut off whatever its version. ``benchmarks/decode_images.py`` measures
what that costs.
"""

from __future__ import annotations

import glob
import io
import os
import struct
import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from facial_keypoints.errors import DataError, ImageError
from facial_keypoints.files import atomic_path
from facial_keypoints.io.tables import read_list
from facial_keypoints.types import ImageArray

__all__ = [
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
"""Pixels of the largest image that is decoded unless asked otherwise: the largest phone camera
that is common takes 108 million; decoded in colour, this many fill 384 MB."""

# Formats of photographs. EPS, PDF and the like would start other programs.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".bmp", ".dib", ".webp",
    ".tif", ".tiff", ".pgm", ".ppm", ".pnm", ".jp2", ".avif",
})  # fmt: skip
"""Names that a folder is searched for; a file named by itself may have any name."""

WRITABLE_SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
"""Names that :func:`write_image` writes, in small letters, with Pillow's names of their formats."""

MEDIA_TYPES = {
    "image/jpeg": ("JPEG", "MPO"), "image/jpg": ("JPEG", "MPO"), "image/pjpeg": ("JPEG", "MPO"),
    "image/png": ("PNG",), "image/apng": ("PNG",), "image/gif": ("GIF",), "image/webp": ("WEBP",),
    "image/bmp": ("BMP",), "image/x-ms-bmp": ("BMP",), "image/tiff": ("TIFF",),
    "image/avif": ("AVIF",), "image/jp2": ("JPEG2000",), "image/x-portable-anymap": ("PPM",),
    "image/x-portable-graymap": ("PPM",), "image/x-portable-pixmap": ("PPM",),
}  # fmt: skip
"""Formats, by Pillow's names, that an image of each media type may have."""

_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B")  # Pillow's modes without colour

# What Pillow's readers raise on damaged files.
_DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError,
    AttributeError, MemoryError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip

_header_lock = threading.Lock()
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class StoredImage:
    """An image that is no file of this machine: in a table, an archive, a store of objects.

    It may be given wherever a path of an image may be, and goes by its name there.

    Attributes:
        name: What tables and messages call it.
        read: Gives the bytes of the file; raises ``OSError`` where it cannot.
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
) -> ImageArray:
    """Read one image, upright as its EXIF orientation says.

    Of an animated image the first frame is read; what is transparent becomes white; 16-bit grey
    is divided by 257.

    Args:
        source: A file, the bytes of one, or one that is stored elsewhere.
        channels: 1 for grey, 3 for RGB, ``None`` for what the file holds: a grey one gives 1.
        max_pixels: Refuse larger images, told from the header before anything is decoded.
        name: What to call the image in messages; the path when left out.
        media_type: Refuse what has another format: a key of :data:`MEDIA_TYPES`.

    Returns:
        (H, W, channels) uint8, H and W as the image is seen upright.

    Raises:
        ValueError: ``channels`` is another number.
        ImageError: It is missing, empty, damaged, cut off, too large, no image or mislabelled.
    """
    if channels not in (1, 3, None):
        raise ValueError(f"channels must be 1 (grey), 3 (RGB) or None, received {channels}.")
    shown = name or ("image" if isinstance(source, bytes) else os.fspath(source))
    try:
        if isinstance(source, StoredImage):
            content = source.read()
        else:
            content = (
                source if isinstance(source, bytes) else read_content(Path(source), max_pixels)
            )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{shown}: cannot be read ({reason}).") from error
    if not content:
        raise ImageError(f"{shown}: the file is empty.")
    try:
        with _open(content) as image:
            if media_type is not None and image.format not in MEDIA_TYPES[media_type]:
                raise ImageError(
                    f"{shown}: declared as {media_type}, but its content is {image.format}: give it "
                    "its true type and name."
                )
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
            return _to_array(image, channels)
    except UnidentifiedImageError:
        raise ImageError(f"{shown}: not an image in a known format.") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{shown}: {error}") from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise ImageError(f"{shown}: the image is damaged or cut off ({reason}).") from error


def read_content(path: Path, max_pixels: int = MAX_PIXELS) -> bytes:
    """Read an image's file, unless it is larger than such an image can be.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no file, or too large.
    """
    if path.exists() and not path.is_file():
        raise ValueError("not a file")  # a pipe or a device may never end
    if path.stat().st_size > 16 * max_pixels:  # twice 16-bit RGBA without compression
        raise ValueError("the file is too large for an image")
    return path.read_bytes()


def _open(content: bytes) -> Image.Image:
    """Read the header, without Pillow's own limit: it is one for the whole process, and only warns."""
    with _header_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(content), formats=_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _to_array(image: Image.Image, channels: int | None) -> ImageArray:
    if channels is None:
        channels = 1 if image.mode in _GREY else 3
    if channels == 1 and image.format in ("JPEG", "MPO") and image.mode == "RGB":
        image.draft("L", image.size)  # a grey answer needs no colours decoded
    _turn_upright(image)
    mode = image.mode
    if mode.startswith("I"):  # 16 bits a pixel, in 16 or 32
        values = np.asarray(image).astype(np.float32) / 257.0
        grey = np.clip(np.rint(values), 0, 255).astype(np.uint8)[..., np.newaxis]
        return np.repeat(grey, channels, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    wanted = "L" if channels == 1 else "RGB"
    if channels == 1 and image.mode not in ("L", "1"):
        image = image.convert("RGB")  # CMYK, palette and Lab know no direct way to grey
    if image.mode != wanted:
        image = image.convert(wanted)
    array: ImageArray = np.array(image, np.uint8)
    return array.reshape(image.height, image.width, channels)


def _turn_upright(image: Image.Image) -> None:
    image.load()
    # EXIF data that cannot be read says nothing about the orientation.
    with suppress(*_DAMAGE):
        ImageOps.exif_transpose(image, in_place=True)


def encode_image(image: ImageArray, suffix: str = ".png", *, quality: int = 95) -> bytes:
    """The bytes of an image file.

    Args:
        image: (H, W), (H, W, 1) or (H, W, 3) uint8, grey or RGB.
        suffix: A key of :data:`WRITABLE_SUFFIXES`, in small or capital letters; PNG loses nothing.
        quality: Of a JPEG, 1 to 95.

    Raises:
        ValueError: The suffix is another one.
        OSError: The format cannot hold the image: a JPEG has at most 65,500 pixels a side.
    """
    if (kind := WRITABLE_SUFFIXES.get(suffix.lower())) is None:
        raise ValueError(f"suffix must be {', '.join(WRITABLE_SUFFIXES)}, received '{suffix}'.")
    # Level 1 takes a third of the default's time for a tenth more bytes.
    options = {"quality": quality} if kind == "JPEG" else {"compress_level": 1}
    pixels = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


def write_image(path: str | os.PathLike[str], image: ImageArray, *, quality: int = 95) -> None:
    """Write an image file under a temporary name and rename it; its folder is made.

    Args:
        path: The file; its suffix, one of :data:`WRITABLE_SUFFIXES`, says the format.
        image: As for :func:`encode_image`.
        quality: Likewise.

    Raises:
        ValueError: The suffix is another one.
        OutputError: The file cannot be written.
    """
    path = Path(path)
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_image(image, path.suffix, quality=quality))


def find_images(inputs: Iterable[str]) -> Iterator[Path]:
    """The images that the inputs name, one at a time.

    Folders are searched with all below them, in order of name, for files with an image's suffix;
    hidden files are passed over. A pattern with ``*``, ``?`` or ``[]`` stands for what it matches,
    ``**`` for any depth. ``-`` reads one path a line from standard input.

    Raises:
        DataError: An input names nothing.
    """
    for name in inputs:
        path = Path(name)
        if name == "-":
            yield from map(Path, read_list(sys.stdin.buffer))
        elif path.is_dir():
            yield from _in_folder(path)
        elif path.exists() or not any(sign in name for sign in "*?["):
            if not path.exists():
                raise DataError(f"there is no image or folder {name}.")
            yield path
        else:
            # Path.glob knows no absolute patterns.
            matches = sorted(p for p in glob.iglob(name, recursive=True) if not Path(p).is_dir())  # noqa: PTH207
            if not matches:
                raise DataError(f"no file matches {name}.")
            yield from map(Path, matches)


def _in_folder(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(
                # A link to a folder above would go round for ever, so links are not followed.
                (e.name, e.is_dir(follow_symlinks=False))
                for e in entries
                if not e.name.startswith(".")
            )
    except OSError as error:
        raise DataError(f"cannot look into {folder} ({error.strerror}).") from error
    for name, is_folder in found:
        if is_folder:
            yield from _in_folder(folder / name)
        elif Path(name).suffix.lower() in IMAGE_SUFFIXES:
            yield folder / name


def in_order(
    function: Callable[[_T], _R], items: Iterable[_T], *, threads: int, ahead: int
) -> Generator[_R]:
    """Results of ``function`` in the order of ``items``, worked out by threads.

    Never more than ``ahead`` results are under way or waiting, so memory does not grow with the
    number of items. When the reader stops early, what has not begun is dropped.
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
