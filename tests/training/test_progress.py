"""What is said while training goes on."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

keras = pytest.importorskip("keras")

from facial_keypoints.training import progress
from facial_keypoints.training.progress import EpochReporter, RunsProgress


def test_without_a_terminal_runs_are_told_now_and_then_and_at_their_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "LOG_SECONDS", -1.0)
    text = io.StringIO()
    with RunsProgress(2, Console(file=text, width=100)) as runs:
        runs.update("cnn-seed0", 3, 50, 4.567)
        runs.finish("cnn-seed0", "2.500 px on its test faces")
        runs.update("cnn-seed1", 1, 50, 9.0)
    assert text.getvalue().splitlines() == [
        "0 of 2 runs done; cnn-seed0: epoch 3 of 50, 4.57 px",
        "cnn-seed0: 2.500 px on its test faces",
        "1 of 2 runs done; cnn-seed1: epoch 1 of 50, 9.00 px",
    ]


def test_on_a_terminal_many_runs_share_a_few_lines() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100, height=50)
    with RunsProgress(20, console) as runs:
        for number in range(16):
            runs.update(f"trial {number:03d}", 1, 9, 1.0)
        runs.update("trial 000", 9, 9, 0.5)
        runs.update("trial 016", 1, 9, 1.0)
        text.truncate(0)
    shown = text.getvalue()
    assert "trial 016" in shown
    assert "trial 000" in shown
    assert "trial 001" not in shown  # it has not moved for longest
    assert "0/20" in shown


def test_an_epoch_is_reported_once_in_a_while_and_the_last_one_always() -> None:
    told: list[tuple[int, int, float]] = []
    reporter = EpochReporter(lambda *news: told.append(news), seconds=1000.0)
    reporter.set_params({"epochs": 5})
    for epoch in range(5):
        reporter.on_epoch_end(epoch, {"val_rmse_px": 5.0 - epoch})
    reporter.on_train_end()
    reporter.on_train_end()
    assert told == [(1, 5, 5.0), (5, 5, 1.0)]
    told.clear()
    each = EpochReporter(lambda *news: told.append(news), seconds=0)
    each.set_params({"epochs": 3})
    for epoch in range(3):
        each.on_epoch_end(epoch, {"val_rmse_px": 1.0})
    each.on_train_end()
    assert [epoch for epoch, _, _ in told] == [1, 2, 3]
