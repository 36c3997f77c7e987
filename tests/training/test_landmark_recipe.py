from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import dotted_faces

keras = pytest.importorskip("keras")

from test_fit import Interrupt, assert_resumed_is, thirds

from facial_keypoints.errors import ModelError
from facial_keypoints.inference.predictor import load_predictor
from facial_keypoints.models.landmark import NetworkConfig, Stage, build_network
from facial_keypoints.models.spec import ModelSpec
from facial_keypoints.training import fit, landmark
from facial_keypoints.training.fit import measure_run, predict_run, train
from facial_keypoints.training.recipes import RECIPES
from facial_keypoints.training.run_folder import Run
from facial_keypoints.types import FaceDataset

pytestmark = pytest.mark.backends

TINY = NetworkConfig((Stage("res", 8, 1),), stem_channels=8)
RECIPE = RECIPES["landmark"].override(epochs=3, batch_size=16)


def styled_faces(n: int = 60) -> FaceDataset:
    """Blobs that tell every point, in two label styles; b sits 4 pixels to the right and lacks a point."""
    faces = dotted_faces(n, height=48, width=56)
    late = np.arange(n) % 2 == 1
    centre = np.random.default_rng(0).integers(14, 34, (n, 2))
    for image, (x, y) in zip(faces.images, centre, strict=True):
        image[y - 5 : y + 6, x - 5 : x + 6] = 250
    xy = (centre[:, None] + np.linspace(-4, 4, 15)[:, None]).astype(np.float32)
    xy[late, :, 0] += 4.0
    xy[late, -1] = np.nan
    return replace(faces.with_keypoints(xy), styles=np.where(late, "b", "a"))


@pytest.fixture(scope="module")
def tiny():
    """A small network instead of the shipped one's, and short epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(landmark, "STUDENT", TINY)
        patch.setattr(fit, "LEAST_VIEWS", 1)
        yield


@pytest.fixture(scope="module")
def finished(tiny: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run, to be read only."""
    faces = styled_faces()
    return train(faces, thirds(faces), RECIPE, tmp_path_factory.mktemp("landmark") / "run", seed=2)


@pytest.mark.parametrize("flipped", [False, True])
def test_the_matrix_of_a_view_says_where_its_pixels_went(flipped: bool) -> None:
    image = np.zeros((48, 56, 1), np.uint8)
    image[20:23, 30:33] = 255
    view, matrix = landmark.draw_view(image, flipped, np.random.default_rng(4))
    weight = view[..., 0].astype(float)
    y, x = np.mgrid[:48, :56]
    seen = np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()
    np.testing.assert_allclose(seen, matrix @ [31, 21, 1], atol=0.1)
    assert (np.linalg.det(matrix[:, :2]) < 0) == flipped


def test_changed_light_leaves_the_view_it_was_given_alone() -> None:
    rng = np.random.default_rng(0)
    view, other = rng.integers(0, 256, (2, 48, 56, 1), np.uint8)
    before = view.copy()
    changed = [landmark.change_light(view, other, rng) for _ in range(20)]
    np.testing.assert_array_equal(view, before)
    assert all(c.dtype == np.uint8 and c.shape == view.shape for c in changed)
    assert sum(not np.array_equal(c, view) for c in changed) > 10


def test_batches_repeat_and_mirrored_points_swap_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    faces = styled_faces()

    def mirror(image: np.ndarray, flipped: bool, rng: object) -> tuple[np.ndarray, np.ndarray]:
        return image, np.array([[-1.0, 0.0, 55.0], [0.0, 1.0, 0.0]])

    options = {"styles": ("a", "b"), "batch_size": 16, "seed": 1, "flip_probability": 1.0}
    batches = landmark.ViewBatches(faces, epoch=3, **options)
    for once, again in zip(
        batches[1], landmark.ViewBatches(faces, epoch=3, **options)[1], strict=True
    ):
        np.testing.assert_array_equal(once, again)
    monkeypatch.setattr(landmark, "draw_view", mirror)
    _, xy, weight = batches[0]
    row = batches.order[0]
    style, swap = int(faces.styles[row] == "b"), list(faces.schema.swap)
    expected = faces.keypoints.xy[row, swap]
    kept = ~np.isnan(expected[:, 0])
    own = 2 + style  # mirrored faces have styles of their own, behind the others
    np.testing.assert_array_equal(weight[0, own] > 0, kept)
    np.testing.assert_allclose(xy[0, own, kept, 0], 55.0 - expected[kept, 0], atol=1e-4)
    assert weight[0].sum() == kept.sum()  # each face trains its own style's outputs only


