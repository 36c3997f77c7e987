"""The verbs that find faces take the same flags and pass them on."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from command_line import command_line
from facial_keypoints.cli import app
from facial_keypoints.cli.faces import FaceOptions
from facial_keypoints.cli.options import MAX_PIXELS
from facial_keypoints.data.synthetic.scenes import draw_scene

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
FLAGS = {f"--{name.replace('_', '-')}" for name in FaceOptions.__dataclass_fields__}
NOT_OFFERED = {
    "predict": set(),
    "measure": set(),
    "align": set(),
    "track": {"--crops", "--boxes", "--max-pixels"},  # a video's frames have no names
    "batch": {"--boxes", "--threads"},  # --workers, one core each
}


@pytest.mark.parametrize("verb", NOT_OFFERED)
def test_every_verb_that_finds_faces_takes_the_same_flags(verb: str) -> None:
    flags = {p.opts[0]: p for p in COMMANDS[verb].params if p.opts[0].startswith("--")}
    assert flags.keys() & FLAGS == FLAGS - NOT_OFFERED[verb]
    for name in flags.keys() & FLAGS - {"--max-faces"}:
        alike = next(p for p in COMMANDS["predict"].params if p.opts[0] == name)
        assert (flags[name].help, flags[name].default) == (alike.help, alike.default)


def test_the_limit_of_pixels_is_that_of_the_decoder() -> None:
    from facial_keypoints.io import images

    assert images.MAX_PIXELS == MAX_PIXELS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo of two faces, and a table with the box of one of them."""
    folder = tmp_path_factory.mktemp("faces")
    photo, faces = draw_scene(2, seed=1, image_size=(240, 480))
    Image.fromarray(photo).save(folder / "photo.png")
    low, high = faces.xy[1].min(axis=0) - 10, faces.xy[1].max(axis=0) + 10
    with (folder / "boxes.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows(
            [["source", "x0", "y0", "x1", "y1"], ["photo.png", *low.tolist(), *high.tolist()]]
        )
    return folder


def run(verb: str, out: Path, *words: str | Path) -> tuple[int, str, list[dict[str, str]]]:
    done = CliRunner().invoke(app, [verb, *map(str, words), "-o", str(out), "--force"])
    table = out / "faces.csv" if verb == "align" else out
    if not table.is_file():
        text = f"{done.output} {done.exception}".replace("│", " ")
        return done.exit_code, " ".join(text.split()), []
    with table.open(newline="") as handle:
        return done.exit_code, done.output, list(csv.DictReader(handle))


