"""The commands of ``references/``, as typed in a clone."""

import subprocess
import sys
from pathlib import Path

import pytest

CLONE = Path(__file__).parents[2]


def command(name, *words):
    line = [sys.executable, "-m", f"references.{name}", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, cwd=CLONE, check=False)


@pytest.mark.parametrize("name", ["landmark", "face_detector"])
def test_help_has_an_example(name):
    answer = command(name, "--help")
    assert answer.returncode == 0
    assert f"python -m references.{name} --data faces/" in " ".join(answer.stdout.split())


@pytest.mark.parametrize(
    ("name", "message"),
    [("landmark", "no labelled faces"), ("face_detector", "there is no")],
)
def test_a_folder_without_data_is_told_in_one_sentence(name, message, tmp_path):
    (tmp_path / "data").mkdir()
    answer = command(name, "--data", tmp_path / "data", "-o", tmp_path / "out")
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    [line] = [line for line in answer.stderr.splitlines() if line.startswith("error: ")]
    assert message in line


def test_the_defaults_are_those_of_the_configuration():
    pytest.importorskip("keras")
    from references.face_detector.train import FitConfig

    answer = " ".join(command("face_detector", "--help").stdout.split())
    assert f"({FitConfig.minutes:g})" in answer
    assert f"({FitConfig.rate:g})" in answer
