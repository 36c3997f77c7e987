from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from facial_keypoints.errors import DataError, MissingExtraError, OutputError
from facial_keypoints.io import tables
from facial_keypoints.io.tables import (
    as_number,
    check_table,
    columns,
    open_table,
    read_boxes,
    read_list,
    read_table,
    rows,
    write_table,
)
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
    with open_table(path, columns(FIVE)) as table:
        for each in predictions:
            table.write(rows(each))
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
    assert columns(FIVE)[:11] == [
        "source", "face", "x0", "y0", "x1", "y1", "score", "angle",
        "left_eye_center_x", "left_eye_center_y", "left_eye_center_confidence",
    ]  # fmt: skip
    assert len(columns(FIVE)) == 8 + 3 * 5


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
    assert rows(one) == [
        ["a.png", 0, 0.0, 0.0, 200.0, 100.0, None, None, 12.346, -0.5, *[None] * 13]
    ]


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
        with open_table(path, columns(FIVE)) as table:
            table.write(rows(prediction("a.png")))
            raise failure

    with pytest.raises(failure):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_another_suffix_gets_a_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"\.csv, \.parquet, \.json"),
        open_table(tmp_path / "t.xlsx", columns(FIVE)),
    ):
        pass


def test_a_table_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_table(tmp_path / "t.CSV")
    check_table(tmp_path / "t.parquet")
    with pytest.raises(OutputError, match=r"\.csv, \.parquet, \.json"):
        check_table(tmp_path / "t.txt")
    (tmp_path / "old.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    check_table(tmp_path / "t.json")
    for work in (lambda: check_table(tmp_path / "t.parquet"),
                 lambda: read_table(tmp_path / "old.parquet")):  # fmt: skip
        with pytest.raises(MissingExtraError, match=r"pip install 'facial-keypoints\[parquet\]'"):
            work()


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json"])
def test_text_that_looks_like_a_number_stays_text(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"t{suffix}"
    written = [["001", "01:30", "1e5"], ["7", "2024-01-01", " x "]]
    write_table(path, ["subject", "at", "track"], written)
    table = read_table(path)
    assert table.names == ["subject", "at", "track"]
    assert list(table.rows) == written


def test_notes_stand_beside_the_rows(tmp_path: Path) -> None:
    for suffix in (".csv", ".json", ".parquet"):
        with open_table(tmp_path / f"t{suffix}", ["a"], notes={"unit": "px", "n": [1]}) as table:
            table.write([[1.5], [None]])
    assert (tmp_path / "t.csv").read_text() == 'a\n1.5\n""\n'
    assert json.loads((tmp_path / "t.json").read_text()) == {
        "unit": "px", "n": [1], "faces": [{"a": 1.5}, {"a": None}],
    }  # fmt: skip
    metadata = pq.read_schema(tmp_path / "t.parquet").metadata
    assert (metadata[b"unit"], metadata[b"n"]) == (b"px", b"[1]")


def test_parquet_says_so_where_a_column_holds_numbers_and_text(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"column 'a' .* write \.csv or \.json"):
        write_table(tmp_path / "t.parquet", ["a"], [[1], ["x"]])
    assert list(tmp_path.iterdir()) == []


SAVED = 'source,subject,x0,eye_x,note\ngröße.jpg,001,1.5,-2.25,"1,5; b"\nb.jpg,,0.5,,\n'
EUROPEAN = 'source;subject;x0;eye_x;note\ngröße.jpg;001;1,5;-2,25;"1,5; b"\nb.jpg;;0,5;;\n;;;;\n'
TABS = EUROPEAN.replace('"1,5; b"', "1,5\xa7 b").replace(";", "\t").replace("\xa7", ";")


@pytest.mark.parametrize(
    "content",
    [
        SAVED.encode(),
        SAVED.encode("utf-8-sig"),
        SAVED.replace("\n", "\r\n").encode("cp1252"),
        EUROPEAN.encode("cp1252"),
        EUROPEAN.encode("utf-8-sig"),
        TABS.encode("utf-16"),
        b"\xfe\xff" + TABS.encode("utf-16-be"),
    ],
)
def test_a_csv_is_read_whatever_program_saved_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    table = read_table(path)
    assert table.names == ["source", "subject", "x0", "eye_x", "note"]
    assert list(table.rows) == [
        ["größe.jpg", "001", "1.5", "-2.25", "1,5; b"],
        ["b.jpg", "", "0.5", "", ""],
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a,b\n1,2\n3\n", "row 2: 1 values for 2 columns"),
        (b"a,b\n1,2,3\n", "row 1: 3 values for 2 columns"),
        (b"a,a\n1,2\n", "two columns 'a'"),
        (b"", "cannot be read"),
        (b"\x81", "cannot be read"),
        (b"\xff\xfea", "cannot be read"),
    ],
)
def test_a_damaged_csv_gets_a_sentence(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=says):
        list(read_table(tmp_path / "t.csv").rows)


def test_boxes_with_decimal_commas_and_names_like_numbers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("source;x0;y0;x1;y1\n../001;1,5;2;3,25;4\n")
    (tmp_path / "001").touch()
    (tmp_path / "in").mkdir()
    path = path.rename(tmp_path / "in" / "boxes.csv")
    found = read_boxes(path)
    assert list(found) == [str((tmp_path / "001").resolve())]
    assert found[str(tmp_path / "001")].tolist() == [[1.5, 2, 3.25, 4]]


def test_numbers_of_predict_are_told_from_text() -> None:
    cells = [("frame", "3"), ("track", "007"), ("score", "0.50"), ("x0", ""), ("x1", "NA"),
             ("time_s", "0"), ("age", "12"), ("track", "A1"), ("x0", "inf"), ("face", "1.5")]  # fmt: skip
    found = [as_number(name, text) for name, text in cells]
    assert found == [3, "007", 0.5, None, None, 0, "12", "A1", "inf", "1.5"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_is_read_whatever_program_saved_it(encoding: str) -> None:
    content = "größe.jpg\r\n\r\n b c.png \n\nlast".encode(encoding)
    assert list(read_list(io.BytesIO(content))) == ["größe.jpg", " b c.png ", "last"]


def test_a_list_may_hold_names_that_are_no_text() -> None:
    assert list(read_list(io.BytesIO(b"lat\xedn.jpg\n"))) == ["lat\udcedn.jpg"]
    assert list(read_list(io.BytesIO(b""))) == []
    with pytest.raises(DataError, match="neither UTF-8 nor UTF-16"):
        list(read_list(io.BytesIO(b"\xff\xfea\x00b")))


def test_json_has_no_nan(tmp_path: Path) -> None:
    write_table(tmp_path / "t.json", ["a"], [[float("nan")], [1.0]])
    assert json.loads((tmp_path / "t.json").read_text()) == [{"a": None}, {"a": 1.0}]
    assert "NaN" not in (tmp_path / "t.json").read_text()
