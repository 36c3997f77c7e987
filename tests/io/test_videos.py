from __future__ import annotations

import re
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

av = pytest.importorskip("av")

from drawn_video import write
from facial_keypoints.errors import DataError, OutputError
from facial_keypoints.io.videos import (
    ContactSheet,
    Frame,
    FrameFiles,
    find_videos,
    open_video,
    write_video,
)


def flat(count: int, size: tuple[int, int] = (120, 160)) -> list[np.ndarray]:
    """Grey images, frame i of brightness 40 + 2 i, with a red upper left and a green lower left corner."""
    images = []
    for i in range(count):
        image = np.full((*size, 3), 40 + 2 * i, np.uint8)
        image[:24, :24] = (220, 30, 30)
        image[-24:, :24] = (30, 220, 30)
        images.append(image)
    return images


def read(path: Path) -> tuple[list[int], list[float], str]:
    """Brightness and time of each frame, and the sentence that ended it."""
    brightness, times, said = [], [], ""
    with open_video(path) as video:
        try:
            for frame in video:
                assert frame.index == len(times)
                assert frame.size == video.size
                brightness.append(int(frame.grey()[60, 80, 0]))
                times.append(frame.time_s)
        except DataError as error:
            said = str(error)
    return brightness, times, said


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.avi", "mpeg4"), ("a.mkv", "libx264"), ("a.ts", "libx264"),
     ("a.avi", "mjpeg"), ("a.mov", "libx264")],
)  # fmt: skip
def test_frames_come_in_order_with_their_times(tmp_path: Path, name: str, codec: str) -> None:
    path = write(tmp_path / name, flat(30), codec=codec)
    with open_video(path) as video:
        assert video.size == (120, 160)
        assert video.rate == pytest.approx(25.0)
        assert video.frame_count == pytest.approx(30, abs=2)
    brightness, times, said = read(path)
    np.testing.assert_allclose(brightness, 40 + 2 * np.arange(30), atol=3)
    np.testing.assert_allclose(times, np.arange(30) / 25, atol=1e-3)
    assert said == ""


def test_a_variable_frame_rate_is_kept(tmp_path: Path) -> None:
    given = np.cumsum([0.0, 0.04, 0.04, 0.2, 0.033, 0.5, 0.1])
    path = write(tmp_path / "a.mkv", flat(7), times=given.tolist())
    np.testing.assert_allclose(read(path)[1], given, atol=2e-3)


def test_times_count_from_the_start_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ts", flat(5), times=[100.0 + 0.04 * i for i in range(5)])
    np.testing.assert_allclose(read(path)[1], 0.04 * np.arange(5), atol=2e-3)


def test_frames_without_times_come_at_the_rate_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h264", flat(6), kind="h264")
    np.testing.assert_allclose(read(path)[1], np.arange(6) / 25, atol=1e-6)


@pytest.mark.parametrize(
    # Degrees against the clock: where the red (upper left) and the green (lower left) corner end up.
    ("turn", "size", "red", "green"),
    [
        (0, (120, 160), (10, 10), (110, 10)),
        (90, (160, 120), (150, 10), (150, 110)),
        (-90, (160, 120), (10, 110), (10, 10)),
        (180, (120, 160), (110, 150), (10, 150)),
    ],
)
def test_rotated_videos_stand_upright(
    tmp_path: Path, turn: int, size: tuple[int, int], red: tuple[int, int], green: tuple[int, int]
) -> None:
    path = write(tmp_path / "a.mp4", flat(3), turn=turn)
    with open_video(path) as video:
        frame = next(iter(video))
        rgb, grey = frame.rgb(), frame.grey()
    assert video.size == frame.size == rgb.shape[:2] == grey.shape[:2] == size
    assert rgb.shape[2] == 3
    assert grey.shape[2] == 1
    assert rgb[red].argmax() == 0
    assert rgb[green].argmax() == 1
    assert int(grey[green][0]) > int(grey[red][0]) + 40  # green is brighter than red


