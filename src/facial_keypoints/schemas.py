"""Built-in keypoint schemas and look-up by name."""

from __future__ import annotations

from facial_keypoints.types import KeypointSchema

__all__ = ["FIVE", "IBUG68", "KAGGLE15", "STYLE_B_POINTS", "get_schema", "list_schemas"]

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
    """Look a built-in schema up by name.

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
