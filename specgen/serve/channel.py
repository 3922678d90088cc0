"""A connection to the user's own server: a request goes, lines of JSON come."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import h11

from specgen.serve.place import PRIVATE, is_own

_PIECE = 1 << 16


class Broken(Exception):
    """The other end is gone, or is not what it should be."""


class Channel:
    """One connection, for one request after the other. All of it raises Broken where the other end fails."""

    def __init__(self, path: Path) -> None:
        """Connect to the socket at `path`. Raises FileNotFoundError or ConnectionRefusedError where nobody listens."""
        try:
            own = is_own(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Broken from error
        if not own:
            raise Broken
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(str(path))
        except BaseException as error:
            self._socket.close()
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError | ConnectionRefusedError):
                raise Broken from error
            raise
        self._http = h11.Connection(h11.CLIENT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Whatever is being answered is not wanted any more. May be called twice."""
        self._socket.close()

    def send(self, what: str, body: bytes, wait_s: float) -> int:
        """POST to a private path. The status of the answer, whose head must come within `wait_s`; TimeoutError else."""
        if self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
        headers = [("Host", "localhost"), ("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        request = h11.Request(method="POST", target=f"{PRIVATE}{what}", headers=headers)
        parts = (request, h11.Data(data=body), h11.EndOfMessage())
        self._socket.settimeout(wait_s)
        try:
            self._socket.sendall(b"".join(self._http.send(part) or b"" for part in parts))
            while not isinstance(event := self._next(), h11.Response):
                pass
        except TimeoutError:
            raise
        except OSError as error:
            raise Broken from error
        self._socket.settimeout(None)  # a long prompt may be read before the next byte
        return event.status_code

    def lines(self) -> Iterator[dict[str, Any]]:
        """The body of the answer, object by object."""
        rest = b""
        while isinstance(event := self._next(), h11.Data):
            *whole, rest = (rest + bytes(event.data)).split(b"\n")
            try:
                yield from map(json.loads, whole)
            except ValueError as error:
                raise Broken from error

    def _next(self) -> Any:
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._http.receive_data(self._receive())
        except h11.RemoteProtocolError as error:
            raise Broken from error
        if isinstance(event, h11.ConnectionClosed):
            raise Broken
        return event

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_PIECE)
        except TimeoutError:
            raise
        except OSError as error:
            raise Broken from error
