"""What the benchmark scripts record about the machine."""

from __future__ import annotations

from pathlib import Path

from benchmarks.machine import machine, processor
from facial_keypoints.cluster import available_cores

SCRIPTS = Path(__file__).parents[1] / "benchmarks"


def test_the_machine_is_the_one_that_runs() -> None:
    assert machine().startswith(f"{available_cores()} core")
    assert processor()
    assert processor() in machine()


def test_no_script_names_a_processor_or_a_number_of_cores() -> None:
    sources = [path.read_text(encoding="utf-8") for path in SCRIPTS.glob("*.py")]
    assert len(sources) > 10
    assert not [text[:60] for text in sources if "Xeon" in text or "cores of an" in text]
