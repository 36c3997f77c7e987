"""Label Studio's json: percent of the image, rotation in the tool, hashed names, joined points."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facial_keypoints.errors import DataError
from label_files import POINTS, SIZES, assert_cats, assert_points, found, photo, photos


def keypoint(name: str, x: float, y: float, size: tuple[int, int], **more: Any) -> dict[str, Any]:
    """A region as the tool exports it: 0 and 100 % are the image's edges."""
    value = {
        "x": 100 * (x + 0.5) / size[0], "y": 100 * (y + 0.5) / size[1], "width": 0.4, "keypointlabels": [name],
    }  # fmt: skip
    return {
        "original_width": size[0], "original_height": size[1], "image_rotation": 0, "value": value,
        "id": f"{name}-{x}", "from_name": "kp", "to_name": "img", "type": "keypointlabels", "origin": "manual", **more,
    }  # fmt: skip


def box(
    key: str, x0: float, y0: float, x1: float, y1: float, size: tuple[int, int]
) -> dict[str, Any]:
    value = {
        "x": 100 * x0 / size[0], "y": 100 * y0 / size[1], "width": 100 * (x1 - x0) / size[0],
        "height": 100 * (y1 - y0) / size[1], "rotation": 0, "rectanglelabels": ["cat"],
    }  # fmt: skip
    return {
        "original_width": size[0], "original_height": size[1], "image_rotation": 0, "value": value, "id": key,
        "from_name": "box", "to_name": "img", "type": "rectanglelabels",
    }  # fmt: skip


def task(image: str, result: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "id": 1,
        "data": {"image": image},
        "annotations": [{"result": result, "was_cancelled": False}],
        **more,
    }


def results(name: str) -> list[dict[str, Any]]:
    return [keypoint(n, x, y, SIZES[name]) for n, (x, y) in POINTS[name].items()]


def write(folder: Path, tasks: list[dict[str, Any]]) -> Path:
    path = folder / "project-1.json"
    path.write_text(json.dumps(tasks), encoding="utf-8-sig")
    return path


@pytest.mark.parametrize(
    "address",
    [
        "/data/upload/3/1a2b3c4d-{}", "/data/local-files/?d=cats/{}", "s3://bucket/cats/{}",
        "http://localhost:8080/data/upload/3/1a2b3c4d-{}", "https://example.org/x/{}?v=3", "cats\\{}",
    ],
)  # fmt: skip
def test_uploaded_local_and_remote_names(tmp_path: Path, address: str) -> None:
    photos(tmp_path)
    tasks = [task(address.format(name), results(name)) for name in POINTS]
    labels = found(write(tmp_path, tasks))
    assert_cats(labels)


def test_hashed_files_are_found_as_they_are_named(tmp_path: Path) -> None:
    photo(tmp_path / "upload/1a2b3c4d-a.jpg", SIZES["a.jpg"])
    labels = found(write(tmp_path, [task("/data/upload/3/1a2b3c4d-a.jpg", results("a.jpg"))]))
    assert list(labels.files) == ["upload/1a2b3c4d-a.jpg"]


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_percentages_are_of_the_image_as_it_was_rotated(tmp_path: Path, turn: int) -> None:
    photos(tmp_path)
    width, height = SIZES["a.jpg"]
    result = []
    for name, (x, y) in POINTS["a.jpg"].items():
        u, v = x + 0.5, y + 0.5
        shown = {0: (u, v), 90: (height - v, u), 180: (width - u, height - v), 270: (v, width - u)}[
            turn
        ]
        size = (height, width) if turn in (90, 270) else (width, height)
        region = keypoint(name, 0, 0, (width, height), image_rotation=turn)
        region["value"] |= {"x": 100 * shown[0] / size[0], "y": 100 * shown[1] / size[1]}
        result.append(region)
    labels = found(write(tmp_path, [task("a.jpg", result)]))
    assert_points(labels.faces[0], POINTS["a.jpg"], within=1e-4)


