"""The guard around the application, with a small application in its place."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("fastapi")

from facial_keypoints.service.guard import Access, Guard, Metrics


class Asked:
    """An application that answers when its gate opens, behind a guard."""

    def __init__(self, seconds: float = 30.0) -> None:
        self.gate = asyncio.Event()
        self.metrics = Metrics()
        self.guard = Guard(self.answer, Access(), self.metrics, requests=1, seconds=seconds)

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] not in ("/healthz", "/readyz"):
            await self.gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def ask(self, method: str, path: str, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
        """The start of the answer; empty if there was none."""
        sent: list[dict[str, Any]] = [{}]

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": method, "path": path, "headers": [*headers]}
        await self.guard(scope, None, send)  # type: ignore[arg-type]
        return sent[min(1, len(sent) - 1)]

    async def under_way(self, method: str) -> asyncio.Task[dict[str, Any]]:
        task = asyncio.create_task(self.ask(method, "/slow"))
        await asyncio.sleep(0)
        return task


def test_health_is_answered_while_the_limit_of_requests_is_reached() -> None:
    async def story() -> None:
        asked = Asked()
        tasks = [await asked.under_way("POST"), await asked.under_way("GET")]
        for method in ("POST", "GET", "HEAD"):
            assert (await asked.ask(method, "/other"))["status"] == 503
        for path in ("/healthz", "/readyz", "/healthz/"):
            assert (await asked.ask("GET", path))["status"] == 200
        asked.gate.set()
        assert [(await task)["status"] for task in tasks] == [200, 200]
        assert (await asked.ask("GET", "/other"))["status"] == 200  # their places are free again

    asyncio.run(story())


def test_downloads_take_no_place_of_questions() -> None:
    async def story() -> None:
        asked = Asked()
        tasks = [await asked.under_way(method) for method in ("GET", "POST")]
        asked.gate.set()
        assert [(await task)["status"] for task in tasks] == [200, 200]

    asyncio.run(story())


def test_two_lengths_of_a_body_are_refused_and_close_the_connection() -> None:
    async def story() -> None:
        asked = Asked()
        asked.gate.set()
        length, chunked = (b"content-length", b"5"), (b"transfer-encoding", b"chunked")
        for one in (length, chunked):
            assert (await asked.ask("POST", "/", one))["status"] == 200
        start = await asked.ask("POST", "/", length, chunked)
        assert start["status"] == 400
        assert dict(start["headers"])[b"connection"] == b"close"

    asyncio.run(story())


def test_a_question_past_its_time_ends_and_a_download_does_not() -> None:
    async def story() -> None:
        asked = Asked(seconds=0.0)
        assert await asked.ask("POST", "/slow") == {}
        value = asked.metrics.registry.get_sample_value
        labels = {"path": "other", "status": "499"}
        assert value("facial_keypoints_requests_total", labels) == 1
        assert value("facial_keypoints_requests_under_way") == 0
        download = await asked.under_way("GET")
        asked.gate.set()
        assert (await download)["status"] == 200

    asyncio.run(story())
