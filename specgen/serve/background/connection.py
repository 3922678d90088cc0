"""The client's end of a connection to the user's own server."""

import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import h11
from filelock import Timeout

from specgen.core.errors import SpecgenError
from specgen.serve.background.endpoint import PRIVATE, has_unix_sockets, is_owned, lock, socket_fault, socket_path

_PIECE = 1 << 16
_LARGEST = 1 << 20


class ConnectionFailed(Exception):
    """The other end is gone, or does not speak the protocol."""


class Connection:
    """One connection, for one request after the other. Every method raises ConnectionFailed if the other end fails."""

    def __init__(self, path: Path) -> None:
        """Connect to the socket at `path`. Raises FileNotFoundError or ConnectionRefusedError if nobody listens."""
        try:
            own = is_owned(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ConnectionFailed from error
        if not own:
            raise ConnectionFailed
        self._end: float | None = None
        self._http = h11.Connection(h11.CLIENT)
        try:
            self._socket = _connected(path)
        except (FileNotFoundError, ConnectionRefusedError):
            raise
        except OSError as error:
            raise ConnectionFailed from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, which ends a running answer. Idempotent."""
        self._socket.close()

    def send(self, what: str, body: bytes | None, wait_s: float) -> int:
        """POST `body` to a private path, or GET without a body. Returns the status.

        Raises TimeoutError if the head of the response takes longer than `wait_s`.
        """
        self._end = time.monotonic() + wait_s
        headers = [("Host", "localhost")]
        if body is not None:
            headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        status = self._request(f"{PRIVATE}{what}", headers, body)
        self._end = None  # reading a long prompt takes long
        return status

    def lines(self) -> Iterator[dict[str, Any]]:
        """The JSON objects of the response, one a line."""
        rest = b""
        for piece in self._pieces():
            *whole, rest = (rest + piece).split(b"\n")
            try:
                yield from map(json.loads, whole)
            except ValueError as error:
                raise ConnectionFailed from error

    def whole(self) -> Any:
        """The JSON value of the response."""
        body = b""
        for piece in self._pieces():
            body += piece
            if len(body) > _LARGEST:
                raise ConnectionFailed
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ConnectionFailed from error

    def _request(self, target: str, headers: list[tuple[str, str]], body: bytes | None) -> int:
        request = h11.Request(method="GET" if body is None else "POST", target=target, headers=headers)
        parts = (request, h11.Data(data=body or b""), h11.EndOfMessage())
        try:
            if self._http.our_state is not h11.IDLE:
                self._http.start_next_cycle()
            self._wait_until_end()
            self._socket.sendall(b"".join(self._http.send(part) or b"" for part in parts))
            while not isinstance(event := self._next(), h11.Response):
                pass
        except TimeoutError:
            raise
        except (OSError, h11.LocalProtocolError) as error:  # the other end has announced that it closes
            raise ConnectionFailed from error
        return event.status_code

    def _pieces(self) -> Iterator[bytes]:
        while isinstance(event := self._next(), h11.Data):
            yield bytes(event.data)

    def _next(self) -> Any:
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._http.receive_data(self._receive())
        except h11.RemoteProtocolError as error:
            raise ConnectionFailed from error
        if isinstance(event, h11.ConnectionClosed):
            raise ConnectionFailed
        return event

    def _receive(self) -> bytes:
        try:
            self._wait_until_end()
            return self._socket.recv(_PIECE)
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectionFailed from error

    def _wait_until_end(self) -> None:
        """Limit the next socket call to the time left. Raises TimeoutError if none is left."""
        left = None if self._end is None else self._end - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)


def _connected(path: Path) -> socket.socket:
    if not has_unix_sockets() or sys.platform == "win32":
        raise FileNotFoundError(path)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection


_ANSWER_S = 10.0
# Longer than a server takes to end.
_END_S = 30.0


def status() -> dict[str, Any] | None:
    """The status of this user's server, None without one. Raises SpecgenError if it does not answer."""
    return _ask("status", None)


def stop() -> bool:
    """End the server and wait for its end. Returns whether there was one. Raises SpecgenError."""
    if _ask("stop", b"") is None:
        return False
    try:
        with lock().acquire(timeout=_END_S):
            return True
    except Timeout:
        raise SpecgenError("the server does not end", hint="specgen ps shows its process") from None


def stop_background() -> None:
    """End the server if a command started it in the background. Raises SpecgenError, also for a `specgen serve`."""
    if (found := status()) is None:
        return
    if not found["background"]:
        at = " and ".join(filter(None, (found["url"], found["socket"])))
        raise SpecgenError(f"specgen serve runs already: process {found['pid']}, at {at}", hint="specgen stop ends it")
    stop()


def _ask(what: str, body: bytes | None) -> dict[str, Any] | None:
    path = socket_path()
    if socket_fault(path):
        return None  # no server of this user can listen there
    try:
        if not is_owned(path):
            raise SpecgenError(f"{path} belongs to somebody else", hint="remove it")
        with Connection(path) as channel:
            status = channel.send(what, body, _ANSWER_S)
            found: dict[str, Any] = channel.whole()
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except (ConnectionFailed, TimeoutError) as error:
        why = "it takes too long" if isinstance(error, TimeoutError) else "it broke off"
        hint = "it may still be loading its models; try again"
        raise SpecgenError(f"the server does not answer: {why}", hint=hint) from error
    if status != 200:
        raise SpecgenError(f"the server refuses to answer: {found['error']['message']}")
    return found
