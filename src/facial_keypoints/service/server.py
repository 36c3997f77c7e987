"""Uvicorn for this service: opens the socket, closes idle connections, ends after the last answer."""

from __future__ import annotations

import asyncio
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


class _Protocol(H11Protocol):
    """Closes connections without a request under way; uvicorn itself would wait for one for ever."""

    _watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch = self.loop.call_later(HEAD_SECONDS, self._close_if_idle)

    def on_response_complete(self) -> None:
        self._stop_watch()
        self._watch = self.loop.call_later(HEAD_SECONDS, self._close_if_idle)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watch()
        super().connection_lost(exc)

    def _stop_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()

    def _close_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


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
        timeout_graceful_shutdown=math.ceil(limits.seconds) + 5,
    )
    return uvicorn.Server(config)


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
