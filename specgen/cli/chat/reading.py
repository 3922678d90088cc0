"""What a person types or a pipe brings, one turn at a time."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from specgen.cli.inputs import as_text
from specgen.core.errors import BadFile
from specgen.core.files import data_folder
from specgen.render.terminal import can_draw, is_terminal, put

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

_QUOTES = '"""'
_PROMPT = "> "
_MORE = "… "


def reader(completions: Callable[[], dict[str, list[str] | None]]) -> Callable[[], str]:
    """A function that returns the next turn: with editing and history on a terminal, plain from a pipe or where the
    terminal knows no cursor codes.

    It raises EOFError at the end, KeyboardInterrupt for Ctrl-C on an empty line. `completions` see completion.py.
    """
    if not is_terminal(sys.stdin):
        return _from_pipe
    if not can_draw(sys.stderr):
        return _from_dumb_terminal
    session = _prompt_session(completions)

    def read() -> str:
        try:
            return _unquoted(session.prompt())
        except KeyboardInterrupt:
            if session.default_buffer.text:
                return ""  # what was typed is given up
            raise

    return read


def history_file() -> Path:
    """Where the lines typed in chats are kept, for this user alone. Raises OSError."""
    data_folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    file = data_folder() / "chat_history"
    os.close(os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    file.chmod(0o600)
    return file


@contextlib.contextmanager
def unechoed() -> Iterator[None]:
    """While text streams, what is typed ahead stays off the screen, where it would stand in the answer."""
    if not is_terminal(sys.stdin) or sys.platform == "win32":
        yield
        return
    import termios  # noqa: PLC0415 - Windows has none

    before = termios.tcgetattr(sys.stdin)
    silent = [*before]
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def _from_pipe() -> str:
    text = _line()
    while _is_open(text):
        try:
            text += _line()
        except EOFError:
            raise BadFile(f"{_QUOTES} is never closed", hint=f"end the block with {_QUOTES}") from None
    return _unquoted(text)


def _from_dumb_terminal() -> str:
    put(sys.stderr, _PROMPT)
    return _from_pipe()


def _line() -> str:
    line = b"" if sys.stdin is None or sys.stdin.closed else sys.stdin.buffer.readline()
    if not line:
        raise EOFError
    return as_text(line, "stdin")


def _is_open(text: str) -> bool:
    """Whether `text` begins a block of many lines that is not closed."""
    text = text.strip()
    return text.startswith(_QUOTES) and (len(text) < 2 * len(_QUOTES) or not text.endswith(_QUOTES))


def _unquoted(text: str) -> str:
    text = text.strip()
    return text.removeprefix(_QUOTES).removesuffix(_QUOTES).strip("\n") if text.startswith(_QUOTES) else text


def _prompt_session(completions: Callable[[], dict[str, list[str] | None]]) -> "PromptSession[str]":
    from prompt_toolkit import PromptSession  # noqa: PLC0415 - 0.15 s that a pipe need not pay
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory  # noqa: PLC0415
    from prompt_toolkit.output import create_output  # noqa: PLC0415

    from specgen.cli.chat.completion import ChatCompleter  # noqa: PLC0415

    try:
        history: History = FileHistory(str(history_file()))
    except OSError:
        history = InMemoryHistory()  # a read-only home keeps nobody from chatting
    return PromptSession(
        _PROMPT,
        # The prompt is drawn on stderr, so that stdout holds answers only.
        output=create_output(sys.stderr),
        history=history,
        completer=ChatCompleter(completions),
        complete_while_typing=False,
        key_bindings=_bindings(),
        multiline=True,
        prompt_continuation=_MORE,
        tempfile_suffix=".md",
    )


def _bindings() -> "KeyBindings":
    """Enter sends, unless a block is open; Alt-Enter begins a new line; Ctrl-G goes on in $EDITOR."""
    from prompt_toolkit.enums import DEFAULT_BUFFER  # noqa: PLC0415
    from prompt_toolkit.filters import has_focus  # noqa: PLC0415
    from prompt_toolkit.key_binding import KeyBindings  # noqa: PLC0415

    bindings = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)

    @bindings.add("enter", filter=typing)
    def _(event: "KeyPressEvent") -> None:
        buffer = event.current_buffer
        if _is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter", filter=typing)
    def _(event: "KeyPressEvent") -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("c-g", filter=typing)
    def _(event: "KeyPressEvent") -> None:
        event.current_buffer.open_in_editor(validate_and_handle=False)

    return bindings
