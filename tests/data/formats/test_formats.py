"""Formats that keep images as files: what is saved is loaded, and bad files are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facial_keypoints import load_predictor, read_image
from facial_keypoints.data import load_dataset, save_dataset
from facial_keypoints.data.synthetic.scenes import draw_scene
from facial_keypoints.errors import DataError
from facial_keypoints.schemas import FIVE, KAGGLE15
from facial_keypoints.types import FaceDataset, Keypoints, KeypointSchema


def faces(schema: KeypointSchema = KAGGLE15, channels: int = 1) -> FaceDataset:
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 20, (4, schema.num_keypoints, 2)).astype(np.float32)
    xy[1, 2] = np.nan
    return FaceDataset(
        images=rng.integers(0, 256, (4, 20, 26, channels), np.uint8),
        keypoints=Keypoints(xy, schema),
        sample_ids=np.arange(4).astype(str),
    )


@pytest.mark.parametrize("format", ["coco", "csv"])
@pytest.mark.parametrize(("schema", "channels"), [(KAGGLE15, 1), (FIVE, 3)])
def test_saved_faces_are_loaded_again(
    tmp_path: Path, format: str, schema: KeypointSchema, channels: int
) -> None:
    given = faces(schema, channels)
    save_dataset(given, tmp_path, format)
    loaded = load_dataset(tmp_path)
    np.testing.assert_array_equal(loaded.images, given.images)
    np.testing.assert_allclose(loaded.keypoints.xy, given.keypoints.xy, rtol=1e-6)
    assert loaded.schema == schema
    assert loaded.sample_ids[0] == "images/000001.png"


def test_a_size_resizes_images_and_points_together(tmp_path: Path) -> None:
    given = faces()
    save_dataset(given, tmp_path, "csv")
    loaded = load_dataset(tmp_path, size=(40, 52))
    assert loaded.image_size == (40, 52)
    np.testing.assert_allclose(loaded.keypoints.xy, given.keypoints.xy * 2 + 0.5, rtol=1e-5)


def test_images_of_differing_sizes_are_brought_to_one_and_that_is_said(tmp_path: Path) -> None:
    save_dataset(faces(), tmp_path, "csv")
    small = faces().subset([0])
    other = FaceDataset(small.images[:, :10], small.keypoints, small.sample_ids)
    save_dataset(other, tmp_path / "other", "csv")
    (tmp_path / "other/images/000001.png").replace(tmp_path / "images/000003.png")
    said: list[str] = []
    assert load_dataset(tmp_path, say=said.append).images.shape == (4, 96, 96, 1)
    assert any("differing sizes (26 × 10 and 26 × 20)" in line for line in said)
    assert load_dataset(tmp_path, size=(12, 12)).images.shape == (4, 12, 12, 1)


def test_groups_come_from_a_column(tmp_path: Path) -> None:
    save_dataset(faces(), tmp_path, "csv")
    table = tmp_path / "faces.csv"
    lines = table.read_text().splitlines()
    people = ["person", "ann", "bob", "ann", "cy"]
    table.write_text("\n".join(f"{a},{b}" for a, b in zip(lines, people, strict=True)))
    assert load_dataset(table, group_by="person").groups.tolist() == people[1:]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_labels_saved_again_by_excel_are_the_same(encoding: str, tmp_path: Path) -> None:
    save_dataset(faces(), tmp_path, "csv")
    expected = load_dataset(tmp_path)
    table = tmp_path / "faces.csv"
    text = table.read_text().replace(",", ";").replace(".", ",").replace(",png", ".png")
    table.write_text(text, encoding=encoding)
    read = load_dataset(tmp_path)
    np.testing.assert_array_equal(read.keypoints.xy, expected.keypoints.xy)
    assert read.sample_ids.tolist() == expected.sample_ids.tolist()


def test_groups_are_refused_where_there_are_no_columns(tmp_path: Path) -> None:
    save_dataset(faces(), tmp_path, "coco")
    with pytest.raises(DataError, match="no column or attribute 'person'"):
        load_dataset(tmp_path, group_by="person")


def test_bad_tables_and_images_are_named(tmp_path: Path) -> None:
    save_dataset(faces(), tmp_path, "csv")
    table = tmp_path / "faces.csv"
    good = table.read_text()
    for bad, words in (
        (good.replace("nose_tip_x", "nose_tip_z"), "has no column 'nose_tip_x'"),
        (good.splitlines()[0], "holds no face"),
        (good.replace(".png,", ".png,x", 1), "row 1: column 'left_eye_center_x' holds 'x"),
    ):
        table.write_text(bad)
        with pytest.raises(DataError, match=words):
            load_dataset(tmp_path)
    table.write_text(good)


def test_faces_whose_image_cannot_be_read_cost_themselves_only(tmp_path: Path) -> None:
    save_dataset(faces(), tmp_path, "csv")
    (tmp_path / "images/000001.png").write_bytes(b"no image")
    (tmp_path / "images/000003.png").unlink()
    said: list[str] = []
    loaded = load_dataset(tmp_path, say=said.append)
    assert loaded.sample_ids.tolist() == ["images/000002.png", "images/000004.png"]
    assert "left out: 2 faces whose image is not found or cannot be read" in said
    assert any("images/000001.png: not an image" in line for line in said)
    for file in (tmp_path / "images").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"no face that can be read: images/000001.png.*--images"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("drop", ["images", "annotations", "categories"])
def test_an_incomplete_coco_file_is_named(tmp_path: Path, drop: str) -> None:
    save_dataset(faces(), tmp_path, "coco")
    path = tmp_path / "annotations.json"
    content = json.loads(path.read_text())
    del content[drop]
    path.write_text(json.dumps(content))
    with pytest.raises(
        DataError, match=r"annotations\.json.* (no COCO keypoints file|can be read)"
    ):
        load_dataset(path)


def test_only_faces_that_fit_are_written_as_kaggle(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="square grey images"):
        save_dataset(faces(), tmp_path, "kaggle")
    with pytest.raises(ValueError, match="format must be"):
        save_dataset(faces(), tmp_path, "xlsx")


def keep_columns(table: Path, *names: str) -> None:
    """Rewrite a csv with the image and the named keypoints only."""
    rows = [line.split(",") for line in table.read_text().splitlines()]
    kept = [i for i, c in enumerate(rows[0]) if c == "image" or c.rsplit("_", 1)[0] in names]
    table.write_text("\n".join(",".join(row[i] for i in kept) for row in rows))


def test_points_that_a_table_does_not_name_are_not_labelled(tmp_path: Path) -> None:
    given = faces()
    save_dataset(given, tmp_path, "csv")
    keep_columns(tmp_path / "faces.csv", "nose_tip", "left_eye_inner_corner")
    loaded = load_dataset(tmp_path)
    assert loaded.schema == KAGGLE15
    assert loaded.keypoints.labeled.sum(axis=0).tolist() == [0, 0, 3] + [0] * 7 + [4] + [0] * 4
    np.testing.assert_allclose(loaded.keypoints.xy[:, 10], given.keypoints.xy[:, 10], rtol=1e-6)


@pytest.mark.parametrize("format", ["coco", "csv"])
def test_a_schema_names_and_orders_the_points(tmp_path: Path, format: str) -> None:
    given = faces(FIVE)
    save_dataset(given, tmp_path, format)
    names = (*FIVE.keypoint_names[::-1], "chin")
    wanted = KeypointSchema("mine", names, (1, 0, 2, 4, 3, 5), names[:2])
    loaded = load_dataset(tmp_path, schema=wanted)
    assert loaded.schema is wanted
    np.testing.assert_allclose(
        loaded.keypoints.xy[:, :5], given.keypoints.xy[:, ::-1], rtol=1e-6, equal_nan=True
    )
    assert not loaded.keypoints.labeled[:, 5].any()
    fewer = KeypointSchema("fewer", names[:4], (1, 0, 2, 3), names[:2])
    said: list[str] = []
    loaded = load_dataset(tmp_path, schema=fewer, say=said.append)
    np.testing.assert_allclose(
        loaded.keypoints.xy, given.keypoints.xy[:, :0:-1], rtol=1e-6, equal_nan=True
    )
    assert any("the schema 'fewer' does not list: left_eye_center" in line for line in said)
    other = KeypointSchema("other", ("tail", "ear"), (0, 1), ("tail", "ear"))
    with pytest.raises(DataError, match="labels none of the keypoints of the schema 'other'"):
        load_dataset(tmp_path, schema=other)


def test_resizing_keeps_the_shape_of_a_face_as_prediction_does(tmp_path: Path) -> None:
    given = faces()  # 20 high, 26 wide
    save_dataset(given, tmp_path, "csv")
    loaded = load_dataset(tmp_path, size=(52, 52), channels=3)
    assert loaded.images.shape == (4, 52, 52, 3)
    expected = given.keypoints.xy * 2 + 0.5 + np.array([0, 6], np.float32)
    np.testing.assert_allclose(loaded.keypoints.xy, expected, rtol=1e-5)


def photo_with(count: int, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """A drawn photo saved as photo.png, and its faces' points (N, 15, 2)."""
    photo, faces = draw_scene(count, seed=2, roll_deg=0)
    Image.fromarray(photo).save(folder / "photo.png")
    return photo, faces.xy


