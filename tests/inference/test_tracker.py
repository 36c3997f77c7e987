"""Drawn faces that move along known paths, the shipped model, a detector that is told where they are."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")

from drawn_video import SIDE, Places, film, scene, write
from facial_keypoints import load_predictor
from facial_keypoints.errors import ModelError
from facial_keypoints.geometry import face_boxes, face_sizes
from facial_keypoints.inference.detector import Detections
from facial_keypoints.inference.predictor import Predictor
from facial_keypoints.inference.tracker import Tracker, draw_tracks, track_frames, track_video
from facial_keypoints.io.images import write_image
from facial_keypoints.io.videos import Frame, open_video
from facial_keypoints.schemas import KAGGLE15, KeypointSchema
from facial_keypoints.types import Prediction

Spots = Sequence[tuple[int, tuple[float, float]]]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load_predictor(threads=1)


def follow(
    predictor: Predictor,
    path,
    count: int,
    *,
    smoothing=None,
    seen=None,
    rate: float = 25.0,
    **options,
) -> tuple[list[Prediction], list[np.ndarray], Places]:
    detector, truth = Places(), []
    tracker = Tracker(Predictor(predictor.runtime, detector=detector), **options)
    frames = film(path, count, detector, rate=rate, seen=seen, truth=truth)
    found = [p for _, p in track_frames(frames, tracker, smoothing=smoothing)]
    return found, truth, detector


def error(prediction: Prediction, row: int, truth: np.ndarray) -> float:
    """Mean point error as a share of the face's size."""
    apart = np.linalg.norm(prediction.keypoints.xy[row] - truth, axis=1).mean()
    return float(apart / face_sizes(truth, KAGGLE15))


def ids(prediction: Prediction) -> list[int]:
    assert prediction.track_ids is not None
    return prediction.track_ids.tolist()


def test_a_moving_face_keeps_its_number_and_the_detector_rests(predictor: Predictor) -> None:
    found, truth, detector = follow(predictor, lambda t: [(0, (20 + 100 * t, 60))], 50)
    assert [ids(p) for p in found] == [[1]] * 50
    assert max(error(p, 0, xy[0]) for p, xy in zip(found, truth, strict=True)) < 0.12
    assert detector.calls == 2  # at the start and after a second
    scored = [i for i, p in enumerate(found) if not np.isnan(p.scores[0])]
    assert scored == [0, 25]
    assert found[7].time_s == pytest.approx(0.28)
    assert found[7].frame_index == 7
    assert found[7].image_size == (240, 320)
    np.testing.assert_allclose(found[7].boxes, face_boxes(found[7].keypoints.xy, KAGGLE15))


def test_the_detector_runs_in_every_frame_with_an_interval_of_0(predictor: Predictor) -> None:
    _, _, detector = follow(predictor, lambda t: [(0, (90, 60))], 10, detect_every_s=0.0)
    assert detector.calls == 10


def test_a_jerk_is_followed(predictor: Predictor) -> None:
    """A third of the face's size from one frame to the next, out of rest."""
    found, truth, _ = follow(predictor, lambda t: [(0, (90 + 13 * (t > 0.3), 60))], 16)
    assert [ids(p) for p in found] == [[1]] * 16
    errors = [error(p, 0, xy[0]) for p, xy in zip(found, truth, strict=True)]
    assert max(errors) < 0.12
    # The refinement in each frame makes it no worse than before.
    assert np.ptp(errors[3:]) < 0.002


def test_the_time_between_frames_counts(predictor: Predictor) -> None:
    """At 5 frames a second the same motion makes larger steps."""
    found, truth, _ = follow(predictor, lambda t: [(0, (10 + 70 * t, 60))], 14, rate=5.0)
    assert [ids(p) for p in found] == [[1]] * 14
    assert max(error(p, 0, xy[0]) for p, xy in zip(found, truth, strict=True)) < 0.12


def test_no_faces_give_empty_predictions_and_the_detector_keeps_running(
    predictor: Predictor,
) -> None:
    found, _, detector = follow(predictor, lambda t: [], 5, smoothing=None)
    assert [len(p) for p in found] == [0] * 5
    assert found[0].track_ids is not None
    assert found[0].track_ids.dtype == np.int64
    assert found[0].keypoints.xy.shape == (0, 15, 2)
    assert detector.calls == 5


