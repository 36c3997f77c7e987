"""Pictures out of a request's body, kept in memory only."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from facial_keypoints.pictures import MEDIA_TYPES
from facial_keypoints.service.limits import Limits
from facial_keypoints.service.problems import Problem, busy

__all__ = ["BodyMemory", "Lease", "Upload", "Uploads", "read_uploads"]

# The last is what curl and Python's urllib say of a body if they are not told.
_UNTYPED = ("", "application/octet-stream", "application/x-www-form-urlencoded")


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


@dataclass(eq=False)
class _Part:
    """One field of a form; ``file_name`` is ``None`` where the field is no file."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    name: str = ""
    file_name: str | None = None
    data: bytearray = field(default_factory=bytearray)


class _Form:
    """A form's fields, kept in memory: Starlette's own parser moves files of 1 MB and more to disk.

    Args:
        boundary: What parts the fields.
        limits: Of the number of files.
    """

    def __init__(self, boundary: bytes, limits: Limits) -> None:
        self.parts: list[_Part] = []
        self.whole = False
        self._limits = limits
        self._header, self._value = bytearray(), bytearray()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": lambda: self.parts.append(_Part()),
                "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": lambda data, start, end: self.parts[-1].data.extend(
                    data[start:end]
                ),
                "on_end": self._end,
            },
        )

    def write(self, chunk: bytes) -> None:
        """Take in a piece of the body.

        Raises:
            FormParserError: It is no form.
            Problem: It has too many fields.
        """
        self._parser.write(chunk)

    def _end_header(self) -> None:
        self.parts[-1].headers[bytes(self._header).lower()] = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        part = self.parts[-1]
        _, options = parse_options_header(part.headers.get(b"content-disposition", b""))
        part.name = _text(options.get(b"name", b""))
        part.file_name = _text(options[b"filename"]) if b"filename" in options else None
        if sum(each.file_name is not None for each in self.parts) > self._limits.files:
            raise Problem(
                "too-large",
                f"More than {self._limits.files} pictures in one request: send them in several.",
            )
        if len(self.parts) > self._limits.files + 1:
            raise Problem("bad-request", "The form has too many fields.")

    def _end(self) -> None:
        self.whole = True


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


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
    kind = _media_type(request.headers.get("content-type", ""))
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
    _, options = parse_options_header(request.headers["content-type"])
    try:
        form = _Form(options.get(b"boundary", b""), limits)
        async for chunk in body:
            form.write(chunk)
    except FormParserError as error:
        raise Problem("bad-request", f"The form cannot be read ({error}).") from error
    if not form.whole:
        raise Problem("bad-request", "The form is not complete: its last boundary is missing.")
    pictures: list[Upload] = []
    boxes: NDArray[np.float32] | None = None
    for part in form.parts:
        if part.name == "files" and part.file_name is not None:
            name = part.file_name or f"picture {len(pictures)}"
            kind = _media_type(part.headers.get(b"content-type", b"").decode("latin-1"))
            _check_type(kind, name)
            pictures.append(Upload(name, bytes(part.data), _declared(kind)))
            part.data.clear()  # not held twice
        elif part.name == "boxes" and part.file_name is None and boxes is None:
            boxes = _read_boxes(bytes(part.data), limits)
        else:
            raise Problem(
                "bad-request",
                f"The form field '{part.name[:100]}' is not expected: 'files' holds pictures with their "
                "file names, 'boxes' once the boxes as JSON.",
            )
    if not pictures:
        raise Problem("bad-request", "No picture came: send one or more in the form field 'files'.")
    if boxes is not None and len(pictures) > 1:
        raise Problem("bad-request", "Boxes go with one picture: send the pictures one by one.")
    return Uploads(pictures, boxes)


def _media_type(header: str) -> str:
    return header.split(";", maxsplit=1)[0].strip().lower()


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


def _read_boxes(text: bytes, limits: Limits) -> NDArray[np.float32]:
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