def coco_file(folder: Path, xy: np.ndarray, *, bbox: bool = True) -> Path:
    annotations = []
    for i, face in enumerate(xy, start=1):
        triples = np.hstack([np.nan_to_num(face), np.where(np.isnan(face[:, :1]), 0, 2)])
        low, high = np.nanmin(face, axis=0), np.nanmax(face, axis=0)
        box = {"bbox": [*low.tolist(), *(high - low).tolist()]} if bbox else {}
        row = {"id": i, "image_id": 1, "category_id": 1, "keypoints": triples.ravel().tolist()}
        annotations.append(row | box)
    content = {
        "images": [{"id": 1, "file_name": "photo.png", "width": 640, "height": 360}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "face", "keypoints": list(KAGGLE15.keypoint_names)}],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path


def test_the_faces_of_an_annotated_photo_are_cut_out_and_stay_together(tmp_path: Path) -> None:
    _, xy = photo_with(3, tmp_path)
    loaded = load_dataset(coco_file(tmp_path, xy), channels=1)
    assert loaded.images.shape == (3, 96, 96, 1)
    assert loaded.sample_ids.tolist() == ["photo.png#0", "photo.png#1", "photo.png#2"]
    assert set(loaded.groups) == {"photo.png"}
    eyes = [KAGGLE15.index(f"{side}_eye_center") for side in ("left", "right")]
    # Framed as Kaggle's crops are: the eyes' middle at half the width and 37 px from the top.
    np.testing.assert_allclose(
        loaded.keypoints.xy[:, eyes].mean(axis=1), 3 * [[47.5, 36.5]], atol=0.01
    )
    # The shipped model, which knows such crops, finds the points where the labels say.
    found = load_predictor(threads=1).predict_batch(loaded.images)
    apart = np.linalg.norm(found.xy - loaded.keypoints.xy, axis=2).mean(axis=1)
    assert apart.max() < 4.0


