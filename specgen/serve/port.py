"""Where a system has no Unix sockets: a loopback port, and a file of the user's that says which, with a token.

Any process of this machine reaches the port, so whoever asks sends the token, which is read where the file is read: in
a folder of the user's own. And whoever answers proves first to know it. Else what a user asks would go to a process of
somebody else, who has got the port of a server that was killed and left its file.
"""

import contextlib
import hmac
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

HOST = "127.0.0.1"
# Where a proof is asked for, and the header that says of what.
PROOF = "/specgen/proof"
NONCE = "X-Specgen-Nonce"
# Windows neither replaces nor removes a file while somebody reads it, nor reads it meanwhile.
_BUSY_S = 1.0
_TICK_S = 0.01

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Port:
    """A port of HOST, and the token of the server that listens there."""

    number: int
    token: str

    def proof(self, nonce: str) -> str:
        """What only those can say of `nonce` who know the token."""
        return hmac.new(self.token.encode(), nonce.encode(), "sha256").hexdigest()


def read(file: Path) -> Port:
    """The port that `file` names. Raises FileNotFoundError, and ConnectionRefusedError where it names none."""
    try:
        port = Port(**json.loads(_patiently(file.read_bytes)))
        if port.token and 0 < port.number < 1 << 16:
            return port
    except (ValueError, TypeError, AttributeError):  # a machine that lost its power leaves empty files
        pass
    raise ConnectionRefusedError


@contextlib.contextmanager
def listen(file: Path, backlog: int) -> Iterator[tuple[socket.socket, Port]]:
    """Listen at a port that the system chooses, which `file` names meanwhile. Whoever calls holds the lock."""
    with socket.socket() as listener:
        if sys.platform == "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)  # else others may take it over
        listener.bind((HOST, 0))
        listener.listen(backlog)
        port = Port(listener.getsockname()[1], secrets.token_urlsafe(32))
        _write(file, port)
        try:
            yield listener, port
        finally:
            remove(file)


def remove(file: Path) -> None:
    """Remove a file that may be gone already."""
    with contextlib.suppress(PermissionError):  # what is left names a port where nobody proves to know the token
        _patiently(lambda: file.unlink(missing_ok=True))


def _write(file: Path, port: Port) -> None:
    """Make the file anew, whole from the beginning; what anybody has put in its place is replaced, not followed."""
    import tempfile  # noqa: PLC0415 - whoever only asks needs none

    descriptor, name = tempfile.mkstemp(prefix=f"{file.name}.", dir=file.parent)  # mode 0600
    try:
        with open(descriptor, "wb") as made:  # noqa: PTH123 - it is open
            made.write(json.dumps(asdict(port)).encode())
        _patiently(lambda: os.replace(name, file))  # noqa: PTH105
    except BaseException:
        Path(name).unlink()
        raise


def _patiently(do: Callable[[], T]) -> T:
    end = time.monotonic() + _BUSY_S
    while True:
        try:
            return do()
        except PermissionError:
            if sys.platform != "win32" or time.monotonic() > end:
                raise
        time.sleep(_TICK_S)
