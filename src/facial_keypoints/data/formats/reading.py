"""From files to :class:`~facial_keypoints.data.formats.common.Labels`: which format, which images, which schema."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.data.formats import (
    coco,
    csv,
    cvat,
    deeplabcut,
    dlib,
    label_studio,
    labelme,
    pts,
    tps,
    via,
    wflw,
    yolo,
)  # fmt: skip
from facial_keypoints.data.formats.common import Face, Labels, Point, number_names
from facial_keypoints.data.formats.finding import ImageFinder, tidy_names
from facial_keypoints.errors import DataError, ImageError
from facial_keypoints.files import MARKER
from facial_keypoints.io.images import read_size
from facial_keypoints.io.tables import column_names
from facial_keypoints.schemas import get_schema, list_schemas, propose_schema
from facial_keypoints.types import KeypointSchema

__all__ = ["READABLE", "find_labels", "points_of", "read_labels"]

READERS: tuple[ModuleType, ...] = (
    coco, labelme, via, label_studio, cvat, dlib, yolo, tps, deeplabcut, csv, wflw, pts,
)  # fmt: skip
"""The modules in the order in which they are asked whether a file is theirs."""

READABLE = (
    "Kaggle's files, a csv with the columns image and NAME_x, NAME_y, COCO keypoints, CVAT XML, Label Studio json, LabelMe, VIA csv and json, "
    "dlib imglab XML, TPS, DeepLabCut csv, YOLO-pose (data.yaml), 300-W .pts and WFLW lists"
)

_START = 1 << 16  # bytes by which most formats are told
_OWN = (
    "annotations.json",
    "faces.csv",
)  # what this package writes: a folder with one holds nothing else
_SUFFIXES = frozenset(suffix for module in READERS for suffix in module.SUFFIXES)


def find_labels(path: Path) -> tuple[ModuleType, list[Path]] | None:
    """The format of a file or folder, told by the content, and its files; ``None`` if it may be Kaggle's.

    Raises:
        DataError: A folder holds labels of several formats.
    """
    if path.is_file():
        module = _format_of(path)
        return None if module is None else (module, [path])
    for name in _OWN:
        if (own := path / name).is_file() and (module := _format_of(own)) is not None:
            return module, [own]
    found: dict[ModuleType, list[Path]] = {}
    for place, folders, files in os.walk(path):
        folders[:] = sorted(
            name for name in folders
            # What this package wrote into the folder is not its input.
            if not name.startswith(".") and not Path(place, name, MARKER).is_file()
        )  # fmt: skip
        for name in sorted(files):
            file = Path(place, name)
            if not name.startswith(".") and (module := _format_of(file)) is not None:
                found.setdefault(module, []).append(file)
    if len(found) > 1:
        listed = "; ".join(f"{_name(module)}: {files[0]}" for module, files in found.items())
        raise DataError(
            f"{path} holds labels of several formats ({listed}): name the file that you want."
        )
    return next(iter(found.items()), None)


def _name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def _format_of(file: Path) -> ModuleType | None:
    suffix = file.suffix.lower()
    if suffix not in _SUFFIXES:
        return None
    try:
        with file.open("rb") as handle:
            start = handle.read(_START)
            if suffix == ".csv" and _is_kaggle(file, start):
                return None
            # A json's keys come in any order; a large file is read whole only if its start does not tell.
            for content in (start, start + handle.read()) if suffix == ".json" else (start,):
                for module in READERS:
                    if suffix in module.SUFFIXES and module.is_ours(file, content):
                        return module
    except (OSError, DataError):
        pass
    return None


def _is_kaggle(file: Path, start: bytes) -> bool:
    """Whether a csv keeps an image's pixels as text."""
    if "Image" not in column_names(file):
        return False
    row = start.split(b"\n", 2)[1:2]
    return not row or re.search(rb"\.(jpe?g|png|bmp|tiff?|webp)", row[0], re.I) is None


