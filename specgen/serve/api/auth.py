"""Who may ask what over TCP. At a Unix socket the connection itself says who asks, see protocol.py."""

import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from specgen.serve.api.errors import Refused
from specgen.serve.api.metrics import Metrics
from specgen.serve.background.endpoint import LOOPBACK, PRIVATE
from specgen.serve.port import HOST, PROOF, Port

# What a load balancer asks without a key.
_OPEN = "/health"
_COUNTED = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics")


class Guard:
    """Refuses requests before anything reads them, and counts the answers of `app`.

    Where `hosts` are given, a request must call the server by one of them: else a page of another site could, under a
    name that it points here (DNS rebinding). For the same reason a body must be declared as JSON, for which browsers
    ask first, and get no answer. At the user's own `port` there is nothing without its token but the proof that it is
    the user's own.
    """

    def __init__(
        self, app: ASGIApp, *, key: str | None, hosts: frozenset[str] | None, port: Port | None, metrics: Metrics
    ) -> None:
        self._app = app
        self._port = port
        self._key = key
        self._hosts = hosts
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                endpoint = scope["path"] if scope["path"] in _COUNTED else "other"
                self._metrics.answered(endpoint, message["status"])
            await send(message)

        refused = None
        if is_tcp(scope):
            refused = self._fault(scope, self._port) if self._is_own(scope) else self._fault(scope, None)
        if refused is not None:
            await response(refused)(scope, receive, counting)
        else:
            await self._app(scope, receive, counting)

    def _is_own(self, scope: Scope) -> bool:
        return self._port is not None and scope["server"] == (HOST, self._port.number)

    def _fault(self, scope: Scope, port: Port | None) -> Refused | None:
        """What is wrong with a request; `port` is where it has come in, where that is the user's own."""
        headers = Headers(scope=scope)
        hosts = LOOPBACK if port else self._hosts
        if hosts is not None and _hostname(headers.get("host", "")) not in hosts:
            return Refused("this server answers to localhost alone", status=403, code="unknown_host")
        path = scope["path"]
        if path.startswith(PRIVATE) and not port:
            return Refused(f"no such path: {path}", status=404)
        key, is_open = (port.token, path == PROOF) if port else (self._key, path == _OPEN)
        if key is not None and not is_open:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            right = secrets.compare_digest(given.strip().encode("latin-1"), key.encode())
            if scheme.lower() != "bearer" or not right:
                words = "the API key is wrong" if given else "an API key is needed: Authorization: Bearer KEY"
                return Refused(words, status=401, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        if scope["method"] == "POST" and headers.get("content-type", "").partition(";")[0].strip() != _JSON:
            return Refused(f"send the body as {_JSON}: the Content-Type header says so", status=415)
        return None


_JSON = "application/json"


def is_tcp(scope: Scope) -> bool:
    """Whether a request came over TCP, as any does whose own end is not surely a Unix socket: that has no port."""
    own: tuple[str, int | None] | None = scope.get("server")
    return own is None or own[1] is not None


def response(refused: Refused) -> JSONResponse:
    """What the caller is told."""
    return JSONResponse(refused.body(), refused.status, refused.headers)


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
