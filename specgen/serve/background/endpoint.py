"""The addresses of a server: one Unix socket a user, and HTTP over TCP on request."""

import contextlib
import errno
import os
import socket
import stat
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_runtime_path

from specgen.core.errors import SpecgenError, UsageError
from specgen.core.words import reason

if TYPE_CHECKING:
    from filelock import FileLock

# The prefix of paths that only the Unix socket serves.
PRIVATE = "/specgen/"
_BACKLOG = 128
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
# The longest path of a Unix socket, in bytes: sun_path without its final zero.
_LONGEST_PATH = 107 if sys.platform == "linux" else 103
_RUNTIME_HINT = "set XDG_RUNTIME_DIR to a folder of yours, with mode 0700"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Listening sockets. `path` is that of the Unix socket, None on a system without.

    `url` is the address of HTTP over TCP, None without. A request over TCP must name one of `hosts`; None allows all.
    `inode` tells this socket from one that another server makes at the same path.
    """

    sockets: list[socket.socket]
    path: Path | None
    inode: int | None
    url: str | None
    hosts: frozenset[str] | None

    def __str__(self) -> str:
        return " and ".join([f"{self.url}/v1"] * bool(self.url) + [str(self.path)] * bool(self.path))

    def is_reachable(self) -> bool:
        """Whether the path still leads to this server's Unix socket. True without one."""
        return self.path is None or _inode(self.path) == self.inode


def has_unix_sockets() -> bool:
    """Whether Python can open Unix sockets here; it cannot on Windows."""
    return hasattr(socket, "AF_UNIX")


def socket_path() -> Path:
    """The path of this user's socket."""
    with warnings.catch_warnings():  # platformdirs warns where the system has no runtime folder, and gives another
        warnings.simplefilter("ignore")
        folder = user_runtime_path("specgen", appauthor=False)
    return folder / "serve.sock"


def socket_fault(path: Path) -> SpecgenError | None:
    """The reason why no server can listen at `path`, None if one can. The folder may be missing."""
    if len(os.fsencode(path)) > _LONGEST_PATH:
        why = f"the path of a socket has at most {_LONGEST_PATH} bytes"
        return SpecgenError(f"cannot listen at {path}: {why}", hint="set XDG_RUNTIME_DIR to a folder with a short name")
    for folder in (path.parent.parent, path.parent):
        try:
            if not is_owned(folder) and (folder == path.parent or not os.access(folder, os.W_OK | os.X_OK)):
                return SpecgenError(f"{folder} belongs to somebody else", hint=_RUNTIME_HINT)
        except FileNotFoundError:
            continue
        except OSError as error:
            return SpecgenError(f"cannot use {folder}: {reason(error)}", hint=_RUNTIME_HINT)
    return None


def lock() -> "FileLock":
    """The lock that a server holds while it lives. The system releases it, however the server ends."""
    from filelock import FileLock  # noqa: PLC0415 - clients that only ask do not need it

    return FileLock(socket_path().with_suffix(".lock"), timeout=0)


def is_owned(path: Path) -> bool:
    """Whether `path` belongs to this user and is not a symbolic link. Raises OSError."""
    found = path.lstat()
    if sys.platform != "win32" and found.st_uid != os.geteuid():  # on Windows the folder is in the user's profile
        return False
    return not stat.S_ISLNK(found.st_mode)


@contextlib.contextmanager
def open_endpoint(
    http: str | None, *, has_key: bool, make_way: Callable[[], None] = lambda: None
) -> Iterator[Endpoint]:
    """Listen at the user's socket, and at `http` (HOST:PORT) if given. Connections wait to be accepted.

    Raises UsageError for a wrong address, or one that others reach without a key. Raises SpecgenError if another server
    of this user runs, or the address cannot be used. `make_way` is called before that, to end a background process.
    """
    has_socket = has_unix_sockets()
    if not has_socket and http is None:
        raise UsageError("this system has no Unix sockets", hint="listen at an address: --http 127.0.0.1:8080")
    with contextlib.ExitStack() as stack:
        sockets: list[socket.socket] = []
        url, hosts, path, inode = None, None, socket_path(), None
        if http is not None:
            listener, url, hosts = _listen_tcp(http, has_key=has_key)
            sockets.append(stack.enter_context(listener))
        make_way()
        stack.enter_context(_hold_lock(path))
        if has_socket:
            listener, inode = stack.enter_context(_listen_unix(path))
            sockets.append(listener)
        yield Endpoint(sockets, path if has_socket else None, inode, url, hosts)


@contextlib.contextmanager
def _hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock beside `path`. Its holder may replace what a killed server left there."""
    from filelock import Timeout  # noqa: PLC0415 - as above

    if fault := socket_fault(path):
        raise fault
    folder = path.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        held = lock()
        held.acquire()
    except Timeout:
        raise SpecgenError("a server runs already", hint="specgen ps shows it, specgen stop ends it") from None
    except OSError as error:
        raise SpecgenError(f"cannot use {folder}: {reason(error)}", hint=_RUNTIME_HINT) from error
    try:
        yield
    finally:
        held.release()


@contextlib.contextmanager
def _listen_unix(path: Path) -> Iterator[tuple[socket.socket, int | None]]:
    """A socket that listens at `path`, and its inode."""
    if sys.platform == "win32":
        raise NotImplementedError
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            listener.bind(str(path))
        except OSError as error:
            raise SpecgenError(f"cannot listen at {path}: {reason(error)}", hint=_RUNTIME_HINT) from error
        path.chmod(0o600)  # until here the mode of the folder protects it
        inode = _inode(path)
        listener.listen(_BACKLOG)
        try:
            yield listener, inode
        finally:
            # Where the folder was removed meanwhile, the path may lead to the socket of another server.
            if _inode(path) == inode:
                path.unlink(missing_ok=True)


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None


def _listen_tcp(http: str, *, has_key: bool) -> tuple[socket.socket, str, frozenset[str] | None]:
    """A listening socket, its URL, and the names by which it may be called. Raises UsageError or SpecgenError."""
    import ipaddress  # noqa: PLC0415 - as above

    host, colon, port_text = http.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port_text.isdecimal() or int(port_text) > 65535:
        raise UsageError(f"--http is '{http}'", hint="give HOST:PORT, for example 127.0.0.1:8080")
    try:
        found = socket.getaddrinfo(host, int(port_text), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UsageError(f"--http: no address for {host}: {reason(error)}") from error
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
        raise SpecgenError(f"cannot listen at {http}: {reason(error)}", hint="choose another") from error
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{listener.getsockname()[1]}"
    return listener, url, LOOPBACK | {host.lower()} if is_loopback else None