def test_mirrored_videos_are_mirrored_back(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 120, 160, "yuv420p"
        stream.set_display_rotation(0, hflip=True)
        for packet in [*stream.encode(av.VideoFrame.from_ndarray(flat(1)[0])), *stream.encode()]:
            container.mux(packet)
    with open_video(tmp_path / "a.mp4") as video:
        rgb = next(iter(video)).rgb()
    assert rgb[10, 150].argmax() == 0
    assert rgb[110, 150].argmax() == 1
    assert np.ptp(rgb[10, 10].astype(int)) < 20


def test_grey_is_the_brightness_of_the_colours(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", flat(1))
    with open_video(path) as video:
        frame = next(iter(video))
    rgb, grey = frame.rgb(), frame.grey()
    expected = Frame(rgb).grey()
    assert np.abs(grey.astype(int) - expected).mean() < 2.0
    assert grey.min() < 110 < grey.max()


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [("a.mp4", "libx264", {"movflags": "faststart"}), ("a.avi", "mpeg4", None),
     ("b.avi", "mjpeg", None), ("a.mkv", "libx264", None)],
)  # fmt: skip
def test_a_video_that_stops_in_the_middle_gives_what_is_there_and_a_sentence(
    tmp_path: Path, name: str, codec: str, options: dict[str, str] | None
) -> None:
    noise = np.random.default_rng(0).integers(0, 60, (60, 120, 160, 3), dtype=np.uint8)
    path = write(tmp_path / name, list(noise), codec=codec, options=options)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    _, times, said = read(path)
    assert 2 <= len(times) < 45
    assert said.startswith(f"{path}: the video stops in the middle, after {len(times)} frames")


def test_damaged_frames_are_passed_over_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.avi", flat(30), codec="mjpeg")
    content = bytearray(path.read_bytes())
    starts = [m.start() for m in re.finditer(b"\xff\xd8\xff", bytes(content))]
    for i in (10, 20):
        content[starts[i] : starts[i + 1] - 8] = bytes(starts[i + 1] - 8 - starts[i])
    path.write_bytes(content)
    _, times, said = read(path)
    assert len(times) == 28
    assert "2 of its frames are damaged" in said
    assert "other 28" in said


@pytest.mark.parametrize(("codec", "kind"), [("libx264", "h264"), ("mjpeg", "mjpeg")])
def test_frames_of_another_size_are_fitted_into_the_first_and_counted(
    tmp_path: Path, codec: str, kind: str
) -> None:
    parts = [
        write(tmp_path / f"{i}.{kind}", flat(8, size), codec=codec, kind=kind).read_bytes()
        for i, size in enumerate([(120, 160), (160, 80)])
    ]
    path = tmp_path / f"both.{kind}"
    path.write_bytes(b"".join(parts))
    with open_video(path) as video:
        frames = [(frame.size, frame.rgb(), frame.grey()) for frame in video]
        notes = video.notes
    assert len(frames) == 16
    assert {size for size, _, _ in frames} == {(120, 160)}
    _, rgb, grey = frames[-1]
    assert rgb.shape == (120, 160, 3)
    assert grey.shape == (120, 160, 1)
    # 80x160 pixels become 60x120 in the middle, neither stretched nor cut.
    assert rgb[5, 55].argmax() == 0
    assert rgb[115, 55].argmax() == 1
    assert np.ptp(rgb[5, 75].astype(int)) < 20
    (note,) = [n for n in notes if "size" in n]
    assert note.startswith("8 of its frames have another size (from frame 8 on: 80×160 pixels)")


@pytest.mark.parametrize(
    ("aspect", "turn", "size", "red"),
    [
        ((16, 11), None, (120, 233), (10, 15)),
        ((8, 9), None, (135, 160), (10, 10)),
        ((2, 1), 90, (320, 120), (300, 10)),
        ((1, 1), None, (120, 160), (10, 10)),
        ((50, 1), None, (120, 160), (10, 10)),  # not believed
    ],
)
def test_pixels_that_are_not_square_are_corrected(
    tmp_path: Path,
    aspect: tuple[int, int],
    turn: float | None,
    size: tuple[int, int],
    red: tuple[int, int],
) -> None:
    path = write(tmp_path / "a.mp4", flat(2), aspect=Fraction(*aspect), turn=turn)
    with open_video(path) as video:
        frame = next(iter(video))
        assert video.size == frame.size == size
        assert frame.rgb().shape == (*size, 3)
        assert frame.grey().shape == (*size, 1)
        assert frame.rgb()[red].argmax() == 0
        said = [note for note in video.notes if "not square (160×120 as stored)" in note]
    assert bool(said) == (size[0] * size[1] != 120 * 160)


def two_streams(path: Path, counts: tuple[int, int], sizes: tuple[int, int]) -> Path:
    """A file with two video streams of so many frames, squares of so many pixels."""
    with av.open(str(path), "w") as container:
        streams = []
        for size in sizes:
            stream = container.add_stream("mpeg4", rate=25)
            stream.height = stream.width = size
            stream.pix_fmt = "yuv420p"
            streams.append(stream)
        for stream, count, size in zip(streams, counts, sizes, strict=True):
            for _ in range(count):
                frame = av.VideoFrame.from_ndarray(np.zeros((size, size, 3), np.uint8))
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.mov"])
@pytest.mark.parametrize(
    ("counts", "sizes", "shown"),
    [
        ((1, 30), (64, 160), 1),
        ((30, 1), (64, 160), 0),
        ((1, 30), (160, 64), 1),
        ((30, 30), (160, 64), 0),
    ],
)
def test_the_stream_that_players_show_is_read(
    tmp_path: Path, name: str, counts: tuple[int, int], sizes: tuple[int, int], shown: int
) -> None:
    path = two_streams(tmp_path / name, counts, sizes)
    with open_video(path) as video:
        assert video.size == (sizes[shown], sizes[shown])
        assert sum(1 for _ in video) == counts[shown]
        assert f"it has 2 video streams; number {shown + 1} was read." in video.notes


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "avif"])
def test_animated_images_are_videos_with_their_own_times(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(image) for image in flat(4)]
    path = tmp_path / f"a.{suffix}"
    shown = [100, 250, 40, 100]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=shown, lossless=True)
    brightness, times, said = read(path)
    assert said == ""
    np.testing.assert_allclose(brightness, 40 + 2 * np.arange(4), atol=4)
    np.testing.assert_allclose(times, [0, 0.1, 0.35, 0.39], atol=1e-6)


