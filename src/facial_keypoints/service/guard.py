"""ASGI middleware around every request: access, time limit and metrics. Knows nothing of images."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import prometheus_client
from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facial_keypoints.service.problems import Problem, busy

__all__ = ["Access", "Guard", "Metrics"]

_HEALTH = ("/healthz", "/readyz")

_HEADERS = {
    # The page uses only its own files; WebAssembly and workers run the models in the browser.
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval' blob:; worker-src 'self' blob:; "
        "connect-src 'self' blob: data:; img-src 'self' blob: data:; media-src 'self' blob:; "
        "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Access:
    """Who may send requests.

    Args:
        token: Bearer token, needed for everything except the page, ``/docs`` and the health checks;
            ``None`` for no token.
        origins: Origins of other web pages that may send requests; ``*`` for all.
        hosts: Host names that the service answers to, besides IP addresses and ``localhost``; empty for
            any. This refuses pages whose host name was redirected to this machine (DNS rebinding).
    """

    token: str | None = None
    origins: Collection[str] = ()
    hosts: Collection[str] = ()

    def check(self, path: str, method: str, headers: Headers) -> Problem | None:
        """Why a request is refused; ``None`` if it is not."""
        host = headers.get("host", "")
        # A client without a host name is no browser, so no page can have sent it.
        if self.hosts and host and not self._is_ours(host.lower()):
            return Problem(
                "unknown-host",
                f"This service does not answer to the name '{host[:100]}': use its address, or start it "
                "with --allowed-host.",
            )
        origin = headers.get("origin")
        foreign = origin is not None and origin.partition("://")[2] != host
        if foreign and not {"*", origin} & {*self.origins}:
            return Problem(
                "foreign-page",
                f"Pages of {str(origin)[:100]} may not send requests to this service: start it with --allow-origin.",
            )
        needs_token = path.startswith("/v1/") or path == "/metrics"
        if self.token is not None and needs_token and method != "OPTIONS":
            kind, _, given = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(given.strip().encode(), self.token.encode())
            if kind.lower() != "bearer" or not right:
                return Problem(
                    "not-authorized",
                    "This service needs a token: send the header 'Authorization: Bearer TOKEN'.",
                    headers=(("WWW-Authenticate", "Bearer"),),
                )
        return None

    def _is_ours(self, host: str) -> bool:
        parts = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(:\d*)?", host)
        name = parts[1].removesuffix(".") if parts else ""
        if name == "localhost" or "*" in self.hosts or name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


class Metrics:
    """Counts for Prometheus, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        of_service: Any = {"namespace": "facial_keypoints", "registry": self.registry}
        self.requests = prometheus_client.Counter(
            "requests", "Requests answered.", ["path", "status"], **of_service
        )
        self.seconds = Histogram(
            "request_seconds", "Time from a request's head to the end of its answer.", ["path"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30), **of_service,
        )  # fmt: skip
        self.images = prometheus_client.Counter(
            "images", "Images, by outcome.", ["outcome"], **of_service
        )
        self.faces = prometheus_client.Counter("faces", "Faces in answers.", **of_service)
        sizes = (1, 2, 4, 8, 16, 32)
        self.batch = Histogram(
            "batch_images", "Images computed together.", buckets=sizes, **of_service
        )
        self.under_way = Gauge("requests_under_way", "Requests not answered yet.", **of_service)
        self.waiting = Gauge("images_waiting", "Images that wait for a thread.", **of_service)
        self.held = Gauge("body_bytes", "Bytes of bodies held in memory.", **of_service)


class Guard:
    """Checks each request before it reaches the application, and counts it afterwards.

    Args:
        app: The application.
        access: Who may send requests.
        metrics: The counters.
        requests: Most questions (POST) under way at once, and as many downloads; health checks are always
            answered.
        seconds: Most seconds from the head of a POST request to the end of its answer; a client that
            does not read its answer is disconnected. Downloads have no limit.
    """

    def __init__(
        self, app: ASGIApp, access: Access, metrics: Metrics, *, requests: int, seconds: float
    ) -> None:
        self._app, self._access, self._metrics = app, access, metrics
        self._most, self._seconds = requests, seconds
        self._under_way = Counter[bool]()  # of questions (True) and of downloads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500
        scope = {**scope, "path": scope["path"].rstrip("/") or "/"}

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                # Files may be kept if the service is asked whether they changed, answers not at all.
                kept = "no-cache" if "etag" in headers else "no-store"
                headers.setdefault("Cache-Control", kept)
            await send(message)

        headers = Headers(scope=scope)
        problem = self._access.check(scope["path"], scope["method"], headers)
        if "content-length" in headers and "transfer-encoding" in headers:
            # A proxy in front may take the other one for the end of the request.
            problem = Problem(
                "bad-request",
                "A request has Content-Length or Transfer-Encoding, not both.",
                headers=(("Connection", "close"),),
            )
        question, health = scope["method"] == "POST", scope["path"] in _HEALTH
        if problem is None and not health and self._under_way[question] >= self._most:
            problem = busy("Too many requests are under way: try again in a moment.")
        self._under_way[question] += not health
        self._metrics.under_way.set(self._under_way.total())
        try:
            if problem is not None:
                await problem.response()(scope, receive, send_with_headers)
            else:
                async with asyncio.timeout(self._seconds if question else None):
                    await self._app(scope, receive, send_with_headers)
        except TimeoutError:
            status = 499  # nginx's code for a closed connection, which the server closes here
        finally:
            self._under_way[question] -= not health
            self._metrics.under_way.set(self._under_way.total())
            # Only paths of routes: paths that clients invent would fill the memory.
            path = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - start)
