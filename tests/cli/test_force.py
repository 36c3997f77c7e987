"""--force in every verb that has an output folder: inputs and other people's files are never lost."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from conftest import dotted_faces
from facial_keypoints.cli import app
from facial_keypoints.data import save_dataset
from facial_keypoints.errors import DataError, OutputError
from facial_keypoints.files import MARKER

VERBS = {
    "data convert": "data convert DATA/annotations.json --to csv",
    "data convert of a folder": "data convert DATA --to csv",
    "data audit": "data audit DATA",
    "compare": "compare --data DATA",
    "train": "train fc --data DATA",
    "finetune": "finetune --data DATA/annotations.json",
    "compare --seeds": "compare fc --seeds 2 --data DATA",
    "sweep": "sweep DATA/space.yaml",
    "batch": "batch DATA/images --crops",
}
DRAWING = {
    "data synthesize": "data synthesize --train 3 --test 1",
    "data cats": "data cats --photos 1",
    "data download": "data download",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight labelled faces as COCO, with their images and a search space."""
    save_dataset(dotted_faces(8), tmp_path / "data", "coco")
    (tmp_path / "data" / "space.yaml").write_text("learning_rate: [0.001, 0.01]\n")
    return tmp_path / "data"


@pytest.fixture
def kaggle_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for what Kaggle hands over."""
    place = tmp_path / "fetched"
    place.mkdir()
    (place / "training.zip").write_text("faces")
    module = SimpleNamespace(competition_download=lambda name: str(place))
    monkeypatch.setitem(sys.modules, "kagglehub", module)
    return place


def run(words: str, data: Path, out: Path) -> BaseException | None:
    """The error that a command ends with, if any."""
    given = [word.replace("DATA", str(data)) for word in words.split()]
    result = CliRunner().invoke(app, [*given, "-o", str(out), "--force"])
    return result.exception


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("made_here", [True, False])
@pytest.mark.parametrize("verb", VERBS)
def test_the_folder_of_the_input_is_refused_as_output(
    verb: str, made_here: bool, data: Path
) -> None:
    if made_here:
        for folder in (data, data.parent, data / "images"):
            (folder / MARKER).write_text("{}")
    before = files(data.parent)
    for out in (data / "images" if verb == "batch" else data, data.parent):
        error = run(VERBS[verb], data, out)
        assert isinstance(error, OutputError)
        assert "choose another" in str(error)
    assert files(data.parent) == before


@pytest.mark.parametrize(  # what trains asks the same function, as test_experiment.py tests
    "verb", ["data convert", "data audit", "batch", *DRAWING]
)
@pytest.mark.usefixtures("kaggle_download")
def test_a_folder_that_the_package_did_not_make_is_refused(verb: str, data: Path) -> None:
    mine = data.parent / "mine"
    mine.mkdir()
    (mine / "photo.jpg").write_text("mine")
    error = run((VERBS | DRAWING)[verb], data, mine)
    assert isinstance(error, OutputError)
    assert "was not made by facial-keypoints" in str(error)
    assert files(mine) == {"photo.jpg": b"mine"}


@pytest.mark.parametrize("verb", ["data convert", "data audit", *DRAWING])
def test_the_old_result_stays_until_the_new_one_is_whole(
    verb: str, data: Path, kaggle_download: Path
) -> None:
    words, out = (VERBS | DRAWING)[verb], data.parent / "out"
    assert run(words, data, out) is None
    (out / "old.txt").write_text("old")
    before = files(out)
    if verb in DRAWING:
        shutil.rmtree(kaggle_download)
    else:
        (data / "annotations.json").rename(data / "away")
    if verb not in ("data synthesize", "data cats"):  # which read nothing
        assert run(words, data, out) is not None
        assert files(out) == before
    if verb in DRAWING:
        kaggle_download.mkdir()
    else:
        (data / "away").rename(data / "annotations.json")
    assert run(words, data, out) is None
    assert not (out / "old.txt").exists()
    assert [p.name for p in data.parent.iterdir() if p.name.startswith(".")] == []


def test_an_output_may_lie_beside_the_file_that_is_read(data: Path) -> None:
    assert run(VERBS["data convert"], data, data / "out") is None
    assert (data / "out" / "faces.csv").is_file()
    assert isinstance(run(VERBS["data convert of a folder"], data, data / "new"), OutputError)
    assert not isinstance(run("data convert DATA/nowhere.json", data, data / "out"), OutputError)
    assert isinstance(run("data convert DATA/nowhere.json", data, data / "out"), DataError)
    assert (data / "out" / "faces.csv").is_file()
