"""Built-in keypoint schemas, and schemas from files of users."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.errors import DataError, MissingExtraError

__all__ = [
    "FIVE",
    "FROM_IBUG68",
    "IBUG68",
    "KAGGLE15",
    "STYLE_B_POINTS",
    "KeypointSchema",
    "conversion",
    "get_schema",
    "list_schemas",
    "load_schema",
    "partners_by_name",
    "propose_schema",
    "read_yaml",
    "select_keypoints",
    "sides",
    "source_points",
    "tells",
]


@dataclass(frozen=True)
class KeypointSchema:
    """An ordered set of keypoints with its left/right partners.

    Args:
        name: Short name, as in ``kaggle15``.
        keypoint_names: K names; they fix the order of every K axis.
        swap: K indices: the left/right partner of each keypoint, itself on the midline.
        norm_pair: Two keypoint names whose distance normalises NME (the eye centres, usually).
        edges: Pairs of indices to join when drawing; drawing only.
        styles: Names of the label styles (rules of annotators) of this schema.

    Raises:
        ValueError: Names repeat, ``swap`` is not its own inverse, or ``norm_pair`` is unknown.

    Example:
        >>> KeypointSchema("eyes", ("left_eye", "right_eye"), (1, 0), ("left_eye", "right_eye")).num_keypoints
        2
    """

    name: str
    keypoint_names: tuple[str, ...]
    swap: tuple[int, ...]
    norm_pair: tuple[str, str]
    edges: tuple[tuple[int, int], ...] = ()
    styles: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        k = len(self.keypoint_names)
        if k == 0 or len(set(self.keypoint_names)) != k:
            raise ValueError(f"schema '{self.name}': keypoint names must be unique and at least 1.")
        if sorted(self.swap) != list(range(k)) or any(
            self.swap[s] != i for i, s in enumerate(self.swap)
        ):
            raise ValueError(
                f"schema '{self.name}': swap must pair each of the {k} keypoints with its left/right "
                f"partner (itself on the midline), received {self.swap}."
            )
        for name in self.norm_pair:
            if name not in self.keypoint_names:
                raise ValueError(
                    f"schema '{self.name}': norm_pair names unknown keypoint '{name}'."
                )
        if any(not 0 <= i < k for edge in self.edges for i in edge):
            raise ValueError(f"schema '{self.name}': an edge points outside 0..{k - 1}.")

    @property
    def num_keypoints(self) -> int:
        """K, never 2K."""
        return len(self.keypoint_names)

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """2K column names ``NAME_x, NAME_y`` in the order of ``xy.ravel()``."""
        return tuple(f"{name}_{axis}" for name in self.keypoint_names for axis in "xy")

    @property
    def norm_indices(self) -> tuple[int, int]:
        """Indices of the two keypoints of ``norm_pair``."""
        return self.index(self.norm_pair[0]), self.index(self.norm_pair[1])

    def index(self, name: str) -> int:
        """Position of a keypoint on the K axis.

        Raises:
            ValueError: ``name`` is not a keypoint of this schema.
        """
        try:
            return self.keypoint_names.index(name)
        except ValueError:
            raise ValueError(
                f"schema '{self.name}' has no keypoint '{name}'; it has {', '.join(self.keypoint_names)}."
            ) from None


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

FROM_IBUG68 = {
    "left_eye_center": range(42, 48),
    "right_eye_center": range(36, 42),
    "left_eye_inner_corner": (42,),
    "left_eye_outer_corner": (45,),
    "right_eye_inner_corner": (39,),
    "right_eye_outer_corner": (36,),
    "left_eyebrow_inner_end": (22,),
    "left_eyebrow_outer_end": (26,),
    "right_eyebrow_inner_end": (21,),
    "right_eyebrow_outer_end": (17,),
    "nose_tip": (30,),
    "mouth_left_corner": (54,),
    "mouth_right_corner": (48,),
    "mouth_center_top_lip": (51,),
    "mouth_center_bottom_lip": (57,),
}
"""Numbers of the iBUG points whose mean is a Kaggle point: eye centres are the mean of the six points of the lids,
the others are one point each, by the figure of Sagonas et al. (2013)."""

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


def source_points(schema: KeypointSchema, name: str) -> list[int]:
    """Indices of the keypoints whose mean is the keypoint ``name``: its own, or those of :data:`FROM_IBUG68`.

    Returns:
        The indices; none if the schema lacks one of them.

    Example:
        >>> source_points(IBUG68, "right_eye_center")
        [36, 37, 38, 39, 40, 41]
    """
    names = schema.keypoint_names
    if name in names:
        return [names.index(name)]
    parts = [f"ibug68_{i}" for i in FROM_IBUG68.get(name, ())]
    return [names.index(part) for part in parts] if set(parts) <= set(names) else []


def tells(source: KeypointSchema, target: KeypointSchema) -> bool:
    """Whether every keypoint of ``target`` is a keypoint of ``source`` or a mean of some (:func:`source_points`)."""
    return all(source_points(source, name) for name in target.keypoint_names)


def conversion(source: KeypointSchema, target: KeypointSchema) -> list[list[int]]:
    """For each keypoint of ``target`` the indices of the keypoints of ``source`` whose mean it is.

    Raises:
        ValueError: A keypoint of ``target`` cannot be computed from those of ``source``.
    """
    parts = [source_points(source, name) for name in target.keypoint_names]
    if [] in parts:
        raise ValueError(
            f"the keypoints of '{source.name}' do not tell where '{target.keypoint_names[parts.index([])]}' of "
            f"'{target.name}' is: choose another schema."
        )
    return parts


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


def select_keypoints(schema: KeypointSchema, wanted: NDArray[np.bool_]) -> KeypointSchema:
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
        if path.suffix.lower() == ".json":
            content = json.loads(path.read_text(encoding="utf-8-sig"))
        else:
            content = read_yaml(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a schema ({error}).") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: a schema has entries like 'keypoints: [...]'.")
    return content


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not YAML.
        MissingExtraError: PyYAML is not installed.
    """
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise MissingExtraError("yaml", "train", f"Reading {path.name}") from error
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


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


