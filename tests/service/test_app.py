"""The service in process: the shipped model, drawn scenes, and a detector with fixed boxes."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
import struct
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx2")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from facial_keypoints import load_predictor
from facial_keypoints.data.synthetic.scenes import draw_scene
from facial_keypoints.geometry import face_boxes
from facial_keypoints.inference.alignment import AlignedFaces, align
from facial_keypoints.inference.detector import Detections
from facial_keypoints.inference.measure.measures import measure
from facial_keypoints.inference.predictor import Predictor
from facial_keypoints.io.tables import columns, rows
from facial_keypoints.models.registry import shipped_models
from facial_keypoints.schemas import KAGGLE15
from facial_keypoints.service import Limits, answers, create_app
from facial_keypoints.service.batching import WorkQueue
from facial_keypoints.service.guard import Access

PHOTO, FACES = draw_scene(3, seed=1)
BOXES = face_boxes(FACES.xy, KAGGLE15)
MODEL = shipped_models()["default"]


class FixedDetector:
    """A detector that knows the boxes, and waits while ``gate`` is closed."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)

    def detect(self, image: np.ndarray, effort: str) -> Detections:
        self.effort = effort
        self.begun.release()
        assert self.gate.wait(20)
        if image.shape != PHOTO.shape:
            return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
        return Detections(BOXES, np.array([0.9, 0.8, 0.7], np.float32))


@contextmanager
def closed(detector: FixedDetector) -> Iterator[None]:
    """Nobody passes the detector's gate until the block ends."""
    detector.gate.clear()
    while detector.begun.acquire(blocking=False):
        pass
    try:
        yield
    finally:
        detector.gate.set()


