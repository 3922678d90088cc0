"""Answers as server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from specgen.core.events import Event, Failed, Finished, Progress, Started, Step
from specgen.serve.api.errors import api_error
from specgen.serve.api.requests import CompletionRequest
from specgen.serve.api.responses import Choice, ResponseBuilder, thinking_of
from specgen.serve.worker.worker import Job

# JSON may contain these characters, but some clients end a line at each of them.
_LINE_ENDS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


class EventStream:
    """The events of a streamed response, one job after the other.

    `first` has the events of the first job that were read before the stream began. A failure is the last event, since
    the status has been sent. `watcher` is cancelled at the end. A silent stream gets a comment every `comment_s`
    seconds.
    """

    def __init__(
        self,
        request: CompletionRequest,
        jobs: Sequence[Job],
        watcher: "asyncio.Task[None]",
        builder: ResponseBuilder,
        first: Sequence[Event],
        comment_s: float,
    ) -> None:
        self._request = request
        self._jobs = jobs
        self._watcher = watcher
        self._builder = builder
        self._pending = list(first)
        self._comment_s = comment_s

    async def events(self) -> AsyncIterator[bytes]:
        finished: list[Finished] = []
        try:
            for index, job in enumerate(self._jobs):
                async for line in self._answer(index, job, finished):
                    yield line
                if len(finished) <= index:
                    return
            if self._request.with_usage:
                yield _data(self._builder.usage(finished))
            yield b"data: [DONE]\n\n"
        finally:
            self._watcher.cancel()
            for job in self._jobs:
                job.cancel()

    async def _answer(self, index: int, job: Job, finished: list[Finished]) -> AsyncIterator[bytes]:
        """The lines of one answer. Its last event joins `finished` unless it fails."""
        choice = Choice(self._request.prefix(index))
        while choice.finished is None:
            event = await self._next(job)
            if isinstance(event, Failed):
                yield _data(api_error(event.error).body())
                return
            if event is None or isinstance(event, Progress):
                yield _comment("waiting" if event is None else event.what)
                continue
            for chunk in self._chunks(index, choice, event):
                yield _data(chunk)
        finished.append(choice.finished)

    def _chunks(self, index: int, choice: Choice, event: Event) -> Iterator[dict[str, Any]]:
        """The chunks for an event, which joins `choice`."""
        builder = self._builder
        known = len(choice.placed)
        choice.add(event)
        match event:
            case Started():
                if self._request.is_chat:
                    yield builder.first()
                if choice.prefix:
                    yield builder.piece(index, choice.prefix)
            case Step():
                if self._request.is_chat and (thinking := thinking_of(event)):
                    yield builder.thinking(thinking)
                if event.text:
                    yield builder.piece(index, event.text, choice.placed[known:])
            case Finished():
                yield builder.last(index, choice)
            case _:
                pass

    async def _next(self, job: Job) -> Event | None:
        """The next event, None after `comment_s` seconds without one."""
        if self._pending:
            return self._pending.pop(0)
        try:
            return await asyncio.wait_for(job.next(), self._comment_s)
        except TimeoutError:
            return None


def _comment(text: str) -> bytes:
    """A line that clients skip."""
    return f": {' '.join(text.split())}\n\n".encode("utf-8", "backslashreplace")


def _data(value: dict[str, Any]) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_LINE_ENDS)
    return b"data: " + text.encode("utf-8", "backslashreplace") + b"\n\n"
