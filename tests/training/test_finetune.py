"""Fine-tuning: what is kept of the old model, what is learnt, and what is left behind."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import dotted_faces

keras = pytest.importorskip("keras")

from facial_keypoints.crops import letterbox
from facial_keypoints.data.duplicates import image_digests
from facial_keypoints.data.formats import save_dataset
from facial_keypoints.data.formats.faces import Photo
from facial_keypoints.data.synthetic.faces import draw_kaggle_like
from facial_keypoints.errors import DataError, ModelError, OutputError
from facial_keypoints.files import MARKER, mark_folder
from facial_keypoints.inference.predictor import load_predictor
from facial_keypoints.models.export import export_onnx
from facial_keypoints.models.landmark import NetworkConfig, Stage, build_network
from facial_keypoints.models.registry import OWN_DETECTOR, find_detector
from facial_keypoints.models.runtime import read_training_digests
from facial_keypoints.models.spec import ModelSpec, embed_digests, embed_spec
from facial_keypoints.models.study import build_fc
from facial_keypoints.models.tuned import LinearHead, backbone, build_tuned, read_head
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.training import finetune as finetuning
from facial_keypoints.training.augment import AugmentConfig
from facial_keypoints.training.closed_form_head import Examples, fit_start
from facial_keypoints.training.detector import FoundFaces
from facial_keypoints.training.finetune import VIEWS, _examples, _Views, finetune
from facial_keypoints.training.learning_curve import _with_twice, describe, learning_curve
from facial_keypoints.types import FaceDataset, Keypoints, KeypointSchema

pytestmark = pytest.mark.backends

SIZE = 32
TINY = NetworkConfig((Stage("res", 8, 1),), stem_channels=8, input_size=(SIZE, SIZE))


def saved(path: Path, network: keras.Model, spec: ModelSpec) -> Path:
    network.save(path)
    embed_spec(path, spec)
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained network with four label styles."""
    keras.utils.set_random_seed(3)
    spec = ModelSpec("tiny", KAGGLE15, (SIZE, SIZE), styles=KAGGLE15.styles, output="points")
    return saved(tmp_path_factory.mktemp("base") / "tiny.keras", build_network(TINY), spec)


def drawn(count: int, seed: int = 0) -> FaceDataset:
    """Drawn faces at the small network's size, each its own group, all 15 points labelled."""
    given = draw_kaggle_like(4 * count, seed=seed)
    given = given.subset(np.flatnonzero(given.keypoints.labeled.all(axis=1))[:count])
    fitted = [letterbox(image, (SIZE, SIZE), 1) for image in given.images]
    xy = [c.apply(p) for (_, c), p in zip(fitted, given.keypoints.xy, strict=True)]
    return FaceDataset(
        images=np.stack([image for image, _ in fitted]),
        keypoints=Keypoints(np.asarray(xy, np.float32), KAGGLE15),
        sample_ids=given.sample_ids,
        source="drawn faces",
    )


def relabelled(faces: FaceDataset, names: list[str], schema: KeypointSchema) -> FaceDataset:
    """The faces with only the named points, in another schema."""
    xy = np.full((len(faces), schema.num_keypoints, 2), np.nan, np.float32)
    for name in names:
        xy[:, schema.index(name)] = faces.keypoints.xy[:, KAGGLE15.index(name)]
    return replace(faces, keypoints=Keypoints(xy, schema))


def lowered(faces: FaceDataset) -> FaceDataset:
    """The faces by rules of another annotator, who sets every point 2 px lower."""
    return replace(faces, keypoints=Keypoints(faces.keypoints.xy + np.float32([0, 2]), KAGGLE15))


def error_px(predicted: np.ndarray, faces: FaceDataset) -> float:
    return float(np.nanmean(np.linalg.norm(predicted - faces.keypoints.xy, axis=-1)))


# The closed-form start


def test_the_head_predicts_from_features_what_the_network_predicts() -> None:
    network = build_network(TINY)
    images = np.random.default_rng(0).uniform(0, 255, (3, SIZE, SIZE, 1)).astype(np.float32)
    features = backbone(network).predict(images, verbose=0)
    expected = network.predict(images, verbose=0)
    np.testing.assert_allclose(read_head(network)(features), expected, atol=1e-4)


