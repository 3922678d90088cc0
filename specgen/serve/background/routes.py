"""Routes for specgen's own commands: a session over JSON lines."""

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
from specgen.serve.api.http import RequestLimits, cancel_when_gone, read_body
from specgen.serve.background.endpoint import PRIVATE
from specgen.serve.background.fingerprint import Fingerprint
from specgen.serve.background.messages import END, GONE, KIND, Call, OpenedPair, line, object_line, read
from specgen.serve.worker.pool import PairKey, Pool
from specgen.serve.worker.shared_session import SharedSession
from specgen.serve.worker.worker import Job, Worker
from specgen.session.pair import Pair


class WorkerFault(SpecgenError):
    """A fault of this process. The client then loads the pair itself, and reports the fault with its traceback."""


class Routes:
    """The routes below PRIVATE that answer calls.

    `keep` gets the keep-alive time that a caller asks for, in seconds. `retire` ends the process for newer code; it is
    None in a foreground server.
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
        """The events as lines, and a final line.

        503 if this process ends, 409 if the caller has another fingerprint.
        """
        body = await read_body(request, self._limits)
        try:
            data = json.loads(body)
            self._compare(read(Fingerprint, data["fingerprint"]))  # first, since other code may send another call
            call: Call = read(Call, data)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ApiError(f"not a call: {type(error).__name__}") from error
        self._keep(call.keep_alive_s)
        pair = self._pair_of(call, call.draft)
        if call.former_draft is not None:
            self._controllers.pop(call.caller, None)  # they have learned about another draft
        controllers = self._controllers_of(call.caller)
        worker = self._pool.worker(pair)
        job = worker.ask(lambda session: self._work(call, pair, controllers, session), call.caller)
        return StreamingResponse(self._lines(call, worker, job, request), media_type="application/jsonl")

    def _compare(self, fingerprint: Fingerprint) -> None:
        """Refuse a caller with another fingerprint. Newer code makes this process end."""
        if fingerprint == self._fingerprint:
            return
        if self._retire and fingerprint.is_newer_than(self._fingerprint):
            self._retire()
            raise api_error(ServerEnding())
        raise ApiError("another specgen, or another environment", status=409)

    async def interrupt(self, request: Request) -> Response:
        """End an answer after its round, like Session.stop."""
        if job := self._jobs.get((await read_body(request, self._limits)).decode("latin-1")):
            job.stop()
        return JSONResponse({})

    async def _lines(self, call: Call, worker: Worker, job: Job, request: Request) -> AsyncIterator[bytes]:
        self._jobs[call.id] = job
        watcher = asyncio.create_task(cancel_when_gone(request, [job]))
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

    def _pair_of(self, call: Call, draft: str) -> PairKey:
        """The pair of a call. Calls that differ in the draft length alone share a pair."""
        pair = PairKey(call.target, draft, call.options)
        return next((known for known in self._pool.known if _any_length(known) == _any_length(pair)), pair)

    def _controllers_of(self, caller: str) -> dict[int | None, Controller]:
        """The controllers of a caller. What they learn from one answer applies to the same caller's next."""
        controllers = self._controllers.pop(caller, {})
        self._controllers[caller] = controllers  # the newest entry is the last
        while len(self._controllers) > self._limits.waiting:
            del self._controllers[next(iter(self._controllers))]
        return controllers

    def _work(
        self, call: Call, pair: PairKey, controllers: dict[int | None, Controller], session: SharedSession
    ) -> Generator[Event, None, None]:
        try:
            if session.opened and not (yield from session.is_current()):
                self._pool.close_changed(pair)
            if session.opened and not call.notices_shown:
                yield from session.notices
            with session.drafting(call.options.num_draft_tokens, controllers):
                if call.request is None:
                    if call.former_draft is not None and session.opened is None:
                        yield from self._pool.open_on_target_of(self._pair_of(call, call.former_draft), pair)
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


def _any_length(pair: PairKey) -> PairKey:
    """`pair` without its draft length, for comparisons."""
    return replace(pair, options=replace(pair.options, num_draft_tokens=None))
