from dataclasses import replace

import numpy as np
import pytest

from facial_keypoints.models.keras_backend import choose_backend
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.types import FaceDataset, Keypoints
from references.collection import CANVAS, fold_numbers, style_numbers

choose_backend()
from facial_keypoints.models.landmark import NetworkConfig, Stage, build_network
from references.landmark import train as module

TINY = NetworkConfig((Stage("res", 8, 1), Stage("ir", 8, 1)), stem_channels=8, input_size=(32, 32))


@pytest.fixture(scope="module")
def faces():
    """Blobs whose place tells every point, in all four styles."""
    rng = np.random.default_rng(0)
    n = 48
    images = np.full((n, CANVAS, CANVAS, 1), 60, np.uint8)
    xy = np.empty((n, 15, 2), np.float32)
    style = (np.arange(n) % 4).astype(np.int32)
    for i in range(n):
        x, y = rng.integers(70, 90, 2)
        images[i, y - 10 : y + 10, x - 10 : x + 10] = 220
        xy[i] = [x, y]
    xy[style == 1, 2:10] = np.nan
    start = np.array(["row ", "row ", "helen_afw/", "mtfl/"])[style]
    names = np.array([f"{s}{i}" for i, s in enumerate(start)])
    return FaceDataset(
        images, Keypoints(xy, KAGGLE15), names, "", np.array(KAGGLE15.styles)[style], names
    )


def test_label_targets_answer_only_in_the_own_style_where_labelled(faces):
    targets = module.label_targets(faces)
    assert targets.weight.sum() == faces.keypoints.labeled.sum()
    assert targets.weight[style_numbers(faces) == 1][:, [0, 2, 3]].sum() == 0
    assert np.isfinite(targets.xy).all()


def test_blended_targets_lie_between_teacher_and_label(faces):
    teacher = np.zeros((len(faces), 4, 15, 2), np.float32)
    share = np.full((len(faces), 15), 0.25, np.float32)
    none = np.zeros((len(faces), 4), np.float32)
    targets = module.blend_targets(faces, teacher, share, none, 0.1)
    np.testing.assert_allclose(targets.xy[0, 0], 0.25 * faces.keypoints.xy[0], rtol=1e-5)
    np.testing.assert_array_equal(targets.xy[0, 1], 0)
    np.testing.assert_array_equal(targets.xy[1, 1, 2:10], 0)  # not labelled: the teacher alone
    assert targets.weight[0, 1, 0] == 1.0
    assert targets.weight[0, 1, 3] == np.float32(0.1)


def test_a_style_whose_labels_sit_to_the_right_is_found(faces):
    teacher = np.repeat(np.nan_to_num(faces.keypoints.xy)[:, None], 4, axis=1)
    teacher[style_numbers(faces) == 3, :, :, 0] -= 0.75
    offsets = module.measure_offsets(faces, teacher)
    np.testing.assert_allclose(offsets[:, 3], 0.75, atol=1e-4)
    np.testing.assert_allclose(offsets[:, 0], 0.0, atol=1e-4)


def test_training_learns_and_never_draws_held_out_faces(faces):
    config = module.FitConfig(steps=160, batch_size=16, learning_rate=5e-3)
    before = build_network(TINY)
    chance = (fold_numbers(faces) != 0).astype(float)
    net = module.fit_network(
        TINY, faces, module.label_targets(faces), chance, config, steps_per_epoch=20
    )
    rows = np.flatnonzero(fold_numbers(faces) != 0)

    def error(model):
        xy, _ = module.predict_views(model, faces, rows, threads=1)
        own = xy[np.arange(len(rows)), style_numbers(faces)[rows]]
        return np.nanmean(np.linalg.norm(own - faces.keypoints.xy[rows], axis=-1))

    assert error(net) < 0.5 * error(before)


def test_a_labels_offset_survives_mirroring(faces):
    # One face, always mirrored: its target must sit mirrored plus the offset, not minus it.
    one = faces.subset(np.array([0]))
    net = build_network(TINY)
    always = replace(module.AugmentConfig(), flip=1.0, gentle=1.0, gentle_angle=0.0, gentle_scale=1.0, gentle_shift=0.0)  # fmt: skip
    targets = module.label_targets(one)
    offset = np.zeros((1, 4), np.float32)
    offset[0, 0] = 3.0
    trainer = module._Trainer(
        net, one, replace(targets, offset_x=offset), module.FitConfig(augment=always)
    )
    _, xy, _ = trainer.views(np.array([0], np.int32))
    mirrored = (CANVAS - 1) - (one.keypoints.xy[0, 0, 0] - 3.0) + 3.0
    expected = (mirrored - 79.5) * 32 / 96 + 15.5
    assert float(xy[0, 0, 0, 0]) == pytest.approx(expected, abs=1e-3)


def test_predictions_over_mirrored_views_come_back_to_source_pixels(faces):
    # The untrained head answers mean places: symmetric views must average to symmetric answers.
    net = build_network(TINY)
    xy, log_scale = module.predict_views(net, faces, np.arange(3), views=2, threads=1)
    assert xy.shape == (3, 4, 15, 2)
    assert log_scale.shape == (3, 4, 15)
    swapped = xy[:, :, list(KAGGLE15.swap), 0]
    np.testing.assert_allclose(xy[..., 0] + swapped, CANVAS - 1, atol=0.5)


def test_refitting_the_last_layer_removes_a_constant_error(faces):
    net = build_network(TINY)
    rows = np.flatnonzero(style_numbers(faces) == 0)
    offset = np.zeros((len(faces), 4), np.float32)

    def bias():
        xy, _ = module.predict_views(net, faces, rows, threads=1)
        return np.abs((xy[:, 0] - faces.keypoints.xy[rows]).mean(axis=0)).mean()

    before = bias()
    module.refit_last_layer(net, faces, offset, np.arange(len(faces)), views=2)
    assert bias() < 0.25 * before


def test_honest_figures_need_a_teacher_that_has_not_seen_the_held_out_faces():
    with pytest.raises(ValueError, match="held_out_fold"):
        module.DefaultConfig(teacher_folds=(0, 2), held_out_fold=1)
