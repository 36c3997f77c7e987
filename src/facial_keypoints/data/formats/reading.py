"""From files to :class:`~facial_keypoints.data.formats.common.Labels`: which format, and which images."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

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
from facial_keypoints.data.formats.common import Face, Labels
from facial_keypoints.data.formats.finding import ImageFinder, tidy_names
from facial_keypoints.data.formats.keypoints import (
    check_partners,
    decide_schema,
    keep_one_count,
    keep_one_kind,
    name_codes,
)
from facial_keypoints.data.formats.pixels import match_sizes
from facial_keypoints.errors import DataError
from facial_keypoints.files import MARKER
from facial_keypoints.io.tables import column_names
from facial_keypoints.types import KeypointSchema

__all__ = ["READABLE", "find_labels", "read_labels"]

READERS: tuple[ModuleType, ...] = (
    coco, labelme, via, label_studio, cvat, dlib, yolo, tps, deeplabcut, csv, wflw, pts,
)  # fmt: skip
"""The modules in the order in which they are asked whether a file is theirs."""

READABLE = (
    "Kaggle's files, a csv with the columns image and NAME_x, NAME_y, COCO keypoints, CVAT XML, Label Studio json, "
    "LabelMe, VIA csv and json, dlib imglab XML, TPS, DeepLabCut csv and h5, YOLO-pose (data.yaml), 300-W .pts and WFLW "
    "lists"
)

FROM_NAMES = "image-name"
"""What to group by for the part of an image's name before its last number: ``cat12`` of ``cat12_03.jpg``."""

_IN_NAME = re.compile(r"(.*[^-_ ./])[-_ ./]+[A-Za-z]{0,6}\d+\.\w+")
_START = 1 << 16  # bytes by which most formats are told
# What this package writes: a folder with one of them holds nothing else.
_OWN = ("annotations.json", "faces.csv")
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
            if file.suffix == ".h5" and f"{file.stem}.csv" in files:
                continue  # the same labels
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
    within: Path | None = None,
) -> Labels:
    """Read labels of any format but Kaggle's.

    Args:
        path: A file, or a folder that holds files of one format.
        schema: The keypoints; points that it does not list are left out. When left out: the first built-in schema
            that knows all the names, else one that is made from them.
        group_by: Name of what says which faces belong together: a column, an attribute.
        images: Folder of the images, where they are not found from the labels.
        within: Images are looked for in this folder only, whatever paths the labels name.

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
        find = finders.setdefault(file.parent, ImageFinder(file.parent, images, within))
        labels = module.read(file, find)
        _locate(labels, find, root)
        parts.append(labels)
    labels = parts[0] if len(parts) == 1 else _merged(path, parts)
    keep_one_count(labels)
    keep_one_kind(labels, schema)
    if not labels.faces:
        reasons = "; ".join(f"{n} {what}" for what, n in (+labels.left_out).items())
        raise DataError(f"{path} holds no face{f' (left out: {reasons})' if reasons else ''}.")
    decide_schema(labels, schema)
    check_partners(labels)
    name_codes(labels)
    match_sizes(labels)
    _group(labels, group_by)
    return labels


def unreadable(path: Path) -> DataError:
    """Why a path cannot be read, and what can."""
    if not path.exists():
        return DataError(f"{path} does not exist.")
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


def _group(labels: Labels, group_by: str | None) -> None:
    """Set each face's ``group`` to what is asked for; offer what the names of the images tell."""
    told = {
        face.image: match[1] for face in labels.faces if (match := _IN_NAME.fullmatch(face.image))
    }
    if group_by is None:
        names = Counter(told.values())
        several = sum(count for count in names.values() if count > 1)
        grouped = any("group" in face.about for face in labels.faces)
        if len(names) > 1 and 2 * several > len(labels.images) and not grouped:
            labels.notes.append(
                f"the images' names may tell groups, such as '{names.most_common(1)[0][0]}': if they are persons or "
                f"animals, --group-by {FROM_NAMES} keeps the faces of each of these {len(names)} together"
            )
        return
    if group_by == FROM_NAMES and told:
        for face in labels.faces:
            face.about.setdefault(FROM_NAMES, told.get(face.image, face.image))
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
        face.about.pop(FROM_NAMES, None)
    labels.notes = [note for note in labels.notes if "--group-by" not in note]
