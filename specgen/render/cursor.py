"""The cursor's column, followed without asking the terminal, and a status line below it."""

import unicodedata
from typing import TextIO

from specgen.render.terminal import dim, put

_TAB = 8


def width(char: str) -> int | None:
    """The columns of `char` on every terminal, or None if terminals differ (emoji, combining marks)."""
    code = ord(char)
    if code < 0x300:
        return 1
    if unicodedata.category(char)[0] not in "LNPSZ" or 0x1160 <= code < 0x1200 or 0x1F000 <= code < 0x20000:
        return None
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


class Cursor:
    """Follows the cursor's column through the text of one answer, which begins in column 0.

    The column is uncertain after a character of uncertain width, or after a resize, until the next newline.
    """

    def __init__(self) -> None:
        self._column = 0
        self._columns = 0
        self._sure = True

    @property
    def in_line(self) -> bool:
        """Whether there is text before the cursor on its line."""
        return self._column > 0

    @property
    def is_free(self) -> bool:
        """Whether the cursor is certainly before the right margin.

        At the margin, a terminal keeps the cursor on the last character until the next one. A cursor movement cancels
        that, and the next character would overwrite the last one.
        """
        return self._sure and (self._column == 0 or self._column < self._columns)

    def advance(self, text: str, columns: int) -> bool:
        """Follow `text` (printable, newlines and tabs) on a terminal of `columns` columns.

        True if the cursor certainly stayed on its row, before the right margin.
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
    """A line on `stream`, on the row below the cursor (`below`) or on its own row.

    `below` keeps the cursor after the text. IND first makes a row, and scrolls if necessary, without changing the
    column. Only then is the cursor saved, so that scrolling cannot invalidate the saved position. The caller draws only
    if Cursor.is_free, and erases before text leaves its row.
    """

    def __init__(self, stream: TextIO, *, below: bool, color: bool) -> None:
        self._stream = stream
        self._color = color
        self._before, self._after = ("\x1bD\x1b[A\x1b7\x1b[B\r", "\x1b[K\x1b8") if below else ("\r", "\x1b[K\r")
        self._clear = "\x1b[J" if below else "\r\x1b[J"
        self.drawn = False

    def draw(self, text: str) -> None:
        """Replace the line by `text`, which must be narrower than the terminal."""
        self.drawn = True
        put(self._stream, f"{self._before}{dim(text, self._color)}{self._after}")

    def erase(self) -> None:
        if self.drawn:
            put(self._stream, self._clear)
            self.drawn = False
