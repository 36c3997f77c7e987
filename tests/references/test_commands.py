"""The commands of ``references/``, as typed in a clone."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from references import run_command

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
    main = importlib.import_module(f"references.{name}.__main__").main
    words = ["--data", str(tmp_path / "data"), "-o", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=f"^error: .*{message}.*$"):
        run_command(lambda: main(words))


def test_the_defaults_are_those_of_the_configuration():
    pytest.importorskip("keras")
    from references.face_detector.train import FitConfig

    answer = " ".join(command("face_detector", "--help").stdout.split())
    assert f"({FitConfig.minutes:g})" in answer
    assert f"({FitConfig.rate:g})" in answer
