"""Pictures out of a request's body, kept in memory only."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from facial_keypoints.pictures import MEDIA_TYPES
from facial_keypoints.service.limits import Limits
from facial_keypoints.service.problems import Problem, busy

__all__ = ["BodyMemory", "Lease", "Upload", "Uploads", "read_uploads"]

_UNTYPED = ("", "application/octet-stream")


@dataclass(frozen=True, eq=False)
class Upload:
    """One picture as it came.

    Args:
        name: What the client calls it.
        content: Its bytes.
        media_type: The declared type; ``None`` if none was.
    """

    name: str
    content: bytes
    media_type: str | None


@dataclass(frozen=True, eq=False)
class Uploads:
    """What a request's body holds.

    Args:
        pictures: One or more.
        boxes: (N, 4) xyxy pixels of the faces of the one picture, or ``None`` to look for faces.
    """

    pictures: list[Upload]
    boxes: NDArray[np.float32] | None


class BodyMemory:
    """Counts the bytes of all bodies held.

    Args:
        limit: Most bytes at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    @contextmanager
    def lease(self) -> Iterator[Lease]:
        """What one request holds; given back at the end."""
        lease = Lease(self)
        try:
            yield lease
        finally:
            self.held -= lease.held

    def take(self, count: int) -> None:
        """Count bytes.

        Raises:
            Problem: They would be too many.
        """
        if self.held + count > self._limit:
            raise busy("Too many uploads are under way: try again in a moment.")
        self.held += count


class Lease:
    """The share of one request."""

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self.held = 0

    def add(self, count: int) -> None:
        """Count bytes that came."""
        self._memory.take(count)
        self.held += count


class _InMemory(MultiPartParser):
    """Starlette's parser, whose files are moved to disk from 1 MB on unless told otherwise."""

    spool_max_size = sys.maxsize


async def read_uploads(request: Request, lease: Lease, limits: Limits, source: str) -> Uploads:
    """Read the body of a request: a form with ``files`` and ``boxes``, or one picture as it is.

    Args:
        request: Not read yet.
        lease: Where its bytes are counted.
        limits: Of the body and its files.
        source: Name of a picture that comes without form.

    Raises:
        Problem: It is too large, no form, or without a picture.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    body = _limited(request, lease, limits.body_bytes)
    try:
        if kind == "multipart/form-data":
            return await _read_form(request, body, limits)
        _check_type(kind, source)
        content = b"".join([chunk async for chunk in body])
    except ClientDisconnect as error:
        raise Problem("bad-request", "The upload broke off.") from error
    if not content:
        raise Problem(
            "bad-request",
            "No picture came: send one as the body, or several in the form field 'files'.",
        )
    return Uploads([Upload(source, content, _declared(kind))], None)


async def _limited(request: Request, lease: Lease, limit: int) -> AsyncGenerator[bytes]:
    problem = Problem(
        "too-large",
        f"The body has more than {limit:,} bytes: send fewer or smaller pictures.",
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > 4 * limit:
        # Too much to be read only for the sake of a reply that every client gets to see.
        raise Problem(problem.kind, problem.detail, headers=(("Connection", "close"),))
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
        if count > 4 * limit:
            break
        # A client that is still sending would not see a refusal: what is too much is passed over.
        if count <= limit:
            lease.add(len(chunk))
            yield chunk
    if count > limit:
        raise problem


async def _read_form(request: Request, body: AsyncGenerator[bytes], limits: Limits) -> Uploads:
    try:
        # One more of each than allowed: the sentence about them is ours.
        form = await _InMemory(
            request.headers, body, max_files=limits.files + 1, max_fields=8
        ).parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise _too_many(limits) from error
        raise Problem("bad-request", f"The form cannot be read: {error.message}") from error
    pictures: list[Upload] = []
    boxes: NDArray[np.float32] | None = None
    for field, value in form.multi_items():
        if field == "files" and isinstance(value, UploadFile):
            name = value.filename or f"picture {len(pictures)}"
            kind = (value.content_type or "").split(";")[0].strip().lower()
            _check_type(kind, name)
            pictures.append(Upload(name, await value.read(), _declared(kind)))
            await value.close()
        elif field == "boxes" and isinstance(value, str) and boxes is None:
            boxes = _read_boxes(value, limits)
        else:
            raise Problem(
                "bad-request",
                f"The form field '{field[:100]}' is not expected: 'files' holds pictures with their "
                "file names, 'boxes' once the boxes as JSON.",
            )
    if not pictures:
        raise Problem("bad-request", "No picture came: send one or more in the form field 'files'.")
    if len(pictures) > limits.files:
        raise _too_many(limits)
    if boxes is not None and len(pictures) > 1:
        raise Problem("bad-request", "Boxes go with one picture: send the pictures one by one.")
    return Uploads(pictures, boxes)


def _too_many(limits: Limits) -> Problem:
    return Problem(
        "too-large", f"More than {limits.files} pictures in one request: send them in several."
    )


def _check_type(kind: str, name: str) -> None:
    if kind not in MEDIA_TYPES and kind not in _UNTYPED:
        raise Problem(
            "unsupported-type",
            f"{name or 'The body'} is declared as {kind[:100]}: send pictures as "
            f"{', '.join(sorted(MEDIA_TYPES))}, or as application/octet-stream.",
            source=name or None,
        )


def _declared(kind: str) -> str | None:
    return None if kind in _UNTYPED else kind


def _read_boxes(text: str, limits: Limits) -> NDArray[np.float32]:
    """(N, 4) boxes of a pixel at least."""
    wrong = Problem(
        "bad-parameter",
        f"boxes: must be a JSON array of at most {limits.faces} boxes [x0, y0, x1, y1] in pixels, each "
        "at least one pixel wide and high.",
    )
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise wrong from error
    if not isinstance(value, list) or not 0 < len(value) <= limits.faces:
        raise wrong
    for box in value:
        if not isinstance(box, list) or len(box) != 4 or {*map(type, box)} - {int, float}:
            raise wrong
        # Far beyond any picture, numbers lose their pixels.
        if not all(-1e6 < v < 1e6 for v in box) or min(box[2] - box[0], box[3] - box[1]) < 1:
            raise wrong
    return np.array(value, np.float32)
