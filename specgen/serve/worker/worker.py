"""A thread that answers the requests for one pair, one after the other."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import TypeAlias

from specgen.core.errors import SpecgenError
from specgen.core.events import Event, Failed, Finished, Notice, Progress, Started, failing
from specgen.core.words import plural
from specgen.serve.api.errors import ApiError, ServerEnding, api_error
from specgen.serve.api.metrics import Metrics
from specgen.serve.worker.queue import FairQueue
from specgen.serve.worker.shared_session import SharedSession

# Weight of the newest answer in the moving average of durations, which Retry-After states.
_NEWEST = 0.3
# Poll interval while an answer ends, in seconds.
_TICK_S = 0.05

Work: TypeAlias = Callable[[SharedSession], Iterator[Event]]
"""Work for a session, which it opens itself. Its stream ends in `Finished` or `Failed`, or raises SpecgenError."""


class Job:
    """Queued or running work. Its events arrive in the event loop in which it was created."""

    def __init__(self, work: Work, caller: str, leave: Callable[["Job"], None]) -> None:
        self.work = work
        self.caller = caller
        self.cancelled_at: float | None = None
        self.stopped = False
        self.started = False
        self.asked_at = time.monotonic()
        self.ahead = 0
        self._leave = leave
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    async def next(self) -> Event:
        """The next event. The last one is `Finished` or `Failed`."""
        return await self._events.get()

    def cancel(self) -> None:
        """Drop the rest, since the caller has gone. The stream ends here. Idempotent."""
        if self.cancelled_at is None:
            self.cancelled_at = time.monotonic()
        self._leave(self)
        self.put(Failed(SpecgenError("the caller has gone")))

    def stop(self) -> None:
        """End the answer after its round, as Session.stop does, or at once if it has not begun."""
        self.stopped = True
        self._leave(self)

    def put(self, event: Event) -> None:
        """Hand an event to the event loop, from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def set_position(self, ahead: int) -> None:
        """Report the number of answers before this one if it has changed."""
        if ahead not in (0, self.ahead):
            self.ahead = ahead
            self.put(Progress(f"waiting for {plural(ahead, 'other answer')}"))


