"""Whole photos: faces at known places of drawn scenes, the shipped model, a detector that is told."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from facial_keypoints import load_predictor
from facial_keypoints.data.synthetic.scenes import draw_scene
from facial_keypoints.errors import DataError, ImageError
from facial_keypoints.geometry import face_boxes, face_sizes
from facial_keypoints.inference.detector import Detections
from facial_keypoints.inference.predictor import Predictor
from facial_keypoints.io.tables import read_boxes
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.types import Keypoints, Prediction


class Told:
    """A detector that knows the boxes."""

    def __init__(self, boxes: np.ndarray, scores: list[float] | None = None) -> None:
        self.boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        self.scores = np.asarray(scores or [0.9] * len(self.boxes), np.float32)
        self.seen: list[tuple[int, ...]] = []

    def detect(self, image: np.ndarray, effort: str) -> Detections:
        self.seen.append(image.shape)
        return Detections(self.boxes, self.scores)


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, Keypoints, np.ndarray]:
    photo, faces = draw_scene(3, seed=1)
    return photo, faces, face_boxes(faces.xy, KAGGLE15)


def predictor_with(detector: Told) -> Predictor:
    return load_predictor(threads=1, detector=detector)


def errors(found: Prediction, faces: Keypoints) -> np.ndarray:
    """Mean point error of each face as a share of its size."""
    apart = np.linalg.norm(found.keypoints.xy - faces.xy, axis=2).mean(axis=1)
    return apart / face_sizes(faces.xy, KAGGLE15)


def test_the_faces_of_a_photo_are_predicted_in_its_pixels(scene) -> None:
    photo, faces, boxes = scene
    found = predictor_with(Told(boxes)).predict(photo, source="party.jpg")
    assert errors(found, faces).max() < 0.09
    np.testing.assert_allclose(found.boxes, boxes)
    assert found.scores.tolist() == pytest.approx([0.9] * 3)
    assert (found.image_size, found.source) == ((360, 640), "party.jpg")


@pytest.mark.parametrize("scale", [0.7, 1.0, 1.5])
def test_boxes_of_other_conventions_lead_to_the_same_points(scene, scale: float) -> None:
    photo, faces, boxes = scene
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * scale
    found = predictor_with(Told([])).predict_boxes(photo, np.hstack([middle - half, middle + half]))
    assert errors(found, faces).max() < 0.09
    assert np.isnan(found.scores).all()


def test_tta_predicts_eight_more_views_and_finds_the_same_faces(scene) -> None:
    photo, faces, boxes = scene
    plain = predictor_with(Told(boxes))
    averaged = Predictor(plain.runtime, tta=True, detector=Told(boxes)).predict(photo)
    assert errors(averaged, faces).max() < 0.09
    apart = np.abs(averaged.keypoints.xy - plain.predict(photo).keypoints.xy)
    assert 0 < apart.max() < 3


def test_a_face_turned_by_40_degrees_is_refined_upright() -> None:
    photo, faces = draw_scene(1, seed=5, image_size=(400, 400), roll_deg=0)
    turn = cv2.getRotationMatrix2D((200, 200), 40, 0.8)
    turned = cv2.warpAffine(photo, turn, (400, 400))
    there = Keypoints((faces.xy @ turn[:, :2].T + turn[:, 2]).astype(np.float32), KAGGLE15)
    found = predictor_with(Told(face_boxes(there.xy, KAGGLE15))).predict(turned)
    assert errors(found, there).max() < 0.09


def test_grey_and_colour_give_nearly_the_same(scene) -> None:
    photo, _, boxes = scene
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    detector = Told(boxes)
    colour, flat, deep = (
        predictor_with(detector).predict(p).keypoints.xy for p in (photo, grey, grey[..., None])
    )
    assert np.abs(colour - flat).max() < 1.0
    np.testing.assert_array_equal(flat, deep)
    assert detector.seen == [(360, 640, 3), (360, 640, 1), (360, 640, 1)]


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_photo_has_the_same_points(turns: int) -> None:
    """Also those of a face in a box that does not say its angle, if it stands on its head."""
    photo, faces = draw_scene(2, seed=32)
    predictor = load_predictor(threads=1)
    found = predictor.predict(np.ascontiguousarray(np.rot90(photo, -turns)))
    xy = np.asarray(faces.xy)
    for k in range(turns):  # clockwise
        xy = np.stack([photo.shape[k % 2] - 1 - xy[..., 1], xy[..., 0]], axis=-1)
    order = np.argsort(np.linalg.norm(found.keypoints.xy[:, :1] - xy[:1, :1], axis=-1)[:, 0])
    truth = Keypoints(xy, KAGGLE15)
    assert errors(found.subset(order), truth).max() < 0.09
    if turns == 2:
        given = predictor.predict_boxes(np.rot90(photo, 2), face_boxes(xy, KAGGLE15))
        assert errors(given, truth).max() < 0.09


def test_best_first_least_score_and_most_faces(scene) -> None:
    photo, _, boxes = scene
    predictor = predictor_with(Told(boxes, [0.5, 0.9, 0.7]))
    assert predictor.predict(photo).scores.tolist() == pytest.approx([0.9, 0.7, 0.5])
    assert predictor.predict(photo, min_score=0.6).scores.tolist() == pytest.approx([0.9, 0.7])
    assert predictor.predict(photo, max_faces=1).scores.tolist() == pytest.approx([0.9])


def test_no_faces_are_an_empty_prediction(scene) -> None:
    found = predictor_with(Told([])).predict(scene[0])
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)


def test_a_face_that_the_image_cuts_off_is_still_predicted(scene) -> None:
    photo, faces, boxes = scene
    # The image ends in the middle of the third face.
    end = int((boxes[2, 0] + boxes[2, 2]) / 2)
    found = predictor_with(Told(boxes)).predict(np.ascontiguousarray(photo[:, :end]))
    assert errors(found, faces)[:2].max() < 0.09
    assert np.isfinite(found.keypoints.xy).all()
    assert found.keypoints.confidence[2].mean() < found.keypoints.confidence[:2].mean()


def test_tiny_and_huge_faces() -> None:
    photo, faces = draw_scene(1, seed=3, image_size=(240, 240))
    for scale in (0.2, 8.0):
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        size = round(240 * scale)
        other = cv2.resize(photo, (size, size), interpolation=how)
        there = Keypoints((faces.xy + 0.5) * scale - 0.5, KAGGLE15)
        found = predictor_with(Told(face_boxes(there.xy, KAGGLE15))).predict(other)
        assert errors(found, there).max() < 0.1


@pytest.mark.parametrize(
    "image", [np.zeros((5, 5, 4), np.uint8), np.zeros((5, 5)), np.zeros((0, 5), np.uint8)]
)
def test_what_is_no_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="image must"):
        predictor_with(Told([])).predict(image)


def test_a_box_without_area_is_refused(scene) -> None:
    with pytest.raises(ValueError, match="x0 < x1"):
        predictor_with(Told([])).predict_boxes(scene[0], np.array([[10, 10, 10, 10]]))


def test_files_are_predicted_in_order_and_bad_ones_named(scene, tmp_path: Path) -> None:
    photo, _, boxes = scene
    files = []
    for i in range(5):
        files.append(tmp_path / f"{i}.png")
        if i == 2:
            files[i].write_bytes(b"no image")
        else:
            Image.fromarray(photo[: 200 + i]).save(files[i])
    results = list(predictor_with(Told(boxes)).predict_photos(files, readers=2))
    assert isinstance(results[2], ImageError)
    sizes = [a.image_size[0] for a in results if isinstance(a, Prediction)]
    assert sizes == [200, 201, 203, 204]


def write_boxes(path: Path, rows: list[list[object]]) -> Path:
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows([["source", "x0", "y0", "x1", "y1"], *rows])
    return path


def test_boxes_are_read_by_path_from_here_or_beside_the_table(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "in/b.png"):
        (tmp_path / name).touch()
    table = write_boxes(
        tmp_path / "in" / "boxes.csv",
        [["a.png", 0, 1, 2, 3.5], ["b.png", 4, 5, 6, 7], ["a.png", 1, 1, 9, 9]],
    )
    monkeypatch.chdir(tmp_path)
    read = read_boxes(table)
    assert read[str(tmp_path / "a.png")].tolist() == [[0, 1, 2, 3.5], [1, 1, 9, 9]]
    (tmp_path / "link").symlink_to(tmp_path / "in")
    linked = read_boxes(write_boxes(tmp_path / "b.csv", [["link/../link/b.png", 4, 5, 6, 7]]))
    assert list(linked) == [str(tmp_path / "in" / "b.png")]
    assert read[str(tmp_path / "in" / "b.png")].tolist() == [[4, 5, 6, 7]]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("b.csv", "source,x0,y0,x1\na,1,2,3\n", "no column y1"),
        ("b.csv", "source,x0,y0,x1,y1\na,1,2,3,4\na,9,2,3,4\n", "row 2: no box"),
        ("b.csv", "source,x0,y0,x1,y1\na,1,2,3,\n", "row 1: no box"),
        ("b.csv", "", "cannot be read"),
        ("b.json", "{", "cannot be read"),
        ("b.json", "[1]", "cannot be read"),
        ("b.json", "{}", "array of objects"),
        ("b.parquet", "PAR1", "cannot be read"),
        ("b.txt", "", "must be one of"),
    ],
)
def test_a_bad_table_of_boxes_gets_one_sentence(tmp_path, name, content, says) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match=says):
        read_boxes(path)
    with pytest.raises(DataError, match="there is no table"):
        read_boxes(tmp_path / "gone.csv")


def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "facial_keypoints", "predict", *map(str, words)],
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_predicts_photos_in_all_formats_alike(scene, tmp_path: Path) -> None:
    photo, faces, boxes = scene
    Image.fromarray(photo).save(tmp_path / "a.png")
    Image.fromarray(np.full((60, 80), 128, np.uint8)).save(tmp_path / "empty.png")
    write_boxes(tmp_path / "boxes.csv", [["a.png", *map(float, box)] for box in boxes])
    for suffix in ("csv", "json"):
        done = run(".", "--boxes", "boxes.csv", "-o", f"out.{suffix}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "2 of 2 images, 3 faces" in done.stderr
    with (tmp_path / "out.csv").open() as handle:
        by_csv = list(csv.DictReader(handle))
    by_json = json.loads((tmp_path / "out.json").read_text())
    assert [row["face"] for row in by_json] == [0, 1, 2]
    for a, b in zip(by_csv, by_json, strict=True):
        assert float(a["nose_tip_x"]) == b["nose_tip_x"]
        assert b["score"] is None
    nose = faces.xy[:, KAGGLE15.index("nose_tip"), 0]
    assert np.abs([row["nose_tip_x"] for row in by_json] - nose).max() < 6


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--crops", "--max-faces", "2"], 2, "do not go with it"),
        (["--boxes", "b.csv", "--min-score", "0.5"], 2, "do not go with it"),
        (["--boxes", "b.csv"], 1, "there is no table b.csv"),
        (["--boxes", "other.csv"], 1, "001, "),
        (["--boxes", "other.csv"], 1, "A.png."),
        (["--detector", "gone.onnx"], 1, "gone.onnx"),
    ],
)
def test_mistakes_get_one_sentence(tmp_path: Path, words: list[str], code: int, says: str) -> None:
    Image.new("L", (40, 40)).save(tmp_path / "a.png")
    boxes = [[name, 0, 0, 9, 9] for name in ("a.png", "A.png", "001")]
    write_boxes(tmp_path / "other.csv", boxes)
    done = run("a.png", *words, "-o", "out.csv", cwd=tmp_path)
    assert done.returncode == code
    assert says in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.csv").exists()


def test_a_jpeg_without_end_12_bits_and_the_first_page_give_the_faces_of_the_whole_image(
    tmp_path: Path,
) -> None:
    photo, faces = draw_scene(1, seed=1)
    image = Image.fromarray(photo)
    image.save(tmp_path / "whole.jpg", quality=95)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-2])
    cv2.imwrite(str(tmp_path / "deep.png"), photo[..., ::-1].astype(np.uint16) * 16)
    image.save(tmp_path / "pages.tif", save_all=True, append_images=[image, image])
    boxes = [
        [n, *face_boxes(faces.xy, KAGGLE15)[0].tolist()]
        for n in ("whole.jpg", "cut.jpg", "deep.png", "pages.tif")
    ]
    write_boxes(tmp_path / "boxes.csv", boxes)
    # Drawing reads each image again; the line stands there once.
    done = run(".", "--boxes", "boxes.csv", "-o", "out.csv", "--draw", "drawn", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.count("pages.tif: has 3 pages; only the first was read.") == 1
    with (tmp_path / "out.csv").open() as file:
        rows = {row["source"]: float(row["nose_tip_x"]) for row in csv.DictReader(file)}
    assert rows["cut.jpg"] == rows["whole.jpg"]
    assert list(rows.values()) == pytest.approx([rows["whole.jpg"]] * 4, abs=1)


def test_what_has_no_face_in_it_is_left_out_and_a_face_counts_once(scene) -> None:
    photo, faces, boxes = scene
    nothing = np.array([[150, 250, 240, 340]], np.float32)  # a piece of the wall
    shifted = boxes[:1] + 6
    detector = Told(np.vstack([nothing, shifted, boxes]), [0.99, 0.4, 0.9, 0.8, 0.7])
    found = predictor_with(detector).predict(photo)
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert errors(found, faces).max() < 0.09
    # Boxes that the caller gives are predicted, whatever they show.
    assert len(predictor_with(detector).predict_boxes(photo, nothing)) == 1
