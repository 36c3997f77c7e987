import hashlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from references.open_faces import make
from references.open_faces.assets import (
    Repository,
    cc0_hashes,
    read_clothes,
    read_obj,
    split_vertices,
)
from references.open_faces.head import MIRROR, Pose, macro_weights, rotation
from references.open_faces.people import close_lids
from references.open_faces.scene import Shot
from references.open_faces.worn import sheet, tube

DISTANCE, NEAR, FAR, SIZE = 10.0, 5.0, 20.0, 64


def camera() -> np.ndarray:
    """At z = 10, looks at the origin; a square of side 4 there fills the image."""
    matrix = np.zeros((4, 4))
    matrix[0, 0] = matrix[1, 1] = 5.0
    matrix[2, 2:] = -(FAR + NEAR) / (FAR - NEAR), -2 * FAR * NEAR / (FAR - NEAR)
    matrix[3, 2] = -1.0
    view = np.eye(4)
    view[2, 3] = -DISTANCE
    return matrix @ view


def shot(points: np.ndarray, tolerance: float = 0.1) -> Shot:
    scene = SimpleNamespace(camera=camera())
    return Shot(scene, points, np.full(len(points), tolerance), (NEAR, FAR))


def depth_at(z: float) -> float:
    clip = camera() @ [0.0, 0.0, z, 1.0]
    return float(clip[2] / clip[3])


