"""Many callers, one pair: questions wait in a queue, and a thread answers them one by one."""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator

from specgen.engine.tokens import Tokens
from specgen.errors import SpecgenError
from specgen.events import Event, Failed, Finished, Notice
from specgen.prompt import chat_prompt, raw_prompt
from specgen.serve.failures import Ending, Refused, of_error
from specgen.serve.metrics import Metrics
from specgen.serve.questions import Question
from specgen.session import Session, failing

# Of the time that an answer takes, how much the latest one says.
_LATEST = 0.3


class Job:
    """A question on its way. Its events arrive in the event loop of whoever asked."""

    def __init__(self, question: Question, cancel: Callable[["Job"], None]) -> None:
        self.question = question
        self.cancelled = False
        self.asked_at = time.monotonic()
        self._cancel = cancel
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    async def next(self) -> Event:
        """The next event of the answer; the last one is `Finished` or `Failed`."""
        return await self._events.get()

    def cancel(self) -> None:
        """Nobody waits for the rest; the stream ends here. May be called twice, and after the end."""
        self.cancelled = True
        self._cancel(self)
        self.put(Failed(SpecgenError("the caller has gone")))

    def put(self, event: Event) -> None:
        """Hand over an event, from the engine's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)


class Engine:
    """Answers questions in the order in which they came, at most `waiting` of them in a queue.

    `show` is told, in any thread, what whoever runs the server should know.
    """

    def __init__(self, session: Session, waiting: int, metrics: Metrics, show: Callable[[Event], None]) -> None:
        self._session = session
        self._most = waiting
        self._metrics = metrics
        self._show = show
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._closed = False
        self._answer_s = 1.0
        self.requests = 0
        self._idle_since = time.monotonic()
        # A daemon: a forward pass that does not end must not keep the process.
        self._thread = threading.Thread(target=self._work, name="specgen-engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> bool:
        return self._running is not None

    def idle_s(self) -> float:
        """For how long there has been nothing to do, in seconds."""
        with self._changed:
            return 0.0 if self._running or self._waiting else time.monotonic() - self._idle_since

    def ask(self, question: Question) -> Job:
        """Put a question at the end of the queue. Raises Refused when the queue is full, or the server ends."""
        job = Job(question, self._drop)
        with self._changed:
            if self._closed:
                raise of_error(Ending())
            if len(self._waiting) >= self._most:
                wait = min(60, math.ceil(self._answer_s))
                raise Refused(
                    f"{self._most} requests are waiting already; try again in {wait} s",
                    status=503,
                    code="queue_full",
                    headers={"Retry-After": str(wait)},
                )
            self.requests += 1
            self._waiting.append(job)
            self._changed.notify()
        return job

    def close(self) -> None:
        """Answer nothing more: what waits is refused, what runs goes on."""
        with self._changed:
            self._closed = True
            for job in self._waiting:
                job.put(Failed(Ending()))
            self._waiting.clear()
            self._changed.notify()

    def stop(self) -> None:
        """End the answer that runs after its round."""
        self._session.stop()

    def abandon(self) -> None:
        """Tell the caller whose answer runs that it is over, though a pass still goes on."""
        if (job := self._running) is not None:
            job.put(Failed(Ending()))

    def join(self, seconds: float) -> bool:
        """Wait for the thread to end, after `close`. Whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _drop(self, job: Job) -> None:
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                self._idle_since = time.monotonic()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                self._running = job = self._waiting.popleft()
            begin = time.monotonic()
            self._metrics.waited(begin - job.asked_at)
            try:
                self._answer(job)
            finally:
                with self._changed:
                    self._running = None
                    self._idle_since = time.monotonic()
                self._answer_s += _LATEST * (self._idle_since - begin - self._answer_s)

    def _answer(self, job: Job) -> None:
        events = failing(self._events(job.question))
        try:
            for event in events:
                self._metrics.saw(event)
                job.put(_ended(event))
                if job.cancelled:
                    break
        except Exception as error:  # the next question is not to suffer from a fault of this one
            self._show(Notice(f"unexpected {type(error).__name__} in an answer: {error}"))
            job.put(Failed(SpecgenError(f"unexpected {type(error).__name__}", hint="the server's stderr says more")))
        finally:
            _close(events)

    def _events(self, question: Question) -> Generator[Event, None, None]:
        tokenizer = self._session.pair.tokenizer
        if question.messages is None:
            prompt = raw_prompt(tokenizer, question.prompt)
        else:
            prompt = chat_prompt(tokenizer, question.messages)
        if prompt.notice:
            yield Notice(prompt.notice)
        yield from self._session.run(
            Tokens(prompt.ids),
            sampling=question.sampling,
            max_new_tokens=question.max_new_tokens,
            stop=question.stop,
            thinking=prompt.thinking,
            constraint=question.constraint,
        )


def _ended(event: Event) -> Event:
    """Only the end of the server interrupts an answer that somebody waits for."""
    return Failed(Ending()) if isinstance(event, Finished) and event.reason == "interrupted" else event


def _close(events: Iterator[Event]) -> None:
    if close := getattr(events, "close", None):
        close()
