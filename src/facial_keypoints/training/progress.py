"""Progress of training on stderr: epochs, error so far, time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import keras
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["EpochReporter", "RunsProgress"]

LOG_SECONDS = 20.0  # without a terminal, a line now and then says that work goes on
MOST_BARS = 16  # of runs that are under way
REPORT_SECONDS = 1.0  # between two reports of one run


class EpochReporter(keras.callbacks.Callback):  # type: ignore[misc]
    """Tell how far a ``fit`` is.

    Args:
        report: Called with epochs done, epochs at most, and the validation error in pixels.
        seconds: At least so many lie between two reports, but the last epoch is always reported.
    """

    def __init__(
        self, report: Callable[[int, int, float], None], *, seconds: float = REPORT_SECONDS
    ) -> None:
        super().__init__()
        self.report = report
        self.seconds = seconds
        self._told = float("-inf")
        self._last: tuple[int, int, float] | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Report, unless that was done a moment ago."""
        error = float((logs or {}).get("val_rmse_px", float("nan")))
        self._last = (epoch + 1, int(self.params.get("epochs", 0)), error)
        if time.monotonic() - self._told >= self.seconds:
            self._tell()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Report the last epoch."""
        self._tell()

    def _tell(self) -> None:
        if self._last is not None:
            self._told = time.monotonic()
            self.report(*self._last)
            self._last = None


class RunsProgress:
    """Show how far runs are: one bar for all, one for each that is under way.

    On a terminal live bars; elsewhere (logs, CI) a plain line every few seconds.

    Args:
        total: Number of runs.
        console: Where to; stderr when left out.

    Example::

        with RunsProgress(1) as progress:
            train(..., callbacks=[progress.callback("cnn")])
    """

    def __init__(self, total: int, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TextColumn("{task.fields[error]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._all = self._bars.add_task(
            "runs", total=total, unit="runs", error="", visible=total > 1
        )
        self._tasks: dict[str, TaskID] = {}
        self._total = total
        self._done = 0
        self._spoken = time.monotonic()

    def __enter__(self) -> RunsProgress:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def callback(self, name: str) -> EpochReporter:
        """A Keras callback that shows the run it is handed to."""
        return EpochReporter(lambda *news: self.update(name, *news), seconds=0.0)

    def update(self, name: str, epoch: int, epochs: int, error: float) -> None:
        """A run has done so many epochs, with this validation error in pixels."""
        text = f"{error:.2f} px"
        # The bar that moved last is at the end of the dictionary; one that has not for long goes.
        task = self._tasks.pop(name, None)
        if task is None:
            task = self._bars.add_task(name, total=epochs, unit="epochs", error="")
        self._tasks[name] = task
        if len(self._tasks) > MOST_BARS:
            self._bars.remove_task(self._tasks.pop(next(iter(self._tasks))))
        self._bars.update(task, completed=epoch, total=epochs, error=text)
        if not self.console.is_terminal and time.monotonic() - self._spoken > LOG_SECONDS:
            self._spoken = time.monotonic()
            ended = f"{self._done} of {self._total} runs done; " if self._total > 1 else ""
            self.say(f"{ended}{name}: epoch {epoch} of {epochs}, {text}")

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def finish(self, name: str, line: str) -> None:
        """A run has ended; say how."""
        if name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))
        self._done += 1
        self._bars.update(self._all, completed=self._done)
        self.say(f"{name}: {line}")
