"""From a stream of events to a renderer and an outcome, with Ctrl-C."""

import signal
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Self

from specgen.core.events import Event, Failed, Finished, Renderer, Step


class Interrupt:
    """Ctrl-C while events play: once text streams it asks for a stop after the round, before that it interrupts.

    A second Ctrl-C always interrupts.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._streaming = False

    def streams(self) -> None:
        """Text has begun: from now on the answer so far is worth keeping."""
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


def play(events: Iterator[Event], renderer: Renderer, stop: Callable[[], None]) -> Finished | Failed:
    """Show every event; returns the last one. `stop` asks the generation to end, see Session.stop."""
    last: Event | None = None
    try:
        with Interrupt(stop) as interrupt:
            for event in events:
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
