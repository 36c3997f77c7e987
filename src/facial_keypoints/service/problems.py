"""Errors as RFC 9457 defines them: ``application/problem+json`` with a sentence for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import Request
from starlette.responses import Response

__all__ = [
    "KINDS",
    "Problem",
    "busy",
    "invalid",
    "on_http_error",
    "on_invalid_query",
    "on_problem",
    "on_unexpected",
    "to_json",
]

Headers = tuple[tuple[str, str], ...]

KINDS: dict[str, tuple[int, str]] = {
    "bad-request": (400, "The request cannot be understood"),
    "bad-parameter": (422, "A parameter is not what it should be"),
    "bad-image": (422, "The image cannot be used"),
    "bad-labels": (422, "The labels cannot be used"),
    "no-face": (422, "There is no face to answer with"),
    "not-aligned": (422, "A face cannot be aligned"),
    "too-large": (413, "The request is too large"),
    "unsupported-type": (415, "The content has another type than those supported"),
    "slow-upload": (408, "The upload took too long"),
    "internal-error": (500, "The service failed at an image"),
    "busy": (503, "The service is busy"),
    "took-too-long": (503, "The answer took too long"),
    "not-available": (501, "This service cannot answer that"),
    "not-authorized": (401, "A token is needed"),
    "foreign-page": (403, "The request comes from a page of another origin"),
    "unknown-host": (421, "The service is not known by this name"),
}
"""Status and title of each kind of problem; its ``type`` is ``urn:facial-keypoints:KIND``."""


class Problem(Exception):
    """A refusal with its reason.

    Args:
        kind: One of :data:`KINDS`.
        detail: One sentence: what is wrong and what to do.
        source: Name of the image that it is about, if it is about one.
        headers: Additional headers of the reply.
    """

    def __init__(
        self, kind: str, detail: str, *, source: str | None = None, headers: Headers = ()
    ) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.source, self.headers = kind, detail, source, headers

    def as_dict(self) -> dict[str, Any]:
        """The members of the problem document."""
        status, title = KINDS[self.kind]
        value = {
            "type": f"urn:facial-keypoints:{self.kind}",
            "title": title,
            "status": status,
            "detail": " ".join(self.detail.split()),
        }
        return value if self.source is None else {**value, "source": self.source}

    def response(self) -> Response:
        """The whole reply."""
        return _reply(self.as_dict(), dict(self.headers))


def busy(detail: str) -> Problem:
    """The refusal of a request that finds the service full; the client may retry after a second."""
    return Problem("busy", detail, headers=(("Retry-After", "1"),))


def to_json(value: Any) -> bytes:
    """JSON in UTF-8; half a surrogate pair, which a file name may hold, becomes a question mark."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def _reply(value: dict[str, Any], headers: dict[str, str]) -> Response:
    return Response(
        to_json(value),
        status_code=value["status"],
        media_type="application/problem+json",
        headers={"Cache-Control": "no-store", **headers},
    )


def _plain(status: int, detail: str, headers: dict[str, str]) -> Response:
    """A problem that needs no more explanation than its HTTP status."""
    title = HTTPStatus(status).phrase
    return _reply(
        {"type": "about:blank", "title": title, "status": status, "detail": detail}, headers
    )


def invalid(errors: Sequence[Any]) -> Problem:
    """The refusal of parameters.

    Args:
        errors: What pydantic says of them; the first is told.
    """
    kind, message = errors[0]["type"], str(errors[0]["msg"])
    name = ".".join(str(part) for part in errors[0]["loc"] if part != "query")[:100]
    if kind == "json_invalid":
        return Problem("bad-request", f"The body is no JSON ({message}).")
    if kind == "value_error":  # a sentence of ours
        return Problem("bad-parameter", message.removeprefix("Value error, "))
    if kind == "extra_forbidden":
        message = "there is no such parameter: /docs lists them"
    return Problem("bad-parameter", f"{name or 'body'}: {message[:1].lower()}{message[1:]}.")


async def on_problem(request: Request, error: Any) -> Response:
    """Handler for :class:`Problem`."""
    response: Response = error.response()
    return response


async def on_http_error(request: Request, error: Any) -> Response:
    """Handler for Starlette's ``HTTPException``: unknown paths, wrong methods."""
    path = request.url.path[:100]
    sentences = {
        404: f"There is nothing at {path}: /docs lists all paths.",
        405: f"{path} does not take {request.method}: /docs lists the methods.",
    }
    detail = sentences.get(error.status_code, str(error.detail))
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers.setdefault("Allow", "GET, HEAD")  # of the page's files
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
    return _plain(error.status_code, detail, headers)


async def on_invalid_query(request: Request, error: Any) -> Response:
    """Handler for query parameters that do not fit their description (``RequestValidationError``)."""
    return invalid(error.errors()).response()


async def on_unexpected(request: Request, error: Exception) -> Response:
    """Handler for unexpected errors, which the log describes and the reply does not."""
    return _plain(500, "The service failed; its log has the details.", {})
