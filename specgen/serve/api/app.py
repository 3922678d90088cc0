"""The ASGI application: OpenAI's API, health, metrics, and the routes of specgen's own commands."""

import asyncio
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from specgen.core.events import Event, Failed, Notice, Started
from specgen.serve.api.auth import AccessGuard, error_response
from specgen.serve.api.errors import ApiError, api_error
from specgen.serve.api.http import STREAMS_EVENTS, RequestLimits, cancel_when_gone, in_thread, read_body
from specgen.serve.api.metrics import CONTENT_TYPE, Metrics
from specgen.serve.api.requests import CompletionRequest, read_chat, read_completion
from specgen.serve.api.responses import Choice, ResponseBuilder
from specgen.serve.api.sse import EventStream
from specgen.serve.background.endpoint import PRIVATE, Endpoint
from specgen.serve.background.routes import Routes
from specgen.serve.worker.pool import PairKey, Pool
from specgen.serve.worker.worker import Job

Parse = Callable[[bytes, int], CompletionRequest]
# The number of answers before this one when it was accepted.
_QUEUED = "X-Specgen-Queued"
# A stream whose answer has not begun after this time begins without it, in seconds.
_SILENT_S = 1.0


@dataclass(frozen=True, slots=True)
class AppContext:
    """What the routes need. `status` and `stop` serve `specgen ps` and `specgen stop`; `show` gets notices."""

    created: int
    pool: Pool
    metrics: Metrics
    limits: RequestLimits
    key: str | None
    endpoint: Endpoint
    status: Callable[[], dict[str, Any]]
    stop: Callable[[], None]
    show: Callable[[Event], None]
    routes: Routes
    reported: set[str] = field(default_factory=set)

    def report_ignored(self, fields: Sequence[str]) -> None:
        """Show a notice about request fields without an effect, once for each field."""
        for name in fields:
            if name not in self.reported:
                self.reported.add(name)
                self.show(Notice(f"a caller sends '{name}', which has no effect here"))


def make_app(context: AppContext) -> ASGIApp:
    """The application that uvicorn runs."""

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model(name, context) for name in context.pool.names]})

    async def model(request: Request) -> Response:
        return JSONResponse(_model(_find(request.path_params["name"], context).target, context))

    async def chat(request: Request) -> Response:
        return await _respond(request, read_chat, context)

    async def completion(request: Request) -> Response:
        return await _respond(request, read_completion, context)

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def metrics(_: Request) -> Response:
        return Response(context.metrics.text(), media_type=CONTENT_TYPE)

    async def status(_: Request) -> Response:
        return JSONResponse(context.status())

    async def stop(_: Request) -> Response:
        context.stop()
        return JSONResponse({"status": "ending"})

    async def broken(request: Request, error: Exception) -> Response:
        context.show(Notice(f"unexpected {type(error).__name__} at {request.url.path}: {error}"))
        return error_response(ApiError(f"unexpected {type(error).__name__}", status=500))

    app = Starlette(
        routes=[
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", completion, methods=["POST"]),
            Route("/health", health),
            Route("/metrics", metrics),
            Route(f"{PRIVATE}status", status),
            Route(f"{PRIVATE}stop", stop, methods=["POST"]),
            *context.routes.routes(),
        ],
        exception_handlers={ApiError: _refused, HTTPException: _no_path, Exception: broken},
    )
    return AccessGuard(
        app, key=context.key, hosts=context.endpoint.hosts, limits=context.limits, metrics=context.metrics
    )


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - registered for this class only
    return error_response(error)


async def _no_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    message = f"{request.method} {request.url.path}: {error.detail}"
    return error_response(ApiError(message, status=error.status_code, headers=error.headers))


def _model(name: str, context: AppContext) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": context.created, "owned_by": "specgen"}


def _find(name: str | None, context: AppContext) -> PairKey:
    """The pair of a name. Raises ApiError."""
    if (found := context.pool.find(name)) is not None:
        return found
    names = " and ".join(f"'{known}'" for known in context.pool.names) or "none"
    message = f"no model '{name}' here" if name else "no model is loaded"
    raise ApiError(f"{message}; this server has {names}", status=404, param="model", code="model_not_found")


async def _respond(request: Request, parse: Parse, context: AppContext) -> Response:
    """Queue the answers of a request, and send them whole or as a stream.

    A stream begins with its answer, since a refusal can have its own status until then. It begins at once if it has to
    wait, and after a second without an answer.
    """
    body = await read_body(request, context.limits)
    asked = await in_thread(lambda: parse(body, context.limits.stops))  # compiling a schema takes long
    context.report_ignored(asked.ignored)
    pair = _find(asked.model, context)
    jobs = _queue(asked, pair, request, context)
    watcher = asyncio.create_task(cancel_when_gone(request, jobs))
    builder = ResponseBuilder(pair.target, is_chat=asked.is_chat, with_logprobs=asked.logprobs is not None)
    ahead = jobs[0].ahead
    headers = {_QUEUED: str(ahead)}
    streaming = False
    try:
        if asked.stream:
            first = [] if ahead else await _until_started(jobs[0])
            streaming = True
            request.scope["state"][STREAMS_EVENTS] = True
            stream = EventStream(asked, jobs, watcher, builder, first, context.limits.comment_s)
            headers["Cache-Control"] = "no-cache"
            return StreamingResponse(stream.events(), media_type="text/event-stream", headers=headers)
        choices = [await _collect(job, asked.prefix(index)) for index, job in enumerate(jobs)]
        return JSONResponse(builder.whole(choices), headers=headers)
    finally:
        if not streaming:
            watcher.cancel()
            for job in jobs:
                job.cancel()


def _queue(asked: CompletionRequest, pair: PairKey, request: Request, context: AppContext) -> list[Job]:
    """One job for each answer. Raises ApiError if the queue is full.

    Callers take turns by machine. The field `user` has no influence: with a new one in each request a caller would
    always be next.
    """
    caller = request.client.host if request.client else ""
    worker = context.pool.worker(pair)
    jobs: list[Job] = []
    try:
        for index in range(asked.choices):
            jobs.append(worker.ask(functools.partial(asked.answer, index=index), caller))
    except ApiError:
        for job in jobs:
            job.cancel()
        raise
    return jobs


async def _until_started(job: Job) -> list[Event]:
    """The events up to Started, or those of the first second. Raises ApiError if the answer fails."""
    events: list[Event] = []
    try:
        async with asyncio.timeout(_SILENT_S):
            while not events or not isinstance(events[-1], Started):
                events.append(await job.next())
                if isinstance(failed := events[-1], Failed):
                    raise api_error(failed.error)
    except TimeoutError:
        pass
    return events


async def _collect(job: Job, prefix: str) -> Choice:
    """The whole answer. Raises ApiError if it fails."""
    choice = Choice(prefix)
    while choice.finished is None:
        event = await job.next()
        if isinstance(event, Failed):
            raise api_error(event.error)
        choice.add(event)
    return choice
