"""Slow work that tells how far it is: generators that yield Progress and Notice and return a result."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import TypeAlias, TypeVar

from specgen.events import Notice, Progress

T = TypeVar("T")
Reporting: TypeAlias = Generator[Progress | Notice, None, T]

EVERY_S = 0.1  # between two Progress events: as often as an eye can follow
GRACE_S = 0.5  # for stopped jobs to delete their half files; a job that hangs longer is left behind


class Stopped(Exception):
    """Raised inside a job by `Meter.add` once nobody waits for the job any more."""


class Meter:
    """Counts the bytes of jobs that run in several threads, and is the place where they learn to stop."""

    def __init__(self, done: int) -> None:
        self.done = done
        self.stop = Event()
        self._lock = Lock()

    def add(self, count: int) -> None:
        if self.stop.is_set():
            raise Stopped
        with self._lock:
            self.done += count


def follow(reporting: Reporting[T], show: Callable[[Progress | Notice], object]) -> T:
    """The result of `reporting`; every event on the way goes to `show`. Closes it whatever happens."""
    try:
        while True:
            show(next(reporting))
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
    threads = [Thread(target=_work, args=(pending, meter, failures), daemon=True) for _ in range(min(4, len(jobs)))]
    try:
        yield Progress(what, shown := done, total)
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(EVERY_S)
                if meter.done != shown and meter.done < total and thread.is_alive():
                    yield Progress(what, shown := meter.done, total)
    finally:
        meter.stop.set()
        deadline = time.monotonic() + GRACE_S
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
    if failures:
        raise failures[0]
    yield Progress(what, total, total)


def _work(pending: "SimpleQueue[Callable[[Meter], object]]", meter: Meter, failures: list[Exception]) -> None:
    with suppress(Empty, Stopped):
        while not meter.stop.is_set():
            job = pending.get_nowait()
            try:
                job(meter)
            except Stopped:
                raise
            except Exception as error:  # whatever a job raises belongs to the caller's thread
                failures.append(error)
                meter.stop.set()
