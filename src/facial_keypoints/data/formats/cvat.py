"""CVAT's own XML, 1.1: ``annotations.xml`` of images or of a video.

CVAT counts from the image's edge, so a pixel's centre is at 0.5; this package's are integers.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from facial_keypoints.data.formats.common import (
    Box,
    Face,
    Labels,
    Mark,
    Point,
    attach_boxes,
    gather,
    numbered_face,
    rotated_box,
)
from facial_keypoints.data.formats.finding import ImageFinder
from facial_keypoints.data.formats.xml import read_xml
from facial_keypoints.errors import DataError
from facial_keypoints.files import write_text

__all__ = ["HOLDS", "SUFFIXES", "is_ours", "read", "write"]

SUFFIXES = (".xml",)
HOLDS = frozenset({"several faces", "points outside", "occluded", "boxes", "facts"})
_HALF = 0.5
_PLAIN = ("version", "meta")


def is_ours(path: Path, content: bytes) -> bool:
    """Whether its root is ``annotations``."""
    return re.search(rb"<annotations[\s>]", content) is not None


def read(path: Path, find: ImageFinder) -> Labels:
    """Read skeletons, points and boxes, of images and of tracks.

    A point that is outside is not labelled. A box belongs to the face whose points it holds, or that has its group.

    Raises:
        DataError: It is no such file.
    """
    root = read_xml(path)
    left_out: Counter[str] = Counter()
    notes: list[str] = []
    images: dict[str, tuple[int, int] | None] = {}
    faces: list[Face] = []
    try:
        for image in root.iter("image"):
            name = image.get("name", "")
            images[name] = (int(image.get("width", 0)), int(image.get("height", 0)))
            about = _attributes(image)
            faces += _faces(
                name, [(shape, shape.get("label", ""), {}) for shape in image], left_out, about
            )
        faces += _of_tracks(root, find, images, left_out, notes)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no annotations.xml of CVAT ({error}).") from error
    names, edges = _declared(root)
    used = {name for face in faces for name in face.points}
    if not used <= set(names):
        names, edges = (), ()
    return Labels(
        path, "CVAT XML", faces, images, names, edges=edges, left_out=left_out, notes=notes
    )


def _faces(
    image: str,
    shapes: list[tuple[ElementTree.Element, str, dict[str, str]]],
    left_out: Counter[str],
    about: dict[str, str],
) -> list[Face]:
    """The faces of one image, from its shapes with their labels and what else is known of them."""
    faces: list[Face] = []
    marks: list[Mark] = []
    boxes: list[Mark] = []
    for shape, label, known in shapes:
        facts = {**about, **known, **_attributes(shape)}
        group = shape.get("group_id")
        if shape.get("outside") == "1":
            continue
        if shape.tag == "skeleton":
            faces.append(Face(image, _skeleton(shape), None, label, facts))
            faces[-1].about |= {"group_id": group} if group else {}
        elif shape.tag == "points":
            found = _points(shape)
            if len(found) > 1:
                faces.append(numbered_face(image, found, label))
                faces[-1].about |= facts | ({"group_id": group} if group else {})
            else:
                marks.append(Mark(label, point=found[0], group=group, about=facts))
        elif shape.tag == "box":
            boxes.append(Mark(label, box=_box(shape), group=group, about=facts))
        elif shape.tag not in ("attribute", *_PLAIN):
            left_out[f"shapes that are no points: {shape.tag}"] += 1
    left_out["skeletons without a point"] += sum(not face.points for face in faces)
    faces = [face for face in faces if face.points]
    for face in faces:
        group = face.about.pop("group_id", None)
        same = next((box for box in boxes if group is not None and box.group == group), None)
        if same is not None:
            boxes.remove(same)
            face.box = same.box
    if not marks:
        return attach_boxes(faces, boxes, left_out)
    return faces + gather(image, [*marks, *boxes], left_out, about)


def _skeleton(shape: ElementTree.Element) -> dict[str, Point]:
    inside = (p for p in shape.iter("points") if p.get("outside") != "1")
    return {p.get("label", ""): _points(p)[0] for p in inside}


def _points(shape: ElementTree.Element) -> list[Point]:
    visibility = 1 if shape.get("occluded") == "1" else 2
    pairs = [pair.split(",") for pair in shape.attrib["points"].split(";") if pair]
    return [(float(x) - _HALF, float(y) - _HALF, visibility) for x, y in pairs]


def _box(shape: ElementTree.Element) -> Box:
    x0, y0, x1, y1 = (float(shape.attrib[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
    turn = float(shape.get("rotation", 0))
    if not turn:
        return x0, y0, x1, y1
    # CVAT rotates about the box's middle.
    around = rotated_box(0.0, 0.0, x1 - x0, y1 - y0, turn)
    dx = (x0 + x1) / 2 - (around[0] + around[2]) / 2
    dy = (y0 + y1) / 2 - (around[1] + around[3]) / 2
    return around[0] + dx, around[1] + dy, around[2] + dx, around[3] + dy


def _attributes(shape: ElementTree.Element) -> dict[str, str]:
    found = {a.get("name", ""): (a.text or "").strip() for a in shape.findall("attribute")}
    return {name: text for name, text in found.items() if name and text}


def _of_tracks(
    root: ElementTree.Element,
    find: ImageFinder,
    images: dict[str, tuple[int, int] | None],
    left_out: Counter[str],
    notes: list[str],
) -> list[Face]:
    """The faces of each frame of a video. The frames between two that were labelled are CVAT's interpolation."""
    frames: dict[int, list[Any]] = {}
    guessed = 0
    for track in root.findall("track"):
        for shape in track:
            if shape.tag == "attribute":
                continue
            if (group := track.get("group_id")) is not None:
                shape.set("group_id", group)
            facts = {"track": track.get("id", "")}
            frames.setdefault(int(shape.attrib["frame"]), []).append(
                (shape, track.get("label", ""), facts)
            )
            guessed += shape.get("keyframe") == "0" and shape.get("outside") != "1"
    if guessed:
        notes.append(
            f"{guessed} shapes are not labelled but interpolated by CVAT between labelled frames"
        )
    size = root.find(".//original_size")
    known = None
    if size is not None:
        known = (int(size.findtext("width", "0")), int(size.findtext("height", "0")))
    faces = []
    for number, shapes in sorted(frames.items()):
        stem = f"frame_{number:06d}"
        file = find.by_stem(stem)
        name = file.name if file is not None else f"{stem}.png"
        images[name] = known
        of_frame = _faces(name, shapes, left_out, {})
        for face in of_frame:
            # A face in a video stays on one side of a split.
            face.about.setdefault("group", f"track {face.about['track']}")
        faces += of_frame
    return faces


