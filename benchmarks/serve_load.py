"""The service under load, from a second process on loopback: throughput, latency, memory, slow clients.

Run: ``python benchmarks/serve_load.py [--data DIR] [--seconds 60] [--write]``. With DIR (or the environment
variable ``FACIAL_KEYPOINTS_DATA``) the photos of ``photos/eval.zip`` are sent, else drawn scenes. Direct use
of the predictor on the same files is measured before and after, so that the share is of one run.
The client computes on the same cores as the service. Processor time an image is measured too: unlike
rates it says the same when other programs run.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from machine import machine

from facial_keypoints import load_predictor
from facial_keypoints.data.synthetic.faces import draw_faces
from facial_keypoints.data.synthetic.scenes import draw_scene
from facial_keypoints.io.images import write_image

RESULT = Path(__file__).parent / "results" / "serve_load.md"

WITH_LIMITS = """
import json, sys
from facial_keypoints import load_predictor
from facial_keypoints.service import Limits, create_app
from facial_keypoints.service.server import open_socket, run

limits = Limits(**json.loads(sys.argv[1]))
listening = open_socket("127.0.0.1", 0)
app = create_app(load_predictor(threads=1), limits)
print(f"at 127.0.0.1:{listening.getsockname()[1]} (...)", file=sys.stderr, flush=True)
run(app, listening, limits)
"""


def drawn_scenes(folder: Path) -> None:
    """JPEG files of 1 to 4 drawn faces."""
    for i in range(40):
        photo, _ = draw_scene(1 + i % 4, seed=i)
        write_image(folder / f"{i:03d}.jpg", photo, quality=90)


def drawn_crops(folder: Path) -> None:
    """JPEG files of one drawn face each, at the model's size."""
    for i, image in enumerate(draw_faces(64, seed=1).images):
        write_image(folder / f"{i:03d}.jpg", image, quality=90)


def direct_use(files: list[Path], seconds: float, *, crops: bool) -> tuple[float, float]:
    """The predictor itself, reading the same files with every core: images/s, and processor ms each."""
    predictor = load_predictor(threads=None if crops else 1)
    repeated = files * (1 + int(20_000 / len(files)))
    answers = predictor.predict_files(repeated) if crops else predictor.predict_photos(repeated)
    next(answers)
    start, cpu, count = time.perf_counter(), time.process_time(), 0
    for _ in answers:
        count += 1
        if time.perf_counter() - start > seconds:
            break
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    answers.close()
    return count / seconds, 1e3 * cpu / count


