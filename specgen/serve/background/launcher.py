"""Finds or starts the background process, and sends it requests."""

import contextlib
import time
from collections.abc import Generator

from specgen.core.events import Event, Progress
from specgen.serve.background.connection import Connection, ConnectionFailed
from specgen.serve.background.endpoint import socket_path
from specgen.serve.background.process import start

# Longest time until a request is accepted, in seconds. A new process imports torch first.
_HEARS_S = 10.0
_NEW_S = 120.0
_NEW_SINCE_S = 60.0
_STOP_S = 2.0
_ENDS_S = 1.0
_TICK_S = 0.02


class Unavailable(Exception):
    """The background process cannot serve this request. The argument, if any, is a message for the user."""


class Launcher:
    """Keeps a connection to the background process from one request to the next."""

    def __init__(self) -> None:
        self._connection: Connection | None = None

    def hear(self, request: bytes) -> Generator[Event, None, Connection]:
        """Send a request. Returns the connection on which the answer comes. Raises Unavailable."""
        try:
            for _ in range(2):
                if self._connection is None:
                    self._connection = yield from _connected()
                try:
                    status = self._connection.send("ask", request, _patience())
                except ConnectionFailed:  # it has ended, or closed an idle connection
                    status = 503
                if status == 200:
                    return self._connection
                self.disconnect()
                if status == 409:
                    raise Unavailable(
                        "another version or environment of specgen runs in the background: specgen stop ends it"
                    )
                if status != 503:
                    break
                _until_gone()
        except ConnectionFailed:
            pass
        except TimeoutError:
            raise Unavailable("the background process does not answer: specgen stop ends it") from None
        raise Unavailable

    def interrupt(self, request: str) -> None:
        """End the answer to the request with this id. Safe in a signal handler."""
        # On another connection, since the answer occupies the first.
        with contextlib.suppress(OSError, ConnectionFailed), Connection(socket_path()) as connection:
            connection.send("interrupt", request.encode(), _STOP_S)

    def disconnect(self) -> None:
        """Close the connection, which ends a running answer. Idempotent; the next request connects again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _connected() -> Generator[Event, None, Connection]:
    """Connect to the process, and start it if needed. Raises ConnectionFailed."""
    try:
        return Connection(socket_path())
    except (FileNotFoundError, ConnectionRefusedError):
        yield Progress("starting in the background")
        if (connection := start()) is None:
            raise ConnectionFailed from None
        return connection


def _until_gone() -> None:
    """Wait a moment for the end of a process that is ending."""
    end = time.monotonic() + _ENDS_S
    with contextlib.suppress(OSError, ConnectionFailed):
        while time.monotonic() < end:
            Connection(socket_path()).close()
            time.sleep(_TICK_S)


def _patience() -> float:
    """The longest time to wait until a request is accepted, in seconds."""
    with contextlib.suppress(OSError):
        if time.time() - socket_path().stat().st_mtime < _NEW_SINCE_S:
            return _NEW_S
    return _HEARS_S