def test_a_face_without_eyes_is_cut_by_its_box_or_by_its_points(tmp_path: Path) -> None:
    _, xy = photo_with(2, tmp_path)
    xy[:, KAGGLE15.index("left_eye_center")] = np.nan
    low, high = np.nanmin(xy[0], axis=0), np.nanmax(xy[0], axis=0)
    side = (high - low).max()
    for bbox, pixels in ((True, side), (False, 1.6 * side)):
        loaded = load_dataset(coco_file(tmp_path, xy, bbox=bbox), size=(64, 64))
        spread = np.nanmax(loaded.keypoints.xy[0], axis=0) - np.nanmin(
            loaded.keypoints.xy[0], axis=0
        )
        np.testing.assert_allclose(spread, (high - low) * 64 / pixels, rtol=1e-4)
        assert np.isnan(loaded.keypoints.xy[0]).any(axis=1).sum() == 1
    # One face without a box is a face of a photo too.
    assert load_dataset(coco_file(tmp_path, xy[:1], bbox=False)).image_size == (96, 96)
    xy[:] = np.nan
    (tmp_path / "annotations.json").unlink()
    with pytest.raises(DataError, match="no face with a box or two labelled points"):
        load_dataset(
            coco_file(tmp_path, np.where(np.arange(15)[:, None] == 0, 5.0, xy), bbox=False)
        )


def test_colour_photos_can_become_kaggles_format(tmp_path: Path) -> None:
    _, xy = photo_with(2, tmp_path)
    loaded = load_dataset(coco_file(tmp_path, xy), channels=1)
    save_dataset(loaded, tmp_path / "kaggle")
    again = load_dataset(tmp_path / "kaggle")
    np.testing.assert_array_equal(again.images, loaded.images)


def pts_file(path: Path, xy: np.ndarray) -> None:
    rows = "\n".join(f"{x:.6f} {y:.6f}" for x, y in xy)
    path.write_text(f"version: 1\nn_points: {len(xy)}\n{{\n{rows}\n}}\n")


def test_300w_files_count_pixels_from_one(tmp_path: Path) -> None:
    Image.new("L", (300, 200), 90).save(tmp_path / "a.jpg")
    xy = np.random.default_rng(0).uniform(60, 140, (68, 2))
    xy[36:42, 0], xy[42:48, 0], xy[36:48, 1], xy[48:, 1] = 70, 130, 80, 130  # an upright face
    pts_file(tmp_path / "a.pts", xy)
    loaded = load_dataset(tmp_path, size=(128, 128))
    assert loaded.schema.name == "ibug68"
    assert loaded.images.shape == (1, 128, 128, 1)  # a grey file stays grey
    five = [xy[36:42].mean(axis=0), xy[42:48].mean(axis=0)]
    middle = loaded.keypoints.xy[0, 36:48].mean(axis=0)
    np.testing.assert_allclose(middle, [63.5, 37 / 96 * 128 - 0.5], atol=1e-3)
    scale = np.linalg.norm(loaded.keypoints.xy[0, 0] - loaded.keypoints.xy[0, 1]) / np.linalg.norm(
        xy[0] - xy[1]
    )
    # In the photo, counted from 0, the eyes' middle is one pixel less.
    corner = np.mean(five, axis=0) - 1.0 - (middle / scale)
    np.testing.assert_allclose(
        loaded.keypoints.xy[0], (xy - 1.0 - corner) * scale, rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("version: 1\n", "is no .pts file"),
        ("{\n1 two\n}\n", "is no .pts file"),
        ("{\n1 2 3\n}\n", "is no .pts file"),
    ],
)
def test_bad_300w_files_are_named(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "a.pts").write_text(content)
    with pytest.raises(DataError, match=says):
        load_dataset(tmp_path)