def test_a_new_network_predicts_what_its_head_does() -> None:
    features = backbone(build_network(TINY))
    rng = np.random.default_rng(0)
    width = features.output_shape[1]
    start = LinearHead(rng.normal(0, 0.01, (width, 1, 20, 3)), rng.uniform(0, 2, (1, 20, 3)))
    model = build_tuned(features, start, rng.uniform(0, SIZE, (20, 2)))
    images = rng.uniform(0, 255, (2, SIZE, SIZE, 1)).astype(np.float32)
    assert model.output_shape == (None, 1, 20, 3)
    expected = start(features.predict(images, verbose=0))
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, atol=1e-3)


def examples(xy: np.ndarray, features: np.ndarray, labelled: np.ndarray | None = None) -> Examples:
    n = len(xy)
    seen = np.ones(xy.shape[:2], bool) if labelled is None else labelled
    return Examples(features, xy, seen, np.arange(n) % 5, n)


def random_points(n: int = 40) -> tuple[np.ndarray, LinearHead]:
    rng = np.random.default_rng(1)
    before = LinearHead(rng.normal(size=(12, 3, 4, 3)), rng.uniform(20, 60, (3, 4, 3)))
    before.kernel[..., 2], before.bias[..., 2] = 0.0, 0.0  # expected error 2 px everywhere
    return rng.normal(size=(n, 12)), before


def test_an_offset_from_one_style_is_found_exactly() -> None:
    features, before = random_points()
    xy = before(features)[:, 1, :, :2][:, [2, 0]] + np.array([[3.0, -1.0], [0.5, 2.0]])
    start = fit_start(examples(xy, features), before, np.array([2, 0]))
    assert start.style == 1
    np.testing.assert_allclose(start.head(features)[:, 0, :, :2], xy, atol=0.05)
    np.testing.assert_allclose(start.out_of_fold, xy, atol=0.05)


def test_points_that_fit_as_they_are_stay_as_they_are() -> None:
    features, before = random_points()
    noise = np.random.default_rng(5).normal(0, 1.0, (40, 4, 2))
    xy = before(features)[:, 1, :, :2] + noise - noise.mean(axis=0)
    start = fit_start(examples(xy, features), before, np.arange(4))
    assert start.choices == {"known": "none"}
    np.testing.assert_allclose(start.head.kernel[:, 0], before.kernel[:, 1])


def test_a_point_that_depends_on_old_ones_is_learnt_from_them() -> None:
    features, before = random_points()
    old = before(features)[:, 0, :, :2]
    xy = (0.7 * old[:, 0] + 0.4 * old[:, 2] - 3.0)[:, None]
    start = fit_start(examples(xy, features), before, np.array([-1]))
    spread = np.linalg.norm(xy - xy.mean(axis=0), axis=-1).mean()
    assert start.errors_px["new"] < 0.1 * spread
    np.testing.assert_allclose(start.anchor_xy, xy.mean(axis=0))


def test_noise_leaves_known_points_at_their_offset() -> None:
    features, before = random_points(12)
    rng = np.random.default_rng(2)
    xy = before(features)[:, 0, :, :2] + 2.0 + rng.normal(0, 3.0, (12, 4, 2))
    start = fit_start(examples(xy, features), before, np.arange(4))
    moved = start.head(features)[:, 0, :, :2] - before(features)[:, 0, :, :2]
    assert np.abs(moved - 2.0).mean() < 1.5  # the noise itself moves points by 2.4
    # 2 exp(log scale) is the expected error, and here it is known: 3 px in x and y.
    expected = 2.0 * np.exp(start.head(features)[:, 0, :, 2]).mean()
    assert expected == pytest.approx(3.0 * np.sqrt(np.pi / 2), rel=0.4)


def test_unlabelled_points_change_nothing() -> None:
    features, before = random_points()
    xy = before(features)[:, 2, :, :2] + 1.0
    labelled = np.random.default_rng(0).random(xy.shape[:2]) < 0.6
    one = fit_start(examples(np.where(labelled[..., None], xy, 0.0), features, labelled), before, np.array([0, 1, -1, 3]))  # fmt: skip
    two = fit_start(examples(np.where(labelled[..., None], xy, 500.0), features, labelled), before, np.array([0, 1, -1, 3]))  # fmt: skip
    np.testing.assert_allclose(one.head.kernel, two.head.kernel)
    np.testing.assert_allclose(one.head.bias, two.head.bias)


