"""The service behind a real socket: slow clients, signals, and mistakes of whoever starts it."""

from __future__ import annotations

import asyncio
import errno
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import uvicorn
from fastapi import FastAPI
from PIL import Image
from starlette.responses import Response
from starlette.testclient import TestClient

from facial_keypoints import load_predictor
from facial_keypoints.cli import main
from facial_keypoints.data.synthetic.scenes import draw_scene
from facial_keypoints.models.registry import OWN_DETECTOR, RUN_MODEL, find_detector, find_model
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
def running(limits: Limits, app: FastAPI | None = None) -> Iterator[int]:
    """The service, or another application, in a thread of this process; its port."""
    app = app or create_app(load_predictor(threads=1), limits, threads=1)
    listening = server.open_socket("127.0.0.1", 0)
    serving = server.make_server(app, limits)
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listening]})
    port = listening.getsockname()[1]
    thread.start()
    try:
        connected(port).close()
        yield port
    finally:
        serving.should_exit = True
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


def test_a_request_with_two_lengths_of_its_body_is_refused_and_closes_the_connection() -> None:
    with running(Limits()) as port, connected(port) as sock:
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
        sock.sendall(head_of(len(BODY), more="Transfer-Encoding: chunked\r\n") + chunked)
        reply = received(sock)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert b"Content-Length or Transfer-Encoding, not both" in reply
    assert reply.count(b"HTTP/1.1") == 1


class Connection:
    """A connection of the server, with a clock and a client that are told what to do."""

    def __init__(self) -> None:
        self.now, self.timers, self.waiting, self.aborted = 0.0, [], 0, False
        config = server.make_server(FastAPI(), Limits()).config
        state = uvicorn.server.ServerState()
        self.protocol = server._Protocol(config, state, {}, _loop=self)  # type: ignore[arg-type]
        self.protocol.connection_made(self)  # type: ignore[arg-type]

    # As a loop:
    def call_later(self, seconds: float, call: Callable[..., None], *values: object) -> Any:
        timer = SimpleNamespace(at=self.now + seconds, call=lambda: call(*values))
        timer.cancel = lambda: timer in self.timers and self.timers.remove(timer)
        self.timers.append(timer)
        return timer

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for timer in [timer for timer in self.timers if timer.at <= self.now]:
            self.timers.remove(timer)
            timer.call()

    # As a transport:
    def get_extra_info(self, name: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def abort(self) -> None:
        self.aborted = True


def test_a_client_that_takes_nothing_of_its_answer_is_disconnected() -> None:
    client = Connection()
    client.waiting = 1000
    client.protocol.pause_writing()
    for client.waiting in (900, 899):  # slow clients are served
        client.pass_time(server.WRITE_SECONDS)
        assert not client.aborted
    client.pass_time(server.WRITE_SECONDS - 1)
    assert not client.aborted
    client.pass_time(1)
    assert client.aborted


def test_the_time_to_take_an_answer_ends_when_it_is_taken_or_the_connection_lost() -> None:
    client = Connection()
    client.waiting = 1000
    client.protocol.pause_writing()
    client.protocol.resume_writing()
    assert [timer.at for timer in client.timers] == [server.HEAD_SECONDS]  # waits for a request
    client.pass_time(server.HEAD_SECONDS)
    assert client.aborted
    client = Connection()
    client.protocol.pause_writing()
    client.protocol.connection_lost(ConnectionResetError())
    assert not client.timers


def test_answers_that_nobody_reads_end(monkeypatch) -> None:
    lost = threading.Semaphore(0)
    plain = server._Protocol.connection_lost

    def connection_lost(self: server._Protocol, error: Exception | None) -> None:
        plain(self, error)
        if self.cycle is not None:  # not the connection that tried whether the server is there
            lost.release()

    monkeypatch.setattr(server, "WRITE_SECONDS", 0.05)
    large = FastAPI()
    large.get("/")(lambda: Response(bytes(2**25)))  # more than the system holds for a client
    with running(Limits(), large) as port, ExitStack() as open_sockets:
        monkeypatch.setattr(server._Protocol, "connection_lost", connection_lost)
        unread = [open_sockets.enter_context(connected(port)) for _ in range(5)]
        for sock in unread:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in unread:
            assert lost.acquire(timeout=20)
        for sock in unread:
            with suppress(ConnectionResetError):
                assert len(received(sock)) < 2**25


def test_one_line_a_minute_says_that_no_more_connections_can_be_opened(monkeypatch, caplog) -> None:
    async def story() -> list[str]:
        loop = asyncio.get_running_loop()
        await server.make_server(FastAPI(), Limits()).startup()
        now = loop.time()
        monkeypatch.setattr(loop, "time", lambda: now)
        for code in (errno.EMFILE, errno.ENFILE) * 500:
            loop.call_exception_handler({"exception": OSError(code, os.strerror(code))})
        now += server.LOG_SECONDS
        loop.call_exception_handler({"exception": OSError(errno.EMFILE, "again")})
        loop.call_exception_handler({"message": "another", "exception": OSError(errno.EPIPE, "")})
        return caplog.messages

    async def nothing(*values: object, **options: object) -> None:
        pass

    monkeypatch.setattr(uvicorn.Server, "startup", nothing)
    first, second, other = asyncio.run(story())
    assert first == (
        "No more connections can be opened (Too many open files): raise the limit of open files."
    )
    assert "(again)" in second
    assert other.startswith("another")


def test_shutdown_has_a_deadline_after_that_of_requests() -> None:
    config = server.make_server(FastAPI(), Limits(seconds=7.5)).config
    assert config.timeout_graceful_shutdown == 10


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
    code, text = failed(monkeypatch, capsys, "--port", "0", "--model", str(tmp_path))
    assert (code, "model.keras is no readable .keras file" in text) == (1, True), text
    code, text = failed(monkeypatch, capsys, "--ort-web", str(tmp_path))
    assert (code, "onnxruntime-web" in text) == (1, True)


def test_a_run_folder_is_served_with_its_own_detector(monkeypatch, capsys, tmp_path: Path) -> None:
    """Its model is exported into a folder that is gone in the end."""
    run = tmp_path / "cats"
    run.mkdir()
    (run / RUN_MODEL).touch()
    own = shutil.copy(find_detector(), run / OWN_DETECTOR)
    exported, told = [], {}

    def export(model: Path, out: Path) -> None:
        assert model == run / RUN_MODEL
        exported.append(Path(shutil.copy(find_model(), out)))

    def run_service(service: FastAPI, *_: object) -> None:
        client = TestClient(service, base_url="http://localhost")
        told.update(client.get("/v1/models").json())
        told["same"] = [
            client.get(file).content == Path(path).read_bytes()
            for file, path in (
                (told["models"][0]["file"], find_model()),
                (told["detector"]["file"], own),
            )
        ]

    monkeypatch.setattr("facial_keypoints.models.export.export_onnx", export)
    monkeypatch.setattr(server, "run", run_service)
    monkeypatch.setattr(sys, "argv", ["fkp", "serve", "--port", "0", "--model", str(run)])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code, capsys.readouterr().err
    assert (told["models"][0]["name"], told["same"]) == ("cats", [True, True])
    assert exported
    assert not exported[0].parent.exists()


def test_a_missing_extra_is_named(monkeypatch, capsys) -> None:
    for name in [name for name in sys.modules if name.startswith("facial_keypoints.service")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    code, text = failed(monkeypatch, capsys, "--port", "0")
    assert code == 1
    assert "pip install 'facial-keypoints[serve]'" in text