def test_a_300w_file_needs_its_image(tmp_path: Path) -> None:
    pts_file(tmp_path / "a.pts", np.ones((68, 2)))
    with pytest.raises(DataError, match=r"a\.png: the image is not found"):
        load_dataset(tmp_path)
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"a\.png: "):
        load_dataset(tmp_path)


# --- the same pixels as prediction reads ----------------------------------------------------------


def turned_photo(path: Path, upright: np.ndarray) -> None:
    """Stored lying, as a phone does: EXIF orientation 6 says to turn it clockwise when it is shown."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(path, exif=exif)


def csv_file(folder: Path, xy: np.ndarray) -> Path:
    columns = [f"{name}_{axis}" for name in KAGGLE15.keypoint_names for axis in "xy"]
    path = folder / "faces.csv"
    lines = [["image", *columns], *(["photo.png", *map(str, face.ravel())] for face in xy)]
    path.write_text("\n".join(",".join(line) for line in lines))
    return path


def test_labels_belong_to_the_upright_image_in_csv_and_coco(tmp_path: Path) -> None:
    photo, xy = photo_with(1, tmp_path)
    turned_photo(tmp_path / "photo.png", photo)
    coco = coco_file(tmp_path, xy)
    content = json.loads(coco.read_text())
    content["annotations"][0]["bbox"] = [0, 0, 640, 360]  # the image is the face
    coco.write_text(json.dumps(content))
    for path in (csv_file(tmp_path, xy), coco):
        loaded = load_dataset(path, channels=3)
        np.testing.assert_array_equal(loaded.images[0], photo)
        np.testing.assert_allclose(loaded.keypoints.xy, xy, rtol=1e-5)


@pytest.mark.parametrize("format", ["coco", "pts"])
def test_faces_cut_out_of_a_lying_photo_are_those_of_the_upright_one(
    tmp_path: Path, format: str
) -> None:
    photo, xy = photo_with(2, tmp_path)
    if format == "coco":
        coco_file(tmp_path, xy)
    else:
        pts_file(tmp_path / "photo.pts", np.random.default_rng(0).uniform(60, 140, (68, 2)))
    before = load_dataset(tmp_path)
    turned_photo(tmp_path / "photo.png", photo)
    after = load_dataset(tmp_path)
    np.testing.assert_array_equal(after.images, before.images)
    np.testing.assert_array_equal(after.keypoints.xy, before.keypoints.xy)


LEVELS = np.random.default_rng(0).integers(0, 256, (12, 16), np.uint8)
STORED = {
    "16 bits": (Image.fromarray(LEVELS.astype(np.uint16) * 257), 1),
    "grey": (Image.fromarray(LEVELS), 1),
    "grey and alpha": (Image.merge("LA", [Image.fromarray(c) for c in (LEVELS, LEVELS.T.reshape(12, 16))]), 1),
    "colour and alpha": (Image.fromarray(np.dstack([LEVELS, LEVELS // 2, LEVELS // 3, LEVELS[::-1]])), 3),
    "palette": (Image.fromarray(np.dstack([LEVELS] * 3)).quantize(16), 3),
}  # fmt: skip


@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("kind", STORED)
def test_a_data_set_is_read_as_prediction_reads(
    tmp_path: Path, kind: str, channels: int | None
) -> None:
    image, natural = STORED[kind]
    image.save(tmp_path / "photo.png")
    loaded = load_dataset(csv_file(tmp_path, np.full((1, 15, 2), 5.0)), channels=channels)
    expected = read_image(tmp_path / "photo.png", channels=channels or natural)
    np.testing.assert_array_equal(loaded.images[0], expected)


def test_grey_and_colour_files_together_become_colour(tmp_path: Path) -> None:
    save_dataset(faces(channels=3), tmp_path, "csv")
    Image.new("L", (26, 20), 90).save(tmp_path / "images/000002.png")
    loaded = load_dataset(tmp_path)
    assert loaded.images.shape == (4, 20, 26, 3)
    assert (loaded.images[1] == 90).all()
