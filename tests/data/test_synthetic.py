from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from facial_keypoints.data.kaggle import load_kaggle, load_lookup, requested_styles
from facial_keypoints.data.synthetic.faces import draw_faces, draw_kaggle_like, write_kaggle_folder
from facial_keypoints.data.synthetic.geometry import NARROW, WIDE, sample_faces
from facial_keypoints.errors import OutputError
from facial_keypoints.files import MARKER
from facial_keypoints.geometry import flip_images, flip_xy, inside_image
from facial_keypoints.schemas import KAGGLE15, STYLE_B_POINTS
from facial_keypoints.types import FaceDataset

AT = {name: i for i, name in enumerate(KAGGLE15.keypoint_names)}
OTHER_ELEVEN = [k for k, name in enumerate(KAGGLE15.keypoint_names) if name not in STYLE_B_POINTS]


@pytest.fixture(scope="module")
def faces() -> FaceDataset:
    return draw_faces(160, seed=5)


@pytest.fixture(scope="module")
def kaggle_like() -> FaceDataset:
    return draw_kaggle_like(240, seed=1)


def brightness(images: NDArray[np.uint8], xy: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N,) mean of the 3 x 3 pixels around a point of each image."""
    x, y = np.clip(np.rint(xy).astype(int), 1, images.shape[1] - 2).T
    n = np.arange(len(images))
    around = [images[n, y + j, x + i, 0] for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return np.mean(around, axis=0, dtype=np.float64)


def dark_pupils(images: NDArray[np.uint8], xy: NDArray[np.floating], aside: float = 0.0) -> float:
    """Share of left eyes that are darker at the centre than halfway to both corners."""
    move = np.array([aside, 0.0])
    centre = xy[:, AT["left_eye_center"]] + move
    inner = 0.35 * centre + 0.65 * (xy[:, AT["left_eye_inner_corner"]] + move)
    outer = 0.35 * centre + 0.65 * (xy[:, AT["left_eye_outer_corner"]] + move)
    whites = 0.5 * (brightness(images, inner) + brightness(images, outer))
    return float(np.mean(brightness(images, centre) < whites))


def test_draws_grey_images_with_all_15_points(faces: FaceDataset) -> None:
    assert faces.images.shape == (160, 96, 96, 1)
    assert faces.images.dtype == np.uint8
    assert faces.schema is KAGGLE15
    assert faces.label_counts.tolist() == [160] * 15
    assert set(faces.styles) == {"kaggle-a"}
    assert faces.sample_ids[:2].tolist() == ["1", "2"]
    assert (faces.images.std(axis=(1, 2, 3)) > 8).all()  # no blank image


def test_the_same_seed_draws_the_same_faces_and_another_seed_others() -> None:
    once, again, other = draw_faces(12, seed=3), draw_faces(12, seed=3), draw_faces(12, seed=4)
    np.testing.assert_array_equal(once.images, again.images)
    np.testing.assert_array_equal(once.keypoints.xy, again.keypoints.xy)
    assert not np.array_equal(once.images, other.images)


@pytest.mark.parametrize("count", [1, 7, 13])
def test_a_face_does_not_depend_on_how_many_are_drawn(faces: FaceDataset, count: int) -> None:
    few = draw_faces(count, seed=5)
    np.testing.assert_array_equal(few.images, faces.images[:count])
    np.testing.assert_array_equal(few.keypoints.xy, faces.keypoints.xy[:count])
    np.testing.assert_array_equal(few.groups, faces.groups[:count])


def test_no_faces_is_an_empty_set() -> None:
    assert draw_faces(0).images.shape == (0, 96, 96, 1)
    assert len(draw_kaggle_like(0)) == 0


@pytest.mark.parametrize(
    "wrong", [{"count": -1}, {"count": 1, "seed": -1}, {"count": 1, "image_size": 8}]
)
def test_wrong_numbers_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"received (-1|8)"):
        draw_faces(**wrong)


def test_images_of_a_person_share_a_group_and_are_not_neighbours(faces: FaceDataset) -> None:
    people, counts = np.unique(faces.groups, return_counts=True)
    assert len(people) == 48
    assert counts.max() == 4
    assert (faces.groups[1:] != faces.groups[:-1]).all()


def test_points_are_on_the_image_and_in_the_order_of_a_face(faces: FaceDataset) -> None:
    xy = faces.keypoints.xy
    assert inside_image(xy, faces.image_size).mean() > 0.995
    along = xy[:, AT["left_eye_center"]] - xy[:, AT["right_eye_center"]]
    assert (along[:, 0] > 20).all()  # the person's left is on the image's right
    down = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.hypot(*along.T)[:, None]

    def height(name: str) -> NDArray[np.floating]:
        return np.einsum("nd,nd->n", xy[:, AT[name]], down)

    order = ["left_eyebrow_inner_end", "left_eye_inner_corner", "nose_tip"]
    order += ["mouth_center_top_lip", "mouth_center_bottom_lip"]
    for upper, lower in pairwise(order):
        assert (height(upper) < height(lower)).all(), (upper, lower)
    for side, sign in (("left", 1), ("right", -1)):
        inner, outer = AT[f"{side}_eye_inner_corner"], AT[f"{side}_eye_outer_corner"]
        assert (sign * (xy[:, outer, 0] - xy[:, inner, 0]) > 4).all()
    assert (xy[:, AT["mouth_left_corner"], 0] > xy[:, AT["mouth_right_corner"], 0]).all()


def test_points_lie_on_the_pixels_that_they_name(faces: FaceDataset) -> None:
    images, xy = faces.images, faces.keypoints.xy
    assert dark_pupils(images, xy) > 0.9
    assert dark_pupils(images, xy, aside=4.0) < 0.5  # the check sees a shift
    for name, beside in (
        ("mouth_left_corner", (4.0, 3.0)),
        ("mouth_right_corner", (-4.0, 3.0)),
        ("left_eye_center", (0.0, 8.0)),
        ("right_eye_center", (0.0, 8.0)),
    ):
        point = xy[:, AT[name]]
        darker = brightness(images, point) < brightness(images, point + np.array(beside))
        assert darker.mean() > 0.8, name


def test_mirrored_faces_are_faces_with_mirrored_points(faces: FaceDataset) -> None:
    mirrored = flip_xy(faces.keypoints.xy, 96, KAGGLE15)
    assert dark_pupils(flip_images(faces.images), mirrored) > 0.9


def test_a_larger_image_shows_the_same_face_at_twice_the_size() -> None:
    small, large = draw_faces(6, seed=2), draw_faces(6, seed=2, image_size=192)
    np.testing.assert_allclose(large.keypoints.xy, 2 * small.keypoints.xy + 0.5, atol=1e-3)
    halved = large.images.reshape(6, 96, 2, 96, 2).mean(axis=(2, 4))
    for one, other in zip(small.images[..., 0], halved, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("spread", [NARROW, WIDE])
def test_pose_maps_are_each_others_inverse(spread) -> None:  # type: ignore[no-untyped-def]
    rows = np.arange(200)
    drawn = sample_faces(rows, rows, seed=0, spread=spread)
    assert np.abs(np.rad2deg(drawn["yaw"])).max() <= 35.01
    for u, v in ((0.0, 0.0), (18.0, 0.0), (-24.0, 1.0), (14.0, 39.0), (0.0, 55.0)):
        point = np.full_like(drawn["yaw"], u), np.full_like(drawn["yaw"], v)
        back = drawn.plane_to_face(*drawn.face_to_plane(*point))
        np.testing.assert_allclose(back[0], point[0], atol=2e-3)
        np.testing.assert_allclose(back[1], point[1], atol=2e-3)
    tip = drawn.face_to_nose(*drawn.nose_to_face(drawn["nose_v"]))
    np.testing.assert_allclose(tip[0], 0.0, atol=1e-3)
    np.testing.assert_allclose(tip[1], drawn["nose_v"], atol=1e-3)


def test_style_b_names_the_nose_base_and_the_mouth_centre() -> None:
    rows = np.arange(300)
    drawn = sample_faces(rows, rows, seed=0, spread=WIDE)
    full, four = drawn.keypoints_xy(96), drawn.four_point_xy(96)
    assert np.isnan(four[:, OTHER_ELEVEN]).all()
    for name in ("left_eye_center", "right_eye_center"):
        np.testing.assert_array_equal(four[:, AT[name]], full[:, AT[name]])
    nose = (four - full)[:, AT["nose_tip"], 1]
    mouth = (full - four)[:, AT["mouth_center_bottom_lip"], 1]
    assert 5.0 < nose.mean() < 7.0
    assert nose.min() > 2.0  # foreshortened when the face looks down
    assert 2.5 < mouth.mean() < 4.0
    assert 1.5 < mouth.min() < mouth.max() < 5.0


def test_kaggle_like_rows_come_as_in_the_real_file(kaggle_like: FaceDataset) -> None:
    assert kaggle_like.styles.tolist() == ["kaggle-a"] * 80 + ["kaggle-b"] * 160
    labeled = kaggle_like.keypoints.labeled
    assert not labeled[80:][:, OTHER_ELEVEN].any()
    missing = 15 - labeled[:80].sum(axis=1)
    assert set(missing) <= {0, 1, 2}
    assert (missing == 0).mean() > 0.85
    # Means of the real full rows: eyes (66.4, 37.0) and (29.8, 37.0), nose tip (48.3, 55.2).
    mean = np.nanmean(kaggle_like.keypoints.xy[:80], axis=0)
    np.testing.assert_allclose(mean[0], (66.4, 37.0), atol=1.5)
    np.testing.assert_allclose(mean[1], (29.8, 37.0), atol=1.5)
    np.testing.assert_allclose(mean[10], (48.3, 55.2), atol=2.5)


def test_full_rows_miss_one_or_two_points_now_and_then() -> None:
    from facial_keypoints.data.synthetic.faces import _missing_points

    counts = [len(_missing_points(np.random.default_rng([9, i]), "kaggle-a")) for i in range(2000)]
    assert 0.02 < np.mean(np.array(counts) > 0) < 0.06
    assert set(counts) == {0, 1, 2}


def test_full_rows_show_few_people_and_four_point_rows_many(kaggle_like: FaceDataset) -> None:
    assert len(set(kaggle_like.groups[:80])) == 18
    assert len(set(kaggle_like.groups[80:])) > 140
    assert not set(kaggle_like.groups[:80]) & set(kaggle_like.groups[80:])


def test_some_four_point_images_come_twice_with_other_labels(kaggle_like: FaceDataset) -> None:
    seen: dict[bytes, int] = {}
    pairs = []
    for row in range(len(kaggle_like)):
        key = kaggle_like.images[row].tobytes()
        if key in seen:
            pairs.append((seen[key], row))
        seen[key] = row
    assert len(pairs) == 5
    for first, second in pairs:
        assert kaggle_like.styles[second] == "kaggle-b"
        assert kaggle_like.groups[first] == kaggle_like.groups[second]
        one, other = kaggle_like.keypoints.xy[first, :2], kaggle_like.keypoints.xy[second, :2]
        assert np.abs(one - other).max() > 0.05


def test_label_noise_has_the_stated_size_and_can_be_left_out(kaggle_like: FaceDataset) -> None:
    exact = draw_kaggle_like(240, seed=1, label_noise=False)
    np.testing.assert_array_equal(exact.images, kaggle_like.images)
    error = kaggle_like.keypoints.xy - exact.keypoints.xy
    assert np.nanstd(error[:80]) == pytest.approx(0.4, rel=0.1)
    assert np.nanstd(error[80:]) == pytest.approx(1.0, rel=0.1)


def test_test_rows_are_complete_and_show_other_people(kaggle_like: FaceDataset) -> None:
    test = draw_kaggle_like(50, seed=1, test=True)
    assert test.styles.tolist() == ["kaggle-a"] * 10 + ["kaggle-b"] * 40
    assert test.keypoints.labeled[:10].all()
    assert (test.keypoints.labeled[10:].sum(axis=1) == 4).all()
    assert not set(test.groups) & set(kaggle_like.groups)


def test_a_written_folder_reads_like_kaggles(tmp_path: Path) -> None:
    folder = tmp_path / "drawn"
    write_kaggle_folder(folder, train=14, test=10, seed=2)
    names = {"training.csv", "test.csv", "IdLookupTable.csv", "SampleSubmission.csv"}
    assert {p.name for p in folder.iterdir()} == names | {"test_labels.csv", MARKER}
    assert [p.name for p in tmp_path.iterdir()] == ["drawn"]  # no temporary folder is left

    def read(name: str) -> list[dict[str, str]]:
        with (folder / name).open(newline="") as file:
            return list(csv.DictReader(file))

    expected = draw_kaggle_like(14, seed=2)
    training = read("training.csv")
    assert len(training) == 14
    assert list(training[0])[:2] == ["left_eye_center_x", "left_eye_center_y"]
    assert list(training[0])[-1] == "Image"
    pixels = np.array([row["Image"].split(" ") for row in training], np.uint8)
    np.testing.assert_array_equal(pixels.reshape(14, 96, 96, 1), expected.images)
    nose = [float(row["nose_tip_y"]) for row in training]
    np.testing.assert_allclose(nose, expected.keypoints.xy[:, 10, 1], rtol=1e-6)
    assert training[-1]["mouth_left_corner_x"] == ""

    tests, lookup, sample = (
        read("test.csv"),
        read("IdLookupTable.csv"),
        read("SampleSubmission.csv"),
    )
    assert [row["ImageId"] for row in tests] == [str(i) for i in range(1, 11)]
    assert len(lookup) == len(sample) == 2 * 30 + 8 * 8
    assert lookup[0] == {
        "RowId": "1",
        "ImageId": "1",
        "FeatureName": "left_eye_center_x",
        "Location": "",
    }
    assert [row["FeatureName"] for row in lookup[-2:]] == [
        "mouth_center_bottom_lip_x",
        "mouth_center_bottom_lip_y",
    ]
    assert sample[-1] == {"RowId": "124", "Location": "0"}
    truth = read("test_labels.csv")
    assert set(truth[0]) == {"ImageId", *list(training[0])[:-1]}
    for row in lookup:  # every asked value is known
        assert 0 < float(truth[int(row["ImageId"]) - 1][row["FeatureName"]]) < 96

    loaded = load_kaggle(folder, part="train")
    np.testing.assert_array_equal(loaded.images, expected.images)
    np.testing.assert_array_equal(loaded.styles, expected.styles)
    ids = np.array([row["ImageId"] for row in tests])
    styles = requested_styles(load_lookup(folder), ids)
    assert styles.tolist() == ["kaggle-a"] * 2 + ["kaggle-b"] * 8


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("facial_keypoints.data.synthetic.faces.write_table", full_disk)
    with pytest.raises(OutputError, match="no space left"):
        write_kaggle_folder(tmp_path / "drawn", train=3, test=1)
    assert list(tmp_path.iterdir()) == []