def test_styles_of_mirrored_faces_are_left_out_of_the_finished_network() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 56, 1), np.uint8)
    config = replace(TINY, input_size=(48, 56), keypoints=5, mean_xy=[[20.0, 20.0]] * 5)
    model = build_network(replace(config, styles=("a", "b") * 2))
    kept = landmark.keep_styles(model, 2)
    assert kept.output_shape == (None, 2, 5, 3)
    whole, part = (m.predict(images, verbose=0) for m in (model, kept))
    np.testing.assert_allclose(part, whole[:, :2], atol=1e-4)


def test_a_point_that_left_the_view_is_not_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    away = np.array([[1.0, 0.0, 200.0], [0.0, 1.0, 0.0]])
    monkeypatch.setattr(landmark, "draw_view", lambda image, *_: (image, away))
    batches = landmark.ViewBatches(styled_faces(), styles=("a", "b"), batch_size=8, seed=0)
    assert batches[0][2].sum() == 0


def test_styles_of_the_schema_come_first_and_an_unknown_one_counts_as_the_first() -> None:
    faces = dotted_faces(3)
    faces = replace(faces, styles=np.array(["other", "kaggle-b", "kaggle-a"]))
    styles = landmark.known_styles(faces)
    assert styles == ("kaggle-a", "kaggle-b", "other")
    strange = replace(faces, styles=np.array(["new", "other", "kaggle-b"]))
    assert landmark.style_numbers(strange, styles).tolist() == [0, 2, 1]
    assert landmark.known_styles(replace(faces, styles=np.full(3, ""))) == ("",)


def test_a_run_predicts_styles_and_confidence_like_any_model(finished: Run) -> None:
    faces = styled_faces()
    assert finished.spec.styles == ("a", "b")
    predictor = load_predictor(str(finished.directory))
    found = predictor.predict_batch(faces.images, styles=faces.styles)
    np.testing.assert_allclose(found.xy, predict_run(finished, faces), atol=1e-3)
    assert found.confidence is not None
    assert ((found.confidence >= 0) & (found.confidence <= 1)).all()