def test_two_cats_are_told_apart_by_parent_relation_or_box(tmp_path: Path) -> None:
    photos(tmp_path)
    size = SIZES["a.jpg"]
    left = {"nose": (20.0, 30.0), "left_eye": (30.0, 20.0)}
    right = {"nose": (80.0, 30.0), "left_eye": (90.0, 20.0)}
    boxes = [box("L", 5, 5, 50, 60, size), box("R", 55, 5, 110, 60, size)]

    def points(**parents: str) -> list[dict[str, Any]]:
        return [
            keypoint(
                n, x, y, size, id=f"{side}{n}", **({"parentID": parents[side]} if parents else {})
            )
            for side, places in (("L", left), ("R", right))
            for n, (x, y) in places.items()
        ]

    related = [
        {
            "type": "relation",
            "from_id": f"{side}nose",
            "to_id": f"{side}left_eye",
            "direction": "right",
        }
        for side in "LR"
    ]
    for result in (boxes + points(), boxes + points(L="L", R="R"), points() + related):
        labels = found(write(tmp_path, [task("a.jpg", result)]))
        assert len(labels.faces) == 2
        assert_points(labels.faces[0], left, within=1e-4)
        assert_points(labels.faces[1], right, within=1e-4)
        if result[0]["type"] == "rectanglelabels":
            np.testing.assert_allclose(labels.faces[1].box, (55, 5, 110, 60))


def test_occluded_choices_further_annotations_and_other_regions(tmp_path: Path) -> None:
    photos(tmp_path)
    result = results("b.jpg")
    result.append({"type": "choices", "id": result[2]["id"], "value": {"choices": ["occluded"]}})
    result.append({"type": "brushlabels", "id": "x", "value": {"brushlabels": ["fur"]}})
    given = task("b.jpg", [])
    given["annotations"] = [
        {"result": results("a.jpg"), "was_cancelled": True},
        {"result": result, "was_cancelled": False},
    ]
    labels = found(write(tmp_path, [given, task("a.jpg", [])]))
    assert_points(labels.faces[0], POINTS["b.jpg"])
    assert {n: p[2] for n, p in labels.faces[0].points.items()} == {
        "left_eye": 2,
        "right_eye": 2,
        "nose": 1,
    }
    assert labels.left_out["regions that are no points: brushlabels"] == 1
    assert labels.left_out["further annotations of a task that has several"] == 1
    assert len(labels.images) == 2


def test_labels_and_keypoints_of_two_controls(tmp_path: Path) -> None:
    photos(tmp_path)
    result = []
    for region in results("b.jpg"):
        [name] = region["value"].pop("keypointlabels")
        labelled = {**region, "type": "labels", "value": {**region["value"], "labels": [name]}}
        result += [{**region, "type": "keypoint"}, labelled]
    assert_points(found(write(tmp_path, [task("b.jpg", result)])).faces[0], POINTS["b.jpg"])


def test_json_min_and_predictions(tmp_path: Path) -> None:
    photos(tmp_path)
    short = []
    for name in POINTS:
        regions = [
            {
                **r["value"],
                "original_width": r["original_width"],
                "original_height": r["original_height"],
            }
            for r in results(name)
        ]
        short.append({"image": f"/data/upload/1/{name}", "id": 4, "kp": regions, "annotator": 1})
    assert_cats(found(write(tmp_path, short)))
    predicted = [
        {"data": {"image": name}, "predictions": [{"result": results(name)}]} for name in POINTS
    ]
    labels = found(write(tmp_path, predicted))
    assert_cats(labels)
    assert any("2 tasks have no annotation" in note for note in labels.notes)


def test_a_broken_export_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, [task("a.jpg", results("a.jpg"))])
    path.write_text(path.read_text("utf-8-sig").replace('"image": "a.jpg"', '"text": 4'))
    with pytest.raises(DataError, match="no json of Label Studio"):
        found(path)
