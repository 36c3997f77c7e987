"""A fake model that sees a face only where it is well framed, as real ones do."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from facial_keypoints.geometry import box_to_crop, face_crop
from facial_keypoints.inference.refine import (
    predict_views,
    refine_boxes,
    refine_crops,
    refine_tracks,
    supports_tta,
)
from facial_keypoints.models.spec import ModelSpec
from facial_keypoints.schemas import FIVE
from facial_keypoints.types import KeypointSchema

SIDE = 96
# Face of the usual size around the middle of the image: eyes, nose, mouth corners (FIVE).
FACE = np.array([[18.0, -11], [-18, -11], [0, 8], [12, 27], [-12, 27]])


class SpotModel:
    """Finds a face drawn as one spot per point; outside the range of sizes it knows, its confidence is low."""

    def __init__(self, schema=FIVE):
        self.spec = ModelSpec(
            "spots",
            schema,
            (SIDE, SIDE),
            styles=("a", "b"),
            output="points",
            confidence="0.9 or 0.2",
        )
        self.predicted = 0

    def run(self, images):
        self.predicted += len(images)
        xy, confidence = [], []
        for image in images[..., 0].astype(float):
            found = np.full((5, 2), (SIDE - 1) / 2)
            for k in range(5):
                # Each point has its own grey, 40 k + 60.
                near = np.abs(image - (40 * k + 60)) < 8
                # Not the edge of a brighter spot, which runs through this grey too.
                near = cv2.erode(near.astype(np.uint8), np.ones((3, 3), np.uint8))
                if near.any():
                    rows, columns = np.nonzero(near)
                    found[k] = columns.mean(), rows.mean()
            middle, size = found.mean(axis=0), np.linalg.norm(found[0] - found[1])
            well = np.abs(middle - 47.5).max() < 12 and 24 < size < 60
            xy.append(found)
            confidence.append(np.full(5, 0.9 if well else 0.2))
        xy = np.asarray(xy, np.float32).reshape(-1, 1, 5, 2).repeat(2, axis=1)
        return xy, np.asarray(confidence, np.float32).reshape(-1, 1, 5).repeat(2, axis=1)


def draw(offset=(0, 0), scale=1.0):
    """One image and its points."""
    image = np.zeros((1, SIDE, SIDE, 1), np.uint8)
    points = 47.5 + FACE * scale + np.array(offset)
    for k, (x, y) in enumerate(points):
        r = max(2, round(4 * scale))
        x0, y0 = max(round(x) - r, 0), max(round(y) - r, 0)
        image[0, y0 : max(round(y) + r, 0), x0 : max(round(x) + r, 0)] = 40 * k + 60
    return image, points


def refined(model, image, **options):
    """The first prediction in style b, and the points and confidences of the refined one."""
    first = model.run(image)[0][:, 1]
    model.predicted = 0
    found = refine_crops(model, image, np.array([1]), **options)
    return first, (found[..., :2], found[..., 2])


def test_a_face_in_a_good_crop_is_predicted_once():
    model = SpotModel()
    image, _ = draw()
    first, (xy, confidence) = refined(model, image)
    assert model.predicted == 1
    np.testing.assert_array_equal(xy, first)
    assert confidence.min() == np.float32(0.9)


def test_an_off_middle_face_is_found_in_a_shifted_view():
    model = SpotModel()
    image, points = draw(offset=(16, -14))
    first, (xy, confidence) = refined(model, image)
    assert model.predicted > 10
    assert confidence.mean() > 0.8
    assert np.abs(xy[0] - points).max() < 2.5
    assert first.shape == xy.shape


def test_a_small_face_of_high_confidence_gets_a_crop_from_its_own_points():
    model = SpotModel()
    image, points = draw(scale=0.7)  # eyes 25 px apart
    _, (xy, _) = refined(model, image)
    assert model.predicted == 2
    assert np.abs(xy[0] - points).max() < 3.0


def test_tta_predicts_eight_views_of_a_face_in_a_good_crop():
    model = SpotModel()
    image, _ = draw(offset=(4, -6))
    first, (xy, confidence) = refined(model, image, tta=True)
    assert model.predicted == 1 + 8
    # Turned, scaled and shifted views all came back to the place, none of them untouched.
    assert 0.0 < np.abs(xy - first).max() < 0.3
    assert confidence.min() > 0.8


def test_tta_refines_a_badly_cropped_face_first():
    model = SpotModel()
    image, points = draw(scale=0.7)
    _, (xy, confidence) = refined(model, image, tta=True)
    assert model.predicted == 2 + 8
    assert np.abs(xy[0] - points).max() < 1.5
    assert confidence.min() > 0.8


def test_tta_leaves_alone_what_no_view_shows():
    model = SpotModel()
    first, (xy, _) = refined(model, np.zeros((1, SIDE, SIDE, 1), np.uint8), tta=True)
    np.testing.assert_array_equal(xy, first)


def test_an_image_without_a_face_keeps_its_first_prediction():
    model = SpotModel()
    first, (xy, confidence) = refined(model, np.zeros((1, SIDE, SIDE, 1), np.uint8))
    np.testing.assert_array_equal(xy, first)
    assert confidence.max() == pytest.approx(0.2)


def test_images_are_not_changed_and_no_faces_are_fine():
    model = SpotModel()
    image, _ = draw(offset=(16, -14))
    before = image.copy()
    refine_crops(model, image, np.array([1]), tta=True)
    np.testing.assert_array_equal(image, before)
    assert refine_crops(model, image[:0], np.zeros(0, int), tta=True).shape == (0, 5, 3)


def test_a_schema_without_eyes_and_mouth_is_left_alone():
    nose = KeypointSchema("dots", ("a", "b", "c", "d", "e"), (0, 1, 2, 3, 4), ("a", "b"))
    model = SpotModel(nose)
    image, _ = draw(offset=(16, -14))
    first, (xy, _) = refined(model, image)
    assert model.predicted == 1
    np.testing.assert_array_equal(xy, first)
    assert not supports_tta(model.spec)


def test_tta_needs_a_confidence_and_a_model_that_predicts_points():
    spec = SpotModel().spec
    assert supports_tta(spec)
    assert not supports_tta(replace(spec, confidence=""))
    assert not supports_tta(replace(spec, output="signed"))


def place(image, at):
    """The crop at a place of a larger image, twice as large, and the box of its square."""
    photo = np.zeros((400, 500, 1), np.uint8)
    x, y = at
    photo[y : y + 2 * SIDE, x : x + 2 * SIDE, 0] = cv2.resize(image[0, ..., 0], None, fx=2, fy=2)
    return photo, np.array([[x, y, x + 2 * SIDE, y + 2 * SIDE]], np.float32)


@pytest.mark.parametrize(("tta", "predicted"), [(False, 2), (True, 10)])
def test_faces_in_boxes_are_refined_in_pixels_of_the_photo(tta, predicted):
    image, points = draw(offset=(4, -6))
    photo, box = place(image, (150, 100))
    model = SpotModel()
    found, lowest = refine_boxes(model, photo, box, 1, tta=tta)
    assert model.predicted == predicted
    assert np.abs(found[0, :, :2] - (2 * points + 0.5 + [150, 100])).max() < 3.0
    assert found[0, :, 2].min() == pytest.approx(0.9)
    assert lowest[0] == pytest.approx(0.9)


def test_a_box_of_a_model_without_eyes_and_mouth_is_predicted_once():
    photo, box = place(draw()[0], (150, 100))
    model = SpotModel(KeypointSchema("dots", tuple("abcde"), (0, 1, 2, 3, 4), ("a", "b")))
    refine_boxes(model, photo, box, 1)
    assert model.predicted == 1


def test_a_box_unlike_the_refined_crop_gives_the_second_prediction_only():
    image, _ = draw()
    photo, box = place(image, (150, 100))
    large = box + 60 * np.array([-1, -1, 1, 1])  # eyes nearer to each other than the model knows
    [first], [second] = (
        predict_views(SpotModel(), [photo], crops)[:, 1]
        for crops in (
            [box_to_crop(large[0], (SIDE, SIDE))],
            [face_crop(2 * (47.5 + FACE) + 0.5 + [150, 100], FIVE, (SIDE, SIDE))],
        )
    )
    assert first[:, 2].max() == pytest.approx(0.2)
    found, _ = refine_boxes(SpotModel(), photo, large, 1)
    np.testing.assert_allclose(found[0], second, atol=1.0)
    assert found[0, :, 2].min() == pytest.approx(0.9)


def test_a_tracked_face_keeps_its_first_prediction_where_the_second_is_worse():
    image, points = draw()
    photo, _ = place(image, (150, 100))
    there = (2 * points + 0.5 + [150, 100])[np.newaxis]

    class Tired(SpotModel):
        """Sure of itself only the first time."""

        def run(self, images):
            xy, confidence = super().run(images)
            return xy, confidence - 0.5 * (self.predicted > len(images))

    model = Tired()
    found = refine_tracks(model, photo, there + 3, 1)
    assert model.predicted == 2
    assert found[0, :, 2].min() == pytest.approx(0.9)
    averaged = refine_tracks(SpotModel(), photo, there + 3, 1, tta=True)
    assert np.abs(averaged[0, :, :2] - there[0]).max() < 3.0
    assert refine_tracks(SpotModel(), photo, there[:0], 1, tta=True).shape == (0, 5, 3)
