from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from facial_keypoints import measure
from facial_keypoints.cli import app
from facial_keypoints.data.synthetic.faces import draw_faces
from facial_keypoints.data.synthetic.geometry import (
    FaceParameters,
    Spread,
    sample_faces,
)
from facial_keypoints.data.synthetic.scenes import draw_scene
from facial_keypoints.errors import DataError, FacialKeypointsError
from facial_keypoints.geometry import flip_xy
from facial_keypoints.inference.measure.measures import (
    NOSE_DEPTH,
    NOTICE,
    SMALLEST_SCALE,
    TURNED_DEG,
    error_scales,
)
from facial_keypoints.inference.measure.table import read_faces
from facial_keypoints.schemas import FIVE, FROM_IBUG68, IBUG68, KAGGLE15
from facial_keypoints.types import Keypoints, KeypointSchema, Prediction

# A face whose measures can be read off: eyes 40 apart, level; the person's left is at the right.
POINTS = {
    "left_eye_center": (70, 40),
    "right_eye_center": (30, 40),
    "left_eye_inner_corner": (62, 41),
    "left_eye_outer_corner": (78, 37),
    "right_eye_inner_corner": (38, 41),
    "right_eye_outer_corner": (22, 41),
    "left_eyebrow_inner_end": (60, 31),
    "left_eyebrow_outer_end": (84, 29),
    "right_eyebrow_inner_end": (40, 33),
    "right_eyebrow_outer_end": (16, 35),
    "nose_tip": (52, 60),
    "mouth_left_corner": (62, 80),
    "mouth_right_corner": (38, 78),
    "mouth_center_top_lip": (51, 76),
    "mouth_center_bottom_lip": (51, 86),
}


def face(confidence: float | None = None, **moved: tuple[float, float]) -> Keypoints:
    xy = np.array([[{**POINTS, **moved}[name] for name in KAGGLE15.keypoint_names]], np.float32)
    known = None if confidence is None else np.full((1, 15), confidence, np.float32)
    return Keypoints(xy, KAGGLE15, confidence=known)


def test_68_points_are_measured_by_the_15_that_they_tell() -> None:
    points, xy = face(confidence=0.9), np.full((1, 68, 2), np.nan, np.float32)
    for name in KAGGLE15.keypoint_names:
        xy[0, list(FROM_IBUG68[name])] = points.xy[0, KAGGLE15.index(name)]
    found = Keypoints(xy, IBUG68, confidence=np.full((1, 68), 0.9, np.float32))
    expected = measure(found.to_schema(KAGGLE15))
    np.testing.assert_array_equal(measure(found).values, expected.values)
    assert np.isfinite(expected["mouth_width"]).all()


def drawn(count: int = 20, confidence: float = 0.9) -> Keypoints:
    xy = draw_faces(count, seed=4, image_size=96).keypoints.xy
    return Keypoints(xy, KAGGLE15, confidence=np.full((count, 15), confidence, np.float32))


def test_each_measure_is_what_its_definition_says() -> None:
    expected = {
        "inner_canthal": 24 / 40,
        "outer_canthal": np.hypot(56, 4) / 40,
        "interpupillary": 40 / np.hypot(56, 4),
        "canthal_index": 100 * 24 / np.hypot(56, 4),
        "left_palpebral_fissure": np.hypot(16, 4) / 40,
        "right_palpebral_fissure": 16 / 40,
        "left_canthal_tilt": np.degrees(np.arctan(4 / 16)),
        "right_canthal_tilt": 0.0,
        "left_brow_inner_height": 10 / 40,
        "right_brow_inner_height": 8 / 40,
        "left_brow_outer_height": 8 / 40,
        "right_brow_outer_height": 6 / 40,
        "mouth_width": np.hypot(24, 2) / 40,
        "lip_height": 10 / 40,
        "nose_to_top_lip": np.hypot(1, 16) / 40,
        "asymmetry": (39 - 37) / 40,
        "nose_deviation": 2 / 40,
        "mouth_deviation": 1 / 40,
        "head_roll": 0.0,
        "head_yaw": np.degrees(np.arctan(2 / 40 / NOSE_DEPTH)),
    }
    found = measure(face())
    assert found.names == tuple(expected)
    assert found.values[0] == pytest.approx(list(expected.values()), abs=1e-6)
    assert dict(zip(found.names, found.units, strict=True))["canthal_index"] == "percent"
    assert np.isnan(found.sigma).all()
    assert found.warnings == ((),)
    assert found["inner_canthal"].shape == (1,)
    with pytest.raises(ValueError, match="no measure 'ear'"):
        found["ear"]


