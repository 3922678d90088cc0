"""Streamed Markdown as pieces of styled text that never change afterwards.

Text that may become markup (half a bold word, a table) is held back until it is certain. So nothing is redrawn, and
neither a resize nor an answer taller than the screen loses a line.
"""

import re
from collections.abc import Callable, Sequence

from specgen.render.highlight import Highlighter
from specgen.render.inline import BOLD, DIM, LINK, Piece, inline
from specgen.render.tables import is_delimiter, table

_NEWLINE = Piece("\n")
_FENCE = re.compile(r"\s*(`{3,}|~{3,})\s*([^`]*)$")
_RULE = re.compile(r"\s{0,3}([-*_])\s*(\1\s*){2,}$")
_HEADING = re.compile(r"\s{0,3}(#{1,6})\s+(?=\S)")
_QUOTE = re.compile(r"\s{0,3}>\s?")
_BULLET = re.compile(r"(\s*)[-*+]\s+(?=\S)")
_NUMBER = re.compile(r"(\s*)(\d{1,9}[.)])\s+(?=\S)")
# The start of a line that may become a fence, a rule, a heading, a list or a table.
_UNDECIDED = re.compile(r"\s*(#{1,6}|>|[-*_+]{0,3}|\d{0,9}[.)]?|`{1,2}|~{1,2}|(`{3,}|~{3,}).*|\|.*)\s*$", re.DOTALL)
_RULE_COLUMNS = 40


class MarkdownStream:
    """Turns streamed text into pieces. `tail` holds the uncertain rest, as the model wrote it."""

    def __init__(self, columns: Callable[[], int]) -> None:
        self._columns = columns
        self.tail = ""
        self._line_begun = False  # whether the first piece of the line is out
        self._style = self._indent = ""
        self._fence = ""
        self._code = Highlighter("")
        self._table: list[str] = []

    def feed(self, text: str) -> list[Piece]:
        """The pieces that `text` makes certain."""
        *lines, self.tail = (self.tail + text).split("\n")
        out: list[Piece] = []
        for line in lines:
            out += self._complete_line(line)
        return out + self._incomplete_line()

    def end(self) -> list[Piece]:
        """The pieces of all text that was held back."""
        line, self.tail = self.tail, ""
        out = self._complete_line(line) if line or self._line_begun else []
        if out and out[-1] == _NEWLINE:
            del out[-1]  # the model wrote no newline
        return out + self._end_table()

    def _complete_line(self, line: str) -> list[Piece]:
        """The pieces of the rest of a line that has ended."""
        if self._fence:
            return self._code_line(line)
        if self._line_begun:
            return [*self._inline(line), self._end_line()]
        if line.lstrip().startswith("|"):
            self._table.append(line)
            if len(self._table) != 2 or is_delimiter(line):
                return []
            return self._plain_table()
        return [*self._end_table(), *self._block(line)]

    def _block(self, line: str) -> list[Piece]:
        """The pieces of a complete line outside of code and tables."""
        if fence := _FENCE.match(line):
            self._fence, self._code = fence[1], Highlighter(fence[2])
            return [Piece(line, DIM, wraps=False), _NEWLINE]
        if _RULE.match(line):
            return [Piece("─" * min(_RULE_COLUMNS, self._columns() - 1), DIM, wraps=False), _NEWLINE]
        opening, rest = self._block_markup(line)
        return [*opening, *self._inline(rest), self._end_line()]

    def _incomplete_line(self) -> list[Piece]:
        """The certain pieces of a line that has not ended."""
        if self._fence:
            return []
        out: list[Piece] = []
        if not self._line_begun:
            if _UNDECIDED.match(self.tail):
                return []
            opening, self.tail = self._block_markup(self.tail)
            out = [*self._end_table(), *opening]
            self._line_begun = True
        # The next character may extend markup that seems to end here. So take only complete words.
        words = re.match(r".*[\s\u2e80-\u9fff\uac00-\ud7af\uff00-\uffef]", self.tail, re.DOTALL)
        pieces, used = inline(words[0] if words else "", self._style, complete=False)
        self.tail = self.tail[used:]
        return out + [piece._replace(indent=self._indent) for piece in pieces]

    def _block_markup(self, line: str) -> tuple[list[Piece], str]:
        """The pieces of the block markup that begins a line, and its rest. Sets the style and the indent."""
        self._style = self._indent = ""
        if heading := _HEADING.match(line):
            self._style = f"{BOLD};{LINK}" if len(heading[1]) == 1 else BOLD
            return [], line[heading.end() :]
        if quote := _QUOTE.match(line):
            self._indent = "│ "
            return [Piece("│ ", DIM, wraps=False)], line[quote.end() :]
        if bullet := _BULLET.match(line):
            self._indent = f"{bullet[1]}  "
            return [Piece(f"{bullet[1]}• ", wraps=False)], line[bullet.end() :]
        if number := _NUMBER.match(line):
            opening = f"{number[1]}{number[2]} "
            self._indent = " " * len(opening)
            return [Piece(opening, wraps=False)], line[number.end() :]
        indent = line[: len(line) - len(line.lstrip())]
        return ([Piece(indent, wraps=False)] if indent else []), line[len(indent) :]

    def _inline(self, text: str) -> list[Piece]:
        return [piece._replace(indent=self._indent) for piece in inline(text, self._style)[0]]

    def _end_line(self) -> Piece:
        self._line_begun, self._style, self._indent = False, "", ""
        return _NEWLINE

    def _code_line(self, line: str) -> list[Piece]:
        bare = line.strip()
        if bare.startswith(self._fence) and not bare.strip(self._fence[0]):
            self._fence = ""
            return [Piece(line, DIM, wraps=False), _NEWLINE]
        return [*self._code.line(line), _NEWLINE]

    def _end_table(self) -> list[Piece]:
        if len(self._table) < 2:
            return self._plain_table()
        lines, self._table = self._table, []
        return table(lines, self._columns() - 1)

    def _plain_table(self) -> list[Piece]:
        """Lines that looked like a table, as plain lines."""
        lines: Sequence[str]
        lines, self._table = self._table, []
        return [piece for line in lines for piece in (*inline(line)[0], _NEWLINE)]
