"""Every script of examples/ runs as a user runs it, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs_and_leaves_what_it_promises(script: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=250,
        env={**os.environ, "TERM": "dumb"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()), "an example writes what it made into the folder"


def test_there_are_examples() -> None:
    assert {"align", "measure", "photo", "track"} <= {path.stem for path in EXAMPLES}
