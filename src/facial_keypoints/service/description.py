"""The OpenAPI description, and the page that shows it, without scripts or remote files."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from html import escape
from typing import Any

from pydantic import BaseModel

from facial_keypoints.inference.measure.measures import NOTICE
from facial_keypoints.inference.measure.table import NUM_OTHERS
from facial_keypoints.io.tables import columns
from facial_keypoints.models.spec import ModelSpec
from facial_keypoints.service.problems import KINDS
from facial_keypoints.service.uploads import ImageData

__all__ = ["PROBLEMS", "body", "components", "docs_page", "images_reply"]

_NUMBER = {"type": ["number", "null"]}
_TEXTS = {"source": {"type": "string"}, "warnings": {"type": "string"}}

PROBLEMS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem (RFC 9457) with a sentence in `detail`.",
        "content": {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
        },
    }
}

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One image file; or a form, or JSON, with one or more.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "additionalProperties": False,
                    "properties": {
                        "files": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "format": "binary"},
                            "description": "Images, each with its file name.",
                        },
                        "boxes": {
                            "type": "string",
                            "description": "For a single image: JSON array with the box "
                            "[x0, y0, x1, y1] of each face in pixels; no detector runs.",
                        },
                    },
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def body(model: type[BaseModel]) -> dict[str, Any]:
    """The bodies that an operation takes; ``model`` is the JSON one, an image and its parameters."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs")  # in the components
    value = copy.deepcopy(_BODY)
    value["requestBody"]["content"]["application/json"] = {
        "schema": schema,
        "example": {"images": [{"source": "party.jpg", "data": "/9j/4AAQSkZJRg=="}]},
    }
    return value


