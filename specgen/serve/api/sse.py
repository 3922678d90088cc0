"""An answer as it comes, in server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from specgen.core.events import Failed, Finished, Notice, Progress, Started, Step
from specgen.serve.api.errors import api_error
from specgen.serve.api.logprobs import TokenPlacer
from specgen.serve.api.requests import CompletionRequest
from specgen.serve.api.responses import ResponseBuilder
from specgen.serve.worker.worker import Job


class EventStream:
    """The events of `job`; `notices` were read from it already, and `started`, if the answer has begun.

    A failure is the last of them: the status has been sent. `watcher` ends with it.
    """

    def __init__(
        self,
        question: CompletionRequest,
        job: Job,
        watcher: "asyncio.Task[None]",
        answer: ResponseBuilder,
        notices: list[str],
        started: Started | None,
    ) -> None:
        self._question = question
        self._job = job
        self._watcher = watcher
        self._answer = answer
        self._notices = notices
        self._started = started

    async def events(self) -> AsyncIterator[bytes]:
        try:
            if self._started is None:
                async for comment in self._until_started():
                    yield comment
            if self._started is not None:
                async for event in self._from(self._started):
                    yield event
        finally:
            self._watcher.cancel()
            self._job.cancel()

    async def _until_started(self) -> AsyncIterator[bytes]:
        """Comments, which clients skip, on what the answer waits for; or why there is none."""
        while self._started is None:
            match await self._job.next():
                case Progress(what):
                    yield f": {' '.join(what.split())}\n\n".encode()
                case Notice(text):
                    self._notices.append(text)
                case Started() as started:
                    self._started = started
                case Failed(error):
                    yield _sse(api_error(error).body())
                    return

    async def _from(self, started: Started) -> AsyncIterator[bytes]:
        answer, placing = self._answer, TokenPlacer()
        if (first := answer.first()) is not None:
            yield _sse(first)
        while True:
            match await self._job.next():
                case Notice(text):
                    self._notices.append(text)
                case Step() as step:
                    placed = placing.add(step)
                    if step.text:
                        yield _sse(answer.piece(step.text, None if self._question.logprobs is None else placed))
                case Failed(error):
                    yield _sse(api_error(error).body())
                    return
                case Finished() as finished:
                    yield _sse(answer.last(started, finished, self._notices))
                    if self._question.with_usage:
                        yield _sse(answer.usage(finished))
                    yield b"data: [DONE]\n\n"
                    return


def _sse(what: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(what, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
