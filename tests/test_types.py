from __future__ import annotations

import numpy as np
import pytest

from facial_keypoints.schemas import FIVE, IBUG68, KAGGLE15, get_schema, list_schemas
from facial_keypoints.types import (
    CropTransform,
    FaceDataset,
    Keypoints,
    KeypointSchema,
    Prediction,
)


def test_a_schema_refuses_names_that_repeat() -> None:
    with pytest.raises(ValueError, match="unique"):
        KeypointSchema("bad", ("a", "a"), (0, 1), ("a", "a"))


def test_a_schema_refuses_a_swap_that_is_not_its_own_inverse() -> None:
    with pytest.raises(ValueError, match="partner"):
        KeypointSchema("bad", ("a", "b", "c"), (1, 2, 0), ("a", "b"))


@pytest.mark.parametrize("name", list_schemas())
def test_partners_carry_mirrored_names_or_are_on_the_midline(name: str) -> None:
    schema = get_schema(name)
    for i, j in enumerate(schema.swap):
        if "left" in schema.keypoint_names[i]:
            assert schema.keypoint_names[j] == schema.keypoint_names[i].replace("left", "right")


def test_the_68_points_mirror_as_the_300w_figure_says() -> None:
    assert [IBUG68.swap[i] for i in (0, 8, 17, 21, 27, 31, 36, 39, 41, 48, 51, 57, 60, 66)] == [
        16, 8, 26, 22, 27, 35, 45, 42, 46, 54, 51, 57, 64, 66,
    ]  # fmt: skip


def test_an_unknown_schema_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="kaggle15"):
        get_schema("nope")


def test_visibility_follows_from_nan() -> None:
    xy = np.full((1, 5, 2), np.nan, np.float32)
    xy[0, 2] = 3, 4
    keypoints = Keypoints(xy, FIVE)
    assert keypoints.labeled.tolist() == [[False, False, True, False, False]]
    assert keypoints.visibility.tolist() == [[0, 0, 2, 0, 0]]
    assert keypoints.confidence is None


def test_half_a_point_is_refused_with_its_name() -> None:
    xy = np.zeros((2, 5, 2), np.float32)
    xy[1, 3, 0] = np.nan
    with pytest.raises(ValueError, match=r"xy\[1, 3\] \(mouth_left_corner\)"):
        Keypoints(xy, FIVE)


@pytest.mark.parametrize("shape", [(5, 2), (1, 4, 2), (1, 5, 3)])
def test_coordinates_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must have shape"):
        Keypoints(np.zeros(shape, np.float32), FIVE)


def test_infinite_coordinates_are_refused() -> None:
    with pytest.raises(ValueError, match="infinite"):
        Keypoints(np.full((1, 5, 2), np.inf, np.float32), FIVE)


def test_a_subset_keeps_ids_styles_and_groups(faces: FaceDataset) -> None:
    part = faces.subset(np.array([3, 1]))
    assert part.sample_ids.tolist() == ["4", "2"]
    assert part.groups.tolist() == ["4", "2"]
    assert part.styles.tolist() == ["kaggle-a", "kaggle-a"]
    np.testing.assert_array_equal(part.images[0], faces.images[3])


def test_label_counts_count_labels(faces: FaceDataset) -> None:
    assert faces.label_counts[KAGGLE15.index("left_eye_center")] == 60
    assert faces.label_counts[KAGGLE15.index("mouth_left_corner")] == 20


def test_images_of_another_type_are_refused(faces: FaceDataset) -> None:
    with pytest.raises(ValueError, match="uint8"):
        FaceDataset(faces.images.astype(np.float32), faces.keypoints, faces.sample_ids)  # type: ignore[arg-type]


def test_a_transform_and_its_inverse_give_the_point_back_and_let_nan_pass() -> None:
    transform = CropTransform(np.array([[2.0, 0.3, 5.0], [-0.1, 1.5, -7.0]]), (96, 96))
    xy = np.array([[3.0, 4.0], [np.nan, np.nan]])
    there = transform.apply(xy)
    assert there[0].tolist() == pytest.approx([12.2, -1.3])
    back = transform.inverse().apply(there)
    np.testing.assert_allclose(back, xy, atol=1e-12)


def test_a_transform_without_area_is_refused() -> None:
    with pytest.raises(ValueError, match="no inverse"):
        CropTransform(np.zeros((2, 3)), (96, 96))


def test_no_faces_is_an_empty_prediction() -> None:
    empty = Prediction(
        keypoints=Keypoints(np.zeros((0, 15, 2), np.float32), KAGGLE15),
        boxes=np.zeros((0, 4), np.float32),
        scores=np.zeros(0, np.float32),
        image_size=(10, 20),
    )
    assert len(empty) == 0
