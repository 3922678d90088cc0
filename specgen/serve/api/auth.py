"""Who may ask what over TCP. At a Unix socket the connection itself says who asks, see protocol.py."""

import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from specgen.serve.api.errors import ApiError
from specgen.serve.api.metrics import Metrics
from specgen.serve.background.endpoint import PRIVATE

# What a load balancer asks without a key.
_OPEN = "/health"
_COUNTED = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics")


class AccessGuard:
    """Refuses requests before anything reads them, and counts the answers of `app`.

    Where `hosts` are given, a request must call the server by one of them: else a page of another site could, under a
    name that it points here (DNS rebinding). For the same reason a body must be declared as JSON, for which browsers
    ask first, and get no answer.
    """

    def __init__(self, app: ASGIApp, *, key: str | None, hosts: frozenset[str] | None, metrics: Metrics) -> None:
        self._app = app
        self._key = key
        self._hosts = hosts
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                endpoint = scope["path"] if scope["path"] in _COUNTED else "other"
                self._metrics.answered(endpoint, message["status"])
            await send(message)

        refused = self._fault(scope) if is_tcp(scope) else None
        if refused is not None:
            await response(refused)(scope, receive, counting)
        else:
            await self._app(scope, receive, counting)

    def _fault(self, scope: Scope) -> ApiError | None:
        """What is wrong with a request."""
        headers = Headers(scope=scope)
        if self._hosts is not None and _hostname(headers.get("host", "")) not in self._hosts:
            return ApiError("this server answers to localhost alone", status=403, code="unknown_host")
        path = scope["path"]
        if path.startswith(PRIVATE):
            return ApiError(f"no such path: {path}", status=404)
        if self._key is not None and path != _OPEN:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            right = secrets.compare_digest(given.strip().encode("latin-1"), self._key.encode())
            if scheme.lower() != "bearer" or not right:
                words = "the API key is wrong" if given else "an API key is needed: Authorization: Bearer KEY"
                return ApiError(words, status=401, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        if scope["method"] == "POST" and headers.get("content-type", "").partition(";")[0].strip() != _JSON:
            return ApiError(f"send the body as {_JSON}: the Content-Type header says so", status=415)
        return None


_JSON = "application/json"


def is_tcp(scope: Scope) -> bool:
    """Whether a request came over TCP, as any does whose own end is not surely a Unix socket: that has no port."""
    own: tuple[str, int | None] | None = scope.get("server")
    return own is None or own[1] is not None


def response(refused: ApiError) -> JSONResponse:
    """What the caller is told."""
    return JSONResponse(refused.body(), refused.status, refused.headers)


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
