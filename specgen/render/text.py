"""Output of model text: sanitized and coloured on a terminal, exact bytes elsewhere."""

from collections.abc import Callable, Sequence
from typing import TextIO

from specgen.core.events import Source, Span
from specgen.render.cursor import Cursor
from specgen.render.terminal import ColorChoice, columns, is_pipe, is_terminal, put, put_exact, sanitize, wants_color

THINKING = "2"
_SOURCES: dict[Source, str] = {
    "draft": "32",
    "lookup": "36",
    "history": "96",
    "corrected": "4;33",
    "bonus": "35",
    "forced": "34",
}
_LEGEND: tuple[Source, ...] = ("draft", "lookup", "history", "forced", "corrected", "bonus")


class TextOutput:
    """Writes the text of answers to `stdout` and follows the cursor.

    Without `stream`, end() writes the text. `screen` is the terminal that may show the text. `make_room` is called
    before text that may leave the row of the cursor. `thinking` shows thinking, only on a terminal.
    """

    def __init__(
        self,
        stdout: TextIO,
        screen: TextIO,
        make_room: Callable[[], None],
        *,
        stream: bool,
        color: ColorChoice,
        sources: bool,
        thinking: bool = True,
    ) -> None:
        self._stdout = stdout
        self._screen = screen
        self._make_room = make_room
        self._stream = stream
        self._terminal = is_terminal(stdout)
        self._color = wants_color(stdout, color)
        self._sources = sources
        self._thinking = thinking and self._terminal
        self._held: list[Span] = []
        self._carriage_return = ""
        self.cursor = Cursor()

    def write(self, spans: Sequence[Span]) -> None:
        self._held += (span for span in spans if span.channel == "answer" or self._thinking)
        if self._stream:
            self._release()

    def end(self) -> bool:
        """Write the text that was held back, and end the last line on a terminal.

        True if the reader of a pipe may have left the cursor after the text.
        """
        self._release()
        self._finish()
        if self._terminal and self.cursor.in_line:
            put(self._stdout, "\n")
        line_is_open = is_pipe(self._stdout) and self.cursor.in_line
        self.cursor = Cursor()
        return line_is_open

    def suspend(self) -> None:
        """Continue in column 0, since another program gets the terminal."""
        self.cursor = Cursor()

    def _release(self) -> None:
        spans, self._held = self._held, []
        if not self._terminal:
            text = "".join(span.text for span in spans)
            self._put(text, text)
            return
        safe = [(self._sanitize(span.text), span) for span in spans]
        self._put("".join(text for text, _ in safe), "".join(self._paint(text, span) for text, span in safe))

    def _finish(self) -> None:
        """Write a carriage return that was held back."""
        if self._carriage_return:
            self._put(sanitize(self._carriage_return), sanitize(self._carriage_return))
            self._carriage_return = ""

    def _put(self, text: str, painted: str) -> None:
        if not text:
            return
        if not self.cursor.advance(text, columns(self._screen)):
            self._make_room()
        if self._terminal:
            put(self._stdout, painted)
        else:
            put_exact(self._stdout, painted)

    def _sanitize(self, text: str) -> str:
        """Sanitized `text`. Holds back a final carriage return, since its newline may be next."""
        text = self._carriage_return + text
        self._carriage_return = "\r" if text.endswith("\r") else ""
        return sanitize(text.removesuffix("\r"))

    def _paint(self, text: str, span: Span) -> str:
        if not self._color or not text:
            return text
        codes = [THINKING] if span.channel == "thinking" else []
        codes += [_SOURCES[span.source]] if self._sources else []
        return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if codes else text


def legend(color: bool) -> str:
    """The sources of text, each in its colour."""
    return ", ".join(f"\x1b[{_SOURCES[source]}m{source}\x1b[0m" if color else source for source in _LEGEND)


def appears_on_screen(stdout: TextIO) -> bool:
    """Whether text may appear on the user's terminal. For a pipe, tee and cat put it there."""
    return is_terminal(stdout) or is_pipe(stdout)
