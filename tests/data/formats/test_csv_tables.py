"""Own tables: columns in any order and spelling, boxes, visibility, and what a slip says."""

from __future__ import annotations

from pathlib import Path

import pytest

from facial_keypoints.errors import DataError
from label_files import POINTS, SIZES, assert_cats, assert_points, found, of_image, photo, photos

NAMES = tuple(POINTS["a.jpg"])


def table(
    path: Path, *, image: str = "image", spell: str = "{}_{}", last: bool = False, sep: str = ","
) -> Path:
    header = [spell.format(*((a, n) if spell[0] == "x" else (n, a))) for n in NAMES for a in "xy"]
    rows = [[image, *header]]
    for name, points in POINTS.items():
        rows.append([name, *(str(v) for n in NAMES for v in points.get(n, ("", "")))])
    if last:
        rows = [[*row[1:], row[0]] for row in rows]
    if sep == ";":
        rows = [
            [cell.replace(".", ",") if cell[:1].isdigit() else cell for cell in row] for row in rows
        ]
    path.write_text("\n".join(sep.join(row) for row in rows))
    return path


@pytest.mark.parametrize("image", ["image", "filename", "Image", "file_name", "path"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("sep", [",", ";", ", ", "\t"])
def test_columns_in_any_order_and_separated_by_anything(
    tmp_path: Path, image: str, last: bool, sep: str
) -> None:
    photos(tmp_path)
    assert_cats(found(table(tmp_path / "faces.csv", image=image, last=last, sep=sep)))


@pytest.mark.parametrize("spell", ["{}.{}", "{} {}", "{}-{}", "{} ({})", "{}[{}]"])
@pytest.mark.parametrize("sep", [",", ";"])
def test_coordinates_may_be_spelt_otherwise(tmp_path: Path, spell: str, sep: str) -> None:
    photos(tmp_path)
    labels = found(table(tmp_path / "faces.csv", spell=spell, sep=sep))
    assert_cats(labels)
    x, y = (spell.format("left_eye", axis) for axis in "xy")
    assert f"columns '{x}' and '{y}' are x and y of 'left_eye', and likewise 4 more" in labels.notes
    text = (tmp_path / "faces.csv").read_text().splitlines()
    header = ["image", *(f"{a}_{n}" for n in NAMES for a in "XY")]
    (tmp_path / "faces.csv").write_text("\n".join([sep.join(header), *text[1:]]))
    assert_cats(found(tmp_path / "faces.csv"))


def test_an_axis_may_follow_a_name_without_a_sign(tmp_path: Path) -> None:
    photos(tmp_path)
    path = tmp_path / "faces.csv"
    path.write_text("image,earTipX,earTipY,p1x,p1y,timeX\na.jpg,1,2,3,4,5\n")
    labels = found(path)
    assert_points(labels.faces[0], {"earTip": (1, 2), "p1": (3, 4)})
    assert any("not used: column timeX" in note for note in labels.notes)


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("image,nose,nose,chin,chin\n,x,y,x,y", 2),
        (",nose,,chin,\nimage,X,Y,X,Y", 2),
        (",nose,,chin,\n,x,y,x,y\nimage,,,,", 3),  # as pandas writes it
    ],
)
def test_names_of_points_may_stand_above_x_and_y(tmp_path: Path, header: str, rows: int) -> None:
    photos(tmp_path)
    path = tmp_path / "faces.csv"
    path.write_text(f"{header}\na.jpg,1,2,3,4\nb.jpg,5,6,,\n")
    labels = found(path)
    assert_points(labels.faces[0], {"nose": (1, 2), "chin": (3, 4)})
    assert_points(labels.faces[1], {"nose": (5, 6)})
    assert any(note.startswith(f"the first {rows} rows are the header") for note in labels.notes)


@pytest.mark.parametrize("again", ["nose.x,nose.y", "x_nose,y_nose", "nose_X,nose_Y"])
def test_two_columns_for_one_number_are_refused(tmp_path: Path, again: str) -> None:
    (tmp_path / "faces.csv").write_text(f"image,nose_x,nose_y,{again}\na.jpg,1,2,3,4\n")
    x = again.partition(",")[0]
    with pytest.raises(DataError, match=f"'nose_x' and '{x}' both hold the x of 'nose'"):
        found(tmp_path / "faces.csv")


def test_boxes_visibility_groups_and_several_faces(tmp_path: Path) -> None:
    photos(tmp_path)
    path = tmp_path / "faces.csv"
    path.write_text(
        "image,group,x0,y0,x1,y1,nose_x,nose_y,nose_visibility,chin_x,chin_y,chin_visibility\n"
        "a.jpg,Tom,1,2,30,40,5,6,1,7,8,0\n"
        "a.jpg,,,,,,5,6,2,7,8,2\n"
    )
    first, second = found(path).faces
    assert first.points == {"nose": (5.0, 6.0, 1)}
    assert (first.box, first.about) == ((1, 2, 30, 40), {"group": "Tom"})
    assert second.points == {"nose": (5.0, 6.0, 2), "chin": (7.0, 8.0, 2)}
    assert (second.box, second.about) == (None, {})


