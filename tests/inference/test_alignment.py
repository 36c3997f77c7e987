from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facial_keypoints import align
from facial_keypoints.data.synthetic.faces import draw_faces
from facial_keypoints.data.synthetic.scenes import draw_scene
from facial_keypoints.errors import DataError
from facial_keypoints.geometry import fit_similarity
from facial_keypoints.inference.alignment import (
    TEMPLATE,
    TEMPLATE_POINTS,
    template_points,
)
from facial_keypoints.schemas import FIVE, FROM_IBUG68, IBUG68, KAGGLE15, select_keypoints
from facial_keypoints.types import Keypoints, Prediction

GREY = np.full((200, 260, 3), 128, np.uint8)


def five(points: np.ndarray) -> Keypoints:
    """Points in the template's order as a face of the schema ``five``."""
    xy = np.empty((1, 5, 2), np.float32)
    for name, point in zip(TEMPLATE_POINTS, points, strict=True):
        xy[0, FIVE.index(name)] = point
    return Keypoints(xy, FIVE)


def similarity(turn_deg: float, scale: float, dx: float, dy: float) -> np.ndarray:
    cos, sin = scale * np.cos(np.deg2rad(turn_deg)), scale * np.sin(np.deg2rad(turn_deg))
    return np.array([[cos, -sin, dx], [sin, cos, dy]])


def moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def test_the_template_is_the_known_one_and_its_left_is_the_persons_right() -> None:
    assert TEMPLATE[0].tolist() == [38.2946, 51.6963]
    assert TEMPLATE_POINTS[0] == "right_eye_center"
    assert TEMPLATE_POINTS[3] == "mouth_right_corner"
    found = align(GREY, five(TEMPLATE))
    assert found.images.shape == (1, 112, 112, 3)
    assert found.matrices[0] == pytest.approx(np.array([[1, 0, 0], [0, 1, 0]]), abs=1e-5)
    # The person's left eye, at the image's right, lands at the template's right.
    xy = found.transform(0).apply(five(TEMPLATE).xy[0])
    assert xy[FIVE.index("left_eye_center")] == pytest.approx([73.5318, 51.5014], abs=1e-3)


def test_a_face_with_left_and_right_confused_does_not_land_on_the_template() -> None:
    swapped = five(TEMPLATE)
    wrong = Keypoints(swapped.xy[:, list(FIVE.swap)], FIVE)
    landed = align(GREY, wrong).transform(0).apply(wrong.xy[0])
    assert np.abs(landed - five(TEMPLATE).xy[0]).max() > 10


@settings(max_examples=50, deadline=None)
@given(
    st.floats(-180, 180), st.floats(0.05, 20), st.floats(-3000, 3000), st.floats(-3000, 3000),
    st.integers(16, 400), st.floats(0, 1),
)  # fmt: skip
def test_any_similar_face_lands_on_the_template_and_goes_back(
    turn: float, scale: float, dx: float, dy: float, size: int, margin: float
) -> None:
    points = moved(TEMPLATE, similarity(turn, scale, dx, dy))
    matrix = fit_similarity(points, template_points(size, margin))
    assert moved(points, matrix) == pytest.approx(template_points(size, margin), abs=1e-6)
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    assert moved(moved(points, matrix), inverse) == pytest.approx(points, abs=1e-6)


def test_a_face_of_another_shape_is_fitted_by_least_squares() -> None:
    rng = np.random.default_rng(0)
    points = moved(TEMPLATE, similarity(20, 2, 30, 5)) + rng.normal(0, 4, (5, 2))
    matrix = fit_similarity(points, TEMPLATE)
    best = ((moved(points, matrix) - TEMPLATE) ** 2).sum()
    # As a linear system in a, b, tx, ty.
    rows = [[[x, -y, 1, 0], [y, x, 0, 1]] for x, y in points]
    a, b, tx, ty = np.linalg.lstsq(np.reshape(rows, (10, 4)), TEMPLATE.ravel(), rcond=None)[0]
    assert matrix == pytest.approx(np.array([[a, -b, tx], [b, a, ty]]), abs=1e-9)
    for _ in range(20):
        other = matrix + rng.normal(0, 1e-3, (2, 3)) * [[1, 1, 50]]
        other[1, :2] = [-other[0, 1], other[0, 0]]
        assert ((moved(points, other) - TEMPLATE) ** 2).sum() >= best


def test_a_mirrored_face_is_never_mirrored_back() -> None:
    mirrored = TEMPLATE * [-1, 1]
    assert np.linalg.det(fit_similarity(mirrored, TEMPLATE)[:, :2]) > 0


