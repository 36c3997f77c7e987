"""Labels that the service converts for the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from facial_keypoints.data.formats import WRITERS
from facial_keypoints.data.formats.reading import read_labels
from facial_keypoints.errors import DataError
from facial_keypoints.service.labels import Converted, convert_labels
from label_files import assert_points, photo

CSV = (
    b"image,group,x0,y0,x1,y1,left_ear_x,left_ear_y,right_ear_x,right_ear_y,chin_x,chin_y,chin_visibility\n"
    b"day1/a.png,tom,2,3,60,70,50.5,8,10,8.25,30,60,1\n"
    b"day1/b.png,kit,,,,,,,12,20,33,40,2\n"
)
SIZES = {"day1/a.png": (120, 80), "day1/b.png": (90, 100)}


def converted(to: str | None = "coco", **files: bytes) -> Converted:
    """Convert files; NAME_csv is NAME.csv."""
    named = [(name.replace("_", "."), content) for name, content in files.items()]
    return convert_labels(named, to, SIZES)


@pytest.mark.parametrize("to", list(WRITERS))
def test_what_is_written_is_read_back_with_the_images(to: str, tmp_path: Path) -> None:
    for name, content in converted(to, mine_csv=CSV).files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    module = WRITERS[to]
    for name, size in SIZES.items():
        photo(tmp_path / getattr(module, "image_place", str)(name), size)
    labels = read_labels(tmp_path)
    first, second = labels.faces
    names = ("left_ear", "right_ear", "chin")
    if to == "pts":  # it has no names
        names = ("point_1", "point_2", "point_3")
    points = dict(zip(names, ((50.5, 8), (10, 8.25), (30, 60)), strict=True))
    assert_points(first, points, within=1e-3)
    assert_points(second, {names[1]: (12, 20), names[2]: (33, 40)}, within=1e-3)
    assert all(
        Path(face.image).name == name[-5:] for face, name in zip(labels.faces, SIZES, strict=True)
    )


def test_what_a_format_cannot_hold_is_said() -> None:
    assert converted("deeplabcut", mine_csv=CSV).lost == [
        "deeplabcut does not say that a point is occluded: 1 are written as visible",
        "deeplabcut holds no boxes: 1 are left out",
        "deeplabcut holds nothing but points: left out are group",
    ]
    assert converted("csv", mine_csv=CSV).lost == []


def test_the_keypoints_come_with_their_partners() -> None:
    assert converted(None, mine_csv=CSV).schema == {
        "name": "mine", "keypoints": ["left_ear", "right_ear", "chin"], "pairs": [["left_ear", "right_ear"]],
        "norm_pair": ["left_ear", "right_ear"], "edges": [],
    }  # fmt: skip
    pytest.importorskip("yaml")
    content = b"keypoints: [a, b]\npairs: [[a, b]]\n"
    assert converted(cat_yaml=content).schema["pairs"] == [["a", "b"]]
    schema = json.dumps({"keypoints": ["chin", "right_ear"]}).encode()
    found = convert_labels([("mine.csv", CSV)], "csv", SIZES, schema)
    assert found.schema["keypoints"] == ["chin", "right_ear"]
    assert "left out: 1 keypoints that the schema 'schema' does not list: left_ear" in found.read


def test_points_count_by_the_sizes_of_images_that_are_not_there() -> None:
    tps = b"LM=2\n10 20\n30 40\nIMAGE=a.png\nID=0\n"
    answer = json.loads(converted(mine_tps=tps).files["annotations.json"])
    assert answer["annotations"][0]["keypoints"] == [9.5, 59.5, 2, 29.5, 39.5, 2]
    with pytest.raises(DataError, match=r"^mine\.tps holds no face .*image is not found"):
        convert_labels([("mine.tps", tps)], "coco", {})


@pytest.mark.parametrize(("size", "x"), [((60, 40), 25.0), ((80, 120), 50.5), ((120, 80), 50.5)])
def test_points_of_another_size_are_scaled_and_of_another_shape_left(
    size: tuple[int, int], x: float
) -> None:
    wire = convert_labels([("mine.csv", CSV)], "coco", SIZES).files["annotations.json"]
    sizes = {"day1/a.png": size}
    answer = json.loads(
        convert_labels([("annotations.json", wire.encode())], "coco", sizes).files[
            "annotations.json"
        ]
    )
    assert answer["annotations"][0]["keypoints"][0] == x
    image = answer["images"][0]
    of_labels = (120, 80) if size == (80, 120) else size
    assert (image["width"], image["height"]) == of_labels  # which the points are in


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("notes.txt", b"hello", r"^notes\.txt holds no labels that can be read"),
        ("bad.xml", b"<annotations >", r"^bad\.xml cannot be read as XML"),
        ("training.csv", b"chin_x,chin_y,Image\n1,2,3 4 5\n", "data convert FILE --to csv"),
        ("a.json", b"[" * 5000 + b'"shapes" "shape_type"', "cannot be converted .*recursion"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read_are_named_as_they_were_sent(
    file: str, content: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        convert_labels([(file, content)], "coco", {})
    assert "/" not in str(caught.value).replace("Kaggle's files, ", "")


def test_files_of_the_machine_are_not_looked_at(tmp_path: Path) -> None:
    there = photo(tmp_path / "secret.png", (120, 80))
    for name in (str(there), f"../../../../../..{there}"):
        tps = f"LM=1\n10 20\nIMAGE={name}\n".encode()
        with pytest.raises(DataError, match="image is not found"):
            convert_labels([("mine.tps", tps)], "coco", {})
    before = sorted(tmp_path.iterdir())
    answer = convert_labels([(f"{tmp_path}/new.csv", CSV)], "coco", {"../../up.png": (4, 4)})
    assert answer.files
    assert sorted(tmp_path.iterdir()) == before