class Worker:
    """Answers the requests for one session. Callers take turns; at most `max_waiting` requests wait.

    The thread lives while there is work or a loaded pair. The session computes in another one. `show` gets notices for
    the operator, in any thread.
    """

    def __init__(
        self, session: SharedSession, max_waiting: int, metrics: Metrics, show: Callable[[Event], None]
    ) -> None:
        self.session = session
        self._max_waiting = max_waiting
        self._metrics = metrics
        self._show = show
        self._changed = threading.Condition()
        self._queue: FairQueue[Job] = FairQueue()
        self._running: Job | None = None
        self._thread: threading.Thread | None = None
        self._closed = self._ending = self._unloading = False
        self._answer_s = 1.0
        self.requests = 0
        self._idle_since = time.monotonic()

    @property
    def waiting(self) -> int:
        with self._changed:
            return len(self._queue)

    @property
    def running(self) -> bool:
        return self._running is not None

    @property
    def in_use(self) -> bool:
        """Whether it has a loaded pair or work."""
        with self._changed:
            return self.session.opened is not None or self._running is not None or len(self._queue) > 0

    @property
    def idle_since(self) -> float:
        """When the worker became idle, in seconds of time.monotonic; now while a caller waits.

        Work that nobody waits for counts as idle: it may hang.
        """
        with self._changed:
            if len(self._queue):
                return time.monotonic()
            if self._running is None:
                return self._idle_since
            return time.monotonic() if self._running.cancelled_at is None else self._running.cancelled_at

    def ask(self, work: Work, caller: str) -> Job:
        """Queue `work`. Raises ApiError if the queue is full or the server is ending."""
        job = Job(work, caller, self._leave)
        with self._changed:
            if self._closed:
                raise api_error(ServerEnding())
            if len(self._queue) >= self._max_waiting:
                wait = min(60, math.ceil(self._answer_s))
                raise ApiError(
                    f"{self._max_waiting} requests are waiting already; try again in {wait} s",
                    status=503,
                    code="queue_full",
                    headers={"Retry-After": str(wait)},
                )
            self._queue.add(job)
            self._report_positions()
            if self._thread is None or not self._thread.is_alive():
                # A daemon thread: a forward pass that hangs must not keep the process alive.
                self._thread = threading.Thread(target=self._work, name="specgen-worker", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return job

    def unload(self) -> Iterator[None]:
        """Close the session between two answers. Yields while one runs. Waiting jobs then open it again."""
        with self._changed:
            self._unloading = True
        try:
            while True:
                with self._changed:
                    # Without a pair the running job waits for its turn to load one, perhaps behind the caller of this.
                    if self._running is None or self.session.opened is None:
                        self.session.close()
                        return
                yield
                time.sleep(_TICK_S)
        finally:
            with self._changed:
                self._unloading = False
                self._changed.notify_all()

    def close(self) -> None:
        """Accept no more work. Refuses waiting jobs, and the running one unless its answer has begun."""
        with self._changed:
            self._closed = True
            for job in self._queue:
                job.put(Failed(ServerEnding()))
            self._queue = FairQueue()
            self._changed.notify_all()

    def stop(self) -> None:
        """End the running answer after its round."""
        self._ending = True
        self.session.stop()

    def abandon(self) -> None:
        """Tell the caller of the running answer that it is over, although a pass still runs."""
        if (job := self._running) is not None:
            job.put(Failed(ServerEnding()))

    def join(self, seconds: float) -> bool:
        """Wait up to `seconds` for the thread to end, after `close`. Returns whether it has ended."""
        if (thread := self._thread) is None:
            return True
        thread.join(seconds)
        return not thread.is_alive()

    def _leave(self, job: Job) -> None:
        """Remove a cancelled or stopped job from the queue, or stop its answer."""
        with self._changed:
            if self._queue.remove(job):
                self._idle_since = time.monotonic()
                self._report_positions()
                if job.stopped:
                    job.put(Failed(SpecgenError("stopped before its turn")))
            elif job is self._running and job.stopped:
                self.session.stop()

    def _report_positions(self) -> None:
        for position, job in enumerate(self._queue):
            job.set_position(position + (self._running is not None))

    def _work(self) -> None:
        while (job := self._next()) is not None:
            begin = time.monotonic()
            self._metrics.waited(begin - job.asked_at)
            last: Event | None = None
            try:
                last = self._answer(job, begin)
            except BaseException as error:  # the thread must survive, or later requests hang
                last = self._fault(error)
            finally:
                with self._changed:
                    self._running = None
                    self._idle_since = time.monotonic()
                    self._changed.notify_all()
                self._answer_s += _NEWEST * (self._idle_since - begin - self._answer_s)
            if last is not None:  # now, so that a caller who has its answer finds the worker idle
                job.put(last)

    def _next(self) -> Job | None:
        """Wait for the next job. Returns None, and ends the thread, when there is neither work nor a pair."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._unloading if len(self._queue) else self._closed or self.session.opened is None
            )
            if not len(self._queue):
                self._thread = None
                return None
            self._running = job = self._queue.take()
            self._report_positions()
            return job

    def _answer(self, job: Job, begin: float) -> Event | None:
        """Hand on all events but the last one, which is returned: None if the answer is broken off."""
        last: Event | None = None
        events = failing(self._start(job))
        try:
            for event in events:
                if isinstance(event, Started):
                    job.started = True
                    self.requests += 1
                self._metrics.saw(event, time.monotonic() - begin)
                if isinstance(event, Finished | Failed):
                    last = self._replace_interrupted(event, job)
                else:
                    job.put(event)
                if job.cancelled_at is not None or self._must_end(job):
                    break
        finally:
            events.close()
        return last

    def _fault(self, error: BaseException) -> Failed:
        """The end of a job with an unexpected exception. A panic of Rust code is no Exception."""
        self._show(Notice(f"unexpected {type(error).__name__} in an answer: {error}"))
        return Failed(SpecgenError(f"unexpected {type(error).__name__}", hint="the server's stderr says more"))

    def _start(self, job: Job) -> Generator[Event, None, None]:
        """Start the work inside the generator, so that an early failure is handled like a later one."""
        yield from job.work(self.session)

    def _must_end(self, job: Job) -> bool:
        """Apply a stop that came before the session could hear it. Returns whether the job ends here."""
        if job.started:
            if job.stopped or self._ending:
                self.session.stop()
            return False
        if job.stopped or self._closed:
            job.put(Failed(ServerEnding() if self._closed else SpecgenError("stopped before it began")))
        return job.stopped or self._closed

    def _replace_interrupted(self, event: Event, job: Job) -> Event:
        """An answer that no caller stopped was interrupted by the end of the server."""
        interrupted = isinstance(event, Finished) and event.reason == "interrupted"
        return Failed(ServerEnding()) if interrupted and not job.stopped else event
