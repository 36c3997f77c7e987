"""A bounded queue and the threads that process its jobs, several of a kind at a time.

Knows nothing of images, models or HTTP.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["QueueFullError", "WorkQueue"]

J = TypeVar("J")
R = TypeVar("R")


class QueueFullError(Exception):
    """The queue has no room for the jobs."""


@dataclass(frozen=True, eq=False)
class _Entry(Generic[J, R]):
    job: J
    kind: Hashable | None
    future: Future[R]


class WorkQueue(Generic[J, R]):
    """Jobs of all requests, processed by a few threads.

    A thread takes the oldest job together with the waiting jobs of the same kind, since a batch takes
    less time. While uploads are under way (:attr:`coming`) it waits for their jobs, at most ``wait_s``.

    Args:
        work: Processes jobs of one kind: one result or error for each, in order.
        kind: Gives the kind of a job; jobs of kind ``None`` are processed alone.
        threads: Number of threads.
        capacity: Jobs that may wait.
        batch: Most jobs of a batch.
        wait_s: Most seconds that a batch waits for more jobs.
    """

    def __init__(
        self,
        work: Callable[[Sequence[J]], Sequence[R | Exception]],
        kind: Callable[[J], Hashable | None],
        *,
        threads: int,
        capacity: int,
        batch: int,
        wait_s: float,
    ) -> None:
        self._work, self._kind = work, kind
        self._capacity, self._batch, self._wait_s = capacity, batch, wait_s
        self._entries: deque[_Entry[J, R]] = deque()
        self._changed = threading.Condition()
        self._closed = True
        self._threads: list[threading.Thread] = []
        self._number = threads
        self.coming = 0
        """Requests that are being uploaded; changed by one thread only."""

    def start(self) -> None:
        """Start the threads; may be called again after :meth:`close`."""
        self._closed = False
        # Daemons: a process that is told to end at once must not wait for an image.
        self._threads = [
            threading.Thread(target=self._run, name=f"work-{i}", daemon=True)
            for i in range(self._number)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Accept no more jobs, process the waiting ones, then stop the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    @property
    def ready(self) -> bool:
        """Whether every thread runs and jobs are accepted."""
        return not self._closed and all(thread.is_alive() for thread in self._threads)

    @property
    def waiting(self) -> int:
        """Jobs that no thread has taken yet."""
        return len(self._entries)

    @property
    def full(self) -> bool:
        """Whether there is no room for another job."""
        return len(self._entries) >= self._capacity

    def put(self, jobs: Sequence[J]) -> list[Future[R]]:
        """Add jobs, all or none, without waiting.

        A job whose future is cancelled before a thread takes it is dropped.

        Raises:
            QueueFullError: There is no room for them, or the queue is closed.
        """
        entries = [_Entry[J, R](job, self._kind(job), Future()) for job in jobs]
        with self._changed:
            if self._closed or len(self._entries) + len(entries) > self._capacity:
                raise QueueFullError
            self._entries.extend(entries)
            # All threads: one that waits for its batch may not take these jobs, an idle one does.
            self._changed.notify_all()
        return [entry.future for entry in entries]

    def _run(self) -> None:
        while entries := self._take():
            try:
                answers = self._work([entry.job for entry in entries])
            except Exception as error:  # no image may end the thread
                answers = [error] * len(entries)
            for entry, answer in zip(entries, answers, strict=True):
                if isinstance(answer, Exception):
                    entry.future.set_exception(answer)
                else:
                    entry.future.set_result(answer)

    def _take(self) -> list[_Entry[J, R]]:
        """Jobs of one kind; none when the queue is closed and empty."""
        with self._changed:
            while True:
                while not self._entries and not self._closed:
                    self._changed.wait()
                if not self._entries:
                    return []
                first = self._entries.popleft()
                if first.future.set_running_or_notify_cancel():
                    break
            taken = [first]
            if first.kind is None:
                return taken
            until = time.monotonic() + self._wait_s
            while True:
                self._take_more(taken, first.kind)
                left = until - time.monotonic()
                if len(taken) >= self._batch or left <= 0 or not self.coming or self._closed:
                    return taken
                self._changed.wait(left)

    def _take_more(self, taken: list[_Entry[J, R]], kind: Hashable) -> None:
        others = []
        while self._entries and len(taken) < self._batch:
            entry = self._entries.popleft()
            if entry.kind != kind:
                others.append(entry)
            elif entry.future.set_running_or_notify_cancel():
                taken.append(entry)
        self._entries.extendleft(reversed(others))
