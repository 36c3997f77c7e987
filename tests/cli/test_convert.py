"""``data convert`` and ``data audit`` on labels of other tools, as a user types it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_line import command_line
from facial_keypoints.data.formats.reading import READABLE
from facial_keypoints.data.formats.writing import WRITERS
from label_files import NAMES, POINTS, SIZES, photos


@pytest.fixture
def cvat(tmp_path: Path) -> Path:
    """An export of two cats' photos, one point occluded, with a box and a polygon that is no point."""
    folder = tmp_path / "export"
    photos(folder / "images")
    body = ""
    for number, (name, points) in enumerate(POINTS.items()):
        dots = "".join(
            f'<points label="{n}" outside="{int(n not in points)}" occluded="{int(n == "nose")}" '
            f'points="{points.get(n, (0, 0))[0] + 0.5},{points.get(n, (0, 0))[1] + 0.5}"/>'
            for n in NAMES
        )
        body += (
            f'<image id="{number}" name="{name}" width="{SIZES[name][0]}" height="{SIZES[name][1]}">'
            f'<skeleton label="cat">{dots}<attribute name="pet">{"Tom"}</attribute></skeleton>'
            '<box label="cat" xtl="10" ytl="2" xbr="88" ybr="78"/><polygon label="fur" points="1,1;2,2;1,2"/></image>'
        )
    (folder / "annotations.xml").write_text(
        f"<annotations><version>1.1</version>{body}</annotations>"
    )
    return folder


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "faces.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_whole_images_become_a_table_in_their_pixels(cvat: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = command_line("data", "convert", cvat, "--to", "csv", "--no-crop", "-o", out)
    assert done.returncode == 0
    assert "2 images, 2 faces, 5 keypoints" in done.stderr
    assert "not labelled: left_ear 1, right_ear 1 (of 2 faces)" in done.stderr
    assert "left out: 2 shapes that are no points: polygon" in done.stderr
    assert "wrote 2 faces" in done.stderr
    rows = table(out)
    assert [row["image"] for row in rows] == list(POINTS)
    for row in rows:
        for name in NAMES:
            place = POINTS[row["image"]].get(name)
            cells = row[f"{name}_x"], row[f"{name}_y"]
            assert cells == (("", "") if place is None else tuple(f"{v:g}" for v in place))
        assert row["nose_visibility"] == "1"
        assert (row["pet"], row["x0"], row["y1"]) == ("Tom", "10", "78")
        with Image.open(out / row["image"]) as image:
            assert image.size == SIZES[row["image"]]


@pytest.mark.parametrize("format", list(WRITERS))
def test_every_format_is_converted_into_every_other(
    format: str, cvat: Path, tmp_path: Path
) -> None:
    middle, out = tmp_path / "middle", tmp_path / "out"
    done = command_line("data", "convert", cvat, "--to", format, "--no-crop", "-o", middle)
    assert done.returncode == 0, done.stderr
    said = "does not say that a point is occluded" in done.stderr
    assert said != ("occluded" in WRITERS[format].HOLDS)
    done = command_line("data", "convert", middle, "--to", "csv", "--no-crop", "-o", out)
    assert done.returncode == 0, done.stderr
    rows = table(out)
    assert [Path(row["image"]).name for row in rows] == list(POINTS)
    nose = "point_3" if format == "pts" else "nose"
    assert [float(row[f"{nose}_x"]) for row in rows] == pytest.approx([55.5, 45.0], abs=1e-3)


