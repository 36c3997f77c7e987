"""Schemas that users write, and parts of schemas."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from facial_keypoints.errors import DataError
from facial_keypoints.schemas import (
    FIVE,
    FROM_IBUG68,
    IBUG68,
    KAGGLE15,
    conversion,
    load_schema,
    partners_by_name,
    propose_schema,
    select_keypoints,
)
from facial_keypoints.types import Keypoints, Prediction

PROFILE = """
keypoints: [chin, left_nostril, right_nostril]
pairs:
  - [right_nostril, left_nostril]
edges: [[left_nostril, chin]]
"""


def written(folder: Path, text: str, name: str = "profile.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_schema_is_read_from_yaml(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    schema = load_schema(written(tmp_path, PROFILE))
    assert schema.name == "profile"
    assert schema.keypoint_names == ("chin", "left_nostril", "right_nostril")
    assert schema.swap == (0, 2, 1)
    assert schema.norm_pair == ("right_nostril", "left_nostril")  # the first pair
    assert schema.edges == ((1, 0),)


def test_json_says_the_same_without_yaml(tmp_path: Path) -> None:
    text = json.dumps(
        {"name": "p", "keypoints": ["a", "b", "c"], "pairs": [["a", "b"]], "norm_pair": ["a", "c"]}
    )
    schema = load_schema(written(tmp_path, text, "p.json"))
    assert (schema.name, schema.swap, schema.norm_pair) == ("p", (1, 0, 2), ("a", "c"))


def test_built_in_schemas_go_by_name() -> None:
    assert load_schema("kaggle15") is KAGGLE15


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "'keypoints' must be a list of names"),
        ({"keypoints": []}, "'keypoints' must list"),
        ({"keypoints": ["a", 3]}, "must be a list of names"),
        ({"keypoints": ["a", "a"]}, "names a keypoint twice"),
        ({"keypoints": ["a", "b"], "pairs": [["a", "c"]]}, "names 'c', which is not in"),
        ({"keypoints": ["a", "b"], "pairs": [["a"]]}, "takes pairs of two names"),
        ({"keypoints": ["a", "b"], "pairs": "ab"}, "takes pairs of two names"),
        ({"keypoints": ["a", "b", "c"], "pairs": [["a", "b"], ["b", "c"]]}, "twice"),
        ({"keypoints": ["a", "b"], "norm_pair": ["a", "x"]}, "names 'x'"),
        ({"keypoints": ["a"], "points": ["a"]}, "unknown entry 'points'"),
        (["a"], "has entries like"),
    ],
)
def test_a_mistake_in_a_schema_is_one_sentence(tmp_path: Path, content: object, words: str) -> None:
    path = written(tmp_path, json.dumps(content), "s.json")
    with pytest.raises(DataError, match=words) as caught:
        load_schema(path)
    assert str(path) in str(caught.value)


def test_no_file_and_a_broken_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no schema 'kaggle16'.*kaggle15, five, ibug68"):
        load_schema("kaggle16")
    with pytest.raises(DataError, match="cannot be read as a schema"):
        load_schema(written(tmp_path, "{", "s.json"))
    pytest.importorskip("yaml")
    with pytest.raises(DataError, match="cannot be read as a schema"):
        load_schema(written(tmp_path, "keypoints: [a", "s.yaml"))


def test_a_part_of_a_schema_keeps_partners_and_order() -> None:
    wanted = np.zeros(15, bool)
    wanted[[KAGGLE15.index(n) for n in ("nose_tip", "mouth_left_corner", "left_eye_center")]] = True
    part = select_keypoints(KAGGLE15, wanted)
    assert set(part.keypoint_names) == set(FIVE.keypoint_names)
    assert part.keypoint_names == FIVE.keypoint_names
    assert part.swap == FIVE.swap
    assert part.norm_pair == KAGGLE15.norm_pair
    assert select_keypoints(KAGGLE15, np.ones(15, bool)) is KAGGLE15


def test_a_part_without_the_eyes_has_another_norm_pair() -> None:
    wanted = np.zeros(15, bool)
    wanted[[KAGGLE15.index("mouth_left_corner"), KAGGLE15.index("mouth_center_top_lip")]] = True
    part = select_keypoints(KAGGLE15, wanted)
    assert part.norm_pair == ("mouth_left_corner", "mouth_right_corner")
    assert len(part.edges) == 2  # from each corner to the lip


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("left_eye", "right_eye"), ("Left Ear", "Right Ear"), ("ear_left_tip", "ear_right_tip"), ("l_ear", "r_ear"),
        ("L-ear", "R-ear"), ("ear_1_l", "ear_1_r"), ("ear.L", "ear.R"), ("eyeL", "eyeR"), ("LEye", "REye"),
        ("leftCheek", "rightCheek"), ("EYE_LEFT", "EYE_RIGHT"),
    ],
)  # fmt: skip
def test_partners_are_told_from_names(one: str, other: str) -> None:
    assert partners_by_name(["nose", one, "tail", other]) == (0, 3, 2, 1)


def test_names_that_only_look_like_sides_have_no_partner() -> None:
    names = ["lip", "rip", "nose_l", "left_eye", "brow_bright", "brow_bleft"]
    assert partners_by_name(names)[:4] == (0, 1, 2, 3)


def test_a_proposed_schema_measures_by_eyes_else_by_the_widest_steady_pair() -> None:
    names = ("l_ear", "r_ear", "left_eyebrow", "right_eyebrow", "left_eye", "right_eye")
    xy = np.array([[[90, 0], [0, 0], [70, 20], [20, 20], [60, 30], [30, 30]]], float).repeat(
        4, axis=0
    )
    schema = propose_schema("cat", names, xy)
    assert schema.swap == (1, 0, 3, 2, 5, 4)
    assert schema.norm_pair == ("left_eye", "right_eye")
    assert propose_schema("cat", names[:4], xy[:, :4]).norm_pair == ("l_ear", "r_ear")
    xy[1:, 0] = np.nan  # ears that are rarely labelled
    assert propose_schema("cat", names[:4], xy[:, :4]).norm_pair == (
        "left_eyebrow",
        "right_eyebrow",
    )
    bare = propose_schema(
        "fish", ("snout", "fin", "tail"), np.array([[[0, 0], [5, 1], [60, 0]]], float)
    )
    assert bare.norm_pair == ("snout", "tail")
    assert propose_schema("dot", ("nose",), np.full((2, 1, 2), np.nan)).norm_pair == (
        "nose",
        "nose",
    )


def sixty_eight() -> Keypoints:
    """One face whose point i is at (i, 2 i), occluded at 30, with a confidence of i / 100."""
    numbers = np.arange(68, dtype=np.float32)
    visibility = np.full((1, 68), 2, np.int8)
    visibility[0, 30] = 1
    xy = np.stack([numbers, 2 * numbers], axis=-1)
    return Keypoints(xy[None], IBUG68, visibility, numbers[None] / 100)


def test_the_15_points_are_means_of_the_68() -> None:
    points = sixty_eight().to_schema(KAGGLE15)
    assert points.schema is KAGGLE15
    assert points.confidence is not None
    left, nose = KAGGLE15.index("left_eye_center"), KAGGLE15.index("nose_tip")
    np.testing.assert_allclose(points.xy[0, [left, nose]], [[44.5, 89.0], [30.0, 60.0]])
    np.testing.assert_allclose(points.confidence[0, [left, nose]], [0.445, 0.30])
    assert points.visibility[0, [left, nose]].tolist() == [2, 1]


def test_the_rules_for_left_and_right_mirror_each_other() -> None:
    for name, partner in zip(
        KAGGLE15.keypoint_names, (KAGGLE15.keypoint_names[i] for i in KAGGLE15.swap), strict=True
    ):
        assert {IBUG68.swap[i] for i in FROM_IBUG68[name]} == set(FROM_IBUG68[partner])


def test_a_mean_lacks_what_one_of_its_points_lacks() -> None:
    xy = sixty_eight().xy.copy()
    xy[0, 43] = np.nan
    points = Keypoints(xy, IBUG68).to_schema(FIVE)
    assert np.isnan(points.xy[0]).any(axis=-1).tolist() == [True, False, False, False, False]
    assert points.confidence is None


def test_a_prediction_converts_by_the_name_of_a_schema() -> None:
    box, score = np.zeros((1, 4), np.float32), np.ones(1, np.float32)
    found = Prediction(sixty_eight(), box, score, (200, 200), "a.jpg").to_schema("five")
    assert found.keypoints.schema is FIVE
    assert (found.source, len(found)) == ("a.jpg", 1)
    np.testing.assert_allclose(found.keypoints.xy[0, FIVE.index("mouth_left_corner")], [54, 108])


def test_what_the_points_do_not_tell_is_refused() -> None:
    with pytest.raises(ValueError, match="'five' do not tell where 'left_eye_inner_corner'"):
        conversion(FIVE, KAGGLE15)