def encoded(image: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


PNG = encoded(PHOTO)
JPEG = encoded(PHOTO, "JPEG", quality=90)


@pytest.fixture(scope="module")
def fixed() -> FixedDetector:
    return FixedDetector()


@pytest.fixture(scope="module")
def predictor(fixed: FixedDetector) -> Predictor:
    return load_predictor(threads=1, detector=fixed)


@pytest.fixture(scope="module")
def client(predictor: Predictor) -> Iterator[TestClient]:
    app = create_app(predictor, Limits(), files={"default": MODEL}, threads=2)
    with TestClient(app) as client:
        yield client


def started(predictor: Predictor, limits: Limits | None = None, **options: object) -> TestClient:
    return TestClient(create_app(predictor, limits, threads=1, **options))


def form(*images: tuple[str, bytes, str]) -> dict[str, object]:
    return {"files": [("files", image) for image in images]}


A_PNG = form(("a.png", PNG, "image/png"))


def problem_of(reply, status: int, kind: str) -> dict[str, object]:
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    value = reply.json()
    assert value["type"] == f"urn:facial-keypoints:{kind}"
    assert value["status"] == status
    assert value["detail"].endswith((".", "]"))
    return value


# Answers


def test_an_image_is_answered_as_the_command_line_writes_it(client, predictor) -> None:
    found = predictor.predict(PHOTO, source="a.png")
    expected = [dict(zip(columns(KAGGLE15), row, strict=True)) for row in rows(found)]
    assert len(expected) == 3
    for face in expected:
        face["keypoints"] = {
            name: [face[f"{name}_x"], face[f"{name}_y"], face[f"{name}_confidence"]]
            for name in KAGGLE15.keypoint_names
        }
    raw = client.post("/v1/predict?source=a.png", content=PNG)
    assert raw.status_code == 200
    assert raw.json() == {
        "model": "default",
        "style": "kaggle-a",
        "images": [{"source": "a.png", "width": 640, "height": 360, "faces": expected}],
    }
    assert client.post("/v1/predict", **A_PNG).json() == raw.json()


@pytest.mark.parametrize("query", ["", "?crops=true"])
def test_an_answer_says_that_further_pages_were_not_read(client, query: str) -> None:
    page = Image.fromarray(PHOTO)
    pages = io.BytesIO()
    page.save(pages, "TIFF", save_all=True, append_images=[page])
    sent = form(("a.png", PNG, "image/png"), ("b.tif", pages.getvalue(), "image/tiff"))
    first, second = client.post(f"/v1/predict{query}", **sent).json()["images"]
    assert "warnings" not in first
    assert second["faces"]
    (warning,) = second["warnings"]
    assert warning.startswith("b.tif: has 2 pages; only the first was read.")


def test_points_are_in_pixels_of_the_upright_image(client) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn it by 90 degrees clockwise
    lying = encoded(np.rot90(PHOTO), exif=exif)
    straight = client.post("/v1/predict", content=PNG).json()["images"][0]
    turned = client.post("/v1/predict", content=lying).json()["images"][0]
    assert (turned["width"], turned["height"]) == (640, 360)
    assert turned == straight


def test_the_effort_reaches_the_detector(client, predictor) -> None:
    for query, effort in (("", "normal"), ("?effort=thorough", "thorough")):
        (image,) = client.post(f"/v1/predict{query}", content=PNG).json()["images"]
        assert predictor.detector.effort == effort
        assert "smallest_face" not in image  # this detector does not say


def test_best_faces_styles_and_scores_can_be_chosen(client) -> None:
    def faces(query: str) -> list[dict[str, float]]:
        return client.post(f"/v1/predict?{query}", content=PNG).json()["images"][0]["faces"]

    assert [face["score"] for face in faces("max_faces=2")] == [0.9, 0.8]
    assert [face["score"] for face in faces("min_score=0.85")] == [0.9]
    reply = client.post("/v1/predict?style=kaggle-b", content=PNG).json()
    assert reply["style"] == "kaggle-b"
    assert reply["images"][0]["faces"] != faces("style=kaggle-a")


def test_given_boxes_are_answered_without_a_detector(client, predictor) -> None:
    boxes = BOXES[1:2].round(2).tolist()
    reply = client.post("/v1/predict", **A_PNG, data={"boxes": json.dumps(boxes)}).json()
    found = rows(predictor.predict_boxes(PHOTO, np.array(boxes)))[0]
    face = reply["images"][0]["faces"][0]
    assert face["score"] is None
    assert face["nose_tip_x"] == found[columns(KAGGLE15).index("nose_tip_x")]


def test_each_image_can_be_one_face(client, predictor) -> None:
    crop = PHOTO[70:190, 20:140]
    reply = client.post(
        "/v1/predict?crops=true", **form(*[("c.png", encoded(crop), "image/png")] * 5)
    )
    faces = [image["faces"][0] for image in reply.json()["images"]]
    grey = np.asarray(Image.fromarray(crop).convert("L"))
    expected = rows(predictor.predict_crops([grey])[0])[0]
    names = columns(KAGGLE15)
    assert len(faces) == 5
    for face in faces:
        assert face["nose_tip_x"] == pytest.approx(expected[names.index("nose_tip_x")], abs=0.02)


def test_crops_are_computed_together(predictor) -> None:
    crop = ("c.png", encoded(PHOTO[70:190, 20:140]), "image/png")
    with started(predictor) as client:
        assert client.post("/v1/predict?crops=true", **form(*[crop] * 5)).status_code == 200
        text = client.get("/metrics").text
    assert "facial_keypoints_batch_images_count 1.0" in text
    assert "facial_keypoints_batch_images_sum 5.0" in text
    assert 'facial_keypoints_images_total{outcome="answered"} 5.0' in text
    assert "facial_keypoints_faces_total 5.0" in text


def test_of_several_images_the_good_ones_are_answered(client) -> None:
    reply = client.post(
        "/v1/predict", **form(("a.png", PNG, "image/png"), ("b.png", PNG[:2000], "image/png"))
    )
    assert reply.status_code == 200
    good, bad = reply.json()["images"]
    assert len(good["faces"]) == 3
    assert bad["source"] == "b.png"
    assert bad["problem"]["status"] == 422
    assert "b.png" in bad["problem"]["detail"]
    assert "damaged or cut off" in bad["problem"]["detail"]


def test_of_several_images_one_with_too_many_pixels_costs_itself_only(predictor) -> None:
    large = encoded(np.zeros((361, 640, 3), np.uint8))
    files = form(("a.png", PNG, ""), ("large.png", large, ""), ("b.png", PNG, ""))
    with started(predictor, Limits(pixels=640 * 360)) as client:
        reply = client.post("/v1/predict", **files)
    assert reply.status_code == 200
    first, refused, last = reply.json()["images"]
    assert len(first["faces"]) == len(last["faces"]) == 3
    assert refused["source"] == "large.png"
    assert refused["problem"]["type"] == "urn:facial-keypoints:bad-image"
    assert "limit of 230,400" in refused["problem"]["detail"]


@pytest.mark.parametrize(
    ("query", "broken"), [("", "predict_detected"), ("?crops=true", "predict_fitted")]
)
def test_an_image_that_fails_unexpectedly_costs_itself_only(
    predictor, monkeypatch, caplog, query: str, broken: str
) -> None:
    real = getattr(Predictor, broken)
    black = encoded(np.zeros_like(PHOTO))

    def fails_at_black(self: Predictor, given: object, *args: object, **options: object) -> object:
        images = given if isinstance(given, np.ndarray) else [crop.image for crop in given]
        if any(not np.any(image) for image in images):
            raise RuntimeError("out of order")
        return real(self, given, *args, **options)

    files = form(("a.png", PNG, ""), ("black.png", black, ""), ("b.png", PNG, ""))
    with started(predictor) as client, monkeypatch.context() as patched:
        patched.setattr(Predictor, broken, fails_at_black)
        reply = client.post(f"/v1/predict{query}", **files)
    assert reply.status_code == 200
    first, failed, last = reply.json()["images"]
    assert first["faces"]
    assert last["faces"]
    assert failed["source"] == "black.png"
    assert failed["problem"]["type"] == "urn:facial-keypoints:internal-error"
    assert failed["problem"]["status"] == 500
    assert "out of order" not in reply.text
    assert "out of order" in caplog.text
    assert "black.png" not in caplog.text


def test_measures_carry_units_error_bars_and_the_notice(client, predictor) -> None:
    reply = client.post("/v1/measure?ipd_mm=63&source=a", content=PNG).json()
    expected = measure(predictor.predict(PHOTO), ipd_mm=63)
    face = reply["images"][0]["faces"][2]
    assert reply["notice"].startswith("Not a medical device")
    assert reply["units"]["canthal_index"] == "percent"
    assert face["canthal_index"] == pytest.approx(expected["canthal_index"][2], abs=1e-5)
    assert face["canthal_index_sigma"] > 0
    assert face["mouth_width_mm"] == pytest.approx(expected["mouth_width_mm"][2], abs=1e-5)
    assert [*face][:7] == columns(KAGGLE15)[:7]
    assert face["warnings"] == ", ".join(expected.warnings[2])


def test_aligned_faces_come_as_a_zip_with_their_matrices(client, predictor) -> None:
    reply = client.post(
        "/v1/align?size=96&margin=0.1",
        **form(("../../up/a.png", PNG, "image/png"), ("x/a.jpg", JPEG, ""), ("no", b"no", "")),
    )
    assert reply.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
        names = archive.namelist()
        table = [*csv.DictReader(archive.read("faces.csv").decode().splitlines())]
        image = np.asarray(Image.open(io.BytesIO(archive.read("a_face1.png"))))
        (problem,) = json.loads(archive.read("problems.json"))
    assert names[:3] == ["a_face0.png", "a_face1.png", "a_face2.png"]
    assert names[3:6] == ["a_1_face0.png", "a_1_face1.png", "a_1_face2.png"]
    assert problem["source"] == "no"
    expected = align(PHOTO, predictor.predict(PHOTO), size=96, margin=0.1)
    np.testing.assert_array_equal(image, expected.images[1])
    assert (table[1]["source"], table[1]["face"], table[1]["score"]) == (
        "../../up/a.png",
        "1",
        "0.8000",
    )
    matrix = [float(table[1][name]) for name in ("a", "b", "tx", "c", "d", "ty")]
    assert matrix == expected.matrices[1].ravel().tolist()


def test_names_in_the_zip_are_unique(client) -> None:
    names = ["a_2.png", "a.png", "a.png", "a.png", "..", "\\\\x\\a.png", "=1+1/ä b.png"]
    reply = client.post("/v1/align", **form(*[(name, PNG, "") for name in names]))
    with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
        members = archive.namelist()
    assert len(members) == len(set(members)) == 3 * len(names) + 2
    assert not any("/" in name or "\\" in name or name.startswith(".") for name in members)


def test_the_best_face_alone_comes_as_png(client, predictor) -> None:
    reply = client.post("/v1/align?format=png", content=PNG)
    assert reply.headers["content-type"] == "image/png"
    expected = align(PHOTO, predictor.predict(PHOTO)).images[0]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(reply.content))), expected)
    empty = encoded(np.zeros((50, 50, 3), np.uint8))
    problem_of(client.post("/v1/align?format=png", content=empty), 422, "no-face")


