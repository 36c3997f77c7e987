"""The OpenAPI description against what the service does, by schemathesis."""

from __future__ import annotations

import io

import pytest

pytest.importorskip("fastapi")
schemathesis = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, settings
from PIL import Image
from starlette.testclient import TestClient

from facial_keypoints import load_predictor
from facial_keypoints.data.synthetic.scenes import draw_scene
from facial_keypoints.service import create_app

PHOTO = io.BytesIO()
Image.fromarray(draw_scene(1, seed=3, image_size=(160, 160))[0]).save(PHOTO, "PNG")

app = create_app(load_predictor(threads=1), threads=1)
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