@pytest.mark.parametrize("verb", ["predict", "measure", "align"])
def test_the_flags_reach_the_predictor(verb: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / ("out" if verb == "align" else "out.csv")
    photo = folder / "photo.png"
    code, _, faces = run(verb, out, photo)
    assert (code, len(faces)) == (0, 2)
    code, _, boxed = run(verb, out, photo, "--boxes", folder / "boxes.csv")
    assert (code, len(boxed), boxed[0]["score"]) == (0, 1, "")
    for words in (["--style", "ibug"], ["--tta"]):
        code, _, other = run(verb, out, photo, "--threads", "1", *words)
        assert (code, len(other)) == (0, 2)
        assert other != faces
    code, said, _ = run(verb, out, photo, "--max-pixels", "100000")
    assert code == 1
    assert "raise --max-pixels" in said


@pytest.mark.parametrize("verb", ["predict", "measure", "align"])
def test_the_last_lines_count_what_was_not_done(
    verb: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    photos = tmp_path / "photos"
    (photos / "out").mkdir(parents=True)
    content = (folder / "photo.png").read_bytes()
    (photos / "a.png").write_bytes(content)
    (photos / "b.jpg").write_bytes(b"no image")
    (photos / "c.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (photos / "d.jxl").touch()
    (photos / "e.NEF").touch()
    monkeypatch.chdir(photos)
    out, draw = Path("m.csv"), ["--draw", "out"] if verb == "predict" else []
    if verb == "align":
        out = Path("out")
    for again in (False, True):  # what the first run wrote is no input of the second
        code, said, rows = run(verb, out, ".", *draw)
        assert (code, len(rows)) == (1, 2)
        assert (
            "5 images: 1 done, 1 unreadable, 1 HEIC without the extra heif, 2 of a kind that is not read\n"
        ) in said
        assert "2 files look like images and were not read: d.jxl, e.NEF.\n" in said
        assert ("out is the output" in said) == (again and verb != "measure")


@pytest.mark.parametrize("verb", ["predict", "measure", "align"])
def test_json_says_what_the_last_line_says(
    verb: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    pages = [Image.open(folder / "photo.png").convert("RGB")] * 2
    pages[0].save(photos / "a.tiff", save_all=True, append_images=pages[1:])
    (photos / "b.jpg").write_bytes(b"no image")
    (photos / "c.jxl").touch()
    (photos / "named_wrongly").write_bytes((folder / "photo.png").read_bytes())
    (photos / "notes").write_text("no image")
    (photos / "album").symlink_to(folder, target_is_directory=True)
    monkeypatch.chdir(photos)
    out = tmp_path / ("out" if verb == "align" else "t.csv")
    done = command_line(verb, ".", "./a.tiff", "-o", out, "--json")
    said = done.stderr
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["images"], found["done"], found["faces"], found["repeated"]) == (5, 2, 4, 1)
    assert [problem["kind"] for problem in found["not_done"]] == [
        "unreadable", "of a kind that is not read", "of a kind that is not read",
    ]  # fmt: skip
    assert [problem["reason"] for problem in found["not_done"]][1:] == ["c.jxl", "named_wrongly"]
    assert ["has 2 pages" in warning for warning in found["warnings"]] == [True] * 2
    assert (
        "5 images: 2 done, 1 unreadable, 2 of a kind that is not read, 1 named again and done again, "
        "2 warnings\n"
    ) in said
    assert "1 link to a folder was not followed: album." in said


def test_a_copy_that_cannot_be_written_costs_that_copy(folder: Path, tmp_path: Path) -> None:
    content = (folder / "photo.png").read_bytes()
    photos = tmp_path / "photos"
    photos.mkdir()
    long = "n" * 246 + ".png"  # with _face0 it has more than the 255 bytes that a file system takes
    (photos / long).write_bytes(content)
    (photos / "b.png").write_bytes(content)
    (photos / ("m" * 251 + ".bmp")).write_bytes(content)  # drawn as NAME.bmp.png
    code, said, rows = run("align", tmp_path / "out", photos)
    assert code == 1
    assert "3 images: 3 done, 4 not copied\n" in said
    assert [Path(row["file"]).name for row in rows] == ["b_face0.png", "b_face1.png"]
    code, said, rows = run("predict", tmp_path / "t.csv", photos, "--draw", tmp_path / "drawn")
    assert code == 1
    assert len(rows) == 6
    assert "3 images: 3 done, 1 not copied\n" in said
    assert sorted(len(p.name) for p in (tmp_path / "drawn").rglob("*.png")) == [5, 250]


def test_images_of_one_name_get_copies_of_their_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (folder / "photo.png").read_bytes()
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "a.webp.png", str(tmp_path).strip("/") + "/a.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content)
    Image.open(folder / "photo.png").save("a.webp", lossless=True)
    same = [tmp_path / "a.png", Path(str(tmp_path).strip("/")) / "a.png"]
    code, _, rows = run("predict", Path("t.csv"), "a.webp", "a.webp.png", *same, "--draw", "drawn")
    assert (code, len(rows)) == (0, 8)
    assert len([p for p in Path("drawn").rglob("*") if p.is_file()]) == 4
    code, _, rows = run("align", Path("out"), "a.webp", "a.webp.png", *same)
    assert (code, len({row["file"] for row in rows})) == (0, 8)


def test_track_takes_tta(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    from drawn_video import write

    video = write(tmp_path / "still.mp4", [np.asarray(Image.open(folder / "photo.png"))] * 2)
    plain, tta = (run("track", tmp_path / "t.csv", video, "--raw", *w)[2] for w in ([], ["--tta"]))
    assert len(plain) == len(tta) == 4
    x = [[float(row["nose_tip_x"]) for row in rows] for rows in (plain, tta)]
    assert 0 < np.abs(np.subtract(*x)).max() < 3


@pytest.mark.parametrize("verb", ["predict", "measure", "align"])
def test_the_effort_decides_whether_a_turned_image_is_searched(
    verb: str, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / ("out" if verb == "align" else "out.csv")
    turned = tmp_path / "turned.png"
    with Image.open(folder / "photo.png") as photo:
        photo.rotate(-90, expand=True).save(turned)
    code, said, faces = run(verb, out, turned)
    assert (code, len(faces)) == (0, 2)
    if verb == "predict":
        assert [float(face["angle"]) for face in faces] == pytest.approx([90, 90], abs=20)
        assert "2 faces; looked for faces from 13 pixels" in said
    assert len(run(verb, out, turned, "--effort", "fast")[2]) < 2


def test_the_choices_of_effort_are_those_of_the_detector() -> None:
    from facial_keypoints.cli.options import EffortName
    from facial_keypoints.inference.detector import EFFORTS

    assert [name.value for name in EffortName] == list(EFFORTS)


def test_boxes_of_images_that_are_not_there_are_named(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    Image.new("L", (40, 40)).save(other)
    code, said, rows = run("measure", tmp_path / "m.csv", other, "--boxes", folder / "boxes.csv")
    assert (code, rows) == (1, [])
    assert f"not among the inputs: {folder / 'photo.png'}." in said


@pytest.mark.parametrize(
    "words",
    [["--crops", "--boxes", "b.csv"], ["--crops", "--max-faces", "1"], ["--boxes", "b.csv", "--min-score", "0.5"],
     ["--crops", "--effort", "fast"]],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["predict", "measure", "align"])
def test_flags_that_do_not_go_together_are_wrong_usage(
    verb: str, words: list[str], tmp_path: Path
) -> None:
    code, said, _ = run(verb, tmp_path / "out", "a.png", *words)
    assert code == 2
    assert "not go with it" in said


def test_a_table_to_measure_needs_no_face_flags(folder: Path, tmp_path: Path) -> None:
    for words in (["--style", "ibug"], ["--model", "gone.onnx"], ["--tta"]):
        code, said, _ = run("measure", tmp_path / "m.csv", folder / "boxes.csv", *words)
        assert code == 2
        assert "a table says where the faces are" in said


def test_predict_writes_the_keypoints_of_another_schema(folder: Path, tmp_path: Path) -> None:
    code, _, rows = run("predict", tmp_path / "five.csv", folder / "photo.png", "--schema", "five")
    assert code == 0
    _, _, whole = run("predict", tmp_path / "own.csv", folder / "photo.png")
    assert len(rows) == len(whole) > 0
    assert "left_eyebrow_inner_end_x" in whole[0]
    assert [row.items() - own.items() for row, own in zip(rows, whole, strict=True)] == [set()] * 2


@pytest.mark.parametrize(("name", "words"), [("ibug68", "do not tell"), ("68", "no schema")])
def test_predict_refuses_a_schema_that_its_model_does_not_tell(
    folder: Path, tmp_path: Path, name: str, words: str
) -> None:
    code, said, _ = run("predict", tmp_path / "out.csv", folder / "photo.png", "--schema", name)
    assert code == 2
    assert words in said
    assert not (tmp_path / "out.csv").exists()
