"""A fake model that sees a face only where it is well framed, as real ones do."""

import cv2
import numpy as np
import pytest

from facial_keypoints.inference.refine import look_again
from facial_keypoints.models.spec import ModelSpec
from facial_keypoints.schemas import FIVE
from facial_keypoints.types import KeypointSchema

SIDE = 96
# Face of the usual size around the middle of the image: eyes, nose, mouth corners (FIVE).
FACE = np.array([[18.0, -11], [-18, -11], [0, 8], [12, 27], [-12, 27]])


class SpotModel:
    """Finds a face drawn as one spot per point; blind beyond its framing, and then it says so."""

    def __init__(self, schema=FIVE):
        self.spec = ModelSpec("spots", schema, (SIDE, SIDE), styles=("a", "b"), output="points")
        self.asked = 0

    def run(self, images):
        self.asked += len(images)
        xy, sure = [], []
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
            sure.append(np.full(5, 0.9 if well else 0.2))
        xy = np.asarray(xy, np.float32)[:, None].repeat(2, axis=1)
        return xy, np.asarray(sure, np.float32)[:, None].repeat(2, axis=1)


def draw(offset=(0, 0), scale=1.0):
    """One image and its points."""
    image = np.zeros((1, SIDE, SIDE, 1), np.uint8)
    points = 47.5 + FACE * scale + np.array(offset)
    for k, (x, y) in enumerate(points):
        r = max(2, round(4 * scale))
        x0, y0 = max(round(x) - r, 0), max(round(y) - r, 0)
        image[0, y0 : max(round(y) + r, 0), x0 : max(round(x) + r, 0)] = 40 * k + 60
    return image, points


def ask(model, image, **options):
    xy, sure = model.run(image)
    style = np.array([1])
    return xy[:, 1], look_again(model, image, style, xy[:, 1], sure[:, 1], **options)


def test_a_well_framed_face_is_asked_once_and_answered_as_before():
    model = SpotModel()
    image, _ = draw()
    first, (xy, sure) = ask(model, image)
    assert model.asked == 1
    np.testing.assert_array_equal(xy, first)
    assert sure.min() == np.float32(0.9)


def test_an_off_middle_face_is_found_in_a_shifted_view():
    model = SpotModel()
    image, points = draw(offset=(16, -14))
    first, (xy, sure) = ask(model, image)
    assert model.asked > 10
    assert sure.mean() > 0.8
    assert np.abs(xy[0] - points).max() < 2.5
    assert first.shape == xy.shape


def test_a_small_but_certain_face_is_framed_by_its_own_answer():
    model = SpotModel()
    image, points = draw(scale=0.7)  # eyes 25 px apart
    _, (xy, _) = ask(model, image)
    assert model.asked == 2
    assert np.abs(xy[0] - points).max() < 3.0


def test_averaging_asks_eight_views_of_a_well_framed_face():
    model = SpotModel()
    image, _ = draw(offset=(4, -6))
    first, (xy, sure) = ask(model, image, average=True)
    assert model.asked == 1 + 8
    # Turned, scaled and shifted views all came back to the place, none of them untouched.
    assert 0.0 < np.abs(xy - first).max() < 0.3
    assert sure.min() > 0.8


def test_averaging_frames_a_badly_framed_face_first():
    model = SpotModel()
    image, points = draw(scale=0.7)
    _, (xy, sure) = ask(model, image, average=True)
    assert model.asked == 2 + 8
    assert np.abs(xy[0] - points).max() < 1.5
    assert sure.min() > 0.8


def test_averaging_leaves_alone_what_no_view_shows():
    model = SpotModel()
    first, (xy, _) = ask(model, np.zeros((1, SIDE, SIDE, 1), np.uint8), average=True)
    np.testing.assert_array_equal(xy, first)


def test_a_hopeless_image_keeps_its_first_answer():
    model = SpotModel()
    first, (xy, sure) = ask(model, np.zeros((1, SIDE, SIDE, 1), np.uint8))
    np.testing.assert_array_equal(xy, first)
    assert sure.max() == pytest.approx(0.2)


def test_inputs_are_not_changed_and_no_faces_are_fine():
    model = SpotModel()
    image, _ = draw(offset=(16, -14))
    xy, sure = model.run(image)
    before = xy.copy()
    look_again(model, image, np.array([1]), xy[:, 1], sure[:, 1])
    np.testing.assert_array_equal(xy, before)
    none = look_again(model, image[:0], np.zeros(0, int), xy[:0, 1], sure[:0, 1])
    assert len(none[0]) == 0


def test_a_schema_without_eyes_and_mouth_is_left_alone():
    nose = KeypointSchema("dots", ("a", "b", "c", "d", "e"), (0, 1, 2, 3, 4), ("a", "b"))
    model = SpotModel(nose)
    image, _ = draw(offset=(16, -14))
    first, (xy, _) = ask(model, image)
    assert model.asked == 1
    np.testing.assert_array_equal(xy, first)
