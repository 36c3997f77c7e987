"""A bounded queue and the threads that process its jobs, several of a kind at a time.

Knows nothing of images, models or HTTP.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from facial_keypoints.errors import FacialKeypointsError

__all__ = ["NoRoomError", "QueueFullError", "WorkQueue"]

J = TypeVar("J")
R = TypeVar("R")


class QueueFullError(Exception):
    """The queue has no room for the jobs."""


class NoRoomError(FacialKeypointsError):
    """A job has to wait for the memory of others; the queue does it again when there is room.

    Args:
        size: Its size.
    """

    def __init__(self, size: int) -> None:
        super().__init__(f"no room for {size}")
        self.size = size


@dataclass(eq=False)
class _Entry(Generic[J, R]):
    job: J
    kind: Hashable | None
    future: Future[R]
    size: int = 0  # known once it had no room


class WorkQueue(Generic[J, R]):
    """Jobs of all requests, processed by a few threads.

    A thread takes the oldest job together with the waiting jobs of the same kind, since a batch takes
    less time. While uploads are under way (:attr:`coming`) it waits for their jobs, at most ``wait_s``.

    All jobs under way share a room (:meth:`lease`), such as memory. A job that does not fit waits, in order,
    while smaller ones pass: those that leave it enough room even if every thread has one.

    Args:
        work: Processes jobs of one kind: one result or error for each, in order.
        kind: Gives the kind of a job; jobs of kind ``None`` are processed alone.
        threads: Number of threads.
        capacity: Jobs that may wait.
        batch: Most jobs of a batch.
        wait_s: Most seconds that a batch waits for more jobs.
        room: Sizes of all jobs under way together.
        largest: Size of the largest job.
        late_s: Seconds after which a thread counts as stuck with its job.
        clock: Gives seconds.
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
        room: int,
        largest: int,
        late_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work, self._kind = work, kind
        self._room, self._small = room, (room - largest) // threads
        self._held = 0
        self._late_s, self._clock = late_s, clock
        self._since: dict[int, float] = {}  # when each thread began its job
        self._capacity, self._batch, self._wait_s = capacity, batch, wait_s
        self._entries: deque[_Entry[J, R]] = deque()
        self._large: deque[_Entry[J, R]] = deque()  # that wait for room
        self._turn = threading.local()  # whether this thread's job has waited for room
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

    def close(self, timeout: float | None = None) -> None:
        """Accept no more jobs, process the waiting ones, then stop the threads.

        Args:
            timeout: Most seconds to wait; threads that are still at work then end with the process.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        end = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))

    @property
    def ready(self) -> bool:
        """Whether jobs are accepted, every thread runs, and one or more are not stuck."""
        now = self._clock()
        late = sum(now - since > self._late_s for since in list(self._since.values()))
        running = all(thread.is_alive() for thread in self._threads)
        return not self._closed and running and late < self._number

    @property
    def waiting(self) -> int:
        """Jobs that wait for a thread or for room."""
        return len(self._entries) + len(self._large)

    @property
    def full(self) -> bool:
        """Whether no other job may wait."""
        return self.waiting >= self._capacity

    @contextmanager
    def lease(self) -> Iterator[Callable[[int], None]]:
        """For the work on one job: yield a function that takes room of some size until the block ends.

        The function may be called again; the first call counts. It raises :class:`NoRoomError` if there is no
        room, which the work must hand to the queue as the job's result.
        """
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if taken:
                return
            with self._changed:
                last = self._large and size > self._small and not self._turn.waited
                if last or (self._held and self._held + size > self._room):
                    raise NoRoomError(size)
                self._held += size
                taken = size

        try:
            yield take
        finally:
            with self._changed:
                self._held -= taken
                if self._large:
                    self._changed.notify_all()

    def put(self, jobs: Sequence[J]) -> list[Future[R]]:
        """Add jobs, all or none, without waiting.

        A job whose future is cancelled before a thread takes it is dropped.

        Raises:
            QueueFullError: There is no room for them, or the queue is closed.
        """
        entries = [_Entry[J, R](job, self._kind(job), Future()) for job in jobs]
        with self._changed:
            if self._closed or self.waiting + len(entries) > self._capacity:
                raise QueueFullError
            self._entries.extend(entries)
            # All threads: one that waits for its batch may not take these jobs, an idle one does.
            self._changed.notify_all()
        return [entry.future for entry in entries]

    def _run(self) -> None:
        me = threading.get_ident()
        while entries := self._take():
            self._since[me] = self._clock()
            self._turn.waited = entries[0].size > 0
            try:
                answers = self._work([entry.job for entry in entries])
            except Exception as error:  # no image may end the thread
                answers = [error] * len(entries)
            del self._since[me]
            for entry, answer in zip(entries, answers, strict=True):
                if isinstance(answer, NoRoomError):
                    entry.size = answer.size
                    with self._changed:
                        self._large.append(entry)
                elif isinstance(answer, Exception):
                    entry.future.set_exception(answer)
                else:
                    entry.future.set_result(answer)

    def _take(self) -> list[_Entry[J, R]]:
        """Jobs of one kind; none when the queue is closed and empty."""
        with self._changed:
            while True:
                if self._large and (
                    not self._held or self._held + self._large[0].size <= self._room
                ):
                    return [self._large.popleft()]
                if not self._entries:
                    if self._closed and not self._large:
                        return []
                    self._changed.wait()
                    continue
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