def test_a_face_that_comes_later_is_a_new_track(predictor: Predictor) -> None:
    def path(t: float) -> Spots:
        return [(0, (10, 60))] + ([(1, (200, 80))] if t > 0.5 else [])

    found, truth, _ = follow(predictor, path, 40)
    assert ids(found[5]) == [1]
    first = next(i for i, p in enumerate(found) if ids(p) == [1, 2])
    assert 13 <= first <= 25
    assert all(ids(p) == [1, 2] for p in found[first:])
    assert error(found[-1], 1, truth[-1][1]) < 0.12


def test_a_lost_face_gets_its_number_back(predictor: Predictor) -> None:
    def path(t: float) -> Spots:
        return [] if 0.4 < t < 1.2 else [(0, (90 + 10 * t, 60))]

    found, truth, _ = follow(predictor, path, 50)
    assert [ids(p) for p in found[:10]] == [[1]] * 10
    assert [ids(p) for p in found[15:30]] == [[]] * 15
    assert [ids(p) for p in found[31:]] == [[1]] * 19
    assert error(found[-1], 0, truth[-1][0]) < 0.12


def test_a_face_elsewhere_or_much_later_is_another(predictor: Predictor) -> None:
    def elsewhere(t: float) -> Spots:
        return [(0, (0, 10))] if t < 0.4 else [] if t < 0.8 else [(0, (215, 130))]

    found, _, _ = follow(predictor, elsewhere, 30)
    assert ids(found[-1]) == [2]

    def later(t: float) -> Spots:
        return [(0, (90, 60))] if t < 1 or t > 5.5 else []

    found, _, _ = follow(predictor, later, 32, rate=5.0)
    assert ids(found[-1]) == [2]


@pytest.mark.parametrize("speed", [60, 130, 220])
def test_faces_that_cross_keep_their_numbers(predictor: Predictor, speed: float) -> None:
    """Face 1 passes behind face 0, nearly covered for some frames."""

    def path(t: float) -> Spots:
        return [(1, (205 - speed * t, 66)), (0, (20 + speed * t, 60))]

    def seen(t: float) -> list[int]:
        apart = abs(185 - 2 * speed * t)
        return [0, 1] if apart > 0.6 * SIDE else [1]

    found, truth, _ = follow(predictor, path, round(185 / speed * 25), seen=seen)
    started = found[3]
    behind = ids(started)[int(np.argmin([error(started, r, truth[3][0]) for r in range(2)]))]
    front = 3 - behind
    last = found[-1]
    assert ids(last) == [1, 2]
    assert error(last, behind - 1, truth[-1][0]) < 0.15
    assert error(last, front - 1, truth[-1][1]) < 0.15


def test_two_tracks_never_stay_on_one_face(predictor: Predictor) -> None:
    """Face 1 walks behind face 0 and stays there."""

    def path(t: float) -> Spots:
        return [(1, (max(200 - 120 * t, 110), 62)), (0, (110, 60))]

    found, truth, _ = follow(predictor, path, 45, seen=lambda t: [0, 1] if t < 0.3 else [1])
    assert len(found[3]) == 2
    assert [len(p) for p in found[-10:]] == [1] * 10
    assert error(found[-1], 0, truth[-1][1]) < 0.12


def test_at_most_so_many_faces_are_followed(predictor: Predictor) -> None:
    found, _, _ = follow(predictor, lambda t: [(0, (10, 60)), (1, (200, 60))], 6, max_faces=1)
    assert [len(p) for p in found] == [1] * 6


def test_boxes_of_too_low_a_score_begin_no_track(predictor: Predictor) -> None:
    found, _, _ = follow(predictor, lambda t: [(0, (90, 60))], 3, min_score=0.95)
    assert [len(p) for p in found] == [0] * 3


def test_a_box_without_a_face_begins_no_track(predictor: Predictor) -> None:
    class Wall(Places):
        def detect(self, image: np.ndarray, effort: str) -> Detections:
            return Detections(
                np.array([[20, 30, 110, 120]], np.float32), np.array([0.9], np.float32)
            )

    tracker = Tracker(Predictor(predictor.runtime, detector=Wall()))
    assert len(tracker.update(Frame(scene([])[0]))) == 0