def read_labels(
    path: Path,
    *,
    schema: KeypointSchema | None = None,
    group_by: str | None = None,
    images: Path | None = None,
) -> Labels:
    """Read labels of any format but Kaggle's.

    Args:
        path: A file, or a folder that holds files of one format.
        schema: The keypoints; points that it does not list are left out. When left out: the first built-in schema
            that knows all the names, else one that is made from them.
        group_by: Name of what says which faces belong together: a column, an attribute.
        images: Folder of the images, where they are not found from the labels.

    Raises:
        DataError: It holds no labels that can be read.
    """
    found = find_labels(path)
    if found is None:
        raise unreadable(path)
    module, files = found
    # Files of one image each name it from where they are; in a folder, that is told from the folder.
    root = path if len(files) > 1 or (module in (labelme, pts) and path.is_dir()) else None
    finders: dict[Path, ImageFinder] = {}
    parts = []
    for file in files:
        find = finders.setdefault(file.parent, ImageFinder(file.parent, images))
        labels = module.read(file, find)
        _locate(labels, find, root)
        parts.append(labels)
    labels = parts[0] if len(parts) == 1 else _merged(path, parts)
    _keep_one_count(labels)
    _keep_one_kind(labels, schema)
    if not labels.faces:
        reasons = "; ".join(f"{n} {what}" for what, n in (+labels.left_out).items())
        raise DataError(f"{path} holds no face{f' (left out: {reasons})' if reasons else ''}.")
    _decide_schema(labels, schema)
    _name_codes(labels)
    _match_sizes(labels)
    _group(labels, group_by)
    return labels


def unreadable(path: Path) -> DataError:
    """Why a path cannot be read, and what can."""
    if not path.exists():
        return DataError(f"{path} does not exist.")
    if path.suffix.lower() in (".h5", ".hdf5"):
        return DataError(f"{path}: give the csv that DeepLabCut writes beside its .h5 file.")
    return DataError(f"{path} holds no labels that can be read. Read are: {READABLE}.")


def _merged(path: Path, parts: Sequence[Labels]) -> Labels:
    """The labels of several files as one."""
    first = parts[0]
    left_out = sum((part.left_out for part in parts), Counter())
    faces: list[Face] = []
    seen: set[object] = set()
    for part in parts:
        keys = [(face.image, *face.points.items()) for face in part.faces]
        new = [face for key, face in zip(keys, part.faces, strict=True) if key not in seen]
        left_out["faces that several files have alike"] += len(keys) - len(new)
        faces += new
        seen.update(keys)
    same = all(part.names == first.names for part in parts)
    return Labels(
        path,
        first.format,
        faces,
        {name: size for part in parts for name, size in part.images.items()},
        names=first.names if same else (),
        photos=any(part.photos for part in parts),
        swap=first.swap if same else None,
        edges=first.edges if same else (),
        norm_pair=first.norm_pair if same else None,
        files={name: file for part in parts for name, file in part.files.items()},
        left_out=left_out,
        notes=[note for part in parts for note in part.notes],
    )


def _locate(labels: Labels, find: ImageFinder, root: Path | None) -> None:
    """Find the images, and give each a short name; with ``root``, the path from there."""
    names = tidy_names(labels.images, find)
    files = {}
    elsewhere: Counter[Path] = Counter()
    for name in labels.images:
        file = labels.files.get(name) or find(name)
        if file is not None and root is not None:
            if file.resolve().is_relative_to(root.resolve()):
                names[name] = file.resolve().relative_to(root.resolve()).as_posix()
        elif root is not None:
            names[name] = (labels.source.parent.relative_to(root) / names[name]).as_posix()
        if file is not None:
            files[names[name]] = file
            if file != find.folder / names[name]:
                elsewhere[file.parent] += 1
    if elsewhere and root is None:
        places = ", ".join(map(str, list(elsewhere)[:3])) + (" ..." if len(elsewhere) > 3 else "")
        labels.notes.append(f"{sum(elsewhere.values())} images are found in {places}")
    for face in labels.faces:
        face.image = names[face.image]
    labels.images = {names[name]: size for name, size in labels.images.items()}
    labels.files = files


# --- which faces ----------------------------------------------------------------------------------


def _keep_one_count(labels: Labels) -> None:
    """Of faces whose points have no names, leave out those with another number of them: which is which is not known."""
    counts = Counter(face.numbered for face in labels.faces if face.numbered)
    if not counts:
        return
    usual = counts.most_common(1)[0][0]
    if len(counts) > 1:
        labels.left_out[f"faces with another number of unnamed points than {usual}"] += (
            sum(counts.values()) - counts[usual]
        )
        labels.faces = [face for face in labels.faces if face.numbered in (0, usual)]
    if all(face.numbered for face in labels.faces):
        labels.names = number_names(usual)