def test_images_are_faces_unless_boxes_or_a_second_face_say_that_they_are_photos(
    tmp_path: Path,
) -> None:
    photos(tmp_path)
    path = table(tmp_path / "faces.csv")
    assert not found(path).photos
    path.write_text(path.read_text() + "\na.jpg" + "," * 10)
    assert found(path).photos


def test_a_table_of_predict_is_read(tmp_path: Path) -> None:
    photos(tmp_path)
    path = tmp_path / "points.csv"
    path.write_text(
        "source,face,x0,y0,x1,y1,score,nose_x,nose_y,nose_confidence\na.jpg,0,1,2,30,40,0.9,5,6,0.8\n"
    )
    labels = found(path)
    assert labels.names == ("nose",)
    assert labels.faces[0].about == {}
    assert not any("not used" in note for note in labels.notes)


def test_slips_name_row_and_column(tmp_path: Path) -> None:
    photos(tmp_path)
    path = table(tmp_path / "faces.csv")
    good = path.read_text()
    for bad, says in (
        (
            good.replace("70.25", "7025000"),
            r"row 1: column 'left_eye_x' holds 7025000, .*decimal point",
        ),
        (
            good.replace("70.25", ""),
            r"row 1: column 'left_eye_x' is empty, but its partner '_y' is not",
        ),
        (good.replace("70.25", "70,25"), r"row 1: 12 values for 11 columns"),
        (good.replace("left_eye_y", "left_eye_z"), "has no column 'left_eye_y'"),
        (good.replace("70.25", "abc"), r"row 1: column 'left_eye_x' holds 'abc'"),
        (good.replace("image,", "picture,"), "no labels that can be read|names no images"),
    ):
        path.write_text(bad)
        with pytest.raises(DataError, match=says):
            found(path)


def test_a_column_that_is_no_coordinate_is_named(tmp_path: Path) -> None:
    photos(tmp_path)
    path = table(tmp_path / "faces.csv")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0] + ",person", lines[1] + ",ann", lines[2] + ","]))
    assert any("column person (--group-by" in note for note in found(path).notes)
    grouped = found(path, group_by="person")
    assert [face.about.get("group") for face in grouped.faces] == ["ann", None]
    assert grouped.notes == [note for note in found(path).notes if "person" not in note]
    with pytest.raises(DataError, match="'nonsense' to group by; it has person"):
        found(path, group_by="nonsense")


def test_the_summary_counts_what_there_is_and_what_is_not(tmp_path: Path) -> None:
    photos(tmp_path)
    path = table(tmp_path / "faces.csv")
    path.write_text(path.read_text().replace("60.0", "95.0").replace("b.jpg", "b.jpg"))
    lines = found(path).summary()
    assert lines[0].endswith("(csv): 2 images, 2 faces, 5 keypoints")
    assert "not labelled: left_ear 1, right_ear 1 (of 2 faces)" in lines
    assert "outside the image: 1 point (left_eye of b.jpg)" in lines
    assert any("left_eye – right_eye, left_ear – right_ear" in line for line in lines)


# --- images that are not as they were labelled ----------------------------------------------------


def coco(
    path: Path, size: tuple[int, int], points: dict[str, tuple[float, float]], name: str = "a.jpg"
) -> Path:
    import json

    content = {
        "images": [{"id": "7", "file_name": name, "width": size[0], "height": size[1]}],
        "annotations": [{
            "id": 1, "image_id": 7, "category_id": "1", "bbox": [10, 20, 40, 10],
            "keypoints": [v for x, y in points.values() for v in (x, y, 2)],
        }],
        "categories": [{"id": 1, "name": "cat", "keypoints": list(points)}],
    }  # fmt: skip
    path.write_text(json.dumps(content), encoding="utf-8-sig")
    return path


