from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs import README, command_table, rewritten, study_table, verbs

CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)
STEP = re.compile(r"^\| \d\. .*?\| `(.*?)` \|", re.MULTILINE)  # of README's study
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


def test_the_readme_names_every_verb_as_the_help_does() -> None:
    text = README.read_text()
    assert rewritten(text) == text, "run make docs"
    assert len(list(verbs())) > 5
    assert command_table() in text


def options_of(words: list[str]) -> set[str]:
    return {w.split("=")[0] for w in words if w.startswith("-") and w != "-"}


def documented_commands() -> list[str]:
    files = [README, *sorted((README.parent / "docs").glob("*.md"))]
    lines = [
        line.split("#")[0].strip()
        for file in files
        for block in CONSOLE.findall(file.read_text())
        for line in block.splitlines()
    ]
    steps = [f"facial-keypoints {step}" for step in STEP.findall(README.read_text())]
    return [line for line in lines if re.match(r"(facial-keypoints|fkp) ", line)] + steps


@pytest.mark.parametrize("line", documented_commands())
def test_documented_commands_exist_with_their_options(line: str) -> None:
    import typer

    from facial_keypoints.cli import app

    words = line.split()[1:]
    command = typer.main.get_command(app)
    while words and hasattr(command, "commands") and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    assert not hasattr(command, "commands"), f"no such verb: {line}"
    known = {o for p in command.params for o in [*p.opts, *p.secondary_opts]} | {"--help", "-h"}
    assert options_of(words) <= known, line


def test_there_are_documented_commands_and_python() -> None:
    assert len(documented_commands()) >= 5
    assert PYTHON.findall(README.read_text())
    assert len(STEP.findall(README.read_text())) == 7


def test_the_readme_shows_the_results_and_the_images_of_the_study() -> None:
    text = README.read_text()
    table = study_table()
    assert table in text
    assert {"fc", "cnn", "cnn-flip"} <= set(re.findall(r"^\| `(.*?)` ", table, re.MULTILINE))
    images = [README.parent / path for path in re.findall(r"!\[.*?\]\((.*?)\)", text)]
    assert {"KEYPOINTS_0.png", "KEYPOINTS_1.png"} <= {image.name for image in images}
    assert [image for image in images if not image.is_file()] == []


@pytest.mark.slow
def test_the_readmes_python_runs(tmp_path: Path) -> None:
    pytest.importorskip("keras")
    code = "\n".join(PYTHON.findall(README.read_text()))
    # The example as printed, only shorter: fewer faces and one epoch.
    code = re.sub(r"draw_kaggle_like\(\d+", "draw_kaggle_like(90", code)
    code = re.sub(r"epochs=\d+", "epochs=1", code)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=240)


def test_the_architecture_page_names_what_is_there() -> None:
    import facial_keypoints

    text = (README.parent / "docs" / "architecture.md").read_text()
    package, clone = Path(facial_keypoints.__file__).parent, README.parent
    named = [
        name for name in re.findall(r"`([\w/]+(?:/|\.py))`", text) if "/" in name or "." in name
    ]
    assert len(named) > 30
    assert [n for n in named if not (package / n).exists() and not (clone / n).exists()] == []
