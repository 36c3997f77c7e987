"""Built-in keypoint schemas, and schemas from files of users."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from facial_keypoints.errors import DataError, MissingExtraError
from facial_keypoints.types import BoolArray, KeypointSchema

__all__ = [
    "FIVE",
    "IBUG68",
    "KAGGLE15",
    "STYLE_B_POINTS",
    "get_schema",
    "list_schemas",
    "load_schema",
    "select_keypoints",
]

KAGGLE15 = KeypointSchema(
    name="kaggle15",
    # Column order of Kaggle's training.csv.
    keypoint_names=(
        "left_eye_center",
        "right_eye_center",
        "left_eye_inner_corner",
        "left_eye_outer_corner",
        "right_eye_inner_corner",
        "right_eye_outer_corner",
        "left_eyebrow_inner_end",
        "left_eyebrow_outer_end",
        "right_eyebrow_inner_end",
        "right_eyebrow_outer_end",
        "nose_tip",
        "mouth_left_corner",
        "mouth_right_corner",
        "mouth_center_top_lip",
        "mouth_center_bottom_lip",
    ),
    swap=(1, 0, 4, 5, 2, 3, 8, 9, 6, 7, 10, 12, 11, 13, 14),
    norm_pair=("left_eye_center", "right_eye_center"),
    edges=(
        (3, 0), (0, 2), (4, 1), (1, 5), (6, 7), (8, 9),
        (12, 13), (13, 11), (11, 14), (14, 12),
    ),
    styles=("kaggle-a", "kaggle-b", "ibug", "five"),
)  # fmt: skip
"""The 15 points of Kaggle's *Facial Keypoints Detection*.

Label styles: ``kaggle-a`` full rows; ``kaggle-b`` rows with four points (nose tip at the base of the
nose, ``mouth_center_bottom_lip`` at the centre of the mouth); ``ibug`` 15 points derived from the
iBUG 68-point annotation; ``five`` eye centres, nose tip, mouth corners of MTFL.
"""

STYLE_B_POINTS = ("left_eye_center", "right_eye_center", "nose_tip", "mouth_center_bottom_lip")
"""The only points that Kaggle's four-point rows (style B) label."""

FIVE = KeypointSchema(
    name="five",
    keypoint_names=(
        "left_eye_center",
        "right_eye_center",
        "nose_tip",
        "mouth_left_corner",
        "mouth_right_corner",
    ),
    swap=(1, 0, 2, 4, 3),
    norm_pair=("left_eye_center", "right_eye_center"),
    styles=("five",),
)
"""Eye centres, nose tip and mouth corners, as MTFL and most face detectors label them."""