def test_images_made_smaller_after_labelling_scale_their_points(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", (60, 40))
    labels = found(
        coco(tmp_path / "c.json", (120, 80), {"nose": (20.5, 30.5), "chin": (21.5, 38.5)})
    )
    assert_points(labels.faces[0], {"nose": (10.0, 15.0), "chin": (10.5, 19.0)})
    assert labels.faces[0].box == (5, 10, 25, 15)
    assert any("1 images have another size" in note for note in labels.notes)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_labels_of_an_image_as_it_is_stored_are_turned_with_it(
    tmp_path: Path, orientation: int
) -> None:
    photo(tmp_path / "a.jpg", SIZES["a.jpg"], orientation=orientation)
    # A place far to the right, which the upright image (80 × 120) does not have.
    labels = found(
        coco(tmp_path / "c.json", (120, 80), {"nose": (110.0, 10.0), "chin": (100.0, 10.0)})
    )
    expected = {5: (10.0, 110.0), 6: (69.0, 110.0), 7: (69.0, 9.0), 8: (10.0, 9.0)}[orientation]
    assert labels.faces[0].points["nose"][:2] == expected
    assert any("stored lying" in note for note in labels.notes)


def test_labels_of_the_upright_image_stay_even_if_the_size_is_that_of_the_file(
    tmp_path: Path,
) -> None:
    photo(tmp_path / "a.jpg", SIZES["a.jpg"], orientation=6)
    labels = found(
        coco(tmp_path / "c.json", (120, 80), {"nose": (10.0, 110.0), "chin": (20.0, 100.0)})
    )
    assert labels.faces[0].points["nose"][:2] == (10.0, 110.0)


def test_images_are_found_near_the_labels_and_not_far_away(tmp_path: Path) -> None:
    points = {"nose": (20.0, 30.0), "chin": (21.0, 38.0)}
    folder = tmp_path / "export" / "annotations"
    folder.mkdir(parents=True)
    path = coco(folder / "c.json", (120, 80), points)
    stranger = photo(tmp_path / "other" / "a.jpg", (120, 80))  # of another project
    assert found(path).files == {}
    assert found(path, images=tmp_path / "other").files == {"a.jpg": stranger}
    near = photo(tmp_path / "export" / "images" / "a.jpg", (120, 80))
    assert found(path).files["a.jpg"].samefile(near)
    deep = coco(folder / "c.json", (120, 80), points, "C:\\Users\\me\\cats\\tom\\b.jpg")
    one, two = (tmp_path / f"export/photos/{pet}/b.jpg" for pet in ("tom", "kit"))
    photo(one, (120, 80))
    photo(two, (120, 80))
    labels = found(deep)
    assert labels.files["b.jpg"].samefile(one)
    assert of_image(labels, "b.jpg")
    assert any("images are found in" in note for note in labels.notes)


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("./a.jpg", "a.jpg"), ("A.JPG", "a.jpg"), ("sub//a.jpg", "sub/a.jpg"), ("my%20cats/a.jpg", "my cats/a.jpg"),
        ("file:///C:/cats/a.jpg", "cats/a.jpg"), ("/home/me/cats/a.jpg", "cats/a.jpg"), ("12:30.jpg", "12:30.jpg"),
        ("Ka\u0308the.jpg", "K\u00e4the.jpg"), ("K\u00e4the.jpg", "Ka\u0308the.jpg"), ("a", "a.jpg"),
        ("..\\photos\\a.jpg", "../photos/a.jpg"), ("cats/a.jpg ", "cats/a.jpg"),
    ],
)  # fmt: skip
def test_odd_names_of_images_are_understood(tmp_path: Path, written: str, stored: str) -> None:
    folder = tmp_path / "labels"
    folder.mkdir()
    file = photo(folder / stored, (20, 20))
    (folder / "faces.csv").write_text(f"image,nose_x,nose_y\n{written},3,4\n")
    labels = found(folder / "faces.csv")
    [(name, where)] = labels.files.items()
    assert where.samefile(file)
    assert not name.startswith(("/", "."))
    assert ".." not in name


@pytest.mark.parametrize(
    "columns",
    [
        "xmin ymin xmax ymax",
        "left top right bottom",
        "bbox_x bbox_y bbox_w bbox_h",
        "x y width height",
    ],
)
def test_boxes_under_other_names_are_no_keypoints(tmp_path: Path, columns: str) -> None:
    photo(tmp_path / "a.png", (90, 80))
    size = columns.endswith(("h", "height"))
    corners = "10,20,50,40" if size else "10,20,60,60"
    (tmp_path / "faces.csv").write_text(
        f"image,{columns.replace(' ', ',')},nose_x,nose_y\na.png,{corners},30,30\n"
    )
    labels = found(tmp_path / "faces.csv")
    assert labels.names == ("nose",)
    assert labels.faces[0].box == (10, 20, 60, 60)


@pytest.mark.parametrize(
    ("word", "values", "expected"), [("v", "012", [0, 1, 2]), ("visible", "101", [2, 1, 2])]
)
def test_visibility_under_other_names(
    tmp_path: Path, word: str, values: str, expected: list[int]
) -> None:
    photo(tmp_path / "a.png", (90, 80))
    header = ",".join(f"{name}_{axis}" for name in "abc" for axis in ("x", "y", word))
    cells = ",".join(f"{10 * i},{10 * i},{value}" for i, value in enumerate(values, start=1))
    (tmp_path / "faces.csv").write_text(f"image,{header}\na.png,{cells}\n")
    points = found(tmp_path / "faces.csv").faces[0].points
    assert [points.get(name, (0, 0, 0))[2] for name in "abc"] == expected


def test_numbered_columns_are_points_in_their_order(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", (90, 80))
    (tmp_path / "faces.csv").write_text(
        "image_id,x10,y10,x0,y0,x1,y1,x2,y2\na.png,1,2,3,4,5,6,7,8\n"
    )
    labels = found(tmp_path / "faces.csv")
    assert labels.names == ("point_1", "point_2", "point_3", "point_4")
    assert [labels.faces[0].points[name][0] for name in labels.names] == [3, 5, 7, 1]
