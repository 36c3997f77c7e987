from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import dotted_faces
from facial_keypoints.data.duplicates import image_digests
from facial_keypoints.data.kaggle import load_kaggle, load_lookup, requested_styles
from facial_keypoints.data.synthetic.faces import write_kaggle_folder
from facial_keypoints.errors import ImageError, ModelError
from facial_keypoints.inference.predictor import Predictor, load_predictor
from facial_keypoints.models.spec import ModelSpec
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.types import Prediction
from spot_model import SPEC, spot_model


class SpotRuntime:
    """Every keypoint at the brightest pixel; style s and keypoint k are told apart by offsets."""

    def __init__(self, spec: ModelSpec = SPEC) -> None:
        self.spec = spec
        self.batches: list[int] = []

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        self.batches.append(len(images))
        s, k = len(self.spec.styles), self.spec.schema.num_keypoints
        height, width = self.spec.input_size
        index = images.max(axis=3).reshape(len(images), height * width).argmax(axis=1)
        y, x = np.divmod(index, width)
        xy = np.broadcast_to(
            np.stack([x, y], axis=1)[:, None, None], (len(images), s, k, 2)
        ).astype(np.float32)
        xy = xy + np.stack(
            np.broadcast_arrays(10 * np.arange(s)[:, None], np.arange(k)[None]), axis=-1
        ).astype(np.float32)
        known = np.broadcast_to(np.arange(k) / 10, xy.shape[:3]).astype(np.float32)
        return xy, known if self.spec.confidence else None


def spot(
    height: int, width: int, x: int, y: int, *, size: int = 1, channels: int = 1
) -> np.ndarray:
    image = np.zeros((height, width, channels), np.uint8)
    image[y : y + size, x : x + size] = 255
    return image


def test_predictions_are_in_pixels_of_the_original_image() -> None:
    # A 2x2 block of a 64-pixel image is one pixel of the 32-pixel input.
    found = Predictor(SpotRuntime(), style="kaggle-b").predict_crops(
        [spot(64, 64, 40, 20, size=2), spot(64, 64, 0, 0, size=2, channels=3)], sources=["a", "b"]
    )
    assert found[0].keypoints.xy[0, 0].tolist() == [40.5, 20.5]
    assert found[1].keypoints.xy[0, 0].tolist() == [0.5, 0.5]
    assert found[0].boxes.tolist() == [[0, 0, 64, 64]]
    assert found[0].image_size == (64, 64)
    assert np.isnan(found[0].scores).all()
    assert [p.source for p in found] == ["a", "b"]


def test_a_wide_image_is_predicted_in_its_own_pixels() -> None:
    # 64x32: scaled by a half and put in the middle, 8 rows below the top.
    [found] = Predictor(SpotRuntime(), style="kaggle-b").predict_crops(
        [spot(32, 64, 40, 20, size=2)]
    )
    assert found.keypoints.xy[0, 0].tolist() == [40.5, 20.5]


def test_the_style_is_the_callers_choice_and_kaggle_a_by_default() -> None:
    image = [spot(32, 32, 5, 5)]
    x = {
        style: Predictor(SpotRuntime(), style=style).predict_crops(image)[0].keypoints.xy[0, 0, 0]
        for style in (None, "kaggle-a", "kaggle-b")
    }
    assert x == {None: 15, "kaggle-a": 15, "kaggle-b": 5}
    with pytest.raises(ModelError, match="kaggle-b, kaggle-a"):
        Predictor(SpotRuntime(), style="ibug")


def test_a_model_without_styles_predicts_in_its_only_one() -> None:
    plain = replace(SPEC, styles=("",))
    assert Predictor(SpotRuntime(plain)).style == ""
    with pytest.raises(ModelError, match="without styles"):
        Predictor(SpotRuntime(plain), style="kaggle-a")


def test_confidence_is_passed_on_or_not_made_up() -> None:
    image = [spot(32, 32, 5, 5)]
    [known] = Predictor(SpotRuntime()).predict_crops(image)
    assert known.keypoints.confidence is not None
    np.testing.assert_allclose(known.keypoints.confidence[0], np.arange(5) / 10, atol=1e-6)
    [without] = Predictor(SpotRuntime(replace(SPEC, confidence=""))).predict_crops(image)
    assert without.keypoints.confidence is None


@pytest.mark.parametrize(("count", "batches"), [(0, [0]), (1, [1]), (7, [3, 3, 1])])
def test_a_batch_is_cut_into_steps_and_each_row_has_its_style(
    count: int, batches: list[int]
) -> None:
    runtime = SpotRuntime()
    images = np.stack([spot(32, 32, i, 2 * i) for i in range(count)] or [spot(32, 32, 0, 0)])[
        :count
    ]
    styles = [("kaggle-b", "kaggle-a", "ibug")[i % 3] for i in range(count)]
    found = Predictor(runtime, style="kaggle-b").predict_batch(images, styles=styles, batch_size=3)
    assert runtime.batches == batches
    assert found.xy.shape == (count, 5, 2)
    expected = [[i + (10 if i % 3 == 1 else 0), 2 * i] for i in range(count)]
    assert found.xy[:, 0].tolist() == expected


