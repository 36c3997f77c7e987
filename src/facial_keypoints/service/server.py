"""Uvicorn for this service: opens the socket, closes idle connections, ends after the last answer."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import signal
import socket
import sys
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from facial_keypoints.errors import FacialKeypointsError
from facial_keypoints.service.limits import Limits

__all__ = ["make_server", "open_socket", "run"]

HEAD_SECONDS = 10.0
"""Time for the head of a request, and for the rest of a body that was refused."""

WRITE_SECONDS = 30.0
"""Time in which a client must take something of an answer that waits for it."""

LOG_SECONDS = 60.0
"""Least time between two lines about connections that the system refuses."""


class _Protocol(H11Protocol):
    """Closes idle connections and those of clients that do not read; uvicorn itself would wait for ever."""

    _watch: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_idle()

    def _watch_idle(self) -> None:
        self._watch = self.loop.call_later(HEAD_SECONDS, self._close_if_idle)

    def on_response_complete(self) -> None:
        self._stop_watch()
        self._watch_idle()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watch()
        self._stop_unread()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_unread()

    def resume_writing(self) -> None:
        self._stop_unread()
        self._stop_watch()
        self._watch_idle()  # the answer may be complete
        super().resume_writing()

    def _watch_unread(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        self._unread = self.loop.call_later(WRITE_SECONDS, self._close_if_unread, waiting)

    def _close_if_unread(self, before: int) -> None:
        if self.transport.get_write_buffer_size() >= before:
            self.transport.abort()
        else:
            self._watch_unread()

    def _stop_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _stop_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()

    def _close_if_idle(self) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._unread is None:
            self.transport.abort()


class _Server(uvicorn.Server):
    """Says once a minute that the system gives no more connections; asyncio would say it thousands of times."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        said = -math.inf

        def on_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            nonlocal said
            error = context.get("exception")
            if not isinstance(error, OSError) or error.errno not in _NO_MORE:
                loop.default_exception_handler(context)
            elif loop.time() - said >= LOG_SECONDS:
                said = loop.time()
                _LOG.error(
                    "No more connections can be opened (%s): raise the limit of open files.",
                    error.strerror,
                )

        loop.set_exception_handler(on_error)
        await super().startup(sockets)


_NO_MORE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_LOG = logging.getLogger(__name__)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of uvicorn tells more than that a client or the end of the service broke off a request."""
    error = record.exc_info[1] if record.exc_info else None
    known = ("ASGI callable returned without", "Cancel ")
    return not isinstance(error, asyncio.CancelledError) and not record.getMessage().startswith(
        known
    )


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket.

    Args:
        host: Name or address.
        port: 0 for any that is free.

    Raises:
        FacialKeypointsError: The address cannot be used.
    """
    listening = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )[0]
        # Not socket.create_server, which sets no protocol: asyncio would not recognise the socket as TCP
        # and leave Nagle's algorithm on, which delays the last packet of each answer by 40 ms.
        listening = socket.socket(family, kind, protocol)
        if os.name == "posix":  # elsewhere it would share the port with another service
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)
        return listening
    except (OSError, OverflowError, UnicodeError) as error:
        if listening is not None:
            listening.close()
        # Python adds the address to the system's message.
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (while")[0]
        raise FacialKeypointsError(
            f"the service cannot listen at {host}, port {port} ({reason}): choose another with --host "
            "and --port."
        ) from error


def make_server(app: FastAPI, limits: Limits) -> uvicorn.Server:
    """The server of an application; ``run(sockets=[...])`` runs it.

    Args:
        app: An application of ``create_app``.
        limits: The limits of the application.
    """
    # It would log a line about every broken form that a client sends.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="on",
        access_log=False,  # it would hold the names of images
        log_config=None,
        log_level="error",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=math.ceil(limits.seconds) + 2,
    )
    return _Server(config)


def run(app: FastAPI, listening: socket.socket, limits: Limits) -> None:
    """Serve until SIGTERM or Ctrl-C; requests under way are answered first.

    Args:
        app: An application of ``create_app``.
        listening: A socket of :func:`open_socket`.
        limits: The limits of the application.
    """

    def end(number: int, frame: FrameType | None) -> Any:
        sys.exit(0)

    # Uvicorn raises the signal again when every request is answered.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    make_server(app, limits).run(sockets=[listening])