def test_a_face_that_leaves_the_image_is_lost(predictor: Predictor) -> None:
    def seen(t: float) -> list[int]:
        return [0] if t < 0.8 else []

    found, _, _ = follow(predictor, lambda t: [(0, (150 + 150 * t, 60))], 50, seen=seen)
    assert len(found[10]) == 1
    assert [len(p) for p in found[-5:]] == [0] * 5


def test_smoothing_makes_a_still_noisy_face_steadier(predictor: Predictor) -> None:
    rng = np.random.default_rng(0)
    image, points = scene([(0, (90, 60))])
    frames = []
    for i in range(30):
        noisy = np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
        frames.append(Frame(noisy, i, i / 25))
    jitter = {}
    for smoothing in (None, "default"):
        detector = Places()
        detector.points = points
        options = {} if smoothing else {"smoothing": None}
        tracked = track_frames(
            frames, Tracker(Predictor(predictor.runtime, detector=detector)), **options
        )
        xy = np.array([p.keypoints.xy[0] for _, p in tracked])
        jitter[smoothing] = float(np.diff(xy, n=2, axis=0).std())
    assert jitter["default"] < 0.6 * jitter[None]


def test_a_model_without_eyes_cannot_track(predictor: Predictor) -> None:
    class Other:
        spec = replace(
            predictor.spec,
            schema=KeypointSchema("two", ("a", "b"), (1, 0), ("a", "b")),
        )

    with pytest.raises(ModelError, match="tracking needs the eye centres"):
        Tracker(Predictor(Other()))  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"detect_every_s": -1.0}, {"max_faces": 0}])
def test_numbers_out_of_range_are_refused(predictor: Predictor, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="received"):
        Tracker(predictor, **wrong)  # type: ignore[arg-type]


def clip(path: Path, count: int = 20, **options: object) -> tuple[Path, np.ndarray]:
    scenes = [scene([(0, (90 + 2 * i, 60))]) for i in range(count)]
    write(path, [s[0] for s in scenes], **options)  # type: ignore[arg-type]
    return path, np.array([s[1][0] for s in scenes])


def test_every_face_needs_a_track_number(predictor: Predictor) -> None:
    found, _, _ = follow(predictor, lambda t: [(0, (90, 60))], 1)
    with pytest.raises(ValueError, match=r"track_ids must have shape \(1,\), received \(2,\)"):
        replace(found[0], track_ids=np.array([1, 2]))


def test_a_video_is_tracked_frame_by_frame(predictor: Predictor, tmp_path: Path) -> None:
    path, truth = clip(tmp_path / "a.mp4")
    detector = Places()
    detector.points = truth[:1]
    found = list(
        track_video(path, predictor=Predictor(predictor.runtime, detector=detector), smoothing=None)
    )
    assert len(found) == 20
    assert found[0].source == str(path)
    assert max(error(p, 0, xy) for p, xy in zip(found, truth, strict=True)) < 0.12


def test_points_of_a_rotated_video_are_those_of_the_upright_image(
    predictor: Predictor, tmp_path: Path
) -> None:
    image, points = scene([(0, (90, 60))])
    path = write(tmp_path / "a.mp4", [np.rot90(image)] * 3, turn=-90)
    detector = Places()
    detector.points = points
    found = list(track_video(path, predictor=Predictor(predictor.runtime, detector=detector)))
    assert found[0].image_size == (240, 320)
    assert error(found[-1], 0, points[0]) < 0.12


def test_drawn_tracks_show_box_and_points(predictor: Predictor) -> None:
    image, points = scene([(0, (90, 60))])
    detector = Places()
    detector.points = points
    prediction = Tracker(Predictor(predictor.runtime, detector=detector)).update(Frame(image))
    drawn = draw_tracks(image, prediction)
    assert drawn.shape == image.shape
    changed = (drawn != image).any(axis=2)
    for x, y in prediction.keypoints.xy[0].round().astype(int):
        assert changed[y, x]
    assert not changed[:20].any()
    with pytest.raises(ValueError, match="track ids"):
        draw_tracks(image, replace(prediction, track_ids=None))


# The command line, with a detector that always gives the same box.


