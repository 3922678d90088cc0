"""One line that comes and goes on a terminal without touching the text that is written there."""

from typing import TextIO

from specgen.render.terminal import dim, put


class StatusLine:
    """A line drawn on `stream`, on the row below the cursor, or on the cursor's own row when `below` is false.

    Below, the cursor stays where the text left it: IND makes room for a row and scrolls where there is none, without
    changing the column, and only then is the cursor saved, so that the saved place is still true when it is restored.
    The caller draws only where Cursor.is_free, and erases before text leaves its row.
    """

    def __init__(self, stream: TextIO, *, below: bool, color: bool) -> None:
        self._stream = stream
        self._color = color
        self._before, self._after = ("\x1bD\x1b[A\x1b7\x1b[B\r", "\x1b[K\x1b8") if below else ("\r", "\x1b[K\r")
        self._clear = "\x1b[J" if below else "\r\x1b[J"
        self.drawn = False

    def draw(self, text: str) -> None:
        """Show `text`, which must be narrower than the terminal, instead of what was shown."""
        self.drawn = True
        put(self._stream, f"{self._before}{dim(text, self._color)}{self._after}")

    def erase(self) -> None:
        if self.drawn:
            put(self._stream, self._clear)
            self.drawn = False
