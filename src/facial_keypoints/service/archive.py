"""Aligned faces as one file: a zip with the files that ``align`` writes to a folder, or a single PNG."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import PurePosixPath

from facial_keypoints.inference.alignment import ALIGNED_COLUMNS, aligned_row
from facial_keypoints.service.answers import Answer
from facial_keypoints.service.problems import Problem

__all__ = ["Result", "best_face", "zip_faces"]

Result = tuple[str, Answer | Problem]
"""Name of an image, and its answer or problem."""


def best_face(results: Sequence[Result]) -> bytes:
    """The aligned face of the highest score of one image.

    Raises:
        Problem: There are several images, or it shows no face.
    """
    if len(results) > 1:
        raise Problem("bad-request", "format=png is for one image: send one, or ask for a zip.")
    name, answer = results[0]
    faces = answer.aligned if isinstance(answer, Answer) else []
    if not faces:
        raise Problem("no-face", f"{name or 'The image'} shows no face.", source=name or None)
    return faces[0].png


def zip_faces(results: Sequence[Result]) -> bytes:
    """Aligned faces with their matrices, as ``facial-keypoints align`` writes them to a folder."""
    file, table = io.BytesIO(), io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(ALIGNED_COLUMNS)
    taken: set[str] = set()
    with zipfile.ZipFile(file, "w") as archive:  # stored: PNG is compressed already
        for i, (name, answer) in enumerate(results):
            if not isinstance(answer, Answer):
                continue
            stem = _stem(name, i, taken)
            for face in answer.aligned:
                member = f"{stem}_face{face.face}.png"
                archive.writestr(member, face.png)
                writer.writerow(aligned_row(name, face.face, member, face.matrix, face.score))
        archive.writestr("faces.csv", table.getvalue().encode("utf-8", "replace"))
        problems = [each.as_dict() for _, each in results if isinstance(each, Problem)]
        archive.writestr("problems.json", json.dumps(problems, ensure_ascii=False))
    return file.getvalue()


def _stem(name: str, number: int, taken: set[str]) -> str:
    """A name for an image's faces that is safe to unpack and not yet taken."""
    stem = PurePosixPath(name.replace("\\", "/")).stem
    stem = "".join(c for c in stem if c.isalnum() or c in " ._-()")[:100].strip(" .") or "image"
    while stem in taken:
        stem = f"{stem}_{number}"
    taken.add(stem)
    return stem
