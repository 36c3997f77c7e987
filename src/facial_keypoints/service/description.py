"""The OpenAPI description, and the page that shows it, without scripts or remote files."""

from __future__ import annotations

import base64
import copy
from collections.abc import Iterable
from dataclasses import asdict
from html import escape
from typing import Any

from pydantic import BaseModel

from facial_keypoints.inference.measure.measures import NOTICE
from facial_keypoints.inference.measure.table import NUM_OTHERS
from facial_keypoints.io.tables import columns
from facial_keypoints.models.spec import ModelSpec
from facial_keypoints.service.limits import Limits
from facial_keypoints.service.problems import KINDS
from facial_keypoints.service.uploads import ImageData

__all__ = [
    "LABELS_BODY", "LABELS_REPLY", "PROBLEMS", "body", "components", "docs_page", "images_reply", "json_reply",
]  # fmt: skip

_NUMBER = {"type": ["number", "null"]}
_INTEGER = {"type": "integer"}
_TEXT = {"type": "string"}
_TEXTS = {"source": _TEXT}
_BINARY = {"type": "string", "format": "binary"}

IMAGE = "P2\n8 8\n255\n" + "0 32 64 96 128 160 192 224\n" * 8
"""A whole image (PGM) that is text, so that the examples can be sent as they are."""

_PROBLEM = {
    "type": "urn:facial-keypoints:bad-image",
    "title": KINDS["bad-image"][1],
    "status": KINDS["bad-image"][0],
    "detail": "notes.jpg: not an image in a known format.",
}
_WARNING = "party.jpg: declared as image/png, but read as JPEG, which its content is."

PROBLEMS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem (RFC 9457) with a sentence in `detail`.",
        "content": {
            "application/problem+json": {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "example": _PROBLEM,
            }
        },
    }
}

_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["files"],
    "additionalProperties": False,
    "properties": {
        "files": {
            "type": "array",
            "minItems": 1,
            "items": _BINARY,
            "description": "Images, each with its file name.",
        },
        "boxes": {
            "type": "string",
            "description": "For a single image: JSON array with the box "
            "[x0, y0, x1, y1] of each face in pixels; no detector runs.",
        },
    },
}

_LABELS_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["files"],
    "additionalProperties": False,
    "properties": {
        "files": {
            "type": "array",
            "minItems": 1,
            "items": _BINARY,
            "description": "Labels, each file with its name or its path in the folder of a tool.",
        },
        "images": {
            "type": "string",
            "description": "JSON object of the [width, height] of each upright image, by its name.",
        },
        "schema": {
            "type": "string",
            "description": "The keypoints, as JSON that `--schema` takes.",
        },
    },
}

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One image file; or a form, or JSON, with one or more.",
        "content": {
            "multipart/form-data": {
                "schema": {"$ref": "#/components/schemas/ImagesForm"},
                "example": {"files": [IMAGE], "boxes": "[[1, 1, 7, 7]]"},
            },
            "image/*": {"schema": _BINARY, "example": IMAGE},
            "application/octet-stream": {"schema": _BINARY, "example": IMAGE},
        },
    }
}


_LABELS = "image,chin_x,chin_y\na.png,120.5,110.25\n"

LABELS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The files of the labels, in a form.",
        "content": {
            "multipart/form-data": {
                "schema": {"$ref": "#/components/schemas/LabelsForm"},
                "example": {"files": [_LABELS], "images": '{"a.png": [640, 360]}'},
            }
        },
    }
}
"""The body of a request to convert labels."""


def body(model: type[BaseModel]) -> dict[str, Any]:
    """The bodies that an operation takes; ``model`` is the JSON one, an image and its parameters."""
    value = copy.deepcopy(_BODY)
    data = base64.b64encode(IMAGE.encode()).decode()
    value["requestBody"]["content"]["application/json"] = {
        "schema": _ref(model.__name__),
        "example": {"images": [{"source": "ramp.pgm", "data": data}], "crops": True},
    }
    return value