def test_faces_whose_points_coincide_are_counted(client, monkeypatch) -> None:
    def lose(*args: object, **options: object) -> AlignedFaces:
        found = align(*args, **options)  # type: ignore[arg-type]
        return replace(found, matrices=found.matrices * (np.nan if next(lost) else 1.0))

    monkeypatch.setattr(answers, "align", lose)
    lost = iter([True, False, True])
    reply = client.post("/v1/align?source=a", content=PNG)
    assert reply.headers["faces-not-aligned"] == "2"
    with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
        assert archive.namelist() == ["a_face1.png", "faces.csv", "problems.json"]
        (problem,) = json.loads(archive.read("problems.json"))
    assert problem["detail"].startswith("a: 2 of 3 faces cannot be aligned")
    lost = iter([True, False, False])
    reply = client.post("/v1/align?format=png", content=PNG)
    assert reply.headers["faces-not-aligned"] == "1"
    lost = iter([True, True, True])
    problem_of(client.post("/v1/align?format=png", content=PNG), 422, "not-aligned")


def test_an_image_without_faces_has_none(client) -> None:
    empty = encoded(np.zeros((50, 60, 3), np.uint8))
    reply = client.post("/v1/predict", content=empty).json()
    assert reply["images"] == [{"source": "", "width": 60, "height": 50, "faces": []}]
    assert client.post("/v1/measure", content=empty).json()["images"][0]["faces"] == []


# What there is


def test_the_model_describes_itself_and_can_be_fetched(client) -> None:
    reply = client.get("/v1/models").json()
    (model,) = reply["models"]
    assert model["name"] == "default"
    assert model["schema"]["keypoint_names"] == list(KAGGLE15.keypoint_names)
    assert model["schema"]["swap"] == list(KAGGLE15.swap)
    assert model["schema"]["edges"] == [list(edge) for edge in KAGGLE15.edges]
    assert model["input_size"] == [96, 96]
    assert model["styles"][0] == "kaggle-a"
    assert model["effort"] == "normal"
    assert reply["limits"]["files"] == 32
    assert client.get(model["file"]).content == MODEL.read_bytes()
    assert client.head(model["file"]).headers["content-length"] == str(model["bytes"])
    assert client.head("/v1/models/face_detector.onnx").status_code == 404


def test_the_docs_need_nothing_from_elsewhere(client) -> None:
    page = client.get("/docs")
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "<script" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for operation in methods.values():
            for parameter in operation.get("parameters", []):
                assert f"<code>{parameter['name']}</code>" in page.text
        assert path in page.text


def test_files_of_the_page_have_their_types_and_a_strict_policy(predictor, tmp_path) -> None:
    for name in ("ort.wasm.min.mjs", "ort.wasm", "m.onnx"):
        (tmp_path / name).write_bytes(b"x")
    with started(predictor, ort_web=tmp_path) as client:
        kinds = {
            name: client.get(f"/ort/{name}").headers["content-type"].split(";")[0]
            for name in ("ort.wasm.min.mjs", "ort.wasm", "m.onnx")
        }
        policy = client.get("/ort/m.onnx").headers["content-security-policy"]
        assert client.get("/ort/../../pyproject.toml").status_code == 404
    assert [*kinds.values()] == ["text/javascript", "application/wasm", "application/octet-stream"]
    assert "default-src 'self'" in policy
    assert "unsafe-inline" not in policy
    assert "'unsafe-eval'" not in policy


def test_health_and_counts(client) -> None:
    client.post("/v1/predict", content=PNG)
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    text = client.get("/metrics").text
    assert 'facial_keypoints_requests_total{path="/v1/predict",status="200"}' in text
    assert "facial_keypoints_faces_total" in text
    assert "facial_keypoints_images_waiting 0.0" in text
    assert "facial_keypoints_body_bytes 0.0" in text


def test_unknown_paths_and_methods_are_problems_too(client) -> None:
    for method, path, status in (("GET", "/nothing", 404), ("GET", "/v1/predict", 405)):
        reply = client.request(method, path)
        assert reply.status_code == status
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.json()["type"] == "about:blank"
        assert path in reply.json()["detail"]
    client.get("/invented/17")
    assert "invented" not in client.get("/metrics").text  # or clients could fill the memory


