"""YOLO-pose, as Ultralytics reads it: ``data.yaml``, and a text file for each image.

Coordinates are shares of the image's width and height: 0 and 1 are its edges. Ultralytics takes no image with a point
beyond them, and looks for an image's labels where the last folder ``images`` of its path is ``labels``.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from facial_keypoints.data.formats.common import Face, Labels, Point, number_names
from facial_keypoints.data.formats.finding import ImageFinder
from facial_keypoints.errors import DataError
from facial_keypoints.files import write_text
from facial_keypoints.io.tables import read_text
from facial_keypoints.schemas import read_yaml

__all__ = ["HOLDS", "SUFFIXES", "image_place", "is_ours", "read", "write"]

SUFFIXES = (".yaml", ".yml")
HOLDS = frozenset({"several faces", "occluded", "boxes"})
_HALF = 0.5


def is_ours(path: Path, content: bytes) -> bool:
    """Whether a yaml file describes keypoints for YOLO."""
    return b"kpt_shape" in content


def read(path: Path, find: ImageFinder) -> Labels:
    """Read the text files in folders ``labels`` below the yaml; their images are in folders ``images``.

    Raises:
        DataError: The yaml does not say how many keypoints there are, or a line has another number of them.
        MissingExtraError: PyYAML is not installed.
    """
    try:
        content = read_yaml(path)
        count, values = (int(v) for v in content["kpt_shape"])
        kinds = _list(content.get("names") or [])
        named = _list(content.get("kpt_names") or [])
        # One list for each class, or one for all.
        if named and isinstance(named[0], (list, tuple)):
            named = list(named[0])
        names = tuple(map(str, named)) if len(named) == count else number_names(count)
        swap = content.get("flip_idx")
        swap = tuple(int(i) for i in swap) if swap and len(swap) == count else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is no data.yaml of YOLO-pose ({type(error).__name__}: {error})."
        ) from error
    if values not in (2, 3):
        raise DataError(
            f"{path}: 'kpt_shape' is [K, 2] or [K, 3], received {content['kpt_shape']}."
        )
    left_out: Counter[str] = Counter()
    images: dict[str, tuple[int, int] | None] = {}
    faces: list[Face] = []
    files = sorted(
        p for p in path.parent.rglob("*.txt") if "labels" in p.relative_to(path.parent).parts
    )
    if not files:
        raise DataError(f"{path}: there is no folder 'labels' with text files beside it.")
    places: dict[str, Path] = {}
    for file in files:
        stem = _image_stem(file.relative_to(path.parent))
        image = find.by_stem(stem)
        if image is None:
            left_out["text files without their image, whose size is needed"] += 1
            continue
        name = str(PurePosixPath(stem).with_name(image.name)).removeprefix("images/")
        places[name] = image
        images[name] = size = find.size(str(image.absolute()))
        if size is None:
            left_out["images that cannot be read"] += 1
            continue
        faces += _faces(file, name, size, names, values, kinds, left_out)
    return Labels(
        path, "YOLO-pose", faces, images, names, swap=swap, files=places, left_out=left_out
    )


def _faces(
    file: Path,
    image: str,
    size: tuple[int, int],
    names: tuple[str, ...],
    values: int,
    kinds: list[Any],
    left_out: Counter[str],
) -> list[Face]:
    faces = []
    wanted = 5 + len(names) * values
    for number, line in enumerate(filter(str.strip, read_text(file).splitlines()), start=1):
        try:
            row = list(map(float, line.split()))
        except ValueError as error:
            raise DataError(f"{file}, line {number}: {error}.") from error
        if len(row) not in (5, wanted):
            raise DataError(
                f"{file}, line {number} has {len(row)} numbers; with {len(names)} keypoints of {values} there are "
                f"{wanted}."
            )
        face = _face(image, row, names, values, size)
        face.kind = str(kinds[int(row[0])]) if int(row[0]) < len(kinds) else ""
        if face.points:
            faces.append(face)
        else:
            left_out["boxes without labelled keypoints"] += 1
    return faces


def _list(value: Any) -> list[Any]:
    """The values of a list, or of a mapping from numbers."""
    return [value[key] for key in sorted(value)] if isinstance(value, dict) else list(value)


def _image_stem(labels: Path) -> str:
    """The path of an image without suffix, from that of its labels: the last ``labels`` becomes ``images``."""
    parts = list(labels.with_suffix("").parts)
    last = len(parts) - 1 - parts[::-1].index("labels")
    parts[last] = "images"
    return "/".join(parts)


def _face(
    image: str, row: list[float], names: tuple[str, ...], values: int, size: tuple[int, int]
) -> Face:
    width, height = size
    x, y, w, h = row[1] * width, row[2] * height, row[3] * width, row[4] * height
    points: dict[str, Point] = {}
    for i, name in enumerate(names if len(row) > 5 else ()):
        at = row[5 + i * values : 5 + (i + 1) * values]
        visible = int(at[2]) if values == 3 else 2 * any(at)
        if visible:
            points[name] = (at[0] * width - _HALF, at[1] * height - _HALF, 1 if visible == 1 else 2)
    box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    return Face(image, points, box if w > 0 and h > 0 else None)


def image_place(name: str) -> str:
    """Where an image is kept."""
    return name if name.startswith("images/") else f"images/{name}"


def _label_place(name: str) -> PurePosixPath:
    """Where the labels of an image are kept."""
    before, _, after = f"/{image_place(name)}".rpartition("/images/")
    return PurePosixPath(f"{before}/labels/{after}"[1:]).with_suffix(".txt")


def write(labels: Labels, folder: Path) -> None:
    """Write ``data.yaml`` and a text file an image. A face without a box gets the one around its points."""
    of_image: dict[str, list[str]] = {name: [] for name in labels.images}
    for face in labels.faces:
        size = labels.images[face.image]
        if size is None:
            raise DataError(
                f"the size of {face.image} is not known, and YOLO needs it: add the image."
            )
        width, height = size
        box = face.box
        if box is None:
            xs, ys = zip(*((x, y) for x, y, _ in face.points.values()), strict=True)
            box = min(xs), min(ys), max(xs) + 1, max(ys) + 1
        x0, y0, x1, y1 = box
        numbers = [
            (x0 + x1) / 2 / width,
            (y0 + y1) / 2 / height,
            (x1 - x0) / width,
            (y1 - y0) / height,
        ]
        for name in labels.names:
            x, y, visible = face.points.get(name, (-_HALF, -_HALF, 0))
            numbers += [(x + _HALF) / width, (y + _HALF) / height, visible]
        of_image[face.image].append(" ".join(["0", *(f"{v:.9g}" for v in numbers)]))
    for name, lines in of_image.items():
        target = folder / _label_place(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, "".join(f"{line}\n" for line in lines))
    kind = next((face.kind for face in labels.faces if face.kind), "face")
    swap = _partners(labels)
    quoted = ", ".join(_quoted(name) for name in labels.names)
    write_text(
        folder / "data.yaml",
        "train: images\nval: images  # the same images: choose some for validation\n\n"
        f"kpt_shape: [{len(labels.names)}, 3]\nflip_idx: [{', '.join(map(str, swap))}]\n\n"
        f"names:\n  0: {_quoted(kind)}\nkpt_names:\n  0: [{quoted}]\n",
    )


def _partners(labels: Labels) -> list[int]:
    """The left/right partner of each of the names, which may be fewer, or in another order, than in the schema."""
    place = {name: i for i, name in enumerate(labels.names)}
    partners = dict(place)
    if labels.schema is not None:
        names = labels.schema.keypoint_names
        pairs = zip(names, (names[j] for j in labels.schema.swap), strict=True)
        partners |= {a: place[b] for a, b in pairs if a in place and b in place}
    return [partners[name] for name in labels.names]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
