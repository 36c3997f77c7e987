"""Formats that keep pictures as files: what is saved is loaded, and bad files are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from facial_keypoints.data import load_dataset, save_dataset
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


def test_a_size_resizes_pictures_and_points_together(tmp_path: Path) -> None:
    given = faces()
    save_dataset(given, tmp_path, "csv")
    loaded = load_dataset(tmp_path, size=(40, 52))
    assert loaded.image_size == (40, 52)
    np.testing.assert_allclose(loaded.keypoints.xy, given.keypoints.xy * 2 + 0.5, rtol=1e-5)


def test_differing_sizes_name_the_remedy(tmp_path: Path) -> None:
    save_dataset(faces(), tmp_path, "csv")
    small = faces().subset([0])
    other = FaceDataset(small.images[:, :10], small.keypoints, small.sample_ids)
    save_dataset(other, tmp_path / "other", "csv")
    (tmp_path / "other/images/000001.png").replace(tmp_path / "images/000003.png")
    with pytest.raises(DataError, match=r"differing sizes \(26 × 10 and 26 × 20\).*size="):
        load_dataset(tmp_path)
    assert load_dataset(tmp_path, size=(12, 12)).images.shape == (4, 12, 12, 1)


def test_groups_come_from_a_column(tmp_path: Path) -> None:
    save_dataset(faces(), tmp_path, "csv")
    table = tmp_path / "faces.csv"
    lines = table.read_text().splitlines()
    people = ["person", "ann", "bob", "ann", "cy"]
    table.write_text("\n".join(f"{a},{b}" for a, b in zip(lines, people, strict=True)))
    assert load_dataset(table, group_by="person").groups.tolist() == people[1:]


def test_bad_tables_and_pictures_are_named(tmp_path: Path) -> None:
    save_dataset(faces(), tmp_path, "csv")
    table = tmp_path / "faces.csv"
    good = table.read_text()
    for bad, words in (
        (good.replace("000002.png", "9.png"), "row 2: picture images/9.png"),
        (good.replace("nose_tip", "nose"), "no known schema"),
        (good.replace("nose_tip_x", "nose_tip_z"), "row 1 has no column nose_tip_x"),
        (good.splitlines()[0], "holds no face"),
    ):
        table.write_text(bad)
        with pytest.raises(DataError, match=words):
            load_dataset(tmp_path)
    table.write_text(good)
    (tmp_path / "images/000001.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"row 1: images/000001.png is no 8-bit picture"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("drop", ["images", "annotations", "categories"])
def test_an_incomplete_coco_file_is_named(tmp_path: Path, drop: str) -> None:
    save_dataset(faces(), tmp_path, "coco")
    path = tmp_path / "annotations.json"
    content = json.loads(path.read_text())
    del content[drop]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"annotations\.json is no COCO keypoints file"):
        load_dataset(path)


def test_only_faces_that_fit_are_written_as_kaggle(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="square grey pictures"):
        save_dataset(faces(), tmp_path, "kaggle")
    with pytest.raises(ValueError, match="format must be"):
        save_dataset(faces(), tmp_path, "pts")  # type: ignore[arg-type]


def keep_columns(table: Path, *names: str) -> None:
    """Rewrite a csv with the picture and the named keypoints only."""
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
    other = KeypointSchema("other", names[:4], (1, 0, 2, 3), names[:2])
    with pytest.raises(DataError, match="labels 'left_eye_center', which the schema 'other'"):
        load_dataset(tmp_path, schema=other)


def test_resizing_keeps_the_shape_of_a_face_as_prediction_does(tmp_path: Path) -> None:
    given = faces()  # 20 high, 26 wide
    save_dataset(given, tmp_path, "csv")
    loaded = load_dataset(tmp_path, size=(52, 52), channels=3)
    assert loaded.images.shape == (4, 52, 52, 3)
    expected = given.keypoints.xy * 2 + 0.5 + np.array([0, 6], np.float32)
    np.testing.assert_allclose(loaded.keypoints.xy, expected, rtol=1e-5)