def json_reply(name: str, example: Any, about: str) -> dict[int | str, dict[str, Any]]:
    """A reply in JSON.

    Args:
        name: Name of its schema, one of :func:`components`.
        example: An example of it.
        about: What it holds.
    """
    content = {"application/json": {"schema": _ref(name), "example": example}}
    return {200: {"description": about, "content": content}}


def images_reply(spec: ModelSpec, measured: bool) -> dict[int | str, dict[str, Any]]:
    """The reply that lists images with their faces, as points or ``measured``."""
    names = columns(spec.schema)
    box = {"x0": 40.5, "y0": 30.25, "x1": 200.5, "y1": 190.25, "score": 0.9312, "angle": -1.2}
    face: dict[str, Any] = {"source": "party.jpg", "face": 0, **box}
    if measured:
        more = {"notice": NOTICE, "units": {"mouth_width": "ratio"}}
        face |= {"mouth_width": 0.82232, "mouth_width_sigma": 0.11591, "warnings": ""}
    else:
        more = {}
        point = {"x": 120.5, "y": 110.25, "confidence": 0.9731}
        face |= {name: point[name.rpartition("_")[2]] for name in names[NUM_OTHERS:]}
        face["keypoints"] = {name: [*point.values()] for name in spec.schema.keypoint_names}
    image = {
        "source": "party.jpg",
        "width": 640,
        "height": 360,
        "faces": [face],
        "smallest_face": 17.1,
    }
    failed = {"source": "notes.jpg", "problem": {**_PROBLEM, "source": "notes.jpg"}}
    example = {
        "model": "default",
        "style": spec.styles[0],
        **more,
        "images": [{**image, "warnings": [_WARNING]}, failed],
    }
    name = "MeasureReply" if measured else "PredictReply"
    return json_reply(name, example, "One entry per image, in order.")


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


LABELS_REPLY = json_reply(
    "LabelsReply",
    {
        "schema": {"name": "labels", "keypoints": ["chin"], "pairs": [], "edges": []},
        "files": {"faces.csv": _LABELS},
        "read": ["labels.csv (csv): 1 image, 1 face, 1 keypoint"],
        "lost": [],
    },
    "The labels, and what was not taken over.",
)
"""The reply to a request to convert labels."""


