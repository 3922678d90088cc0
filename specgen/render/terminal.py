"""Properties of streams (terminal, width, colours), and safe text for them."""

import os
import stat
import unicodedata
from collections.abc import Collection, Sequence
from typing import Literal, TextIO

ColorChoice = Literal["auto", "always", "never"]


def is_terminal(stream: TextIO | None) -> bool:
    """Whether `stream` is a terminal. A closed stream, which Python may represent by None, is none."""
    return stream is not None and not stream.closed and stream.isatty()


def is_pipe(stream: TextIO) -> bool:
    """Whether `stream` is a pipe. Its reader may show the text on the user's terminal."""
    try:
        return stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):
        return False


def can_draw(stream: TextIO) -> bool:
    """Whether `stream` is a terminal with cursor codes."""
    return is_terminal(stream) and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def wants_color(stream: TextIO, choice: ColorChoice) -> bool:
    """Whether to colour text for `stream`. An explicit choice precedes NO_COLOR, which precedes FORCE_COLOR."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or can_draw(stream)


def columns(stream: TextIO) -> int:
    """The width of the terminal `stream`, 80 if unknown."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def align(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """One line for each of `rows`, which have equal length. Columns with an index in `right` are right-aligned."""
    from rich.cells import cell_len  # noqa: PLC0415 - only for tables

    lines = [""] * len(rows)
    for at, column in enumerate(zip(*rows, strict=True)):
        width = max(map(cell_len, column))
        for number, cell in enumerate(column):
            blank = " " * (width - cell_len(cell))
            lines[number] += ("  " if at else "") + (blank + cell if at in right else cell + blank)
    return [line.rstrip() for line in lines]


def dim(text: str, color: bool) -> str:
    return f"\x1b[2m{text}\x1b[0m" if color else text


def put(stream: TextIO, text: str) -> None:
    """Write `text` and flush. Replaces characters that the encoding of the stream lacks."""
    encoding = stream.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.replace("·", "-").encode(encoding, "replace").decode(encoding)
    stream.write(text)
    stream.flush()


def put_exact(stream: TextIO, text: str) -> None:
    """Write `text` as UTF-8 without newline translation, and flush. Raises BrokenPipeError."""
    stream.buffer.write(text.encode("utf-8", "replace"))
    stream.buffer.flush()


# Overrides and isolates reorder the text around them, so that it misleads the reader (Trojan Source).
BIDI_CONTROLS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))


def _visible(code: int) -> str:
    if code < 0x20:
        return chr(0x2400 + code)  # the block Control Pictures mirrors C0
    if code == 0x7F:
        return "\u2421"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


_CONTROLS = [code for code in range(0x100) if unicodedata.category(chr(code)) == "Cc" and chr(code) not in "\n\t"]
_TABLE = {code: _visible(code) for code in (*_CONTROLS, *BIDI_CONTROLS)} | dict.fromkeys(
    range(0xD800, 0xE000), "\ufffd"
)


def sanitize(text: str) -> str:
    """`text` with visible control characters, except newline and tab.

    ESC becomes U+241B (␛). C1 controls and bidi overrides become `\\x9b` and `\\u202e`. A lone surrogate becomes
    U+FFFD. `\\r\\n` becomes a newline; another `\\r` becomes visible, because it would overwrite the text before it.
    """
    return text.replace("\r\n", "\n").translate(_TABLE)
