"""Label Studio's json: tasks with keypoints in percent of the image, or its short form "JSON-MIN".

0 and 100 % are the image's edges. Of an image that was rotated in the tool, the percentages are of the rotated image.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit
from xml.sax.saxutils import quoteattr

from facial_keypoints.data.formats.common import (
    Face,
    Labels,
    Mark,
    gather,
    is_occluded,
    rotated_box,
)
from facial_keypoints.data.formats.finding import ImageFinder
from facial_keypoints.errors import DataError
from facial_keypoints.files import write_json, write_text
from facial_keypoints.io.images import IMAGE_SUFFIXES
from facial_keypoints.io.tables import read_text

__all__ = ["HOLDS", "SUFFIXES", "is_ours", "read", "write"]

SUFFIXES = (".json",)
HOLDS = frozenset({"several faces", "points outside", "occluded", "boxes", "facts"})
_HALF = 0.5
_LOCAL = "/data/local-files/?d="
_KEYPOINTS = ("keypointlabels", "keypoint")
_BOXES = ("rectanglelabels", "rectangle")
_FACE = re.compile("face [0-9]+")  # how this package joins points of one face


def is_ours(path: Path, content: bytes) -> bool:
    """Whether a json file is Label Studio's."""
    return b'"keypoint' in content and (b'"result"' in content or b'"original_width"' in content)


def read(path: Path, find: ImageFinder) -> Labels:
    """Read the tasks. Of several annotations of one task, the last that was not cancelled is taken.

    Points are joined to a face by their parent region, a relation, or the box around them.

    Raises:
        DataError: It is no such file.
    """
    left_out: Counter[str] = Counter()
    notes: list[str] = []
    faces: list[Face] = []
    images: dict[str, tuple[int, int] | None] = {}
    predicted = 0
    try:
        content = json.loads(read_text(path))
        for task in [content] if isinstance(content, dict) else content:
            data = task.get("data", task)
            name = _image_of(data)
            results, is_prediction = _results(task, left_out)
            predicted += is_prediction
            size = next(
                (
                    (int(r["original_width"]), int(r["original_height"]))
                    for r in results
                    if r.get("original_width")
                ),
                find.size(name),
            )
            images[name] = size
            about = {
                str(key): str(value)
                for key, value in data.items()
                if value != name and isinstance(value, (str, int, float)) and key not in _OWN_KEYS
            }
            if size is None and results:
                left_out["images of unknown size, since they are not found"] += 1
            elif size is not None:
                faces += gather(name, list(_marks(results, size, left_out)), left_out, about)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(
            f"{path} is no json of Label Studio ({type(error).__name__}: {error}): export as JSON."
        ) from error
    if predicted:
        notes.append(f"{predicted} tasks have no annotation: their predictions are taken")
    return Labels(path, "Label Studio", faces, images, left_out=left_out, notes=notes)


_OWN_KEYS = (
    "id",
    "annotator",
    "annotation_id",
    "created_at",
    "updated_at",
    "lead_time",
    "agreement",
)  # fmt: skip  (of JSON-MIN)


def _image_of(data: dict[str, Any]) -> str:
    texts = [value for value in data.values() if isinstance(value, str)]
    suffixed = (
        t for t in texts if PurePosixPath(urlsplit(t).path or t).suffix.lower() in IMAGE_SUFFIXES
    )
    by_query = (t for t in texts if PurePosixPath(t).suffix.lower() in IMAGE_SUFFIXES)
    found = next(suffixed, None) or next(by_query, None) or data.get("image")
    if not isinstance(found, str):
        raise ValueError("a task names no image")
    return found


def _results(task: dict[str, Any], left_out: Counter[str]) -> tuple[list[dict[str, Any]], bool]:
    """The regions of a task, and whether they are a prediction."""
    if "data" not in task:  # JSON-MIN has lists of bare values under the names of the controls
        bare = [
            v
            for value in task.values()
            if isinstance(value, list)
            for v in value
            if isinstance(v, dict)
        ]
        return [
            {**v, "value": v, "type": next((k for k in (*_KEYPOINTS, *_BOXES) if k in v), "")}
            for v in bare
        ], False
    made = task.get("annotations", task.get("completions")) or []
    valid = [
        a for a in made if isinstance(a, dict) and a.get("result") and not a.get("was_cancelled")
    ]
    if len(made) > 1:
        left_out["further annotations of a task that has several"] += len(made) - 1
    if valid:
        chosen = next((a for a in valid if a.get("ground_truth")), valid[-1])
        return list(chosen["result"]), False
    predictions = [
        p for p in task.get("predictions") or [] if isinstance(p, dict) and p.get("result")
    ]
    if predictions:
        return list(predictions[-1]["result"]), True
    return [], False


