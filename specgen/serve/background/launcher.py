"""The process that keeps pairs loaded, for whoever asks it: found, and started where it is not there."""

import contextlib
import time
from collections.abc import Generator

from specgen.core.events import Event, Progress
from specgen.serve.background.connection import Connection, ConnectionFailed
from specgen.serve.background.endpoint import socket_path
from specgen.serve.background.process import start

# How long it may take to hear a question: one that is new imports torch first.
_HEARS_S = 10.0
_NEW_S = 120.0
_NEW_SINCE_S = 60.0
_STOP_S = 2.0
_ENDS_S = 1.0
_TICK_S = 0.02


class Unavailable(Exception):
    """The other process cannot do it; what the user should know of that, if anything."""


class Launcher:
    """A connection to it, which stays from one question to the next."""

    def __init__(self) -> None:
        self._channel: Connection | None = None

    def hear(self, question: bytes) -> Generator[Event, None, Connection]:
        """Ask it. The connection on which the answer comes. Raises Unavailable."""
        try:
            for _ in range(2):
                if self._channel is None:
                    self._channel = yield from _connected()
                try:
                    status = self._channel.send("ask", question, _patience())
                except ConnectionFailed:  # it has just ended, or closed a connection that was idle
                    status = 503
                if status == 200:
                    return self._channel
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

    def interrupt(self, question: str) -> None:
        """End the answer to the question of that id; may be called by a signal handler."""
        # A connection of its own: the answer comes on the other one.
        with contextlib.suppress(OSError, ConnectionFailed), Connection(socket_path()) as channel:
            channel.send("interrupt", question.encode(), _STOP_S)

    def disconnect(self) -> None:
        """What is being answered is not wanted any more. May be called twice, and the next question connects again."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def _connected() -> Generator[Event, None, Connection]:
    """Connect to the process, and start it where it is not there. Raises ConnectionFailed."""
    try:
        return Connection(socket_path())
    except (FileNotFoundError, ConnectionRefusedError):
        yield Progress("starting in the background")
        if (channel := start()) is None:
            raise ConnectionFailed from None
        return channel


def _until_gone() -> None:
    """Give a process that ends a moment for it."""
    end = time.monotonic() + _ENDS_S
    with contextlib.suppress(OSError, ConnectionFailed):
        while time.monotonic() < end:
            Connection(socket_path()).close()
            time.sleep(_TICK_S)


def _patience() -> float:
    """How long to wait until a question is heard, in seconds."""
    with contextlib.suppress(OSError):
        if time.time() - socket_path().stat().st_mtime < _NEW_SINCE_S:
            return _NEW_S
    return _HEARS_S