def test_styles_must_be_one_per_image() -> None:
    with pytest.raises(ValueError, match="one entry per image"):
        Predictor(SpotRuntime()).predict_batch(np.zeros((2, 32, 32, 1), np.uint8), styles=["a"])


def test_tta_is_refused_where_the_model_cannot() -> None:
    assert not Predictor(SpotRuntime(replace(SPEC, output="points"))).tta
    assert Predictor(SpotRuntime(replace(SPEC, output="points")), tta=True).tta
    for spec in (SPEC, replace(SPEC, output="points", confidence="")):
        with pytest.raises(ModelError, match="cannot use test-time augmentation"):
            Predictor(SpotRuntime(spec), tta=True)


def test_an_image_too_small_for_a_face_is_refused() -> None:
    predictor = Predictor(SpotRuntime())
    for shape in ((1, 1), (7, 100), (100, 7)):
        with pytest.raises(ImageError, match="too few for a face"):
            predictor.predict_crops([np.zeros(shape, np.uint8)])
    assert len(predictor.predict_crops([np.zeros((8, 8), np.uint8)])) == 1


def test_data_that_does_not_fit_the_model_gets_a_sentence() -> None:
    with pytest.raises(ModelError, match="32×40 with 1"):
        Predictor(SpotRuntime()).check_fits(dotted_faces(3))
    with pytest.raises(ModelError, match="schema 'five'"):
        Predictor(SpotRuntime()).check_fits(dotted_faces(3, height=32))


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty images of several sizes whose spot is at (2i, i), and three bad ones."""
    faces = tmp_path / "faces"
    faces.mkdir()
    for i in range(20):
        cv2.imwrite(str(faces / f"{i:02}.png"), spot(32 + 2 * i, 32 + 2 * i, 2 * i, i))
    (faces / "05x.jpg").write_bytes(b"")
    (faces / "07x.gif").write_bytes(b"GIF89a nothing more")
    cv2.imwrite(str(faces / "09x.png"), np.zeros((1, 1), np.uint8))
    return faces


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spot_model(tmp_path_factory.mktemp("models") / "spot.onnx")


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_files_are_predicted_in_order_with_the_bad_ones_in_their_place(
    folder: Path, batch_size: int
) -> None:
    runtime = SpotRuntime()
    files = sorted(folder.iterdir())
    found = list(
        Predictor(runtime, style="kaggle-b").predict_files(files, batch_size=batch_size, readers=3)
    )
    assert len(found) == 23
    assert max(runtime.batches) <= batch_size
    assert sum(runtime.batches) == 20
    for file, result in zip(files, found, strict=True):
        if "x" in file.name:
            assert isinstance(result, ImageError)
            assert file.name in str(result)
        else:
            assert isinstance(result, Prediction)
            assert result.source == str(file)
            i = int(file.stem)
            np.testing.assert_allclose(result.keypoints.xy[0, 0], (2 * i, i), atol=1 + i / 16)


def test_files_are_taken_only_as_they_are_needed(folder: Path) -> None:
    taken = 0
    file = folder / "03.png"

    def endless():  # type: ignore[no-untyped-def]
        nonlocal taken
        while True:
            taken += 1
            yield file

    results = Predictor(SpotRuntime()).predict_files(endless(), batch_size=5)
    for _ in range(12):
        next(results)
    assert taken < 40
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]


def fkp(*words: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "facial_keypoints", *map(str, words)],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "TERM": "dumb", "COLUMNS": "200"}, **options,
    )  # type: ignore[call-overload,no-any-return]  # fmt: skip


def test_predict_writes_a_table_lists_bad_images_and_exits_1(
    folder: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    done = fkp("predict", "--crops", folder, "--model", model, "--style", "kaggle-b", "-o", out)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    skipped = [line for line in done.stderr.splitlines() if line.startswith("skipped ")]
    assert [line.split(": ")[0].rsplit("/", 1)[1] for line in skipped] == [
        "05x.jpg", "07x.gif", "09x.png",
    ]  # fmt: skip
    assert "20 of 23 images" in done.stderr
    with out.open(newline="") as handle:
        table = list(csv.DictReader(handle))
    assert len(table) == 20
    assert table[0]["source"] == str(folder / "00.png")
    assert (table[0]["nose_tip_x"], table[0]["nose_tip_confidence"]) == ("0.0", "0.5")
    assert (table[0]["x1"], table[0]["y1"], table[0]["score"]) == ("32.0", "32.0", "")

    again = fkp("predict", "--crops", folder, "--model", model, "-o", out)
    assert again.returncode == 1
    assert "--force" in again.stderr


def test_a_list_on_standard_input_and_patterns_are_predicted(
    folder: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    words = ("predict", "--crops", "--model", model, "-o", out, "--threads", "1")
    listed = fkp(*words, "-", input=f"{folder}/03.png\n{folder}/04.png\n")
    assert listed.returncode == 0, listed.stderr
    assert [Path(row["source"]).name for row in json.loads(out.read_text())] == ["03.png", "04.png"]
    matched = fkp(*words, f"{folder}/1?.png", "--force", "--batch-size", "3")
    assert matched.returncode == 0, matched.stderr
    assert len(json.loads(out.read_text())) == 10


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--crops", "{folder}", "--style", "ibug"), "kaggle-b, kaggle-a"),
        (("--crops", "{folder}", "--tta"), "cannot use test-time augmentation"),
        (("--crops", "{folder}/none.png"), "no image or folder"),
        (("--crops", "{empty}"), "no image in"),
        (("--crops", "{folder}", "--model", "{folder}/00.png"), "00.png"),
    ],
)
def test_mistakes_get_one_sentence_and_leave_nothing(
    words: tuple[str, ...], says: str, folder: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    filled = [word.format(folder=folder, empty=tmp_path / "empty") for word in words]
    if "--model" not in filled:
        filled += ["--model", str(model)]
    done = fkp("predict", *filled, "-o", tmp_path / "out.csv")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert says in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whatever_ends_a_run_keeps_what_was_done(
    number: signal.Signals, model: Path, tmp_path: Path
) -> None:
    for i in range(40):
        cv2.imwrite(str(tmp_path / f"{i}.png"), spot(32, 32, 1, 1))
    out = tmp_path / "out" / "t.csv"
    command = [sys.executable, "-m", "facial_keypoints", "predict", "--crops", "-"]
    command += ["--batch-size", "1", "--threads", "1", "--model", str(model), "-o", str(out)]
    drawn = tmp_path / "drawn"
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*command, "--draw", str(drawn)], stdin=pipe, stderr=pipe, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        # And no end: it waits for more.
        process.stdin.write("".join(f"{tmp_path}/{i}.png\n" for i in range(40)))
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while not any(drawn.rglob("*.png")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        said = process.stderr.read()
    assert process.returncode == 130, said
    assert "interrupted: the outputs end after" in said
    assert "Traceback" not in said
    assert list(out.parent.iterdir()) == [out]
    assert 1 < len(out.read_text().splitlines()) <= 41


def test_drawn_copies_lie_at_the_paths_of_their_images(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/1.png", "a/b/1.jpg", "a/2.webp"):
        cv2.imwrite(name, spot(64, 48, 10, 10, size=3))
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "b")
    cv2.imwrite("../1.png", spot(64, 48, 10, 10, size=3))
    Path("../a").rename("a")
    words = ("predict", "--crops", "a", "../1.png", "--model", model)
    done = fkp(*words, "-o", "t.csv", "--draw", "drawn")
    assert done.returncode == 0, done.stderr
    drawn = sorted(p.relative_to("drawn").as_posix() for p in Path("drawn").rglob("*.*"))
    assert drawn == ["a/1.png", "a/2.webp.png", "a/b/1.jpg", "up/1.png"]
    copy = cv2.imread("drawn/a/1.png")
    assert copy.shape == (64, 48, 3)
    assert np.ptp(copy, axis=2).max() > 30, "nothing coloured was drawn"

    before = Path("a/1.png").read_bytes()
    done = fkp(*words, "-o", "u.csv", "--draw", ".", "--force")
    assert done.returncode == 1
    assert "would overwrite" in done.stderr
    assert Path("a/1.png").read_bytes() == before
    assert not Path("u.csv").exists()


# --- evaluate and submit -------------------------------------------------------------------------

WITHOUT_KERAS = """
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"keras", "tensorflow", "torch", "jax"}:
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
from facial_keypoints.cli import main
main()
"""


@pytest.fixture(scope="module")
def kaggle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kaggle") / "files"
    write_kaggle_folder(folder, train=20, test=12, seed=0)
    return folder


@pytest.fixture(scope="module")
def kaggle_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At the brightest pixel in style B, one pixel to the right of it in style A."""
    spec = replace(SPEC, schema=KAGGLE15, input_size=(96, 96))
    return spot_model(tmp_path_factory.mktemp("models") / "kaggle.onnx", spec)