def _keep_one_kind(labels: Labels, schema: KeypointSchema | None) -> None:
    """Leave out what is labelled with other keypoints than the faces: hands beside faces, say."""
    of_kind: dict[str, set[str]] = {}
    counts = Counter(face.kind for face in labels.faces)
    for face in labels.faces:
        if face.kind:  # one without a name may be any
            of_kind.setdefault(face.kind, set()).update(face.points)
    if len(of_kind) < 2:
        return
    known = [schema] if schema is not None else [get_schema(name) for name in list_schemas()]

    def fits(kind: str) -> tuple[bool, int]:
        return any(of_kind[kind] <= set(s.keypoint_names) for s in known), counts[kind]

    main = of_kind[max(of_kind, key=fits)]
    for kind, names in of_kind.items():
        if 2 * len(names & main) < len(names | main):
            labels.left_out[f"of '{kind}', which has other keypoints"] += counts[kind]
            labels.faces = [face for face in labels.faces if face.kind != kind]
    used = {name for face in labels.faces for name in face.points}
    if not set(labels.names) <= used:
        labels.names = tuple(name for name in labels.names if name in used)
        labels.swap, labels.edges, labels.norm_pair = None, (), None


def _group(labels: Labels, group_by: str | None) -> None:
    """Set each face's ``group`` to what is asked for."""
    if group_by is None:
        return
    if not any(group_by in face.about for face in labels.faces):
        has = sorted({name for face in labels.faces for name in face.about})
        known = f"it has {', '.join(has)}" if has else "it has none: leave --group-by out"
        raise DataError(
            f"{labels.source} has no column or attribute '{group_by}' to group by; {known}."
        )
    for face in labels.faces:
        face.about.pop("group", None)
        if text := face.about.get(group_by):
            face.about["group"] = text
    labels.notes = [note for note in labels.notes if "--group-by" not in note]


# --- which keypoints ------------------------------------------------------------------------------