def _declared(root: ElementTree.Element) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Names and edges of the skeleton that the task declares, if it is one."""
    skeletons = [label for label in root.iter("label") if label.findtext("type") == "skeleton"]
    if len(skeletons) != 1:
        return (), ()
    parent = skeletons[0].findtext("name")
    names = tuple(
        label.findtext("name", "")
        for label in root.iter("label")
        if label.findtext("parent") == parent
    )
    if len(set(names)) != len(names):
        return (), ()
    drawing = skeletons[0].findtext("svg") or ""
    nodes: dict[str, str] = {}
    for circle in re.findall("<circle[^>]*>", drawing):
        node, label = (
            re.search(f'{key}="([^"]*)"', circle) for key in ("data-node-id", "data-label-name")
        )
        if node and label:
            nodes[node[1]] = label[1]
    lines = re.findall('data-node-from="([^"]*)" data-node-to="([^"]*)"', drawing)
    edges = tuple(
        (names.index(nodes[a]), names.index(nodes[b]))
        for a, b in lines
        if nodes.get(a) in names and nodes.get(b) in names
    )
    return names, edges


def write(labels: Labels, folder: Path) -> None:
    """Write ``annotations.xml`` of images: a skeleton a face, and its box in the same group."""
    root = ElementTree.Element("annotations")

    def add(
        parent: ElementTree.Element, tag: str, text: str | None = None, **about: str
    ) -> ElementTree.Element:
        made = ElementTree.SubElement(parent, tag, about)
        made.text = text
        return made

    add(root, "version", "1.1")
    kind = next((face.kind for face in labels.faces if face.kind), "face")
    task = add(add(root, "meta"), "task")
    add(task, "mode", "annotation")
    declared = add(task, "labels")
    for name, sort, parent in [
        (kind, "skeleton", None),
        *((n, "points", kind) for n in labels.names),
    ]:
        label = add(declared, "label")
        add(label, "name", name)
        add(label, "type", sort)
        if parent is not None:
            add(label, "parent", parent)
    of_image = labels.by_image()
    group = 0
    for i, (name, size) in enumerate(labels.images.items()):
        width, height = size or (0, 0)
        image = add(root, "image", id=str(i), name=name, width=str(width), height=str(height))
        for face in of_image.get(name, ()):
            group += 1
            joined = {"group_id": str(group)} if face.box else {}
            skeleton = add(image, "skeleton", label=kind, source="manual", z_order="0", **joined)
            for fact, text in face.about.items():
                add(skeleton, "attribute", text, name=fact)
            for point in labels.names:
                x, y, visible = face.points.get(point, (-_HALF, -_HALF, 0))
                add(
                    skeleton, "points", label=point, source="manual", outside=str(int(visible == 0)),
                    occluded=str(int(visible == 1)), points=f"{x + _HALF:.4f},{y + _HALF:.4f}",
                )  # fmt: skip
            if face.box:
                corners = {
                    k: f"{v:.4f}"
                    for k, v in zip(("xtl", "ytl", "xbr", "ybr"), face.box, strict=True)
                }
                add(
                    image,
                    "box",
                    label=kind,
                    source="manual",
                    occluded="0",
                    z_order="0",
                    **joined,
                    **corners,
                )
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    write_text(folder / "annotations.xml", f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n')
