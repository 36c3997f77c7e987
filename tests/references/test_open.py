import csv
import gzip
import zipfile

import cv2
import numpy as np
import pytest

pytest.importorskip("keras")

from facial_keypoints.models.keras_backend import choose_backend
from facial_keypoints.models.runtime import load_runtime
from facial_keypoints.schemas import IBUG68, KAGGLE15

choose_backend()
from references.collection import CANVAS, CANVAS_EYE_ROW, CANVAS_EYES_PX
from references.open import faces as of
from references.open.train import read_faces, train_open


def mean_face(size=160.0):
    """68 points of a face from the front: eyes 36 px apart in an image of 160."""
    xy = np.zeros((68, 2))
    angle = np.linspace(np.pi, 0, 17)
    xy[:17] = np.stack([80 + 38 * np.cos(angle), 62 + 45 * np.sin(angle)], -1)
    xy[17:22] = np.stack([np.linspace(48, 72, 5), np.full(5, 50.0)], -1)
    xy[22:27] = np.stack([np.linspace(88, 112, 5), np.full(5, 50.0)], -1)
    xy[27:31] = np.stack([np.full(4, 80.0), np.linspace(60, 80, 4)], -1)
    xy[31:36] = np.stack([np.linspace(72, 88, 5), np.full(5, 84.0)], -1)
    for first, x in ((36, 62.0), (42, 98.0)):
        turn = np.linspace(-np.pi, np.pi, 7)[:6]
        xy[first : first + 6] = np.stack([x + 9 * np.cos(turn), 60 + 3 * np.sin(turn)], -1)
    for first, count, r in ((48, 12, 16), (60, 8, 12)):
        turn = np.linspace(-np.pi, np.pi, count + 1)[:count]
        xy[first : first + count] = np.stack([80 + r * np.cos(turn), 96 + 0.3 * r * np.sin(turn)], -1)  # fmt: skip
    return (xy * size / 160).astype(np.float32)


def random_faces(count, rng):
    return mean_face() + rng.normal(0, 1.0, (count, 68, 2)).astype(np.float32)


def mesh_of(xy):
    """A mesh whose nearest points are 68 given ones; the others lie about."""
    mesh = np.random.default_rng(1).uniform(50, 110, (len(xy), 478, 3))
    mesh[:, of.MESH_68, :2] = xy
    mesh[:, 10, 1], mesh[:, 0, 1] = 20.0, 120.0
    return mesh


def test_a_canvas_shows_the_face_upright_with_the_eyes_in_place():
    face = mean_face(300.0)
    turn = cv2.getRotationMatrix2D((150, 150), 25, 1.0)
    turned = (face @ turn[:, :2].T + turn[:, 2]).astype(np.float32)
    canvas, xy = of.to_canvas(np.zeros((300, 300), np.uint8), turned)
    assert canvas.shape == (CANVAS, CANVAS, 1)
    right, left = xy[36:42].mean(axis=0), xy[42:48].mean(axis=0)
    np.testing.assert_allclose(left - right, [CANVAS_EYES_PX, 0.0], atol=0.05)
    np.testing.assert_allclose((left + right) / 2, [(CANVAS - 1) / 2, CANVAS_EYE_ROW], atol=0.05)


def test_another_definition_is_learnt_from_faces_that_have_both():
    rng = np.random.default_rng(0)
    mesh = mesh_of(random_faces(400, rng))
    plain = of.mesh_to_68(mesh)
    wanted = plain.copy()
    wanted[:, 8, 1] += 3.0  # everywhere by as much
    wanted[:, 30] += 0.3 * (plain[:, 54] - plain[:, 48])  # as another part of the face is
    change = of.fit_definition(mesh[:300], wanted[:300], 1e-3)
    rest = np.abs(of.mesh_to_68(mesh[300:], change) - wanted[300:])
    assert rest.mean() < 0.1
    assert np.abs(plain[300:, 30] - wanted[300:, 30]).mean() > 2.0
    assert rest[:, [8, 30]].mean() < 0.6


