import csv
import gzip
import zipfile

import cv2
import numpy as np
import pytest

from facial_keypoints.data.duplicates import image_digests
from facial_keypoints.data.formats import load_dataset
from facial_keypoints.data.synthetic.faces import draw_kaggle_like
from facial_keypoints.errors import DataError
from facial_keypoints.schemas import KAGGLE15
from references.collection import (
    CANVAS,
    fold_numbers,
    learnt_digests,
    load_collection,
    set_names,
    style_numbers,
)

COLUMNS = [f"{name}_{axis}" for name in KAGGLE15.keypoint_names for axis in "xy"]


def jpeg(image):
    return cv2.imencode(".png", image)[1].tobytes()


@pytest.fixture
def data(tmp_path):
    """A folder with a little of everything, drawn."""
    faces = draw_kaggle_like(12, seed=3)
    kaggle = tmp_path / "facial-keypoints-detection"
    kaggle.mkdir()
    with (kaggle / "training.csv").open("w", newline="") as handle:
        out = csv.writer(handle)
        out.writerow([*COLUMNS, "Image"])
        for image, xy in zip(faces.images[:8], faces.keypoints.xy[:8], strict=True):
            numbers = ["" if np.isnan(v) else f"{v:.3f}" for v in xy.ravel()]
            out.writerow([*numbers, " ".join(map(str, image.ravel()))])
    wild = tmp_path / "wild"
    wild.mkdir()
    rng = np.random.default_rng(0)
    with gzip.open(wild / "labels.csv.gz", "wt", newline="") as handle:
        out = csv.writer(handle)
        out.writerow(["set", "file", "group", *COLUMNS])
        for name, files in (("mtfl", ["lfw_5590_Ann_0001.jpg", "x.jpg"]), ("ytf", ["Ann_1.jpg"])):
            with zipfile.ZipFile(wild / f"{name}.zip", "w") as archive:
                for file in files:
                    crop = rng.integers(0, 255, (CANVAS, CANVAS), dtype=np.uint8)
                    archive.writestr(file, jpeg(crop))
                    points = np.full((15, 2), np.nan)
                    points[[0, 1, 10, 11, 12] if name == "mtfl" else slice(None)] = 80.0
                    numbers = ["" if np.isnan(v) else v for v in points.ravel()]
                    out.writerow([name, file, "Ann" if name == "ytf" else file, *numbers])
    photos = tmp_path / "photos"
    photos.mkdir()
    photo = np.asarray(cv2.resize(faces.images[9], (192, 192)), np.uint8)
    with zipfile.ZipFile(photos / "train.zip", "w") as archive:
        archive.writestr("one.jpg", jpeg(photo))
    names = ("right_eye_center", "left_eye_center", "nose", "mouth_center")
    with (photos / "train_faces.csv").open("w", newline="") as handle:
        out = csv.writer(handle)
        out.writerow(["file", *(f"{n}_{a}" for n in names for a in "xy")])
        out.writerow(["one.jpg", 60, 80, 132, 80, 96, 120, 96, 160])
        out.writerow(["one.jpg", 10, 10, 14, 10, 12, 12, 12, 14])  # a face of 4 pixels
    return tmp_path


def test_every_set_is_read_with_its_style(data):
    faces = load_collection(data, threads=1)
    sets = set_names(faces)
    counts = {str(s): int((sets == s).sum()) for s in np.unique(sets)}
    assert counts["mtfl"] == 2
    assert counts["ytf"] == 1
    assert counts["photos"] == 1  # the tiny face is left out
    assert counts.get("kaggle-a", 0) + counts.get("kaggle-b", 0) == 8
    style = {s: faces.styles[sets == s][0] for s in counts}
    assert style["ytf"] == "ibug"
    assert style["mtfl"] == "five"
    assert style["photos"] == "kaggle-b"
    assert [KAGGLE15.styles[i] for i in style_numbers(faces)] == faces.styles.tolist()
    assert faces.images.shape == (len(faces), CANVAS, CANVAS, 1)


def test_kaggle_rows_sit_in_the_middle_of_the_canvas(data):
    drawn = draw_kaggle_like(12, seed=3)
    faces = load_collection(data, threads=1)
    row = int(np.flatnonzero(faces.sample_ids == "row 1")[0])
    np.testing.assert_array_equal(faces.images[row, 32:128, 32:128], drawn.images[0])
    np.testing.assert_allclose(faces.keypoints.xy[row], drawn.keypoints.xy[0] + 32, atol=1e-3)


def test_photo_faces_are_cut_to_kaggles_scale_with_their_points(data):
    faces = load_collection(data, threads=1)
    xy = faces.keypoints.xy[set_names(faces) == "photos"][0]
    middle = (xy[0] + xy[1]) / 2
    assert middle[0] == pytest.approx(80, abs=0.5)
    assert middle[1] == pytest.approx(70, abs=0.5)
    assert 30 < xy[0, 0] - xy[1, 0] < 37  # the left eye is on the image's right
    assert np.isnan(xy[2:10]).all()


def test_a_person_known_by_name_is_one_group_over_sets(data):
    faces = load_collection(data, threads=1)
    ann = faces.groups[np.isin(faces.sample_ids, ["mtfl/lfw_5590_Ann_0001.jpg", "ytf/Ann_1.jpg"])]
    assert len(set(ann)) == 1
    folds = fold_numbers(faces)
    for group in np.unique(faces.groups):
        assert len(np.unique(folds[faces.groups == group])) == 1


def test_an_empty_folder_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(DataError, match="no labelled faces"):
        load_collection(tmp_path)


def test_a_damaged_crop_is_named(data):
    with zipfile.ZipFile(data / "wild" / "ytf.zip", "w") as archive:
        archive.writestr("Ann_1.jpg", b"nothing")
    with pytest.raises(DataError, match=r"Ann_1\.jpg"):
        load_collection(data, threads=1)


def test_kaggles_rows_and_wild_crops_are_recognised_in_a_users_files(data, tmp_path):
    known = learnt_digests(data, (96, 96), threads=1)
    assert len(known) == 8 + 3
    rows = load_dataset(data / "facial-keypoints-detection", size=(96, 96), channels=1)
    assert known.issuperset(image_digests(rows.images))
    mine = tmp_path / "mine"
    with zipfile.ZipFile(data / "wild" / "mtfl.zip") as archive:
        archive.extract("x.jpg", mine)
    (mine / "faces.csv").write_text("image,left_eye_center_x,left_eye_center_y\nx.jpg,90,70\n")
    [crop] = load_dataset(mine, size=(96, 96), channels=1).images
    assert known.issuperset(image_digests([crop]))
    assert known.isdisjoint(image_digests([255 - crop]))


@pytest.mark.parametrize("numbers", [["80", ""], ["inf", "80"]])
def test_half_a_point_is_named(data, numbers):
    labels = data / "wild" / "labels.csv.gz"
    with gzip.open(labels, "at", newline="") as handle:
        csv.writer(handle).writerow(["ytf", "Ann_1.jpg", "Ann", *numbers, *[""] * 28])
    with pytest.raises(DataError, match=r"row 5: a point"):
        load_collection(data, threads=1)
