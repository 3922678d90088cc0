"""Many callers, one pair: what they ask waits for its turn, and a thread does one after the other."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import TypeAlias

import torch

from specgen.core.errors import SpecgenError
from specgen.core.events import Event, Failed, Finished, Notice, Progress, Started, failing
from specgen.core.words import plural
from specgen.serve.api.errors import ApiError, ServerEnding, api_error
from specgen.serve.api.metrics import Metrics
from specgen.serve.worker.queue import FairQueue
from specgen.serve.worker.shared_session import SharedSession

# Of the time that an answer takes, how much the latest one says.
_LATEST = 0.3
# How often it is looked whether the answer that runs has ended.
_TICK_S = 0.05

Work: TypeAlias = Callable[[SharedSession], Iterator[Event]]
"""What a caller asks of a session, which it opens itself. Ends in `Finished` or `Failed`, or raises SpecgenError."""


class Job:
    """Work on its way. Its events arrive in the event loop of whoever asked."""

    def __init__(self, work: Work, caller: str, leave: Callable[["Job"], None]) -> None:
        self.work = work
        self.caller = caller
        self.cancelled = False
        self.stopped = False
        self.started = False
        self.asked_at = time.monotonic()
        self.ahead = 0
        self._leave = leave
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    async def next(self) -> Event:
        """The next event; the last one is `Finished` or `Failed`."""
        return await self._events.get()

    def cancel(self) -> None:
        """Nobody waits for the rest; the stream ends here. May be called twice, and after the end."""
        self.cancelled = True
        self._leave(self)
        self.put(Failed(SpecgenError("the caller has gone")))

    def stop(self) -> None:
        """End the answer after its round, as Session.stop does, or at once where it has not begun."""
        self.stopped = True
        self._leave(self)

    def put(self, event: Event) -> None:
        """Hand over an event, from the worker's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def wait_behind(self, ahead: int) -> None:
        """Say how many answers come before this one, where that has changed."""
        if ahead not in (0, self.ahead):
            self.ahead = ahead
            self.put(Progress(f"waiting for {plural(ahead, 'other answer')}"))


