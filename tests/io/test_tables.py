from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from facial_keypoints.errors import OutputError
from facial_keypoints.io import tables
from facial_keypoints.io.tables import columns, open_table, rows
from facial_keypoints.schemas import FIVE
from facial_keypoints.types import Keypoints, Prediction


def prediction(source: str, faces: int = 1, *, confident: bool = True, seed: int = 0) -> Prediction:
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-50, 4000, (faces, 5, 2)).astype(np.float32)
    return Prediction(
        keypoints=Keypoints(
            xy, FIVE, confidence=rng.random((faces, 5), np.float32) if confident else None
        ),
        boxes=rng.uniform(0, 4000, (faces, 4)).astype(np.float32),
        scores=np.full(faces, np.nan, np.float32),
        image_size=(100, 200),
        source=source,
    )


def write(path: Path, *predictions: Prediction) -> Path:
    with open_table(path, FIVE) as table:
        for each in predictions:
            table.write([each])
    return path


def read(path: Path) -> list[dict[str, object]]:
    """Any of the three formats as one dictionary a row."""
    if path.suffix == ".json":
        return list(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    with path.open(encoding="utf-8", newline="") as handle:
        table = [dict(row) for row in csv.DictReader(handle)]
    return [
        {
            name: value
            if name == "source"
            else None
            if value == ""
            else (int if name == "face" else float)(value)
            for name, value in row.items()
        }
        for row in table
    ]


def test_the_columns_are_those_of_the_contract() -> None:
    assert columns(FIVE)[:10] == [
        "source", "face", "x0", "y0", "x1", "y1", "score",
        "left_eye_center_x", "left_eye_center_y", "left_eye_center_confidence",
    ]  # fmt: skip
    assert len(columns(FIVE)) == 7 + 3 * 5


def test_a_row_is_rounded_and_says_what_is_not_known() -> None:
    xy = np.full((1, 5, 2), np.nan, np.float32)
    xy[0, 0] = (12.34567, -0.5)
    one = Prediction(
        Keypoints(xy, FIVE),
        np.array([[0, 0, 200, 100]], np.float32),
        np.array([np.nan], np.float32),
        (100, 200),
        "a.png",
    )
    assert rows(one) == [["a.png", 0, 0.0, 0.0, 200.0, 100.0, None, 12.346, -0.5, *[None] * 13]]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json"])
def test_what_was_written_is_read_back(suffix: str, tmp_path: Path) -> None:
    source = 'dir/odd, "name"\nüñ🙂.jpg'
    path = write(
        tmp_path / f"t{suffix}", prediction(source, 2), prediction("b.png", confident=False)
    )
    table = read(path)
    assert [row["source"] for row in table] == [source, source, "b.png"]
    assert [row["face"] for row in table] == [0, 1, 0]
    assert list(table[0]) == columns(FIVE)
    expected = prediction(source, 2).keypoints
    assert table[1]["nose_tip_x"] == pytest.approx(expected.xy[1, 2, 0], abs=6e-4)
    assert expected.confidence is not None
    assert table[1]["nose_tip_confidence"] == pytest.approx(expected.confidence[1, 2], abs=6e-5)
    assert table[2]["nose_tip_confidence"] is None
    assert table[0]["score"] is None


def test_the_three_formats_hold_the_same_numbers(tmp_path: Path) -> None:
    many = [prediction(f"{i}.png", i % 3, seed=i, confident=i % 2 == 0) for i in range(40)]
    first, second, third = (
        read(write(tmp_path / f"t{suffix}", *many)) for suffix in (".csv", ".parquet", ".json")
    )
    assert len(first) == 39
    assert first == second == third


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json"])
def test_a_table_without_rows_is_still_a_table(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"t{suffix}")
    assert read(path) == []
    if suffix == ".parquet":
        assert pq.read_schema(path).names == columns(FIVE)


def test_parquet_is_written_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_ROW_GROUP", 10)
    path = write(tmp_path / "t.parquet", *(prediction(f"{i}.png", seed=i) for i in range(25)))
    assert pq.ParquetFile(path).num_row_groups == 3
    assert [row["source"] for row in read(path)] == [f"{i}.png" for i in range(25)]


def test_a_name_that_is_no_text_does_not_stop_the_table(tmp_path: Path) -> None:
    for suffix in (".csv", ".parquet", ".json"):
        path = write(tmp_path / f"t{suffix}", prediction("caf\udce9.jpg"))
        assert read(path)[0]["source"] == "caf\N{REPLACEMENT CHARACTER}.jpg"


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json"])
@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError])
def test_an_interrupted_table_leaves_what_was_there(
    suffix: str, failure: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / f"t{suffix}"
    path.write_text("old")

    def interrupted() -> None:
        with open_table(path, FIVE) as table:
            table.write([prediction("a.png")])
            raise failure

    with pytest.raises(failure):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_another_suffix_gets_a_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"\.csv, \.parquet, \.json"),
        open_table(tmp_path / "t.xlsx", FIVE),
    ):
        pass