@pytest.mark.parametrize(
    "path",
    ["/", "/docs", "/healthz", "/readyz", "/metrics", "/v1/models", "/v1/models/default.onnx"],
)
def test_head_is_answered_as_get_is_and_the_rest_is_refused(client, path: str) -> None:
    assert client.head(path).status_code == client.get(path).status_code == 200
    refused = client.put(path)
    assert refused.status_code == 405
    assert {"GET", "HEAD"} == {*refused.headers["allow"].split(", ")}
    options = client.options(path)
    assert (options.status_code, options.headers["allow"]) == (204, refused.headers["allow"])


def test_a_slash_at_the_end_changes_nothing(client) -> None:
    assert (
        client.post("/v1/predict/", content=PNG).json()
        == client.post("/v1/predict", content=PNG).json()
    )
    assert client.get("/healthz/").status_code == 200


def test_files_may_be_kept_and_answers_not(client) -> None:
    for path, kept in (("/", "no-cache"), ("/app.js", "no-cache"), ("/healthz", "no-store")):
        reply = client.get(path)
        assert reply.headers["cache-control"] == kept
        assert reply.headers["cross-origin-resource-policy"] == "same-origin"
    assert client.post("/v1/predict", content=PNG).headers["cache-control"] == "no-store"


# Unusable images among good ones, and the ways to send them

EMPTY = encoded(np.zeros((50, 60, 3), np.uint8))
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


@pytest.mark.parametrize("path", ["predict", "measure", "align"])
@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [(PNG, "text/plain", 415), (b"%PDF-1.4", "application/pdf", 415), (b"%PDF-1.4", "", 422),
     (HEIC, "image/heic", 422), (b"", "image/png", 422), (PNG[:900], "image/png", 422)],
)  # fmt: skip
def test_one_unusable_image_costs_itself_only(
    client, path: str, content: bytes, kind: str, status: int
) -> None:
    reply = client.post(f"/v1/{path}", **form(("bad", content, kind), ("a.png", PNG, "")))
    assert reply.status_code == 200
    if path == "align":
        with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
            (problem,) = json.loads(archive.read("problems.json"))
            assert "a_face2.png" in archive.namelist()
    else:
        bad, good = reply.json()["images"]
        problem = bad["problem"]
        assert len(good["faces"]) == 3
    assert (problem["source"], problem["status"]) == ("bad", status)


def test_an_image_without_a_face_is_listed_beside_aligned_faces(client) -> None:
    reply = client.post("/v1/align", **form(("e.png", EMPTY, ""), ("a.png", PNG, "")))
    with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
        (problem,) = json.loads(archive.read("problems.json"))
    assert (problem["source"], problem["detail"]) == ("e.png", "e.png shows no face.")


@pytest.mark.parametrize("query", ["", "?crops=true"])
def test_an_image_of_another_type_than_declared_is_read_with_a_warning(client, query: str) -> None:
    reply = client.post(f"/v1/predict{query}", **form(("a.jpg", PNG, "image/jpeg")))
    (image,) = reply.json()["images"]
    assert image["faces"]
    assert image["warnings"] == [
        "a.jpg: declared as image/jpeg, but read as PNG, which its content is."
    ]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("filename*=UTF-8''%C3%A4%20b.png", "ä b.png"),
     ("filename=\"x.png\"; filename*=iso-8859-1'de'%E4.png", "ä.png"),
     ("filename*=nonsense''%E4.png", "image 0"), ('filename="日本.png"', "日本.png"), ("x=1", "image 0")],
)  # fmt: skip
def test_names_of_files_in_every_form(client, name: str, shown: str) -> None:
    head = f'--x\r\nContent-Disposition: form-data; name="files"; {name}\r\n\r\n'
    kind = {"content-type": "multipart/form-data; boundary=x"}
    body = head.encode() + EMPTY + b"\r\n--x--\r\n"
    reply = client.post("/v1/predict", content=body, headers=kind)
    assert reply.json()["images"][0]["source"] == shown


def test_boxes_may_come_as_a_file(client) -> None:
    boxes = json.dumps(BOXES[1:2].round(2).tolist()).encode()
    text = client.post("/v1/predict", **A_PNG, data={"boxes": boxes.decode()}).json()
    files = [("files", ("a.png", PNG, "image/png")), ("boxes", ("b.json", b"\xef\xbb\xbf" + boxes))]
    assert client.post("/v1/predict", files=files).json() == text
    files[1] = ("boxes", ("b.json", b"\xff"))
    problem_of(client.post("/v1/predict", files=files), 422, "bad-parameter")


def in_json(*contents: bytes, **more: object) -> dict[str, object]:
    images = [
        {"source": f"{i}.png", "data": base64.b64encode(content).decode()}
        for i, content in enumerate(contents)
    ]
    return {"json": {"images": images, **more}}


@pytest.mark.parametrize("path", ["predict", "measure", "align"])
def test_images_in_json_are_answered_as_those_in_a_form(client, path: str) -> None:
    sent = form(("0.png", PNG, ""), ("1.png", b"no image", ""), ("2.png", EMPTY, ""))
    expected = client.post(f"/v1/{path}?style=kaggle-b&min_score=0.85", **sent)
    more = in_json(PNG, b"no image", EMPTY, style="kaggle-b")
    reply = client.post(f"/v1/{path}?min_score=0.85", **more)
    assert reply.status_code == 200
    if path != "align":
        assert reply.json() == expected.json()
        return
    found, wanted = (
        {name: archive.read(name) for name in archive.namelist()}
        for archive in (zipfile.ZipFile(io.BytesIO(each.content)) for each in (reply, expected))
    )
    assert found == wanted