def save_frames(folder: Path, count: int, *, suffix: str = "png") -> list[Path]:
    folder.mkdir()
    paths = []
    for i, image in enumerate(flat(count)):
        paths.append(folder / f"frame{i}.{suffix}")
        Image.fromarray(image).save(paths[-1])
    return paths


def test_a_folder_of_frames_is_a_video_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    save_frames(tmp_path / "frames", 12)  # by letters, 10 would come before 2
    (tmp_path / "frames" / "notes.txt").write_text("not a frame")
    (tmp_path / "frames" / "._frame0.png").write_text("what macOS leaves beside it")
    for source in (
        tmp_path / "frames",
        tmp_path / "frames" / "*.png",
        tmp_path / "frames" / "frame%d.png",
    ):
        (found,) = find_videos([str(source)])
        with open_video(found, rate=10) as video:
            assert (video.frame_count, video.rate, video.name) == (12, 10, str(source))
            frames = list(video)
        assert [int(f.grey()[60, 80, 0]) for f in frames] == [40 + 2 * i for i in range(12)]
        np.testing.assert_allclose([f.time_s for f in frames], np.arange(12) / 10)


def test_image_files_that_are_named_are_frames_of_one_video(tmp_path: Path) -> None:
    paths = [str(p) for p in save_frames(tmp_path / "f", 11)]
    clip = str(write(tmp_path / "a.mp4", flat(2)))
    first, second = find_videos([*paths[::-1], clip])
    assert first == clip
    assert isinstance(second, FrameFiles)
    assert [str(p) for p in second.files] == paths


def test_a_folder_of_videos_gives_each(tmp_path: Path) -> None:
    clips = [str(write(tmp_path / name, flat(2))) for name in ("a.mp4", "b.mkv")]
    Image.fromarray(flat(1)[0]).save(tmp_path / "cover.jpg")
    assert find_videos([str(tmp_path)]) == clips
    assert find_videos([str(tmp_path / "*.m*")]) == clips
    with pytest.raises(DataError, match="holds 2 videos: open them one by one"):
        open_video(tmp_path)
    Path(clips[1]).unlink()
    with open_video(tmp_path) as video:
        assert (video.name, sum(1 for _ in video)) == (clips[0], 2)