def test_sizes_and_margins_show_the_same_view_with_other_pixels() -> None:
    # Pixel centres to pixel centres: x becomes (x + 0.5) 2 - 0.5.
    assert template_points(224) == pytest.approx((TEMPLATE + 0.5) * 2 - 0.5)
    # A margin of a half doubles the view: the old view is the middle of it.
    assert template_points(224, 0.5) == pytest.approx(TEMPLATE + 56)
    for size, margin in ((4, 0.0), (112, -0.1), (112, 11.0)):
        with pytest.raises(ValueError, match="must be"):
            template_points(size, margin)


def test_pixels_go_where_the_matrix_says() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    points = moved(TEMPLATE, similarity(30, 1.5, 120, 20))
    for (x, y), color in zip(points, ((255, 0, 0), (0, 255, 0), (0, 0, 255)), strict=False):
        cv2.circle(image, (round(x), round(y)), 4, color, -1, cv2.LINE_AA)
    found = align(image, five(points))
    rows, columns = np.mgrid[0:112, 0:112]
    for channel in range(3):
        weight = found.images[0, ..., channel].astype(float)
        middle = [(columns * weight).sum() / weight.sum(), (rows * weight).sum() / weight.sum()]
        assert middle == pytest.approx(TEMPLATE[channel], abs=0.4)


def test_a_large_face_is_averaged_not_sampled_and_beyond_the_image_is_black() -> None:
    # A fine chessboard: averaged it is an even grey; sampled it would be noise.
    board = np.indices((1600, 1600)).sum(axis=0) % 2 * 255
    image = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    found = align(image, five(moved(TEMPLATE, similarity(10, 9, 300, 200))))
    inner = found.images[0, 20:90, 20:90]
    assert inner.std() < 5
    assert abs(inner.mean() - 127.5) < 3
    corner = align(np.full((100, 100), 200, np.uint8), five(TEMPLATE - np.array([30, 20])))
    assert (corner.images[0, :15, :25] == 0).all()
    assert (corner.images[0, 40:100, 40:100] == 200).all()
    outside = align(GREY, five(TEMPLATE + 5000))
    assert outside.images.shape == (1, 112, 112, 3)


def test_every_face_of_a_prediction_is_aligned_and_no_face_gives_none() -> None:
    faces = draw_faces(3, seed=2, image_size=128)
    for i in range(3):
        found = align(faces.images[i], faces.keypoints.subset([i]))
        assert found.images[0].std() > 10
        landed = found.transform(0).apply(faces.keypoints.xy[i])
        eyes = landed[[KAGGLE15.index("right_eye_center"), KAGGLE15.index("left_eye_center")]]
        assert np.abs(eyes - TEMPLATE[:2]).max() < 12
    none = Prediction(
        Keypoints(np.zeros((0, 15, 2), np.float32), KAGGLE15),
        np.zeros((0, 4), np.float32), np.zeros(0, np.float32), (200, 260),
    )  # fmt: skip
    assert align(GREY, none).images.shape == (0, 112, 112, 3)
    assert align(GREY, none).matrices.shape == (0, 2, 3)


def test_two_known_points_are_enough_and_one_is_not() -> None:
    points = TEMPLATE.copy()
    points[2:] = np.nan
    two = align(GREY, five(points))
    assert two.aligned.tolist() == [True]
    assert two.matrices[0] == pytest.approx(np.array([[1, 0, 0], [0, 1, 0]]), abs=1e-5)
    points[1] = np.nan
    one = align(GREY, five(points))
    assert one.aligned.tolist() == [False]
    assert (one.images == 0).all()
    with pytest.raises(ValueError, match="finite"):
        one.transform(0)
    together = align(GREY, five(np.full((5, 2), 7.0)))
    assert together.aligned.tolist() == [False]


def test_68_points_align_by_the_five_that_they_tell() -> None:
    xy = np.full((1, 68, 2), np.nan, np.float32)
    for name, place in zip(TEMPLATE_POINTS, TEMPLATE, strict=True):
        xy[0, list(FROM_IBUG68[name])] = place
    found = align(GREY, Keypoints(xy, IBUG68))
    np.testing.assert_allclose(found.matrices[0], [[1, 0, 0], [0, 1, 0]], atol=1e-5)


def test_wrong_arguments_are_told() -> None:
    mouth = select_keypoints(IBUG68, np.arange(68) >= 48)
    with pytest.raises(DataError, match="right_eye_center"):
        align(GREY, Keypoints(np.zeros((1, 20, 2), np.float32), mouth))
    with pytest.raises(ValueError, match="uint8"):
        align(GREY.astype(float), five(TEMPLATE))  # type: ignore[arg-type]


# The command line ------------------------------------------------------------------------------


