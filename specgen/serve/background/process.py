"""The server that nobody started: a command begins it, and it ends by itself when nobody has asked for a while."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import specgen
from specgen.core.errors import SpecgenError
from specgen.core.events import Event, Notice
from specgen.core.files import state_folder
from specgen.serve.background.connection import Connection, ConnectionFailed
from specgen.serve.background.endpoint import has_unix_sockets, open_endpoint, socket_path
from specgen.serve.background.fingerprint import Fingerprint

# Until the first question says how long it stays.
_NOBODY_ASKS_S = 60.0
# Until it listens, which takes a fraction of a second; and until one that ends has let go of the lock.
_LISTENS_S = 30.0
_ENDS_S = 5.0
_TICK_S = 0.02
_LARGEST_LOG = 1 << 20

# Python warns of a process that nobody waits for.
_started: list["subprocess.Popen[bytes]"] = []


def can_launch() -> bool:
    """Whether a process may stay behind: not without Unix sockets, nor of a job without a terminal and a home."""
    if not has_unix_sockets():
        return False
    streams = (sys.stdin, sys.stdout, sys.stderr)
    home = os.environ.get("HOME")
    if not home and not any(stream and stream.isatty() for stream in streams):
        return False
    folder = socket_path().parent
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return bool(sys.executable) and os.access(folder, os.W_OK)


def start() -> Connection | None:
    """Start it, wait until it listens, and connect. None where that fails; another that is faster is as good."""
    path = socket_path()
    try:
        with _log() as log:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=Path(specgen.__file__).parents[1],
                start_new_session=True,  # neither the end of the terminal nor Ctrl-C there ends it
            )
    except OSError:
        return None
    _started.append(process)
    end = time.monotonic() + _LISTENS_S
    while time.monotonic() < end:
        alive = process.poll() is None
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return Connection(path)
        if not alive:
            return None
        time.sleep(_TICK_S)
    return None


@contextlib.contextmanager
def _log() -> Iterator[int]:
    """Where it writes what goes wrong; nowhere, where it cannot."""
    try:
        file = state_folder() / "serve.log"
        file.parent.mkdir(parents=True, exist_ok=True)
        large = file.exists() and file.stat().st_size > _LARGEST_LOG
        log = os.open(file, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if large else os.O_APPEND), 0o600)
    except OSError:
        log = os.open(os.devnull, os.O_WRONLY)
    try:
        yield log
    finally:
        os.close(log)


def main() -> None:
    """The process itself. It listens before it imports what takes seconds: who connects meanwhile waits."""
    fingerprint = Fingerprint.own()
    end = time.monotonic() + _ENDS_S
    while True:
        try:
            with open_endpoint(None, has_key=False) as place:
                # Nothing here is found by a relative name.
                nowhere = socket_path().parent / "empty"
                nowhere.mkdir(mode=0o700, exist_ok=True)
                os.chdir(nowhere)
                from specgen.serve.server import Server  # noqa: PLC0415 - see above

                ended = Server(
                    place, keep_alive_s=_NOBODY_ASKS_S, background=True, fingerprint=fingerprint, show=_tell
                ).run()
            break
        except SpecgenError as error:
            if _is_answered() or time.monotonic() > end:
                _tell(Notice(str(error)))
                return
            time.sleep(_TICK_S)
    if not ended:
        os._exit(0)  # as in `specgen serve`


def _is_answered() -> bool:
    """Whether somebody else was faster."""
    try:
        Connection(socket_path()).close()
    except (OSError, ConnectionFailed):
        return False
    return True


def _tell(event: Event) -> None:
    if isinstance(event, Notice):
        sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {event.text}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    main()
