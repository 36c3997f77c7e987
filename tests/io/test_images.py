from __future__ import annotations

import io
import itertools
import os
import re
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from facial_keypoints.errors import DataError, ImageError, OutputError
from facial_keypoints.io import images
from facial_keypoints.io.images import (
    encode_image,
    find_images,
    in_order,
    read_image,
    read_size,
    write_image,
)

WIDTH, HEIGHT = 24, 16


def sample() -> Image.Image:
    """Dark, with a bright quarter at the upper left and a red stripe at the right."""
    array = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    array[:8, :8] = 220
    array[:, 20:] = (200, 0, 0)
    return Image.fromarray(array)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def assert_upright(array: np.ndarray) -> None:
    assert array.shape[:2] == (HEIGHT, WIDTH)
    assert array.dtype == np.uint8
    assert array[3, 3].astype(int) == pytest.approx(220, abs=6)
    assert array[12, 3].astype(int) == pytest.approx(40, abs=6)
    # The red stripe is (200, 0, 0), or 0.299 * 200 in grey.
    red = (200, 0, 0) if array.shape[2] == 3 else (60,)
    assert array[8, 22].astype(int) == pytest.approx(np.array(red), abs=14)


FORMATS: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: saved(sample(), "JPEG", quality=98, subsampling=0),
    "png": lambda: saved(sample(), "PNG"),
    "palette": lambda: saved(sample().convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
    "palette with alpha": lambda: saved(
        sample().convert("P", palette=Image.Palette.ADAPTIVE, colors=8), "PNG", transparency=7
    ),
    "alpha": lambda: saved(sample().convert("RGBA"), "PNG"),
    "gif": lambda: saved(sample().convert("P", palette=Image.Palette.ADAPTIVE), "GIF"),
    "animated": lambda: saved(
        sample(), "GIF", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT), "white")]
    ),
    "bmp": lambda: saved(sample(), "BMP"),
    "webp": lambda: saved(sample(), "WEBP", lossless=True),
    "tiff": lambda: saved(sample(), "TIFF", compression="tiff_lzw"),
    "ppm": lambda: saved(sample(), "PPM"),
    "cmyk": lambda: saved(sample().convert("CMYK"), "JPEG", quality=98, subsampling=0),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_image(kind: str, channels: int) -> None:
    array = read_image(FORMATS[kind](), channels=channels)
    assert array.shape[2] == channels
    assert_upright(array)


