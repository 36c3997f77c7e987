"""The images in a request's body, kept in memory only."""

from __future__ import annotations

import asyncio
import base64
import binascii
import codecs
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from typing import Annotated, Any
from urllib.parse import unquote

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from facial_keypoints.io.images import MEDIA_TYPES
from facial_keypoints.service.answers import Job, Question
from facial_keypoints.service.limits import Limits
from facial_keypoints.service.problems import Problem, busy, invalid

__all__ = [
    "BodyMemory", "ImageData", "LabelFiles", "Uploads", "json_body", "read_labels_form", "read_uploads"
]  # fmt: skip

Uploads = tuple[Question, list[Job | Problem]]
"""The question of a request and, for each image in order, its job or why it cannot be used."""

LabelFiles = tuple[list[tuple[str, bytes]], dict[str, tuple[int, int]], bytes | None]
"""Path and content of each file of labels, the (width, height) of images by name, and a schema in JSON."""

_MOST_FILES = 20_000  # of labels; some formats have one for each image

# The last is the default of curl and of Python's urllib.
_UNTYPED = ("", "application/octet-stream", "application/x-www-form-urlencoded")

# RFC 8187; RFC 7578 would have no such names in forms, but programs send them.
_EXTENDED_NAME = re.compile(rb";\s*filename\*\s*=\s*\"?([\w-]+)'[^']*'([^;\"\s]*)", re.IGNORECASE)

_Boxes = Annotated[list[tuple[float, float, float, float]], Field(min_length=1)]
_BOXES = TypeAdapter(_Boxes, config=ConfigDict(strict=True))
_Side = Annotated[int, Field(gt=0, lt=1_000_000)]
_SIZES = TypeAdapter(dict[str, tuple[_Side, _Side]])


