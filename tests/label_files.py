"""Images and points for tests of label formats: two photos with a cat's five points, sizes that differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from facial_keypoints.data.formats.common import Face, Labels
from facial_keypoints.data.formats.reading import read_labels

NAMES = ("left_eye", "right_eye", "nose", "left_ear", "right_ear")
SIZES = {"a.jpg": (120, 80), "b.jpg": (90, 100)}
# Pixels of the image, an integer is a pixel's centre.
POINTS = {
    "a.jpg": {
        "left_eye": (70.25, 30.5), "right_eye": (40.0, 31.0), "nose": (55.5, 45.75), "left_ear": (80.0, 8.25),
        "right_ear": (30.0, 9.0),
    },
    "b.jpg": {"left_eye": (60.0, 50.0), "right_eye": (31.5, 52.25), "nose": (45.0, 70.0)},
}  # fmt: skip


def photo(path: Path, size: tuple[int, int], *, orientation: int = 1) -> Path:
    """A grey image of (width, height) as it is stored, with an EXIF orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("L", size, 90).save(path, exif=exif)
    return path


def photos(folder: Path) -> None:
    """The two photos."""
    for name, size in SIZES.items():
        photo(folder / name, size)


def found(path: Path, **options: object) -> Labels:
    """The labels of a path."""
    return read_labels(path, **options)  # type: ignore[arg-type]


def of_image(labels: Labels, image: str) -> list[Face]:
    return [face for face in labels.faces if face.image == image]


def assert_points(
    face: Face, expected: dict[str, tuple[float, float]], *, within: float = 1e-6
) -> None:
    """The face has these points and no others."""
    assert set(face.points) == set(expected)
    for name, place in expected.items():
        np.testing.assert_allclose(face.points[name][:2], place, atol=within, err_msg=name)


def assert_cats(labels: Labels, *, within: float = 1e-6) -> None:
    """The labels are those of the two photos."""
    assert [face.image for face in labels.faces] == list(POINTS)
    for face in labels.faces:
        assert_points(face, POINTS[face.image], within=within)
    assert set(labels.names) == set(NAMES)
    assert set(labels.files) == set(SIZES)
    assert labels.images == SIZES