def images_reply(row: str, **more: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """The reply that lists images with their faces.

    Args:
        row: Name of the schema of a face.
        more: Schemas of further members.
    """
    image = {
        "type": "object",
        "required": ["source", "width", "height", "faces"],
        "properties": {
            "source": {"type": "string", "description": "Name of the image."},
            "width": {"type": "integer", "description": "Pixels, upright as EXIF says."},
            "height": {"type": "integer"},
            "faces": {"type": "array", "items": {"$ref": f"#/components/schemas/{row}"}},
            "warnings": {
                "type": "array",
                "items": {"type": "string"},
                "description": "What was left out or differs, such as further pages or another "
                "type than declared; missing if nothing was.",
            },
        },
    }
    failed = {
        "type": "object",
        "required": ["source", "problem"],
        "properties": {
            "source": {"type": "string"},
            "problem": {"$ref": "#/components/schemas/Problem"},
        },
    }
    schema = {
        "type": "object",
        "required": ["model", "style", "images", *more],
        "properties": {
            "model": {"type": "string"},
            "style": {"type": "string", "description": "Label style of the keypoints."},
            **more,
            "images": {"type": "array", "items": {"anyOf": [image, failed]}},
        },
    }
    content = {"application/json": {"schema": schema}}
    return {200: {"description": "One entry per image, in order.", "content": content}}


def components(spec: ModelSpec) -> dict[str, Any]:
    """Schemas that the paths refer to."""
    names = columns(spec.schema)
    number = {name: _TEXTS.get(name, _NUMBER) for name in names} | {"face": {"type": "integer"}}
    point = {"type": "array", "items": _NUMBER, "minItems": 3, "maxItems": 3}
    points = {
        "type": "object",
        "description": "The same points, each as [x, y, confidence].",
        "required": list(spec.schema.keypoint_names),
        "properties": dict.fromkeys(spec.schema.keypoint_names, point),
    }
    return {
        "Face": {
            "type": "object",
            "description": "A face as `facial-keypoints predict` writes it: box, score and points in "
            "pixels of the upright image; null if not known.",
            "required": [*names, "keypoints"],
            "properties": number | {"keypoints": points},
        },
        "MeasuredFace": {
            "type": "object",
            "description": f"A face as `facial-keypoints measure` writes it. {NOTICE}",
            "required": [*names[:NUM_OTHERS], "warnings"],
            "properties": {name: number[name] for name in names[:NUM_OTHERS]}
            | {"warnings": _TEXTS["warnings"]},
            "additionalProperties": _NUMBER,
        },
        "ImageData": {
            **ImageData.model_json_schema(),
            "description": "An image inside a JSON body.",
        },
        "Problem": {
            "type": "object",
            "description": "RFC 9457. Types: "
            + ", ".join(f"urn:facial-keypoints:{kind} ({status})" for kind, (status, _) in KINDS.items())
            + "; about:blank where the status explains everything.",
            "required": ["type", "title", "status", "detail"],
            "properties": {
                "type": {"type": "string"},
                "title": {"type": "string"},
                "status": {"type": "integer"},
                "detail": {"type": "string", "description": "A sentence for people."},
                "source": {"type": "string", "description": "Name of the image."},
            },
        },
    }  # fmt: skip


_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 56rem; margin: 2rem auto; padding: 0 1rem }
h2 { font-size: 1rem; margin-top: 2.5rem } code { font-size: .95em }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top;
padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8886 }
"""


def docs_page(openapi: dict[str, Any]) -> str:
    """The description as a page: every path with its parameters and replies.

    Swagger UI is not used: it fetches its script from another server, or adds a megabyte to the package.
    """
    about = openapi["info"]
    parts = [
        f"<h1>{escape(about['title'])} {escape(about['version'])}</h1>",
        f"<p>{escape(about['description'])}</p>",
        "<p>The same for programs: <a href='openapi.json'>openapi.json</a>. "
        "The page for people: <a href='./'>/</a>.</p>",
    ]
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(f"<p>{_text(operation.get('description', operation['summary']))}</p>")
            parts.append(_parameters(operation))
            body = operation.get("requestBody")
            if body:
                form = body["content"]["multipart/form-data"]["schema"]["properties"]
                fields = "".join(
                    f"<br><code>{name}</code>: {_text(field['description'])}"
                    for name, field in form.items()
                )
                parts.append(
                    f"<p>Body: {_codes(body['content'])}. {_text(body['description'])}{fields}</p>"
                )
            replies = "; ".join(
                f"{'otherwise' if code == 'default' else code}: {_text(reply['description'])}"
                + "".join(f" <code>{escape(kind)}</code>" for kind in reply.get("content", {}))
                for code, reply in operation["responses"].items()
            )
            parts.append(f"<p>Replies: {replies}</p>")
    parts.append("<h2>Objects</h2>")
    for name, schema in openapi["components"]["schemas"].items():
        members = _codes(schema["properties"])
        parts.append(f"<p><b>{name}</b>: {_text(schema['description'])} {members}</p>")
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>{escape(about['title'])}</title><style>{_STYLE}</style><body>"
        + "\n".join(parts)
        + "</body></html>"
    )


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"<code>{escape(name)}</code>" for name in names)


def _text(markdown: str) -> str:
    pieces = escape(markdown).split("`")
    return "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(pieces))


def _parameters(operation: dict[str, Any]) -> str:
    found = operation.get("parameters", [])
    if not found:
        return ""
    lines = []
    for each in found:
        schema = each["schema"]
        kinds = [schema, *schema.get("anyOf", [])]
        choices = [str(v) for kind in kinds for v in kind.get("enum", [kind.get("const")]) if v]
        default = schema.get("default")
        shown = f" Default: {str(default).lower()}." if default not in (None, "") else ""
        listed = f" One of {', '.join(choices)}." if choices else ""
        lines.append(
            f"<tr><td><code>{escape(each['name'])}</code><td>"
            f"{_text(each.get('description', ''))}{escape(listed + shown)}"
        )
    return f"<table>{''.join(lines)}</table>"
