"""The OpenAPI description against what the service does, by schemathesis."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest

pytest.importorskip("fastapi")
jsonschema_rs = pytest.importorskip("jsonschema_rs")
schemathesis = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, settings
from PIL import Image
from starlette.testclient import TestClient

from facial_keypoints import load_predictor
from facial_keypoints.data.synthetic.scenes import draw_scene
from facial_keypoints.models.registry import shipped_models
from facial_keypoints.service import create_app

PHOTO = io.BytesIO()
Image.fromarray(draw_scene(1, seed=3, image_size=(160, 160))[0]).save(PHOTO, "PNG")

app = create_app(
    load_predictor(threads=1), threads=1, files={"default": shipped_models()["default"]}
)
document = app.openapi()
OPERATIONS = [
    (method.upper(), path, operation)
    for path, methods in document["paths"].items()
    for method, operation in methods.items()
]
QUESTIONS = [(path, operation) for method, path, operation in OPERATIONS if method == "POST"]
schema = schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.filterwarnings("ignore:::PIL")
@schema.parametrize()
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_replies_to_anything_are_as_described(case) -> None:
    # Well-formed requests with random bodies are refused for what they hold: they are no images.
    case.call_and_validate(excluded_checks=[schemathesis.checks.positive_data_acceptance])


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/measure?ipd_mm=63", "/v1/align"])
def test_replies_to_images_are_as_described(path: str) -> None:
    operation = schema[path.partition("?")[0]]["POST"]
    boxes = {"boxes": "[[20, 20, 140, 140]]"}
    with TestClient(app) as client:
        for options in (
            {"content": PHOTO.getvalue()},
            {"files": {"files": ("a", PHOTO.getvalue(), "")}, "data": boxes},
            {"files": [("files", ("a", PHOTO.getvalue(), "")), ("files", ("b", b"b", ""))]},
        ):
            reply = client.post(path, **options)
            assert reply.status_code == 200
            operation.validate_response(reply)


def validate(value: Any, by: dict[str, Any]) -> None:
    """Check a value against a schema of the document."""
    whole = {**by, "components": document["components"]}
    jsonschema_rs.Draft202012Validator(whole).validate(value)


def test_every_operation_has_a_readable_id_and_examples_that_fit() -> None:
    assert all(operation["operationId"].isidentifier() for _, _, operation in OPERATIONS)
    for _, path, operation in OPERATIONS:
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for kind, media in [each for body in bodies for each in body.get("content", {}).items()]:
            binary = media["schema"].get("format") == "binary"
            assert binary or "example" in media, (path, kind)
            if "example" in media:
                validate(media["example"], media["schema"])
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "path":
                assert parameter["schema"]["examples"]


def test_every_body_and_reply_in_json_or_a_form_has_a_named_schema() -> None:
    named = set()
    for _, path, operation in OPERATIONS:
        assert "application/problem+json" in operation["responses"]["default"]["content"], path
        for each in [operation.get("requestBody", {}), *operation["responses"].values()]:
            for kind, media in each.get("content", {}).items():
                if kind.endswith("json") or kind.startswith("multipart"):
                    named.add(media["schema"]["$ref"].rpartition("/")[2])
    assert named == {
        "PredictReply", "MeasureReply", "ModelsReply", "Health", "Problem", "ImagesForm",
        "QuestionBody", "MeasureQuestionBody", "AlignQuestionBody", "LabelsForm", "LabelsReply",
    }  # fmt: skip
    assert named < set(document["components"]["schemas"])


@pytest.mark.parametrize(("path", "operation"), QUESTIONS, ids=[path for path, _ in QUESTIONS])
def test_examples_of_bodies_are_answered(path: str, operation: dict[str, Any]) -> None:
    with TestClient(app) as client:
        for kind, media in operation["requestBody"]["content"].items():
            example = copy.copy(media["example"])
            if kind == "application/json":
                reply = client.post(path, json=example)
            elif kind == "multipart/form-data":
                name = "labels.csv" if path == "/v1/convert" else "ramp.pgm"
                files = [("files", (name, text.encode())) for text in example.pop("files")]
                reply = client.post(path, files=files, data=example)
            else:
                declared = kind.replace("*", "x-portable-graymap")
                headers = {"content-type": declared}
                reply = client.post(path, content=example.encode(), headers=headers)
            assert reply.status_code == 200, (kind, reply.text)
            if reply.headers["content-type"] == "application/json":
                validate(
                    reply.json(),
                    operation["responses"]["200"]["content"]["application/json"]["schema"],
                )


@pytest.mark.parametrize("path", [path for method, path, _ in OPERATIONS if method == "GET"])
def test_what_is_fetched_is_as_described(path: str) -> None:
    with TestClient(app) as client:
        reply = client.get(path.replace("{name}", "default"))
        assert reply.status_code == 200
        schema[path]["GET"].validate_response(reply)
        media = document["paths"][path]["get"]["responses"]["200"]["content"]
        if "application/json" in media:
            validate(reply.json(), media["application/json"]["schema"])
            assert reply.json().keys() == media["application/json"]["example"].keys()