def test_a_raised_outer_corner_tilts_up_and_a_clockwise_head_rolls_positive() -> None:
    assert measure(face(right_eye_outer_corner=(22, 37)))["right_canthal_tilt"][0] > 10
    assert measure(face(right_eye_outer_corner=(22, 45)))["right_canthal_tilt"][0] < -10
    # Clockwise in the image: the eye at the image's right sinks.
    assert measure(face(left_eye_center=(70, 44)))["head_roll"][0] > 5


def test_changes_are_differences_from_the_neutral_face() -> None:
    smiling = face(
        mouth_left_corner=(64, 78), mouth_right_corner=(36, 76), mouth_center_bottom_lip=(51, 92)
    )
    found = measure(smiling, neutral=face())
    assert found["mouth_opening"][0] == pytest.approx(6 / 40)
    # Each corner moved 2 outwards and 2 up: 2 √2 along the diagonal.
    assert found["smile"][0] == pytest.approx(2 * np.sqrt(2) / 40)
    assert measure(face(), neutral=face())["smile"][0] == 0.0
    assert "smile" not in measure(face()).names
    # One neutral face each works too; another number of faces does not.
    both = Keypoints(np.concatenate([smiling.xy, face().xy]), KAGGLE15)
    assert measure(both, neutral=both)["smile"] == pytest.approx([0.0, 0.0])
    with pytest.raises(DataError, match="exactly one face"):
        measure(smiling, neutral=both)


def test_millimetres_need_a_scale_and_follow_it() -> None:
    assert not [name for name in measure(face()).names if name.endswith("_mm")]
    by_eyes = measure(face(0.9), ipd_mm=60)
    assert by_eyes["inner_canthal_mm"][0] == pytest.approx(24 * 60 / 40)
    assert by_eyes["interpupillary_mm"][0] == pytest.approx(60)
    assert by_eyes.sigma[0, by_eyes.index("interpupillary_mm")] == pytest.approx(0, abs=1e-9)
    by_pixel = measure(face(0.9), mm_per_px=0.5)
    assert by_pixel["interpupillary_mm"][0] == pytest.approx(20)
    assert by_pixel.sigma[0, by_pixel.index("interpupillary_mm")] > 0.1
    assert "canthal_index_mm" not in by_pixel.names
    with pytest.raises(ValueError, match="not both"):
        measure(face(), ipd_mm=60, mm_per_px=1)
    with pytest.raises(ValueError, match="positive"):
        measure(face(), ipd_mm=0)


def test_a_missing_point_empties_its_own_measures_only() -> None:
    found = measure(face(0.9, nose_tip=(np.nan, np.nan)))
    empty = {
        name for name, value in zip(found.names, found.values[0], strict=True) if np.isnan(value)
    }
    assert empty == {"nose_to_top_lip", "nose_deviation", "head_yaw"}
    sigma = dict(zip(found.names, found.sigma[0], strict=True))
    assert {name for name, value in sigma.items() if np.isnan(value)} == empty
    assert found.warnings == (("missing points",),)


def test_points_that_fell_together_give_nan_and_no_faces_give_none() -> None:
    xy = np.full((1, 15, 2), 5, np.float32)
    found = measure(Keypoints(xy, KAGGLE15, confidence=np.full((1, 15), 0.5, np.float32)))
    assert np.isnan(found["inner_canthal"]).all()
    assert np.isnan(found["head_yaw"]).all()
    nobody = measure(Keypoints(np.zeros((0, 15, 2), np.float32), KAGGLE15))
    assert nobody.values.shape == (0, len(nobody.names))
    assert nobody.warnings == ()


