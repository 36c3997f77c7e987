"""Whatever is written is read back: names, points, visibility, boxes, groups and file names, as far as a format holds them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facial_keypoints.data.formats.common import Face, Labels
from facial_keypoints.data.formats.reading import read_labels
from facial_keypoints.data.formats.writing import WRITERS, write_labels
from facial_keypoints.errors import OutputError
from facial_keypoints.schemas import propose_schema
from label_files import photo

SIZE = (64, 48)
IMAGES = ("one.png", "day 2/two.png", "day 2/three.png")
NAMES = ("left_eye", "right_eye", "nose", "tail-tip")
COORDINATES = st.floats(-5, 70, allow_nan=False).map(lambda v: round(v, 3))
POINT = st.tuples(COORDINATES, COORDINATES, st.sampled_from((1, 2)))
BOX = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(25, 64), st.integers(25, 48))


@st.composite
def faces(draw: st.DrawFn) -> list[Face]:
    found = []
    for image in draw(st.lists(st.sampled_from(IMAGES), min_size=1, max_size=4)):
        points = draw(st.dictionaries(st.sampled_from(NAMES), POINT, min_size=1))
        box = draw(st.none() | BOX.map(lambda b: tuple(map(float, b))))
        group = draw(st.sampled_from(("", "Tom", "Kit & co")))
        found.append(Face(image, points, box, about={"group": group} if group else {}))
    found.sort(key=lambda face: IMAGES.index(face.image))
    return found


def labels_of(folder: Path, given_faces: list[Face]) -> Labels:
    for image in IMAGES:
        photo(folder / image, SIZE)
    labels = Labels(
        folder, "made", [Face(f.image, dict(f.points), f.box, f.kind, dict(f.about)) for f in given_faces],
        dict.fromkeys((f.image for f in given_faces), SIZE), NAMES,
    )  # fmt: skip
    labels.files = {name: folder / name for name in labels.images}
    labels.schema = propose_schema("made", NAMES, np.zeros((1, 4, 2)))
    return labels


def test_partners_are_those_of_the_names_whatever_their_order(tmp_path: Path) -> None:
    labels = labels_of(tmp_path, [Face(IMAGES[0], {"nose": (3.0, 4.0, 2)})])
    labels.names = ("nose", "right_eye", "left_eye")  # the schema lists another order, and one more
    write_labels(labels, tmp_path, "yolo")
    assert read_labels(tmp_path).swap == (0, 2, 1)


@pytest.mark.parametrize("format", list(WRITERS))
@settings(max_examples=25, deadline=None)
@given(made=faces())
def test_what_is_written_is_read_back(format: str, made: list[Face]) -> None:
    if format == "pts":  # a face an image
        made = list({face.image: face for face in made}.values())
    holds = WRITERS[format].HOLDS
    with TemporaryDirectory() as name:
        folder = Path(name)
        out = folder / "out"
        out.mkdir()
        lost = write_labels(labels_of(folder / "in", made), out, format)
        images_made = {face.image for face in made}
        if "points outside" not in holds:
            outside = sum(not inside(p) for face in made for p in face.points.values())
            assert any("outside" in text for text in lost) == bool(outside)
            for face in made:
                face.points = {k: p for k, p in face.points.items() if inside(p)}
            made = [face for face in made if face.points]
            if not made:
                return
        # The labels count, not what lies in the folders above them.
        found = read_labels(out)
        assert len(found.faces) == len(made)
        order = sorted(range(len(made)), key=lambda i: IMAGES.index(made[i].image))
        images = [Path(face.image).name for face in found.faces]
        by_image = sorted(
            range(len(made)), key=lambda i: [Path(i).name for i in IMAGES].index(images[i])
        )
        for i, j in zip(order, by_image, strict=True):
            check(made[i], found.faces[j], format, holds)
        if format != "deeplabcut":  # its folders are labeled-data/VIDEO
            assert set(found.files) == images_made
        occluded = any(p[2] == 1 for face in made for p in face.points.values())
        assert any("occluded" in text for text in lost) == (occluded and "occluded" not in holds)
        boxes = any(face.box for face in made)
        assert any("boxes" in text for text in lost) == (boxes and "boxes" not in holds)


def inside(point: tuple[float, float, int]) -> bool:
    return -0.5 <= point[0] <= SIZE[0] - 0.5 and -0.5 <= point[1] <= SIZE[1] - 0.5


def check(given_face: Face, found: Face, format: str, holds: frozenset[str]) -> None:
    names = {f"point_{i}": name for i, name in enumerate(NAMES, start=1)} if format == "pts" else {}
    points = {names.get(key, key): point for key, point in found.points.items()}
    assert set(points) == set(given_face.points)
    for key, (x, y, visible) in given_face.points.items():
        np.testing.assert_allclose(points[key][:2], (x, y), atol=2e-3)
        assert points[key][2] == (visible if "occluded" in holds else 2)
    if "boxes" in holds and given_face.box is not None:
        np.testing.assert_allclose(found.box, given_face.box, atol=2e-3)
    elif format not in ("yolo",):  # YOLO has no face without a box
        assert found.box is None
    if "facts" in holds:
        assert found.about.get("group") == given_face.about.get("group")


@pytest.mark.parametrize("image", ["a.png", "images/a.png", "day 2/a.png", "day 2/images/a.png"])
def test_yolo_labels_are_where_ultralytics_looks_for_them(tmp_path: Path, image: str) -> None:
    photo(tmp_path / "in" / image, SIZE)
    labels = Labels(tmp_path, "made", [Face(image, {"nose": (3.0, 4.0, 2)})], {image: SIZE})
    labels.files = {image: tmp_path / "in" / image}
    write_labels(labels, tmp_path / "out", "yolo")
    (written,) = (tmp_path / "out" / "images").rglob("*.png")
    # Its rule: the last /images/ of the path becomes /labels/.
    expected = "/labels/".join(str(written).rsplit("/images/", 1)).removesuffix("png") + "txt"
    assert Path(expected).is_file()
    # A relative path would count from the folder in which it is run.
    assert "path:" not in (tmp_path / "out" / "data.yaml").read_text()


@pytest.mark.parametrize(
    ("format", "images"),
    [("yolo", ("a.png", "images/a.png")), ("deeplabcut", ("one/day/a.png", "two/day/a.png"))],
)
def test_two_images_for_one_place_are_refused(
    tmp_path: Path, format: str, images: tuple[str, ...]
) -> None:
    faces = [Face(image, {"nose": (3.0, 4.0, 2)}) for image in images]
    labels = Labels(tmp_path, "made", faces, dict.fromkeys(images, SIZE))
    with pytest.raises(OutputError, match=r"would both be .*a\.png: rename"):
        write_labels(labels, tmp_path, format)