def test_frames_that_cannot_be_read_cost_themselves_and_are_counted(tmp_path: Path) -> None:
    paths = save_frames(tmp_path / "f", 6)
    paths[0].write_bytes(b"no image")
    paths[3].write_bytes(paths[3].read_bytes()[:60])
    Image.fromarray(flat(1, (60, 80))[0]).save(paths[5])
    times = []
    with open_video(tmp_path / "f") as video:
        with pytest.raises(DataError, match=r"2 of its frames cannot be read.* other 4 are used"):
            times.extend(frame.time_s for frame in video)
        assert "1 of its frames have another size (from frame 3 on: 80×60 pixels)" in video.notes[0]
    np.testing.assert_allclose(times, np.array([1, 2, 4, 5]) / 25)
    for path in paths:
        path.write_bytes(b"no image")
    with pytest.raises(
        DataError, match=r"none of its frames can be read; the first: .*frame0\.png"
    ):
        open_video(tmp_path / "f")


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp", "tiff"])
def test_an_image_is_no_video(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"face.{suffix}"
    Image.fromarray(flat(1)[0]).save(path)
    with pytest.raises(DataError, match=r"is an image, not a video.*predict"):
        open_video(path)


def test_an_image_with_a_videos_name_is_no_video(tmp_path: Path) -> None:
    Image.fromarray(flat(1)[0]).save(tmp_path / "a.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "a.mp4")
    with pytest.raises(DataError, match="is an image, not a video"):
        open_video(tmp_path / "a.mp4")


def sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no video stream \(it holds audio\)"):
        open_video(sound(tmp_path / "a.wav"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (np.random.default_rng(1).bytes(20_000), "cannot be opened as a video"),
        (b"hello\n" * 200, "cannot be opened as a video|is a text"),
    ],
)
def test_what_is_no_video_gets_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    for name in ("a.mp4", "a.txt"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            open_video(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_a_file_cut_off_before_its_index_cannot_be_opened(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", flat(20))
    path.write_bytes(path.read_bytes()[:800])
    with pytest.raises(DataError, match="cannot be opened as a video: it is damaged"):
        open_video(path)


def test_folders_and_missing_files_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no video and no image"):
        open_video(tmp_path)
    with pytest.raises(DataError, match="there is no video"):
        open_video(tmp_path / "gone.mp4")


def test_a_camera_that_is_not_there_gets_a_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="there is no camera 97"):
        open_video("97")
    assert capfd.readouterr().err == ""


def test_a_colon_in_the_name_is_no_address(tmp_path: Path) -> None:
    path = write(tmp_path / "plain.mp4", flat(2))
    odd = path.rename(tmp_path / "at 12:30 50%d.mp4")
    assert len(read(odd)[1]) == 2


@pytest.mark.parametrize("size", [(120, 160), (119, 161)])
def test_written_videos_keep_times_and_even_out_sizes(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    given = [0.0, 0.04, 0.0733, 0.3, 0.34]
    with write_video(tmp_path / "a.mp4", size) as writer:
        for image, time_s in zip(flat(5, size), given, strict=True):
            writer.write(image, time_s)
    brightness, times, said = read(tmp_path / "a.mp4")
    assert said == ""
    np.testing.assert_allclose(times, given, atol=1e-4)
    np.testing.assert_allclose(brightness, 40 + 2 * np.arange(5), atol=4)
    with open_video(tmp_path / "a.mp4") as video:
        assert video.size == (120, 160 + 2 * (size[1] % 2))
        rgb = next(iter(video)).rgb()
    assert np.abs(rgb[8:16, 8:16].astype(int) - (220, 30, 30)).max() < 30
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"


def test_a_failure_leaves_no_half_video(tmp_path: Path) -> None:
    def fail() -> None:
        with write_video(tmp_path / "a.mp4", (120, 160)) as writer:
            writer.write(flat(1)[0], 0.0)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError, match=r"ends in \.mp4"), write_video(Path("a.avi"), (8, 8)):
        pass


@pytest.mark.parametrize(("count", "shape"), [(3, 3), (12, 12), (500, 12)])
def test_a_contact_sheet_shows_moments_from_start_to_end(count: int, shape: int) -> None:
    sheet = ContactSheet(width=64)
    wanted = 0
    for i in range(count):
        if sheet.wants():
            wanted += 1
            sheet.add(np.full((90, 160, 3), 250 * i // count, np.uint8), i / 25)
    image = sheet.image()
    columns, rows = min(4, shape), -(-shape // 4)
    assert image.shape == (rows * 40 + 4, columns * 68 + 4, 3)
    cells = [image[4 + r * 40 + 3, 4 + c * 68 + 60, 0] for r in range(rows) for c in range(columns)]
    assert np.all(np.diff(np.array(cells[:shape], int)) > 0)
    assert cells[0] < 10
    assert cells[shape - 1] >= 220 - 250 // shape * (count < 12)
    assert wanted <= min(count, 80)  # a long video is not converted frame by frame


def test_an_empty_contact_sheet_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        ContactSheet().image()


def test_images_in_memory_are_frames() -> None:
    frame = Frame(flat(1)[0], 3, 0.5)
    assert (frame.index, frame.time_s, frame.size) == (3, 0.5, (120, 160))
    assert frame.grey().shape == (120, 160, 1)
    with pytest.raises(ValueError, match=r"\(H, W, 3\)"):
        Frame(np.zeros((4, 4), np.uint8))