def test_another_schema_with_the_points_works_and_one_without_is_refused() -> None:
    names = KAGGLE15.keypoint_names[::-1]
    swap = tuple(14 - KAGGLE15.swap[14 - i] for i in range(15))
    other = KeypointSchema("mine", (*names, "chin"), (*swap, 15), KAGGLE15.norm_pair)
    xy = np.concatenate([face().xy[:, ::-1], np.full((1, 1, 2), 9, np.float32)], axis=1)
    assert measure(Keypoints(xy, other)).values == pytest.approx(measure(face()).values)
    with pytest.raises(DataError, match="15 points"):
        measure(Keypoints(np.zeros((1, 5, 2), np.float32), FIVE))


def test_confidence_goes_back_to_the_scale_it_came_from() -> None:
    b = np.array([0.4, 0.7, 1.5, 4.0])
    confidence = 1 - (1 + 3 / b) * np.exp(-3 / b)
    assert error_scales(confidence) == pytest.approx(b, rel=1e-3)
    # With four digits a high confidence is written as 1, which does not mean that there is no error.
    assert error_scales(np.array([1.0])) == pytest.approx(SMALLEST_SCALE)
    assert np.isnan(error_scales(np.array([np.nan]))).all()


def test_error_bars_agree_with_drawing_from_the_points_density() -> None:
    faces, rng, draws = drawn(3, 0.9), np.random.default_rng(0), 4000
    side = 36.2 / 96  # the eyes' distance is this share of the face box
    for i in range(3):
        one = faces.subset([i])
        found = measure(one, neutral=faces.subset([2]), ipd_mm=60)
        eyes = float(np.hypot(*(one.xy[0, 0] - one.xy[0, 1])))
        mouth = (one.xy[0, 11] + one.xy[0, 12]) / 2 - (one.xy[0, 0] + one.xy[0, 1]) / 2
        size = max(eyes, float(np.hypot(*mouth)) * 0.93)
        b = float(error_scales(np.array([0.9]))[0]) * size / side / 96
        # Density exp(-d / b) / (2 pi b^2): the distance is gamma-distributed, the direction is not.
        distance = rng.gamma(2.0, b, (draws, 15, 1))
        angle = rng.uniform(0, 2 * np.pi, (draws, 15, 1))
        noise = distance * np.concatenate([np.cos(angle), np.sin(angle)], axis=2)
        many = Keypoints((one.xy + noise).astype(np.float32), KAGGLE15)
        spread = np.std(measure(many, ipd_mm=60).values, axis=0)
        sigma = found.sigma[0, [found.index(n) for n in measure(many, ipd_mm=60).names]]
        uncertain = sigma > 1e-9  # the given distance of the pupils has no error
        assert sigma[uncertain] == pytest.approx(spread[uncertain], rel=0.12)


def test_error_bars_grow_with_low_confidence_and_combine_with_the_neutral_faces() -> None:
    rest, high, low = drawn(4, 0.95), drawn(4, 0.95), drawn(4, 0.6)
    a, b = measure(high, neutral=rest), measure(low, neutral=rest)
    assert (b.sigma > a.sigma).all()
    smile = a.index("smile")
    exact_rest = Keypoints(rest.xy, KAGGLE15, confidence=np.ones((4, 15), np.float32))
    assert (measure(high, neutral=exact_rest).sigma[:, smile] < a.sigma[:, smile]).all()


