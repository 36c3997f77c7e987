"""A bounded queue and the threads that work it off, several jobs of a kind at a time.

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
    """More would wait than may."""


@dataclass(frozen=True, eq=False)
class _Entry(Generic[J, R]):
    job: J
    kind: Hashable | None
    future: Future[R]


class WorkQueue(Generic[J, R]):
    """Jobs of all requests, answered by a few threads.

    A thread takes the oldest job, and with it those of the same kind that wait: together they take
    less time. While more are announced (:attr:`coming`) it waits for them, a few milliseconds at most.

    Args:
        work: Answers jobs, all of one kind: one result or error each, in order.
        kind: What may be answered together; ``None`` goes alone.
        threads: Number of threads.
        capacity: Jobs that may wait.
        batch: Jobs answered together at most.
        wait_s: How long a batch waits for more.
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
        """Requests whose jobs are on their way; changed by one thread only."""

    def start(self) -> None:
        """Start the threads; after :meth:`close`, once more."""
        self._closed = False
        # Daemons: a process told to die at once must not wait for an image.
        self._threads = [
            threading.Thread(target=self._run, name=f"work-{i}", daemon=True)
            for i in range(self._number)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Answer what waits, then stop; take no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    @property
    def ready(self) -> bool:
        """Whether every thread is at work and jobs are taken."""
        return not self._closed and all(thread.is_alive() for thread in self._threads)

    @property
    def waiting(self) -> int:
        """Jobs that no thread has taken yet."""
        return len(self._entries)

    @property
    def full(self) -> bool:
        """Whether not one more may wait."""
        return len(self._entries) >= self._capacity

    def put(self, jobs: Sequence[J]) -> list[Future[R]]:
        """Add jobs, all or none, without waiting.

        A future that is cancelled before its turn costs nothing.

        Raises:
            QueueFullError: They would be too many, or the queue is closed.
        """
        entries = [_Entry[J, R](job, self._kind(job), Future()) for job in jobs]
        with self._changed:
            if self._closed or len(self._entries) + len(entries) > self._capacity:
                raise QueueFullError
            self._entries.extend(entries)
            # All: one that waits for its batch may not want them, an idle one does.
            self._changed.notify_all()
        return [entry.future for entry in entries]

    def _run(self) -> None:
        while entries := self._take():
            try:
                answers = self._work([entry.job for entry in entries])
            except Exception as error:  # the thread must outlive whatever an image causes
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
