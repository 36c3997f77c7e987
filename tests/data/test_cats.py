"""Drawn cats: their points lie on what is drawn, and their files are read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from command_line import command_line
from facial_keypoints.data.formats import load_photos, read_labels
from facial_keypoints.data.synthetic.cats import CAT9, CAT48, draw_cats
from facial_keypoints.errors import DataError
from facial_keypoints.io.images import write_image
from facial_keypoints.schemas import propose_schema


def cats_of(schema=CAT9, photos=6):
    return [draw_cats(seed=seed, image_size=(240, 320), schema=schema) for seed in range(photos)]


def test_the_same_seed_draws_the_same_photo():
    (a, *_), (b, *_), (c, *_) = (draw_cats(seed=s, image_size=(120, 160)) for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("schema", [CAT9, CAT48])
def test_points_lie_in_the_boxes_and_left_is_right_in_the_image(schema):
    drawn = cats_of(schema)
    assert sum(len(boxes) for _, _, boxes in drawn) >= 4
    left = [k for k, name in enumerate(schema.keypoint_names) if name.startswith("left")]
    for photo, cats, boxes in drawn:
        assert photo.shape == (240, 320, 3)
        inside = (cats.xy + 0.5 > boxes[:, None, :2] - 0.01) & (cats.xy + 0.5 < boxes[:, None, 2:] + 0.01)  # fmt: skip
        assert inside.all()
        for cat in cats.xy:
            across = cat[left].mean(axis=0) - cat[list(np.array(schema.swap)[left])].mean(axis=0)
            assert across[0] > abs(across[1])


def test_eyes_are_where_the_points_say():
    """An eye has a pupil, an iris and a glint: at its point the image varies more than on the fur beside it."""
    at_eyes, beside = [], []
    for photo, cats, boxes in cats_of(photos=12):
        for cat, box in zip(cats.xy, boxes, strict=True):
            if box[2] - box[0] > 50:
                for eye, base in ((0, 2), (3, 5)):
                    for places, at in ((at_eyes, cat[eye]), (beside, (cat[eye] + cat[base]) / 2)):
                        x, y = at.round().astype(int)
                        places.append(photo[y - 3 : y + 4, x - 3 : x + 4].std())
    assert len(at_eyes) > 10
    assert np.median(at_eyes) > 2 * np.median(beside)


def test_the_names_alone_give_the_same_schema():
    assert propose_schema("cat9", CAT9.keypoint_names, np.zeros((1, 9, 2))).swap == CAT9.swap


def test_cvat_files_hold_the_cats(tmp_path: Path):
    for to in ("cvat", "csv"):
        out = tmp_path / to
        done = command_line("data", "cats", "--photos", "4", "--seed", "3", "--to", to, "-o", out)
        assert done.returncode == 0, done.stderr
    one, two = (read_labels(tmp_path / to) for to in ("cvat", "csv"))
    assert len(one.faces) == len(two.faces) > 0
    for a, b in zip(one.faces, two.faces, strict=True):
        for name in CAT9.keypoint_names:
            np.testing.assert_allclose(a.points[name][:2], b.points[name][:2], atol=0.01)
    photos = load_photos(tmp_path / "cvat")
    assert sum(len(photo.boxes) for photo in photos) == len(one.faces)
    sides = photos[0].boxes[:, 2:] - photos[0].boxes[:, :2]
    np.testing.assert_allclose(sides[:, 0], sides[:, 1], atol=0.01)


def test_other_numbers_of_points_are_refused(tmp_path: Path):
    done = command_line("data", "cats", "--points", "7", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "9 or 48" in done.stderr


def test_large_photos_are_shrunk_with_their_boxes_but_small_faces_stay(tmp_path: Path):
    for name, width in (("large", 800), ("small", 60)):
        image = np.zeros((1000, 2000, 3), np.uint8)
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "a.png", image)
        (tmp_path / name / "faces.csv").write_text(
            "image,x0,y0,x1,y1,nose_x,nose_y,ear_x,ear_y\n"
            f"a.png,100,100,{100 + width},{100 + width},120,120,140,150\n"
        )
    large, small = (load_photos(tmp_path / name)[0] for name in ("large", "small"))
    assert large.image.shape == (320, 640)
    np.testing.assert_allclose(large.boxes, [[32, 32, 288, 288]])
    assert small.image.shape == (400, 800)
    np.testing.assert_allclose(small.boxes, [[40, 40, 64, 64]])


def test_images_of_one_face_are_no_photos(tmp_path: Path):
    write_image(tmp_path / "a.png", np.zeros((40, 40, 3), np.uint8))
    (tmp_path / "faces.csv").write_text("image,nose_x,nose_y,ear_x,ear_y\na.png,1,2,20,30\n")
    with pytest.raises(DataError, match="leave --with-detector out"):
        load_photos(tmp_path)
