"""Cores of this machine, and connections to Ray: a local Ray for the time of a run, or a cluster."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from facial_keypoints.errors import FacialKeypointsError, MissingExtraError

__all__ = ["ClusterError", "available_cores", "connect"]

_ANSWER_S = 5.0
"""Seconds within which an address must take a connection."""

_JOIN_S = 60.0
"""Seconds within which a cluster must let a process join; Ray itself tries for minutes."""

_JOIN = """
import sys, ray
try:
    ray.init(address=sys.argv[1], logging_level="CRITICAL", log_to_driver=False)
except Exception as error:
    sys.exit(str(error) or type(error).__name__)
"""

# Lines of Ray's C++ part: "[2026-01-31 12:00:00,000 W 12 12] ...".
_NATIVE = re.compile(r"\[\d{4}-\d\d-\d\d ")

_STORE = 128 << 20
"""Smallest object store of a local Ray in bytes; it holds the models and the numbers of blocks."""

_RAY_BYTES = 800 << 20
"""Memory of the driver and the processes of a local Ray (benchmarks/results/batch_ray.md)."""


class ClusterError(FacialKeypointsError):
    """A Ray cluster cannot be reached or used."""


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def require_ray(purpose: str) -> None:
    """Refuse before the work that needs Ray; ``purpose`` is what needs it, as a noun phrase.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError("ray", "ray", purpose)


@contextmanager
def connect(
    address: str | None,
    cores: int | None = None,
    *,
    purpose: str,
    worker_bytes: int,
    shared_bytes: int = 0,
) -> Iterator[int]:
    """Start a local Ray, or connect to a cluster, for the time of the block.

    Args:
        address: ``HOST:PORT``, ``ray://HOST:PORT`` or ``auto`` for a cluster; ``local`` or ``None`` for
            a local Ray.
        cores: Cores of a local Ray; all that this process may use when left out.
        purpose: What needs Ray, as a noun phrase; for the error if Ray is not installed.
        worker_bytes: Memory of a worker.
        shared_bytes: Data that all workers get through the object store.

    Yields:
        Number of its cores.

    Raises:
        ClusterError: Ray cannot be reached or started, or has another version.
        MissingExtraError: Ray is not installed.
    """
    # Set before ray is imported: send no usage statistics, leave the variables of accelerators alone.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # errors are raised
    local = address in (None, "local")
    if local and "RAY_AUTH_MODE" not in os.environ:  # else Ray writes a token to the home folder
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    places = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    token = Path.home() / ".ray" / "auth_token"
    if not local and (any(map(os.environ.get, places)) or token.is_file()):
        # Ray starts clusters with a token by default, but sends it only in this mode.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    require_ray(purpose)
    cores = cores or available_cores()
    store = max(_STORE, shared_bytes + shared_bytes // 4)
    if local:
        _check_memory(cores, cores * worker_bytes + store)
    else:
        _check_joins(str(address))
    import ray

    options: dict[str, Any] = {}  # a cluster has its own cores, store and dashboard
    if local:
        options = {"num_cpus": cores, "object_store_memory": store, "include_dashboard": False}
    ended = signal.getsignal(signal.SIGTERM)
    try:
        with _quiet_stderr():
            ray.init(
                address=address or "local",
                logging_level=logging.ERROR,
                log_to_driver=False,
                **options,
            )
    except (RuntimeError, ValueError, ConnectionError, OSError, TimeoutError) as error:
        with suppress(RuntimeError):
            ray.shutdown()
        raise _explain(error, address) from error
    if ended is signal.default_int_handler:  # of the command line; Ray put its own in its place
        signal.signal(signal.SIGTERM, ended)
    try:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        # Ray prints messages about repeated tasks to stdout, which is for results.
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            yield max(1, int(resources.get("CPU", 1)))
    finally:
        ray.shutdown()


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Suppress messages of Ray's C++ part while it starts; errors are raised anyway."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _check_memory(workers: int, needed: int) -> None:
    """Refuse to start Ray with too little memory, since its processes would be killed or abort."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:  # not Linux: only Ray's own check is left
        return
    free = 1024 * int(re.findall(r"MemAvailable:\s+(\d+) kB", text)[0])
    needed += _RAY_BYTES
    if free < needed:
        raise ClusterError(
            f"Ray needs {needed / 2**30:.1f} GB of free memory for {workers} "
            f"{'worker' if workers == 1 else 'workers'} and its object store, but {free / 2**30:.1f} GB "
            "are free: free some, have fewer workers, or use a cluster with --address."
        )


def _check_answers(address: str) -> None:
    """Try a TCP connection first: Ray itself tries for a minute and may end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(
            f"--address {address} is not HOST:PORT: use the one that 'ray start --head' printed, or "
            "'auto' on a machine of the cluster."
        )
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ClusterError(
            f"no Ray cluster answers at {address} ({reason}): start one with 'ray start --head', or "
            "leave --address out to use this machine."
        ) from error


def _check_joins(address: str) -> None:
    """Join in a process that can be stopped first: Ray tries for minutes and then may abort."""
    if address != "auto":
        _check_answers(address)
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _JOIN, address],
            capture_output=True,
            text=True,
            timeout=_JOIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _explain(TimeoutError(f"no answer within {_JOIN_S:.0f} seconds"), address) from error
    if probe.returncode:
        reason = [line for line in probe.stderr.splitlines() if not _NATIVE.match(line)]
        raise _explain(RuntimeError("\n".join(reason)), address)


def _explain(error: Exception, address: str | None) -> ClusterError:
    text = " ".join(str(error).split())
    if "ersion mismatch" in text:
        versions = re.findall(r"Ray: (\S+) Python: (\S+)", text)
        if len(versions) == 2:
            (theirs, their_python), (ours, our_python) = versions
            return ClusterError(
                f"the cluster at {address} runs Ray {theirs} on Python {their_python}, but this is Ray "
                f"{ours} on Python {our_python}: install the cluster's versions here."
            )
    if address is None or address == "local":
        return ClusterError(
            f"Ray cannot start on this machine ({text[:200]}): free some memory, or use a cluster with "
            "--address."
        )
    return ClusterError(
        f"cannot join the Ray cluster at {address} ({text[:200]}): see whether Ray runs there ('ray "
        "status'), and, if it was started on another machine, copy its ~/.ray/auth_token here."
    )
