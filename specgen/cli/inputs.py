"""What the user wants read: files, stdin and the prompt, joined."""

import sys
from collections.abc import Sequence
from pathlib import Path

from specgen.core.errors import BadFile
from specgen.render.terminal import is_terminal

_STDIN = Path("-")


def gather(words: Sequence[str], files: Sequence[Path]) -> str | None:
    """Files, then piped stdin, then the prompt, parted by blank lines; None if there is nothing of the kind."""
    parts = [read_text(path) for path in files]
    if _STDIN not in files and not is_terminal(sys.stdin) and (piped := _stdin()):
        parts.append(piped)
    if words:
        parts.append(" ".join(words))
    parts = [part for part in parts if part.strip()]
    return "\n\n".join([*(part.rstrip("\r\n") for part in parts[:-1]), parts[-1]]) if parts else None


def read_text(path: Path) -> str:
    """The text of a file; of stdin where the path is -. Raises BadFile."""
    if path == _STDIN:
        return _stdin()
    try:
        return as_text(path.expanduser().read_bytes(), str(path))
    except (OSError, RuntimeError) as error:  # RuntimeError: ~ of a user there is not
        reason = getattr(error, "strerror", None) or error
        raise BadFile(f"cannot read {path}: {reason}", hint="check the path and its permissions") from error


def _stdin() -> str:
    return "" if sys.stdin is None or sys.stdin.closed else as_text(sys.stdin.buffer.read(), "stdin")


def as_text(data: bytes, name: str) -> str:
    """UTF-8, whatever the locale says. Raises BadFile."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadFile(
            f"{name} is not UTF-8 text (byte {error.start})", hint="convert it, for example with iconv -t utf-8"
        ) from error
    if "\0" in text:
        raise BadFile(f"{name} is binary, not text (byte {data.index(0)} is zero)", hint="give it as UTF-8 text")
    return text