# Views and parts


def test_points_move_with_their_image() -> None:
    faces = dotted_faces(24, height=SIZE, width=SIZE)
    faces = replace(faces, images=np.where(faces.images == 255, 255, 0).astype(np.uint8))
    still = AugmentConfig(
        angle=20.0, scale=1.2, shift=6.0, wide=0.0, light=0, blur=0, low_resolution=0, noise=0,
        jpeg=0, occlusion=0,
    )  # fmt: skip
    views = _Views(faces, still, seed=0)
    images, xy, weight = (
        keras.ops.convert_to_numpy(a)
        for a in views(faces.images[..., 0].astype(np.float32), views.xy, views.weight)
    )
    # The bright dot is the left eye's centre; in a mirrored view it is the right eye's.
    mass = images[..., 0] / np.maximum(images.sum(axis=(1, 2)), 1e-6)[:, None]
    grid = np.arange(SIZE)
    dot = np.stack(
        [(mass.sum(axis=1) * grid).sum(axis=1), (mass.sum(axis=2) * grid).sum(axis=1)], 1
    )
    seen = images.sum(axis=(1, 2, 3)) > 100
    distance = np.linalg.norm(xy[:, :2] - dot[:, None], axis=-1).min(axis=1)[seen]
    assert seen.sum() > 15
    assert np.median(distance) < 0.4
    assert weight.sum() == views.weight.sum()


def test_a_group_lies_in_one_fold_with_all_its_views() -> None:
    faces = dotted_faces(20, height=SIZE, width=SIZE)
    people = np.repeat([f"p{i}" for i in range(7)], 3)[:20]
    found, folds = _examples(replace(faces, groups=people), backbone(build_network(TINY)), seed=0)
    fold = found.fold.reshape(-1, 20)
    assert len(fold) == VIEWS
    assert (fold == fold[0]).all()
    assert all(len(set(fold[0][people == p])) == 1 for p in np.unique(people))
    assert len(set(fold[0])) == folds == 5
    np.testing.assert_array_equal(found.xy[:20], np.nan_to_num(faces.keypoints.xy))


def test_fewer_groups_than_folds_make_fewer_folds() -> None:
    faces = dotted_faces(9, height=SIZE, width=SIZE)
    people = np.repeat(["a", "b", "c"], 3)
    found, folds = _examples(replace(faces, groups=people), backbone(build_network(TINY)), seed=0)
    assert folds == 3
    assert len({*zip(people, found.fold[:9].tolist(), strict=True)}) == len({*found.fold}) == 3


# Whole runs


def test_a_fine_tuned_model_beats_its_base_and_opens_like_any_other(
    base: Path, tmp_path: Path
) -> None:
    mine, others = lowered(drawn(24)), lowered(drawn(24, seed=9))
    run = finetune(mine, tmp_path / "run", base=base)
    as_is = [
        error_px(load_predictor(base, style=s).predict_batch(others.images).xy, others)
        for s in KAGGLE15.styles
    ]
    predictor = load_predictor(tmp_path / "run")
    answers = predictor.predict_batch(others.images)
    assert error_px(answers.xy, others) < 0.8 * min(as_is)
    assert answers.confidence is not None
    assert ((answers.confidence >= 0) & (answers.confidence <= 1)).all()
    assert predictor.spec.name == "tiny-tuned"
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        MARKER, "model.keras", "run.json", "schema.json", "settings.json",
    ]  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    settings = json.loads((tmp_path / "run/run.json").read_text())
    assert settings["base"]["name"] == "tiny"
    assert settings["faces"] == len(mine) == len(run.faces)
    # The cross-validated error is close to the error on other faces.
    estimated = error_px(run.predicted_xy, run.faces)
    assert estimated == pytest.approx(error_px(answers.xy, others), rel=0.35)

    if keras.backend.backend() != "tensorflow":
        return  # the other backends export with packages that the tests do without
    export_onnx(tmp_path / "run", tmp_path / "mine.onnx", samples=mine.images)
    exported = load_predictor(tmp_path / "mine.onnx").predict_batch(others.images)
    np.testing.assert_allclose(exported.xy, answers.xy, atol=1e-2)


