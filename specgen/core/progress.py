"""Slow work that tells how far it is: generators that yield Progress and Notice and return a result."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import TypeAlias, TypeVar

from specgen.core.events import Notice, Progress

T = TypeVar("T")
Reporting: TypeAlias = Generator[Progress | Notice, None, T]

_EVERY_S = 0.1  # between two Progress events: as often as an eye can follow
_THREADS = 4  # files at a time
_GRACE_S = 1.0  # for stopped jobs to delete their half files; a job that hangs longer is left behind


class Stopped(Exception):
    """Raised inside a job by `Meter.add` once nobody waits for the job any more."""


class Meter:
    """Counts the bytes of jobs that run in several threads, and is the place where they learn to stop."""

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
        """Let the user know; the same sentence counts once."""
        with self._lock:
            if text not in self._said:
                self._said.append(text)

    def said(self, after: int) -> list[str]:
        """The sentences so far, but for the first ones."""
        with self._lock:
            return self._said[after:]

    def pause(self, seconds: float) -> None:
        """Wait. Raises Stopped like `add`."""
        if self.stop.wait(seconds):
            raise Stopped


def follow(reporting: Reporting[T], show: Callable[[Progress | Notice], object]) -> T:
    """The result of `reporting`; every event on the way goes to `show`. Closes it whatever happens.

    Ctrl-C is raised inside `reporting`, also where it comes while something is shown.
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


def run_jobs(what: str, done: int, total: int, jobs: Sequence[Callable[[Meter], object]]) -> Reporting[None]:
    """Run `jobs` in a few threads and report their bytes as one Progress from `done` to `total`.

    The first failure stops the other jobs and is raised here. Closing the generator, or an exception at one of its
    yields, stops them too: at once for a job that calls `meter.add`, and the threads never keep the process alive.
    """
    meter = Meter(done)
    failures: list[Exception] = []
    pending: SimpleQueue[Callable[[Meter], object]] = SimpleQueue()
    for job in jobs:
        pending.put(job)
    ended: SimpleQueue[None] = SimpleQueue()  # Thread.join takes a thread for ended once Ctrl-C interrupts it
    running = told = 0
    try:
        yield Progress(what, shown := done, total)
        for _ in range(min(_THREADS, len(jobs))):
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
    except Exception as error:  # whatever a job raises belongs to the caller's thread
        failures.append(error)
        meter.stop.set()
    ended.put(None)
