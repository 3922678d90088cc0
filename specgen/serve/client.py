"""Talking to this user's server."""

from typing import Any

from filelock import Timeout

from specgen.core.errors import SpecgenError
from specgen.serve.channel import Broken, Channel
from specgen.serve.place import clear_away, is_own, lock, own_path

_ANSWER_S = 10.0
# Longer than a server may take to end.
_END_S = 30.0


def status() -> dict[str, Any] | None:
    """What the server says of itself, None where there is none. Raises SpecgenError for one that does not answer."""
    return _ask("status", None)


def stop() -> bool:
    """End the server, and wait until it has ended. Whether there was one. Raises SpecgenError."""
    if _ask("stop", b"") is None:
        return False
    try:
        with lock().acquire(timeout=_END_S):
            return True
    except Timeout:
        raise SpecgenError("the server does not end", hint="specgen ps shows its process") from None


def _ask(what: str, body: bytes | None) -> dict[str, Any] | None:
    path = own_path()
    try:
        if not is_own(path):
            raise SpecgenError(f"{path} belongs to somebody else", hint="remove it")
        with Channel(path) as channel:
            status = channel.send(what, body, _ANSWER_S)
            found: dict[str, Any] = channel.whole()
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except (Broken, TimeoutError) as error:
        if clear_away():
            return None
        why = "it takes too long" if isinstance(error, TimeoutError) else "it broke off"
        hint = "it may still be loading its models; try again"
        raise SpecgenError(f"the server does not answer: {why}", hint=hint) from error
    if status != 200:
        raise SpecgenError(f"the server refuses to answer: {found['error']['message']}")
    return found