def test_base64_has_many_forms(client) -> None:
    plain = base64.b64encode(EMPTY).decode()
    lines = base64.encodebytes(EMPTY).decode()
    url = base64.urlsafe_b64encode(EMPTY).decode().rstrip("=")
    values = [plain, lines, url, f"data:image/png;base64,{plain}", f"data:text/plain;base64,{plain}",
              f"data:image/png,{plain}", "no base64!", ""]  # fmt: skip
    sent = {"images": [{"data": value} for value in values]}
    images = client.post("/v1/predict", json=sent).json()["images"]
    statuses = [image["problem"]["status"] if "problem" in image else 200 for image in images]
    assert statuses == [200, 200, 200, 200, 415, 422, 422, 422]
    assert images[7]["source"] == "image 7"


@pytest.mark.parametrize(
    ("body", "status", "kind", "words"),
    [(b"{", 400, "bad-request", "no JSON"), (b"[" * 9000, 400, "bad-request", "no JSON"),
     (b"{}", 422, "bad-parameter", "images"), (b'{"images": []}', 422, "bad-parameter", "images"),
     (b'{"images": [{"data": 1}]}', 422, "bad-parameter", "images.0.data"),
     (b'{"images": [{"data": ""}], "crop": 1}', 422, "bad-parameter", "crop: there is no such"),
     (b'{"images": [{"data": ""}], "crops": true, "max_faces": 1}', 422, "bad-parameter", "leave out"),
     (b'{"images": [{"data": ""}], "boxes": [[9, 9, 1, 1]]}', 422, "bad-parameter", "boxes"),
     (b'{"images": [{"data": ""}, {"data": ""}], "boxes": [[1, 1, 9, 9]]}', 400, "bad-request", "one image"),
     (b'{"images": [' + b",".join([b'{"data": ""}'] * 33) + b"]}", 413, "too-large", "32 images")],
)  # fmt: skip
def test_json_that_does_not_fit_is_refused(
    client, body: bytes, status: int, kind: str, words: str
) -> None:
    sent = {"content": body, "headers": {"content-type": "application/json"}}
    assert words in problem_of(client.post("/v1/predict", **sent), status, kind)["detail"]


# Bad input