def test_labels_move_to_where_annotators_put_them_and_brows_as_a_whole():
    told = random_faces(50, np.random.default_rng(0))
    xy = np.full_like(told, np.nan)
    across = np.linalg.norm(told[:, 45] - told[:, 36], axis=-1)[:, None]
    for k, shift in ((17, [-0.04, 0.02]), (21, [0.0, 0.0]), (30, [0.0, 0.1])):
        xy[:, k] = told[:, k] + across * shift
        if k != 30:  # its partner, mirrored
            xy[:, IBUG68.swap[k]] = told[:, IBUG68.swap[k]] + across * shift * [-1, 1]
    shift = of.shift_of(told, xy)
    np.testing.assert_allclose(shift[17:22, 0], [-0.04, -0.03, -0.02, -0.01, 0.0], atol=1e-4)
    np.testing.assert_allclose(shift[26], [0.04, 0.02], atol=1e-4)
    np.testing.assert_allclose(shift[30], [0.0, 0.1], atol=1e-4)
    assert not shift[:17].any()
    moved = of.shift_labels(told, shift) - told
    np.testing.assert_allclose(moved[:, 30, 1], 0.1 * 1.5 * CANVAS_EYES_PX, rtol=1e-3)


@pytest.fixture
def sources(tmp_path):
    """Renders, portraits and CC BY faces of noise."""
    rng = np.random.default_rng(0)
    renders, clean, wild = (tmp_path / name for name in ("renders", "data/clean", "data/wild"))
    for folder in (renders, clean, wild):
        folder.mkdir(parents=True)
    for number in range(2):
        points = np.concatenate([random_faces(40, rng), np.zeros((40, 2, 2), np.float32)], axis=1)
        hidden = np.zeros((40, 70), bool)
        hidden[:, 3] = True
        np.savez(
            renders / f"faces-1-{number}.npz", points=points, occluded=hidden, yaw=np.zeros(40),
            images=rng.integers(0, 255, (40, 160, 160), np.uint8),
        )  # fmt: skip
    names = [f"p{i}" for i in range(30)]
    with zipfile.ZipFile(clean / "portraits.zip", "w") as archive:
        for name in names:
            image = rng.integers(0, 255, (160, 160), np.uint8)
            archive.writestr(f"{name}.jpg", cv2.imencode(".jpg", image)[1].tobytes())
    one = mesh_of(mean_face()[None])
    mesh = np.repeat(one, 30, axis=0) + rng.normal(0, 0.2, (30, 478, 3))
    mesh[4] = rng.uniform(0, 160, (478, 3))  # no face
    np.savez(clean / "portraits_mesh.npz", names=np.array(names), mesh=mesh.astype(np.float16))
    with gzip.open(wild / "labels.csv.gz", "wt", newline="") as handle:
        out = csv.writer(handle)
        out.writerow(["set", "file", "group", *KAGGLE15.coordinate_names])
        for name in ("webmorph", "ytf"):  # the second must not be read: its images are not there
            for i in range(20):
                out.writerow([name, f"{i}.png", f"person {i}", *rng.uniform(60, 100, 30)])
    with zipfile.ZipFile(wild / "webmorph.zip", "w") as archive:
        for i in range(20):
            image = rng.integers(0, 255, (160, 160), np.uint8)
            archive.writestr(f"{i}.png", cv2.imencode(".png", image)[1].tobytes())
    return renders, tmp_path / "data"


@pytest.mark.slow
def test_a_model_is_trained_from_sources_that_anyone_may_use(sources, tmp_path):
    renders, data = sources
    faces, trust = read_faces(renders, data, None)
    kinds = [name.split("/")[0] for name in faces.sample_ids]
    assert [kinds.count(kind) for kind in ("render", "portraits", "webmorph")] == [80, 29, 20]
    assert trust[0, 3] < trust[0, 4]  # hidden points count less
    known = faces.subset(np.flatnonzero(np.array(kinds) != "portraits"))
    told = np.where(np.isnan(known.keypoints.xy), mean_face(), known.keypoints.xy)
    np.savez(tmp_path / "mesh.npz", names=known.sample_ids, mesh=mesh_of(told).astype(np.float32))
    lines = []
    spec = train_open(
        renders, data, tmp_path / "run", mesh=tmp_path / "mesh.npz", steps=2, batch_size=4,
        report=lines.append,
    )  # fmt: skip
    assert "80 render, 29 portraits, 20 webmorph" in lines[0]
    model = load_runtime(tmp_path / "run" / "model.onnx")
    assert model.spec == spec
    assert model.run(np.zeros((1, 96, 96, 1), np.uint8))[0].shape == (1, 1, 68, 2)