def test_a_tuned_model_can_be_tuned_again(base: Path, tmp_path: Path) -> None:
    finetune(drawn(12), tmp_path / "one", base=base)
    run = finetune(drawn(12, seed=4), tmp_path / "two", base=tmp_path / "one")
    assert run.spec.name == "tiny-tuned"
    assert error_px(run.predicted_xy, run.faces) < error_px(run.base_xy, run.faces) + 0.5


@pytest.fixture
def few_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two views of a face, where the error does not matter."""
    monkeypatch.setattr(finetuning, "VIEWS", 2)


@pytest.mark.usefixtures("few_views")
def test_no_error_is_given_where_nothing_shows_that_on_new_faces(
    base: Path, tmp_path: Path
) -> None:
    every = drawn(11)
    faces = every.subset(np.arange(8))
    alone = finetune(replace(faces, groups=np.full(8, "me")), tmp_path / "alone", base=base)
    assert alone.folds == 1
    assert np.isnan(alone.predicted_xy).all()
    assert alone.record["out_of_fold_px"] is None
    # Three of the faces are those that the base was trained on.
    both = every.subset(np.arange(5, 11))
    again = finetune(both, tmp_path / "again", base=tmp_path / "alone")
    assert again.known_faces.tolist() == [True] * 3 + [False] * 3
    assert np.isnan(again.predicted_xy[:3]).all()
    assert np.isfinite(again.predicted_xy[3:]).all()


@pytest.mark.usefixtures("few_views")
def test_one_seed_gives_one_model(base: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        finetune(drawn(8), tmp_path / name, base=base, seed=1)
    a, b = (load_predictor(tmp_path / n).predict_batch(drawn(8).images).xy for n in ("a", "b"))
    np.testing.assert_allclose(a, b, atol=1e-3)


def test_other_points_and_points_labelled_on_one_side(base: Path, tmp_path: Path) -> None:
    names = ("chin", "mouth_left_corner", "mouth_right_corner", "left_eye_center", "never")
    schema = KeypointSchema("mine", names, (0, 2, 1, 3, 4), names[1:3])
    faces = relabelled(drawn(12), ["mouth_left_corner"], schema)
    faces.keypoints.xy[:, 0] = [16.0, 30.0]
    faces = replace(faces, keypoints=Keypoints(faces.keypoints.xy, schema))
    run = finetune(faces, tmp_path / "run", base=base)
    # The right corner is learnt from mirrored left ones; what nobody labelled is left out.
    assert run.spec.schema.keypoint_names == names[:3]
    assert np.isnan(run.base_xy[:, 0]).all()
    answers = load_predictor(tmp_path / "run").predict_batch(drawn(12).images).xy
    truth = drawn(12).keypoints.xy
    assert np.abs(answers[:, 0] - [16.0, 30.0]).max() < 4.0
    right = np.linalg.norm(answers[:, 2] - truth[:, KAGGLE15.index("mouth_right_corner")], axis=-1)
    assert right.mean() < 3.0


@pytest.mark.usefixtures("few_views")
def test_interruption_leaves_what_was_there(base: Path, tmp_path: Path) -> None:
    def stop(words: str) -> None:
        if words.startswith("fitting"):
            raise KeyboardInterrupt

    mark_folder(tmp_path / "old", "train")
    (tmp_path / "old/note.txt").write_text("mine")
    for name, force in (("new", False), ("old", True)):
        with pytest.raises(KeyboardInterrupt):
            finetune(drawn(8), tmp_path / name, base=base, force=force, report=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old/note.txt").read_text() == "mine"
    with pytest.raises(OutputError, match="exists already"):
        finetune(drawn(8), tmp_path / "old", base=base)


def test_too_few_labels_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 4 labelled faces"):
        finetune(drawn(4), tmp_path / "run", base=base)
    names = ("nose_tip", "chin")
    faces = relabelled(drawn(9), ["nose_tip"], KeypointSchema("n", names, (0, 1), names))
    faces.keypoints.xy[:3, 1] = 5.0
    faces = replace(faces, keypoints=Keypoints(faces.keypoints.xy, faces.schema))
    with pytest.raises(DataError, match="labels 'chin' in 3 faces"):
        finetune(faces, tmp_path / "run", base=base)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("few_views")
def test_images_of_any_size_and_colour_are_taken(base: Path, tmp_path: Path) -> None:
    faces = drawn(8)
    large = faces.images.repeat(2, axis=1).repeat(2, axis=2).repeat(3, axis=3)
    xy = 2.0 * faces.keypoints.xy + 0.5
    run = finetune(
        replace(faces, images=large, keypoints=Keypoints(xy, KAGGLE15)), tmp_path / "a", base=base
    )
    assert run.faces.images.shape == faces.images.shape
    np.testing.assert_allclose(run.faces.keypoints.xy, faces.keypoints.xy, atol=1e-3)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch of all weights, tried from 20 faces on."""
    monkeypatch.setattr(finetuning, "EPOCHS", 1)
    monkeypatch.setattr(finetuning, "HUNDREDS", 20)
    monkeypatch.setattr("facial_keypoints.training.fit.LEAST_VIEWS", 32)