@settings(max_examples=20, deadline=None)
@given(
    st.floats(-180, 180),
    st.floats(0.2, 8),
    st.floats(-500, 500),
    st.floats(-500, 500),
    st.booleans(),
)
def test_rotating_scaling_and_moving_the_image_changes_no_measure_but_roll(
    angle: float, scale: float, dx: float, dy: float, confident: bool
) -> None:
    before = drawn(6, 0.9)
    cos, sin = scale * np.cos(np.deg2rad(angle)), scale * np.sin(np.deg2rad(angle))
    xy = before.xy @ np.array([[cos, sin], [-sin, cos]]) + [dx, dy]
    after = Keypoints(
        xy.astype(np.float32), KAGGLE15, confidence=before.confidence if confident else None
    )
    a, b = measure(before, ipd_mm=61), measure(after, ipd_mm=61)
    kept = [i for i, name in enumerate(a.names) if name != "head_roll"]
    assert b.values[:, kept] == pytest.approx(a.values[:, kept], abs=0.05, rel=1e-3)
    ratios = [i for i in kept if a.units[i] == "ratio"]
    assert b.values[:, ratios] == pytest.approx(a.values[:, ratios], abs=1e-3)
    roll = a.index("head_roll")
    rolled = (b.values[:, roll] - a.values[:, roll] - angle + 180) % 360 - 180
    assert rolled == pytest.approx(np.zeros(6), abs=0.05)
    if confident:
        assert b.sigma == pytest.approx(a.sigma, rel=0.01, abs=1e-4)


def test_a_mirrored_face_swaps_left_and_right() -> None:
    before = drawn(12)
    mirrored = Keypoints(flip_xy(before.xy, 96, KAGGLE15), KAGGLE15, confidence=before.confidence)
    a, b = measure(before, mm_per_px=1), measure(mirrored, mm_per_px=1)
    for name in a.names:
        side, _, rest = name.partition("_")
        partner = {"left": f"right_{rest}", "right": f"left_{rest}"}.get(side, name)
        signed = name.startswith(("asymmetry", "nose_dev", "mouth_dev", "head_"))
        assert b[partner] == pytest.approx(-a[name] if signed else a[name], abs=2e-3), name


def test_the_yaw_of_drawn_heads_has_the_right_sign_and_is_marked() -> None:
    rows = np.arange(200)
    spread = Spread(0.0, 4.0, 5.0, 2.0, 0.05, 1.0, by_eyes=True)
    heads = sample_faces(rows, rows, seed=2, spread=spread)

    def turned(degrees: float) -> object:
        yaw = np.full((200, 1, 1), np.deg2rad(degrees))
        return measure(
            Keypoints(FaceParameters({**heads.values, "yaw": yaw}).keypoints_xy(96), KAGGLE15)
        )

    for degrees in (-30, -20, 20, 30):
        told = turned(degrees)["head_yaw"]  # type: ignore[index]
        # Drawn noses stand off less than real ones, so their yaw is estimated 0.75 times as large.
        assert np.median(told) == pytest.approx(0.75 * degrees, rel=0.1)
        assert np.quantile(np.abs(told / degrees - 0.75), 0.9) < 0.25
    straight, far = turned(0), turned(35)
    assert sum("turned" in w for w in straight.warnings) == 0  # type: ignore[attr-defined]
    assert sum("turned" in w for w in far.warnings) > 195  # type: ignore[attr-defined]
    assert np.abs(far["head_yaw"]).min() > 0.6 * TURNED_DEG  # type: ignore[index]


def test_uncertain_points_and_a_turned_neutral_face_are_marked() -> None:
    assert measure(face(0.5)).warnings == (("uncertain",),)
    aside = face(nose_tip=(64, 60))
    assert measure(face(), neutral=aside).warnings == (("neutral turned",),)
    assert measure(aside).warnings == (("turned",),)


# The command line ------------------------------------------------------------------------------


def fkp(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "facial_keypoints", *map(str, words)],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "TERM": "dumb", "COLUMNS": "200"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "faces"
    folder.mkdir()
    for i, image in enumerate(draw_faces(3, seed=1, image_size=128).images):
        Image.fromarray(image[..., 0]).save(folder / f"{i}.png")
    return folder


