"""Batch runs: what is read, what is written, and that killed processes lose and repeat nothing."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from command_line import command_line
from facial_keypoints.batch import storage
from facial_keypoints.batch import worker as worker_module
from facial_keypoints.batch.inputs import Shard, find_shards, read_shard
from facial_keypoints.batch.manifest import Manifest, Settings
from facial_keypoints.batch.run import _begin, _finish
from facial_keypoints.batch.storage import Folder
from facial_keypoints.batch.worker import BlockWorker, PackedModel, find_status
from facial_keypoints.data.synthetic.faces import draw_kaggle_like
from facial_keypoints.errors import DataError, FacialKeypointsError, OutputError
from facial_keypoints.inference.detector import Detections
from facial_keypoints.inference.predictor import load_predictor
from facial_keypoints.io.tables import columns, open_table, rows
from facial_keypoints.models.registry import find_model

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="the extra ray is not installed"
)

BAD = {3: b"", 8: b"no image", 21: None}  # None: cut off


@pytest.fixture(scope="module")
def faces() -> list[bytes]:
    """Thirty drawn faces as JPEG; three of them cannot be read."""
    encoded = []
    for number, face in enumerate(draw_kaggle_like(30, seed=5).images):
        content = cv2.imencode(".jpg", cv2.resize(face, (80, 80)))[1].tobytes()
        bad = BAD.get(number, content)
        encoded.append(content[: len(content) // 2] if bad is None else bad)
    return encoded


@pytest.fixture(scope="module")
def folder(faces: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("faces")
    for number, content in enumerate(faces):
        sub = place / ("a" if number < 10 else "b")
        sub.mkdir(exist_ok=True)
        (sub / f"{number:03}.jpg").write_bytes(content)
    (place / "notes.md").write_text("no image")
    return place


@pytest.fixture(scope="module")
def predicted(folder: Path) -> pa.Table:
    """What ``predict --crops`` writes for the folder."""
    table = folder.parent / "predicted.parquet"
    predictor = load_predictor(threads=1)
    files = sorted(folder.rglob("*.jpg"))
    with open_table(table, columns(predictor.spec.schema)) as writer:
        for answer in predictor.predict_files(files, readers=1):
            if not isinstance(answer, Exception):
                writer.write(rows(answer))
    return pq.read_table(table)


def settings(inputs: list[str], **changed: object) -> Settings:
    model = PackedModel.of(find_model("default"))
    values: dict[str, object] = {
        "crops": True,
        "style": "",
        "model_digest": model.digest,
        "detector": "",
    }
    return Settings(inputs=tuple(inputs), **values | changed)  # type: ignore[arg-type]


def begin(out: Path | str, inputs: list[str], **changed: object) -> Manifest:
    chosen = settings(inputs, **changed)
    manifest, _ = _begin(Folder(str(out)), chosen, resume=False)
    return manifest


def do(out: Path | str, manifest: Manifest) -> dict[str, int]:
    """Every block in this process, then the end of the run."""
    model = PackedModel.of(find_model("default"))
    worker = BlockWorker(str(out), manifest.settings, model, None, 2)
    for block in range(manifest.blocks):
        assert worker({"block": block})["error"] == ""
    result = _finish(Folder(str(out)), manifest, new=manifest.blocks, started=time.perf_counter())
    return {"inputs": result.inputs, "faces": result.faces, "failed": result.failed}


def names(shards: list[Shard]) -> list[str]:
    return [shard.source for shard in shards]


def parts(out: Path) -> pa.Table:
    files = sorted((out / "parts").glob("*.parquet"))
    return pa.concat_tables(pq.read_table(f).replace_schema_metadata(None) for f in files)


def failed(out: Path) -> list[tuple[str, str]]:
    rows = pq.read_table(out / "failures.parquet").to_pylist()
    return [(row["source"], row["reason"]) for row in rows]


def test_folders_patterns_and_lists_are_found_in_the_order_of_predict(folder: Path) -> None:
    expected = [str(f) for f in sorted(folder.rglob("*.jpg"))]
    assert names(list(find_shards([str(folder)]))) == expected
    assert names(list(find_shards([f"{folder}/b/*.jpg"]))) == expected[10:]
    listed = folder.parent / "list.txt"
    listed.write_text("\n".join([*expected[:2], "", expected[5]]))
    assert names(list(find_shards([str(listed)]))) == [*expected[:2], expected[5]]


def test_the_same_is_found_at_a_uri(folder: Path) -> None:
    expected = [f"file://{f}" for f in sorted(folder.rglob("*.jpg"))]
    assert names(list(find_shards([f"file://{folder}"]))) == expected
    assert names(list(find_shards([f"file://{folder}/**/0?5.jpg"]))) == [
        name for name in expected if name.endswith("5.jpg")
    ]
    with pytest.raises(DataError, match=r"no file matches file://.*\*\.png"):
        list(find_shards([f"file://{folder}/*.png"]))
    with pytest.raises(DataError, match="there is no image or folder file:///nowhere"):
        list(find_shards(["file:///nowhere"]))


def test_images_of_kinds_that_are_not_read_are_shards_and_so_failures(tmp_path: Path) -> None:
    for name in ("a.NEF", "b.jpg", "c.txt"):
        (tmp_path / name).touch()
    for name in (str(tmp_path), f"file://{tmp_path}"):
        found = {n.rpartition("/")[2] for n in names(list(find_shards([name])))}
        assert found == {"a.NEF", "b.jpg"}


def test_links_to_folders_are_not_followed(faces: list[bytes], tmp_path: Path) -> None:
    place = tmp_path / "in"
    (place / "a").mkdir(parents=True)
    (place / "a" / "1\n#.jpg").write_bytes(faces[0])
    (place / "a" / "up").symlink_to("..")
    for name in (str(place), f"file://{place}", f"file://{place}/**/*.jpg"):
        found = names(list(find_shards([name])))
        told = [] if "//" in name else ["a/up"]  # it ends among the failures
        assert [n.partition("in/")[2] for n in found] == ["a/1\n#.jpg", *told]


def test_an_unknown_scheme_is_an_error() -> None:
    with pytest.raises(DataError, match=r"cannot open nosuch://host/ .*pyarrow"):
        list(find_shards(["nosuch://host/a"]))


@pytest.mark.skipif(importlib.util.find_spec("fsspec") is None, reason="needs fsspec")
def test_filesystems_of_fsspec_are_read_and_written(faces: list[bytes]) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for number in range(4):
        memory.pipe(f"/batch_in/{number}.jpg", faces[number])
    manifest = begin("memory://batch_out", ["memory://batch_in"], block_size=2)
    assert do("memory://batch_out", manifest) == {"inputs": 4, "faces": 3, "failed": 1}
    table = pq.read_table(io.BytesIO(memory.cat("/batch_out/parts/00000000.parquet")))
    assert table["source"].to_pylist() == ["memory://batch_in/0.jpg", "memory://batch_in/1.jpg"]


@pytest.mark.skipif(importlib.util.find_spec("fsspec") is None, reason="needs fsspec")
def test_whatever_error_a_filesystem_raises_costs_one_image(
    faces: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    class ServerError(Exception):
        """No OSError, as those of aiohttp or botocore."""

    system = fsspec.filesystem("memory")
    for name in ("a.jpg", "bad.jpg", "bad.tar", "c.jpg"):
        system.pipe(f"/batch_odd/{name}", faces[0])
    whole = MemoryFileSystem._open

    def refuse(self: MemoryFileSystem, path: str, *words: object, **more: object) -> object:
        if "bad" in path:
            raise ServerError("status 500")
        return whole(self, path, *words, **more)

    monkeypatch.setattr(MemoryFileSystem, "_open", refuse)
    pq.write_table(pa.table({"path": ["memory://batch_odd/bad.tar#x.jpg"]}), tmp_path / "p.parquet")
    inputs = ["memory://batch_odd", str(tmp_path / "p.parquet")]
    result = do(tmp_path / "out", begin(tmp_path / "out", inputs))
    system.rm("/batch_odd", recursive=True)
    assert result == {"inputs": 4, "faces": 2, "failed": 2}
    assert all("status 500" in reason for _, reason in failed(tmp_path / "out"))


def test_parts_hold_the_rows_of_predict_and_failures_the_rest(
    folder: Path, predicted: pa.Table, tmp_path: Path
) -> None:
    manifest = begin(tmp_path / "out", [str(folder)], block_size=7)
    assert manifest.blocks == 5
    assert do(tmp_path / "out", manifest) == {"inputs": 30, "faces": 27, "failed": 3}
    table = parts(tmp_path / "out")
    assert table.schema == predicted.schema.remove_metadata()
    assert table["source"].to_pylist() == predicted["source"].to_pylist()
    for name in table.schema.names[2:]:
        np.testing.assert_allclose(
            table[name].to_numpy(), predicted[name].to_numpy(), atol=0.0021, rtol=0
        )
    files = sorted(folder.rglob("*.jpg"))
    assert [source for source, _ in failed(tmp_path / "out")] == [str(files[i]) for i in BAD]
    assert [reason.split("(")[0] for _, reason in failed(tmp_path / "out")] == [
        "the file is empty.",
        "not an image in a known format.",
        "the image is damaged or cut off ",
    ]


def test_blocks_of_full_batches_give_exactly_the_numbers_of_predict(
    folder: Path, predicted: pa.Table, tmp_path: Path
) -> None:
    do(tmp_path / "out", begin(tmp_path / "out", [str(folder)], block_size=128))
    assert parts(tmp_path / "out").equals(predicted.replace_schema_metadata(None))


@pytest.mark.parametrize("kind", ["binary", "struct", "path"])
def test_parquet_columns_of_images_and_of_paths(
    kind: str, faces: list[bytes], folder: Path, predicted: pa.Table, tmp_path: Path
) -> None:
    files = [str(f) for f in sorted(folder.rglob("*.jpg"))]
    column = {
        "binary": pa.array(faces),
        "struct": pa.array([{"bytes": face, "path": "x"} for face in faces]),
        "path": pa.array(files),
    }[kind]
    name = "path" if kind == "path" else "image"
    source = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": list(range(30)), name: column}), source, row_group_size=4)
    manifest = begin(tmp_path / "out", [str(source)], block_size=8)
    assert [p.count for b in range(manifest.blocks) for p in manifest.shards(b)] == [8, 8, 8, 6]
    assert do(tmp_path / "out", manifest) == {"inputs": 30, "faces": 27, "failed": 3}
    table = parts(tmp_path / "out")
    good = [i for i in range(30) if i not in BAD]
    expected = files if kind == "path" else [f"{source}#{i}" for i in range(30)]
    assert table["source"].to_pylist() == [expected[i] for i in good]
    np.testing.assert_allclose(
        table["nose_tip_x"].to_numpy(), predicted["nose_tip_x"].to_numpy(), atol=0.0021
    )


def test_a_parquet_file_without_a_fitting_column_names_its_columns(tmp_path: Path) -> None:
    source = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": [1], "image": [2.5]}), source)
    with pytest.raises(DataError, match="column image holds double, not the bytes or the paths"):
        list(find_shards([str(source)]))
    with pytest.raises(DataError, match=r"no column photo: .*--column \(id, image\)"):
        list(find_shards([str(source)], column="photo"))
    source.write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match="cannot be read as a Parquet table"):
        list(find_shards([str(source)]))


def write_tar(path: Path, faces: list[bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for number, content in enumerate(faces):
            for name, value in ((f"{number:03}.jpg", content), (f"{number:03}.json", b"{}")):
                info = tarfile.TarInfo(f"d/{name}")
                info.size = len(value)
                archive.addfile(info, io.BytesIO(value))


@pytest.mark.parametrize("suffix", [".tar", ".tgz"])
def test_tar_archives(suffix: str, faces: list[bytes], predicted: pa.Table, tmp_path: Path) -> None:
    for shard in range(3):
        write_tar(tmp_path / f"s{shard}{suffix}", faces[shard * 10 : shard * 10 + 10])
    manifest = begin(tmp_path / "out", [f"{tmp_path}/s*{suffix}"])
    assert (manifest.blocks, manifest.archives) == (3, 3)
    assert do(tmp_path / "out", manifest) == {"inputs": 30, "faces": 27, "failed": 3}
    table = parts(tmp_path / "out")
    assert table["source"].to_pylist()[0] == f"{tmp_path}/s0{suffix}#d/000.jpg"
    np.testing.assert_allclose(
        table["nose_tip_x"].to_numpy(), predicted["nose_tip_x"].to_numpy(), atol=0.0021
    )


def test_a_cut_off_archive_keeps_what_came_before_and_fails_once(
    faces: list[bytes], tmp_path: Path
) -> None:
    shard = tmp_path / "s.tar"
    write_tar(shard, faces[10:20])
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    result = do(tmp_path / "out", begin(tmp_path / "out", [str(shard)]))
    assert result["failed"] == 1
    assert 0 < result["faces"] == result["inputs"] - 1
    assert [source for source, _ in failed(tmp_path / "out")] == [str(shard)]


def test_a_damaged_header_in_an_archive_is_a_failure_and_not_its_end(
    faces: list[bytes], tmp_path: Path
) -> None:
    shard = tmp_path / "s.tar"
    write_tar(shard, faces[10:14])
    with tarfile.open(shard) as archive:
        place = archive.getmember("d/002.jpg").offset
    content = bytearray(shard.read_bytes())
    content[place + 130] ^= 1
    shard.write_bytes(content)
    result = do(tmp_path / "out", begin(tmp_path / "out", [str(shard)]))
    assert result == {"inputs": 3, "faces": 2, "failed": 1}
    assert "bad checksum" in failed(tmp_path / "out")[0][1]


def test_links_in_an_archive_are_failures(faces: list[bytes], tmp_path: Path) -> None:
    shard = tmp_path / "s.tar"
    (tmp_path / "a.jpg").write_bytes(faces[10])
    (tmp_path / "b.jpg").hardlink_to(tmp_path / "a.jpg")
    (tmp_path / "c.jpg").symlink_to("a.jpg")
    with tarfile.open(shard, "w") as archive:
        for name in ("a.jpg", "b.jpg", "c.jpg"):
            archive.add(tmp_path / name, name)
    result = do(tmp_path / "out", begin(tmp_path / "out", [str(shard)]))
    assert result == {"inputs": 3, "faces": 1, "failed": 2}
    assert [reason.partition("(")[2] for _, reason in failed(tmp_path / "out")] == [
        "a link to a.jpg, not an image)."
    ] * 2


def test_a_parquet_file_that_shrank_fails_row_by_row(faces: list[bytes], tmp_path: Path) -> None:
    source = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": faces[10:20]}), source, row_group_size=5)
    manifest = begin(tmp_path / "out", [str(source)], block_size=5)
    pq.write_table(pa.table({"image": faces[10:15]}), source, row_group_size=5)
    assert do(tmp_path / "out", manifest) == {"inputs": 10, "faces": 5, "failed": 5}
    assert [source for source, _ in failed(tmp_path / "out")] == [
        f"{source}#{row}" for row in range(5, 10)
    ]


def test_failures_are_tried_again_by_themselves_from_any_folder(
    faces: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [faces[10]] * 6

    def put(contents: list[bytes]) -> None:
        (tmp_path / "in").mkdir(exist_ok=True)
        for number, content in enumerate(contents):
            (tmp_path / "in" / f"{number} #.jpg").write_bytes(content)
        write_tar(tmp_path / "s.tar", contents)
        # Other usual names beside it: the column that the run was given is the one that counts.
        table = pa.table({"path": ["x"] * 6, "photo": contents})
        pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)

    put([good[0], b"", good[0], b"", good[0], b""])
    monkeypatch.chdir(tmp_path)
    inputs = ["in", "s.tar", "t.parquet"]
    result = do("out", begin("out", inputs, column="photo", block_size=3))
    assert result == {"inputs": 18, "faces": 9, "failed": 9}
    put([*good[:5], b""])
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    table = ["../out/failures.parquet"]
    result = do("again", begin("again", table, column="source", block_size=4))
    assert result == {"inputs": 9, "faces": 6, "failed": 3}
    assert parts(Path("again"))["source"].to_pylist() == [
        "in/1 #.jpg", "in/3 #.jpg", "s.tar#d/001.jpg", "s.tar#d/003.jpg",
        "t.parquet#1", "t.parquet#3",
    ]  # fmt: skip
    left = ["in/5 #.jpg", "s.tar#d/005.jpg", "t.parquet#5"]
    assert [source for source, _ in failed(Path("again"))] == left
    put(good)
    (tmp_path / "more").mkdir()
    monkeypatch.chdir(tmp_path / "more")
    result = do("more", begin("more", ["../else/again/failures.parquet"]))
    assert result == {"inputs": 3, "faces": 3, "failed": 0}
    assert parts(Path("more"))["source"].to_pylist() == left


def test_names_of_members_and_rows_give_an_image_or_a_failure_each(
    faces: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tar(tmp_path / "s.tar", faces[10:14])
    write_tar(tmp_path / "cut.tar", faces[10:14])
    content = (tmp_path / "cut.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: len(content) // 2])
    (tmp_path / "a.tar#1.jpg").write_bytes(faces[15])  # an ordinary file of this name
    pq.write_table(pa.table({"image": faces[10:12]}), tmp_path / "t.parquet")
    pq.write_table(pa.table({"path": ["paths.parquet#0"]}), tmp_path / "paths.parquet")
    sources = [
        "s.tar#d/002.jpg", "s.tar#d/000.jpg", "s.tar#d/002.jpg", "s.tar#d/009.jpg", "s.tar",
        "cut.tar#d/000.jpg", "cut.tar#d/003.jpg", "no.tar#a.jpg", "a.tar#1.jpg",
        "t.parquet#1", "t.parquet#7", "t.parquet#x", "no.parquet#0", "paths.parquet#0", None,
    ]  # fmt: skip
    pq.write_table(pa.table({"source": pa.array(sources)}), tmp_path / "list.parquet")
    result = do("out", begin("out", ["list.parquet"]))
    assert result["inputs"] == len(sources)
    assert sorted(parts(Path("out"))["source"].to_pylist()) == [
        "a.tar#1.jpg", "cut.tar#d/000.jpg", "s.tar#d/000.jpg", "s.tar#d/002.jpg",
        "s.tar#d/002.jpg", "t.parquet#1",
    ]  # fmt: skip
    reasons = dict(failed(Path("out")))
    assert set(reasons) == {
        "s.tar#d/009.jpg", "s.tar", "cut.tar#d/003.jpg", "no.tar#a.jpg", "t.parquet#7",
        "t.parquet#x", "no.parquet#0", "paths.parquet#0", "list.parquet#14",
    }  # fmt: skip
    assert "no image of this name" in reasons["s.tar#d/009.jpg"]
    assert "give the archive itself as an input" in reasons["s.tar"]
    assert "the archive is damaged" in reasons["cut.tar#d/003.jpg"]
    assert "the archive is damaged or cannot be read" in reasons["no.tar#a.jpg"]
    assert "No such file" in reasons["no.parquet#0"]
    # Followed once: a table whose names lead into itself has an end.
    assert "No such file" in reasons["paths.parquet#0"]


def test_photos_without_faces_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoFaces:
        def detect(self, image: np.ndarray, effort: str) -> Detections:
            return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))

    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "wall.png"), np.full((60, 80, 3), 90, np.uint8))
    predictor = load_predictor(threads=1, detector=NoFaces())
    monkeypatch.setattr(worker_module, "load_packed", lambda *_: predictor)
    manifest = begin(tmp_path / "out", [str(tmp_path / "in")], crops=False)
    assert do(tmp_path / "out", manifest) == {"inputs": 1, "faces": 0, "failed": 0}
    status = find_status(Folder(str(tmp_path / "out")), 0)
    assert status is not None
    assert (status.predicted, status.without_faces, status.bytes_read > 0) == (1, 1, True)
    assert parts(tmp_path / "out").num_rows == 0


def test_names_that_are_not_text_are_written_as_predict_writes_them(
    faces: list[bytes], tmp_path: Path
) -> None:
    place = tmp_path / "in"
    place.mkdir()
    for name, content in ((b"\xff1.jpg", faces[0]), (b"\xff2.jpg", b"")):
        (place / os.fsdecode(name)).write_bytes(content)
    do(tmp_path / "out", begin(tmp_path / "out", [str(place)]))
    assert parts(tmp_path / "out")["source"].to_pylist() == [f"{place}/�1.jpg"]
    assert failed(tmp_path / "out")[0][0] == f"{place}/�2.jpg"


def test_resume_computes_only_the_missing_parts(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = begin(out, [str(folder)], block_size=7)
    do(out, manifest)
    before = parts(out)
    (out / "parts" / "00000001.parquet").unlink()
    cut = out / "parts" / "00000003.parquet"
    cut.write_bytes(cut.read_bytes()[:-50])
    (folder / "b" / "later.jpg").write_bytes(b"came after the run began")
    try:
        again, done = _begin(Folder(str(out)), settings([str(folder)], block_size=7), resume=True)
    finally:
        (folder / "b" / "later.jpg").unlink()
    assert sorted(done) == [0, 2, 4]
    assert do(out, again) == {"inputs": 30, "faces": 27, "failed": 3}
    assert parts(out).equals(before)


def test_a_run_is_resumed_with_its_own_settings_only(folder: Path, tmp_path: Path) -> None:
    begin(tmp_path / "out", [str(folder)])
    place = Folder(str(tmp_path / "out"))

    def resumed(**changed: object) -> None:
        _begin(place, settings([str(folder)], **changed), resume=True)

    resumed()
    resumed(root="/elsewhere")
    other = place.read("run.json").replace(b'"style": ""', b'"style": "kaggle-b"')
    place.write("run.json", other)
    with pytest.raises(OutputError, match=r"other settings \(style: kaggle-b, not "):
        resumed()
    with pytest.raises(OutputError, match=r"\(model's file: another one\)"):
        resumed(style="kaggle-b", model_digest="00")
    with pytest.raises(OutputError, match=r"\(columns: another one\)"):
        resumed(style="kaggle-b", columns=("source",))
    with pytest.raises(OutputError, match=r"\(crops: True, not False\)"):
        resumed(style="kaggle-b", crops=False)


def test_force_replaces_a_batch_run_and_nothing_else(faces: list[bytes], tmp_path: Path) -> None:
    def prepare(name: str, *, force: bool) -> None:
        with Folder(name).prepared([str(place)], force=force, resume=False):
            begin(name, [str(place)])

    place, other, out = tmp_path / "in", tmp_path / "other", tmp_path / "out"
    for each in (place, other):
        each.mkdir()
        (each / "a.jpg").write_bytes(faces[0])
    for name in (str(place), str(tmp_path), f"{place}/out"):
        with pytest.raises(OutputError, match="the input"):
            prepare(name, force=True)
    for name in (str(other), f"file://{other}", f"file://{place}"):
        with pytest.raises(OutputError, match="was not made by facial-keypoints"):
            prepare(name, force=True)
    assert (place / "a.jpg").exists()
    assert (other / "a.jpg").exists()
    for name in (str(out), f"file://{out}"):
        prepare(name, force=True)
        with pytest.raises(OutputError, match=r"exists already: .+ --resume"):
            prepare(name, force=False)
        do(out, Manifest.read(Folder(name)))
        assert (out / "parts" / "00000000.parquet").exists()
        prepare(name, force=True)
        assert not (out / "parts").exists()


def test_a_full_disk_is_one_sentence_and_finished_parts_stay(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    manifest = begin(out, [str(folder)], block_size=15)
    model = PackedModel.of(find_model("default"))
    worker = BlockWorker(str(out), manifest.settings, model, None, 2)
    assert worker({"block": 0})["error"] == ""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    assert worker({"block": 1})["error"].startswith("no space left on the disk while writing")
    assert [p.name for p in (out / "parts").iterdir()] == ["00000000.parquet"]


def test_an_image_that_is_too_large_for_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x" * 1000)
    for source in (f"{tmp_path}/a.jpg", f"file://{tmp_path}/a.jpg"):
        (image,) = read_shard(Shard("file", source), root="/", column=None, max_pixels=10)
        with pytest.raises((OSError, ValueError), match="too large"):
            image.read()


def test_a_cluster_that_does_not_answer_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from facial_keypoints.cluster import _check_answers, _explain

    with pytest.raises(FacialKeypointsError, match=r"no Ray cluster answers at 127.0.0.1:1 \("):
        _check_answers("127.0.0.1:1")
    with pytest.raises(FacialKeypointsError, match="is not HOST:PORT"):
        _check_answers("somewhere")
    differs = RuntimeError(
        "Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.10.1\n"
        "This process on x was started with:\n    Ray: 2.60.0\n    Python: 3.11.2\n"
    )
    assert "runs Ray 2.9.0 on Python 3.10.1, but this is Ray 2.60.0" in str(
        _explain(differs, "h:1")
    )


@needs_ray
def test_too_little_memory_for_ray_is_told_before_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from facial_keypoints import cluster

    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "MemAvailable:     524288 kB\n")
    with (
        pytest.raises(
            FacialKeypointsError, match=r"Ray needs 1.4 GB of .* 2 workers .* 0.5 GB are"
        ),
        cluster.connect(None, 2, purpose="this", worker_bytes=270 << 20),
    ):
        pass


def test_sigterm_stays_a_ctrl_c_when_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    from facial_keypoints import cluster

    def start(**_: object) -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)

    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "cluster_resources", dict)
    monkeypatch.setattr(cluster, "_check_memory", lambda *_: None)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with cluster.connect(None, 1, purpose="this", worker_bytes=0):
            assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


@needs_ray
def test_a_port_that_is_not_ray_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from facial_keypoints import cluster

    monkeypatch.setattr(cluster, "_JOIN_S", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with (
            pytest.raises(FacialKeypointsError, match=r"cannot join .*no answer within 3 seconds"),
            cluster.connect(address, purpose="this", worker_bytes=0),
        ):
            pass


@needs_ray
def test_ray_accepts_the_cluster_configuration_of_the_guide() -> None:
    import yaml
    from ray.autoscaler._private.util import prepare_config, validate_config

    guide = Path(__file__).parents[2] / "docs" / "scaling.md"
    blocks = re.findall(r"```yaml\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    configs = [yaml.safe_load(block) for block in blocks]
    configs = [config for config in configs if "cluster_name" in config]
    assert configs
    for config in configs:
        validate_config(prepare_config(config))
        with pytest.raises(ValueError, match="max_workers"):
            validate_config(prepare_config(config | {"max_workers": 1}))


# From here on Ray runs, in processes of its own.


def batch(*words: str | Path, **variables: str) -> subprocess.Popen[str]:
    from ray_nodes import ENVIRONMENT

    return subprocess.Popen(
        [sys.executable, "-m", "facial_keypoints", "batch", "--crops", *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT | variables,
    )


def count_parts(out: Path) -> int:
    return len(list((out / "parts").glob("[0-9]*")))


def wait_for_parts(out: Path, count: int, run: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 240  # Ray needs a while to notice that a node is gone
    while count_parts(out) < count:
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(800)
@needs_ray
def test_a_killed_node_and_a_killed_driver_lose_nothing_and_repeat_nothing(
    folder: Path, predicted: pa.Table, tmp_path: Path
) -> None:
    from ray_nodes import Nodes, kill_tree

    out = tmp_path / "out"
    # The same images many times, under a list: enough blocks to kill in between.
    files = [str(f) for f in sorted(folder.rglob("*.jpg"))] * 12
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(files))
    with Nodes(tmp_path) as nodes:
        nodes.add()
        second = nodes.add()
        words = (listed, "-o", out, "--block-size", "5", "--address", nodes.address)
        run = batch(*words, "--workers", "2")
        wait_for_parts(out, 8, run)
        nodes.kill(second, at_work="MapWorker")
        wait_for_parts(out, count_parts(out) + 8, run)
        kill_tree(run)
        run.communicate()
        assert count_parts(out) < 72, "killed too late for this test"
        again = batch(*words, "--workers", "2", "--resume")
        log = again.communicate(timeout=200)[1]
        assert again.returncode == 0, log
    table = parts(out)
    assert table["source"].to_pylist() == predicted["source"].to_pylist() * 12
    np.testing.assert_allclose(
        table["nose_tip_x"].to_numpy(), np.tile(predicted["nose_tip_x"].to_numpy(), 12), atol=0.0021
    )
    assert [source for source, _ in failed(out)] == [files[i] for i in BAD] * 12
    assert sorted(p.name for p in (out / "parts").iterdir())[-1] == "00000071.parquet"
    assert not list((out / "parts").glob(".*"))


@pytest.mark.slow
@needs_ray
def test_mistakes_on_one_machine_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = batch(folder, "-o", out, "--workers", "1")
    log = run.communicate(timeout=200)[1]
    assert run.returncode == 0, log
    assert "27 of 30 images in 1 parts" in log
    for words, sentence in (
        ((folder, "-o", out), "exists already"),
        (
            (folder, "-o", out, "--resume", "--style", "kaggle-b"),
            "begun with other settings (style",
        ),
        ((tmp_path / "nothing*", "-o", tmp_path / "x"), "no file matches"),
        ((folder, "-o", tmp_path / "x", "--address", "127.0.0.1:1"), "no Ray cluster answers"),
    ):
        told = command_line("batch", "--crops", *words)
        assert told.returncode == 1
        assert sentence in told.stderr
        assert "Traceback" not in told.stderr


def test_storage_names() -> None:
    assert storage.is_uri("s3://bucket/a")
    assert not storage.is_uri("C:/images")
    assert isinstance(storage._resolve("relative/a.jpg")[0], pafs.LocalFileSystem)
