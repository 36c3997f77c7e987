"""Output folders: what is replaced, what is never touched, and what stays after a failure."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from facial_keypoints.errors import DataError, OutputError
from facial_keypoints.files import (
    MARKER,
    atomic_path,
    make_folder,
    output_folder,
    refuse_inputs,
    write_text,
)


def contents(folder: Path) -> dict[str, str]:
    """Names and texts of all files but the marker."""
    return {
        p.relative_to(folder).as_posix(): p.read_text()
        for p in folder.rglob("*")
        if p.is_file() and p.name != MARKER
    }


def make(
    folder: Path, name: str, text: str, *, force: bool = False, resume: bool | None = None
) -> None:
    with output_folder(folder, verb="test", force=force, resume=resume) as place:
        (place / name).write_text(text)


def test_an_output_is_never_an_input_nor_above_or_inside_one(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    labels = data / "labels.json"
    labels.write_text("{}")
    (tmp_path / "link").symlink_to(data)
    for output, source, word in (
        (data, data, "is"), (tmp_path / "link", data, "is"), (data, labels, "holds"),
        (tmp_path, data, "holds"), (data / "out", data, "lies in"), (labels, labels, "is"),
        (tmp_path / "link" / "a" / "b", data, "lies in"),
    ):  # fmt: skip
        with pytest.raises(OutputError, match=f" {word} the input "):
            refuse_inputs(output, None, source)
        with (
            pytest.raises(OutputError, match=f" {word} the input "),
            output_folder(output, verb="test", inputs=(source,), force=True),
        ):
            pytest.fail("the folder was given")
    refuse_inputs(data / "out", labels)  # beside the file that is read
    refuse_inputs(tmp_path / "data2", data)
    refuse_inputs(data, "drawn faces (seed 0)", "s3://bucket/data", "x" * 5000, None)
    assert sorted(p.name for p in data.iterdir()) == ["labels.json"]


@pytest.mark.parametrize("resume", [None, False])
def test_a_folder_that_the_package_made_is_replaced_and_no_other(
    resume: bool | None, tmp_path: Path
) -> None:
    mine, out = tmp_path / "mine", tmp_path / "out"
    mine.mkdir()
    (mine / "photo.txt").write_text("mine")
    with pytest.raises(OutputError, match="not made by facial-keypoints"):
        make(mine, "new.csv", "x", force=True, resume=resume)
    with pytest.raises(OutputError, match="not made by facial-keypoints"):
        make(mine, "new.csv", "x", resume=True)
    assert contents(mine) == {"photo.txt": "mine"}
    make(out, "old.csv", "1", resume=resume)
    with pytest.raises(OutputError, match=r"exists already.*--force") as refused:
        make(out, "new.csv", "2", resume=resume)
    assert ("--resume" in str(refused.value)) == (resume is not None)
    make(out, "new.csv", "2", force=True, resume=resume)
    assert contents(out) == {"new.csv": "2"}
    assert (out / MARKER).is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "out"]


def test_an_empty_folder_is_filled_and_a_file_is_refused(tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "file"
    out.mkdir()
    file.touch()
    make(out, "new.csv", "1")
    assert contents(out) == {"new.csv": "1"}
    with pytest.raises(OutputError, match="is a file"):
        make(file, "new.csv", "1", force=True)
    for resume in (None, False):
        with pytest.raises(OutputError, match="cannot write"):
            make(file / "below", "new.csv", "1", resume=resume)


def test_the_current_folder_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "out", "old.csv", "1")
    monkeypatch.chdir(tmp_path / "out")
    with pytest.raises(OutputError, match="current folder"):
        make(Path(), "new.csv", "2", force=True)
    assert contents(tmp_path / "out") == {"old.csv": "1"}


@pytest.mark.parametrize("error", [DataError("broken input"), KeyboardInterrupt()])
@pytest.mark.parametrize("resume", [None, False])
def test_a_failure_keeps_the_old_result(
    error: BaseException, resume: bool | None, tmp_path: Path
) -> None:
    def fail(folder: Path) -> None:
        with output_folder(folder, verb="test", force=True, resume=resume) as place:
            (place / "settings.json").write_text("{}")
            raise error

    make(tmp_path / "out", "old.csv", "1")
    (tmp_path / "empty").mkdir()
    for name in ("out", "empty", "new"):
        with pytest.raises(type(error)):
            fail(tmp_path / name)
    assert contents(tmp_path / "out") == {"old.csv": "1"}
    assert list((tmp_path / "empty").iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "out"]


def test_an_interrupted_run_goes_on_and_the_old_one_stays_beside_it_until_then(
    tmp_path: Path,
) -> None:
    def interrupted() -> None:
        with output_folder(out, verb="test", force=True, resume=False) as place:
            (place / "checkpoint.npz").write_text("half")
            raise KeyboardInterrupt

    out, old = tmp_path / "out", tmp_path / ".out.old1"
    make(out, "old.csv", "1", resume=False)
    with pytest.raises(KeyboardInterrupt) as stopped:
        interrupted()
    assert stopped.value.__notes__ == [f"What the folder held before is kept in {old}."]
    assert contents(out) == {"checkpoint.npz": "half"}
    assert contents(old) == {"old.csv": "1"}
    with suppress(DataError), output_folder(out, verb="test", resume=True):
        raise DataError("other settings")
    assert contents(out) == {"checkpoint.npz": "half"}
    make(out, "new.csv", "2", resume=True)
    assert contents(out) == {"checkpoint.npz": "half", "new.csv": "2"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_files_are_added_to_a_shared_folder_and_never_removed(tmp_path: Path) -> None:
    (tmp_path / "photo.txt").write_text("mine")
    with pytest.raises(OutputError, match="--force"):
        make_folder(tmp_path, add=False)
    make_folder(tmp_path, add=True)
    make_folder(tmp_path / "new", add=False)
    assert contents(tmp_path) == {"photo.txt": "mine"}


def test_a_name_as_long_as_the_disk_allows_can_be_written(tmp_path: Path) -> None:
    target = tmp_path / f"{'n' * 251}.csv"  # 255 bytes, the most that Linux' file systems take
    write_text(target, "1")
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_an_interruption_while_the_temporary_file_is_made_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Path.touch

    def interrupted(self: Path, *args: object, **kwargs: object) -> None:
        made(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "touch", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "t.csv"):
        pass
    assert list(tmp_path.iterdir()) == []
