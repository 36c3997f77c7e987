"""Aligned faces as one file: a zip with the files that ``align`` writes to a folder, or a single PNG."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Sequence
from pathlib import PurePosixPath

from facial_keypoints.inference.alignment import ALIGNED_COLUMNS, aligned_row
from facial_keypoints.service.answers import Answer
from facial_keypoints.service.problems import Problem, to_json

__all__ = ["Result", "best_face", "zip_faces"]

Result = tuple[str, Answer | Problem]
"""Name of an image, and its answer or problem."""


def best_face(results: Sequence[Result]) -> bytes:
    """The aligned face of the highest score of one image.

    Raises:
        Problem: There are several images, or it shows no face that can be aligned.
    """
    if len(results) > 1:
        raise Problem("bad-request", "format=png is for one image: send one, or ask for a zip.")
    name, answer = results[0]
    if isinstance(answer, Problem):
        raise answer
    if answer.aligned:
        return answer.aligned[0].png
    raise _not_aligned(name, answer)


def _not_aligned(name: str, answer: Answer) -> Problem:
    if not answer.found:
        return Problem("no-face", f"{name or 'The image'} shows no face.", source=name or None)
    return Problem(
        "not-aligned",
        f"{name or 'The image'}: {answer.lost} of {answer.found} faces cannot be aligned, since their "
        "points coincide: try a larger image.",
        source=name or None,
    )


def zip_faces(results: Sequence[Result]) -> bytes:
    """Aligned faces with their matrices, as ``facial-keypoints align`` writes them to a folder."""
    file, table = io.BytesIO(), io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(ALIGNED_COLUMNS)
    taken: set[str] = set()
    problems: list[Problem] = []
    with zipfile.ZipFile(file, "w") as archive:  # stored: PNG is compressed already
        for i, (name, answer) in enumerate(results):
            if isinstance(answer, Problem):
                problems.append(answer)
                continue
            if answer.lost or not answer.found:
                problems.append(_not_aligned(name, answer))
            stem = _stem(name, i, taken)
            for face in answer.aligned:
                member = f"{stem}_face{face.face}.png"
                archive.writestr(member, face.png)
                writer.writerow(aligned_row(name, face.face, member, face.matrix, face.score))
        archive.writestr("faces.csv", table.getvalue().encode("utf-8", "replace"))
        archive.writestr("problems.json", to_json([each.as_dict() for each in problems]))
    return file.getvalue()


def _stem(name: str, number: int, taken: set[str]) -> str:
    """A name for an image's faces that is safe to unpack and not yet taken."""
    stem = PurePosixPath(name.replace("\\", "/")).stem
    stem = "".join(c for c in stem if c.isalnum() or c in " ._-()")[:100].strip(" .") or "image"
    while stem in taken:
        stem = f"{stem}_{number}"
    taken.add(stem)
    return stem
