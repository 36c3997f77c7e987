"""The images in a request's body, kept in memory only."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from facial_keypoints.io.images import MEDIA_TYPES
from facial_keypoints.service.answers import Job, Question
from facial_keypoints.service.limits import Limits
from facial_keypoints.service.problems import Problem, busy

__all__ = ["BodyMemory", "read_uploads"]

# The last is the default of curl and of Python's urllib.
_UNTYPED = ("", "application/octet-stream", "application/x-www-form-urlencoded")

_BOXES = TypeAdapter(
    Annotated[list[tuple[float, float, float, float]], Field(min_length=1)],
    config=ConfigDict(strict=True),
)


class BodyMemory:
    """Counts the bytes of all bodies in memory.

    Args:
        limit: Most bytes at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    @contextmanager
    def lease(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that counts bytes of one request until the block ends.

        The function raises ``Problem`` if all bodies together would have too many bytes.
        """
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            if self.held + count > self._limit:
                raise busy("Too many uploads are under way: try again in a moment.")
            self.held += count
            taken += count

        try:
            yield take
        finally:
            self.held -= taken


class _FormParser(MultiPartParser):
    """Starlette's parser, but it keeps files in memory and refuses a form without its last boundary."""

    complete = False

    def __init__(self, headers: Headers, body: AsyncGenerator[bytes], limits: Limits) -> None:
        super().__init__(
            headers,
            self._whole(body),
            max_files=limits.files,
            max_fields=10,  # one is expected; the first that is not is named
            max_part_size=limits.body_bytes,
        )
        self.spool_max_size = limits.body_bytes

    def on_end(self) -> None:
        self.complete = True

    async def _whole(self, body: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        async for chunk in body:
            yield chunk
        if not self.complete:
            raise MultiPartException("its last boundary is missing")


async def read_uploads(
    request: Request,
    take: Callable[[int], None],
    limits: Limits,
    question: Question,
) -> list[Job]:
    """Read the body of a request: a form with ``files`` and ``boxes``, or one image file.

    Args:
        request: A request whose body was not read yet.
        take: Counts its bytes, see :meth:`BodyMemory.lease`.
        limits: Limits of the body and its files.
        question: The question about the images, with the name of one that is sent without a form.

    Returns:
        One job per image, one or more.

    Raises:
        Problem: The body is too large, is a broken form, or has no image.
    """
    kind = _media_type(request.headers.get("content-type", ""))
    body = _limited(request, take, limits.body_bytes)
    try:
        if kind == "multipart/form-data":
            return await _read_form(request, body, limits, question)
        media_type = _image_type(kind, question.source)
        content = b"".join([chunk async for chunk in body])
    except ClientDisconnect as error:
        raise Problem("bad-request", "The upload was interrupted.") from error
    if not content:
        raise Problem(
            "bad-request",
            "No image came: send one as the body, or several in the form field 'files'.",
        )
    return [Job(question.source, content, media_type, None, question)]


async def _limited(
    request: Request, take: Callable[[int], None], limit: int
) -> AsyncGenerator[bytes]:
    problem = Problem(
        "too-large",
        f"The body has more than {limit:,} bytes: send fewer or smaller images.",
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > 4 * limit:
        # Too much to read only so that the client sees the reply.
        raise Problem(problem.kind, problem.detail, headers=(("Connection", "close"),))
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
        if count > 4 * limit:
            break
        # A client that is still sending would not see a refusal, so the rest is read and dropped.
        if count <= limit:
            take(len(chunk))
            yield chunk
    if count > limit:
        raise problem


async def _read_form(
    request: Request, body: AsyncGenerator[bytes], limits: Limits, question: Question
) -> list[Job]:
    try:
        form = await _FormParser(request.headers, body, limits).parse()
    except (MultiPartException, ValueError) as error:
        if str(error).startswith("Too many files"):
            raise Problem(
                "too-large",
                f"More than {limits.files} images in one request: send them in several requests.",
            ) from error
        reason = str(error.__cause__ or error).rstrip(".")
        raise Problem("bad-request", f"The form cannot be read ({reason}).") from error
    try:
        return await _jobs(form, limits, question)
    finally:
        await form.close()


async def _jobs(form: FormData, limits: Limits, question: Question) -> list[Job]:
    images: list[tuple[str, bytes, str | None]] = []
    boxes: NDArray[np.float32] | None = None
    for field, value in form.multi_items():
        if field == "files" and isinstance(value, UploadFile):
            name = value.filename or f"image {len(images)}"
            media_type = _image_type(_media_type(value.content_type or ""), name)
            images.append((name, await value.read(), media_type))
            await value.close()  # so that its bytes are in memory once
        elif field == "boxes" and isinstance(value, str) and boxes is None:
            boxes = _read_boxes(value, limits)
        else:
            raise Problem(
                "bad-request",
                f"The form field '{field[:100]}' is not expected: 'files' holds images with their "
                "file names, 'boxes' once the boxes as JSON.",
            )
    if not images:
        raise Problem("bad-request", "No image came: send one or more in the form field 'files'.")
    if boxes is not None and len(images) > 1:
        raise Problem("bad-request", "Boxes go with one image: send the images one by one.")
    return [Job(*each, boxes, question) for each in images]


def _media_type(header: str) -> str:
    return header.split(";", maxsplit=1)[0].strip().lower()


def _image_type(kind: str, name: str) -> str | None:
    """The declared type of an image; ``None`` where a client declares none."""
    if kind in _UNTYPED:
        return None
    if kind not in MEDIA_TYPES:
        raise Problem(
            "unsupported-type",
            f"{name or 'The body'} has the type {kind[:100]}: send images as "
            f"{', '.join(sorted(MEDIA_TYPES))}, or as application/octet-stream.",
            source=name or None,
        )
    return kind


def _read_boxes(text: str, limits: Limits) -> NDArray[np.float32]:
    """(N, 4) boxes, each at least one pixel wide and high."""
    wrong = Problem(
        "bad-parameter",
        f"boxes: must be a JSON array of at most {limits.faces} boxes [x0, y0, x1, y1] in pixels, each "
        "at least one pixel wide and high.",
    )
    try:
        boxes = np.array(_BOXES.validate_json(text))
    except ValidationError as error:
        raise wrong from error
    # float32 has no exact pixels far outside any image.
    near = (np.abs(boxes) < 1e6).all()
    if len(boxes) > limits.faces or not near or (boxes[:, 2:] - boxes[:, :2] < 1).any():
        raise wrong
    return boxes.astype(np.float32)