def _ibug68() -> KeypointSchema:
    """Build the iBUG 68-point schema (Sagonas et al., 300 Faces in-the-Wild, ICCVW 2013).

    Index order and left/right partners follow the figure of that paper, counted from 0.
    """
    swap = list(range(68))
    pairs = [(i, 16 - i) for i in range(8)]  # jaw
    pairs += [(17 + i, 26 - i) for i in range(5)]  # brows
    pairs += [(31, 35), (32, 34)]  # nostrils
    pairs += [(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]  # eyes
    pairs += [(48, 54), (49, 53), (50, 52), (59, 55), (58, 56)]  # outer lips
    pairs += [(60, 64), (61, 63), (67, 65)]  # inner lips
    for i, j in pairs:
        swap[i], swap[j] = j, i

    def chain(first: int, last: int, *, closed: bool = False) -> list[tuple[int, int]]:
        edges = [(i, i + 1) for i in range(first, last)]
        return [*edges, (last, first)] if closed else edges

    edges = [*chain(0, 16), *chain(17, 21), *chain(22, 26), *chain(27, 30), *chain(31, 35)]
    for first, last in ((36, 41), (42, 47), (48, 59), (60, 67)):
        edges += chain(first, last, closed=True)
    return KeypointSchema(
        name="ibug68",
        keypoint_names=tuple(f"ibug68_{i}" for i in range(68)),
        swap=tuple(swap),
        norm_pair=("ibug68_36", "ibug68_45"),  # outer eye corners, as 300-W does
        edges=tuple(edges),
        styles=("ibug",),
    )


IBUG68 = _ibug68()
"""The 68 points of iBUG / 300-W."""

_SCHEMAS = {schema.name: schema for schema in (KAGGLE15, FIVE, IBUG68)}


def list_schemas() -> list[str]:
    """Names of the built-in schemas."""
    return list(_SCHEMAS)


def get_schema(name: str) -> KeypointSchema:
    """A built-in schema by its name.

    Raises:
        ValueError: No schema has that name.

    Example:
        >>> get_schema("kaggle15").num_keypoints
        15
    """
    try:
        return _SCHEMAS[name]
    except KeyError:
        raise ValueError(
            f"no schema is named '{name}'; choose from {', '.join(_SCHEMAS)}."
        ) from None


_KEYS = ("name", "keypoints", "pairs", "norm_pair", "edges")


def load_schema(schema: str | os.PathLike[str]) -> KeypointSchema:
    """A built-in schema by its name, or a schema from a file.

    The file is YAML or, with the suffix ``.json``, JSON::

        name: profile                        # the file's name when left out
        keypoints: [chin, left_nostril, right_nostril]
        pairs: [[left_nostril, right_nostril]]      # every other keypoint lies on the midline
        norm_pair: [left_nostril, right_nostril]    # their distance normalises errors; the first
                                                    # pair when left out
        edges: [[left_nostril, chin], [chin, right_nostril]]    # drawing only

    Args:
        schema: Name of a built-in schema, or path of a file.

    Raises:
        DataError: There is no such schema, or the file does not describe one.
        MissingExtraError: The file is YAML and PyYAML is not installed.

    Example:
        >>> load_schema("five").num_keypoints
        5
    """
    if str(schema) in _SCHEMAS:
        return _SCHEMAS[str(schema)]
    path = Path(schema)
    content = _read_mapping(path)
    if unknown := [key for key in content if key not in _KEYS]:
        raise DataError(f"{path}: unknown entry '{unknown[0]}'; known are {', '.join(_KEYS)}.")
    names = _names(path, "keypoints", content.get("keypoints"))
    if not names:
        raise DataError(f"{path}: 'keypoints' must list the names of the keypoints.")
    pairs = _index_pairs(path, "pairs", content.get("pairs"), names)
    swap = list(range(len(names)))
    for a, b in pairs:
        if a == b or swap[a] != a or swap[b] != b:
            raise DataError(
                f"{path}: 'pairs' names '{names[a]}' or '{names[b]}' twice; a keypoint has one "
                "left/right partner."
            )
        swap[a], swap[b] = b, a
    # By default the first left/right pair, whose points are some distance apart.
    norm = pairs[0] if pairs else (0, len(names) - 1)
    if "norm_pair" in content:
        norm = _index_pairs(path, "norm_pair", [content["norm_pair"]], names)[0]
    try:
        return KeypointSchema(
            name=str(content.get("name", path.stem)),
            keypoint_names=tuple(names),
            swap=tuple(swap),
            norm_pair=(names[norm[0]], names[norm[1]]),
            edges=tuple(_index_pairs(path, "edges", content.get("edges"), names)),
        )
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def select_keypoints(schema: KeypointSchema, wanted: BoolArray) -> KeypointSchema:
    """A schema of some of the keypoints, and of their left/right partners.

    Args:
        schema: The whole schema.
        wanted: (K,) bool: which keypoints to keep; at least one.

    Returns:
        The smaller schema with the same name and order; ``schema`` itself if all keypoints are kept.
        Its ``norm_pair`` is that of ``schema`` if both points are kept, else its first left/right pair.
    """
    kept = [k for k in range(schema.num_keypoints) if wanted[k] or wanted[schema.swap[k]]]
    if len(kept) == schema.num_keypoints:
        return schema
    names = tuple(schema.keypoint_names[k] for k in kept)
    swap = tuple(kept.index(schema.swap[k]) for k in kept)
    pairs = [(i, j) for i, j in enumerate(swap) if i < j] or [(0, len(kept) - 1)]
    norm = schema.norm_pair
    if not set(norm) <= set(names):
        norm = (names[pairs[0][0]], names[pairs[0][1]])
    edges = tuple((kept.index(a), kept.index(b)) for a, b in schema.edges if {a, b} <= set(kept))
    return KeypointSchema(schema.name, names, swap, norm, edges, schema.styles)


def _read_mapping(path: Path) -> dict[Any, Any]:
    if not path.is_file():
        raise DataError(
            f"there is no schema '{path}': name a .yaml or .json file, or one of "
            f"{', '.join(_SCHEMAS)}."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            content = json.loads(text)
        else:
            try:
                import yaml
            except ModuleNotFoundError as error:
                raise MissingExtraError("yaml", "train", f"Reading {path.name}") from error
            try:
                content = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ValueError(" ".join(str(error).split())) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a schema ({error}).") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: a schema has entries like 'keypoints: [...]'.")
    return content


def _names(path: Path, key: str, value: Any) -> list[str]:
    """A list of distinct names."""
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise DataError(f"{path}: '{key}' must be a list of names, received {value!r}.")
    if len(set(value)) != len(value):
        raise DataError(f"{path}: '{key}' names a keypoint twice.")
    return value


def _index_pairs(path: Path, key: str, value: Any, names: list[str]) -> list[tuple[int, int]]:
    """Pairs of names as pairs of indices."""
    found = []
    for pair in value if isinstance(value, list) else [] if value is None else [value]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError(f"{path}: '{key}' takes pairs of two names, received {pair!r}.")
        for name in pair:
            if name not in names:
                raise DataError(f"{path}: '{key}' names '{name}', which is not in 'keypoints'.")
        found.append((names.index(pair[0]), names.index(pair[1])))
    return found