@pytest.mark.usefixtures("few_views", "short")
@pytest.mark.parametrize("better", ["head", "all"])
def test_the_better_method_on_held_out_faces_is_kept(
    better: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if better == "all":  # the head predicts nonsense
        monkeypatch.setattr(LinearHead, "__call__", lambda head, features: 99.0 + np.zeros((len(features), *head.bias.shape)))  # fmt: skip
    else:  # so does the network
        monkeypatch.setattr(finetuning, "predict_run", lambda run, faces: 99.0 + 0.0 * np.nan_to_num(faces.keypoints.xy))  # fmt: skip
    faces = drawn(24)
    run = finetune(faces, tmp_path / "run", base=base)
    assert run.record["method"] == better
    compared = run.record["compared"]
    assert (compared["all_px"] < compared["head_px"]) == (better == "all")
    assert [point["share"] for point in run.record["learning_curve"]] in ([], [0.25, 0.5, 1.0, 2.0])
    assert not (tmp_path / "run/all").exists()
    assert load_predictor(tmp_path / "run").predict_batch(faces.images).xy.shape == (24, 15, 2)
    if better == "all":
        # Measured on faces that were not trained on.
        assert run.split is not None
        assert len(run.faces) == len(run.split.test) == len(run.predicted_xy)
        assert run.spec.name == "landmark"
    else:
        assert len(run.faces) == 24


@pytest.mark.usefixtures("few_views")
def test_the_run_folder_brings_the_detector_that_was_trained_with_it(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [Photo(np.zeros((40, 60), np.uint8), np.zeros((0, 4), np.float32))]

    def training(given: list[Photo], path: Path, **_: object) -> FoundFaces:
        assert given is photos
        shutil.copy(find_detector(), path)
        return FoundFaces(2, 5, 4, 1, 0.5)

    monkeypatch.setattr(finetuning, "train_detector", training)
    run = finetune(drawn(8), tmp_path / "run", base=base, photos=photos)
    assert run.record["detector"]["found"] == 4
    own = tmp_path / "run" / OWN_DETECTOR
    assert load_predictor(tmp_path / "run").detector.path == own  # type: ignore[attr-defined]
    assert load_predictor(tmp_path / "run", detector=find_detector()).detector.path != own  # type: ignore[attr-defined]


@pytest.mark.usefixtures("short")
def test_few_groups_cannot_train_all_weights(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="use the method head"):
        finetune(drawn(12), tmp_path / "run", base=base, method="all")


def test_the_command_line_offers_the_methods() -> None:
    from facial_keypoints.cli.finetune import MethodName

    assert tuple(MethodName) == finetuning.METHODS


# The learning curve


def test_twice_the_labels_are_extrapolated_along_a_power_law() -> None:
    n = np.array([25, 50, 100, 200])
    errors = 3.0 + 20.0 * n**-0.7
    np.testing.assert_allclose(_with_twice(errors[:3]), errors)
    np.testing.assert_allclose(_with_twice(np.array([4.0, 3.0, 3.2]))[-1], 3.2)  # no gain is seen
    np.testing.assert_allclose(
        _with_twice(np.array([4.0, 3.9, 3.5]))[-1], 3.1
    )  # no larger gain than before


def test_the_curve_falls_with_the_number_of_groups() -> None:
    features, before = random_points(120)
    rng = np.random.default_rng(4)
    old = before(features)[:, 0, :, :2]
    xy = 0.5 * old[:, :3] + 0.5 * old[:, 1:4] + rng.normal(0, 1.0, (120, 3, 2))
    groups = np.repeat([f"g{i:02d}" for i in range(60)], 2)
    fold = np.repeat(np.random.default_rng(0).permutation(60) % 5, 2)
    seen = Examples(features, xy, np.ones((120, 3), bool), fold, 120)
    schema = KeypointSchema("mine", ("a", "b", "c"), (0, 1, 2), ("a", "b"))
    faces = FaceDataset(
        np.zeros((120, 8, 8, 1), np.uint8), Keypoints(xy, schema), groups, groups=groups
    )
    known = np.full(3, -1)
    curve = learning_curve(faces, seen, before, known, fit_start(seen, before, known).out_of_fold)
    assert [(p.share, p.faces) for p in curve] == [(0.25, 30), (0.5, 60), (1.0, 120), (2.0, 240)]
    errors = [p.nme for p in curve]
    assert errors == sorted(errors, reverse=True)
    assert all(p.interval.low < p.nme < p.interval.high for p in curve[:3])
    told = describe([{**vars(p), "interval": list(p.interval)} for p in curve])
    assert told[1].startswith("twice the labels (240 faces): about ")
    few = faces.subset(slice(0, 30))
    assert learning_curve(few, seen.subset(np.arange(30)), before, known, xy[:30]) == ()


def test_models_that_cannot_be_fine_tuned_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is an ONNX model"):
        finetune(dotted_faces(9), tmp_path / "run", base=tmp_path / "x.onnx")
    spec = ModelSpec("fc", KAGGLE15, (SIZE, SIZE))
    fc = saved(tmp_path / "fc.keras", build_fc(15, (SIZE, SIZE)), spec)
    with pytest.raises(ModelError, match="cannot be fine-tuned"):
        finetune(drawn(8), tmp_path / "run", base=fc)


@pytest.mark.usefixtures("few_views")
def test_the_command_line_fine_tunes_on_a_users_files(base: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from facial_keypoints.cli import app

    save_dataset(drawn(8), tmp_path / "mine", "csv")
    (tmp_path / "mine.json").write_text(
        json.dumps(
            {
                "keypoints": list(KAGGLE15.keypoint_names),
                "pairs": [["left_eye_center", "right_eye_center"]],
            }
        )
    )
    words = ["finetune", str(base), "--data", str(tmp_path / "mine")]
    words += ["--schema", str(tmp_path / "mine.json"), "-o", str(tmp_path / "run")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "cross-validation over 8 faces" in result.output
    assert json.loads((tmp_path / "run/report.json").read_text())["schema_name"] == "mine"
    # The faces of the fit are not counted as held-out faces.
    words = ["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "mine")]
    result = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "again.json")])
    assert result.exit_code == 0, result.output
    assert "All 8 faces are training or validation faces" in result.output
    told = json.loads((tmp_path / "again.json").read_text())
    assert told["training_faces"] == told["on_training_faces"]["overall"]["num_faces"] == 8


@pytest.mark.usefixtures("few_views")
def test_the_bases_training_faces_are_the_new_models_too(tmp_path: Path) -> None:
    spec = ModelSpec("tiny", KAGGLE15, (SIZE, SIZE), styles=KAGGLE15.styles, output="points")
    base = saved(tmp_path / "tiny.keras", build_network(TINY), spec)
    faces, before = drawn(8), image_digests(drawn(5, seed=1).images)
    embed_digests(base, before)
    finetune(faces, tmp_path / "run", base=base)
    assert read_training_digests(tmp_path / "run") == {*before, *image_digests(faces.images)}
