"""An event stream to a renderer and an outcome, with Ctrl-C, Ctrl-Z and typed keys."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self

from specgen.core.errors import Incomplete
from specgen.core.events import Event, Failed, Finished, Reason, Renderer, Step, Suspended
from specgen.render.terminal import is_terminal

_CUT_BY: dict[Reason, str] = {
    "length": "the token limit",
    "context": "the end of the context",
    "stop": "a stop string",
    "interrupted": "the interrupt",
}


class Interrupt:
    """Handles SIGINT while events arrive.

    Before the first text Ctrl-C raises KeyboardInterrupt. Then it asks for a stop after the round. A second Ctrl-C
    always raises.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._streaming = False

    def streams(self) -> None:
        """Text has begun: from now on the partial answer is kept."""
        self._streaming = True

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if not self._streaming:
            raise KeyboardInterrupt
        self._streaming = False
        self._stop()


class Suspension:
    """Handles Ctrl-Z while events arrive: `clean` leaves the terminal clean, then the process stops until `fg`."""

    def __init__(self, clean: Callable[[], None], echo: "Echo") -> None:
        self._clean = clean
        self._echo = echo
        self._drawing = self._pending = self._handles = False

    def __enter__(self) -> Self:
        if sys.platform != "win32" and signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
            signal.signal(signal.SIGTSTP, self._handle)
            self._handles = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._handles and sys.platform != "win32":
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """Postpone a stop: half a drawing cannot be erased."""
        self._drawing = True
        try:
            yield
        finally:
            self._drawing = False
        if self._pending:
            self._stop()

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._pending = True
        if not self._drawing:
            self._stop()

    def _stop(self) -> None:
        if sys.platform == "win32":
            return
        self._pending = False
        self._clean()
        self._echo.restore()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # returns after SIGCONT
        signal.signal(signal.SIGTSTP, self._handle)
        self._echo.switch_off()


class Echo:
    """The terminal's echo of typed keys. It is off in the context, where keys would appear inside the text."""

    def __init__(self) -> None:
        self._before: list[Any] | None = None

    def __enter__(self) -> Self:
        self.switch_off()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.restore()

    def switch_off(self) -> None:
        if sys.platform == "win32" or not _in_foreground():
            return
        import termios  # noqa: PLC0415 - not on Windows

        self._before = termios.tcgetattr(sys.stdin)
        silent = [*self._before]
        silent[3] &= ~termios.ECHO
        termios.tcsetattr(sys.stdin, termios.TCSANOW, silent)

    def restore(self) -> None:
        before, self._before = self._before, None
        if sys.platform == "win32" or before is None or not _in_foreground():
            return
        import termios  # noqa: PLC0415 - as above

        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def _in_foreground() -> bool:
    """Whether this process may change the terminal of stdin.

    A background job would be stopped for that. If stdout is a pipe, a pager may use the terminal.
    """
    if sys.platform == "win32" or not is_terminal(sys.stdin) or not is_terminal(sys.stdout):
        return False
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def owned_terminal(clean: Callable[[], None]) -> Iterator[Suspension]:
    """Echo no keys, and call `clean` before Ctrl-Z stops the process. Draw in `drawing()` of the result."""
    with Echo() as echo, Suspension(clean, echo) as suspension:
        yield suspension


def play(events: Iterator[Event], renderer: Renderer, stop: Callable[[], None]) -> Finished | Failed:
    """Show every event and return the last one. `stop` asks the generation to end, see Session.stop."""
    last: Event | None = None
    try:
        with Interrupt(stop) as interrupt, owned_terminal(lambda: renderer.show(Suspended())) as terminal:
            for event in events:
                with terminal.drawing():
                    renderer.show(event)
                if isinstance(event, Step):
                    interrupt.streams()
                last = event
    finally:
        renderer.close()
        if close := getattr(events, "close", None):
            close()
    assert isinstance(last, Finished | Failed), "every stream ends in Finished or Failed"  # noqa: S101
    return last


def check_complete(finished: Finished) -> None:
    """Raises Incomplete if the answer ended before its constraint allowed the end."""
    if finished.complete:
        return
    at = f"cut the answer at token {finished.stats.generated_tokens}"
    raise Incomplete(
        f"{_CUT_BY.get(finished.reason, finished.reason)} {at}, before its constraint lets it end",
        hint="raise -n, or ask for less" if finished.reason == "length" else "ask for less",
    )
