"""Many runs as one plan: what is trained, what is measured, what is left when something fails."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
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
from facial_keypoints.errors import DataError, OutputError
from facial_keypoints.evaluation.metrics import rmse
from facial_keypoints.models.codec import load_keras_model
from facial_keypoints.models.runtime import read_spec, read_training_digests
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.training import experiment as training_plan
from facial_keypoints.training.experiment import Outcome, Plan, PlannedRun, run_here, train_plan
from facial_keypoints.training.fit import (
    load_run,
    predict_keypoints,
    run_parts,
    split_folds,
    train,
    train_part,
)
from facial_keypoints.training.recipes import RECIPES
from facial_keypoints.types import FaceDataset, Keypoints, KeypointSchema

FC = RECIPES["fc"].override(epochs=2, batch_size=16)


def answered(plan: Plan, runs: Sequence[PlannedRun]) -> Iterator[tuple[PlannedRun, Outcome]]:
    """An executor whose answers are the truth moved by a pixel for each seed; nothing is trained."""
    for run in runs:
        split = plan.splits[run.fold]
        train(plan.dataset, split, run.recipe.override(epochs=1), plan.folder(run), seed=run.seed)
        truth = plan.dataset.keypoints.xy[split.test]
        yield run, np.nan_to_num(truth + 1 + run.seed, nan=0.0)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_runs_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    faces = dotted_faces(60)
    rows = np.arange(60)
    split = Split(rows[:20], rows[20:40], rows[40:])

    def names(splits: list[Split], seeds: range) -> list[str]:
        recipes = [RECIPES["fc"], RECIPES["cnn"]]
        return [run.name for run in Plan(faces, splits, recipes, seeds, tmp_path).runs]

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
    result = train_plan(dotted_faces(60), [FC], out, seeds=2)
    runs = [load_run(out / "runs" / name) for name in ("fc-seed0", "fc-seed1")]
    test = result.test
    answers = [predict_keypoints(run.load_model(), test.images) for run in runs]
    assert [recipe.name for recipe in result.recipes] == ["fc", "fc-ensemble"]
    np.testing.assert_allclose(result.recipes[1].predicted_xy, np.mean(answers, axis=0), atol=1e-4)
    lines = table(out / "runs.csv")
    assert [float(line["rmse_px"]) for line in lines] == pytest.approx(
        [rmse(test.keypoints.xy, answer) for answer in answers], abs=1e-3
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


def test_in_a_cross_validation_each_face_is_answered_once_by_a_run_that_has_not_seen_it(
    tmp_path: Path,
) -> None:
    faces = dotted_faces(60)
    result = train_plan(faces, [FC], tmp_path / "out", seeds=2, folds=3, execute=answered)
    assert sorted(result.test.sample_ids.tolist()) == sorted(faces.sample_ids.tolist())
    assert result.split == {"faces": 60, "folds": 3}
    # Seeds 0 and 1 are off by (1, 1) and (2, 2): RMSE 1 and, as their mean, 1.5.
    first, ensemble = result.recipes
    assert first.report.overall.rmse_px == pytest.approx(1.0, abs=1e-5)
    assert ensemble.report.overall.rmse_px == pytest.approx(1.5, abs=1e-5)
    assert first.settings["RMSE px of all seeds"] == "1.000, 2.000"
    _, splits, _ = split_folds(faces, 3)
    for fold, split in enumerate(splits):
        run = load_run(tmp_path / "out" / "runs" / f"fc-fold{fold}-seed0")
        np.testing.assert_array_equal(run.split.test, split.test)
        assert not set(run.split.train) & set(split.test)
    assert not (tmp_path / "out" / "ensembles").exists()  # it would have seen every face


def test_a_plan_goes_on_where_it_stopped_and_not_with_other_settings(tmp_path: Path) -> None:
    faces, out = dotted_faces(60), tmp_path / "out"

    def interrupted(plan: Plan, runs: Sequence[PlannedRun]) -> Iterator[tuple[PlannedRun, Outcome]]:
        yield next(iter(run_here(plan, runs)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_plan(faces, [FC], out, seeds=2, execute=interrupted)
    done = (out / "runs" / "fc-seed0" / "model.keras").stat().st_mtime_ns
    with pytest.raises(OutputError, match="exists already"):
        train_plan(faces, [FC], out, seeds=2)
    with pytest.raises(OutputError, match="begun with other seeds"):
        train_plan(faces, [FC], out, seeds=3, resume=True)
    with pytest.raises(OutputError, match="begun with other recipes"):
        train_plan(faces, [FC.override(epochs=9)], out, seeds=2, resume=True)
    with pytest.raises(OutputError, match="begun with other data digest"):
        train_plan(dotted_faces(60, seed=1), [FC], out, seeds=2, resume=True)
    asked = []

    def noted(plan: Plan, runs: Sequence[PlannedRun]) -> Iterator[tuple[PlannedRun, Outcome]]:
        asked.extend(run.name for run in runs)
        return run_here(plan, runs)

    train_plan(faces, [FC], out, seeds=2, resume=True, execute=noted)
    assert asked == ["fc-seed1"]
    assert (out / "runs" / "fc-seed0" / "model.keras").stat().st_mtime_ns == done
    assert (out / "results.json").exists()


def test_a_run_that_is_not_where_this_machine_looks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_plan, "_LATE_S", 0)

    def elsewhere(plan: Plan, runs: Sequence[PlannedRun]) -> Iterator[tuple[PlannedRun, Outcome]]:
        for run in runs:
            yield run, np.zeros((len(plan.splits[0].test), 15, 2), np.float32)

    with pytest.raises(DataError, match="1 of 1 runs failed, first fc: it was trained on a node"):
        train_plan(dotted_faces(60), [FC], tmp_path / "out", execute=elsewhere)


def test_a_plan_of_which_nothing_was_begun_can_be_given_again_and_other_files_stay(
    tmp_path: Path,
) -> None:
    def unreachable(plan: Plan, runs: Sequence[PlannedRun]) -> Iterator[tuple[PlannedRun, Outcome]]:
        raise OutputError("no cluster")

    faces, out = dotted_faces(60), tmp_path / "out"
    for seeds in (2, 3):  # with other settings too
        with pytest.raises(OutputError, match="no cluster"):
            train_plan(faces, [FC], out, seeds=seeds, execute=unreachable)
        assert not out.exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "plan.json").write_text('{"holiday": "sea"}')
    with pytest.raises(OutputError, match="exists already"):
        train_plan(faces, [FC], mine, execute=unreachable)
    assert "sea" in (mine / "plan.json").read_text()


def test_a_run_that_fails_leaves_the_others_and_their_results(tmp_path: Path) -> None:
    out = tmp_path / "out"
    wild = replace(FC.override(learning_rate=1e9), name="wild")
    with pytest.raises(DataError, match=r"1 of 2 runs failed, first wild: training diverged"):
        train_plan(dotted_faces(60), [wild, FC], out)
    assert [
        recipe["name"] for recipe in json.loads((out / "results.json").read_text())["recipes"]
    ] == ["fc"]
    lines = {line["run"]: line for line in table(out / "runs.csv")}
    assert "diverged" in lines["wild"]["failure"]
    assert lines["wild"]["rmse_px"] == ""
    assert float(lines["fc"]["rmse_px"]) > 0


def test_specialists_trained_part_by_part_are_those_trained_in_one_go(tmp_path: Path) -> None:
    every = dotted_faces(30, height=56, width=56)
    names = ("nose_tip", "left_eye_center", "right_eye_center")
    points = [KAGGLE15.index(name) for name in names]
    schema = KeypointSchema("three", names, swap=(0, 2, 1), norm_pair=names[1:])
    faces = FaceDataset(
        images=every.images,
        keypoints=Keypoints(every.keypoints.xy[:, points], schema),
        sample_ids=every.sample_ids,
    )
    recipe = RECIPES["specialists"].override(epochs=1, specialist_epochs=1, batch_size=32)
    split = split_folds(faces, 3)[1][0]
    whole = train(faces, split, recipe, tmp_path / "whole")
    parts = tmp_path / "parts"
    stages = run_parts(recipe, faces.schema)
    assert stages == [["base"], ["eye-centers", "nose-tip"]]
    assert run_parts(FC, faces.schema) == []
    for stage in stages:
        for part in reversed(stage):  # in any order
            train_part(faces, split, recipe, parts, part)
    trained = (parts / "specialists" / "nose-tip" / "checkpoint" / "latest" / "state.json").stat()
    joined = train(faces, split, recipe, parts, resume=True)
    assert trained.st_size > 0
    assert joined.train_seconds > 0
    for mine, theirs in zip(
        joined.load_model().get_weights(), whole.load_model().get_weights(), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cnn", "--folds", "2"], "--folds must be 3 or more"),
        (["cnn", "cnn"], "name each recipe once"),
        (["cnn", "fc", "--sweep", "x.yaml"], "--sweep takes one recipe"),
        (["cnn", "--sweep", "x.yaml", "--folds", "5"], "--sweep takes no --folds"),
        (["cnn", "--seeds", "2", "--cores", "2"], "--cores needs --address"),
        (["cnn", "--trials", "2"], "--trials belongs to --sweep"),
        (["cnn", "--address", "local", "--warm-start", "x"], "runs takes no --warm-start"),
        (["--from", "default", "--data", "x", "--seeds", "2"], "--from takes no --seeds"),
    ],
)
def test_flags_that_do_not_go_together_are_told(words: list[str], message: str) -> None:
    answer = CliRunner().invoke(app, ["train", *words, "-o", "out"], env={"COLUMNS": "200"})
    assert answer.exit_code == 2
    assert message in answer.output
