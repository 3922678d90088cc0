"""Slow work with progress: generators that yield Progress and Notice and return a result."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import TypeAlias, TypeVar

from specgen.core.events import Notice, Progress

T = TypeVar("T")
Reporting: TypeAlias = Generator[Progress | Notice, None, T]

_EVERY_S = 0.1  # between two Progress events; faster changes cannot be read
_THREADS = 4  # files at a time
_GRACE_S = 1.0  # for stopped jobs to delete partial files; a job that takes longer is abandoned


class Stopped(Exception):
    """Raised inside a job by `Meter.add` and `Meter.pause` when the job must stop."""


class Meter:
    """Counts the bytes of jobs in several threads, and tells them to stop."""

    def __init__(self, done: int) -> None:
        self.done = done
        self.stop = Event()
        self._lock = Lock()
        self._said: list[str] = []

    def add(self, count: int) -> None:
        if self.stop.is_set():
            raise Stopped
        with self._lock:
            self.done += count

    def say(self, text: str) -> None:
        """Add a sentence for the user. Repeated sentences count once."""
        with self._lock:
            if text not in self._said:
                self._said.append(text)

    def said(self, after: int) -> list[str]:
        """The sentences so far, without the first `after`."""
        with self._lock:
            return self._said[after:]

    def pause(self, seconds: float) -> None:
        """Wait. Raises Stopped as soon as the job must stop."""
        if self.stop.wait(seconds):
            raise Stopped


def follow(reporting: Reporting[T], show: Callable[[Progress | Notice], object]) -> T:
    """The result of `reporting`. Passes every event to `show`, and always closes `reporting`.

    A KeyboardInterrupt is raised inside `reporting`, also if it comes during `show`.
    """
    try:
        event = next(reporting)
        while True:
            try:
                show(event)
            except KeyboardInterrupt as interrupt:
                event = reporting.throw(interrupt)
            else:
                event = next(reporting)
    except StopIteration as finished:
        result: T = finished.value
        return result
    finally:
        reporting.close()


def run_jobs(
    what: str, done: int, total: int, jobs: Sequence[Callable[[Meter], object]], threads: int = _THREADS
) -> Reporting[None]:
    """Run `jobs` in `threads` threads and report their bytes as one Progress from `done` to `total`.

    The first failure stops the other jobs and is raised here. Closing the generator, or an exception at a yield, stops
    them too. A job notices at its next `meter.add`. The threads never keep the process alive.
    """
    meter = Meter(done)
    failures: list[Exception] = []
    pending: SimpleQueue[Callable[[Meter], object]] = SimpleQueue()
    for job in jobs:
        pending.put(job)
    ended: SimpleQueue[None] = SimpleQueue()  # after Ctrl-C, Thread.join may return before the thread ends
    running = told = 0
    try:
        yield Progress(what, shown := done, total)
        for _ in range(min(threads, len(jobs))):
            Thread(target=_work, args=(pending, meter, failures, ended), daemon=True).start()
            running += 1
        while running:
            running -= _ended(ended, _EVERY_S)
            for text in meter.said(told):
                yield Notice(text)
                told += 1
            if running and shown != meter.done < total:
                yield Progress(what, shown := meter.done, total)
    finally:
        meter.stop.set()
        deadline = time.monotonic() + _GRACE_S
        while running and (left := deadline - time.monotonic()) > 0:
            running -= _ended(ended, left)
    if failures:
        raise failures[0]
    yield Progress(what, total, total)


def _ended(ended: "SimpleQueue[None]", timeout: float) -> bool:
    """Whether a thread ended within `timeout` seconds."""
    with suppress(Empty):
        ended.get(timeout=timeout)
        return True
    return False


def _work(
    pending: "SimpleQueue[Callable[[Meter], object]]",
    meter: Meter,
    failures: list[Exception],
    ended: "SimpleQueue[None]",
) -> None:
    try:
        while not meter.stop.is_set():
            pending.get_nowait()(meter)
    except (Empty, Stopped):
        pass
    except Exception as error:  # raised again in the caller's thread
        failures.append(error)
        meter.stop.set()
    ended.put(None)
