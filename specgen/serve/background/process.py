"""The background process: started by a command, it keeps pairs loaded until it has been idle for a while."""

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
from specgen.serve.background.endpoint import has_unix_sockets, open_endpoint, socket_fault, socket_path
from specgen.serve.background.fingerprint import Fingerprint

# Keep-alive until the first request sets another, in seconds.
_NOBODY_ASKS_S = 60.0
# Longest time until it listens, and until a process that ends releases the lock, in seconds.
_LISTENS_S = 30.0
_ENDS_S = 5.0
_TICK_S = 0.02
_LARGEST_LOG = 1 << 20

# Python warns about a child process that nobody waits for, unless something refers to it.
_started: list["subprocess.Popen[bytes]"] = []


def can_launch() -> bool:
    """Whether a background process can run.

    It needs a Unix socket. A job with neither a terminal nor a home leaves no process behind.
    """
    if not has_unix_sockets():
        return False
    streams = (sys.stdin, sys.stdout, sys.stderr)
    home = os.environ.get("HOME")
    if not home and not any(stream and stream.isatty() for stream in streams):
        return False
    path = socket_path()
    if socket_fault(path):
        return False
    folder = path.parent
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return bool(sys.executable) and os.access(folder, os.W_OK)


def start() -> Connection | None:
    """Start the process, wait until it listens, and connect. Returns None on failure.

    Another command may start one at the same time; either process will do.
    """
    path = socket_path()
    try:
        with _log() as log:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=Path(specgen.__file__).parents[1],
                start_new_session=True,  # so that neither Ctrl-C nor the end of the terminal ends it
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
    """A descriptor of the log file, or of the null device if it cannot be written."""
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
    """Run the process. It listens before the imports that take seconds, so that callers can connect and wait."""
    fingerprint = Fingerprint.own()
    end = time.monotonic() + _ENDS_S
    while True:
        try:
            with open_endpoint(None, has_key=False) as endpoint:
                # Relative names of callers must not find files here.
                nowhere = socket_path().parent / "empty"
                nowhere.mkdir(mode=0o700, exist_ok=True)
                os.chdir(nowhere)
                from specgen.serve.server import Server  # noqa: PLC0415 - it takes seconds

                ended = Server(
                    endpoint, keep_alive_s=_NOBODY_ASKS_S, background=True, fingerprint=fingerprint, show=_tell
                ).run()
            break
        except SpecgenError as error:
            if _is_answered() or time.monotonic() > end:
                _tell(Notice(str(error)))
                return
            time.sleep(_TICK_S)
    if not ended:
        os._exit(0)  # a thread in a forward pass cannot be ended


def _is_answered() -> bool:
    """Whether another process listens already."""
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