def without_keras(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_KERAS, *map(str, words)],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "TERM": "dumb", "COLUMNS": "200"},
    )  # fmt: skip


def brightest_x(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).argmax(axis=1) % images.shape[2]


def test_submit_predicts_each_image_in_its_style_without_keras(
    kaggle: Path, kaggle_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "submission.csv"
    done = without_keras("submit", kaggle_model, "--data", kaggle, "-o", out)
    assert done.returncode == 0, done.stderr
    faces, lookup = load_kaggle(kaggle, part="test"), load_lookup(kaggle)
    styles = requested_styles(lookup, faces.sample_ids)
    assert set(styles) == {"kaggle-a", "kaggle-b"}
    with out.open(newline="") as handle:
        results = {int(row["RowId"]): float(row["Location"]) for row in csv.DictReader(handle)}
    expected = np.minimum(brightest_x(faces.images) + (styles == "kaggle-a"), 96)
    rows = lookup.rows_of(faces.sample_ids)
    for row_id, row, axis in zip(lookup.row_ids, rows, lookup.axes, strict=True):
        if axis == 0:
            assert results[int(row_id)] == expected[row]


def test_evaluate_predicts_each_row_in_its_style_without_keras(
    kaggle: Path, kaggle_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report.json"
    done = without_keras("evaluate", kaggle_model, "--data", kaggle, "-o", out)
    assert done.returncode == 0, done.stderr
    faces = load_kaggle(kaggle)
    x = brightest_x(faces.images) + (faces.styles == "kaggle-a")
    y = faces.images.reshape(len(faces), -1).argmax(axis=1) // 96
    predicted = np.repeat(np.stack([x, y], axis=1)[:, None], 15, axis=1)
    rmse = np.sqrt(np.nanmean((faces.keypoints.xy - predicted) ** 2))
    told = json.loads(out.read_text())
    assert told["overall"]["rmse_px"] == pytest.approx(rmse, rel=1e-5)
    # A model of which nobody knows what it learnt from.
    assert told["training_faces"] is told["on_training_faces"] is None
    assert f"the {len(faces)} faces may be among them" in done.stdout


@pytest.mark.parametrize("learnt", ["none", "some", "all"])
def test_evaluate_measures_on_faces_that_the_model_did_not_learn_from(
    learnt: str, kaggle: Path, tmp_path: Path
) -> None:
    faces = load_kaggle(kaggle)
    n = len(faces)
    count = {"none": 0, "some": n // 3, "all": n}[learnt]
    spec = ModelSpec("spot", KAGGLE15, (96, 96), styles=("kaggle-a", "kaggle-b"))
    model = spot_model(tmp_path / "m.onnx", spec, digests=image_digests(faces.images[:count]))
    out = tmp_path / "report.json"
    done = without_keras("evaluate", model, "--data", kaggle, "-o", out)
    assert done.returncode == 0, done.stderr
    told = json.loads(out.read_text())
    assert (told["training_faces"], told["overall"]["num_faces"]) == (count, n - count)

    x = brightest_x(faces.images) + (faces.styles == "kaggle-b")
    y = faces.images.reshape(n, -1).argmax(axis=1) // 96
    squared = (faces.keypoints.xy - np.stack([x, y], axis=1)[:, None]) ** 2
    if learnt == "none":
        assert told["on_training_faces"] is None
        assert f"None of the {n} faces is a training or validation face" in done.stdout
    else:
        seen = np.sqrt(np.nanmean(squared[:count]))
        assert told["on_training_faces"]["overall"]["rmse_px"] == pytest.approx(seen, rel=1e-5)
        assert f"On these faces: RMSE {seen:.2f} px." in done.stdout
    if learnt == "all":
        assert told["overall"]["rmse_px"] is None
        assert f"All {n} faces are training or validation faces" in done.stdout
        assert "all keypoints" not in done.stdout  # no table without honest numbers
    else:
        held_out = np.sqrt(np.nanmean(squared[count:]))
        assert told["overall"]["rmse_px"] == pytest.approx(held_out, rel=1e-5)
        assert f"{held_out:.2f}" in done.stdout
    if learnt == "some":
        assert f"{count} of {n} faces are training or validation faces" in done.stdout
    assert "Warning" not in done.stderr


def test_a_model_that_does_not_fit_the_data_gets_a_sentence(
    kaggle: Path, model: Path, tmp_path: Path
) -> None:
    done = fkp("submit", model, "--data", kaggle, "-o", tmp_path / "s.csv")
    assert done.returncode == 1
    assert "32×32" in done.stderr
    assert "Traceback" not in done.stderr


def test_models_tells_what_a_model_says_about_itself(model: Path) -> None:
    done = fkp("models", model, "--json")
    told = json.loads(done.stdout)
    assert told["styles"] == ["kaggle-b", "kaggle-a"]
    assert told["schema"]["name"] == "five"
    assert "kaggle-b, kaggle-a" in fkp("models", model).stdout
    assert fkp("models").returncode == 0


def test_load_predictor_opens_a_file(model: Path) -> None:
    assert load_predictor(model, threads=1).spec == SPEC
