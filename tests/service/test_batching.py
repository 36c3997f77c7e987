"""The queue behind the service, without any image."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import pytest

pytest.importorskip("fastapi")

from facial_keypoints.service.batching import NoRoomError, QueueFullError, WorkQueue


class Worker:
    """Doubles numbers; negative ones are errors; waits while the gate is closed."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, jobs: Sequence[int]) -> list[int | Exception]:
        assert self.gate.wait(20)
        self.batches.append(list(jobs))
        if 13 in jobs:
            raise RuntimeError("unlucky")
        return [ValueError(job) if job < 0 else 2 * job for job in jobs]


def queue_of(worker: Worker, **options: object) -> WorkQueue[int, int]:
    settings = {"threads": 1, "capacity": 10, "batch": 4, "wait_s": 0.0}
    settings |= {"room": 100, "largest": 60, "late_s": 30.0} | options
    queue = WorkQueue(worker, lambda job: None if job % 2 else "even", **settings)  # type: ignore[arg-type]
    queue.start()
    return queue


def held(worker: Worker, queue: WorkQueue[int, int]) -> Future[int]:
    """A job that keeps the one thread busy until the gate opens."""
    worker.gate.clear()
    (future,) = queue.put([1])
    while queue.waiting:
        time.sleep(0.001)
    return future


def test_jobs_of_one_kind_are_answered_together_and_others_alone() -> None:
    worker = Worker()
    queue = queue_of(worker)
    first = held(worker, queue)
    futures = queue.put([2, 3, 4]) + queue.put([6, 8, 10, 5])
    worker.gate.set()
    assert [future.result(10) for future in [first, *futures]] == [2, 4, 6, 8, 12, 16, 20, 10]
    assert worker.batches == [[1], [2, 4, 6, 8], [3], [10], [5]]
    queue.close()


def test_too_many_are_refused_all_at_once() -> None:
    worker = Worker()
    queue = queue_of(worker, capacity=3)
    first = held(worker, queue)
    taken = queue.put([3, 5])
    with pytest.raises(QueueFullError):
        queue.put([7, 9])
    assert not queue.full
    taken += queue.put([7])
    assert queue.full
    worker.gate.set()
    assert [future.result(10) for future in [first, *taken]] == [2, 6, 10, 14]
    queue.close()


def test_a_job_cancelled_in_time_is_not_processed() -> None:
    worker = Worker()
    queue = queue_of(worker)
    first = held(worker, queue)
    alone, even, other = queue.put([3, 2, 4])
    assert alone.cancel()
    assert even.cancel()
    worker.gate.set()
    assert (first.result(10), other.result(10)) == (2, 8)
    queue.close()
    assert worker.batches == [[1], [4]]


def test_an_error_reaches_its_job_and_the_thread_goes_on() -> None:
    queue = queue_of(Worker())
    bad, unlucky = queue.put([-1, 13])
    with pytest.raises(ValueError, match="-1"):
        bad.result(10)
    with pytest.raises(RuntimeError, match="unlucky"):
        unlucky.result(10)
    assert queue.put([2])[0].result(10) == 4
    assert queue.ready
    queue.close()


def test_closing_processes_waiting_jobs_and_accepts_no_more() -> None:
    worker = Worker()
    queue = queue_of(worker)
    first = held(worker, queue)
    rest = queue.put([3, 5])
    closing = threading.Thread(target=queue.close)
    closing.start()
    while queue.ready:
        time.sleep(0.001)
    with pytest.raises(QueueFullError):
        queue.put([7])
    worker.gate.set()
    closing.join(10)
    assert [future.result(0) for future in [first, *rest]] == [2, 6, 10]