def _marks(
    results: list[dict[str, Any]], size: tuple[int, int], left_out: Counter[str]
) -> Iterator[Mark]:
    """The points and boxes of one image in its pixels."""
    names = {r["id"]: _label(r) for r in results if "id" in r and _label(r)}
    occluded = {r.get("id") for r in results if r.get("type") == "choices" and any(
        map(is_occluded, r["value"].get("choices", ()))
    )}  # fmt: skip
    joined: dict[Any, Any] = {}
    for result in results:
        if result.get("type") == "relation":
            joined[_end(joined, result["from_id"])] = _end(joined, result["to_id"])
    seen = set()
    for result in results:
        kind, value, key = result.get("type"), result.get("value") or {}, result.get("id")
        if kind in ("relation", "choices", "labels") or (key is not None and (key, kind) in seen):
            continue
        seen.add((key, kind))
        told = [str(text) for text in (result.get("meta") or {}).get("text", ())]
        group = result.get("parentID") or next(filter(_FACE.fullmatch, told), None)
        if key in joined or key in joined.values():
            group = str(_end(joined, key))
        about = dict(text.split("=", 1) for text in told if "=" in text)
        name = _label(result) or names.get(key, "")
        width, height = size
        turn = int(result.get("image_rotation") or 0) % 360
        if turn in (90, 270):
            width, height = height, width
        if kind in _KEYPOINTS:
            x, y = (float(value[axis]) / 100 * side for axis, side in (("x", width), ("y", height)))
            x, y = _unturned(x, y, turn, size)
            hidden = key in occluded or any(map(is_occluded, told))
            yield Mark(
                name, point=(x - _HALF, y - _HALF, 1 if hidden else 2), group=group, about=about
            )
        elif kind in _BOXES:
            x, w = (float(value[k]) / 100 * width for k in ("x", "width"))
            y, h = (float(value[k]) / 100 * height for k in ("y", "height"))
            x0, y0, x1, y1 = rotated_box(x, y, w, h, float(value.get("rotation") or 0))
            corners = [_unturned(*corner, turn, size) for corner in ((x0, y0), (x1, y1))]
            xs, ys = zip(*corners, strict=True)
            yield Mark(name, box=(min(xs), min(ys), max(xs), max(ys)), group=key)
        else:
            left_out[f"regions that are no points: {kind}"] += 1


def _end(joined: dict[Any, Any], key: Any) -> Any:
    """The last region that a chain of relations leads to."""
    while key in joined and joined[key] != key:
        key = joined[key]
    return key


def _label(result: dict[str, Any]) -> str:
    value = result.get("value") or {}
    for key in (*_KEYPOINTS, "labels", *_BOXES):
        if isinstance(value.get(key), list) and value[key]:
            return str(value[key][0])
    return ""


def _unturned(x: float, y: float, turn: int, size: tuple[int, int]) -> tuple[float, float]:
    """A place in the image as it is stored, from one in the image as it was rotated clockwise."""
    width, height = size
    return {
        0: (x, y), 90: (y, height - x), 180: (width - x, height - y), 270: (width - y, x)
    }.get(turn, (x, y))  # fmt: skip


def write(labels: Labels, folder: Path) -> None:
    """Write ``predictions.json``, tasks whose faces can be corrected in the tool, and the project's ``config.xml``.

    Images count from the folder that Label Studio serves as local files.
    """
    tasks: dict[str, Any] = {
        name: {
            "data": {"image": _LOCAL + name},
            "predictions": [{"model_version": "facial-keypoints", "result": []}],
        }
        for name in labels.images
    }
    numbers: Counter[str] = Counter()
    kind = next((face.kind for face in labels.faces if face.kind), "face")
    for number, face in enumerate(labels.faces, start=1):
        size = labels.images[face.image]
        if size is None:
            raise DataError(
                f"the size of {face.image} is not known, and Label Studio needs it: add the image."
            )
        width, height = size
        numbers[face.image] += 1
        told = [f"face {numbers[face.image]}", *(f"{k}={v}" for k, v in face.about.items())]
        common = {
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
        }
        result = tasks[face.image]["predictions"][0]["result"]
        if face.box:
            x0, y0, x1, y1 = face.box
            value = {
                "x": 100 * x0 / width, "y": 100 * y0 / height, "width": 100 * (x1 - x0) / width,
                "height": 100 * (y1 - y0) / height, "rotation": 0, "rectanglelabels": [kind],
            }  # fmt: skip
            result.append({
                **common, "id": f"face{number}", "type": "rectanglelabels", "from_name": "box", "value": value,
                "meta": {"text": told},
            })  # fmt: skip
        for i, (name, (x, y, visible)) in enumerate(face.points.items()):
            value = {
                "x": 100 * (x + _HALF) / width, "y": 100 * (y + _HALF) / height, "width": 0.5,
                "keypointlabels": [name],
            }  # fmt: skip
            result.append({
                **common, "id": f"face{number}_{i}", "type": "keypointlabels", "from_name": "keypoint",
                "value": value, "meta": {"text": told + ["occluded"] * (visible == 1)},
                **({"parentID": f"face{number}"} if face.box else {}),
            })  # fmt: skip
    write_json(folder / "predictions.json", list(tasks.values()))
    points = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in labels.names)
    write_text(
        folder / "config.xml",
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <RectangleLabels name="box" toName="image">\n    <Label value={quoteattr(kind)}/>\n  </RectangleLabels>\n'
        f'  <KeyPointLabels name="keypoint" toName="image">\n{points}  </KeyPointLabels>\n</View>\n',
    )
