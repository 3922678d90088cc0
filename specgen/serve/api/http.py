"""HTTP connections and bodies of callers that may be slow, large or gone."""

import asyncio
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import h11
from starlette.requests import Request
from starlette.types import Receive
from uvicorn.protocols.http.h11_impl import H11Protocol

from specgen.serve.api.errors import ApiError
from specgen.serve.background.endpoint import PRIVATE
from specgen.serve.worker.worker import Job

# Set in the state of a request whose answer is an event stream.
STREAMS_EVENTS = "streams_events"
# Interval of probes to a caller that has closed its sending side, in seconds.
_PROBE_S = 0.2
# How much of a refused body is read, as a multiple of the largest accepted one.
_DRAINED = 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Sizes are in bytes, times in seconds.

    `contexts` is the size of the store of earlier contexts. `head_s` and `body_s` limit the arrival of a request's
    head and body. A connection is cut when its caller takes nothing of an answer for `stalled_s`. A silent stream gets
    a comment every `comment_s`. At the end of the server the running answers have `stop_s`, and their last rounds
    `last_s`.
    """

    body: int = 8 << 20
    head: int = 64 << 10
    connections: int = 256
    waiting: int = 64
    stops: int = 16
    contexts: int = 512 << 20
    head_s: float = 10.0
    body_s: float = 30.0
    stalled_s: float = 60.0
    comment_s: float = 10.0
    idle_connection_s: int = 30
    stop_s: float = 10.0
    last_s: float = 3.0


async def cancel_when_gone(request: Request, jobs: Sequence[Job]) -> None:
    """Cancel `jobs` when the connection ends."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    for job in jobs:
        job.cancel()


async def read_body(request: Request, limits: RequestLimits) -> bytes:
    """The whole body. Raises ApiError for one that is too large or too slow."""
    close = {"Connection": "close"}
    large = ApiError(f"the body has more than {limits.body} bytes", status=413, code="body_too_large", headers=close)
    declared = int(request.headers.get("content-length", 0))
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_s):
            if declared > limits.body:
                if "expect" not in request.headers:  # such a caller sends nothing before it is told to
                    await drain(request.receive, limits)
                raise large
            more = True
            while more:
                message = await request.receive()
                if message["type"] != "http.request":
                    raise ApiError("the caller has gone")
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > limits.body:
                    if more:
                        await drain(request.receive, limits)
                    raise large
    except TimeoutError:
        raise ApiError(f"the body took longer than {limits.body_s:.0f} s", status=408, headers=close) from None
    return bytes(body)


async def drain(receive: Receive, limits: RequestLimits) -> None:
    """Read the rest of a refused body, up to a bound.

    Closing a connection with unread bytes resets it, and the caller loses the refusal.
    """
    left = _DRAINED * limits.body
    while left > 0:
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            return
        left -= len(message.get("body", b""))


async def in_thread(function: Callable[[], T]) -> T:
    """Call `function` in a daemon thread, so that neither the event loop nor the end of the process waits for it."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def set_result(value: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]

    def work() -> None:
        value, fault = None, None
        try:
            value = function()
        except Exception as error:
            fault = error
        except BaseException as error:
            fault = RuntimeError(f"{type(error).__name__}: {error}")
        if not loop.is_closed():
            loop.call_soon_threadsafe(set_result, value, fault)

    threading.Thread(target=work, name="specgen-request", daemon=True).start()
    return await result


def http_protocol(limits: RequestLimits) -> type[H11Protocol]:
    """The class of connections with `limits`; uvicorn makes one instance for each connection."""
    return type("LimitedConnection", (HttpConnection,), {"limits": limits})


class HttpConnection(H11Protocol):
    """uvicorn's HTTP/1.1 connection, cut if the peer is another user or too slow.

    uvicorn limits the time between two requests only. A caller may close its sending side behind a request: it gets
    its answer, and probes find out whether it has closed the other side too.
    """

    limits: RequestLimits

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._probe_timer: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        # Any byte that the caller does not take pauses writing, also the last bytes of a closed connection.
        transport.set_write_buffer_limits(high=0)
        if may_connect(transport.get_extra_info("socket")):
            self._limit_head_time()
        else:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._limit_head_time()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Keep the connection open for the answer to a complete request, except from specgen's own commands."""
        if self.cycle is None or self.cycle.response_complete or self.cycle.more_body:
            return None
        if self.cycle.scope["path"].startswith(PRIVATE):
            return None
        self._probe()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._stall_timer, self._probe_timer):
            _cancel(timer)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        if self._probe_timer is not None:  # no other request can come
            self.transport.close()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall_timer = self.loop.call_later(self.limits.stalled_s, self._cut)

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._stall_timer)

    def _limit_head_time(self) -> None:
        """Cut the connection if a head stays incomplete. More bytes give it no more time."""
        if self.conn.their_state is not h11.IDLE:
            _cancel(self._head_timer)
            self._head_timer = None
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.limits.head_s, self.transport.abort)

    def _probe(self) -> None:
        """Send bytes without a meaning: a peer that has closed both sides resets the connection then."""
        self._probe_timer = self.loop.call_later(_PROBE_S, self._probe)
        event: h11.Event | None = None
        if not self.cycle.response_started:
            if self.cycle.scope["http_version"] == "1.1":
                event = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
        elif self._streams_events and not self.cycle.response_complete:
            event = h11.Data(data=b":\n\n")
        if event is not None and not self.transport.is_closing():
            self.transport.write(self.conn.send(event) or b"")

    @property
    def _streams_events(self) -> bool:
        return bool(self.cycle.scope["state"].get(STREAMS_EVENTS))

    def _cut(self) -> None:
        """Close at once. The system drops the bytes that the caller does not take, instead of offering them longer."""
        now = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
        self.transport.abort()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def may_connect(connection: Any) -> bool:
    """Whether the peer is the user who runs this server. True for TCP, and where the system does not tell."""
    if sys.platform == "win32":
        return True
    uid = peer_uid(connection)
    return uid is None or uid == os.geteuid()


def peer_uid(connection: Any) -> int | None:
    """The user id at the other end of a Unix socket, None if unknown."""
    if connection.family != getattr(socket, "AF_UNIX", None) or not hasattr(socket, "SO_PEERCRED"):
        return None
    credentials = struct.Struct("3i")
    uid: int = credentials.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size))[1]
    return uid
