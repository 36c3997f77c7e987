"""CVAT's XML: skeletons, points, boxes and tracks, and what CVAT's edges mean in pixels."""

from __future__ import annotations

from pathlib import Path

import pytest

from facial_keypoints.errors import DataError
from label_files import (
    NAMES,
    POINTS,
    SIZES,
    assert_cats,
    assert_points,
    found,
    of_image,
    photo,
    photos,
)

HEAD = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'


def at(x: float, y: float) -> str:
    """A pixel's place as CVAT writes it: counted from the image's edge."""
    return f"{x + 0.5:.2f},{y + 0.5:.2f}"


def skeleton(image: str, *, more: str = "") -> str:
    points = "".join(
        f'<points label="{name}" source="manual" outside="0" occluded="{int(name == "nose")}" '
        f'points="{at(*POINTS[image][name])}"/>'
        if name in POINTS[image]
        else f'<points label="{name}" source="manual" outside="1" occluded="0" points="3.00,3.00"/>'
        for name in NAMES
    )
    return f'<skeleton label="cat" source="manual" z_order="0"{more}>{points}</skeleton>'


def image(name: str, inside: str, number: int = 0) -> str:
    width, height = SIZES[name]
    return f'<image id="{number}" name="{name}" width="{width}" height="{height}">{inside}</image>'


def write(folder: Path, body: str) -> Path:
    path = folder / "annotations.xml"
    path.write_text(f"{HEAD}{body}</annotations>\n", encoding="utf-8")
    return path


def test_skeletons_of_images_in_the_folder_that_cvat_ships(tmp_path: Path) -> None:
    photos(tmp_path / "images")
    body = image("a.jpg", skeleton("a.jpg")) + image("b.jpg", skeleton("b.jpg"), 1)
    labels = found(write(tmp_path, body))
    assert_cats(labels)
    assert labels.faces[0].points["nose"][2] == 1
    assert labels.faces[0].points["left_eye"][2] == 2
    assert labels.schema is not None
    assert labels.schema.swap == (1, 0, 2, 4, 3)
    assert labels.schema.norm_pair == ("left_eye", "right_eye")


def test_two_cats_with_boxes_and_points_one_by_one(tmp_path: Path) -> None:
    photos(tmp_path)

    def points(dx: float, group: str) -> str:
        return "".join(
            f'<points label="{name}" occluded="0" points="{at(x + dx, y)}" z_order="0"{group}/>'
            for name, (x, y) in POINTS["b.jpg"].items()
        )

    boxes = (
        '<box label="cat" occluded="0" xtl="15" ytl="40" xbr="64" ybr="90"/>'
        '<box label="cat" occluded="0" xtl="65.0" ytl="40" xbr="112" ybr="90"/>'
    )
    grouped = points(0, ' group_id="1"') + points(45, ' group_id="2"')
    for inside, boxed in ((boxes + points(0, "") + points(45, ""), True), (grouped, False)):
        labels = found(write(tmp_path, image("a.jpg", inside)))
        first, second = labels.faces
        assert_points(first, POINTS["b.jpg"])
        assert_points(second, {n: (x + 45, y) for n, (x, y) in POINTS["b.jpg"].items()})
        assert (first.box == (15, 40, 64, 90)) is boxed


def test_points_of_one_label_are_named_by_the_attribute_that_tells_them_apart(
    tmp_path: Path,
) -> None:
    photos(tmp_path)
    points = "".join(
        f'<points label="landmark" occluded="0" points="{at(x, y)}"><attribute name="which">{name}</attribute>'
        '<attribute name="pet">Tom</attribute></points>'
        for name, (x, y) in POINTS["a.jpg"].items()
    )
    [face] = found(write(tmp_path, image("a.jpg", points))).faces
    assert_points(face, POINTS["a.jpg"])
    assert face.about == {"pet": "Tom"}


def test_cats_that_cannot_be_told_apart_are_left_out_and_counted(tmp_path: Path) -> None:
    photos(tmp_path)
    nose = f'<points label="nose" occluded="0" points="{at(5, 5)}"/>'
    body = image("a.jpg", nose + nose) + image("b.jpg", skeleton("b.jpg"), 1)
    labels = found(write(tmp_path, body))
    assert [face.image for face in labels.faces] == ["b.jpg"]
    assert any("comes twice" in what and "a.jpg" in what for what in labels.left_out)


def test_points_of_one_shape_are_numbered_and_a_schema_names_them(tmp_path: Path) -> None:
    photos(tmp_path)
    places = ";".join(at(*POINTS["a.jpg"][name]) for name in NAMES)
    shape = f'<points label="cat" occluded="0" points="{places}" z_order="0"></points>'
    polygon = '<polygon label="cat" points="1,1;5,5;9,1"/>'
    labels = found(write(tmp_path, image("a.jpg", shape + polygon)))
    assert labels.names == ("point_1", "point_2", "point_3", "point_4", "point_5")
    assert labels.left_out["shapes that are no points: polygon"] == 1
    named = found(write(tmp_path, image("a.jpg", shape)), schema=_schema())
    assert_points(named.faces[0], POINTS["a.jpg"])


