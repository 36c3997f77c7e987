"""Files of LabelMe, VIA, dlib's imglab, tpsDig, DeepLabCut, WFLW and 300-W, as these write them."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facial_keypoints.errors import DataError
from label_files import NAMES, POINTS, SIZES, assert_cats, assert_points, found, photo, photos

# --- LabelMe --------------------------------------------------------------------------------------


def labelme(path: Path, image: str, shapes: list[dict[str, Any]], size: tuple[int, int]) -> None:
    content = {
        "version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": None,
        "imageHeight": size[1], "imageWidth": size[0],
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def shape(
    label: str, *places: tuple[float, float], kind: str = "point", **more: Any
) -> dict[str, Any]:
    points = [[x + 0.5, y + 0.5] for x, y in places]  # from the image's edge
    return {
        "label": label,
        "points": points,
        "group_id": None,
        "shape_type": kind,
        "flags": {},
        **more,
    }


def test_a_folder_of_labelme(tmp_path: Path) -> None:
    photos(tmp_path / "images")
    for name, points in POINTS.items():
        shapes = [shape(n, place, flags={"occluded": n == "nose"}) for n, place in points.items()]
        labelme(tmp_path / "json" / f"{name[0]}.json", f"..\\images\\{name}", shapes, SIZES[name])
    labels = found(tmp_path)
    assert [face.image for face in labels.faces] == ["images/a.jpg", "images/b.jpg"]
    for face in labels.faces:
        assert_points(face, POINTS[Path(face.image).name])
        assert face.points["nose"][2] == 1
        assert face.points["left_eye"][2] == 2


def test_labelme_groups_rectangles_and_other_shapes(tmp_path: Path) -> None:
    photos(tmp_path)
    shapes = [
        shape("nose", (20, 20), group_id=1),
        shape("nose", (80, 20), group_id=2),
        shape("cat", (89.5, 39.5), (69.5, 9.5), kind="rectangle", group_id=2),
        shape("fur", (1, 1), (5, 5), (9, 1), kind="polygon"),
    ]
    labelme(tmp_path / "a.json", "missing.jpg", shapes, SIZES["a.jpg"])
    labels = found(tmp_path / "a.json")
    assert [face.points["nose"][:2] for face in labels.faces] == [(20, 20), (80, 20)]
    assert labels.faces[1].box == (70, 10, 90, 40)
    assert labels.faces[0].image == "a.jpg"  # the image beside the json
    assert labels.left_out["shapes that are no points: polygon"] == 1


# --- VIA ------------------------------------------------------------------------------------------


def via_regions(image: str, **more: str) -> list[dict[str, Any]]:
    return [
        {
            "shape_attributes": {"name": "point", "cx": round(x), "cy": round(y)},
            "region_attributes": {"landmark": name, **more},
        }
        for name, (x, y) in POINTS[image].items()
    ]


def via_csv(path: Path, header: str, regions: dict[str, list[dict[str, Any]]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(
        [
            header,
            "file_size",
            "file_attributes",
            "region_count",
            "region_id",
            "region_shape_attributes",
            "region_attributes",
        ]
    )
    for name, found_in in regions.items():
        for i, region in enumerate(found_in):
            cells = [json.dumps(region[k]) for k in ("shape_attributes", "region_attributes")]
            writer.writerow([name, 1234, json.dumps({"pet": name[0]}), len(found_in), i, *cells])
        if not found_in:
            writer.writerow([name, 1234, "{}", 0, 0, "{}", "{}"])
    path.write_text(text.getvalue(), encoding="utf-8")


def via_project_3(path: Path, regions: dict[str, list[dict[str, Any]]]) -> None:
    """The project as version 3 writes it: the points' names are options, boxes and a video's marks are there too."""
    names = {str(i): name for i, name in enumerate(NAMES)}
    number = {name: i for i, name in names.items()}
    metadata: dict[str, dict[str, Any]] = {}
    for view, (image, found_in) in enumerate(regions.items(), start=1):
        marks = [([], [], {"2": image[0]})]
        for region in found_in:
            shape = region["shape_attributes"]
            place = [1, shape["cx"], shape["cy"]]
            marks.append((place, [], {"1": number[region["region_attributes"]["landmark"]]}))
        marks += [([2, 1, 2, 110, 90], [], {}), ([1, 5, 5], [1.5], {"1": "0"})]
        for xy, z, values in marks:
            metadata[f"{view}_{len(metadata)}"] = {
                "vid": str(view), "flg": 0, "z": z, "xy": xy, "av": values,
            }  # fmt: skip
    files = {
        str(i): {"fid": str(i), "fname": n, "loc": 1, "src": ""} for i, n in enumerate(regions)
    }
    project = {
        "project": {"vid_list": [str(i + 1) for i in range(len(regions))]},
        "attribute": {
            "1": {"aname": "name", "anchor_id": "FILE1_Z0_XY1", "type": 4, "options": names},
            "2": {"aname": "pet", "anchor_id": "FILE1_Z0_XY0", "type": 1, "options": {}},
        },
        "file": files,
        "metadata": metadata,
        "view": {str(int(i) + 1): {"fid_list": [i]} for i in files},
    }
    path.write_text(json.dumps(project))


@pytest.mark.parametrize("kind", ["csv", "old csv", "json", "project", "project 3"])
def test_via(tmp_path: Path, kind: str) -> None:
    photos(tmp_path)
    regions = {name: via_regions(name) for name in POINTS}
    if "csv" in kind:
        path = tmp_path / "via.csv"
        via_csv(path, "#filename" if kind == "old csv" else "filename", regions | {"c.jpg": []})
    elif kind == "project 3":
        path = tmp_path / "via.json"
        via_project_3(path, regions)
    else:
        entries = {
            f"{name}1234": {
                "filename": name,
                "size": 1234,
                "regions": r,
                "file_attributes": {"pet": name[0]},
            }
            for name, r in regions.items()
        }
        path = tmp_path / "via.json"
        project = {"_via_settings": {}, "_via_img_metadata": entries, "_via_attributes": {}}
        path.write_text(json.dumps(project if kind == "project" else entries))
    labels = found(path, group_by="pet")
    assert [face.about["group"] for face in labels.faces] == ["a", "b"]
    if kind == "project 3":
        assert labels.left_out["marks at a time of a video"] == 2
        assert {face.box for face in labels.faces} == {(1, 2, 111, 92)}
    for face in labels.faces:
        assert_points(face, {n: (round(x), round(y)) for n, (x, y) in POINTS[face.image].items()})


def test_via_points_without_names_are_counted_and_faces_joined_by_an_attribute(
    tmp_path: Path,
) -> None:
    photos(tmp_path)
    bare = [{**r, "region_attributes": {}} for r in via_regions("a.jpg")]
    via_csv(tmp_path / "via.csv", "filename", {"a.jpg": bare})
    assert found(tmp_path / "via.csv").names == tuple(f"point_{i}" for i in range(1, 6))
    two = via_regions("b.jpg", face="1") + via_regions("b.jpg", face="2", hidden="yes")
    box = {
        "shape_attributes": {"name": "rect", "x": 1, "y": 2, "width": 80, "height": 90},
        "region_attributes": {"face": "2"},
    }
    via_csv(tmp_path / "via.csv", "filename", {"b.jpg": [*two, box]})
    first, second = found(tmp_path / "via.csv").faces
    assert first.box is None
    assert second.box == (1, 2, 81, 92)
    assert {p[2] for p in first.points.values()} == {2}
    assert {p[2] for p in second.points.values()} == {1}


# --- dlib -----------------------------------------------------------------------------------------


def test_imglab(tmp_path: Path) -> None:
    photos(tmp_path)
    boxes = []
    for name, points in POINTS.items():
        parts = "".join(
            f'<part name="{n}" x="{round(x)}" y="{round(y)}"/>' for n, (x, y) in points.items()
        )
        ignored = "<box top='1' left='1' width='5' height='5' ignore='1'/><box top='1' left='1' width='5' height='5'/>"
        boxes.append(
            f"<image file='{name}'><box top='5' left='20' width='60' height='50'><label>cat</label>{parts}</box>"
            f"{ignored}</image>"
        )
    path = tmp_path / "cats.xml"
    path.write_text(
        "<?xml version='1.0' encoding='ISO-8859-1'?>\n<?xml-stylesheet type='text/xsl' href='s.xsl'?>\n"
        f"<dataset><name>imglab</name><comment/><images>{''.join(boxes)}</images></dataset>"
    )
    labels = found(path)
    assert labels.faces[0].box == (20, 5, 80, 55)
    for face in labels.faces:
        assert_points(face, {n: (round(x), round(y)) for n, (x, y) in POINTS[face.image].items()})
    assert labels.left_out == {"boxes to be ignored": 2, "boxes without points": 2}


def test_68_numbered_parts_are_ibug68_in_their_order(tmp_path: Path) -> None:
    photos(tmp_path)
    numbers = sorted(range(68), key=str)  # imglab sorts names as text
    parts = "".join(f"<part name='{i}' x='{i}' y='5'/>" for i in numbers)
    path = tmp_path / "faces.xml"
    path.write_text(
        f"<dataset><images><image file='a.jpg'><box top='0' left='0' width='70' height='70'>{parts}</box></image>"
        "</images></dataset>"
    )
    labels = found(path)
    assert labels.schema is not None
    assert labels.schema.name == "ibug68"
    assert labels.faces[0].points["ibug68_17"][0] == 17


# --- TPS ------------------------------------------------------------------------------------------


def test_tps_counts_upwards_and_negative_is_missing(tmp_path: Path) -> None:
    photos(tmp_path)
    blocks = []
    for number, name in enumerate(POINTS):
        height = SIZES[name][1]
        lines = [
            f"{POINTS[name][n][0] + 0.5:.5f} {height - POINTS[name][n][1] - 0.5:.5f}"
            if n in POINTS[name]
            else "-1.00000 -1.00000"
            for n in NAMES
        ]
        curve = "CURVES=1\nPOINTS=2\n1 1\n2 2\n"
        blocks.append(
            f"LM=5\n{chr(10).join(lines)}\n{curve}IMAGE={name}\nID={number}\nSCALE=0.015000\n"
        )
    path = tmp_path / "cats.TPS"
    path.write_bytes("".join(blocks).replace("\n", "\r\n").encode())
    labels = found(path)
    numbers = {f"point_{i}": name for i, name in enumerate(NAMES, start=1)}
    for face in labels.faces:
        named = {numbers[n]: p[:2] for n, p in face.points.items()}
        assert set(named) == set(POINTS[face.image])
        for n, place in POINTS[face.image].items():
            np.testing.assert_allclose(named[n], place, atol=1e-4)
    assert labels.left_out["points of curves"] == 4


def test_tps_without_its_images_or_with_other_counts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cats.tps"
    path.write_text("LM=1\n1 1\nIMAGE=a.jpg\n")
    with pytest.raises(DataError, match=r"holds no face .*1 specimens whose image is not found"):
        found(path)
    photos(tmp_path)
    path.write_text(
        "LM=1\n1 1\nIMAGE=a.jpg\nLM=2\n1 1\n2 2\nIMAGE=b.jpg\nLM=2\n-1 -1\n2 2\nIMAGE=a.jpg\n"
    )
    labels = found(path)
    assert labels.names == ("point_1", "point_2")
    assert len(labels.faces) == 2
    assert labels.left_out["faces with another number of unnamed points than 2"] == 1
    for text in ("LM=3\n1 1\n", "LM=x\n", "LM=1\nabc def\nIMAGE=a.jpg\n"):
        path.write_text(text)
        with pytest.raises(DataError, match="no TPS file"):
            found(path)


# --- DeepLabCut -----------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("individuals", [False, True])
def test_deeplabcut(tmp_path: Path, columns: int, individuals: bool) -> None:
    folder = tmp_path / "labeled-data" / "garden"
    photos(folder)
    blank = [""] * (columns - 1)
    people = ["tom", "kit"] if individuals else [""]
    pairs = [(who, n, axis) for who in people for n in NAMES for axis in "xy"]
    rows = [["scorer", *blank, *["me"] * len(pairs)]]
    if individuals:
        rows.append(["individuals", *blank, *(who for who, _, _ in pairs)])
    rows += [
        ["bodyparts", *blank, *(n for _, n, _ in pairs)],
        ["coords", *blank, *(a for _, _, a in pairs)],
    ]
    for image, points in POINTS.items():
        parts = ["labeled-data", "garden", image]
        cells = []
        for who in people:
            for n in NAMES:
                mine = who in ("", "tom") and n in points
                cells += [f"{v}" for v in points[n]] if mine else ["", ""]
        rows.append([*(parts if columns == 3 else ["\\".join(parts)]), *cells])
    path = folder / "CollectedData_me.csv"
    path.write_text("\n".join(",".join(row) for row in rows) + "\n")
    labels = found(tmp_path)
    assert [face.image for face in labels.faces] == [
        f"labeled-data/garden/{name}" for name in POINTS
    ]
    assert len(labels.files) == 2
    for face in labels.faces:
        assert_points(face, POINTS[Path(face.image).name])
        assert face.about["group"] == "garden"
    (folder / "x.h5").touch()
    # The file that DeepLabCut makes of all videos, for training, has the same faces again.
    again = tmp_path / "training-datasets" / "CollectedData_me.csv"
    again.parent.mkdir()
    again.write_text(path.read_text())
    merged = found(tmp_path)
    assert len(merged.faces) == 2
    assert merged.left_out["faces that several files have alike"] == 2
    with pytest.raises(DataError, match="no labels that can be read"):
        found(folder / "x.h5")
    h5py = pytest.importorskip("h5py")  # Keras brings it
    deeplabcut_h5(path.with_suffix(".h5"), rows, columns, h5py)
    again.unlink()
    assert not +found(tmp_path).left_out  # the csv is read, and the .h5 beside it is not
    path.unlink()
    of_h5 = found(tmp_path)
    assert (of_h5.names, of_h5.faces) == (labels.names, labels.faces)


def deeplabcut_h5(path: Path, rows: list[list[str]], columns: int, h5py: Any) -> None:
    """The file that pandas writes of the rows of a csv, in its layout ``fixed``; columns in another order."""

    def write(frame: Any, axis: str, heads: list[str], labels: list[tuple[str, ...]]) -> None:
        if len(heads) == 1:
            frame[axis] = np.array([label[0].encode() for label in labels])
            return
        frame.attrs[f"{axis}_nlevels"] = len(heads)
        for i, head in enumerate(heads):
            known = sorted({label[i] for label in labels})
            level = frame.create_dataset(f"{axis}_level{i}", data=[k.encode() for k in known])
            level.attrs["name"] = np.bytes_(head)
            frame[f"{axis}_label{i}"] = np.array([known.index(v[i]) for v in labels], np.int8)

    head = [row for row in rows if row[0] in ("scorer", "individuals", "bodyparts", "coords")]
    body = rows[len(head) :]
    of_columns = list(zip(*(row[columns:] for row in head), strict=True))
    values = np.array([[float(v or "nan") for v in row[columns:]] for row in body])
    with h5py.File(path, "w") as file:
        frame = file.create_group("df_with_missing")
        frame.attrs["nblocks"] = 1
        write(frame, "axis0", [row[0] for row in head], of_columns)
        write(frame, "axis1", ["N."] * columns, [tuple(row[:columns]) for row in body])
        write(frame, "block0_items", [row[0] for row in head], of_columns[::-1])
        frame["block0_values"] = values[:, ::-1]


def test_an_h5_of_deeplabcut_that_cannot_be_read_names_the_csv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "CollectedData_me.h5"
    with h5py.File(path, "w") as file:
        file.create_group("df_with_missing/table")
    with pytest.raises(DataError, match=r"layout 'table'.* give CollectedData_me\.csv"):
        found(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n, and then nothing")
    with pytest.raises(DataError, match="no CollectedData file of DeepLabCut"):
        found(path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"facial-keypoints\[train\]', or give Coll.*\.csv"):
        found(path)


# --- 300-W and WFLW -------------------------------------------------------------------------------


def test_a_pts_file_that_is_cut_short_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.pts").write_text("version: 1\nn_points: 3\n{\n1 1\n2 2\n")
    with pytest.raises(DataError, match="it says 3 points and has 2"):
        found(tmp_path)


def test_a_tree_of_pts_files(tmp_path: Path) -> None:
    xy = np.random.default_rng(0).uniform(5, 75, (68, 2))
    for part in ("helen/train", "lfpw/train"):
        photo(tmp_path / part / "1.png", (80, 80))
        lines = "\n".join(f"{x:.6f} {y:.6f}" for x, y in xy)
        (tmp_path / part / "1.pts").write_text(f"version: 1\nn_points:  68\n{{\n{lines}\n}}\n")
    labels = found(tmp_path)
    assert [face.image for face in labels.faces] == ["helen/train/1.png", "lfpw/train/1.png"]
    np.testing.assert_allclose([p[:2] for p in labels.faces[0].points.values()], xy - 1, atol=1e-5)


def test_wflw(tmp_path: Path) -> None:
    photo(tmp_path / "WFLW_images/1--Parade/x.jpg", (200, 200))
    xy = np.random.default_rng(0).uniform(5, 190, (98, 2)).round(3)
    row = [*xy.ravel().tolist(), 5, 6, 150, 160, 0, 1, 0, 0, 1, 0]
    folder = tmp_path / "WFLW_annotations/list_98pt"
    folder.mkdir(parents=True)
    path = folder / "train.txt"
    path.write_text(" ".join(map(str, row)) + " 1--Parade/x.jpg\n")
    labels = found(path)
    assert labels.files
    [face] = labels.faces
    np.testing.assert_allclose([p[:2] for p in face.points.values()], xy)
    assert face.box == (5, 6, 150, 160)
    assert face.about["occlusion"] == "1"
    assert labels.schema is not None
    assert labels.schema.swap[33] == 46
    assert labels.schema.norm_pair == ("wflw_60", "wflw_72")
    path.write_text("1 2 3 x.jpg\n")
    with pytest.raises(DataError, match="no labels that can be read"):
        found(path)


def test_all_formats_are_told_apart_by_their_content(tmp_path: Path) -> None:
    photos(tmp_path)
    labelme(tmp_path / "a.json", "a.jpg", [shape("nose", (5, 5))], SIZES["a.jpg"])
    via_csv(tmp_path / "v.csv", "filename", {"a.jpg": via_regions("a.jpg")})
    with pytest.raises(
        DataError, match=r"several formats \(labelme: .*a\.json; via: .*v\.csv\): name the file"
    ):
        found(tmp_path)
    assert_cats(found(_csv(tmp_path / "own.csv")))


def _csv(path: Path) -> Path:
    rows = [["image", *(f"{n}_{a}" for n in NAMES for a in "xy")]]
    for image, points in POINTS.items():
        rows.append([image, *(str(v) for n in NAMES for v in points.get(n, ("", "")))])
    path.write_text("\n".join(",".join(row) for row in rows))
    return path
