"""Where a server is found: by a file in the user's runtime folder, and HTTP where it is asked for."""

import contextlib
import errno
import os
import socket
import stat
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_runtime_path

from specgen.core.errors import SpecgenError, UsageError

if TYPE_CHECKING:
    from filelock import FileLock

# The paths that are reached only by the user: at the Unix socket.
PRIVATE = "/specgen/"
_BACKLOG = 128
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Sockets to listen at. `url` is the address of HTTP over TCP for others, None without.

    `hosts` are the names under which a request may call it, None where any will do. `path` is that of the user's
    socket, None on a system without Unix sockets.
    """

    sockets: list[socket.socket]
    path: Path | None
    url: str | None
    hosts: frozenset[str] | None

    def __str__(self) -> str:
        return " and ".join([f"{self.url}/v1"] * bool(self.url) + [str(self.path)] * bool(self.path))


def has_unix_sockets() -> bool:
    """Whether Python can open Unix sockets here; it cannot on Windows."""
    return hasattr(socket, "AF_UNIX")


def socket_path() -> Path:
    """The one socket of this user."""
    with warnings.catch_warnings():  # where the system has no such folder another does as well
        warnings.simplefilter("ignore")
        folder = user_runtime_path("specgen", appauthor=False)
    return folder / "serve.sock"


def lock() -> "FileLock":
    """What the server holds as long as it lives, however it ends."""
    from filelock import FileLock  # noqa: PLC0415 - whoever only asks needs none, and should have asked by then

    return FileLock(socket_path().with_suffix(".lock"), timeout=0)


def is_owned(path: Path) -> bool:
    """Whether `path` is this user's, and no link to elsewhere."""
    found = path.lstat()
    if sys.platform != "win32" and found.st_uid != os.geteuid():  # there the folder is in the user's own
        return False
    return not stat.S_ISLNK(found.st_mode)


@contextlib.contextmanager
def open_endpoint(http: str | None, *, has_key: bool) -> Iterator[Endpoint]:
    """Listen for the user, and at `http`, HOST:PORT, if that is given; connections wait to be accepted.

    Raises UsageError for an address that is none, or that others reach where there is no key, and SpecgenError where
    another server of this user runs, or the port is taken.
    """
    has_socket = has_unix_sockets()
    if not has_socket and http is None:
        raise UsageError("this system has no Unix sockets", hint="listen at an address: --http 127.0.0.1:8080")
    with contextlib.ExitStack() as stack:
        sockets: list[socket.socket] = []
        url, hosts, path = None, None, socket_path()
        if http is not None:
            listener, url, hosts = _tcp(http, has_key=has_key)
            sockets.append(stack.enter_context(listener))
        stack.enter_context(_held(path.parent))
        if has_socket:
            sockets.append(stack.enter_context(_unix(path)))
        yield Endpoint(sockets, path if has_socket else None, url, hosts)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the lock in the user's `folder`: what a server left there when it was killed may be replaced."""
    from filelock import Timeout  # noqa: PLC0415 - as above

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_owned(folder):
        raise SpecgenError(f"{folder} belongs to somebody else", hint="set XDG_RUNTIME_DIR to a folder of yours")
    folder.chmod(0o700)
    held = lock()
    try:
        held.acquire()
    except Timeout:
        raise SpecgenError("a server runs already", hint="specgen ps shows it, specgen stop ends it") from None
    try:
        yield
    finally:
        held.release()


@contextlib.contextmanager
def _unix(path: Path) -> Iterator[socket.socket]:
    """Listen at `path`."""
    if sys.platform == "win32":
        raise NotImplementedError
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            listener.bind(str(path))
        except OSError as error:
            hint = "set XDG_RUNTIME_DIR to a folder with a short name"
            raise SpecgenError(f"cannot listen at {path}: {error.strerror or error}", hint=hint) from error
        path.chmod(0o600)  # nobody else can reach into the folder meanwhile
        listener.listen(_BACKLOG)
        yield listener
        path.unlink(missing_ok=True)


def _tcp(http: str, *, has_key: bool) -> tuple[socket.socket, str, frozenset[str] | None]:
    """A listening socket, its URL, and the names it may be called by. Raises UsageError or SpecgenError."""
    import ipaddress  # noqa: PLC0415 - as above

    host, colon, port_text = http.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port_text.isdecimal() or int(port_text) > 65535:
        raise UsageError(f"--http is '{http}'", hint="give HOST:PORT, for example 127.0.0.1:8080")
    try:
        found = socket.getaddrinfo(host, int(port_text), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UsageError(f"--http: no address for {host}: {error.strerror or error}") from error
    family, _, _, _, address = found[0]
    is_loopback = ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
    if not is_loopback and not has_key:
        raise UsageError(
            f"{host} can be reached by others", hint="set a key in SPECGEN_API_KEY, or listen at 127.0.0.1"
        )
    try:
        listener = socket.create_server((str(address[0]), int(port_text)), family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SpecgenError(f"{http} is in use", hint="choose another port") from error
        raise SpecgenError(f"cannot listen at {http}: {error.strerror or error}", hint="choose another") from error
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{listener.getsockname()[1]}"
    return listener, url, LOOPBACK | {host.lower()} if is_loopback else None
