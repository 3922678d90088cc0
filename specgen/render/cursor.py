"""Where text has left the cursor, as far as that can be known without asking the terminal."""

import unicodedata
from typing import TextIO

from specgen.render.terminal import dim, put

_TAB = 8


def width(char: str) -> int | None:
    """The columns that `char` takes on every terminal, or None where terminals differ (emoji, combining marks)."""
    code = ord(char)
    if code < 0x300:
        return 1
    if unicodedata.category(char)[0] not in "LNPSZ" or 0x1160 <= code < 0x1200 or 0x1F000 <= code < 0x20000:
        return None
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


class Cursor:
    """Follows the cursor's column through the text of one answer, which begins in column 0.

    A line with a character of uncertain width, or one on screen during a resize, makes the column a guess until the
    next newline.
    """

    def __init__(self) -> None:
        self._column = 0
        self._columns = 0
        self._sure = True

    @property
    def in_line(self) -> bool:
        """Whether the cursor stands behind text on its line."""
        return self._column > 0

    @property
    def is_free(self) -> bool:
        """Whether the cursor surely stands before the right margin.

        At the margin a terminal holds the cursor on the last character until the next one comes. Any cursor movement
        forgets that, and the next character would overwrite the last.
        """
        return self._sure and (self._column == 0 or self._column < self._columns)

    def advance(self, text: str, columns: int) -> bool:
        """Take in `text` (printable, newlines and tabs) on a terminal `columns` wide.

        True if the cursor surely stayed on its row, before the right margin.
        """
        if columns != self._columns:
            self._sure = self._sure and self._column == 0
            self._columns = columns
        stayed = True
        for char in text:
            if char == "\n":
                self._column, self._sure, stayed = 0, True, False
            elif char == "\t":
                self._column = min((self._column // _TAB + 1) * _TAB, max(columns - 1, self._column))
            else:
                stayed = self._print(char) and stayed
        return stayed and self.is_free

    def _print(self, char: str) -> bool:
        columns = width(char)
        if columns is None:
            self._sure, columns = False, 1
        if self._column + columns > self._columns:
            self._column = columns
            return False
        self._column += columns
        return True


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