def test_training_lowers_the_error_and_the_averaged_weights_are_kept(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worse(net: keras.Model, *_: object) -> None:
        head = net.get_layer("head")
        head.set_weights([w + 0.5 for w in head.get_weights()])

    monkeypatch.setattr(fit, "refit_last_layer", worse)  # a fit that does not help is not kept
    faces = styled_faces(90)
    recipe = RECIPE.override(
        epochs=30, optimizer_options={**RECIPE.optimizer_options, "ema_momentum": 0.8}
    )
    run = train(faces, thirds(faces), recipe, tmp_path / "run")
    errors = run.history["val_rmse_px"]
    assert min(errors) < 0.8 * errors[0]
    val = faces.subset(run.split.val)
    gap = (predict_run(run, val) - val.keypoints.xy)[val.keypoints.labeled]
    assert np.sqrt(np.mean(gap**2)) == pytest.approx(min(errors), rel=1e-3)


def test_resumed_training_ends_with_the_same_weights(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = Interrupt(2)
    assert_resumed_is(finished, styled_faces(), RECIPE, tmp_path / "cut", cut, monkeypatch)


def test_a_new_head_answers_as_its_base_where_both_know_the_point() -> None:
    faces = dotted_faces(6)
    schema = faces.schema
    config = replace(TINY, input_size=faces.image_size, styles=("a", "b"))
    base = build_network(replace(config, keypoints=schema.num_keypoints))
    spec = ModelSpec("landmark", schema, faces.image_size, styles=("a", "b"), output="points")
    names = ("new", *schema.keypoint_names[1:])
    renamed = replace(schema, keypoint_names=names, norm_pair=(names[2], names[3]))
    xy = np.full_like(faces.keypoints.xy, 20.0)
    own = replace(faces, keypoints=type(faces.keypoints)(xy, renamed))
    model = landmark.build_landmark(own, ("b", "c"), (base, spec))
    old, new = (m.predict(faces.images, verbose=0) for m in (base, model))
    np.testing.assert_allclose(new[:, 0, 1:], old[:, 1, 1:], atol=2e-3)
    np.testing.assert_allclose(new[:, 1, 1:, :2], old[:, :, 1:, :2].mean(axis=1), atol=2e-3)
    assert np.abs(new[:, 0, 0, :2] - 20.0).max() < 2.0


def test_all_weights_of_a_base_are_trained_and_its_faces_are_not_measured(
    tiny: None, finished: Run, tmp_path: Path
) -> None:
    faces = styled_faces()
    base = str(finished.directory)
    swapped = replace(thirds(faces), test=finished.split.train, train=finished.split.test)
    run = train(faces, swapped, RECIPE, tmp_path / "run", base=base)
    assert run.record["base"]["name"] == "landmark"
    assert measure_run(run, faces).overall.num_faces == 0
    before, after = (r.load_model().trainable_weights for r in (finished, run))
    assert not any(np.array_equal(a, b) for a, b in zip(before[:3], after[:3], strict=True))


def test_a_base_of_another_recipe_or_size_is_refused(finished: Run, tmp_path: Path) -> None:
    faces, base = styled_faces(), str(finished.directory)
    with pytest.raises(ModelError, match="only landmark takes --from"):
        train(faces, thirds(faces), RECIPES["cnn"], tmp_path / "a", base=base)
    other = dotted_faces(12)
    with pytest.raises(ModelError, match="load it at that size"):
        train(other, thirds(other), RECIPE, tmp_path / "b", base=base)


def test_calibration_recovers_a_known_scale() -> None:
    rng = np.random.default_rng(0)
    n, true_log_b = 4000, rng.uniform(-1.0, 1.0, (4000, 1))
    radius = rng.gamma(2.0, np.exp(true_log_b))  # density exp(-r/b) over the plane
    angle = rng.uniform(0, 2 * np.pi, (n, 1))
    xy = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)
    answers = np.zeros((n, 2, 1, 3))
    answers[..., 2] = (true_log_b + 0.5)[:, None]  # overstates the error
    slope_shift = landmark.calibrate(answers, xy, np.zeros(n, int), 96)
    assert slope_shift[0, 0] == pytest.approx(1.0, abs=0.15)
    assert slope_shift[0, 1] == pytest.approx(-0.5, abs=0.15)
    np.testing.assert_array_equal(slope_shift[1], [1.0, 0.0])


def test_few_faces_are_shown_several_times_an_epoch(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, float]] = []

    class Count(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_begin(self, logs: object = None) -> None:
            seen.append((self.params["steps"], self.model.optimizer.ema_momentum))

    monkeypatch.setattr(fit, "LEAST_VIEWS", 1000)
    faces = styled_faces(30)
    train(faces, thirds(faces), RECIPE, tmp_path / "run", callbacks=[Count()])
    # At least 1,000 views in batches of 16, and an average over a twentieth of the steps.
    assert seen == [(63, pytest.approx(1 - 20 / (3 * 63)))]


def test_the_last_layer_learns_what_its_features_tell_of_the_errors() -> None:
    rng = np.random.default_rng(0)
    config = replace(TINY, input_size=(48, 56), keypoints=5, mean_xy=[[20.0, 20.0]] * 5)
    model = build_network(replace(config, styles=("a", "b")))
    images = rng.integers(0, 256, (60, 48, 56, 1), np.uint8)
    both = keras.Model(model.input, [model.get_layer("head").input, model.output])
    features, answers = both.predict(images, verbose=0)
    style = np.arange(60) % 2
    wrong = 3.0 + 40.0 * (features[:, :1] - features[:, :1].mean())
    xy = (
        answers[np.arange(60), style, :, :2] + np.where(style == 0, wrong[:, 0], 0.0)[:, None, None]
    )
    xy[:, 4] = np.nan
    landmark.refit_last_layer(model, features, answers, xy, style)
    after = model.predict(images, verbose=0)
    moved = after[..., :2] - answers[..., :2]
    rest = np.abs(after[style == 0, 0, :4, :2] - xy[style == 0, :4])
    assert rest.mean() < 0.6 * np.abs(answers[style == 0, 0, :4, :2] - xy[style == 0, :4]).mean()
    np.testing.assert_allclose(moved[:, 0, 4], 0.0, atol=1e-3)  # not labelled
    np.testing.assert_allclose(moved[:, 1], 0.0, atol=1e-3)  # nothing was wrong in that style
    np.testing.assert_allclose(after[..., 2], answers[..., 2], atol=1e-4)