def track_table(path: Path) -> Path:
    """Two faces over five frames, the second one away in the third."""
    rows = []
    for frame in range(5):
        for track in (1, 2):
            if (frame, track) == (2, 2):
                continue
            moved = face(0.9, mouth_center_bottom_lip=(51, 86 + 2 * frame))
            row: dict[str, object] = {"time_s": frame / 10, "frame": frame, "track": track}
            row |= {"x0": 0, "y0": 0, "x1": 96, "y1": 96, "score": 0.9}
            for k, name in enumerate(KAGGLE15.keypoint_names):
                x, y = moved.xy[0, k].tolist()
                row |= {f"{name}_x": x, f"{name}_y": y, f"{name}_confidence": 0.9}
            rows.append(row)
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_measure_images_lists_bad_ones_and_says_what_it_is_not(
    images: Path, tmp_path: Path
) -> None:
    (tmp_path / "mixed").mkdir()
    for file in images.iterdir():
        (tmp_path / "mixed" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "mixed" / "x.png").write_bytes(b"no image")
    out = tmp_path / "out.csv"
    done = fkp("measure", "--crops", tmp_path / "mixed", "-o", out, "--ipd-mm", "60",
               "--neutral", images / "0.png")  # fmt: skip
    assert done.returncode == 1
    assert "skipped" in done.stderr
    assert "x.png" in done.stderr
    assert NOTICE in done.stderr
    assert done.stdout == ""
    with out.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [Path(row["source"]).name for row in rows] == ["0.png", "1.png", "2.png"]
    assert float(rows[0]["smile"]) == 0.0
    assert float(rows[1]["smile"]) != 0.0
    assert float(rows[1]["interpupillary_mm"]) == 60.0
    assert 0.2 < float(rows[1]["inner_canthal"]) < 0.9
    assert 0.005 < float(rows[1]["inner_canthal_sigma"]) < 0.2
    assert "--force" in fkp("measure", "--crops", images, "-o", out).stderr


def test_a_person_who_is_absent_at_the_neutral_time_is_told(tmp_path: Path) -> None:
    table = track_table(tmp_path / "track.csv")
    out = tmp_path / "out.csv"
    done = fkp("measure", table, "-o", out, "--neutral-at", "30")
    assert done.returncode == 1
    assert "no face is there within 0.5 s of --neutral-at 30" in done.stderr
    assert not out.exists()

    with table.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    for row in rows:
        row["time_s"] = str(float(row["time_s"]) + 9 * (row["track"] == "2"))
    with table.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    done = fkp("measure", table, "-o", out, "--neutral-at", "0.1")
    assert done.returncode == 0, done.stderr
    assert "since they are not there at 0.1 s: track 2." in done.stderr
    with out.open(newline="") as handle:
        measured = list(csv.DictReader(handle))
    assert {row["mouth_opening"] == "" for row in measured if row["track"] == "2"} == {True}
    assert {row["mouth_opening"] == "" for row in measured if row["track"] == "1"} == {False}


def test_measure_a_track_table_keeps_its_columns_and_draws_curves(tmp_path: Path) -> None:
    table = track_table(tmp_path / "track.csv")
    out, plot = tmp_path / "out.json", tmp_path / "curves.png"
    done = fkp("measure", table, "-o", out, "--neutral-at", "0.11", "--plot", plot)
    assert done.returncode == 0, done.stderr
    told = json.loads(out.read_text())
    assert told["notice"] == NOTICE
    assert told["units"]["smile"] == "ratio"
    rows = told["faces"]
    assert [(r["frame"], r["track"]) for r in rows][3:6] == [(1, 2), (2, 1), (3, 1)]
    assert rows[-1]["time_s"] == 0.4
    assert "nose_tip_x" not in rows[0]
    # Resting at frame 1, where the lip was 2 px lower than at first; the eyes are 40 px apart.
    assert [r["mouth_opening"] for r in rows if r["track"] == 1] == [-0.05, 0, 0.05, 0.1, 0.15]
    with Image.open(plot) as figure:
        assert figure.size[0] > 500
    again = fkp("measure", table, "-o", tmp_path / "out.parquet")
    assert again.returncode == 0, again.stderr
    stored = pq.read_table(tmp_path / "out.parquet")
    assert stored.column_names[:3] == ["time_s", "frame", "track"]
    assert stored.schema.metadata[b"notice"].decode() == NOTICE


