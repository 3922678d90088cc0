"""Syntax highlighting of code, line by line."""

from typing import Any

from specgen.render.inline import Piece

# Number of earlier lines that are lexed with a line. Enough for most strings and comments over several lines.
_LINES = 60
_STYLES = {
    "Comment": "2",
    "Keyword": "35",
    "Literal.String": "32",
    "Literal.Number": "36",
    "Name.Function": "34",
    "Name.Class": "34",
    "Name.Decorator": "34",
    "Name.Tag": "34",
    "Name.Builtin": "36",
    "Generic.Inserted": "32",
    "Generic.Deleted": "31",
    "Generic.Heading": "1",
}


class Highlighter:
    """Colours the lines of one block of code in `language`. An unknown language stays plain."""

    def __init__(self, language: str) -> None:
        self._lexer: Any = _lexer(language.split(maxsplit=1)[0].strip("{}.")) if language.split() else None
        self._before: list[str] = []

    def line(self, text: str) -> list[Piece]:
        """The pieces of the next line."""
        if self._lexer is None:
            return [Piece(text, wraps=False)] if text else []
        self._before = [*self._before[-_LINES:], text]
        pieces: list[Piece] = []
        number = 0
        for kind, value in self._lexer.get_tokens("\n".join(self._before)):
            first, *more = value.split("\n")
            for at, part in enumerate([first, *more]):
                number += at > 0
                if part and number == len(self._before) - 1:
                    pieces.append(Piece(part, _style(kind), wraps=False))
        return pieces


def _lexer(language: str) -> Any:
    from pygments.lexers import get_lexer_by_name  # noqa: PLC0415 - 0.1 s, only for code

    try:
        return get_lexer_by_name(language, stripnl=False)
    except ValueError:  # ClassNotFound is a subclass
        return None


def _style(kind: Any) -> str:
    """The style of `kind`, or of its nearest parent with a style."""
    while kind:
        if style := _STYLES.get(".".join(kind)):
            return style
        kind = kind.parent
    return ""
