"""Talking to this user's server."""

import socket
from typing import Any

import httpx2
from filelock import Timeout

from specgen.errors import SpecgenError
from specgen.serve.place import PRIVATE, is_own, lock, socket_path

_ANSWER_S = 10.0
# Longer than a server may take to end.
_END_S = 30.0


def status() -> dict[str, Any] | None:
    """What the server says of itself, None where there is none. Raises SpecgenError for one that does not answer."""
    answer = _send("GET", "status")
    return answer.json() if answer else None


def stop() -> bool:
    """End the server, and wait until it has ended. Whether there was one. Raises SpecgenError."""
    if _send("POST", "stop") is None:
        return False
    try:
        with lock().acquire(timeout=_END_S):
            return True
    except Timeout:
        raise SpecgenError("the server does not end", hint="specgen ps shows its process") from None


def _send(method: str, what: str) -> httpx2.Response | None:
    path = socket_path()
    try:
        if not is_own(path):
            raise SpecgenError(f"{path} belongs to somebody else", hint="remove it")
        with socket.socket(socket.AF_UNIX) as knock:
            knock.connect(str(path))  # httpx2 does not close a socket that nobody answers
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(path)), timeout=_ANSWER_S) as client:
            return client.request(method, f"http://localhost{PRIVATE}{what}").raise_for_status()
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except httpx2.HTTPError as error:
        raise SpecgenError(
            f"the server does not answer: {error or type(error).__name__}",
            hint="it may still be loading its models; try again",
        ) from error