class ImageData(BaseModel):
    """An image inside a JSON body."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field("", max_length=1000, description="Name of the image.")
    data: str = Field(description="The image file in base64, or a `data:` URL with it.")


@cache
def json_body(question: type[Question]) -> type[Question]:
    """What a JSON body holds: images, their boxes and the parameters of a question."""
    images = Annotated[list[ImageData], Field(min_length=1, description="The images.")]
    boxes = Field(None, description="For a single image: the box [x0, y0, x1, y1] of each face.")
    more: Any = {"images": (images, ...), "boxes": (_Boxes | None, boxes)}
    body: Any = create_model(f"{question.__name__}Body", __base__=question, **more)
    return body  # type: ignore[no-any-return]


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

    def __init__(
        self, headers: Headers, body: AsyncGenerator[bytes], limits: Limits, most: int
    ) -> None:
        super().__init__(
            headers,
            self._whole(body),
            max_files=most,
            max_fields=10,  # one is expected; the first that is not is named
            max_part_size=limits.body_bytes,
        )
        self.spool_max_size = limits.body_bytes

    def on_headers_finished(self) -> None:
        part = self._current_part
        extended = _EXTENDED_NAME.search(part.content_disposition or b"")
        options = parse_options_header(part.content_disposition)[1]
        if options.get(b"name") == b"files" and b"filename" not in options:
            part.content_disposition = (part.content_disposition or b"") + b'; filename=""'
        super().on_headers_finished()
        if extended and part.file:
            with suppress(LookupError):  # an unknown encoding
                charset, name = (text.decode("latin-1") for text in extended.groups())
                part.file.filename = unquote(name, charset)

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
) -> Uploads:
    """Read the body of a request: a form with ``files`` and ``boxes``, JSON, or one image file.

    Args:
        request: A request whose body was not read yet.
        take: Counts its bytes, see :meth:`BodyMemory.lease`.
        limits: Limits of the body and its files.
        question: The question about the images, with the name of one that is sent without a form.

    Returns:
        The question, with what a JSON body adds, and for each image its job or problem, one or more.

    Raises:
        Problem: The body is too large, cannot be understood, or has no image.
    """
    kind = _media_type(request.headers.get("content-type", ""))
    body = _limited(request, take, limits.body_bytes)
    try:
        if kind == "multipart/form-data":
            return question, await _read_form(request, body, limits, question)
        is_json = kind == "application/json"
        media_type = None if is_json else _image_type(kind, question.source)
        content = b"".join([chunk async for chunk in body])
    except ClientDisconnect as error:
        raise Problem("bad-request", "The upload was interrupted.") from error
    if not content:
        raise Problem(
            "bad-request",
            "No image came: send one as the body, or several in the form field 'files'.",
        )
    if is_json:
        take(len(content))  # the images that it holds
        return await asyncio.to_thread(_read_json, content, limits, question)
    return question, [Job(question.source, content, media_type, None, question)]


def _read_json(content: bytes, limits: Limits, question: Question) -> Uploads:
    kind = type(question)
    try:
        body: Any = json_body(kind).model_validate_json(content, strict=True)
        given = body.model_dump(exclude_unset=True, exclude={"images", "boxes"})
        question = kind.model_validate(question.model_dump(exclude_unset=True) | given)
    except ValidationError as error:
        raise invalid(error.errors(include_input=False)) from error
    boxes = None if body.boxes is None else _as_boxes(body.boxes, limits)
    _check_counts(len(body.images), boxes, limits)
    uploads: list[Job | Problem] = []
    for i, image in enumerate(body.images):
        name = image.source or question.source or f"image {i}"
        try:
            head, comma, data = image.data.rpartition(",")
            media_type = _image_type(_media_type(head.removeprefix("data:")), name)
            if comma and not (head.startswith("data:") and head.endswith(";base64")):
                raise binascii.Error
            # Line breaks, the letters of URLs and missing padding are usual.
            data = "".join(data.split()).rstrip("=").translate({45: "+", 95: "/"})
            file = base64.b64decode(data + "=" * (-len(data) % 4), validate=True)
            uploads.append(Job(name, file, media_type, boxes, question))
        except (ValueError, binascii.Error):
            text = f"{name}: its data is neither base64 nor a data: URL in base64."
            uploads.append(Problem("bad-image", text, source=name))
        except Problem as problem:
            uploads.append(problem)
    return question, uploads


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


async def read_labels_form(
    request: Request, take: Callable[[int], None], limits: Limits
) -> LabelFiles:
    """Read a form with ``files`` of labels and, as JSON, ``images`` and ``schema``.

    Raises:
        Problem: The body is too large, cannot be understood, or has no file.
    """
    if _media_type(request.headers.get("content-type", "")) != "multipart/form-data":
        raise Problem("bad-request", "Send the labels as a form, in its field 'files'.")
    body = _limited(request, take, limits.body_bytes)
    files: list[tuple[str, bytes]] = []
    images: dict[str, tuple[int, int]] = {}
    schema: bytes | None = None
    try:
        async with _form(request, body, limits, _MOST_FILES, "files") as form:
            for name, value in form.multi_items():
                content = value.encode() if isinstance(value, str) else await value.read()
                if name == "files" and isinstance(value, UploadFile):
                    files.append((value.filename or "labels", content))
                elif name == "images":
                    images = _SIZES.validate_json(content)
                elif name == "schema":
                    schema = content
                else:
                    raise Problem(
                        "bad-request",
                        f"The form field '{name[:100]}' is not expected: 'files' holds labels with their file names, "
                        "'images' the [width, height] of images by name, 'schema' the keypoints.",
                    )
    except ClientDisconnect as error:
        raise Problem("bad-request", "The upload was interrupted.") from error
    except ValidationError as error:
        raise Problem(
            "bad-parameter",
            "images: must be a JSON object of the [width, height] in pixels of each image, by its name.",
        ) from error
    if not files:
        raise Problem("bad-request", "No labels came: send them in the form field 'files'.")
    return files, images, schema


@asynccontextmanager
async def _form(
    request: Request, body: AsyncGenerator[bytes], limits: Limits, most: int, what: str
) -> AsyncIterator[FormData]:
    """The form of a request, with at most so many files, and one more."""
    try:
        form = await _FormParser(request.headers, body, limits, most + 1).parse()
    except (MultiPartException, ValueError) as error:
        if str(error).startswith("Too many files"):
            raise _too_many(most, what) from error
        reason = str(error.__cause__ or error).rstrip(".")
        raise Problem("bad-request", f"The form cannot be read ({reason}).") from error
    try:
        yield form
    finally:
        await form.close()


async def _read_form(
    request: Request, body: AsyncGenerator[bytes], limits: Limits, question: Question
) -> list[Job | Problem]:
    async with _form(request, body, limits, limits.files, "images") as form:
        return await _jobs(form, limits, question)


async def _jobs(form: FormData, limits: Limits, question: Question) -> list[Job | Problem]:
    images: list[tuple[str, bytes, str | None] | Problem] = []
    boxes: NDArray[np.float32] | None = None
    for field, value in form.multi_items():
        if field == "files" and isinstance(value, UploadFile):
            name = value.filename or f"image {len(images)}"
            try:
                media_type = _image_type(_media_type(value.content_type or ""), name)
                images.append((name, await value.read(), media_type))
            except Problem as problem:
                images.append(problem)
            await value.close()  # so that its bytes are in memory once
        elif field == "boxes" and boxes is None:
            boxes = _read_boxes(value if isinstance(value, str) else await value.read(), limits)
        else:
            raise Problem(
                "bad-request",
                f"The form field '{field[:100]}' is not expected: 'files' holds images with their "
                "file names, 'boxes' once the boxes as JSON.",
            )
    if not images:
        raise Problem("bad-request", "No image came: send one or more in the form field 'files'.")
    _check_counts(len(images), boxes, limits)
    return [each if isinstance(each, Problem) else Job(*each, boxes, question) for each in images]


def _check_counts(images: int, boxes: NDArray[np.float32] | None, limits: Limits) -> None:
    if images > limits.files:
        raise _too_many(limits.files, "images")
    if boxes is not None and images > 1:
        raise Problem("bad-request", "Boxes go with one image: send the images one by one.")


def _too_many(most: int, what: str) -> Problem:
    return Problem(
        "too-large", f"More than {most} {what} in one request: send them in several requests."
    )


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


def _read_boxes(text: str | bytes, limits: Limits) -> NDArray[np.float32]:
    if isinstance(text, bytes):
        text = text.removeprefix(codecs.BOM_UTF8)
    try:
        return _as_boxes(_BOXES.validate_json(text), limits)
    except ValidationError as error:
        raise _wrong_boxes(limits) from error


def _wrong_boxes(limits: Limits) -> Problem:
    return Problem(
        "bad-parameter",
        f"boxes: must be a JSON array of at most {limits.faces} boxes [x0, y0, x1, y1] in pixels, each "
        "at least one pixel wide and high.",
    )


def _as_boxes(
    values: Sequence[tuple[float, float, float, float]], limits: Limits
) -> NDArray[np.float32]:
    """(N, 4) boxes, each at least one pixel wide and high."""
    boxes = np.array(values)
    # float32 has no exact pixels far outside any image.
    near = (np.abs(boxes) < 1e6).all()
    if len(boxes) > limits.faces or not near or (boxes[:, 2:] - boxes[:, :2] < 1).any():
        raise _wrong_boxes(limits)
    return boxes.astype(np.float32)
