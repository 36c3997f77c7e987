"""Which keypoints and which faces of a file of labels are read, and what is told about the keypoints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.data.formats.common import Face, Labels, number_names
from facial_keypoints.data.symmetry import mirrored_misfit, partners_by_place
from facial_keypoints.errors import DataError
from facial_keypoints.schemas import (
    get_schema,
    list_schemas,
    partners_by_name,
    propose_schema,
    sides,
)
from facial_keypoints.types import KeypointSchema

__all__ = [
    "check_partners",
    "decide_schema",
    "keep_one_count",
    "keep_one_kind",
    "name_codes",
    "points_of",
]


FEW_FACES = 10  # with fewer, the usual face is that of one person, who may look to a side
MISFIT = 2.0  # times the usual distance of a label from the usual face
LEAST_MISFIT = 0.05  # of the face's extent


def keep_one_count(labels: Labels) -> None:
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


def keep_one_kind(labels: Labels, schema: KeypointSchema | None) -> None:
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


def decide_schema(labels: Labels, schema: KeypointSchema | None) -> None:
    """Set the schema of labels: the one that is asked for, else a built-in one, else one made from the names.

    Points that the schema does not list are left out.

    Raises:
        DataError: It lists none of them, or names repeat.
    """
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
    if swap is None and len(labels.faces) >= FEW_FACES:
        # A point of one side is no partner of another one of that side.
        swap = partners_by_name(labels.names)
        alone = np.array([j == i and bool(sides(labels.names[i])) for i, j in enumerate(swap)])
        swap = partners_by_place(np.where(alone[:, None], np.nan, xy), swap)
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
    labels.notes.append(f"keypoints of your own; {told} (--schema FILE describes them otherwise)")
    return schema


def check_partners(labels: Labels) -> None:
    """Warn where the usual face, mirrored with partners exchanged, is no usual face."""
    few = len(labels.faces) < 2 * FEW_FACES
    if labels.schema is None or few or labels.schema.name in list_schemas():
        return
    xy, _ = points_of(labels.faces, labels.schema.keypoint_names)
    mirrored, usual = mirrored_misfit(xy, labels.schema.swap)
    odd = np.nan_to_num(mirrored / np.maximum(MISFIT * usual, LEAST_MISFIT))
    k = int(odd.argmax())
    if odd[k] > 1:
        partner = labels.schema.swap[k]
        names = labels.schema.keypoint_names
        labels.notes.append(
            f"warning: mirrored labels fit worse than unmirrored ones: '{names[partner]}', mirrored, lies "
            f"{mirrored[k]:.0%} of the face's extent from '{names[k]}', whose labels differ by {usual[k]:.0%}; unless "
            "the faces all look to one side, correct the left/right partners with --schema FILE: training mirrors faces"
        )


def name_codes(labels: Labels) -> None:
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