# What must be done to an upright image so that the tag says how to turn it back.
TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(TURNED[orientation](np.asarray(sample()))))
    options = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    if kind == "WEBP":
        options = {"lossless": True}
    for channels in (1, 3):
        assert_upright(read_image(saved(image, kind, exif=exif, **options), channels=channels))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_the_size_is_that_of_the_upright_image(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"image{suffix}"
    sample().save(path, exif=exif)
    height, width = read_image(path).shape[:2]
    assert read_size(path) == (width, height, orientation)
    path.write_bytes(b"no image")
    with pytest.raises(ImageError, match="not an image in a known format"):
        read_size(path)
    path.unlink()
    with pytest.raises(ImageError, match="cannot be read"):
        read_size(path)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    values = np.array([[0, 257, 128 * 257, 65535]] * 4, np.uint16)
    array = read_image(saved(Image.fromarray(values), kind), channels=1)
    assert array[0, :, 0].tolist() == [0, 1, 128, 255]
    colour = read_image(saved(Image.fromarray(values), kind), channels=3)
    assert colour[0, 2].tolist() == [128, 128, 128]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_white_is_the_largest_value_of_the_bits_in_use(bits: int) -> None:
    white = 2**bits - 1
    values = np.array([[0, white // 5, white // 2, white]] * 4)
    expected = pytest.approx([0, 51, 127, 255], abs=1)
    for kind, dtype in (("PNG", np.uint16), ("TIFF", np.uint16), ("TIFF", np.int32)):
        array = read_image(saved(Image.fromarray(values.astype(dtype)), kind), channels=1)
        assert array[0, :, 0].tolist() == expected
    ok, content = cv2.imencode(".png", np.repeat(values[..., None], 3, axis=2).astype(np.uint16))
    assert ok
    assert read_image(content.tobytes())[0, :, 2].tolist() == expected


def test_32_bits_and_values_below_zero_and_of_a_narrow_range_are_stretched() -> None:
    for low, high in ((-1000, 3095), (0, 2**31 - 1), (29_000, 31_000), (7_000, 7_800)):
        values = np.linspace(low, high, 256).astype(np.int32).reshape(16, 16)
        array = read_image(saved(Image.fromarray(values), "TIFF"), channels=1)
        assert array[..., 0].ravel().tolist() == pytest.approx(range(256), abs=1)


def test_the_colours_of_12_bits_keep_their_order_and_orientation() -> None:
    values = np.zeros((4, 6, 3), np.uint16)
    values[..., 2], values[..., 1], values[0, 0, 0] = (
        4095,
        2047,
        1000,
    )  # blue, green, red for OpenCV
    ok, encoded = cv2.imencode(".tiff", values)
    assert ok
    array = read_image(encoded.tobytes())
    assert array[1, 1].tolist() == [255, 127, 0]
    assert array[0, 0].tolist() == [255, 127, 62]


def test_grey_values_of_16_bits_may_be_stored_inverted() -> None:
    values = np.array([[0, 65535]] * 2, np.uint16)
    content = saved(Image.fromarray(values), "TIFF", tiffinfo={262: 0})
    assert read_image(content, channels=1)[0, :, 0].tolist() == [255, 0]


@pytest.mark.parametrize("alpha", [0, 3])
def test_the_colours_of_an_image_that_is_all_transparent_are_read(
    alpha: int, caplog: pytest.LogCaptureFixture
) -> None:
    image = sample()
    image.putalpha(alpha)
    assert_upright(read_image(saved(image, "PNG"), name=f"clear{alpha}.png"))
    assert f"clear{alpha}.png: all of it is transparent" in caplog.text


@pytest.mark.parametrize("kind", ["TIFF", "GIF"])
def test_one_line_says_that_further_pages_were_not_read(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    pages = [Image.new("L", (WIDTH, HEIGHT), value) for value in (10, 90, 200)]
    content = saved(pages[0], kind, save_all=True, append_images=pages[1:])
    for _ in range(2):
        assert read_image(content, channels=1, name=f"scans.{kind}")[0, 0, 0] == 10
    more = "has 3 pages; only the first" if kind == "TIFF" else "is animated; only its first frame"
    assert [f"scans.{kind}: {more}" in line for line in caplog.messages] == [True]
    caplog.clear()
    read_image(saved(pages[0], kind), name="one")
    assert not caplog.messages


def test_a_damaged_second_page_does_not_cost_the_first(caplog: pytest.LogCaptureFixture) -> None:
    pages = [Image.new("L", (WIDTH, HEIGHT), value) for value in (10, 90)]
    for kind in ("TIFF", "GIF"):
        content = saved(pages[0], kind, save_all=True, append_images=pages[1:])
        cut = content[: len(content) - 30]
        assert read_image(cut, channels=1, name=f"cut.{kind}")[0, 0, 0] == 10


def test_what_is_transparent_becomes_white() -> None:
    array = np.zeros((4, 4, 4), np.uint8)
    array[..., :3] = 10
    array[:, 2:, 3] = 255
    read = read_image(saved(Image.fromarray(array), "PNG"), channels=1)
    assert read[0, :, 0].tolist() == [255, 255, 10, 10]


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG with a header of its own choosing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_one_pixel_is_an_image() -> None:
    assert read_image(png(1, 1, zlib.compress(b"\x00\x07"))).tolist() == [[[7, 7, 7]]]


@pytest.mark.parametrize("size", [(20_000, 20_000), (65_000, 65_000)])
def test_a_huge_image_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    started = time.perf_counter()
    with pytest.raises(ImageError, match=r"bomb\.png: .*more than the limit .*--max-pixels"):
        read_image(png(*size, zlib.compress(bytes(1000))), name="bomb.png")
    assert time.perf_counter() - started < 0.5


def test_the_limit_on_pixels_can_be_chosen() -> None:
    content = saved(sample(), "PNG")
    assert_upright(read_image(content, max_pixels=WIDTH * HEIGHT))
    with pytest.raises(ImageError, match="24×16 pixels"):
        read_image(content, max_pixels=WIDTH * HEIGHT - 1)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of damaged metadata
@pytest.mark.parametrize("kind", sorted(set(FORMATS) - {"cmyk", "alpha", "animated"}))
def test_a_cut_off_image_is_refused(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    name = {"jpeg": "JPEG"}.get(kind, kind.split(maxsplit=1)[0].replace("palette", "png").upper())
    content = saved(Image.fromarray(noise), name)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(ImageError):
            read_image(content[: int(len(content) * share)])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_without_its_end_is_read_if_no_row_is_missing(
    options: dict[str, Any], channels: int, caplog: pytest.LogCaptureFixture
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = saved(Image.fromarray(noise), "JPEG", **options)
    whole = read_image(content, channels=channels)
    for cut in (content[:-1], content[:-2]):
        assert np.array_equal(read_image(cut, channels=channels, name=f"{channels}.jpg"), whole)
    if "progressive" in options:  # whether a whole scan is missing cannot be known
        assert caplog.messages == [
            f"{channels}.jpg: ends without its end marker; its finest details may be missing."
        ]
        return
    assert not caplog.messages
    # The last eight bytes hold colours only.
    cuts = [len(content) - 40, *([len(content) - 8] if channels == 3 else [])]
    cuts += [
        match.start() + more
        for match in re.finditer(rb"\xff[\xd0-\xd7]", content)
        for more in (0, 1, 2)
    ]
    for end in cuts:
        with pytest.raises(ImageError, match="damaged or cut off"):
            read_image(content[:end], channels=channels)


def test_damaged_or_large_side_chunks_of_a_png_do_not_matter() -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", "x" * 3_000_000, zip=True)
    large = saved(sample(), "PNG", pnginfo=texts)
    assert_upright(read_image(large))
    at = large.index(b"zTXt")
    assert_upright(read_image(large[: at + 20] + b"???" + large[at + 23 :]))
    cut = large[:-8]  # in its last chunk
    assert_upright(read_image(cut))


@pytest.mark.parametrize("content", [b"", b"no image", b"%PDF-1.4", b"\xff\xd8\xff", b"GIF89a"])
def test_what_is_no_image_gets_one_sentence_with_its_name(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "face.jpg"
    file.write_bytes(content)
    with pytest.raises(ImageError, match=r"face\.jpg: ") as caught:
        read_image(file)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_not_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="not a file"):
        read_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a file"):
        read_image(tmp_path / "pipe.png")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_bytes_never_raise_anything_else() -> None:
    rng = np.random.default_rng(0)
    refused = 0
    for make, _ in itertools.product(FORMATS.values(), range(40)):
        content = bytearray(make())
        for _ in range(rng.integers(1, 30)):
            content[rng.integers(0, len(content))] = rng.integers(0, 256)
        try:
            array = read_image(bytes(content), channels=int(rng.choice([1, 3])))
            assert array.dtype == np.uint8
        except ImageError:
            refused += 1
    assert refused > 50


# --- bounds -------------------------------------------------------------------------------------


def with_scans(count: int) -> bytes:
    """A progressive JPEG that repeats its last scan until it has so many."""
    content = saved(sample(), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    more = count - content.count(b"\xff\xda")
    return content[:-2] + more * last + content[-2:]


def test_a_jpeg_of_absurdly_many_scans_is_refused_before_it_is_decoded() -> None:
    decoded: list[int] = []
    for count in (101, 15_000):
        with pytest.raises(ImageError, match=rf"a\.jpg: has {count:,} scans, more than .* 100:"):
            read_image(with_scans(count), name="a.jpg", check=decoded.append)
    assert not decoded
    assert read_image(with_scans(100)).shape == (HEIGHT, WIDTH, 3)


def test_what_looks_like_scans_in_other_parts_of_a_jpeg_does_not_count() -> None:
    content = saved(sample(), "JPEG", quality=98, subsampling=0, comment=b"\xff\xda" * 200)
    assert_upright(read_image(content))


def tiff(order: str, *tags: tuple[int, int, int, int], big: bool = False) -> bytes:
    """The header and tags (number, kind, count, value) of a TIFF, without any pixels."""
    start = {"<": b"II", ">": b"MM"}[order]
    if big:
        start += struct.pack(order + "HHHQQ", 43, 8, 0, 16, len(tags))
        return start + b"".join(struct.pack(order + "HHQQ", *tag) for tag in tags) + bytes(8)
    start += struct.pack(order + "HIH", 42, 8, len(tags))
    return start + b"".join(struct.pack(order + "HHII", *tag) for tag in tags) + bytes(4)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of damaged metadata
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_of_absurdly_many_strips_or_pixels_in_a_tile_is_refused(
    order: str, big: bool
) -> None:
    size = ((256, 4, 1, 10), (257, 4, 1, 10))
    for number in (273, 324):  # strips, tiles
        for count, words in ((100_000, "not an image|damaged"), (100_001, "has 100,001 strips or")):
            with pytest.raises(ImageError, match=words):
                read_image(tiff(order, *size, (number, 4, count, 8), big=big))
    sides = ((number, 16 if big else 4, 1, 20_000) for number in (322, 323))
    with pytest.raises(ImageError, match="has 400,000,000 pixels in one tile"):
        read_image(tiff(order, *size, *sides, big=big))


def test_a_tiff_of_one_row_a_strip_is_read() -> None:
    assert_upright(read_image(saved(sample(), "TIFF", tiffinfo={278: 1})))


def test_a_png_of_absurdly_many_chunks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_MOST_READS", 1000)
    content = saved(sample(), "PNG")
    assert_upright(read_image(content))
    at = content.index(b"IDAT") - 4
    empty = struct.pack(">I4sI", 0, b"IDAT", zlib.crc32(b"IDAT"))
    text = struct.pack(">I4s2sI", 2, b"tEXt", b"a\0", zlib.crc32(b"tEXta\0"))
    end = len(content) - 12
    for start, chunk in ((at, text), (end, empty), (end, text)):
        assert_upright(read_image(content[:start] + 10 * chunk + content[start:]))
        with pytest.raises(ImageError, match="very many segments, chunks or blocks, more than"):
            read_image(content[:start] + 1000 * chunk + content[start:])


def test_of_several_profiles_of_a_png_none_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved(sample(), "PNG", icc_profile=b"profile")
    at = content.index(b"iCCP") - 4
    profile = content[at : content.index(b"IDAT") - 4]
    read: list[object] = []
    chunks = PngImagePlugin.PngStream
    plain = chunks.chunk_iCCP
    monkeypatch.setattr(chunks, "chunk_iCCP", lambda *a: read.append(a) or plain(*a))
    assert_upright(read_image(content))
    assert len(read) == 1
    assert_upright(read_image(content[:at] + 9 * profile + content[at:]))
    assert len(read) == 1


class GivenUp(DataError):
    """Nobody waits for the image."""


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "tiff", "alpha", "cmyk"])
def test_a_check_gets_the_pixels_before_they_are_decoded_and_can_end_it(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_BAND", 100)
    loads: list[object] = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: loads.append(1) or load(self))
    content, pixels, last = FORMATS[kind](), [], 1

    def check(number: int) -> None:
        pixels.append(number)
        if len(pixels) == last:
            raise GivenUp

    with pytest.raises(GivenUp):
        read_image(content, check=check)
    assert not loads
    last = 0
    pixels.clear()
    read_image(content, check=check)
    assert set(pixels) == {WIDTH * HEIGHT}
    assert len(pixels) > 4
    for last in range(2, len(pixels) + 1):  # noqa: B007
        pixels.clear()
        with pytest.raises(GivenUp):
            read_image(content, check=check)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "P", "I;16", "deep"])
def test_images_are_converted_in_bands_as_at_once(
    mode: str, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    tags = {0x0112: orientation}
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0] + np.uint16(7000))  # is stretched
    else:
        known = "RGBA" if mode in ("RGBA", "CMYK") else "RGB"
        image = Image.fromarray(pixels[..., : len(known)])
        image = image.convert(mode) if mode in ("CMYK", "P") else image
    content = saved(image, "TIFF", tiffinfo=tags)
    if mode == "deep":
        ok, deep = cv2.imencode(".png", pixels[..., :3] * np.uint16(16))
        assert ok
        exif = Image.Exif()
        exif.update(tags)
        body = exif.tobytes()[6:]
        chunk = struct.pack(">I", len(body)) + b"eXIf" + body
        chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
        content = deep.tobytes()[:33] + chunk + deep.tobytes()[33:]
    for channels in (1, 3):
        whole = read_image(content, channels=channels)
        assert whole.shape[:2] == ((WIDTH, HEIGHT) if orientation > 4 else (HEIGHT, WIDTH))
        for band in (7, 5 * WIDTH):  # parts of a row, five rows
            with monkeypatch.context() as patched:
                patched.setattr(images, "_BAND", band)
                np.testing.assert_array_equal(read_image(content, channels=channels), whole)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of damaged metadata
@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"])
def test_a_damaged_tiff_writes_nothing_to_stderr(
    compression: str, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = bytearray(saved(Image.fromarray(noise), "TIFF", compression=compression))
    content[300:700:3] = bytes(134)
    with suppress(ImageError):  # packbits shows no damage
        read_image(bytes(content))
    with pytest.raises(ImageError):
        read_image(bytes(content[:200] + content[-300:]))
    assert capfd.readouterr() == ("", "")


# --- written ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(12, 16), (12, 16, 1), (12, 16, 3)])
@pytest.mark.parametrize("name", ["a.png", "below/b.PNG", "c.jpg", "d.JPEG"])
def test_what_is_written_is_read_again(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    image = np.full(shape, 90, np.uint8)
    image[:6] = 160 if len(shape) == 2 or shape[2] == 1 else (160, 150, 140)
    file = tmp_path / name
    write_image(file, image)
    assert [p.name for p in file.parent.iterdir() if p.is_file()] == [file.name]
    read = read_image(file, channels=None)
    assert read.shape == (12, 16, 3 if shape[2:] == (3,) else 1)
    close = 0 if file.suffix.lower() == ".png" else 8  # swapped colours are 20 off
    assert np.abs(read.astype(int) - image.reshape(read.shape)).max() <= close
    assert file.read_bytes() == encode_image(image, file.suffix)


def test_a_lower_quality_makes_a_smaller_jpeg() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    assert len(encode_image(noise, ".jpg", quality=30)) < len(encode_image(noise, ".jpg"))


def test_an_image_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"a\.jpg"):
        write_image(file, np.zeros((1, 70_000), np.uint8))
    assert [p.name for p in tmp_path.iterdir()] == ["a.jpg"]
    assert file.read_bytes() == b"old"
    with pytest.raises(ValueError, match=r"suffix must be \.jpg, \.jpeg, \.png, received '\.webp'"):
        write_image(tmp_path / "a.webp", np.zeros((2, 2), np.uint8))


# --- finding --------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "sub/c.webp", "sub/.git/d.jpg"):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*inputs: str) -> list[str]:
    return [Path(path).as_posix() for path in find_images(inputs)]


def test_folders_are_searched_in_order_and_with_all_below_them(tree: Path) -> None:
    assert found("photos") == ["photos/a.PNG", "photos/b.jpg", "photos/sub/c.webp"]


def test_a_folder_that_may_not_be_looked_into_costs_itself(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = os.scandir

    def refuse(folder: Path) -> Iterator[os.DirEntry[str]]:  # root may look everywhere
        if Path(folder).name == "sub":
            raise PermissionError(13, "Permission denied")
        return look(folder)

    monkeypatch.setattr("os.scandir", refuse)
    *others, locked = find_images(["photos"])
    assert others == [Path("photos/a.PNG"), Path("photos/b.jpg")]
    with pytest.raises(ImageError, match=r"photos.sub: cannot be read \(Permission denied\)"):
        read_image(locked)


def test_images_of_other_kinds_and_the_output_are_told(tree: Path) -> None:
    for name in ("a.CR2", "b.jxl", "sub/c.pdf", "out/old.jpg"):
        (tree / "photos" / name).parent.mkdir(exist_ok=True)
        (tree / "photos" / name).touch()
    (tree / "photos" / "linked").symlink_to(tree / "photos" / "sub", target_is_directory=True)
    told: dict[Path, str] = {}
    images = find_images(["photos"], without=tree / "photos" / "out", passed_over=told)
    assert len(list(images)) == 3
    assert {p.relative_to("photos").as_posix(): why for p, why in told.items()} == {
        ".hidden.jpg": "hidden",
        "a.CR2": "foreign",
        "b.jxl": "foreign",
        "linked": "link",
        "out": "output",
        "sub/c.pdf": "foreign",
    }


def test_a_pattern_tells_folders_and_does_not_take_the_output(tree: Path) -> None:
    (tree / "photos" / "out").mkdir()
    (tree / "photos" / "out" / "old.jpg").touch()
    told: dict[Path, str] = {}
    out = tree / "photos" / "out"
    assert list(find_images(["photos/**/*.jpg"], without=out, passed_over=told)) == [
        Path("photos/b.jpg")
    ]
    assert told == {out: "output"}
    told.clear()
    assert Path("photos/b.jpg") in find_images(["photos/*"], passed_over=told)
    assert told == {Path("photos/out"): "folder", Path("photos/sub"): "folder"}
    # The images themselves lie in the output folder: they are taken.
    assert list(find_images(["photos/*.jpg"], without=tree / "photos")) == [Path("photos/b.jpg")]


@pytest.mark.parametrize("name", ["x" * 300 + ".jpg", "a\0.jpg", "b.jpg/c.jpg"])
def test_a_name_that_no_file_has_is_one_sentence(tree: Path, name: str) -> None:
    with pytest.raises(DataError, match="there is no image or folder"):
        found(name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_pipes_links_to_nowhere_and_empty_files_are_errors_of_their_own(tree: Path) -> None:
    photos = tree / "photos"
    (photos / "folder.jpg").mkdir()
    (photos / "folder.jpg" / "in.png").touch()
    (photos / "nowhere.jpg").symlink_to("gone.jpg")
    (photos / "round.jpg").symlink_to("round.jpg")
    os.mkfifo(photos / "pipe.jpg")
    images = list(find_images(["photos"]))
    assert len(images) == 7
    for image in images:  # a.PNG and others are empty
        with pytest.raises(ImageError):
            read_image(image)


def test_heic_is_read_with_its_extra(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="needs the extra heif")
    pixels = np.full((64, 96, 3), (200, 40, 40), np.uint8)
    heif.from_pillow(Image.fromarray(pixels)).save(tmp_path / "a.heic")
    image = read_image(tmp_path / "a.heic")
    assert image.shape == (64, 96, 3)
    assert np.abs(image.astype(int) - pixels).max() < 20


def test_heic_without_its_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"a\.heic: .* pip install 'facial-keypoints\[heif\]'"):
        read_image(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", name="a.heic")


def test_a_link_to_the_folder_above_does_not_go_round_for_ever(tree: Path) -> None:
    (tree / "photos" / "sub" / "up").symlink_to(tree / "photos", target_is_directory=True)
    assert len(found("photos")) == 3


def test_patterns_files_and_lists_are_taken(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("photos/*.jpg", "photos/notes.txt") == ["photos/b.jpg", "photos/notes.txt"]
    assert found("photos/**/*.webp") == ["photos/sub/c.webp"]
    assert found(f"{tree}/photos/?.jpg") == [f"{tree.as_posix()}/photos/b.jpg"]
    listed = io.BytesIO(b"x y.jpg\n\nphotos/b.jpg\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(listed))
    assert found("-") == ["x y.jpg", "photos/b.jpg"]


def test_a_file_named_like_a_pattern_is_that_file(tree: Path) -> None:
    (tree / "a[1].jpg").touch()
    assert found("a[1].jpg") == ["a[1].jpg"]


@pytest.mark.parametrize("name", ["nowhere", "nowhere/*.jpg"])
def test_an_input_that_names_nothing_gets_a_sentence(name: str, tree: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        found(name)


# --- threads --------------------------------------------------------------------------------------


def test_results_come_in_order_whoever_is_done_first() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number % 5 == 0 else 0)
        return number * number

    assert list(in_order(slow_first, range(30), threads=4, ahead=8)) == [n * n for n in range(30)]


def test_only_so_many_items_are_taken_ahead() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield number

    results = in_order(lambda number: number, items(), threads=2, ahead=10)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert taken == 12
    results.close()


def test_stopping_early_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    results = in_order(lambda number: number, range(100), threads=3, ahead=10)
    next(results)
    results.close()
    assert threading.active_count() == before


def test_an_error_of_the_function_reaches_the_reader() -> None:
    def fail(number: int) -> int:
        raise ImageError(f"number {number}")

    with pytest.raises(ImageError, match="number 0"):
        list(in_order(fail, range(5), threads=2, ahead=4))


@pytest.mark.parametrize("kind", [b"tRNS", b"eXIf", b"tEXt"])
def test_a_png_is_read_although_the_checksum_of_a_side_chunk_is_wrong(kind: bytes) -> None:
    content = saved(Image.new("RGB", (12, 9), (9, 90, 200)), "PNG")
    chunk = struct.pack(">I", 6) + kind + b"\0" * 6 + b"\0\0\0\0"
    assert (read_image(content[:33] + chunk + content[33:]) == (9, 90, 200)).all()
