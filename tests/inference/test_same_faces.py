"""Every verb that finds faces finds the same ones: the shipped detector has one threshold and one check."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from facial_keypoints import load_detector, load_predictor
from facial_keypoints.cli import app
from facial_keypoints.data.synthetic.scenes import draw_scene
from facial_keypoints.inference.predictor import Predictor


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load_predictor(threads=1)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Two blurred faces, one of them with a score between 0.4 and 0.6."""
    photo, _ = draw_scene(2, seed=32, image_size=(240, 480))
    return cv2.GaussianBlur(photo, (0, 0), 4)


@pytest.fixture(scope="module")
def file(image: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "blurred.png"
    Image.fromarray(image).save(path)
    return path


@pytest.fixture(scope="module")
def scores(predictor: Predictor, image: np.ndarray) -> list[float]:
    """What ``Predictor.predict`` finds, which all others are compared with."""
    found = predictor.predict(image).scores.tolist()
    assert len(found) == 2
    assert 0.42 < found[1] < 0.58
    return found


def command(verb: str, path: Path, out: Path, *words: str) -> list[float]:
    """Scores in the table that a command writes."""
    done = CliRunner().invoke(app, [verb, str(path), "-o", str(out), *words])
    assert done.exit_code == 0, done.output
    with (out / "faces.csv" if verb == "align" else out).open(newline="") as handle:
        return [float(row["score"]) for row in csv.DictReader(handle)]


def by_batch(path: Path, out: Path, **changed: float) -> list[float]:
    """What the worker does that Ray starts on each core."""
    pytest.importorskip("pyarrow")
    from facial_keypoints.batch.inputs import find_shards
    from facial_keypoints.batch.manifest import Manifest, Settings, part_name
    from facial_keypoints.batch.storage import Folder
    from facial_keypoints.batch.worker import BlockWorker, PackedModel
    from facial_keypoints.io.tables import read_table
    from facial_keypoints.models.registry import find_detector, find_model

    model, detector = PackedModel.of(find_model("default")), PackedModel.of(find_detector())
    settings = Settings(inputs=(str(path),), **changed)  # type: ignore[arg-type]
    folder = Folder(str(out))
    with folder.prepared([str(path)], force=False, resume=False):
        Manifest.write(folder, settings, find_shards(settings.inputs, column=None, block_size=128))
        BlockWorker(str(out), settings, model, detector, 1).work(0)
    table = read_table(out / part_name(0))
    return [row[table.names.index("score")] for row in table.rows]


@pytest.mark.parametrize("verb", ["predict", "measure", "align"])
def test_the_verbs_for_images_find_the_same_faces(
    verb: str, file: Path, scores: list[float], tmp_path: Path
) -> None:
    out = tmp_path / ("out" if verb == "align" else "out.csv")
    assert command(verb, file, out) == pytest.approx(scores, abs=1e-3)
    assert command(verb, file, out, "--force", "--min-score", "0.6") == pytest.approx(
        scores[:1], abs=1e-3
    )


def test_batch_finds_the_same_faces(file: Path, scores: list[float], tmp_path: Path) -> None:
    assert by_batch(file, tmp_path / "all") == pytest.approx(scores, abs=1e-3)
    assert by_batch(file, tmp_path / "best", min_score=0.6) == pytest.approx(scores[:1], abs=1e-3)


def test_the_service_finds_the_same_faces(
    predictor: Predictor, file: Path, scores: list[float]
) -> None:
    pytest.importorskip("fastapi")
    from starlette.testclient import TestClient

    from facial_keypoints.service import Limits, create_app

    with TestClient(
        create_app(predictor, Limits(), threads=1), base_url="http://localhost"
    ) as client:

        def scores_of(query: str) -> list[float]:
            reply = client.post(f"/v1/predict?{query}", content=file.read_bytes(), headers={"content-type": "image/png"})  # fmt: skip
            (image,) = reply.json()["images"]
            return [face["score"] for face in image["faces"]]

        assert scores_of("") == pytest.approx(scores, abs=1e-3)
        assert scores_of("min_score=0.6") == pytest.approx(scores[:1], abs=1e-3)


def test_tracking_finds_the_same_faces(
    predictor: Predictor, image: np.ndarray, scores: list[float], tmp_path: Path
) -> None:
    pytest.importorskip("av")
    from drawn_video import write
    from facial_keypoints.inference.tracker import track_video

    video = write(tmp_path / "still.mp4", [image])
    ways: list[Callable[[float | None], list[float]]] = [
        lambda least: next(track_video(str(video), predictor=predictor, min_score=least)).scores.tolist(),
        lambda least: command("track", video, tmp_path / "track.csv", "--force", *([] if least is None else ["--min-score", str(least)])),
    ]  # fmt: skip
    for found in ways:
        # The codec changes the pixels a little.
        assert sorted(found(None), reverse=True) == pytest.approx(scores, abs=0.04)
        assert found(0.6) == pytest.approx(scores[:1], abs=0.04)


def test_tracking_leaves_out_the_boxes_that_predict_leaves_out(predictor: Predictor) -> None:
    """Some boxes beside the two faces have just enough confidence to be kept; most are left out."""
    from facial_keypoints.inference.tracker import Tracker
    from facial_keypoints.io.videos import Frame

    shipped = load_detector(threads=1, threshold=0.02)

    image, _ = draw_scene(2, seed=4, image_size=(240, 480))
    grey = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., np.newaxis], 3, axis=2)
    found = Predictor(predictor.runtime, detector=shipped).predict(grey)
    assert 2 < len(found) < len(shipped.detect(grey))
    tracked = Tracker(Predictor(predictor.runtime, detector=shipped)).update(Frame(grey))
    assert sorted(tracked.scores) == sorted(found.scores)
