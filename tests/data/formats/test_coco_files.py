"""COCO keypoints as CVAT, Label Studio, Roboflow and coco-annotator export them; YOLO-pose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from facial_keypoints.errors import DataError
from label_files import NAMES, POINTS, SIZES, assert_cats, assert_points, found, photos


def annotation(image: str, number: Any, **more: Any) -> dict[str, Any]:
    triples = [(*POINTS[image][n], 2) if n in POINTS[image] else (0, 0, 0) for n in NAMES]
    return {
        "id": number, "image_id": number, "category_id": 1, "bbox": [20, 5, 60, 60], "iscrowd": 0,
        "keypoints": [v for triple in triples for v in triple], "num_keypoints": len(POINTS[image]), **more,
    }  # fmt: skip


def content(**more: Any) -> dict[str, Any]:
    return {
        "info": {}, "licenses": [],
        "images": [
            {"id": i, "file_name": n, "width": SIZES[n][0], "height": SIZES[n][1]} for i, n in enumerate(POINTS)
        ],
        "annotations": [annotation(name, i) for i, name in enumerate(POINTS)],
        "categories": [{"id": 1, "name": "cat", "keypoints": list(NAMES), "skeleton": [[1, 2]]}],
        **more,
    }  # fmt: skip


def write(path: Path, value: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8-sig")
    return path


def test_crowds_boxes_other_categories_and_lost_images_are_left_out_and_counted(
    tmp_path: Path,
) -> None:
    photos(tmp_path)
    value = content()
    value["categories"] += [
        {"id": 2, "name": "paw", "keypoints": ["tip"], "skeleton": []},
        {"id": 3, "name": "box", "supercategory": ""},
    ]
    value["annotations"] += [
        annotation("a.jpg", 0, iscrowd=1),
        annotation("a.jpg", 0, keypoints=[0] * 15),
        annotation("a.jpg", 0, category_id=3, keypoints=[], bbox=[1, 1, 5, 5]),
        annotation("a.jpg", 0, category_id=2, keypoints=[5, 5, 2]),
        annotation("a.jpg", 0, category_id=2),
        annotation("a.jpg", 99),
    ]
    labels = found(write(tmp_path / "c.json", value))
    assert_cats(labels)
    assert sum(labels.left_out.values()) == 6
    assert labels.left_out["annotations of crowds"] == 1
    assert labels.left_out["annotations without labelled keypoints"] == 2
    assert labels.left_out["of 'paw', which has other keypoints"] == 1
    assert labels.faces[0].box == (20, 5, 80, 65)


def test_text_ids_attributes_and_visibility(tmp_path: Path) -> None:
    photos(tmp_path)
    value = content()
    for image in value["images"]:
        image["id"] = f"img-{image['id']}"
    for one in value["annotations"]:
        one["image_id"] = f"img-{one['image_id']}"
        one["attributes"] = {"pet": "Tom", "occluded": False}
    value["annotations"][0]["keypoints"][2] = 1
    labels = found(write(tmp_path / "c.json", value), group_by="pet")
    assert labels.faces[0].points["left_eye"][2] == 1
    assert [face.about["group"] for face in labels.faces] == ["Tom", "Tom"]


def test_splits_of_roboflow_are_read_as_one(tmp_path: Path) -> None:
    for part, name in (("train", "a.jpg"), ("valid", "b.jpg")):
        photos(tmp_path / part)  # the same names in both parts
        value = content()
        value["annotations"] = [
            a for a in value["annotations"] if a["image_id"] == list(POINTS).index(name)
        ]
        write(tmp_path / part / "_annotations.coco.json", value)
    labels = found(tmp_path)
    assert [face.image for face in labels.faces] == ["train/a.jpg", "valid/b.jpg"]
    assert_points(labels.faces[1], POINTS["b.jpg"])
    assert len(labels.images) == 4


def test_a_category_without_names_numbers_its_points(tmp_path: Path) -> None:
    photos(tmp_path)
    value = content(categories=[{"id": 1, "name": "cat"}])
    assert found(write(tmp_path / "c.json", value)).names[:2] == ("point_1", "point_2")
    named_twice = content(categories=[{"id": 1, "name": "cat", "keypoints": ["nose"] * 5}])
    with pytest.raises(DataError, match="names a keypoint twice"):
        found(write(tmp_path / "c.json", named_twice))


# --- YOLO-pose ------------------------------------------------------------------------------------


def yolo(folder: Path, layout: str, more: str, *, values: int = 3) -> Path:
    for name, points in POINTS.items():
        width, height = SIZES[name]
        row = [0, 0.5, 0.5, 0.8, 0.9]
        for n in NAMES:
            x, y = points.get(n, (-0.5, -0.5))
            row += [
                (x + 0.5) / width,
                (y + 0.5) / height,
                *([2 * (n in points)] if values == 3 else []),
            ]
        file = folder / layout.format("labels") / f"{name[0]}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            " ".join(f"{v:.8f}" if v % 1 else str(int(v)) for v in row) + "\n0 0.5 0.5 0.1 0.1\n"
        )
    photos(folder / layout.format("images"))
    path = folder / "data.yaml"
    path.write_text(
        f"path: /somewhere/else\ntrain: images\nkpt_shape: [5, {values}]\nnames: ['cat']\n{more}"
    )
    return path


@pytest.mark.parametrize("layout", ["{}", "{}/train", "train/{}"])
@pytest.mark.parametrize("values", [2, 3])
def test_yolo_pose(tmp_path: Path, layout: str, values: int) -> None:
    pytest.importorskip("yaml")
    names = "kpt_names:\n  0: [left_eye, right_eye, nose, left_ear, right_ear]\nflip_idx: [1, 0, 2, 4, 3]\n"
    yolo(tmp_path, layout, names, values=values)
    labels = found(tmp_path)
    for face in labels.faces:
        assert_points(face, POINTS[Path(face.image).name], within=1e-4)
    assert len(labels.files) == 2
    assert labels.left_out == {"boxes without labelled keypoints": 2}
    width, height = SIZES["a.jpg"]
    assert labels.faces[0].box == pytest.approx(
        (0.1 * width, 0.05 * height, 0.9 * width, 0.95 * height)
    )


def test_partners_of_unnamed_points_come_from_flip_idx(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    path = yolo(tmp_path, "{}", "flip_idx: [1, 0, 2, 4, 3]\n")
    labels = found(path)
    assert labels.schema is not None
    assert labels.schema.swap == (1, 0, 2, 4, 3)
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 1 1 0.1 0.2 2\n")
    with pytest.raises(
        DataError, match=r"a\.txt, line 1 has 8 numbers; with 5 keypoints of 3 there are 20"
    ):
        found(path)