def _object(
    description: str, members: dict[str, Any], optional: Iterable[str] = ()
) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "required": [name for name in members if name not in optional],
        "properties": members,
    }


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def components(
    spec: ModelSpec, limits: Limits, bodies: Iterable[type[BaseModel]]
) -> dict[str, Any]:
    """Schemas that the paths refer to.

    Args:
        spec: The model.
        limits: The limits of the service.
        bodies: The JSON bodies that its operations take.
    """
    names = columns(spec.schema)
    number = {name: _TEXTS.get(name, _NUMBER) for name in names} | {"face": _INTEGER}
    point = {**_list(_NUMBER), "minItems": 3, "maxItems": 3}
    points = _object(
        "The same points, each as [x, y, confidence].",
        dict.fromkeys(spec.schema.keypoint_names, point),
    )
    warnings = {
        **_list(_TEXT),
        "description": "What was left out or differs, such as further pages or another type than "
        "declared; missing if nothing was.",
    }

    smallest = {
        **_NUMBER,
        "description": "Side in pixels of the smallest face that was looked for; missing if no detector ran.",
    }

    def image(face: str) -> dict[str, Any]:
        size = {"width": _INTEGER, "height": _INTEGER}
        members = {
            "source": _TEXT,
            **size,
            "faces": _list(_ref(face)),
            "warnings": warnings,
            "smallest_face": smallest,
        }
        about = "An image that was answered; `width` and `height` are pixels, upright as EXIF says."
        return _object(about, members, optional=["warnings", "smallest_face"])

    def reply(image: str, **more: dict[str, Any]) -> dict[str, Any]:
        images = _list({"anyOf": [_ref(image), _ref("FailedImage")]})
        about = "One entry per image, in order; `style` is the label style of the keypoints."
        return _object(about, {"model": _TEXT, "style": _TEXT, **more, "images": images})

    file = {"file": {"type": ["string", "null"]}, "bytes": {"type": ["integer", "null"]}}
    pair = {**_list(_INTEGER), "minItems": 2, "maxItems": 2}
    schema = {
        "name": _TEXT, "keypoint_names": _list(_TEXT), "swap": _list(_INTEGER), "norm_pair": _list(_TEXT),
        "edges": _list(pair), "styles": _list(_TEXT),
    }  # fmt: skip
    model = {
        "name": _TEXT, "recipe": _TEXT, "schema": _ref("Keypoints"), "style": _TEXT, "styles": _list(_TEXT),
        "effort": _TEXT, "input_size": pair, "channels": _INTEGER, "data_digest": _TEXT, "confidence": _TEXT,
        "output": _TEXT, "crop_scale": _NUMBER, "version": _TEXT, "measures": {"type": "boolean"}, "aligns": {"type": "boolean"}, **file,
    }  # fmt: skip
    kinds = ", ".join(
        f"urn:facial-keypoints:{kind} ({status})" for kind, (status, _) in KINDS.items()
    )
    values = {
        "Face": _object(
            "A face as `facial-keypoints predict` writes it: box, score, angle and points in pixels of the "
            "upright image; null if not known.",
            number | {"keypoints": points},
        ),
        "MeasuredFace": {
            **_object(
                f"A face as `facial-keypoints measure` writes it. {NOTICE}",
                {name: number[name] for name in names[:NUM_OTHERS]} | {"warnings": _TEXT},
            ),
            "additionalProperties": _NUMBER,
        },
        "Image": image("Face"),
        "MeasuredImage": image("MeasuredFace"),
        "FailedImage": _object(
            "An image that could not be answered.", {"source": _TEXT, "problem": _ref("Problem")}
        ),
        "PredictReply": reply("Image"),
        "MeasureReply": reply(
            "MeasuredImage", notice=_TEXT, units={"type": "object", "additionalProperties": _TEXT}
        ),
        "Keypoints": _object(
            "The keypoints of a model: `swap` has the left/right partner of each, `edges` are for drawing.",
            schema,
        ),
        "Model": _object("A model; `file` is the path of its ONNX file, null if not served.", model),
        "File": _object("The path of an ONNX file, and its size.", file),
        "Limits": _object("The limits of the service.", dict.fromkeys(asdict(limits), _NUMBER)),
        "ModelsReply": _object(
            "What the service computes with; `detector` is null if its file is not served.",
            {
                "models": _list(_ref("Model")),
                "detector": {"anyOf": [_ref("File"), {"type": "null"}]},
                "limits": _ref("Limits"),
            },
        ),
        "Health": _object("The state of the service.", {"status": _TEXT}),
        "ImagesForm": {**_FORM, "description": "A form with images."},
        "LabelsForm": {**_LABELS_FORM, "description": "A form with files of labels."},
        "LabelsReply": _object(
            "Labels that were converted: `schema` is what `--schema` takes, `files` has the text of each file by its "
            "path, `read` and `lost` have sentences.",
            {
                "schema": {"type": "object"},
                "files": {"type": "object", "additionalProperties": _TEXT},
                "read": _list(_TEXT),
                "lost": _list(_TEXT),
            },
        ),
        "ImageData": {
            **ImageData.model_json_schema(),
            "description": "An image inside a JSON body.",
        },
        "Problem": _object(
            f"RFC 9457. Types: {kinds}; about:blank where the status explains everything.",
            {
                "type": _TEXT,
                "title": _TEXT,
                "status": _INTEGER,
                "detail": {**_TEXT, "description": "A sentence for people."},
                "source": {**_TEXT, "description": "Name of the image."},
            },
            optional=["source"],
        ),
    }  # fmt: skip
    for each in bodies:
        value = each.model_json_schema(ref_template="#/components/schemas/{model}")
        del value["$defs"]  # ImageData, above
        values[each.__name__] = {**value, "description": "Images, and the parameters beside them."}
    return values


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
                name = body["content"]["multipart/form-data"]["schema"]["$ref"].rpartition("/")[2]
                form = openapi["components"]["schemas"][name]["properties"]
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
