"""The service behind a real socket: slow clients, signals, and mistakes of whoever starts it."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from PIL import Image

from facial_keypoints import load_predictor
from facial_keypoints.cli import main
from facial_keypoints.data.synthetic.scenes import draw_scene
from facial_keypoints.service import Limits, create_app, server

PHOTO = io.BytesIO()
Image.fromarray(draw_scene(2, seed=3, image_size=(240, 320))[0]).save(PHOTO, "PNG")
BODY = PHOTO.getvalue()


def head_of(length: int, *, more: str = "") -> bytes:
    return (
        f"POST /v1/predict?crops=true&source=secret.png HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: image/png\r\nContent-Length: {length}\r\n{more}\r\n"
    ).encode()


def connected(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def received(sock: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    chunks = []
    while chunk := sock.recv(65536):
        chunks.append(chunk)
    return b"".join(chunks)


def ask(port: int, path: str = "/v1/predict?crops=true", body: bytes | None = BODY) -> bytes:
    url = f"http://127.0.0.1:{port}{path}"
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=30) as reply:
        return reply.read()


@contextmanager
def running(limits: Limits) -> Iterator[int]:
    """The service in a thread of this process; its port."""
    app = create_app(load_predictor(threads=1), limits, threads=1)
    listening = server.open_socket("127.0.0.1", 0)
    uvicorn = server.make_server(app, limits)
    thread = threading.Thread(target=uvicorn.run, kwargs={"sockets": [listening]})
    port = listening.getsockname()[1]
    thread.start()
    try:
        ask(port, "/healthz", None)
        yield port
    finally:
        uvicorn.should_exit = True
        thread.join(20)
    assert not thread.is_alive()


def test_slow_uploads_are_refused_while_others_are_served() -> None:
    with running(Limits(seconds=1.5)) as port, ExitStack() as open_sockets:
        slow = [open_sockets.enter_context(connected(port)) for _ in range(60)]
        for sock in slow:
            sock.sendall(head_of(len(BODY)) + BODY[:1000])
        for sock in slow:
            sock.sendall(b"x")  # another byte keeps no connection
        for _ in range(5):
            assert b"nose_tip_x" in ask(port)
        for sock in slow:
            reply = received(sock)
            assert reply.startswith(b"HTTP/1.1 408 ")
            assert b"application/problem+json" in reply
            assert b"not complete after 1.5 seconds" in reply


def test_connections_without_a_request_are_closed(monkeypatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.5)
    with running(Limits()) as port, ExitStack() as open_sockets:
        silent, half, after = (open_sockets.enter_context(connected(port)) for _ in range(3))
        half.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: local")
        # Refused at once; the rest of its body is dropped.
        after.sendall(head_of(10**12) + b"x")
        assert b" 413 " in received(after)
        for sock in (silent, half):
            with suppress(ConnectionResetError):
                assert received(sock) == b""
        kept = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for _ in range(2):  # a connection that asks is kept
            kept.request("GET", "/healthz")
            address = kept.sock.getsockname()
            assert kept.getresponse().read() == b'{"status":"ok"}'
            assert kept.sock.getsockname() == address
        kept.close()


def test_the_last_packet_of_an_answer_is_not_delayed() -> None:
    accepted = []

    async def story() -> None:
        async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            sock = writer.get_extra_info("socket")
            accepted.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listening = server.open_socket("127.0.0.1", 0)
        async with await asyncio.start_server(on_connection, sock=listening):
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            await reader.read()
            writer.close()

    asyncio.run(story())
    assert accepted == [1]


class Process:
    """``facial-keypoints serve`` in a process of its own."""

    def __init__(self, port: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "facial_keypoints", "serve", "--port", str(port)],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={k: v for k, v in os.environ.items() if k != "FACIAL_KEYPOINTS_TOKEN"},
        )
        assert self.process.stderr is not None
        self.line = self.process.stderr.readline().decode()
        found = re.fullmatch(
            r"facial-keypoints is at http://127\.0\.0\.1:(\d+) \(.*\)\n", self.line
        )
        assert found, self.line + self.process.stderr.read().decode()
        self.port = int(found[1])


def test_sigterm_answers_first_and_a_killed_service_starts_again() -> None:
    first = Process()
    assert ask(first.port, "/healthz", None) == b'{"status":"ok"}'
    first.process.kill()
    first.process.wait(20)
    first.process.stdout.close()
    first.process.stderr.close()
    again = Process(first.port)
    assert again.port == first.port
    upload = connected(again.port)
    upload.sendall(head_of(len(BODY)) + BODY[:500])
    ask(again.port, "/healthz", None)
    again.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    upload.sendall(BODY[500:])
    reply = received(upload)
    upload.close()
    assert reply.startswith(b"HTTP/1.1 200 OK")
    faces = json.loads(reply.partition(b"\r\n\r\n")[2])["images"][0]["faces"]
    assert len(faces) == 1
    out, log = again.process.communicate(timeout=20)
    assert (again.process.returncode, out, log) == (0, b"", b"")


def failed(monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["facial-keypoints", "serve", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, " ".join(capsys.readouterr().err.split())


def test_mistakes_are_one_sentence(monkeypatch, capsys, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, text = failed(monkeypatch, capsys, "--port", port)
    assert code == 1
    assert f"cannot listen at 127.0.0.1, port {port} (Address already in use)" in text
    code, text = failed(monkeypatch, capsys, "--host", "no.such.host.invalid")
    assert (code, "cannot listen at no.such.host.invalid" in text) == (1, True)
    empty = tmp_path / "token.txt"
    empty.write_text(" \n")
    code, text = failed(monkeypatch, capsys, "--token-file", str(empty))
    assert (code, "must hold one token" in text) == (1, True)
    code, text = failed(monkeypatch, capsys, "--token-file", str(tmp_path / "none"))
    assert (code, "cannot be read" in text) == (1, True)
    monkeypatch.setenv("FACIAL_KEYPOINTS_TOKEN", "two words")
    code, text = failed(monkeypatch, capsys)
    assert (code, "FACIAL_KEYPOINTS_TOKEN must hold one token" in text) == (1, True)
    monkeypatch.delenv("FACIAL_KEYPOINTS_TOKEN")
    code, text = failed(monkeypatch, capsys, "--model", "runs/flip")
    assert (code, "there is no model runs/flip" in text) == (1, True)
    (tmp_path / "model.keras").touch()
    code, text = failed(monkeypatch, capsys, "--model", str(tmp_path / "model.keras"))
    assert (code, "facial-keypoints export" in text) == (1, True)
    code, text = failed(monkeypatch, capsys, "--ort-web", str(tmp_path))
    assert (code, "onnxruntime-web" in text) == (1, True)


def test_a_missing_extra_is_named(monkeypatch, capsys) -> None:
    for name in [name for name in sys.modules if name.startswith("facial_keypoints.service")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    code, text = failed(monkeypatch, capsys, "--port", "0")
    assert code == 1
    assert "pip install 'facial-keypoints[serve]'" in text
