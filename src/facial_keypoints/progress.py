"""A progress bar for training, on stderr: epochs, error so far, time left."""

from __future__ import annotations

import time
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

__all__ = ["TrainingProgress"]

LOG_SECONDS = 20.0  # without a terminal, a line now and then says that work goes on


class TrainingProgress(keras.callbacks.Callback):  # type: ignore[misc]
    """Show every ``fit`` that it is handed to as one line that stays when training is done.

    On a terminal a live bar; elsewhere (logs, CI) a plain line every few seconds.

    Example::

        with TrainingProgress() as progress:
            progress.title = "cnn"
            train(..., callbacks=[progress])
    """

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self.console = console or Console(stderr=True)
        self.title = "training"
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            TextColumn("{task.fields[error]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = TaskID(0)
        self._spoken = 0.0
        self._best = float("inf")

    def __enter__(self) -> TrainingProgress:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Begin a bar."""
        self._best = float("inf")
        self._spoken = time.monotonic()
        self._task = self._bars.add_task(self.title, total=self.params.get("epochs"), error="")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Move the bar, or say a line where there is no terminal."""
        now = float((logs or {}).get("val_rmse_px", float("nan")))
        self._best = min(self._best, now)
        error = f"{now:.2f} px (best {self._best:.2f})"
        self._bars.update(self._task, completed=epoch + 1, error=error)
        if not self.console.is_terminal and time.monotonic() - self._spoken > LOG_SECONDS:
            self._spoken = time.monotonic()
            total = self.params.get("epochs")
            self.console.print(f"{self.title}: epoch {epoch + 1} of {total}, {error}")

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Fill the bar."""
        task = self._bars.tasks[self._task] if self._bars.tasks else None
        if task is not None:  # stopped early: what is done is all there is to do
            self._bars.update(self._task, total=task.completed)