@pytest.fixture(scope="module")
def constant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX detector in the package's format: one box, where the drawn clips have their face."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    from facial_keypoints.inference.detector import DETECTOR_KEY

    box = face_boxes(scene([(0, (100, 60))])[1], KAGGLE15)
    values = {"boxes": box[None].astype(np.float32), "scores": np.array([[0.9]], np.float32)}
    nodes = [helper.make_node("Identity", [f"{name}_value"], [name]) for name in values]
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, "H", "W"])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 1, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1]),
        ],
        [numpy_helper.from_array(value, f"{name}_value") for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    about = {
        "threshold": 0.5,
        "longest_side": 320,
        "max_enlarge": 1.0,
        "overlap": 0.4,
        "multiple": 16,
    }
    helper.set_model_props(model, {DETECTOR_KEY: json.dumps(about)})
    path = tmp_path_factory.mktemp("detector") / "constant.onnx"
    onnx.save(model, str(path))
    return path


COMMAND = [sys.executable, "-m", "facial_keypoints", "track"]
ENVIRONMENT = {**os.environ, "TERM": "dumb", "COLUMNS": "200"}


def track(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, words), "--threads", "1"],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=120, check=False,
    )  # fmt: skip


def test_track_writes_table_video_and_sheet(constant: Path, tmp_path: Path) -> None:
    path, truth = clip(tmp_path / "a.mp4", times=[0.05 * i + 0.01 * (i % 2) for i in range(20)])
    out, drawn, sheet = (tmp_path / name for name in ("t.csv", "drawn.mp4", "moments.jpg"))
    done = track(path, "-o", out, "--draw", drawn, "--sheet", sheet, "--detector", constant)
    assert done.returncode == 0, done.stderr
    assert "20 frames, 20 with faces, 1 track," in done.stderr
    with out.open() as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0])[:10] == [
        "time_s", "frame", "track", "x0", "y0", "x1", "y1", "score", "angle", "left_eye_center_x",
    ]  # fmt: skip
    assert [int(r["frame"]) for r in rows] == list(range(20))
    assert {r["track"] for r in rows} == {"1"}
    np.testing.assert_allclose([float(r["time_s"]) for r in rows[:3]], [0.0, 0.06, 0.10], atol=2e-3)
    nose = np.array([[float(r["nose_tip_x"]), float(r["nose_tip_y"])] for r in rows])
    assert np.abs(nose - truth[:, KAGGLE15.index("nose_tip")]).max() < 8
    with open_video(path) as original, open_video(drawn) as copy:
        times = [f.time_s for f in original]
        np.testing.assert_allclose([f.time_s for f in copy], times, atol=1e-3)
    assert sheet.read_bytes().startswith(b"\xff\xd8")
    assert "--force" in track(path, "-o", out, "--detector", constant).stderr


