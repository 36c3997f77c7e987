from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import ENVIRONMENT, command_line
from conftest import TWO_GROUPS
from facial_keypoints.data.synthetic.faces import write_kaggle_folder
from facial_keypoints.training.recipes import RECIPES


def in_a_process(*words: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "facial_keypoints", *map(str, words)],
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, **env},
        timeout=280,
        check=False,
    )


def sentence(result: subprocess.CompletedProcess[str]) -> str:
    """The one sentence a failed command says."""
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture(scope="module")
def kaggle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small folder in Kaggle's format."""
    folder = tmp_path_factory.mktemp("kaggle") / "files"
    write_kaggle_folder(folder, train=90, test=12, seed=0)
    return folder


def test_help_opens_with_examples_and_lists_the_verbs() -> None:
    result = in_a_process("--help")
    assert result.returncode == 0
    assert result.stdout.count("facial-keypoints compare") >= 2
    for verb in ("compare", "train", "finetune", "sweep", "evaluate", "submit", "data"):
        assert verb in result.stdout


def test_no_verb_shows_the_help_and_wrong_usage_exits_2() -> None:
    assert "compare" in command_line().stdout
    assert command_line("compare").returncode == 2
    assert command_line("nonsense").returncode == 2
    assert command_line("compare", "fc", "nope", "-o", "x").returncode == 2


def test_choices_come_from_the_registry() -> None:
    text = command_line("train", "--help").stdout
    for recipe in RECIPES:
        assert recipe in text


def test_the_strategies_offered_are_those_there_are() -> None:
    from facial_keypoints.cli.options import MissingName
    from facial_keypoints.data.missing import MISSING_STRATEGIES

    assert {m.value for m in MissingName} == set(MISSING_STRATEGIES)


def test_version_lists_the_libraries() -> None:
    out = command_line("--version").stdout
    assert out.startswith("facial-keypoints ")
    assert "onnxruntime" in out


@pytest.mark.slow
def test_compare_on_kaggles_files_writes_everything(
    kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facial_keypoints.training import fit

    monkeypatch.setattr(fit, "SPECIALIST_GROUPS", TWO_GROUPS)
    out = tmp_path / "out"
    words = ["compare", "fc", "cnn", "specialists", "--data", kaggle, "-o", out]
    words += ["--epochs", "1", "--quick"]
    result = command_line(*words)
    assert result.returncode == 0, result.stderr
    names = {p.name for p in out.iterdir()}
    assert names >= {
        "results.json", "results.csv", "report.html", "split.json", "KEYPOINTS_0.png",
        "KEYPOINTS_1.png", "learning_curves.png", "keypoint_errors.png", "runs",
        "submission_fc.csv", "submission_cnn.csv", "submission_specialists.csv",
    }  # fmt: skip
    results = json.loads((out / "results.json").read_text())
    assert [r["name"] for r in results["recipes"]] == ["fc", "cnn", "specialists", "default"]
    assert {m["name"] for m in results["missing_results"]} >= {"mask", "interpolate", "drop"}
    for recipe in results["recipes"]:
        scores = recipe["report"]["overall"]
        assert scores["rmse_interval"][0] <= scores["rmse_px"] <= scores["rmse_interval"][1]
        assert set(recipe["report"]["by_style"]) == {"kaggle-a", "kaggle-b"}
    with (kaggle / "IdLookupTable.csv").open() as asked:
        wanted = [row["RowId"] for row in csv.DictReader(asked)]
    with (out / "submission_cnn.csv").open() as answered:
        rows = list(csv.DictReader(answered))
    assert [row["RowId"] for row in rows] == wanted
    assert all(0 <= float(row["Location"]) <= 96 for row in rows)
    assert (out / "KEYPOINTS_0.png").read_bytes().startswith(b"\x89PNG")
    # Once more over the same folder is refused; --resume finds all of it done.
    assert "--resume" in sentence(command_line(*words))
    again = command_line(*words, "--resume")
    assert again.returncode == 0, again.stderr
    assert json.loads((out / "results.json").read_text())["recipes"] == results["recipes"]


@pytest.mark.slow
def test_train_evaluate_and_submit(kaggle: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained = command_line("train", "fc", "--data", kaggle, "--epochs", "2", "-o", run)
    assert trained.returncode == 0, trained.stderr
    told = json.loads((run / "report.json").read_text())
    measured = command_line("evaluate", run, "--data", kaggle, "-o", tmp_path / "report.json")
    assert measured.returncode == 0, measured.stderr
    again = json.loads((tmp_path / "report.json").read_text())
    assert again["overall"]["rmse_px"] == pytest.approx(told["overall"]["rmse_px"], abs=1e-3)
    rows = json.loads((run / "run.json").read_text())["rows"]
    assert again["overall"]["num_faces"] == rows["test"]
    assert again["training_faces"] == rows["train"] + rows["val"]
    assert "are left out above" in " ".join(measured.stdout.split())
    out = tmp_path / "submission.csv"
    assert command_line("submit", run, "--data", kaggle, "-o", out).returncode == 0
    assert out.read_text().startswith("RowId,Location\n")
    assert "--force" in sentence(command_line("submit", run, "--data", kaggle, "-o", out))


def test_a_model_of_68_points_is_measured_on_faces_with_15(kaggle: Path, tmp_path: Path) -> None:
    refused = command_line("evaluate", "ibug68", "--data", kaggle)
    assert "--schema kaggle15" in sentence(refused)
    report = tmp_path / "report.json"
    command_line("evaluate", "ibug68", "--data", kaggle, "--schema", "kaggle15", "-o", report)
    assert "nose_tip" in report.read_text()
    assert (
        command_line("submit", "ibug68", "--data", kaggle, "-o", tmp_path / "s.csv").returncode == 0
    )
    assert len((tmp_path / "s.csv").read_text().splitlines()) > 4


@pytest.mark.parametrize("verb", ["compare", "train fc"])
def test_data_that_is_not_there_gets_a_sentence(verb: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [*verb.split(), "--data", tmp_path / "nowhere", "-o", out]
    assert "nowhere" in sentence(command_line(*words))
    assert not out.exists()


def test_a_broken_file_gets_a_sentence_with_row_and_column(kaggle: Path, tmp_path: Path) -> None:
    broken = tmp_path / "training.csv"
    lines = (kaggle / "training.csv").read_text().splitlines()
    lines[5] = lines[5].rsplit(" ", 1)[0] + " 300"
    broken.write_text("\n".join(lines) + "\n")
    message = sentence(command_line("compare", "--data", broken, "-o", tmp_path / "out"))
    assert "training.csv" in message
    assert "300" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_gets_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from facial_keypoints.errors import OutputError
    from facial_keypoints.files import atomic_path

    with (
        pytest.raises(OutputError, match="no space left"),
        atomic_path(tmp_path / "results.json"),
        Path("/dev/full").open("w") as full,
    ):
        full.write("x" * 100_000)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_gets_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*given: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("facial_keypoints.data.synthetic.faces.write_kaggle_folder", interrupted)
    end = command_line("data", "synthesize", "-o", tmp_path / "drawn")
    assert end.returncode == 130
    assert "interrupted: finished work is kept" in end.stderr


def test_a_missing_extra_names_the_install_command(tmp_path: Path) -> None:
    # A stand-in for an environment without Keras: the finder cannot find it.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "real = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n == 'keras' else real(n, *a)\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    result = in_a_process("compare", "-o", tmp_path / "out", PYTHONPATH=path)
    assert "pip install 'facial-keypoints[train]'" in sentence(result)
