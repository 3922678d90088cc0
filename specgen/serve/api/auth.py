"""Access checks of requests that arrive over TCP.

A Unix socket needs none: the system names the peer, see http.may_connect.
"""

import asyncio
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from specgen.serve.api.errors import ApiError
from specgen.serve.api.http import RequestLimits, drain
from specgen.serve.api.metrics import Metrics
from specgen.serve.background.endpoint import PRIVATE

# Load balancers ask for it without a key, and under any name.
_OPEN = "/health"
_COUNTED = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics")
_JSON = "application/json"


class AccessGuard:
    """Refuses requests before anything reads them, and counts the responses of `app`.

    With `hosts`, a request must use one of these names. Otherwise a web page could call the server under a name that
    resolves here (DNS rebinding). For the same reason a body must be declared as JSON: browsers ask for permission
    before they send that.
    """

    def __init__(
        self, app: ASGIApp, *, key: str | None, hosts: frozenset[str] | None, limits: RequestLimits, metrics: Metrics
    ) -> None:
        self._app = app
        self._key = key
        self._hosts = hosts
        self._limits = limits
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                endpoint = scope["path"] if scope["path"] in _COUNTED else "other"
                self._metrics.answered(endpoint, message["status"])
            await send(message)

        if is_tcp(scope) and (refused := self._fault(scope)) is not None:
            if "expect" not in Headers(scope=scope):
                await self._drain(receive)
            await error_response(refused)(scope, receive, count)
        else:
            await self._app(scope, receive, count)

    async def _drain(self, receive: Receive) -> None:
        try:
            async with asyncio.timeout(self._limits.body_s):
                await drain(receive, self._limits)
        except TimeoutError:
            pass

    def _fault(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        path = scope["path"]
        is_open = path == _OPEN
        if self._hosts is not None and not is_open and _hostname(headers.get("host", "")) not in self._hosts:
            return ApiError("this server answers to localhost alone", status=403, code="unknown_host")
        if path.startswith(PRIVATE):
            return ApiError(f"no such path: {path}", status=404)
        if self._key is not None and not is_open:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            right = secrets.compare_digest(given.strip().encode("latin-1"), self._key.encode())
            if scheme.lower() != "bearer" or not right:
                message = "the API key is wrong" if given else "an API key is needed: Authorization: Bearer KEY"
                return ApiError(message, status=401, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        if scope["method"] == "POST":
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != _JSON:
                return ApiError(f"send the body as {_JSON}: the Content-Type header says so", status=415)
        return None


def is_tcp(scope: Scope) -> bool:
    """Whether a request came over TCP. Only a Unix socket certainly has no port."""
    own: tuple[str, int | None] | None = scope.get("server")
    return own is None or own[1] is not None


def error_response(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body(), error.status, error.headers)


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