class Worker:
    """Does what is asked of one session, in turn by caller, with at most `waiting` in the queue.

    Its thread lives as long as there is work, or a pair in memory. It computes with `threads` threads of the processor,
    whatever others of this process do. `show` is told, in any thread, what whoever runs the server should know.
    """

    def __init__(
        self, session: SharedSession, threads: int, waiting: int, metrics: Metrics, show: Callable[[Event], None]
    ) -> None:
        self.session = session
        self._threads = threads
        self._most = waiting
        self._metrics = metrics
        self._show = show
        self._changed = threading.Condition()
        self._queue: FairQueue[Job] = FairQueue()
        self._running: Job | None = None
        self._thread: threading.Thread | None = None
        self._closed = self._ending = self._leaving = False
        self._answer_s = 1.0
        self.requests = 0
        self._idle_since = time.monotonic()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def running(self) -> bool:
        return self._running is not None

    @property
    def in_use(self) -> bool:
        """Whether it holds a pair, or has something to do."""
        with self._changed:
            return self.session.opened is not None or self._running is not None or len(self._queue) > 0

    @property
    def idle_since(self) -> float:
        """Since when there has been nothing to do, on the clock of time.monotonic; now where there is something."""
        with self._changed:
            return time.monotonic() if self._running or len(self._queue) else self._idle_since

    def ask(self, work: Work, caller: str) -> Job:
        """Let `work` wait for its turn. Raises ApiError when the queue is full, or the server ends."""
        job = Job(work, caller, self._leave)
        with self._changed:
            if self._closed:
                raise api_error(ServerEnding())
            if len(self._queue) >= self._most:
                wait = min(60, math.ceil(self._answer_s))
                raise ApiError(
                    f"{self._most} requests are waiting already; try again in {wait} s",
                    status=503,
                    code="queue_full",
                    headers={"Retry-After": str(wait)},
                )
            self._queue.add(job)
            self._tell_positions()
            if self._thread is None:
                # A daemon: a forward pass that does not end must not keep the process.
                self._thread = threading.Thread(target=self._work, name="specgen-worker", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return job

    def unload(self) -> Iterator[None]:
        """Let go of the pair between two answers; yields while one runs. What waits then opens it again."""
        with self._changed:
            self._leaving = True
        try:
            while True:
                with self._changed:
                    if self._running is None:
                        self.session.close()
                        return
                yield
                time.sleep(_TICK_S)
        finally:
            with self._changed:
                self._leaving = False
                self._changed.notify_all()

    def close(self) -> None:
        """Do nothing more: what waits is refused, and so is what runs and has not begun its answer."""
        with self._changed:
            self._closed = True
            for job in self._queue:
                job.put(Failed(ServerEnding()))
            self._queue = FairQueue()
            self._changed.notify_all()

    def stop(self) -> None:
        """End the answer that runs after its round."""
        self._ending = True
        self.session.stop()

    def abandon(self) -> None:
        """Tell the caller whose answer runs that it is over, though a pass still goes on."""
        if (job := self._running) is not None:
            job.put(Failed(ServerEnding()))

    def join(self, seconds: float) -> bool:
        """Wait for the thread to end, after `close`. Whether it has."""
        if (thread := self._thread) is None:
            return True
        thread.join(seconds)
        return not thread.is_alive()

    def _leave(self, job: Job) -> None:
        """Take a job that is cancelled or stopped out of the queue, or end its answer."""
        with self._changed:
            if self._queue.remove(job):
                self._idle_since = time.monotonic()
                self._tell_positions()
                if job.stopped:
                    job.put(Failed(SpecgenError("stopped before its turn")))
            elif job is self._running and job.stopped:
                self.session.stop()

    def _tell_positions(self) -> None:
        for place, job in enumerate(self._queue):
            job.wait_behind(place + (self._running is not None))

    def _work(self) -> None:
        torch.get_num_threads()  # a thread's first call of it takes over what another has set, so not after ours
        torch.set_num_threads(self._threads)
        while (job := self._next()) is not None:
            begin = time.monotonic()
            self._metrics.waited(begin - job.asked_at)
            try:
                self._do(job, begin)
            finally:
                with self._changed:
                    self._running = None
                    self._idle_since = time.monotonic()
                    self._changed.notify_all()
                self._answer_s += _LATEST * (self._idle_since - begin - self._answer_s)

    def _next(self) -> Job | None:
        """Wait for the next turn. None where there is nothing left to wait for, and the thread ends."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._leaving if len(self._queue) else self._closed or self.session.opened is None
            )
            if not len(self._queue):
                self._thread = None
                return None
            self._running = job = self._queue.take()
            self._tell_positions()
            return job

    def _do(self, job: Job, begin: float) -> None:
        events = failing(self._lazily(job))
        try:
            for event in events:
                if isinstance(event, Started):
                    job.started = True
                    self.requests += 1
                self._metrics.saw(event, time.monotonic() - begin)
                job.put(self._ended(event, job))
                if job.cancelled or self._is_over(job):
                    break
        except Exception as error:  # the next one is not to suffer from a fault of this one
            self._show(Notice(f"unexpected {type(error).__name__} in an answer: {error}"))
            job.put(Failed(SpecgenError(f"unexpected {type(error).__name__}", hint="the server's stderr says more")))
        finally:
            events.close()

    def _lazily(self, job: Job) -> Generator[Event, None, None]:
        """So that what fails before the first event fails like all else."""
        yield from job.work(self.session)

    def _is_over(self, job: Job) -> bool:
        """Hear what was asked before the answer began, when the session could not."""
        if job.started:
            if job.stopped or self._ending:
                self.session.stop()
            return False
        if job.stopped or self._closed:
            job.put(Failed(ServerEnding() if self._closed else SpecgenError("stopped before it began")))
        return job.stopped or self._closed

    def _ended(self, event: Event, job: Job) -> Event:
        """An answer that nobody stopped was interrupted by the end of the server."""
        interrupted = isinstance(event, Finished) and event.reason == "interrupted"
        return Failed(ServerEnding()) if interrupted and not job.stopped else event