def fkp(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "facial_keypoints", *map(str, words)],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "TERM": "dumb", "COLUMNS": "200"},
    )  # fmt: skip


def test_align_writes_an_image_per_face_with_the_matrix_that_maps_back(tmp_path: Path) -> None:
    folder, out = tmp_path / "faces", tmp_path / "aligned"
    (folder / "more").mkdir(parents=True)
    images = draw_faces(4, seed=3, image_size=160).images[..., 0]
    for name, image in zip(("a.png", "a.jpg", "b.png", "more/a.png"), images, strict=True):
        Image.fromarray(image).save(folder / name)
    (folder / "c.png").write_bytes(b"no image")
    words = ("align", "--crops", folder, "-o", out, "--size", "64", "--margin", "0.1")
    done = fkp(*words)
    assert done.returncode == 1
    assert "skipped" in done.stderr
    assert "c.png" in done.stderr
    assert "4 of 5 images" in done.stderr
    with (out / "faces.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [Path(row["source"]).relative_to(folder).as_posix() for row in rows] == [
        "a.jpg", "a.png", "b.png", "more/a.png",
    ]  # fmt: skip
    assert len({row["file"] for row in rows}) == 4
    points = tmp_path / "points.csv"
    assert fkp("predict", "--crops", folder, "-o", points).returncode == 1
    with points.open(newline="") as handle:
        predicted = {row["source"]: row for row in csv.DictReader(handle)}
    for row in rows:
        with Image.open(out / row["file"]) as image:
            assert image.size == (64, 64)
        matrix = np.array(
            [[float(row[k]) for k in ks] for ks in (("a", "b", "tx"), ("c", "d", "ty"))]
        )
        face = predicted[row["source"]]
        xy = np.array([[float(face[f"{n}_x"]), float(face[f"{n}_y"])] for n in TEMPLATE_POINTS])
        landed = moved(xy, matrix)
        assert np.abs(landed - template_points(64, 0.1)).max() < 8
        # The least-squares fit of the points of predict, to the digits that its table has.
        assert fit_similarity(xy, template_points(64, 0.1)) == pytest.approx(matrix, abs=2e-3)
    again = fkp(*words)
    assert again.returncode == 1
    assert "--force" in again.stderr
    assert "skipped" not in again.stderr
    (folder / "c.png").unlink()
    assert fkp(*words, "--force").returncode == 0


def test_align_finds_the_faces_of_photos_and_an_empty_photo_is_no_failure(tmp_path: Path) -> None:
    photo, drawn = draw_scene(3, seed=1)
    Image.fromarray(photo).save(tmp_path / "three.png")
    Image.fromarray(draw_scene(0, seed=1)[0]).save(tmp_path / "none.png")
    out = tmp_path / "aligned"
    done = fkp("align", tmp_path / "three.png", tmp_path / "none.png", "-o", out)
    assert done.returncode == 0, done.stderr
    with (out / "faces.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["face"] for row in rows] == ["0", "1", "2"]
    # The matrices bring the drawn eyes near the template's.
    eyes = drawn.xy[:, [KAGGLE15.index(name) for name in TEMPLATE_POINTS[:2]]]
    for row in rows:
        matrix = np.array(
            [[float(row[k]) for k in ks] for ks in (("a", "b", "tx"), ("c", "d", "ty"))]
        )
        off = np.abs(moved(eyes, matrix) - TEMPLATE[:2]).max(axis=(1, 2))
        assert off.min() < 12
        assert 0 < float(row["score"]) <= 1


def test_align_takes_the_flags_that_find_faces(tmp_path: Path) -> None:
    Image.fromarray(draw_scene(3, seed=1)[0]).save(tmp_path / "three.png")

    def found(*words: str) -> list[float]:
        out = tmp_path / f"aligned{len(words)}{words[-1:]}"
        done = fkp("align", tmp_path / "three.png", "-o", out, *words)
        assert done.returncode == 0, done.stderr
        with (out / "faces.csv").open(newline="") as handle:
            scores = [float(row["score"]) for row in csv.DictReader(handle)]
        assert len(list((out / tmp_path.relative_to("/")).glob("*_face*.png"))) == len(scores)
        return scores

    scores = found()
    assert len(scores) == 3
    assert found("--max-faces", "1") == [max(scores)]
    limit = sorted(scores)[1] + 2e-4
    assert found("--min-score", str(limit)) == [score for score in scores if score >= limit]
    absent = fkp("align", tmp_path / "three.png", "-o", tmp_path / "o", "--detector", "no.onnx")
    assert absent.returncode == 1
    assert "no.onnx" in absent.stderr
    refused = fkp("align", "--crops", tmp_path, "-o", tmp_path / "o", "--max-faces", "1")
    assert refused.returncode == 2