def test_a_table_of_predict_is_measured_like_its_images(images: Path, tmp_path: Path) -> None:
    points, a, b = (tmp_path / name for name in ("points.parquet", "a.csv", "b.csv"))
    assert fkp("predict", "--crops", images, "-o", points).returncode == 0
    assert fkp("measure", points, "-o", a).returncode == 0
    assert fkp("measure", "--crops", images, "-o", b).returncode == 0
    tables = [list(csv.reader(file.read_text().splitlines())) for file in (a, b)]
    assert tables[0][0] == tables[1][0]
    numbers = [np.array([[float(v) for v in row[7:-1]] for row in t[1:]]) for t in tables]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.02)


def test_mistakes_are_told(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    bad = tmp_path / "bad.csv"
    bad.write_text("source,nose_tip_x\na,1\n")
    text = track_table(tmp_path / "text.csv").read_text().replace("52.0", "here", 1)
    (tmp_path / "text.csv").write_text(text)
    for words, said in (
        ((bad,), "left_eye_center_x"),
        ((tmp_path / "text.csv",), "nose_tip_x"),
        ((tmp_path / "none.csv",), "none.csv"),
        ((images, bad), "one table"),
        (("--crops", images, "--plot", tmp_path / "p.png"), "with times"),
        (("--crops", images, "--plot", tmp_path / "p.webm"), "choose a name in .png, .svg or .pdf"),
        (("--crops", images, "--plot", bad / "p.png"), "cannot write"),
        (("--crops", images, "--neutral", images), "one face"),
    ):
        # In this process: a failed command raises what main() prints as one sentence.
        done = CliRunner().invoke(app, ["measure", *map(str, words), "-o", str(out)])
        assert isinstance(done.exception, FacialKeypointsError), done.output
        assert said in str(done.exception)
        assert not out.exists()
    done = CliRunner().invoke(app, ["measure", str(bad), "-o", str(tmp_path / "out.txt")])
    assert ".parquet" in str(done.exception)
    for words in (
        ("--ipd-mm", "-3"),
        ("--ipd-mm", "60", "--mm-per-px", "1"),
        ("--max-faces", "1"),  # of a table, which says where the faces are
        ("--crops",),
        ("--neutral", "a.png", "--crops", "--min-score", "0.5"),
    ):
        done = CliRunner().invoke(app, ["measure", str(bad), "-o", str(out), *words])
        assert done.exit_code == 2


def test_points_without_confidence_and_empty_cells_are_read(tmp_path: Path) -> None:
    names = [f"{point}_{axis}" for point in KAGGLE15.keypoint_names for axis in "xy"]
    values = face().xy.ravel().tolist()
    values[20:22] = ["", ""]  # the nose's tip
    path = tmp_path / "points.csv"
    path.write_text(
        ",".join(["source", *names]) + "\n" + ",".join(map(str, ["007", *values])) + "\n"
    )
    table = read_faces(path)
    assert table.keypoints.confidence is None
    assert np.isnan(table.keypoints.xy[0, 10]).all()
    assert measure(table.keypoints)["inner_canthal"][0] == pytest.approx(0.6)
    path.write_text(path.read_text().replace(",,,", ",3,,"))
    with pytest.raises(DataError, match="only one of x and y"):
        read_faces(path)


def test_own_columns_are_kept_as_they_are(tmp_path: Path) -> None:
    lines = track_table(tmp_path / "track.csv").read_text().splitlines()
    table = tmp_path / "own.csv"
    table.write_text("\n".join([f"subject,at,{lines[0]}", *(f"001,01:30,{s}" for s in lines[1:])]))
    for suffix in (".csv", ".json"):
        done = CliRunner().invoke(app, ["measure", str(table), "-o", str(tmp_path / f"o{suffix}")])
        assert done.exit_code == 0, done.output
    with (tmp_path / "o.csv").open(newline="") as handle:
        first = next(csv.DictReader(handle))
    assert list(first)[:4] == ["subject", "at", "time_s", "frame"]
    assert (first["subject"], first["at"], first["time_s"]) == ("001", "01:30", "0.0")
    first = json.loads((tmp_path / "o.json").read_text())["faces"][0]
    assert (first["subject"], first["at"], first["time_s"], first["track"]) == (
        "001",
        "01:30",
        0,
        1,
    )

    table.write_text(table.read_text().replace("subject", "smile", 1))
    done = CliRunner().invoke(
        app, ["measure", str(table), "-o", str(tmp_path / "n.csv"), "--neutral-at", "0"]
    )
    assert "column 'smile', which measure writes" in str(done.exception)
    table.write_text(
        table.read_text().replace("smile", "subject", 1).replace("01:30,0.0", "01:30,soon")
    )
    done = CliRunner().invoke(
        app, ["measure", str(table), "-o", str(tmp_path / "n.csv"), "--neutral-at", "0"]
    )
    assert "row 1: time_s must be a number of seconds, found 'soon'" in str(done.exception)


def test_a_table_without_faces_gives_one_without_faces(tmp_path: Path) -> None:
    header = track_table(tmp_path / "track.csv").read_text().splitlines()[0]
    (tmp_path / "none.csv").write_text(header + "\n")
    (tmp_path / "none.json").write_text("[]\n")
    for name in ("none.csv", "none.json"):
        for suffix in (".csv", ".json", ".parquet"):
            out = tmp_path / f"{name}{suffix}"
            done = CliRunner().invoke(app, ["measure", str(tmp_path / name), "-o", str(out)])
            assert done.exit_code == 0, done.exception
            assert out.exists()
    assert json.loads((tmp_path / "none.csv.json").read_text())["faces"] == []


def test_a_prediction_is_measured_like_its_keypoints() -> None:
    keypoints = face(0.9)
    prediction = Prediction(
        keypoints, np.array([[0, 0, 5, 5]], np.float32), np.ones(1, np.float32), (96, 96)
    )
    a, b = measure(prediction), measure(keypoints)
    assert np.array_equal(a.values, b.values)
    assert np.array_equal(a.sigma, b.sigma)


def test_measure_finds_the_faces_of_photos(tmp_path: Path) -> None:
    Image.fromarray(draw_scene(2, seed=1)[0]).save(tmp_path / "two.png")
    Image.fromarray(draw_scene(0, seed=1)[0]).save(tmp_path / "none.png")
    out = tmp_path / "out.parquet"
    done = fkp("measure", tmp_path / "two.png", tmp_path / "none.png", "-o", out)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(out).to_pylist()
    assert [row["face"] for row in table] == [0, 1]
    assert all(0.3 < row["inner_canthal"] < 0.9 for row in table)
    refused = fkp("measure", tmp_path / "two.png", "-o", tmp_path / "o.csv",
                  "--neutral", tmp_path / "two.png")  # fmt: skip
    assert refused.returncode == 1
    assert "2 were found" in refused.stderr


def test_measure_takes_the_flags_that_find_faces(tmp_path: Path) -> None:
    Image.fromarray(draw_scene(3, seed=1)[0]).save(tmp_path / "three.png")

    def found(*words: str) -> list[float]:
        out = tmp_path / "out.parquet"
        done = fkp("measure", tmp_path / "three.png", "-o", out, "--force", *words)
        assert done.returncode == 0, done.stderr
        return [row["score"] for row in pq.read_table(out).to_pylist()]

    scores = found()
    assert len(scores) == 3
    assert found("--max-faces", "1") == [max(scores)]
    limit = sorted(scores)[1] + 1e-4
    assert found("--min-score", str(limit)) == [score for score in scores if score >= limit]
    absent = fkp(
        "measure", tmp_path / "three.png", "-o", tmp_path / "o.csv", "--detector", "no.onnx"
    )
    assert absent.returncode == 1
    assert "no.onnx" in absent.stderr


def test_a_table_is_measured_against_the_best_face_of_a_photo(tmp_path: Path) -> None:
    Image.fromarray(draw_scene(2, seed=1)[0]).save(tmp_path / "two.png")
    table = track_table(tmp_path / "track.csv")
    out = tmp_path / "out.csv"
    done = fkp("measure", table, "-o", out, "--neutral", tmp_path / "two.png", "--max-faces", "1")
    assert done.returncode == 0, done.stderr
    with out.open(newline="") as handle:
        assert all(row["smile"] for row in csv.DictReader(handle))
