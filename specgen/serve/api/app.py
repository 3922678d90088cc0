"""OpenAI's API, and what tells how the server is."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from specgen.core.events import Event, Failed, Finished, Notice, Started, Step
from specgen.serve.api.auth import AccessGuard, response
from specgen.serve.api.errors import ApiError, api_error
from specgen.serve.api.http import RequestLimits, cancel_when_gone, whole_body
from specgen.serve.api.logprobs import PlacedToken, TokenPlacer
from specgen.serve.api.metrics import CONTENT_TYPE, Metrics
from specgen.serve.api.requests import CompletionRequest, read_chat, read_completion
from specgen.serve.api.responses import ResponseBuilder
from specgen.serve.api.sse import EventStream
from specgen.serve.background.endpoint import PRIVATE, Endpoint
from specgen.serve.background.routes import Routes
from specgen.serve.worker.pool import PairKey, Pool
from specgen.serve.worker.worker import Job

Kind = TypeVar("Kind", Started, Finished)
Read = Callable[[bytes, int], CompletionRequest]
# How many answers came before this one when it was accepted.
_QUEUED = "X-Specgen-Queued"


@dataclass(frozen=True, slots=True)
class AppContext:
    """What the paths speak of. `status` and `stop` are for the user alone; `show` tells whoever runs the server."""

    created: int
    pool: Pool
    metrics: Metrics
    limits: RequestLimits
    key: str | None
    place: Endpoint
    status: Callable[[], dict[str, Any]]
    stop: Callable[[], None]
    show: Callable[[Event], None]
    private: Routes


def make_app(parts: AppContext) -> ASGIApp:
    """The application that uvicorn runs."""

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model(name, parts) for name in parts.pool.names]})

    async def model(request: Request) -> Response:
        return JSONResponse(_model(_find(request.path_params["name"], parts).target, parts))

    async def chat(request: Request) -> Response:
        return await _answer(request, read_chat, parts)

    async def completion(request: Request) -> Response:
        return await _answer(request, read_completion, parts)

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def metrics(_: Request) -> Response:
        return Response(parts.metrics.text(), media_type=CONTENT_TYPE)

    async def status(_: Request) -> Response:
        return JSONResponse(parts.status())

    async def stop(_: Request) -> Response:
        parts.stop()
        return JSONResponse({"status": "ending"})

    async def broken(request: Request, error: Exception) -> Response:
        parts.show(Notice(f"unexpected {type(error).__name__} at {request.url.path}: {error}"))
        return response(ApiError(f"unexpected {type(error).__name__}", status=500))

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
            *parts.private.routes(),
        ],
        exception_handlers={ApiError: _refused, HTTPException: _no_path, Exception: broken},
    )
    return AccessGuard(app, key=parts.key, hosts=parts.place.hosts, metrics=parts.metrics)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - it is registered for nothing else
    return response(error)


async def _no_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    words = f"{request.method} {request.url.path}: {error.detail}"
    return response(ApiError(words, status=error.status_code, headers=error.headers))


def _model(name: str, parts: AppContext) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": parts.created, "owned_by": "specgen"}


def _find(name: str | None, parts: AppContext) -> PairKey:
    """The pair of that name. Raises ApiError."""
    if (found := parts.pool.find(name)) is not None:
        return found
    names = " and ".join(f"'{known}'" for known in parts.pool.names) or "none"
    words = f"no model '{name}' here" if name else "no model is loaded"
    raise ApiError(f"{words}; this server has {names}", status=404, param="model", code="model_not_found")


def _caller(request: Request, question: CompletionRequest) -> str:
    """Whose turn it is: `user` where a caller says who asks, else the machine that it asks from."""
    return question.user or (request.client.host if request.client else "")


async def _answer(request: Request, read: Read, parts: AppContext) -> Response:
    """Wait for the turn of a question, then answer it, whole or as it comes.

    A stream begins when its answer does, as until then a refusal can have its own status; one that has to wait begins
    at once, and says how long the queue is.
    """
    question = read(await whole_body(request, parts.limits), parts.limits.stops)
    wanted = _find(question.model, parts)
    job = parts.pool.worker(wanted).ask(question.answer, _caller(request, question))
    watcher = asyncio.create_task(cancel_when_gone(request, job))
    answer = ResponseBuilder(wanted.target, is_chat=question.is_chat)
    ahead = job.ahead
    headers = {_QUEUED: str(ahead)}
    streaming = False
    try:
        notices: list[str] = []
        if question.stream:
            begun = None if ahead else await _until(Started, job, notices)
            streaming = True
            return StreamingResponse(
                EventStream(question, job, watcher, answer, notices, begun).events(),
                media_type="text/event-stream",
                headers=headers | {"Cache-Control": "no-cache"},
            )
        started = await _until(Started, job, notices)
        placed: list[PlacedToken] = []
        finished = await _until(Finished, job, notices, placed)
        whole = answer.whole(started, finished, notices, None if question.logprobs is None else placed)
        return JSONResponse(whole, headers=headers)
    finally:
        if not streaming:
            watcher.cancel()
            job.cancel()


async def _until(kind: type[Kind], job: Job, notices: list[str], placed: list[PlacedToken] | None = None) -> Kind:
    """The next event of this kind; notices on the way are kept, and the tokens of steps, `placed`.

    Raises ApiError where the answer fails.
    """
    placing = TokenPlacer()
    while True:
        match await job.next():
            case Notice(text):
                notices.append(text)
            case Step() as step if placed is not None:
                placed += placing.add(step)
            case Failed(error):
                raise api_error(error)
            case event if isinstance(event, kind):
                return event
