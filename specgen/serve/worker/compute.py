"""Threads in which the work of several pairs is computed, one step at a time."""

from collections.abc import Callable, Generator
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any, Self, TypeVar

import torch

T = TypeVar("T")
Item = TypeVar("Item")


class ComputeThread:
    """A thread that takes steps of generators, in the order in which other threads ask for them.

    OpenMP keeps a team of threads for each thread that computes. Where all teams have more threads than there are
    cores, every team waits by sleeping, which halves the speed of a pair that computes alone. So the answers of all
    pairs share one such thread. A thread that ends takes its team along.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        # A daemon thread: a forward pass that hangs must not keep the process alive.
        Thread(target=self._work, name="specgen-compute", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread after the steps that are waiting."""
        self._calls.put(None)

    def run(self, steps: Generator[Item, None, T], threads: int) -> Generator[Item, None, T]:
        """The same items and result as `steps`, which runs in this thread with `threads` threads of torch."""

        def step() -> Item:
            if torch.get_num_threads() != threads:  # another pair has set its own
                torch.set_num_threads(threads)
            return next(steps)

        try:
            while True:
                yield self._call(step)
        except StopIteration as finished:
            result: T = finished.value
            return result
        finally:
            self._call(steps.close)

    def _call(self, function: Callable[[], T]) -> T:
        future: Future[T] = Future()
        self._calls.put((function, future))
        return future.result()

    def _work(self) -> None:
        torch.get_num_threads()  # the first call in a thread copies the setting of another thread, so make it first
        while (call := self._calls.get()) is not None:
            function, future = call
            try:
                future.set_result(function())
            except BaseException as error:  # belongs to the caller's thread
                future.set_exception(error)
            del call, function, future  # a step refers to its pair, whose memory may be wanted


def run_apart(steps: Generator[Item, None, T], threads: int) -> Generator[Item, None, T]:
    """Run `steps`, which may wait for files or for other pairs, in a thread that ends with them."""
    with ComputeThread() as thread:
        return (yield from thread.run(steps, threads))