def test_points_are_projected_with_y_down_and_hidden_by_what_is_nearer() -> None:
    depth = np.full((SIZE, SIZE), 1.0)
    depth[:, : SIZE // 2] = depth_at(1.0)  # a wall before the left half
    points = np.array(
        [[-1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [-1.0, 0.0, 0.95], [-1.0, 0.0, 0.5], [3.0, 0, 0]]
    )
    pixels, occluded = make.project(shot(points), depth)
    np.testing.assert_allclose(pixels[:2], [[16, 16], [48, 16]])
    assert occluded.tolist() == [True, False, False, True, True]  # the last lies outside the image


def test_a_point_on_an_outline_is_seen() -> None:
    depth = np.full((SIZE, SIZE), depth_at(1.0))
    depth[:, 33:] = 1.0
    _, occluded = make.project(shot(np.array([[0.05, 0.0, 0.0], [-0.2, 0.0, 0.0]])), depth)
    assert occluded.tolist() == [False, True]


def test_the_head_turns_and_the_shoulders_follow_less() -> None:
    whole, body = rotation(60, 0, 0), rotation(15, 0, 0)
    pose = Pose(np.array([0.0, 6.3, 1.3]), np.array([0.0, 7.3, 1.2]), whole, body)
    head, shoulder = pose(np.array([[0.0, 7.5, 1.4], [0.0, 4.0, 1.4]]))
    for place, matrix, start in ((head, whole, [0.0, 7.5, 1.4]), (shoulder, body, [0.0, 4.0, 1.4])):
        np.testing.assert_allclose(place, matrix @ (start - pose.pivot) + pose.pivot, atol=1e-6)
    assert head[0] > 0.5  # to the right of the image


@pytest.mark.parametrize("age", [0.0, 0.1, 0.5, 0.8, 1.0])
def test_main_targets_share_one_head(age: float) -> None:
    weights = macro_weights(age, 0.3, np.array([0.2, 0.3, 0.5]), 0.4, 0.7)
    assert all(value > 0 for value in weights.values())
    races = sum(value for name, value in weights.items() if "universal" not in name)
    assert races == pytest.approx(1.0)
    assert sum(weights.values()) == pytest.approx(2.0)


def test_lids_close_by_the_wanted_share() -> None:
    fixed = {point: np.array([i]) for i, point in enumerate((37, 38, 40, 41, 43, 44, 46, 47))}
    vertices = np.zeros((8, 3))
    vertices[[0, 1, 4, 5], 1] = 0.08
    blink = {"unit/eyeBlinkRight": np.zeros((8, 3)), "unit/eyeBlinkLeft": np.zeros((8, 3))}
    blink["unit/eyeBlinkRight"][[0, 1], 1] = -0.12
    blink["unit/eyeBlinkLeft"][[4, 5], 1] = -0.16
    head = SimpleNamespace(fixed=fixed, target=blink.__getitem__)
    closed = close_lids(head, vertices, np.array([0.5, 0.25]))
    np.testing.assert_allclose(closed[[0, 1], 1], 0.04, atol=1e-6)
    np.testing.assert_allclose(closed[[4, 5], 1], 0.06, atol=1e-6)


def test_mirroring_twice_is_nothing() -> None:
    assert (MIRROR[MIRROR] == np.arange(68)).all()


def test_worn_meshes_and_models_are_read() -> None:
    text = "x_scale 1 2 0.5\ny_scale 3 4 0.6\nz_scale 5 6 0.7\nverts 0\n7\n1 2 3 0.2 0.3 0.5 1 2 3\ndelete_verts\n9 10"
    indices, weights, offsets, scales = read_clothes(text)
    assert indices.tolist() == [[7, 7, 7], [1, 2, 3]]
    assert weights.tolist() == [[1, 0, 0], [0.2, 0.3, 0.5]]
    assert offsets.tolist() == [[0, 0, 0], [1, 2, 3]]
    assert scales.tolist() == [[1, 2, 0.5], [3, 4, 0.6], [5, 6, 0.7]]
    square = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 1\ng body\nf 1/1 2/2 3/2 4/1\nf 1/1 2/2 3/2\n"
    vertices, coordinates, groups = read_obj(square)
    vertex, coordinate, triangles = split_vertices(groups["body"])
    assert vertices.shape == (4, 3)
    assert coordinates.shape == (2, 2)
    assert vertex.tolist() == [0, 1, 2, 3]
    assert coordinate.tolist() == [0, 1, 1, 0]
    assert (
        len(triangles) == 3
    )  # two of the square and one; the second half of a triangle is nothing


def test_allowed_textures_are_those_of_the_cc0_repository(tmp_path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "plain.png").write_bytes(b"pixels")
    (tmp_path / "large.png").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:abc123\nsize 5\n"
    )
    (tmp_path / "notes.txt").write_text("not a texture")
    git("add", ".")
    git(
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b",
        "-c",
        "commit.gpgsign=false",
        "commit",
        "-qm",
        "all",
    )
    assert cc0_hashes(Repository(tmp_path)) == {hashlib.sha256(b"pixels").hexdigest(), "abc123"}


def test_a_shard_has_images_points_and_a_column_per_parameter(tmp_path, monkeypatch) -> None:
    def image(seed: int, index: int):
        rng = np.random.default_rng([seed, index])
        pixels = rng.integers(0, 255, (8, 8, 3), np.uint8)
        return pixels, rng.random((70, 2)), rng.random(70) < 0.5, {"index": index, "hat": "cap"}

    monkeypatch.setattr(make, "_studios", [SimpleNamespace(image=image)])
    path = tmp_path / "faces.npz"
    assert make._make_shard((5, 10, 3, path)) == 3
    with np.load(path) as shard:
        assert shard["images"].shape == (3, 8, 8)
        assert shard["images"].dtype == np.uint8
        assert shard["points"].shape == (3, 70, 2)
        assert shard["occluded"].dtype == bool
        assert shard["index"].tolist() == [10, 11, 12]
        assert shard["hat"].tolist() == ["cap"] * 3
    assert list(tmp_path.iterdir()) == [path]


DRAWN = """
import numpy as np
from references.open_faces.render import Mesh, Renderer, Scene
from test_open_faces import DISTANCE, SIZE, camera, depth_at

try:
    renderer = Renderer({}, SIZE, 1)
except Exception as error:
    raise SystemExit(f"no driver: {error}")
square = np.array([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
triangles = np.array([[0, 1, 2], [0, 2, 3]])
meshes = [
    Mesh(square + np.array([x, 0, z]), triangles, square[:, :2], tint=tint, shine=0.0, casts=False)
    for x, z, tint in ((0.0, 1.0, (1, 0, 0)), (1.0, 0.0, (0, 1, 0)))
]
light, eye = np.array([[0.0, 0.0, 1.0]]), np.array([0.0, 0.0, DISTANCE])
scene = Scene(meshes, camera(), eye, light, np.ones((1, 3)), np.zeros(3), centre=np.zeros(3))
image, depth = renderer.draw(scene)
np.testing.assert_allclose(image[32, 32], [1, 0, 0], atol=1e-3)
np.testing.assert_allclose(image[32, 60], [0, 1, 0], atol=1e-3)
np.testing.assert_allclose([depth[32, 32], depth[2, 2]], [depth_at(1.0), 1.0], atol=1e-4)
"""


def test_a_nearer_mesh_is_drawn_over_a_farther_one() -> None:
    pytest.importorskip("moderngl")
    # In a process of its own: Mesa's compiler and TensorFlow's do not bear each other.
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parents[1]), *sys.path])
    run = subprocess.run(
        [sys.executable, "-c", DRAWN],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.stderr.startswith("no driver"):
        pytest.skip(run.stderr)
    assert run.returncode == 0, run.stderr


def test_tubes_and_sheets_are_closed_as_asked() -> None:
    points, triangles = tube(np.array([[0.0, 0, 0], [0, 0, 1], [0, 0, 2]]), 0.1)
    assert points.shape == (18, 3)
    assert triangles.max() == 17
    assert len(triangles) == 24
    np.testing.assert_allclose(np.hypot(points[:, 0], points[:, 1]), 0.1)
    assert len(sheet(3, 6, closed=False)) == 20
