"""The notebook runs from top to bottom, and its two files tell the same story."""

from __future__ import annotations

from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext")
nbclient = pytest.importorskip("nbclient")

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "facial-keypoints-detection.ipynb"
TEXT = NOTEBOOK.with_suffix(".py")


def test_the_notebook_and_its_text_pair_agree() -> None:
    def cells(path: Path) -> list[tuple[str, str]]:
        return [(c.cell_type, c.source) for c in jupytext.read(path).cells]

    assert cells(NOTEBOOK) == cells(TEXT)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the Jupyter client's own
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOTEBOOK_FACES", "90")
    monkeypatch.setenv("NOTEBOOK_EPOCHS", "1")
    monkeypatch.delenv("FACIAL_KEYPOINTS_DATA", raising=False)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = jupytext.read(TEXT)
    nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
    images = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(images) == 5