def test_all_formats_hold_the_same_rows_and_raw_differs(constant: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    path, _ = clip(tmp_path / "a.mp4", count=6)
    for name in ("t.json", "t.parquet"):
        assert track(path, "-o", tmp_path / name, "--detector", constant).returncode == 0
    assert track(path, "-o", tmp_path / "raw.json", "--raw", "--detector", constant).returncode == 0
    rows = json.loads((tmp_path / "t.json").read_text())
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == rows
    raw = json.loads((tmp_path / "raw.json").read_text())
    assert raw[0] == rows[0]
    assert raw[5]["nose_tip_x"] != rows[5]["nose_tip_x"]


def test_a_cut_off_video_leaves_the_frames_until_there_and_exits_1(
    constant: Path, tmp_path: Path
) -> None:
    path, _ = clip(tmp_path / "a.mp4", count=60, options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    out, drawn = tmp_path / "t.csv", tmp_path / "drawn.mp4"
    done = track(path, "-o", out, "--draw", drawn, "--detector", constant)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1
    assert "stops in the middle" in done.stderr
    rows = out.read_text().splitlines()
    assert 5 < len(rows) < 50
    with open_video(drawn) as copy:
        assert sum(1 for _ in copy) == len(rows) - 1


def test_several_videos_get_a_table_each_and_a_bad_one_costs_itself(
    constant: Path, tmp_path: Path
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        clip(tmp_path / folder / "clip.mp4", count=3)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"\0" * 500)
    out, drawn = tmp_path / "tracks", tmp_path / "drawn"
    words = [tmp_path / "a" / "clip.mp4", bad, tmp_path / "b" / "clip.mp4", "-o", out]
    done = track(*words, "--draw", drawn, "--detector", constant)
    assert done.returncode == 1, done.stderr
    assert "3 videos: 2 done, 1 failed" in done.stderr
    assert f"failed: {bad}" in done.stderr
    assert sorted(p.name for p in out.iterdir()) == ["clip-2.csv", "clip.csv"]
    assert sorted(p.name for p in drawn.iterdir()) == ["clip-2.mp4", "clip.mp4"]
    assert (out / "clip.csv").read_text() == (out / "clip-2.csv").read_text()
    refused = track(*words, "--detector", constant)
    assert refused.returncode == 1
    assert "--force" in refused.stderr


def test_frames_of_a_folder_are_tracked_as_a_video(constant: Path, tmp_path: Path) -> None:
    path, _ = clip(tmp_path / "a.mp4", count=4)
    (tmp_path / "f").mkdir()
    with open_video(path) as video:
        for frame in video:
            write_image(tmp_path / "f" / f"{frame.index}.png", frame.rgb())
    words = ["--detector", constant, "--raw"]
    assert track(path, "-o", tmp_path / "v.csv", *words).returncode == 0
    done = track(tmp_path / "f", "-o", tmp_path / "f.csv", "--fps", 20, *words)
    assert done.returncode == 0, done.stderr
    assert "4 frames, 4 with faces, 1 track," in done.stderr
    tables = []
    for name in ("v.csv", "f.csv"):
        with (tmp_path / name).open() as handle:
            tables.append(list(csv.DictReader(handle)))
    assert [float(r["time_s"]) for r in tables[1]] == [i / 20 for i in range(4)]
    nose = np.array([[[float(r["nose_tip_x"]), float(r["nose_tip_y"])] for r in t] for t in tables])
    assert np.abs(nose[0] - nose[1]).max() < 0.5  # grey from RGB is not quite the video's own


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["a.mp4", "a.mp4", "-o", "t.csv"], 2, "there are 2 videos: name a folder"),
        (["gone.mp4", "-o", "t.csv"], 1, "there is no video gone.mp4"),
        (["97", "-o", "t.csv"], 1, "there is no camera 97"),
        (["a.mp4", "-o", "t.xlsx"], 1, "a table is written as"),
        (["a.mp4", "-o", "t.csv", "--draw", "d.avi"], 1, "ends in .mp4"),
        (["a.mp4", "-o", "t.csv", "--draw", "a.mp4", "--force"], 1, "is the video itself"),
        (["a.mp4", "-o", "t.csv", "--sheet", "s.pdf"], 1, "the sheet is an image"),
        (["a.mp4", "-o", "t.csv", "--sheet", "a.mp4/s.jpg"], 1, "cannot write a.mp4/s.jpg"),
        (["a.mp4", "-o", "t.csv", "--raw", "--beta", "3"], 2, "--raw"),
        (["a.mp4"], 2, "--out"),
    ],
)
def test_mistakes_get_a_sentence_and_leave_nothing(
    constant: Path,
    tmp_path: Path,
    words: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clip(tmp_path / "a.mp4", count=2)
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    done = track(*words, "--detector", constant)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_sigterm_keeps_what_was_tracked(constant: Path, tmp_path: Path) -> None:
    path, _ = clip(tmp_path / "a.mp4", count=600)
    out, drawn = tmp_path / "t.csv", tmp_path / "drawn.mp4"
    words = [path, "-o", out, "--draw", drawn, "--detector", constant, "--threads", "1"]
    with subprocess.Popen(
        [*COMMAND, *map(str, words)], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        deadline = time.monotonic() + 60
        while not any(p.stat().st_size > 20_000 for p in tmp_path.glob(".*.csv")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "interrupted: the outputs end after" in said
    rows = out.read_text().splitlines()
    assert 10 < len(rows) < 601
    assert len({row.count(",") for row in rows}) == 1
    with open_video(drawn) as copy:
        assert sum(1 for _ in copy) == int(rows[-1].split(",")[1]) + 1
