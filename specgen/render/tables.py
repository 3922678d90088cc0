"""Layout of complete Markdown tables."""

import io
import re
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from specgen.render.inline import BOLD, CODE, DIM, ITALIC, LINK, STRUCK, Piece, inline

_STYLES = {
    BOLD: Style(bold=True),
    ITALIC: Style(italic=True),
    CODE: Style(color="cyan"),
    STRUCK: Style(strike=True),
    LINK: Style(underline=True),
    DIM: Style(dim=True),
}


def is_delimiter(line: str) -> bool:
    """Whether `line` is the delimiter row below a table's header."""
    return re.fullmatch(r"[\s|:-]*-[\s|:-]*", line) is not None


def table(lines: Sequence[str], columns: int) -> list[Piece]:
    """The table of `lines` (header, delimiter, rows), at most `columns` wide."""
    header, delimiter, *rows = [_cells(line) for line in lines]
    laid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for at in range(max(map(len, (header, *rows)))):
        mark = delimiter[at] if at < len(delimiter) else ""
        justify = ("center" if mark.startswith(":") else "right") if mark.endswith(":") else "left"
        laid.add_column(_text(header[at] if at < len(header) else ""), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        laid.add_row(*map(_text, row))
    console = Console(file=io.StringIO(), width=max(columns, 4), force_terminal=True, legacy_windows=False)
    pieces: list[Piece] = []
    for line in console.render_lines(laid, pad=False):
        pieces += [Piece(segment.text, _codes(segment.style), wraps=False) for segment in line]
        pieces.append(Piece("\n"))
    return pieces


def _cells(line: str) -> list[str]:
    inner = line.strip().removeprefix("|").removesuffix("|")
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", inner)]


def _text(cell: str) -> Text:
    text = Text()
    for piece in inline(cell)[0]:
        text.append(piece.text, Style.combine([Style(), *(_STYLES[code] for code in piece.style.split(";") if code)]))
    return text


def _codes(style: Style | None) -> str:
    if style is None:
        return ""
    known = {BOLD: style.bold, ITALIC: style.italic, CODE: style.color, STRUCK: style.strike}
    known |= {LINK: style.underline, DIM: style.dim}
    return ";".join(code for code, on in known.items() if on)