def _schema():  # type: ignore[no-untyped-def]
    from facial_keypoints.types import KeypointSchema

    return KeypointSchema("cat", NAMES, (1, 0, 2, 4, 3), NAMES[:2])


def test_tracks_of_a_video_are_faces_of_its_frames(tmp_path: Path) -> None:
    for number in (0, 1, 2):
        photo(tmp_path / f"images/frame_{number:06d}.PNG", SIZES["a.jpg"])
    track = "".join(
        skeleton("b.jpg").replace(
            "<skeleton", f'<skeleton frame="{frame}" keyframe="{int(frame != 1)}"'
        )
        for frame in (0, 1)
    ) + (
        '<skeleton frame="2" keyframe="1">'
        '<points label="nose" outside="1" occluded="0" points="1.00,1.00"/></skeleton>'
    )
    body = (
        "<meta><task><original_size><width>120</width><height>80</height></original_size></task></meta>"
        f'<track id="4" label="cat" source="manual">{track}</track>'
    )
    labels = found(write(tmp_path, body))
    assert [face.image for face in labels.faces] == ["frame_000000.PNG", "frame_000001.PNG"]
    assert_points(labels.faces[1], POINTS["b.jpg"])
    assert {face.about["group"] for face in labels.faces} == {"track 4"}
    assert any("1 shapes are not labelled but interpolated" in note for note in labels.notes)
    assert labels.left_out["skeletons without a point"] == 1


def test_the_skeleton_of_the_task_gives_order_and_edges(tmp_path: Path) -> None:
    photos(tmp_path)
    drawing = (
        "&lt;line data-type=&quot;edge&quot; data-node-from=&quot;1&quot; data-node-to=&quot;2&quot;&gt;"
        '&lt;circle data-node-id="1" data-label-name="nose"&gt;&lt;circle data-node-id="2" '
        'data-label-name="left_eye"&gt;'
    )
    declared = (
        f"<label><name>cat</name><type>skeleton</type><svg>{drawing}</svg></label>"
        + "".join(
            f"<label><name>{name}</name><type>points</type><parent>cat</parent></label>"
            for name in (*NAMES[::-1], "tail")
        )
    )
    body = f"<meta><task><labels>{declared}</labels></task></meta>" + image(
        "a.jpg", skeleton("a.jpg")
    )
    labels = found(write(tmp_path, body))
    assert labels.names == (*NAMES[::-1], "tail")
    assert labels.schema is not None
    assert labels.schema.edges == ((2, 4),)
    assert any("tail 1" in line for line in labels.summary())


def test_of_skeletons_with_other_points_only_the_faces_are_taken(tmp_path: Path) -> None:
    photos(tmp_path)
    paw = '<skeleton label="paw"><points label="tip" outside="0" occluded="0" points="5.0,5.0"/></skeleton>'
    body = image("a.jpg", skeleton("a.jpg") + paw) + image("b.jpg", skeleton("b.jpg"), 1)
    labels = found(write(tmp_path, body))
    assert_cats(labels)
    assert labels.left_out["of 'paw', which has other keypoints"] == 1


def test_attributes_group_faces(tmp_path: Path) -> None:
    photos(tmp_path)
    tom = skeleton("a.jpg").replace(
        "</skeleton>", '<attribute name="pet">Tom</attribute></skeleton>'
    )
    path = write(tmp_path, image("a.jpg", tom) + image("b.jpg", skeleton("b.jpg"), 1))
    assert [face.about.get("group") for face in found(path, group_by="pet").faces] == ["Tom", None]
    with pytest.raises(DataError, match="no column or attribute 'owner' to group by; it has pet"):
        found(path, group_by="owner")


def test_entities_are_refused_and_broken_xml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    bomb = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotations>&b;</annotations>'
    for text, encoding, says in (
        (bomb, "utf-8", "defines XML entities"),
        (bomb, "utf-16", "defines XML entities|no labels that can be read"),
        ("<annotations><image", "utf-8", "cannot be read as XML"),
        (
            "<annotations><image name='a'><points label='x' points='1'/></image></annotations>",
            "utf-8",
            "no annotations.xml",
        ),
    ):
        path.write_text(text, encoding=encoding)
        with pytest.raises(DataError, match=says):
            found(path)


def test_names_of_all_kinds_come_as_they_are(tmp_path: Path) -> None:
    photo(tmp_path / "Bilder/Käthe & Co [1].jpg", (120, 80))
    inside = skeleton("a.jpg")
    body = f'<image id="0" name="Bilder/Käthe &amp; Co [1].jpg" width="120" height="80">{inside}</image>'
    labels = found(write(tmp_path, body))
    assert of_image(labels, "Bilder/Käthe & Co [1].jpg")
    assert labels.files
