"""An event stream to a renderer and an outcome, with Ctrl-C."""

import signal
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Self

from specgen.core.errors import Incomplete
from specgen.core.events import Event, Failed, Finished, Reason, Renderer, Step

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


def play(events: Iterator[Event], renderer: Renderer, stop: Callable[[], None]) -> Finished | Failed:
    """Show every event and return the last one. `stop` asks the generation to end, see Session.stop."""
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


def check_complete(finished: Finished) -> None:
    """Raises Incomplete if the answer ended before its constraint allowed the end."""
    if finished.complete:
        return
    at = f"cut the answer at token {finished.stats.generated_tokens}"
    raise Incomplete(
        f"{_CUT_BY.get(finished.reason, finished.reason)} {at}, before its constraint lets it end",
        hint="raise -n, or ask for less" if finished.reason == "length" else "ask for less",
    )