def test_faces_are_cut_out_with_their_visibility_and_groups(cvat: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = command_line(
        "data", "convert", cvat, "--to", "csv", "--size", "64", "--group-by", "pet", "-o", out
    )
    assert done.returncode == 0, done.stderr
    rows = table(out)
    assert [row["image"] for row in rows] == ["images/a.png", "images/b.png"]
    assert {row["nose_visibility"] for row in rows} == {"1"}
    assert {row["group"] for row in rows} == {"Tom"}
    with Image.open(out / "images/a.png") as image:
        assert image.size == (64, 64)


def test_own_keypoints_are_audited_by_their_names_and_by_a_schema(
    cvat: Path, tmp_path: Path
) -> None:
    done = command_line("data", "audit", cvat)
    assert done.returncode == 0, done.stderr
    assert "left_eye – right_eye, left_ear – right_ear" in done.stderr
    assert "2 of 96 × 96" in done.stdout
    schema = tmp_path / "few.json"
    schema.write_text(
        '{"keypoints": ["nose", "left_eye", "right_eye"], "pairs": [["left_eye", "right_eye"]]}'
    )
    done = command_line("data", "audit", cvat, "--schema", schema)
    assert done.returncode == 0, done.stderr
    assert (
        "left out: 2 keypoints that the schema 'few' does not list: left_ear, right_ear"
        in done.stderr
    )


@pytest.mark.parametrize("name", ["notes.json", "notes.xml", "notes.txt", "folder", "notes.csv"])
def test_what_cannot_be_read_lists_what_can(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    else:
        path.write_text("<a/>" if name.endswith("xml") else "{}")
    done = command_line("data", "convert", path, "--no-crop", "--to", "csv", "-o", tmp_path / "out")
    assert done.returncode == 1
    assert READABLE in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_flags_that_do_not_go_together_are_refused(cvat: Path, tmp_path: Path) -> None:
    for words in (["--no-crop", "--to", "kaggle"], ["--no-crop", "--size", "64"]):
        done = command_line("data", "convert", cvat, *words, "-o", tmp_path / "out")
        assert done.returncode == 2
        assert not (tmp_path / "out").exists()


def cats(folder: Path, names: list[str], *, wrong: bool = False) -> Path:
    """A csv of drawn points of cats, one image a face; ``wrong``: the names of two points are crossed."""
    rng = np.random.default_rng(0)
    points = [(20, 20), (60, 20), (40, 40), (30, 60), (50, 60)]
    words = ["left_ear", "right_ear", "nose", "left_lip", "right_lip"]
    if wrong:
        words[1], words[4] = words[4], words[1]
    header = ["image", *(f"{word}_{axis}" for word in words for axis in "xy")]
    rows = [header]
    for name in names:
        Image.new("L", (80, 80), 90).save(folder / name)
        rows.append([name, *(f"{v + rng.normal():.2f}" for point in points for v in point)])
    with (folder / "cats.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows(rows)
    return folder / "cats.csv"


def test_groups_in_the_names_of_images_are_offered_and_never_taken(tmp_path: Path) -> None:
    source = cats(tmp_path, [f"cat{i // 3}_{i % 3:02}.png" for i in range(12)])
    offered = command_line("data", "convert", source, "--to", "csv", "-o", tmp_path / "a")
    assert "--group-by image-name keeps the faces of each of these 4 together" in offered.stderr
    assert "group" not in table(tmp_path / "a")[0]
    taken = command_line(
        "data", "convert", source, "--to", "csv", "--group-by", "image-name", "-o", tmp_path / "b"
    )
    assert taken.returncode == 0
    assert {row["group"] for row in table(tmp_path / "b")} == {"cat0", "cat1", "cat2", "cat3"}
    numbered = cats(tmp_path, [f"{i:06}.png" for i in range(12)])
    plain = command_line("data", "convert", numbered, "--to", "csv", "-o", tmp_path / "c")
    assert "image-name" not in plain.stderr


def test_wrong_partners_are_warned_of(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(24)]
    right = command_line("data", "audit", cats(tmp_path, names))
    assert "left/right partners: left_ear – right_ear, left_lip – right_lip" in right.stderr
    assert "warning" not in right.stderr
    wrong = command_line("data", "audit", cats(tmp_path, names, wrong=True))
    assert "warning: mirrored labels fit worse than unmirrored ones" in wrong.stderr
