"""The lines typed in chats, which the line editor keeps for the arrow keys."""

import os
import re
from collections.abc import Collection
from pathlib import Path

from specgen.core.files import data_folder, read_small, replace_file

_QUOTES = '"""'


def location() -> Path:
    """The path of the lines, which may not exist yet."""
    return data_folder() / "chat_history"


def create() -> Path:
    """The file of the lines, which only the user can read. Raises OSError."""
    file = location()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    file.chmod(0o600)
    return file


def forget(prompts: Collection[str]) -> None:
    """Remove the lines that became one of `prompts`. Raises OSError.

    Attached texts stand before the typed line in a prompt, with a blank line between.
    """
    if not location().exists():
        return
    content = read_small(location()).decode("utf-8", "replace")
    kept = [entry for entry in _entries(content) if not _is_in(_typed(entry), prompts)]
    if "".join(kept) != content:
        replace_file(location(), "".join(kept), private=True)


def forget_all() -> None:
    """Remove all lines. Raises OSError."""
    location().unlink(missing_ok=True)


def _entries(content: str) -> list[str]:
    """The entries of prompt_toolkit: a blank line, a comment with the time, and lines that begin with `+`."""
    return re.split(r"(?<=\n)(?=\n# )", content)


def _typed(entry: str) -> str:
    """The text that an entry sent: without surrounding blanks, triple quotes, and the first `/` of `//`."""
    lines = [line[1:] for line in entry.split("\n") if line.startswith("+")]
    text = "\n".join(lines).strip()
    if text.startswith(_QUOTES):
        return text.removeprefix(_QUOTES).removesuffix(_QUOTES).strip("\n")
    return text[1:] if text.startswith("//") else text


def _is_in(text: str, prompts: Collection[str]) -> bool:
    return bool(text) and any(prompt == text or prompt.endswith(f"\n\n{text}") for prompt in prompts)
