"""Rendered Markdown on a terminal, wrapped at words."""

import copy
import re
from typing import Any

from rich.cells import cell_len

from specgen.render.cursor import Cursor
from specgen.render.inline import Piece
from specgen.render.markdown import MarkdownStream
from specgen.render.terminal import columns, put, sanitize
from specgen.render.text import THINKING, TextOutput

# Blanks, a wide character (a line may break after it), or a word.
_WIDE = r"\u2e80-\u9fff\uac00-\ud7af\uff00-\uff60"
_WORDS = re.compile(rf"\n|[^\S\n]+|[{_WIDE}]|[^\s{_WIDE}]+")
# Rows of a terminal of this many columns or fewer are not indented.
_NARROW = 20


class MarkdownOutput(TextOutput):
    """Writes rendered Markdown. Certain text never changes.

    The tail after it is uncertain text, as the model wrote it, as far as it certainly fits the row. Only the tail is
    erased.
    """

    def __init__(self, *where: Any, **how: Any) -> None:
        super().__init__(*where, **how)
        self._reset()

    def end(self) -> bool:
        super().end()
        self._reset()
        return False

    def _reset(self) -> None:
        self._markdown = MarkdownStream(lambda: columns(self._screen))
        self._written = Cursor()  # the end of the certain text
        self._column = 0
        self._word: list[Piece] = []
        self._blank = ""
        self._tail = ""
        self._tail_columns = 0
        self._thought = ""

    def suspend(self) -> None:
        """Erase the tail. It is written again with the next text."""
        if self._tail:
            put(self._stdout, self._erase(columns(self._screen)))
        super().suspend()
        self._written, self._column, self._tail = Cursor(), 0, ""

    def _release(self) -> None:
        spans, self._held = self._held, []
        pieces: list[Piece] = []
        for span in spans:
            text = self._sanitize(span.text)
            if span.channel == "thinking":
                self._thought += text
                pieces.append(Piece(text, THINKING))
            elif text:
                if self._thought and not self._thought.endswith("\n"):
                    pieces.append(Piece("\n"))
                self._thought = ""
                pieces += self._markdown.feed(text)
        if spans:
            self._show(pieces)

    def _finish(self) -> None:
        rest = self._markdown.feed(sanitize(self._carriage_return)) if self._carriage_return else []
        self._carriage_return = ""
        self._show([*rest, *self._markdown.end()], last=True)

    def _show(self, pieces: list[Piece], *, last: bool = False) -> None:
        """Replace the tail by `pieces` and the new tail."""
        across = columns(self._screen)
        out = _Row(across, self._written, self._column)
        for piece in pieces:
            self._add(piece, out)
        if last:
            self._end_word(out)
        tail = "" if last else self._visible_tail(out)
        if not out.painted and tail == self._tail:
            return
        cursor = copy.copy(out.cursor)
        stays = cursor.advance(tail, across) and out.stays
        if not stays:
            self._make_room()
        put(self._stdout, self._erase(across) + out.painted + tail)
        self._written, self._column = out.cursor, out.column
        self.cursor, self._tail, self._tail_columns = cursor, tail, across

    def _erase(self, across: int) -> str:
        """The codes that erase the tail. If the terminal became narrower than its row, the tail stays."""
        if not self._tail:
            return ""
        if across < self._tail_columns and self._column + len(self._tail) >= across:
            return "\n"
        return f"\x1b[{len(self._tail)}D\x1b[K"

    def _add(self, piece: Piece, out: "_Row") -> None:
        if not piece.wraps:
            self._end_word(out)
            out.write(piece.text, piece.style)
            return
        for part in _WORDS.findall(piece.text):
            if part == "\n":
                self._end_word(out)
                self._blank = ""
                out.write("\n", "")
            elif part.isspace():
                self._end_word(out)
                self._blank += part.replace("\t", " ")
            else:
                if len(part) == 1 and cell_len(part) == 2:
                    self._end_word(out)
                self._word.append(piece._replace(text=part))

    def _end_word(self, out: "_Row") -> None:
        """Write the current word, on the next row if it does not fit this one."""
        if not self._word:
            return
        needed = sum(cell_len(piece.text) for piece in self._word)
        indent = self._word[0].indent if out.columns > _NARROW else ""
        if out.column > cell_len(indent) and out.column + len(self._blank) + needed >= out.columns:
            out.write(f"\n{indent}", "")
        else:
            out.write(self._blank, self._word[0].style if self._word[0].style == THINKING else "")
        self._blank = ""
        for piece in self._word:
            out.write(piece.text, piece.style)
        self._word = []

    def _visible_tail(self, out: "_Row") -> str:
        """The part of the uncertain text that certainly fits the rest of the row."""
        held = self._blank + "".join(piece.text for piece in self._word) + self._markdown.tail.expandtabs()
        room = out.columns - 1 - out.column
        if not out.cursor.is_free or room <= 0:
            return ""
        narrow = re.match(r"[\x20-\x7e]*", held[:room])
        return narrow[0].rstrip() if narrow else ""


class _Row:
    """Text to write, and the cursor after it."""

    def __init__(self, across: int, cursor: Cursor, column: int) -> None:
        self.columns = across
        self.cursor = copy.copy(cursor)
        self.column = column
        self.painted = ""
        self.stays = True

    def write(self, text: str, style: str) -> None:
        if not text:
            return
        self.stays = self.cursor.advance(text, self.columns) and self.stays
        line = text.rpartition("\n")
        self.column = cell_len(line[2].expandtabs()) + (0 if line[1] else self.column)
        self.column %= max(self.columns, 1)
        self.painted += f"\x1b[{style}m{text}\x1b[0m" if style else text