def bomb() -> bytes:
    """A PNG of 60000×60000 pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 1_000_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "kind", "status", "problem", "words"),
    [
        (b"", "image/png", 400, "bad-request", "No image came"),
        (b"no image", "image/png", 422, "bad-image", "in a known format"),
        (bomb(), "image/png", 422, "bad-image", "60000×60000 pixels are more"),
        (PNG[: len(PNG) // 2], "image/png", 422, "bad-image", "cut off"),
        (JPEG[: len(JPEG) // 2], "image/jpeg", 422, "bad-image", "cut off"),
        (PNG, "image/svg+xml", 415, "unsupported-type", "image/svg+xml"),
        (PNG, "text/plain", 415, "unsupported-type", "text/plain"),
        (b"--x\r\n", "multipart/form-data", 400, "bad-request", "form"),
        (b"--x\r\n", "multipart/form-data; boundary=x", 400, "bad-request", "last boundary is missing"),
        (b'--x\r\nContent-Disposition: form-data; name="files"; filename="f"\r\n\r\n' + PNG,
         "multipart/form-data; boundary=x", 400, "bad-request", "last boundary is missing"),
        (b"--x\r\n" + b"A: b\r\n" * 9, "multipart/form-data; boundary=x", 400, "bad-request", "form"),
        (b"rubbish", "multipart/form-data; boundary=x", 400, "bad-request", "form"),
        (b"--x--\r\n", "multipart/form-data; boundary=x", 400, "bad-request", "No image"),
        (b"--x\r\nA: b\r\n\r\nc\r\n--x--\r\n", "multipart/form-data; boundary=x", 400, "bad-request", '"name"'),
        (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n' * 11 + b"--x--\r\n",
         "multipart/form-data; boundary=x", 400, "bad-request", "Too many fields"),
        (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x--\r\n',
         "multipart/form-data; boundary=x; charset=undefined", 400, "bad-request", "form"),
    ],
)  # fmt: skip
def test_bad_images_are_refused_with_a_sentence(
    client, content: bytes, kind: str, status: int, problem: str, words: str
) -> None:
    reply = client.post("/v1/predict", content=content, headers={"content-type": kind})
    assert words in problem_of(reply, status, problem)["detail"]
    assert client.post("/v1/predict", content=PNG).status_code == 200


@pytest.mark.parametrize(
    "boxes",
    ["", "{}", "[]", "[1,2,3,4]", "[[1,2,3]]", '[["1",2,3,4]]', "[[5,5,5.5,9]]", "[[9,9,1,1]]",
     "[[NaN,0,9,9]]", "[[0,0,1e300,9]]", "[[true,0,9,9]]", "[" * 9000, "[[1,2,9,9]," * 101],
)  # fmt: skip
def test_boxes_that_are_not_boxes_are_refused(client, boxes: str) -> None:
    reply = client.post("/v1/predict", **A_PNG, data={"boxes": boxes})
    problem_of(reply, 422, "bad-parameter")


def test_boxes_must_lie_in_the_one_image(client) -> None:
    reply = client.post("/v1/predict", **A_PNG, data={"boxes": "[[0,0,9,9],[700,0,800,90]]"})
    assert (
        "[700, 0, 800, 90] lies outside its 640×360"
        in problem_of(reply, 422, "bad-image")["detail"]
    )
    two = form(("a.png", PNG, ""), ("b.png", PNG, ""))
    reply = client.post("/v1/predict", **two, data={"boxes": "[[0,0,9,9]]"})
    assert "one image" in problem_of(reply, 400, "bad-request")["detail"]


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/v1/predict?crop=true", "crop: there is no such parameter"),
        ("/v1/predict?style=x", "style"),
        ("/v1/predict?effort=much", "effort"),
        ("/v1/predict?min_score=nan", "min_score"),
        ("/v1/predict?max_faces=0", "max_faces"),
        ("/v1/predict?crops=true&max_faces=1", "leave out effort, min_score and max_faces"),
        ("/v1/measure?ipd_mm=inf", "ipd_mm"),
        ("/v1/measure?ipd_mm=60&mm_per_px=1", "not both"),
        ("/v1/align?size=4000", "size"),
        ("/v1/align?format=gif", "format"),
    ],
)
def test_bad_parameters_are_named(client, path: str, word: str) -> None:
    assert word in problem_of(client.post(path, content=PNG), 422, "bad-parameter")["detail"]


def test_unexpected_form_fields_are_named(client) -> None:
    reply = client.post("/v1/predict", **A_PNG, data={"box": "[]"})
    assert "'box' is not expected" in problem_of(reply, 400, "bad-request")["detail"]


@pytest.mark.filterwarnings("ignore:::PIL")  # of metadata, as the command line does
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.binary(max_size=300),
    kind=st.sampled_from(["image/png", "image/jpeg", "", "multipart/form-data; boundary=x", "image/tiff"]),
    start=st.sampled_from([b"", b"\xff\xd8\xff", b"II*\0", b"GIF89a", b"RIFF0000WEBP", b"BM", b"P5 9 9 255\n",
                           b'--x\r\nContent-Disposition: form-data; name="files"; filename="f"\r\n\r\n']),
)  # fmt: skip
def test_random_bodies_are_answered_or_refused(
    client, content: bytes, kind: str, start: bytes
) -> None:
    reply = client.post("/v1/predict", content=start + content, headers={"content-type": kind})
    assert reply.status_code in (200, 400, 415, 422)
    if reply.status_code != 200:
        assert reply.headers["content-type"] == "application/problem+json"


@pytest.mark.filterwarnings("ignore:::PIL")
@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_damaged_images_are_answered_or_refused(client, data: st.DataObject) -> None:
    content = bytearray(
        encoded(PHOTO[:64, :64], data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF"])))
    )
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    reply = client.post("/v1/predict?crops=true", content=bytes(content))
    assert reply.status_code in (200, 422)


# Limits


def test_refusals_state_the_limit(predictor) -> None:
    limits = Limits(body_bytes=len(PNG) + 1000, files=2, pixels=640 * 360, faces=2)
    with started(predictor, limits) as client:
        reply = client.post("/v1/predict", content=PNG).json()
        assert len(reply["images"][0]["faces"]) == 2  # the best ones
        large = encoded(np.zeros((361, 640, 3), np.uint8))
        reply = client.post("/v1/predict", content=large)
        assert "limit of 230,400" in problem_of(reply, 422, "bad-image")["detail"]
        small = encoded(PHOTO[:50, :50])
        reply = client.post("/v1/predict", **form(*[("s.png", small, "image/png")] * 3))
        assert "More than 2 images" in problem_of(reply, 413, "too-large")["detail"]
        for twice in (PNG + PNG, iter([PNG, PNG])):  # with and without a declared length
            problem_of(client.post("/v1/predict", content=twice), 413, "too-large")
        reply = client.post("/v1/predict", content=PNG * 8)
        problem_of(reply, 413, "too-large")
        assert reply.headers["connection"] == "close"
        boxes = json.dumps(BOXES.tolist())
        reply = client.post("/v1/predict", **A_PNG, data={"boxes": boxes})
        assert "at most 2 boxes" in problem_of(reply, 422, "bad-parameter")["detail"]


def test_contradictory_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer than the 32 files"):
        Limits(waiting=31)
    with pytest.raises(ValueError, match="seconds must be a positive number"):
        Limits(seconds=float("nan"))
    with pytest.raises(ValueError, match="for all bodies"):
        Limits(memory_bytes=1)


def test_a_full_queue_refuses_at_once_and_serves_what_it_took(predictor, fixed) -> None:
    limits = Limits(waiting=2, files=2)
    with started(predictor, limits) as client, ThreadPoolExecutor(3) as pool:
        fixed.gate.clear()
        while fixed.begun.acquire(blocking=False):
            pass
        try:
            # One is under way, two wait.
            taken = [pool.submit(client.post, "/v1/predict", content=PNG)]
            assert fixed.begun.acquire(timeout=10)
            taken.append(pool.submit(client.post, "/v1/predict", **form(*[("a", PNG, "")] * 2)))
            for _ in range(1000):
                if "images_waiting 2.0" in client.get("/metrics").text:
                    break
            reply = client.post("/v1/predict", content=PNG)
            problem_of(reply, 503, "busy")
            assert reply.headers["retry-after"] == "1"
            # Before its upload is read: it would be refused for its type.
            unread = client.post("/v1/predict", content=PNG, headers={"content-type": "text/plain"})
            problem_of(unread, 503, "busy")
            problem_of(client.get("/readyz"), 503, "busy")
            assert client.get("/healthz").status_code == 200
        finally:
            fixed.gate.set()
        assert [future.result(20).status_code for future in taken] == [200, 200]
        assert client.post("/v1/predict", content=PNG).status_code == 200


def test_it_is_not_ready_while_every_worker_is_past_its_time(predictor, fixed, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(WorkQueue.__init__, "__kwdefaults__", {"clock": lambda: now[0]})
    with started(predictor) as client, ThreadPoolExecutor(1) as pool:
        with closed(fixed):
            taken = pool.submit(client.post, "/v1/predict", content=PNG)
            assert fixed.begun.acquire(timeout=10)
            now[0] = Limits().seconds
            assert client.get("/readyz").status_code == 200
            now[0] += 1
            problem_of(client.get("/readyz"), 503, "busy")
            assert client.get("/healthz").status_code == 200
        assert taken.result(20).status_code == 200
        assert client.get("/readyz").status_code == 200


def test_shutdown_ends_with_a_stuck_worker(fixed, predictor, monkeypatch) -> None:
    monkeypatch.setattr("facial_keypoints.service.app.CLOSE_SECONDS", 0.01)
    others = threading.enumerate()  # those of the other tests' service
    with closed(fixed):
        with started(predictor, Limits(seconds=0.2)) as client:
            problem_of(client.post("/v1/predict", content=PNG), 503, "took-too-long")
        new = [thread for thread in threading.enumerate() if thread not in others]
        stuck = [thread for thread in new if thread.name.startswith("work-")]
        assert [t.daemon for t in stuck] == [True]
    stuck[0].join(20)


def test_the_work_of_a_request_past_its_time_goes_no_further(predictor, fixed, monkeypatch) -> None:
    predicted: list[str] = []
    plain = Predictor.predict_detected

    def predict(self: Predictor, *values: object, source: str) -> object:
        predicted.append(source)
        return plain(self, *values, source=source)  # type: ignore[arg-type]

    monkeypatch.setattr(Predictor, "predict_detected", predict)
    with started(predictor, Limits(seconds=0.2)) as client:
        with closed(fixed):
            late = client.post("/v1/predict?source=late", content=PNG)
            problem_of(late, 503, "took-too-long")
        # The one thread has ended the first before it takes the second.
        client.post("/v1/predict?source=second", content=PNG)
    assert predicted == ["second"]


def test_a_large_image_waits_for_room_while_a_small_one_passes(predictor, fixed) -> None:
    limits = Limits(pixels=640 * 360, pixels_at_once=640 * 360 + 2 * 50 * 50)
    small = encoded(PHOTO[:50, :50])
    app = create_app(predictor, limits, threads=2)
    with TestClient(app) as client, ThreadPoolExecutor(2) as pool:
        with closed(fixed):
            taken = [pool.submit(client.post, "/v1/predict", content=PNG)]
            assert fixed.begun.acquire(timeout=10)
            taken.append(pool.submit(client.post, "/v1/predict", content=PNG))
            for _ in range(1000):
                if "images_waiting 1.0" in client.get("/metrics").text:
                    break
            # As a crop it needs no detector, so it does not wait at the gate.
            assert client.post("/v1/predict?crops=true", content=small).status_code == 200
            assert not fixed.begun.acquire(blocking=False)  # the second is not decoded yet
            assert "images_waiting 1.0" in client.get("/metrics").text
        assert [future.result(20).status_code for future in taken] == [200, 200]


def test_several_images_are_taken_all_or_none(predictor, fixed) -> None:
    with started(predictor, Limits(waiting=3, files=3)) as client, ThreadPoolExecutor(2) as pool:
        fixed.gate.clear()
        while fixed.begun.acquire(blocking=False):
            pass
        try:
            taken = [pool.submit(client.post, "/v1/predict", **form(*[("a", PNG, "")] * 3))]
            assert fixed.begun.acquire(timeout=10)
            reply = client.post("/v1/predict", **form(*[("a", PNG, "")] * 2))
            problem_of(reply, 503, "busy")
            taken.append(pool.submit(client.post, "/v1/predict", content=PNG))  # one more has room
        finally:
            fixed.gate.set()
        assert [future.result(20).status_code for future in taken] == [200, 200]


def test_an_answer_that_takes_too_long_is_given_up(predictor, fixed) -> None:
    with started(predictor, Limits(seconds=0.3)) as client:
        fixed.gate.clear()
        try:
            reply = client.post("/v1/predict", content=PNG)
        finally:
            fixed.gate.set()
        problem_of(reply, 503, "took-too-long")
        assert reply.headers["retry-after"] == "1"
        assert client.post("/v1/predict", content=PNG).status_code == 200


def test_too_many_requests_at_once_are_refused(predictor, fixed) -> None:
    with started(predictor, Limits(requests=1)) as client, ThreadPoolExecutor(1) as pool:
        fixed.gate.clear()
        while fixed.begun.acquire(blocking=False):
            pass
        try:
            taken = pool.submit(client.post, "/v1/predict", content=PNG)
            assert fixed.begun.acquire(timeout=10)
            problem_of(client.post("/v1/predict", content=PNG), 503, "busy")
        finally:
            fixed.gate.set()
        assert taken.result(20).status_code == 200


def test_the_memory_of_all_bodies_is_limited(predictor, fixed) -> None:
    limits = Limits(body_bytes=len(PNG), memory_bytes=len(PNG) + 10)
    with started(predictor, limits) as client, ThreadPoolExecutor(1) as pool:
        fixed.gate.clear()
        while fixed.begun.acquire(blocking=False):
            pass
        try:
            taken = pool.submit(client.post, "/v1/predict", content=PNG)
            assert fixed.begun.acquire(timeout=10)
            reply = client.post("/v1/predict", content=PNG)
            assert "uploads are under way" in problem_of(reply, 503, "busy")["detail"]
        finally:
            fixed.gate.set()
        assert taken.result(20).status_code == 200
        assert client.post("/v1/predict", content=PNG).status_code == 200


def test_the_image_of_a_client_that_disconnected_is_dropped(predictor, fixed) -> None:
    app = create_app(predictor, threads=1)
    seen: list[str] = []

    async def ask(*, stays: bool) -> list[dict[str, object]]:
        sent: list[dict[str, object]] = []
        messages = [{"type": "http.request", "body": PNG, "more_body": False}]

        async def receive() -> dict[str, object]:
            if messages:
                return messages.pop()
            if stays:
                await asyncio.Event().wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/predict", "raw_path": b"/v1/predict",
                 "query_string": b"", "headers": [], "scheme": "http", "server": ("x", 1),
                 "client": ("y", 2), "root_path": "", "http_version": "1.1"}  # fmt: skip
        await app(scope, receive, send)
        return sent

    async def story() -> None:
        async with app.router.lifespan_context(app):
            while fixed.begun.acquire(blocking=False):
                pass
            fixed.gate.clear()
            try:
                first = asyncio.create_task(ask(stays=True))
                await asyncio.to_thread(fixed.begun.acquire, timeout=10)
                await ask(stays=False)
                seen.append("gone")
            finally:
                fixed.gate.set()
            assert (await first)[0]["status"] == 200
        assert not fixed.begun.acquire(blocking=False)  # no thread took the second image

    asyncio.run(story())
    assert seen == ["gone"]


# Labels


def test_labels_are_converted(client) -> None:
    content = b"image,chin_x,chin_y\na.png,3,4\n"
    files = [("files", ("day/mine.csv", content))]
    reply = client.post("/v1/convert?to=pts", files=files, data={"images": '{"a.png": [8, 8]}'})
    assert reply.status_code == 200
    body = reply.json()
    assert body["files"].keys() == {"a.pts"}
    assert body["read"][0] == "day/mine.csv (csv): 1 image, 1 face, 1 keypoint"
    problem = problem_of(client.post("/v1/convert?to=xls", files=files), 422, "bad-parameter")
    assert "'coco'" in str(problem["detail"])


@pytest.mark.parametrize(
    ("request_", "status", "kind", "word"),
    [
        ({"content": b"image"}, 400, "bad-request", "form"),
        ({"files": [("images", ("a", b"{}"))]}, 400, "bad-request", "No labels came"),
        ({"files": [("labels", ("a", b""))]}, 400, "bad-request", "'labels'"),
        ({"files": [("files", ("a", b"")), ("images", ("a", b"[1]"))]}, 422, "bad-parameter", "images"),
        ({"files": [("files", ("a.csv", b"a,b\n1,2\n"))]}, 422, "bad-labels", "a.csv holds no labels"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_converted_are_refused(
    client, request_: dict[str, object], status: int, kind: str, word: str
) -> None:
    assert word in str(problem_of(client.post("/v1/convert", **request_), status, kind)["detail"])


# Privacy and access


def test_nothing_is_written_to_disk_or_logged(client, monkeypatch, caplog, tmp_path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    rng = np.random.default_rng(0)
    noise = encoded(
        rng.integers(0, 255, (900, 900, 3), np.uint8)
    )  # Starlette alone would write it to disk, from 1 MB on
    assert len(noise) > 2_000_000
    reply = client.post("/v1/predict", **form(("secret.png", noise, "image/png")))
    assert reply.status_code == 200
    assert "secret" not in caplog.text


def test_the_token_guards_images_models_and_counts(predictor) -> None:
    with started(predictor, access=Access(token="s3cret")) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic s3cret"}):
            for path in ("/v1/predict", "/v1/models", "/metrics", "/v1/models/default.onnx"):
                method = "POST" if path == "/v1/predict" else "GET"
                reply = client.request(method, path, headers=headers)
                problem_of(reply, 401, "not-authorized")
                assert reply.headers["www-authenticate"] == "Bearer"
        good = {"authorization": "Bearer s3cret"}
        assert client.post("/v1/predict", content=PNG, headers=good).status_code == 200
        assert client.get("/healthz").status_code == 200
        assert client.get("/docs").status_code == 200
        assert client.get("/openapi.json").json()["security"] == [{"token": []}]


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:9", 200), ("faces.example.org", 200),
     ("LocalHost.:80", 200), ("[::1]", 200), ("localhost:", 200), ("Faces.example.org:8000", 200), ("", 200),
     ("evil.example", 421), ("localhost.evil.example:8000", 421), ("::1", 421), ("[evil.example]", 421),
     ("evil.example@localhost", 421)],
)  # fmt: skip
def test_other_host_names_are_refused(predictor, host: str, status: int) -> None:
    access = Access(hosts=("faces.example.org",))
    with started(predictor, access=access) as client:
        reply = client.get("/healthz", headers={"host": host})
        assert reply.status_code == status
        if status == 421:
            problem_of(reply, 421, "unknown-host")


def test_pages_of_other_origins_are_refused(client, predictor) -> None:
    own = {"origin": "http://testserver"}
    assert client.post("/v1/predict", content=PNG, headers=own).status_code == 200
    for origin in ("https://evil.example", "null"):
        reply = client.post("/v1/predict", content=PNG, headers={"origin": origin})
        problem_of(reply, 403, "foreign-page")
        assert "access-control-allow-origin" not in reply.headers
    friend = {"origin": "https://friend.example"}
    with started(predictor, access=Access(origins=("https://friend.example",))) as other:
        reply = other.post("/v1/predict", content=PNG, headers=friend)
        assert reply.headers["access-control-allow-origin"] == "https://friend.example"
        ask_first = friend | {
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization",
        }
        assert other.options("/v1/predict", headers=ask_first).status_code == 200
        reply = other.post("/v1/predict", content=PNG, headers={"origin": "https://evil.example"})
        problem_of(reply, 403, "foreign-page")


def test_an_internal_error_reveals_nothing_of_the_image(predictor, monkeypatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a.png")

    app = create_app(predictor, threads=1)
    with TestClient(app, raise_server_exceptions=False) as client:
        with monkeypatch.context() as patched:
            patched.setattr(Predictor, "predict_detected", broken)
            reply = client.post("/v1/predict", content=PNG)
        assert reply.status_code == 500
        assert reply.headers["content-type"] == "application/problem+json"
        assert "a.png" not in reply.text
        assert client.post("/v1/predict", content=PNG).status_code == 200