class Service:
    """``facial-keypoints serve`` in a process of its own, or the same service with other limits."""

    def __init__(self, port: int = 0, **limits: float) -> None:
        start = time.perf_counter()
        command = [sys.executable, "-m", "facial_keypoints", "serve", "--port", str(port)]
        if limits:
            command = [sys.executable, "-c", WITH_LIMITS, json.dumps(limits)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = re.search(r":(\d+) \(", line)
        if found is None:
            raise SystemExit(line + self.process.stderr.read())
        self.port = int(found[1])
        self.started_s = time.perf_counter() - start

    def memory_mb(self) -> float:
        """Resident memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]

    def cpu_s(self) -> float:
        """Processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@dataclass
class Load:
    """What clients saw."""

    seconds: float
    latency: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    status: Counter[int] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Answered images per second."""
        return len(self.latency) / self.seconds

    def ms(self, percent: float) -> str:
        """Percentile of the latency of answers."""
        return f"{1e3 * np.percentile(self.latency, percent):.0f}" if self.latency else "–"


async def load(
    port: int, bodies: list[bytes], *, clients: int, seconds: float, query: str = ""
) -> Load:
    """Clients that ask again as soon as they are answered, each on one connection."""
    requests = [
        (
            f"POST /v1/predict{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode()
        + body
        for body in bodies
    ]
    result = Load(seconds)
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = number
        while time.perf_counter() < end:
            start = time.perf_counter()
            try:
                writer.write(requests[request % len(requests)])
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                status = int(head[9:12])
            except (OSError, asyncio.IncompleteReadError):
                status = 0  # broken off
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            result.status[status] += 1
            took = time.perf_counter() - start
            if status == 200:
                result.latency.append(took)
            elif status == 503:
                result.refused.append(took)
                await asyncio.sleep(0.05)  # a client that asks again a little later
            request += clients
        writer.close()

    await asyncio.gather(*(client(i) for i in range(clients)))
    return result


async def with_slow_clients(port: int, bodies: list[bytes], seconds: float) -> tuple[Load, int]:
    """The same load beside 200 uploads of a byte a second; how many of those were refused."""
    refused = 0

    async def slow() -> None:
        nonlocal refused
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999\r\n\r\n"
        )
        reply = asyncio.ensure_future(reader.read(12))
        while not reply.done():
            writer.write(b"x")
            await asyncio.wait({reply}, timeout=1.0)
        refused += reply.exception() is None and reply.result() == b"HTTP/1.1 408"
        writer.close()

    uploads = [asyncio.ensure_future(slow()) for _ in range(200)]
    await asyncio.sleep(1.0)
    found = await load(port, bodies, clients=8, seconds=seconds)
    await asyncio.wait(uploads, timeout=60)
    return found, refused


def row(name: str, found: Load, memory: str = "") -> str:
    """A line of the table."""
    refused = f"{1e3 * np.percentile(found.refused, 99):.0f}" if found.refused else "–"
    status = ", ".join(f"{count} × {code}" for code, count in sorted(found.status.items()))
    return f"| {name} | {found.rate:.1f} | {found.ms(50)} | {found.ms(99)} | {status} | {refused} | {memory} |"


def measure(files: list[Path], crops: list[Path], seconds: float) -> list[str]:
    """All tables."""
    bodies, small = ([file.read_bytes() for file in each] for each in (files, crops))
    before, before_ms = direct_use(files, 10, crops=False)
    service = Service()
    asyncio.run(load(service.port, bodies, clients=8, seconds=5))
    memory = [service.memory_mb()]
    cpu, own_cpu = service.cpu_s(), time.process_time()
    full = asyncio.run(load(service.port, bodies, clients=8, seconds=seconds))
    service_ms = 1e3 * (service.cpu_s() - cpu) / len(full.latency)
    client_ms = 1e3 * (time.process_time() - own_cpu) / len(full.latency)
    memory.append(service.memory_mb())
    one = asyncio.run(load(service.port, bodies, clients=1, seconds=10))
    many = asyncio.run(load(service.port, bodies, clients=200, seconds=15))
    memory.append(service.memory_mb())
    slow, refused = asyncio.run(with_slow_clients(service.port, bodies, 15))
    memory.append(service.memory_mb())
    again = asyncio.run(load(service.port, bodies, clients=8, seconds=10))
    service.process.kill()
    service.process.wait()
    killed = Service(port=service.port)
    start = time.perf_counter()
    alive = asyncio.run(load(killed.port, bodies, clients=1, seconds=0.001))
    first = killed.started_s + time.perf_counter() - start
    code = killed.stop()
    after, after_ms = direct_use(files, 10, crops=False)
    direct, direct_ms = (before + after) / 2, (before_ms + after_ms) / 2
    alone = abs(before - after) < 0.1 * direct
    share = (
        f" At full rate **{full.rate / direct:.0%} of the images/s of direct use**."
        if alone
        else " Other programs ran beside it: rates below are lower and latencies higher than on an idle machine."
    )
    lines = [
        f"{len(files)} JPEG files, {np.mean([len(b) for b in bodies]) / 1e3:.0f} kB each on average. The "
        f"predictor itself, on the same files: {before:.1f} images/s before and {after:.1f} after.",
        "",
        f"Processor time an image: {direct_ms:.1f} ms directly, {service_ms:.1f} ms in the service, "
        f"{client_ms:.1f} ms in the client: **the service does {direct_ms / service_ms:.0%} of what direct "
        f"use does with the same processor time**.{share}",
        "",
        "| load | images/s | p50 ms | p99 ms | replies | 503 p99 ms | memory MB |",
        "|---|---|---|---|---|---|---|",
        row(f"8 clients, {seconds:g} s", full, f"{memory[0]:.0f} before, {memory[1]:.0f} after"),
        row("1 client, 10 s", one),
        row("200 clients, 15 s (64 may wait)", many, f"{memory[2]:.0f} after"),
        row("8 clients beside 200 slow uploads, 15 s", slow, f"{memory[3]:.0f} after"),
        row("8 clients, 10 s, at the end", again),
        "",
        f"Slow uploads refused with 408: {refused} of 200. Killed (-9) and started again: first answer "
        f"({', '.join(map(str, alive.status))}) after {first:.1f} s. Ended by SIGTERM: exit {code}.",
        "",
        "Face crops of 96×96 pixels (`crops=true`), 16 clients, 10 s:",
        "",
        "| batches | images/s | processor ms each | p50 ms | p99 ms |",
        "|---|---|---|---|---|",
    ]
    for name, limits in (
        ("up to 16, waiting 2 ms for uploads under way", {}),
        ("up to 16, not waiting", {"batch_wait_s": 0}),
        ("of one", {"batch": 1}),
    ):
        service = Service(**limits)
        asyncio.run(load(service.port, small, clients=16, seconds=2, query="?crops=true"))
        cpu = service.cpu_s()
        found = asyncio.run(load(service.port, small, clients=16, seconds=10, query="?crops=true"))
        spent = 1e3 * (service.cpu_s() - cpu) / len(found.latency)
        lines.append(
            f"| {name} | {found.rate:.0f} | {spent:.2f} | {found.ms(50)} | {found.ms(99)} |"
        )
        service.stop()
    rate, spent = direct_use(crops, 5, crops=True)
    lines.append(f"| the predictor itself, 128 at once | {rate:.0f} | {spent:.2f} | | |")
    return lines


def main() -> None:
    """Measure, print the tables, and write them with ``--write``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("FACIAL_KEYPOINTS_DATA"))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for kind in ("photos", "crops"):
            (Path(name) / kind).mkdir()
        archive = Path(options.data or "") / "photos" / "eval.zip"
        if options.data and archive.is_file():
            what = "photos of Caltech 10,000 Web Faces"
            with zipfile.ZipFile(archive) as images:
                for member in images.namelist():
                    if member.lower().endswith(".jpg"):
                        content = images.read(member)
                        (Path(name) / "photos" / Path(member).name).write_bytes(content)
        else:
            what = "drawn scenes of 640×360 pixels with 1 to 4 faces"
            drawn_scenes(Path(name) / "photos")
        drawn_crops(Path(name) / "crops")
        files, crops = (sorted((Path(name) / kind).iterdir()) for kind in ("photos", "crops"))
        lines = measure(files, crops, options.seconds)
    head = [
        "# The service under load",
        "",
        f"{datetime.date.today()} · {machine()}, client and service on "
        f"the same cores · {what} · `python benchmarks/serve_load.py --write`",
        "",
    ]
    text = "\n".join([*head, *lines]) + "\n"
    print(text)
    if options.write:
        RESULT.write_text(text)


if __name__ == "__main__":
    main()