# --- a schema from names --------------------------------------------------------------------------

# A word for a side, wherever it stands; a letter only as a word of its own: l_eye, eye_L, eye.r, LEye, eyeL.
_SIDES = (
    (re.compile("left", re.I), "right"),
    (re.compile("right", re.I), "left"),
    (re.compile("(?<![A-Za-z])l(?![a-z])|(?<=[a-z0-9])L(?![A-Za-z])", 0), "r"),
    (re.compile("(?<![A-Za-z])L(?![a-z])", 0), "R"),
    (re.compile("(?<![A-Za-z])r(?![a-z])|(?<=[a-z0-9])R(?![A-Za-z])", 0), "l"),
    (re.compile("(?<![A-Za-z])R(?![a-z])", 0), "L"),
)


def partners_by_name(names: Sequence[str]) -> tuple[int, ...]:
    """The left/right partner of each keypoint, told from its name; itself where the name has none.

    ``left_eye`` and ``right_eye``, ``l_ear`` and ``r_ear``, ``eye_L`` and ``eye_R``, ``eyeL`` and ``eyeR``
    are partners.

    Args:
        names: K distinct names.

    Returns:
        K indices; a partner's partner is the keypoint itself.
    """
    place = {name: i for i, name in enumerate(names)}
    found = [
        next((place[other] for other in sides(name) if other in place), i)
        for i, name in enumerate(names)
    ]
    return tuple(j if found[j] == i else i for i, j in enumerate(found))


def sides(name: str) -> list[str]:
    """The names of a keypoint's possible partners: one word for a side replaced by that for the other side.

    Example:
        >>> sides("left_ear"), sides("chin")
        (['right_ear'], [])
    """
    found = []
    for pattern, other in _SIDES:
        for match in pattern.finditer(name):
            word = match[0]
            alike = other.upper() if word.isupper() else other
            if word[0].isupper() and len(word) > 1 and not word.isupper():
                alike = other.capitalize()
            found.append(name[: match.start()] + alike + name[match.end() :])
    return found


def propose_schema(
    name: str,
    names: Sequence[str],
    xy: NDArray[np.float64],
    *,
    swap: Sequence[int] | None = None,
    norm_pair: tuple[str, str] | None = None,
    edges: Sequence[tuple[int, int]] = (),
) -> KeypointSchema:
    """A schema of keypoints that nobody has described.

    Args:
        name: Of the schema.
        names: K names of the keypoints.
        xy: (N, K, 2) labelled points, NaN = not labelled.
        swap: K left/right partners; told from the names when left out.
        norm_pair: The points whose distance normalises errors. When left out: the eyes, if the names tell them,
            else of the left/right pairs (without any, of all pairs) the one that is far apart in nearly all faces.
        edges: Pairs of indices to join when drawing.

    Raises:
        ValueError: Names repeat, or ``swap`` is no pairing.
    """
    partners = tuple(partners_by_name(names) if swap is None else swap)
    if norm_pair is None:
        sided = [(i, j) for i, j in enumerate(partners) if i < j]
        eyes = [
            (i, j)
            for i, j in sided
            if re.search("eye(?!_?-?(brow|lid|lash))|pupil", names[i], re.I)
        ]
        # Without left and right, pairs of up to 20 points from all over the face are compared.
        some = range(0, len(names), -(-len(names) // 20))
        every = list(combinations(some, 2)) or [(0, 0)]
        best = max(eyes or sided or every, key=lambda pair: _apart(xy, *pair))
        norm_pair = (names[best[0]], names[best[1]])
    return KeypointSchema(name, tuple(names), partners, norm_pair, tuple(edges))


def _apart(xy: NDArray[np.float64], i: int, j: int) -> float:
    """Distance of two points, in units of the face's extent, that nine in ten faces exceed, times the share that has both."""
    apart = np.linalg.norm(xy[:, i] - xy[:, j], axis=1)
    both = np.isfinite(apart)
    if not both.any():
        return 0.0
    extent = np.linalg.norm(np.nanmax(xy[both], axis=1) - np.nanmin(xy[both], axis=1), axis=1)
    return float(np.quantile(apart[both] / np.maximum(extent, 1e-9), 0.1) * both.mean())
