"""What a stream is and can do: a terminal, its width, its colours, its characters."""

import os
import stat
from typing import Literal, TextIO

ColorChoice = Literal["auto", "always", "never"]


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody sits at `stream`; a closed one, which Python may have as None, is no terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def is_pipe(stream: TextIO) -> bool:
    """Whether another program reads `stream`; what it shows, if anything, may be on the user's terminal."""
    try:
        return stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):
        return False


def can_draw(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that understands cursor codes."""
    return is_terminal(stream) and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def wants_color(stream: TextIO, choice: ColorChoice) -> bool:
    """Whether to colour what is written to `stream`. NO_COLOR beats FORCE_COLOR, an explicit choice beats both."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or can_draw(stream)


def columns(stream: TextIO) -> int:
    """The width of the terminal behind `stream`, 80 where it cannot be told."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def dim(text: str, color: bool) -> str:
    return f"\x1b[2m{text}\x1b[0m" if color else text


def put(stream: TextIO, text: str) -> None:
    """Write `text` at once; characters that the stream's encoding lacks are replaced, never an error."""
    encoding = stream.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.replace("·", "-").encode(encoding, "replace").decode(encoding)
    stream.write(text)
    stream.flush()


def put_exact(stream: TextIO, text: str) -> None:
    """Write `text` at once as UTF-8, whatever the stream's encoding and newlines. Raises BrokenPipeError."""
    stream.buffer.write(text.encode("utf-8", "replace"))
    stream.buffer.flush()
