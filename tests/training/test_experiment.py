"""Experiments: what is trained, what is measured, what is left when something fails."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from conftest import dotted_faces

keras = pytest.importorskip("keras")

from facial_keypoints.cli import app
from facial_keypoints.data.duplicates import image_digests
from facial_keypoints.data.splits import Split
from facial_keypoints.errors import DataError, MissingExtraError, OutputError
from facial_keypoints.evaluation import pages
from facial_keypoints.evaluation.metrics import rmse
from facial_keypoints.models.keras_model import load_keras_model
from facial_keypoints.models.runtime import read_spec, read_training_digests
from facial_keypoints.training import experiment
from facial_keypoints.training.experiment import Experiment, compare
from facial_keypoints.training.fit import predict_keypoints, split_faces, train
from facial_keypoints.training.recipes import RECIPES
from facial_keypoints.training.run_folder import Run, load_run
from facial_keypoints.training.tune import Outcome, TrainingTask
from facial_keypoints.types import FaceDataset, Keypoints

FC = RECIPES["fc"].override(epochs=2, batch_size=16)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_names_of_runs_hold_what_differs(tmp_path: Path) -> None:
    faces = dotted_faces(60)
    rows = np.arange(60)
    split = Split(rows[:20], rows[20:40], rows[40:])

    def names(splits: list[Split], seeds: range) -> list[str]:
        recipes = [RECIPES["fc"], RECIPES["cnn"]]
        return [task.name for task in Experiment(faces, splits, recipes, seeds, tmp_path).tasks]

    assert names([split], range(1)) == ["fc", "cnn"]
    assert names([split], range(3, 5)) == ["fc-seed3", "fc-seed4", "cnn-seed3", "cnn-seed4"]
    assert names([split, split], range(1)) == ["fc-fold0", "fc-fold1", "cnn-fold0", "cnn-fold1"]
    assert names([split, split], range(2))[:3] == [
        "fc-fold0-seed0",
        "fc-fold0-seed1",
        "fc-fold1-seed0",
    ]


def test_seeds_are_measured_one_by_one_and_as_an_ensemble(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = compare(dotted_faces(60), [FC], out, seeds=2)
    runs = [load_run(out / "runs" / name) for name in ("fc-seed0", "fc-seed1")]
    test = result.test
    predicted = [predict_keypoints(run.load_model(), test.images) for run in runs]
    assert [recipe.name for recipe in result.recipes] == ["fc", "fc-ensemble"]
    np.testing.assert_allclose(
        result.recipes[1].predicted_xy, np.mean(predicted, axis=0), atol=1e-4
    )
    lines = table(out / "runs.csv")
    assert [float(line["rmse_px"]) for line in lines] == pytest.approx(
        [rmse(test.keypoints.xy, xy) for xy in predicted], abs=1e-3
    )
    # The ensemble is a model like any other.
    ensemble = out / "ensembles" / "fc"
    one = predict_keypoints(load_keras_model(ensemble / "model.keras"), test.images)
    np.testing.assert_allclose(one, result.recipes[1].predicted_xy, atol=1e-3)
    assert read_spec(ensemble / "model.keras").schema == test.schema
    seen = read_training_digests(ensemble)
    assert seen
    assert seen == frozenset().union(*(read_training_digests(run.directory) or () for run in runs))
    assert seen.isdisjoint(image_digests(test.images))
    np.testing.assert_array_equal(Split.load(ensemble / "split.json").test, runs[0].split.test)
    # The first seed's weights are those of `train` by itself.
    alone = train(dotted_faces(60), runs[0].split, FC, tmp_path / "alone", seed=0)
    for mine, theirs in zip(
        alone.load_model().get_weights(), runs[0].load_model().get_weights(), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
    assert "fc-ensemble" in (out / "report.html").read_text()


def test_in_a_cross_validation_each_face_is_predicted_once_by_a_run_not_trained_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces, out = dotted_faces(60), tmp_path / "out"

    def predict(run: Run, test: FaceDataset) -> np.ndarray:
        """The truth moved by a pixel for each seed."""
        assert run.split is not None
        return np.nan_to_num(test.keypoints.xy + 1 + run.record["seed"], nan=0.0)

    monkeypatch.setattr(experiment, "predict_run", predict)
    result = compare(faces, [FC.override(epochs=1)], out, seeds=2, folds=3)
    assert sorted(result.test.sample_ids.tolist()) == sorted(faces.sample_ids.tolist())
    assert result.split == {"faces": 60, "folds": 3}
    # Seeds 0 and 1 are off by (1, 1) and (2, 2): RMSE 1 and, as their mean, 1.5.
    first, ensemble = result.recipes
    assert first.report.overall.rmse_px == pytest.approx(1.0, abs=1e-5)
    assert ensemble.report.overall.rmse_px == pytest.approx(1.5, abs=1e-5)
    assert first.settings["RMSE px of all seeds"] == "1.000, 2.000"
    _, splits, _ = split_faces(faces, folds=3)
    for fold, split in enumerate(splits):
        trained = load_run(out / "runs" / f"fc-fold{fold}-seed0").split
        assert trained is not None
        np.testing.assert_array_equal(trained.test, split.test)
        assert not set(trained.train) & set(split.test)
    assert not (out / "ensembles").exists()  # it would have seen every face
    assert not (out / "split.json").exists()


def test_an_experiment_is_resumed_but_not_with_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces, out = dotted_faces(60), tmp_path / "out"
    trained: list[str] = []

    def interrupted(*given: object, **options: object) -> Run:
        if trained:
            raise KeyboardInterrupt
        return noted(*given, **options)

    def noted(*given: object, **options: object) -> Run:
        trained.append(Path(str(given[3])).name)
        return train(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(experiment, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(faces, [FC], out, seeds=2)
    done = (out / "runs" / "fc-seed0" / "model.keras").stat().st_mtime_ns
    with pytest.raises(OutputError, match="exists already"):
        compare(faces, [FC], out, seeds=2)
    with pytest.raises(OutputError, match="begun with other seeds"):
        compare(faces, [FC], out, seeds=3, resume=True)
    with pytest.raises(OutputError, match="begun with other recipes"):
        compare(faces, [FC.override(epochs=9)], out, seeds=2, resume=True)
    with pytest.raises(OutputError, match="begun with other data digest"):
        compare(dotted_faces(60, seed=1), [FC], out, seeds=2, resume=True)
    monkeypatch.setattr(experiment, "train", noted)
    trained.clear()
    compare(faces, [FC], out, seeds=2, resume=True)
    assert trained == ["fc-seed1"]
    assert (out / "runs" / "fc-seed0" / "model.keras").stat().st_mtime_ns == done
    assert (out / "results.json").exists()


def replace_ray(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[Sequence[TrainingTask]], list[Outcome]]
) -> None:
    """Call ``run`` instead of training on Ray."""
    monkeypatch.setattr(experiment, "_LATE_S", 0)
    monkeypatch.setattr(
        experiment,
        "train_in_parallel",
        lambda dataset, splits, tasks, directory, **options: run(tasks),
    )


def test_a_run_folder_that_this_machine_does_not_see_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_ray(
        monkeypatch, lambda tasks: [Outcome(task.name, "finished", 2, 1.0) for task in tasks]
    )
    with pytest.raises(DataError, match="1 of 1 runs failed, first fc: it was trained on a node"):
        compare(dotted_faces(60), [FC], tmp_path / "out", address="local")
    # The number of threads decides a network's last digits.
    with pytest.raises(OutputError, match="begun with other cores"):
        compare(dotted_faces(60), [FC], tmp_path / "out", address="local", cores=2, resume=True)


def test_a_folder_is_removed_when_nothing_was_begun_and_other_files_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(tasks: object) -> list[Outcome]:
        raise OutputError("no cluster")

    replace_ray(monkeypatch, unreachable)
    faces, out = dotted_faces(60), tmp_path / "out"
    for seeds in (2, 3):  # with other settings too
        with pytest.raises(OutputError, match="no cluster"):
            compare(faces, [FC], out, seeds=seeds, address="local")
        assert not out.exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "settings.json").write_text('{"holiday": "sea"}')
    with pytest.raises(OutputError, match="exists already"):
        compare(faces, [FC], mine)
    assert "sea" in (mine / "settings.json").read_text()


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_libraries_of_the_report_are_required_before_training(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages._environment.cache_clear()
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=library):
        compare(dotted_faces(60), [FC], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_specialists_start_from_the_cnn_of_the_same_seed_and_come_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[list[TrainingTask]] = []

    def failing(tasks: Sequence[TrainingTask]) -> list[Outcome]:
        stages.append(list(tasks))
        return [Outcome(task.name, "failed", 0, 0.0, "no") for task in tasks]

    replace_ray(monkeypatch, failing)
    recipes = [RECIPES["specialists"], RECIPES["cnn"]]
    with pytest.raises(DataError, match="4 of 4 runs failed"):
        compare(dotted_faces(60), recipes, tmp_path / "out", seeds=2, address="local")
    assert [[task.name for task in stage] for stage in stages] == [
        ["cnn-seed0", "cnn-seed1"],
        ["specialists-seed0", "specialists-seed1"],
    ]
    bases = [str(task.warm_start) for task in stages[1]]
    assert [Path(base).name for base in bases] == ["cnn-seed0", "cnn-seed1"]


def test_a_recipe_is_trained_with_each_strategy_for_missing_labels(tmp_path: Path) -> None:
    said: list[str] = []
    faces = dotted_faces(60)
    xy = faces.keypoints.xy.copy()
    xy[::2, 0] = xy[1::2, 1] = np.nan  # so 'drop' leaves no row
    faces = replace(faces, keypoints=Keypoints(xy, faces.schema))
    result = compare(faces, [FC], tmp_path / "out", missing_recipe=FC, say=said.append)
    assert [r.name for r in result.missing_results] == ["interpolate", "mean", "ffill", "mask"]
    assert any(line.startswith("fc-drop: ") for line in said)
    own, shown = result.recipes[0].report.overall, result.missing_results[-1].report.overall
    assert shown.rmse_px == own.rmse_px
    assert sorted(p.name for p in (tmp_path / "out" / "runs").iterdir()) == [
        "fc", "fc-ffill", "fc-interpolate", "fc-mean",
    ]  # fmt: skip


def test_a_run_that_fails_leaves_the_others_and_their_results(tmp_path: Path) -> None:
    out = tmp_path / "out"
    wild = replace(FC.override(learning_rate=1e9), name="wild")
    with pytest.raises(DataError, match=r"1 of 2 runs failed, first wild: training diverged"):
        compare(dotted_faces(60), [wild, FC], out)
    assert [
        recipe["name"] for recipe in json.loads((out / "results.json").read_text())["recipes"]
    ] == ["fc"]
    lines = {line["run"]: line for line in table(out / "runs.csv")}
    assert "diverged" in lines["wild"]["failure"]
    assert lines["wild"]["rmse_px"] == ""
    assert float(lines["fc"]["rmse_px"]) > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cnn", "--folds", "2"], "--folds must be 3 or more"),
        (["cnn", "cnn"], "name each recipe once"),
        (["cnn", "--seeds", "2", "--cores", "2"], "--cores and --gpus need --address"),
    ],
)
def test_contradicting_flags_are_refused(words: list[str], message: str) -> None:
    answer = CliRunner().invoke(app, ["compare", *words, "-o", "out"], env={"COLUMNS": "200"})
    assert answer.exit_code == 2
    assert message in answer.output