def points_of(
    faces: Sequence[Face], names: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """(N, K, 2) points, NaN = not labelled, and (N, K) visibility."""
    xy = np.full((len(faces), len(names), 2), np.nan)
    visibility = np.zeros((len(faces), len(names)), np.int8)
    place = {name: k for k, name in enumerate(names)}
    for i, face in enumerate(faces):
        for name, (x, y, visible) in face.points.items():
            if name in place:
                xy[i, place[name]] = x, y
                visibility[i, place[name]] = visible
    return xy, visibility


def _decide_schema(labels: Labels, schema: KeypointSchema | None) -> None:
    if schema is None:
        labels.schema = _known(labels.names) or _proposed(labels)
        return
    labels.schema = schema
    if (
        labels.names == number_names(len(labels.names))
        and len(labels.names) == schema.num_keypoints
    ):
        new = dict(zip(labels.names, schema.keypoint_names, strict=True))
        for face in labels.faces:
            face.points = {new[name]: point for name, point in face.points.items()}
        labels.names = schema.keypoint_names
    unknown = [name for name in labels.names if name not in schema.keypoint_names]
    if len(unknown) == len(labels.names):
        raise DataError(
            f"{labels.source} labels none of the keypoints of the schema '{schema.name}': it labels "
            f"{', '.join(unknown[:8])}{' ...' if len(unknown) > 8 else ''}."
        )
    if unknown:
        listed = ", ".join(unknown[:8]) + (" ..." if len(unknown) > 8 else "")
        labels.left_out[f"keypoints that the schema '{schema.name}' does not list: {listed}"] += (
            len(unknown)
        )
        for face in labels.faces:
            face.points = {n: p for n, p in face.points.items() if n not in unknown}
    if absent := [n for n in schema.keypoint_names if n not in labels.names]:
        labels.notes.append(f"in the schema but not in the labels: {', '.join(absent[:8])}"
                            f"{' ...' if len(absent) > 8 else ''}")  # fmt: skip
    labels.names, labels.edges = schema.keypoint_names, schema.edges


def _known(names: Sequence[str]) -> KeypointSchema | None:
    """The built-in schema that fits the names most closely."""
    known = [get_schema(name) for name in list_schemas()]
    exact = [s for s in known if set(s.keypoint_names) == set(names)]
    return next(iter([*exact, *(s for s in known if set(names) < set(s.keypoint_names))]), None)


def _proposed(labels: Labels) -> KeypointSchema:
    xy, _ = points_of(labels.faces, labels.names)
    count = len(labels.names)
    swap = labels.swap
    if swap is not None and [swap[j] if 0 <= j < count else -1 for j in swap] != list(range(count)):
        labels.notes.append(
            "the left/right partners that the file gives are no pairs, so they are told from the names"
        )
        swap = None
    edges = [edge for edge in labels.edges if all(0 <= i < count for i in edge)]
    try:
        schema = propose_schema(
            labels.source.stem, labels.names, xy, swap=swap, norm_pair=labels.norm_pair,
            edges=edges,
        )  # fmt: skip
    except ValueError as error:
        raise DataError(f"{labels.source}: {error}") from error
    names = schema.keypoint_names
    pairs = [f"{names[i]} – {names[j]}" for i, j in enumerate(schema.swap) if i < j]
    told = f"left/right partners: {', '.join(pairs[:8])}{' ...' if len(pairs) > 8 else ''}" if pairs else (
        "no left/right partners"
    )  # fmt: skip
    if len(names) > 1:
        told += f"; errors are divided by the distance of {' and '.join(schema.norm_pair)}"
    labels.notes.append(f"keypoints of your own; {told} (a schema file describes them otherwise)")
    return schema


def _name_codes(labels: Labels) -> None:
    """Say how many points are where programs put those that are not labelled."""
    found = Counter(
        point[:2]
        for face in labels.faces
        for point in face.points.values()
        if point[:2] in ((0.0, 0.0), (-0.5, -0.5), (-1.0, -1.0))
    )
    for (x, y), count in found.items():
        labels.notes.append(
            f"{count} points are at ({x:g}, {y:g}), a place that often stands for 'not labelled': remove them if so"
        )


# --- which pixels ---------------------------------------------------------------------------------


def _match_sizes(labels: Labels) -> None:
    """Bring points into the pixels of the images that were found, which may be turned or of another size."""
    turned: list[tuple[str, int]] = []
    scaled, odd, broken = [], [], []
    of_image = labels.by_image()
    for name, file in labels.files.items():
        said = labels.images[name]
        try:
            width, height, orientation = read_size(file)
        except ImageError:
            broken.append(name)
            continue
        labels.images[name] = (width, height)
        if said is None or said == (width, height):
            continue
        if orientation >= 5 and said == (height, width):
            turned.append((name, orientation))
        elif abs(said[0] * height - said[1] * width) <= 0.01 * said[0] * height:
            scaled.append(name)
            _move(of_image.get(name, ()), _scaled(width / said[0], height / said[1]))
        else:
            odd.append(name)
    lying = [
        sum(
            _outside(of_image.get(name, ()), labels.images[name], lying=stored)
            for name, _ in turned
        )
        for stored in (False, True)
    ]
    if lying[0] > lying[1]:
        for name, orientation in turned:
            _move(of_image.get(name, ()), _upright(orientation, labels.images[name] or (0, 0)))
        labels.notes.append(
            f"{len(turned)} images are stored lying, and so are their labels: both are turned upright"
        )
    if scaled:
        labels.notes.append(f"{len(scaled)} images have another size than when they were labelled (first: {scaled[0]}): "
                            "their points are scaled")  # fmt: skip
    if odd:
        labels.notes.append(f"{len(odd)} images have another shape than the labels say (first: {odd[0]}): "
                            "are they the images that were labelled?")  # fmt: skip
    missing = [name for name in labels.images if name not in labels.files]
    with_faces = {face.image for face in labels.faces} & set(missing)
    if with_faces:
        first = next(name for name in missing if name in with_faces)
        labels.notes.append(
            f"{len(with_faces)} of {len(labels.images)} images are not found (first: {first}); --images DIR says "
            "where they are"
        )
    if broken:
        labels.notes.append(f"{len(broken)} images cannot be read (first: {broken[0]})")


def _outside(faces: Sequence[Face], size: tuple[int, int] | None, *, lying: bool) -> int:
    """Points beyond the edges of an image, taken upright or as it is stored."""
    width, height = (size or (0, 0))[:: -1 if lying else 1]
    places = [point for face in faces for point in face.points.values()]
    return sum(not (0 <= x < width and 0 <= y < height) for x, y, _ in places)


_Move = Callable[[float, float], tuple[float, float]]
"""A map of places that count from an image's edge."""


def _scaled(across: float, down: float) -> _Move:
    return lambda x, y: (x * across, y * down)


def _upright(orientation: int, size: tuple[int, int]) -> _Move:
    """The map from the edges of a stored image to those of the upright one of ``size``."""
    width, height = size
    return {
        5: lambda x, y: (y, x),
        6: lambda x, y: (width - y, x),
        7: lambda x, y: (width - y, height - x),
        8: lambda x, y: (y, height - x),
    }[orientation]


def _move(faces: Sequence[Face], move: _Move) -> None:
    """Move the points and boxes of faces."""
    for face in faces:
        moved: dict[str, Point] = {}
        for key, (x, y, visible) in face.points.items():
            u, v = move(x + 0.5, y + 0.5)
            moved[key] = (u - 0.5, v - 0.5, visible)
        face.points = moved
        if face.box is not None:
            (x0, y0), (x1, y1) = move(*face.box[:2]), move(*face.box[2:])
            face.box = min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)
