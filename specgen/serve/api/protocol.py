"""uvicorn's HTTP, for callers who may be slow, or somebody else."""

import asyncio
import os
import socket
import struct
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from specgen.serve.api.http import RequestLimits


def protocol(limits: RequestLimits) -> type[H11Protocol]:
    """The class of connections that keep to `limits`, which uvicorn makes one of for each."""
    return type("Connection", (_HttpConnection,), {"limits": limits})


class _HttpConnection(H11Protocol):
    """A connection that is cut where the peer is another user, or takes too long.

    uvicorn bounds the time between two requests, and neither that of a request's head nor that in which a caller
    takes nothing of an answer.
    """

    limits: RequestLimits

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        # So that any byte that the caller does not take pauses writing, the last ones of a closed connection too.
        transport.set_write_buffer_limits(high=0)
        if may_connect(transport.get_extra_info("socket")):
            self._watch_head()
        else:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_head()
        self._cancel_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall_timer = self.loop.call_later(self.limits.stalled_s, self._cut)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_stall()

    def _watch_head(self) -> None:
        """Give the caller its time for a head that is not complete; more bytes give it no more time."""
        if self.conn.their_state is not h11.IDLE:
            self._cancel_head()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.limits.head_s, self.transport.abort)

    def _cut(self) -> None:
        """Close at once, and let the system forget what the caller does not take, rather than offer it for minutes."""
        now = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
        self.transport.abort()

    def _cancel_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _cancel_stall(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None


def may_connect(connection: Any) -> bool:
    """Whether the peer is the user who runs this server; of TCP, and where the system does not say, yes."""
    if sys.platform == "win32":
        return True
    uid = peer_uid(connection)
    return uid is None or uid == os.geteuid()


def peer_uid(connection: Any) -> int | None:
    """The user at the other end of a Unix socket, None where nobody knows."""
    if connection.family != getattr(socket, "AF_UNIX", None) or not hasattr(socket, "SO_PEERCRED"):
        return None
    credentials = struct.Struct("3i")
    uid: int = credentials.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size))[1]
    return uid
