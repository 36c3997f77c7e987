"""Timing tells what was timed; how fast it is depends on the machine."""

import json
import subprocess
import sys

from facial_keypoints.inference.benchmark import measure_speed


def test_each_task_is_timed_and_rates_follow_from_the_times() -> None:
    one, batch = measure_speed(threads=2, batch_size=8, seconds=0.05, photos=False)
    assert (one.task, one.threads) == ("one face", 1)
    assert (batch.task, batch.threads) == ("batch of 8 faces", 2)
    for speed, faces in ((one, 1), (batch, 8)):
        assert 0 < speed.best_ms <= speed.median_ms
        assert abs(speed.per_second - faces / speed.median_ms * 1e3) < 1e-6 * speed.per_second


def test_the_command_prints_a_table_or_json() -> None:
    command = [sys.executable, "-m", "facial_keypoints", "benchmark", "--seconds", "0.1"]
    for words in (["--no-photos"], ["--no-photos", "--json"]):
        done = subprocess.run([*command, *words], capture_output=True, text=True, check=True)
    tasks = [row["task"] for row in json.loads(done.stdout)]
    assert tasks == ["one face", "batch of 256 faces"]