def test_a_batch_waits_only_while_more_are_uploaded() -> None:
    worker = Worker()
    queue = queue_of(worker, wait_s=10.0)
    start = time.monotonic()
    assert queue.put([2])[0].result(20) == 4  # nobody is coming: at once
    queue.coming = 1
    (early,) = queue.put([4])
    while queue.waiting:
        time.sleep(0.001)
    late = queue.put([6, 8, 10])
    assert [future.result(20) for future in [early, *late]] == [8, 12, 16, 20]
    assert time.monotonic() - start < 5  # the batch was full before the time was up
    assert worker.batches == [[2], [4, 6, 8, 10]]
    queue.close()


def test_many_threads_lose_nothing() -> None:
    worker = Worker()
    queue = queue_of(worker, threads=4, capacity=1000)
    numbers = [i for i in range(600) if i != 13]
    futures = [queue.put(numbers[i : i + 2]) for i in range(0, len(numbers), 2)]
    answers = [future.result(20) for pair in futures for future in pair]
    assert answers == [2 * i for i in numbers]
    queue.close()


# --- room and time ------------------------------------------------------------------------------


class Decoder:
    """Jobs whose size is their number; the work waits while the gate of a job is closed."""

    def __init__(self, **options: object) -> None:
        self.gates: dict[int, threading.Event] = {}
        self.begun: list[int] = []
        settings = {"threads": 2, "capacity": 10, "batch": 4, "wait_s": 0.0, "late_s": 30.0}
        settings |= {"room": 100, "largest": 60} | options
        self.queue = WorkQueue[int, int](self, lambda job: None, **settings)  # type: ignore[arg-type]
        self.queue.start()

    def __call__(self, jobs: Sequence[int]) -> list[int | Exception]:
        try:
            with self.queue.lease() as take:
                take(jobs[0])
                take(jobs[0])  # counts once
                self.begun.append(jobs[0])
                assert self.gates[jobs[0]].wait(20)
                return [jobs[0]]
        except NoRoomError as error:
            return [error]

    def hold(self, size: int) -> Future[int]:
        """Start a job that lasts until its gate opens."""
        self.gates[size] = threading.Event()
        (future,) = self.queue.put([size])
        wait_for(lambda: size in self.begun)
        return future


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.001)


def test_a_large_job_waits_for_room_while_small_ones_pass() -> None:
    decoder = Decoder()
    decoder.gates = {size: threading.Event() for size in (58, 30, 20)}
    decoder.gates[20].set()
    first = decoder.hold(59)
    large, medium = decoder.queue.put([58, 30])
    small = decoder.queue.put([20])[0]  # at most (100 - 60) / 2
    assert small.result(20) == 20
    assert decoder.begun == [59, 20]  # 30 would fit, but then the one before it might wait for ever
    assert not large.done()
    assert decoder.queue.waiting == 2
    for gate in decoder.gates.values():
        gate.set()
    assert [future.result(20) for future in (first, large, medium)] == [59, 58, 30]
    assert decoder.begun == [59, 20, 58, 30]
    decoder.queue.close()


def test_a_job_larger_than_the_room_is_done_alone() -> None:
    decoder = Decoder(threads=1)
    decoder.gates[500] = threading.Event()
    decoder.gates[500].set()
    assert decoder.queue.put([500])[0].result(20) == 500
    decoder.queue.close()


def test_it_is_not_ready_once_every_thread_is_late() -> None:
    now = [0.0]
    decoder = Decoder(clock=lambda: now[0])
    decoder.hold(10)
    now[0] = 20.0
    decoder.hold(11)
    now[0] = 31.0
    assert decoder.queue.ready  # one is late
    now[0] = 51.0
    assert not decoder.queue.ready
    decoder.gates[10].set()
    wait_for(lambda: decoder.queue.ready)
    decoder.gates[11].set()
    decoder.queue.close()


def test_closing_does_not_wait_for_a_stuck_thread() -> None:
    decoder = Decoder()
    decoder.hold(10)
    decoder.queue.close(timeout=0.01)
    assert not decoder.queue.ready
    decoder.gates[10].set()
