"""The machine that a benchmark runs on, for the results that it writes."""

from __future__ import annotations

import platform
from pathlib import Path

from facial_keypoints.cluster import available_cores


def processor() -> str:
    """The processor's name as the system knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    name = text.partition("model name")[2].partition("\n")[0].strip(" \t:")
    return name or platform.processor() or platform.machine()


def machine() -> str:
    """Cores that this process may use, processor and system."""
    cores = available_cores()
    return f"{cores} core{'s' * (cores != 1)} of {processor()}, {platform.system()}"
