"""Kaggle's files: what is read, what is refused and how, and the submission."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facial_keypoints.data import cache as cache_module
from facial_keypoints.data import load_dataset, save_dataset
from facial_keypoints.data.cache import data_digest
from facial_keypoints.data.kaggle import (
    load_kaggle,
    load_lookup,
    requested_styles,
    write_submission,
    write_table,
)
from facial_keypoints.errors import DataError, OutputError
from facial_keypoints.schemas import KAGGLE15, STYLE_B_POINTS, get_schema
from facial_keypoints.types import FaceDataset

COLUMNS = [f"{name}_{axis}" for name in KAGGLE15.keypoint_names for axis in "xy"]
SIDE = 8
Edit = Callable[[list[list[str]]], object]


@pytest.fixture(autouse=True)
def _cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACIAL_KEYPOINTS_CACHE", str(tmp_path / "cache"))


def table(rows: int = 3) -> list[list[str]]:
    """Header and rows of a training file: row 1 full, row 2 four points, row 3 no label at all."""
    cells = [[*COLUMNS, "Image"]]
    four = {f"{name}_{axis}" for name in STYLE_B_POINTS for axis in "xy"}
    for row in range(rows):
        labels = []
        for i, column in enumerate(COLUMNS):
            known = row % 3 == 0 or (row % 3 == 1 and column in four)
            labels.append(f"{i / 8 + row}" if known else "")
        pixels = " ".join(str((row * 31 + i * 7) % 256) for i in range(SIDE * SIDE))
        cells.append([*labels, pixels])
    return cells


def text(cells: list[list[str]]) -> str:
    return "\n".join(",".join(row) for row in cells) + "\n"


def zipped(**members: bytes | str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def saved(folder: Path, content: str | bytes, name: str = "training.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def same(a: FaceDataset, b: FaceDataset) -> None:
    np.testing.assert_array_equal(a.images, b.images)
    np.testing.assert_array_equal(a.keypoints.xy, b.keypoints.xy)
    assert a.sample_ids.tolist() == b.sample_ids.tolist()
    assert a.styles.tolist() == b.styles.tolist()


def test_pixels_labels_ids_and_styles_are_read(tmp_path: Path) -> None:
    faces = load_kaggle(saved(tmp_path, text(table())))
    assert faces.images.shape == (3, 8, 8, 1)
    assert faces.images[0, 0, :3, 0].tolist() == [0, 7, 14]
    assert faces.images[1, 1, 0, 0] == (31 + 56) % 256
    assert faces.keypoints.xy[0, 1].tolist() == [0.25, 0.375]
    assert np.isnan(faces.keypoints.xy[1, 2]).all()
    assert faces.sample_ids.tolist() == ["1", "2", "3"]
    assert faces.styles.tolist() == ["kaggle-a", "kaggle-b", ""]


def test_every_pixel_value_survives(tmp_path: Path) -> None:
    cells = table(1)
    cells = [cells[0], *([[*cells[1][:-1], ""]] * 2)]
    values = np.random.default_rng(0).permutation(256)
    cells[1] = [*cells[1][:-1], " ".join(map(str, values))]
    cells[2] = [*cells[2][:-1], " ".join(map(str, values[::-1]))]
    faces = load_kaggle(saved(tmp_path, text(cells)))
    assert faces.images[0].ravel().tolist() == values.tolist()
    assert faces.images[1].ravel().tolist() == values[::-1].tolist()


@pytest.mark.parametrize(
    "change",
    [
        lambda t: "\ufeff" + t,
        lambda t: t.replace("\n", "\r\n"),
        lambda t: t.rstrip("\n"),
        lambda t: t + "\n\n  \n",
        lambda t: t.replace(" 7 ", "  7 "),
        lambda t: t.replace(" 7 ", "\t7 "),
        lambda t: t.replace(",0 ", ", 0 ").replace("\n", " \n"),
        lambda t: t.replace("0 7 14", "000 007 14"),
        lambda t: "\n".join(
            ",".join(f'"{cell}"' for cell in line.split(",")) for line in t.splitlines()
        ),
    ],
    ids=[
        "bom",
        "crlf",
        "no last newline",
        "blank end",
        "two spaces",
        "tab",
        "blank around",
        "zeros",
        "quoted",
    ],
)
def test_harmless_variations_give_the_same_faces(
    tmp_path: Path, change: Callable[[str], str]
) -> None:
    plain = load_kaggle(saved(tmp_path, text(table()), "a.csv"))
    same(plain, load_kaggle(saved(tmp_path, change(text(table())), "b.csv")))


def test_quoted_pixels_may_be_longer_than_pythons_limit_of_a_csv_field(tmp_path: Path) -> None:
    values = np.arange(256 * 256) % 256
    row = f'"7","{" ".join(map(str, values))}"\n'
    faces = load_kaggle(saved(tmp_path, f"ImageId,Image\n{row}", "test.csv"), part="test")
    assert faces.images.ravel().tolist() == values.tolist()


def test_a_row_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    cells = [[*row, "person" if i == 0 else "José"] for i, row in enumerate(table())]
    path = saved(tmp_path, text(cells))
    assert load_kaggle(path, group_by="person").groups.tolist() == ["José"] * 3
    saved(tmp_path, text([*cells[:2], *[[*row[:-1], "p"] for row in cells[2:]]]).encode("latin-1"))
    with pytest.raises(DataError, match="row 1 is not UTF-8"):
        load_kaggle(path, group_by="person")


def test_columns_are_found_by_name_in_any_order(tmp_path: Path) -> None:
    shuffled = [row[::-1] for row in table()]
    plain = load_kaggle(saved(tmp_path, text(table()), "a.csv"))
    same(plain, load_kaggle(saved(tmp_path, text(shuffled), "b.csv")))


def test_a_group_column_becomes_the_groups(tmp_path: Path) -> None:
    cells = [[*row, "person" if i == 0 else f"p{i % 2}"] for i, row in enumerate(table())]
    faces = load_kaggle(saved(tmp_path, text(cells)), group_by="person")
    assert faces.groups.tolist() == ["p1", "p0", "p1"]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_folder_zip_and_zip_of_zips_hold_the_same_faces(tmp_path: Path, compression: int) -> None:
    plain = load_kaggle(saved(tmp_path, text(table())))
    one = zipped(**{"training.csv": text(table())})
    for number, members in enumerate(
        [
            {"training.csv": text(table())},
            {"faces/training.csv": text(table()), "__MACOSX/training.csv": "junk"},
            {"training.zip": one, "test.zip": one},
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        with zipfile.ZipFile(folder / "bundle.zip", "w", compression) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        same(plain, load_kaggle(folder))
        same(plain, load_kaggle(folder / "bundle.zip"))


def cell(row: int, column: str, value: str) -> Edit:
    def edit(cells: list[list[str]]) -> None:
        cells[row][cells[0].index(column)] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda c: [row.pop(0) for row in c], ["no column 'left_eye_center_x'"]),
        (lambda c: [row.insert(0, "9") for row in c], ["column '9'", "remove it"]),
        (lambda c: c[0].__setitem__(0, COLUMNS[1]), ["left_eye_center"]),
        (lambda c: c[2].pop(), ["row 2", "30 fields", "31 columns"]),
        (cell(2, "Image", "1 2 3"), ["row 2", "column Image", "3 pixels", "8 x 8 = 64"]),
        (cell(1, "Image", "1 2 3"), ["row 1", "3 pixels", "square"]),
        (cell(1, "Image", ""), ["row 1", "0 pixels"]),
        (cell(3, "Image", "9 " * 62 + "x 9"), ["row 3", "pixel 63", "'x'", "0 to 255"]),
        (cell(3, "Image", "9 " * 63 + "256"), ["row 3", "pixel 64", "'256'"]),
        (cell(3, "Image", "9 " * 63 + "1255"), ["pixel 64", "'1255'"]),
        (cell(3, "Image", "9 " * 63 + str(2**64)), ["pixel 64", "'18446744073709551616'"]),
        (cell(3, "Image", "9 " * 64 + "x"), ["row 3", "65 pixels"]),
        (cell(3, "Image", "9 " * 63 + "-1"), ["pixel 64", "'-1'"]),
        (cell(3, "Image", "9 " * 63 + "1.5"), ["pixel 64", "'1.5'"]),
        (cell(2, "nose_tip_x", "left"), ["row 2", "nose_tip_x", "'left'"]),
        (cell(2, "nose_tip_x", "inf"), ["row 2", "nose_tip_x", "inf"]),
        (cell(2, "nose_tip_x", "1e300"), ["row 2", "nose_tip_x"]),
        (cell(2, "nose_tip_x", "1_0"), ["row 2", "nose_tip_x", "1_0"]),
        (cell(2, "nose_tip_y", ""), ["row 2", "nose_tip_y", "empty", "both"]),
        (lambda c: c.insert(2, []), ["row 2", "blank"]),
        (lambda c: c.__delitem__(slice(1, None)), ["no rows"]),
    ],
)  # fmt: skip
def test_a_bad_table_is_one_sentence_with_the_place(
    tmp_path: Path, edit: Edit, words: list[str]
) -> None:
    cells = table()
    edit(cells)
    path = saved(tmp_path, text(cells))
    with pytest.raises(DataError) as caught:
        load_kaggle(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_pixel_moved_between_rows_is_noticed(tmp_path: Path) -> None:
    cells = table()
    first, *others = cells[1][-1].split()
    cells[1][-1], cells[2][-1] = " ".join(others), f"{cells[2][-1]} {first}"
    cells[1][-1] = cells[3][-1]  # a whole first row, then one pixel too many, then one too few
    cells[3][-1] = " ".join(others)
    with pytest.raises(DataError, match="row 2, column Image has 65 pixels"):
        load_kaggle(saved(tmp_path, text(cells)))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("training.csv", b"", "is empty"),
        ("training.csv", b"\n\n", "is empty"),
        ("training.csv", text(table()).encode("utf-16"), "UTF-8"),
        ("training.csv", b"\xff\xfe\xfa,Image\n", "UTF-8"),
        ("training.zip", b"no zip", "not a zip"),
        ("training.zip", zipped(**{"training.csv": text(table())})[:200], "damaged"),
        ("training.zip", zipped(**{"other.csv": "x"}), "holds no training.csv"),
        ("training.zip", zipped(**{"../training.csv": text(table())}), "unsafe path"),
        ("training.zip", zipped(**{"/etc/x": "", "training.csv": text(table())}), "unsafe path"),
        ("training.zip", zipped(**{"C:\\x": "", "training.csv": text(table())}), "unsafe path"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_kaggle(saved(tmp_path, content, name))


@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_damage_inside_a_zip_is_noticed(tmp_path: Path, compression: int) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr("training.csv", text(table(40)))
    whole = out.getvalue()
    for place in range(60, len(whole) - 150, 97):
        broken = bytearray(whole)
        broken[place] ^= 0xFF
        with pytest.raises(DataError):
            load_kaggle(saved(tmp_path, bytes(broken), "training.zip"), cache=False)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_kaggle(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds neither training\.csv nor training\.zip"):
        load_kaggle(tmp_path)


BASE = text(table()).encode()
ZIP = zipped(**{"training.csv": BASE})


@st.composite
def mutated(draw: st.DrawFn, whole: bytes) -> bytes:
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(["set", "cut", "insert", "end"]))
        if kind == "set" and content:
            content[place] = draw(st.integers(0, 255))
        elif kind == "cut":
            del content[place : place + draw(st.integers(1, 40))]
        elif kind == "insert":
            content[place:place] = draw(
                st.sampled_from([b'"', b",", b"\n", b"\r", b"\0", b" ", b"9" * 5000, b"nan", b"-"])
            )
        else:
            del content[place:]
    return bytes(content)


@given(st.one_of(st.binary(max_size=300), mutated(BASE), mutated(ZIP)))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_the_bytes_the_answer_is_faces_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp()
    for name in ("fuzz.csv", "fuzz.zip"):
        path = saved(folder, content, name)
        message = ""
        try:
            assert isinstance(load_kaggle(path, cache=False), FaceDataset)
        except DataError as error:
            message = str(error)
        assert message.isprintable()


# --- test images, look-up table, submission -----------------------------------------------------


def images(ids: tuple[int, ...]) -> str:
    cells = [["ImageId", "Image"]]
    cells += [[str(i), " ".join([str(i)] * 4)] for i in ids]
    return text(cells)


LOOKUP = """RowId,ImageId,FeatureName,Location
1,1,left_eye_center_x,
2,1,mouth_left_corner_y,
3,2,nose_tip_x,
4,2,nose_tip_y,
"""


def test_test_images_carry_their_image_id_and_no_labels(tmp_path: Path) -> None:
    saved(tmp_path, images((7, 3)), "test.csv")
    faces = load_kaggle(tmp_path, part="test")
    assert faces.sample_ids.tolist() == ["7", "3"]
    assert faces.images[:, 0, 0, 0].tolist() == [7, 3]
    assert not faces.keypoints.labeled.any()


@pytest.mark.parametrize("ids", ["1\n1", "one"])
def test_bad_image_ids_are_refused(tmp_path: Path, ids: str) -> None:
    rows = "".join(f"{i},1 2 3 4\n" for i in ids.split("\n"))
    with pytest.raises(DataError, match="column ImageId"):
        load_kaggle(saved(tmp_path, "ImageId,Image\n" + rows, "test.csv"), part="test")


def test_requested_points_imply_the_label_style(tmp_path: Path) -> None:
    lookup = load_lookup(saved(tmp_path, LOOKUP, "IdLookupTable.csv"))
    assert requested_styles(lookup, ["2", "1", "5"]).tolist() == ["kaggle-b", "kaggle-a", ""]


def test_the_submission_answers_each_row_clipped_to_the_image(tmp_path: Path) -> None:
    lookup = load_lookup(saved(tmp_path, LOOKUP, "IdLookupTable.csv"))
    xy = np.full((2, 15, 2), 50.0, np.float32)
    xy[0, 0, 0], xy[0, 11, 1] = -3.0, 99.0
    xy[1, 10] = 40.25, 41.5
    write_submission(tmp_path / "out.csv", ["1", "2"], xy, lookup)
    assert (tmp_path / "out.csv").read_text() == (
        "RowId,Location\n1,0.00000\n2,96.00000\n3,40.25000\n4,41.50000\n"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["IdLookupTable.csv", "out.csv"]


def test_a_lookup_table_needs_no_location(tmp_path: Path) -> None:
    lines = [line.rsplit(",", 1)[0] for line in LOOKUP.splitlines()]
    lookup = load_lookup(saved(tmp_path, "\n".join(lines), "IdLookupTable.csv"))
    np.testing.assert_array_equal(
        lookup.keypoints, load_lookup(saved(tmp_path, LOOKUP, "other.csv")).keypoints
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("nose_tip_x", "nose_x"), "row 3, column FeatureName: 'nose_x'"),
        (("3,2,nose", "3,9,nose"), "row 3, column ImageId: image 9"),
        (("4,2,", "3,2,"), "RowId is used twice"),
        (("3,2,", "3,two,"), "row 3, column ImageId: 'two'"),
    ],
)
def test_a_bad_lookup_table_names_its_row(
    tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    path = saved(tmp_path, LOOKUP.replace(*change), "IdLookupTable.csv")
    with pytest.raises(DataError, match=words):
        requested_styles(load_lookup(path), ["1", "2"])


def test_a_submission_without_its_prediction_or_folder_is_refused(tmp_path: Path) -> None:
    lookup = load_lookup(saved(tmp_path, LOOKUP, "IdLookupTable.csv"))
    xy = np.full((2, 15, 2), 50.0, np.float32)
    with pytest.raises(OutputError, match=r"out\.csv"):
        write_submission(tmp_path / "IdLookupTable.csv" / "out.csv", ["1", "2"], xy, lookup)
    xy[1, 10] = np.nan
    with pytest.raises(DataError, match="row 3 asks for nose_tip of image 2"):
        write_submission(tmp_path / "out.csv", ["1", "2"], xy, lookup)
    assert not (tmp_path / "out.csv").exists()


def test_the_points_of_a_smaller_schema_are_submitted_by_their_names(tmp_path: Path) -> None:
    nose = "1,1,nose_tip_x\n2,1,nose_tip_y\n"  # without the column Location
    header = "RowId,ImageId,FeatureName\n"
    lookup = load_lookup(saved(tmp_path, header + nose, "IdLookupTable.csv"))
    xy = np.arange(10, dtype=np.float32).reshape(1, 5, 2)
    write_submission(tmp_path / "out.csv", ["1"], xy, lookup, schema=get_schema("five"))
    assert (tmp_path / "out.csv").read_text() == "RowId,Location\n1,4.00000\n2,5.00000\n"
    lookup = load_lookup(
        saved(tmp_path, header + "1,1,mouth_center_top_lip_x\n", "IdLookupTable.csv")
    )
    with pytest.raises(DataError, match=r"asks for mouth_center_top_lip .*did not predict"):
        write_submission(tmp_path / "out.csv", ["1"], xy, lookup, schema=get_schema("five"))


def test_written_faces_read_back(tmp_path: Path) -> None:
    faces = load_kaggle(saved(tmp_path, text(table())))
    save_dataset(faces, tmp_path / "copy")
    same(faces, load_dataset(tmp_path / "copy"))
    write_table(tmp_path / "copy" / "test.csv", faces, part="test")
    again = load_kaggle(tmp_path / "copy", part="test")
    np.testing.assert_array_equal(again.images, faces.images)


# --- cache ----------------------------------------------------------------------------------------


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").glob("*.npz"))


def test_the_second_load_comes_from_the_cache_and_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, text(table()))
    first = load_kaggle(path)
    assert len(entries(tmp_path)) == 1
    monkeypatch.setattr("facial_keypoints.data.kaggle._read_faces", None)
    same(first, load_kaggle(path))


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = saved(tmp_path, text(table()))
    load_kaggle(path)
    saved(tmp_path, text(table(5)))
    assert len(load_kaggle(path)) == 5
    status = path.stat()
    changed = text(table(5)).replace("left_eye_center_x", "left_eye_center_x", 1)
    path.write_text(changed.replace("0 7 14", "1 7 14"))  # same size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert load_kaggle(path).images[0, 0, 0, 0] == 1
    assert len(entries(tmp_path)) == 1


@pytest.mark.parametrize("place", [0, 200, 900, -10])
def test_a_corrupt_cache_is_ignored_and_rewritten(tmp_path: Path, place: int) -> None:
    path = saved(tmp_path, text(table()))
    first = load_kaggle(path)
    entry = entries(tmp_path)[0]
    good = entry.read_bytes()
    for bad in (
        good[:place],
        good[: len(good) // 2],
        b"",
        good[:place] + b"\xff" + good[place:][1:],
    ):
        entry.write_bytes(bad)
        same(first, load_kaggle(path))
        assert entry.read_bytes() == good


def test_a_cache_that_cannot_be_written_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, text(table()))
    monkeypatch.setenv("FACIAL_KEYPOINTS_CACHE", str(path / "below a file"))
    assert len(load_kaggle(path)) == 3

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("FACIAL_KEYPOINTS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache_module.np, "savez", full)
    assert len(load_kaggle(path)) == 3
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_digest_changes_with_pixels_labels_and_styles(tmp_path: Path) -> None:
    faces = load_kaggle(saved(tmp_path, text(table())))
    digest = data_digest(faces)
    assert digest == data_digest(faces.subset([0, 1, 2]))
    assert len(digest) == 64
    pixels, xy = faces.images.copy(), faces.keypoints.xy.copy()
    pixels[0, 0, 0] += 1
    xy[0, 0, 0] += 1
    others = [
        FaceDataset(pixels, faces.keypoints, faces.sample_ids, styles=faces.styles),
        faces.with_keypoints(xy),
        FaceDataset(faces.images, faces.keypoints, faces.sample_ids),
        faces.subset([1, 0, 2]),
    ]
    assert len({digest, *map(data_digest, others)}) == 5


def test_the_folder_that_holds_the_competitions_folder_will_do(tmp_path: Path) -> None:
    inner = tmp_path / "data" / "facial-keypoints-detection"
    inner.mkdir(parents=True)
    saved(inner, text(table()))
    saved(inner, "RowId,ImageId,FeatureName,Location\n1,1,nose_tip_x,\n", "IdLookupTable.csv")
    assert len(load_kaggle(tmp_path / "data")) == 3
    assert len(load_dataset(tmp_path / "data")) == 3
    assert load_lookup(tmp_path / "data").row_ids.tolist() == [1]
    # A training file of the folder's own comes first.
    saved(tmp_path / "data", text(table(2)))
    assert len(load_kaggle(tmp_path / "data")) == 2
    with pytest.raises(DataError, match=r"neither test\.csv nor test\.zip"):
        load_kaggle(tmp_path / "data", part="test")
