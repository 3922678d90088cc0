"""Streams for renderers: a pipe that keeps its bytes, and an emulated terminal."""

import io
from typing import Any

import pyte
from wcwidth import wcwidth


class Pipe(io.TextIOWrapper):
    """A pipe. `written` has its bytes."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self._bytes = io.BytesIO()
        super().__init__(self._bytes, encoding=encoding, newline="\r\n")  # a translation that text must not meet

    @property
    def written(self) -> bytes:
        return self._bytes.getvalue()


class Screen(pyte.HistoryScreen):
    """pyte with two behaviours of xterm: a cursor movement cancels the pending wrap at the margin, and a wide
    character that does not fit goes to the next row.
    """

    def __init__(self, columns: int, lines: int) -> None:
        super().__init__(columns, lines, history=2000, ratio=0.01)
        self.set_mode(pyte.modes.LNM)  # what a tty's ONLCR does

    def _clamp(self) -> None:
        self.cursor.x = min(self.cursor.x, self.columns - 1)

    def draw(self, data: str) -> None:
        for char in data:
            if self.cursor.x == self.columns - 1 and wcwidth(char) == 2:
                self.cursor.x = self.columns
            super().draw(char)

    def index(self) -> None:
        self._clamp()
        super().index()

    def cursor_up(self, count: int | None = None) -> None:
        self._clamp()
        super().cursor_up(count)

    def erase_in_display(self, how: int = 0, *args: Any, **kwargs: Any) -> None:
        self._clamp()
        super().erase_in_display(how, *args, **kwargs)

    def rows(self) -> list[str]:
        """Every row from the first in the scrollback to the last that is not blank, without trailing blanks."""
        history = [_text(row, self.columns) for row in self.history.top]
        shown = [_text(self.buffer[y], self.columns) for y in range(self.lines)]
        rows = [*history, *shown]
        while rows and not rows[-1]:
            rows.pop()
        return rows


def _text(row: Any, columns: int) -> str:
    return "".join(row[x].data for x in range(columns)).rstrip()


class _Wire(io.RawIOBase):
    def __init__(self, screen: Screen, sent: bytearray) -> None:
        self._parser = pyte.ByteStream(screen)
        self._sent = sent

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._sent += bytes(data)
        self._parser.feed(bytes(data))
        return len(data)


class Terminal(io.TextIOWrapper):
    """A stream to `screen`, which two streams may share as stdout and stderr. `sent` has the bytes of this one."""

    def __init__(self, screen: Screen, encoding: str = "utf-8") -> None:
        self.screen = screen
        self.sent = bytearray()
        super().__init__(io.BufferedWriter(_Wire(screen, self.sent)), encoding=encoding, newline="")

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise io.UnsupportedOperation
