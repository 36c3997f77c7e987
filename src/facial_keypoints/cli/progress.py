"""Log lines and progress bars on standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = ["make_log", "make_progress"]


def make_log() -> Console:
    """A console on standard error without markup, since file names may contain brackets."""
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False, soft_wrap=True)


def make_progress(word: str, log: Console) -> Progress:
    """A bar with count and remaining time; without a terminal nothing is drawn."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn(word), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=log, transient=True, disable=not log.is_terminal)
