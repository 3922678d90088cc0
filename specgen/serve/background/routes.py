"""What only this user's own commands ask: a session over JSON lines."""

import asyncio
import json
import traceback
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from specgen.core.errors import SpecgenError
from specgen.core.events import Event, Failed, Finished, Notice, Stats
from specgen.engine.pacing.controller import Controller
from specgen.serve.api.errors import ApiError, ServerEnding, api_error
from specgen.serve.api.http import RequestLimits, cancel_when_gone, whole_body
from specgen.serve.background.endpoint import PRIVATE
from specgen.serve.background.fingerprint import Fingerprint
from specgen.serve.background.messages import END, GONE, KIND, Call, OpenedPair, line, object_line, read
from specgen.serve.worker.pool import PairKey, Pool
from specgen.serve.worker.shared_session import SharedSession
from specgen.serve.worker.worker import Job, Worker
from specgen.session.pair import Pair


class WorkerFault(SpecgenError):
    """A fault of this process. Whoever asked does without it, and sees the same fault with all that belongs to it."""


class Routes:
    """The routes below PRIVATE that answer calls.

    `keep` is told how long a caller wants this process to stay, `retire` to end for a newer one;
    None: that it does not.
    """

    def __init__(
        self,
        pool: Pool,
        limits: RequestLimits,
        *,
        keep: Callable[[float], None],
        retire: Callable[[], None] | None,
        fingerprint: Fingerprint,
        show: Callable[[Event], None],
    ) -> None:
        self._pool = pool
        self._limits = limits
        self._keep = keep
        self._retire = retire
        self._show = show
        self._fingerprint = fingerprint
        self._jobs: dict[str, Job] = {}
        self._controllers: dict[str, dict[int | None, Controller]] = {}

    def routes(self) -> list[Route]:
        return [
            Route(f"{PRIVATE}ask", self.ask, methods=["POST"]),
            Route(f"{PRIVATE}interrupt", self.interrupt, methods=["POST"]),
        ]

    async def ask(self, request: Request) -> Response:
        """Events as lines, and one more that says that they are all there are.

        503 where this process ends, for a newer one or at all; 409 where the caller would do something else.
        """
        try:
            call: Call = read(Call, json.loads(await whole_body(request, self._limits)))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ApiError(f"not a call: {type(error).__name__}") from error
        if call.fingerprint != self._fingerprint:
            if self._retire and call.fingerprint.is_newer_than(self._fingerprint):
                self._retire()
                raise api_error(ServerEnding())
            raise ApiError("another specgen, or another environment", status=409)
        self._keep(call.keep_alive_s)
        wanted = self._wanted(call, call.draft)
        if call.former_draft is not None:
            self._controllers.pop(call.caller, None)  # they know another draft
        controllers = self._learnt(call.caller)
        worker = self._pool.worker(wanted)
        job = worker.ask(lambda session: self._work(call, wanted, controllers, session), call.caller)
        return StreamingResponse(self._lines(call, worker, job, request), media_type="application/jsonl")

    async def interrupt(self, request: Request) -> Response:
        """End an answer after its round, as Session.stop does."""
        if job := self._jobs.get((await whole_body(request, self._limits)).decode("latin-1")):
            job.stop()
        return JSONResponse({})

    async def _lines(self, call: Call, worker: Worker, job: Job, request: Request) -> AsyncIterator[bytes]:
        self._jobs[call.id] = job
        watcher = asyncio.create_task(cancel_when_gone(request, job))
        try:
            while True:
                event = await job.next()
                if isinstance(event, Failed) and isinstance(event.error, ServerEnding | WorkerFault):
                    yield line({KIND: GONE, "why": event.error.message})
                    return
                yield object_line(event)
                if isinstance(event, Finished) and call.request is None:
                    yield object_line(_opened(worker.session.pair))
                if isinstance(event, Finished | Failed):
                    yield line({KIND: END})
                    return
        finally:
            watcher.cancel()
            job.cancel()
            del self._jobs[call.id]

    def _wanted(self, call: Call, draft: str) -> PairKey:
        """The pair of a call: one that is known already, where only the draft length is another."""
        wanted = PairKey(call.target, draft, call.options)
        return next((known for known in self._pool.known if _any_length(known) == _any_length(wanted)), wanted)

    def _learnt(self, caller: str) -> dict[int | None, Controller]:
        """What is learnt from one answer of a caller is of use for its next, and nobody else's."""
        controllers = self._controllers.pop(caller, {})
        self._controllers[caller] = controllers  # the latest is the last
        while len(self._controllers) > self._limits.waiting:
            del self._controllers[next(iter(self._controllers))]
        return controllers

    def _work(
        self, call: Call, wanted: PairKey, controllers: dict[int | None, Controller], session: SharedSession
    ) -> Generator[Event, None, None]:
        try:
            if session.opened and not (yield from session.is_current()):
                self._pool.let_go(wanted)
            if session.opened and not call.notices_shown:
                yield from session.notices
            with session.drafting(call.options.num_draft_tokens, controllers):
                if call.request is None:
                    if call.former_draft is not None and session.opened is None:
                        yield from self._pool.open_instead_of(self._wanted(call, call.former_draft), wanted)
                    yield from session.open()
                    yield Finished("end", "", Stats())
                else:
                    yield from call.request.answer(session)
        except SpecgenError:
            raise
        except Exception as error:
            self._show(Notice("".join(traceback.format_exception(error))))
            raise WorkerFault(f"unexpected {type(error).__name__}") from error


def _opened(pair: Pair) -> OpenedPair:
    path = str(pair.checkpoint.path.absolute())
    return OpenedPair(pair.loaded_target, pair.loaded_draft, pair.drafter_name, pair.context_length, path)


def _any_length(wanted: PairKey) -> PairKey:
    """`wanted`, whatever its draft length."""
    return replace(wanted, options=replace(wanted.options, num_draft_tokens=None))
