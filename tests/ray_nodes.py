"""A Ray cluster of this machine for drills: each node a ``ray start`` process that can be killed."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil

ENVIRONMENT = {
    **os.environ,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "OMP_NUM_THREADS": "1",
    "RAY_raylet_start_wait_time_s": "120",  # a busy machine starts slowly
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Nodes:
    """A head without cores, and worker nodes.

    Args:
        folder: For logs.
        head_cores: Cores of the head.
    """

    def __init__(self, folder: Path, *, head_cores: int = 0) -> None:
        self._folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        self._nodes: list[subprocess.Popen[bytes]] = []
        port = self.address.rpartition(":")[2]
        self.head = self._start(
            "--head", f"--port={port}", f"--num-cpus={head_cores}", "--include-dashboard=false"
        )
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                    return
            time.sleep(0.2)
        raise RuntimeError("the head did not start")

    def add(self, cores: int = 1) -> subprocess.Popen[bytes]:
        """Start a worker node and wait until it has joined: of two that start at once one may hang."""
        node = self._start(f"--address={self.address}", f"--num-cpus={cores}")
        log = self._folder / f"node{len(self._nodes) - 1}.log"
        until = time.monotonic() + 120
        while "Ray runtime started" not in log.read_text(errors="replace"):
            if node.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"a node did not join: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.1)
        return node

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        ray = Path(sys.executable).with_name("ray")
        log = (self._folder / f"node{len(self._nodes)}.log").open("wb")
        node = subprocess.Popen(
            [ray, "start", "--block", "--object-store-memory=100000000", *words],
            stdout=log,
            stderr=log,
            env=ENVIRONMENT,
        )
        log.close()
        self._nodes.append(node)
        return node

    def kill(self, node: subprocess.Popen[bytes], *, at_work: str) -> None:
        """kill -9 of everything that runs on a node, at once, as if its power failed.

        Args:
            node: The node.
            at_work: Part of the title of a process that must be running on it, waited for.
        """
        until = time.monotonic() + 120
        while not any(at_work in title for title in _titles(node)):
            if time.monotonic() > until:
                raise RuntimeError(f"no {at_work} came to the node")
            time.sleep(0.05)
        kill_tree(node)

    def __enter__(self) -> Nodes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for node in reversed(self._nodes):
            kill_tree(node)


def _titles(node: subprocess.Popen[bytes]) -> list[str]:
    titles = []
    for process in psutil.Process(node.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            titles.append(" ".join(process.cmdline()))
    return titles


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """kill -9 of a process that we started and all below it."""
    try:
        family = [
            psutil.Process(process.pid),
            *psutil.Process(process.pid).children(recursive=True),
        ]
    except psutil.NoSuchProcess:
        process.wait()
        return
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.send_signal(signal.SIGKILL)
    process.wait()
