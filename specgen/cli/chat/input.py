"""Input of a chat, one turn at a time, from a pipe or a plain terminal."""

import sys
from collections.abc import Callable

from specgen.cli.inputs import LARGEST_INPUT, as_text
from specgen.core.errors import BadFile
from specgen.core.words import format_bytes
from specgen.render.terminal import can_draw, is_terminal, put

_QUOTES = '"""'
PROMPT = "> "


def reader(completions: Callable[[], dict[str, list[str] | None]]) -> Callable[[], str]:
    """A function that returns the next turn. A terminal with cursor codes gets the line editor.

    The function raises EOFError at the end, and KeyboardInterrupt for Ctrl-C on an empty line. `completions` gives the
    words that may follow each command, None for file names.
    """
    if not is_terminal(sys.stdin):
        return _from_pipe
    if not can_draw(sys.stderr):
        return _from_plain_terminal
    from specgen.cli.chat.line_editor import line_editor  # noqa: PLC0415 - 0.15 s that a pipe does not need

    return line_editor(completions)


def is_open(text: str) -> bool:
    """Whether `text` begins a block between triple quotes that is not closed."""
    text = text.strip()
    return text.startswith(_QUOTES) and (len(text) < 2 * len(_QUOTES) or not text.endswith(_QUOTES))


def unquoted(text: str) -> str:
    """`text` without surrounding blanks and triple quotes."""
    text = text.strip()
    return text.removeprefix(_QUOTES).removesuffix(_QUOTES).strip("\n") if text.startswith(_QUOTES) else text


def _from_pipe() -> str:
    text = _line()
    while is_open(text):
        try:
            text += _line()
        except EOFError:
            raise BadFile(f"{_QUOTES} is never closed", hint=f"end the block with {_QUOTES}") from None
    return unquoted(text)


def _from_plain_terminal() -> str:
    put(sys.stderr, PROMPT)
    return _from_pipe()


def _line() -> str:
    line = b"" if sys.stdin is None or sys.stdin.closed else sys.stdin.buffer.readline(LARGEST_INPUT + 1)
    if not line:
        raise EOFError
    if len(line) > LARGEST_INPUT:
        raise BadFile(
            f"a line of stdin is larger than {format_bytes(LARGEST_INPUT)}", hint="write one turn on each line"
        )
    return as_text(line, "stdin")
