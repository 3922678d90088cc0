"""The line editor of the chat: history, Tab completion, $EDITOR, lines between triple quotes."""

import sys
from collections.abc import Callable, Iterable

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output

from specgen.cli.chat.input import PROMPT, is_open, unquoted
from specgen.history import typed_lines

_CONTINUATION = "… "


class ChatCompleter(Completer):
    """Completes the name of a command, and the words or file names that follow it."""

    def __init__(self, completions: Callable[[], dict[str, list[str] | None]]) -> None:
        self._completions = completions
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/"):
            return
        known = self._completions()
        name, space, argument = text.partition(" ")
        if not space:
            yield from _matching(name, known)
            return
        words = known.get(name, [])
        if words is None:
            yield from self._paths.get_completions(Document(argument.lstrip()), complete_event)
        else:
            yield from _matching(argument.lstrip(), words)


def _matching(prefix: str, words: Iterable[str]) -> Iterable[Completion]:
    return (Completion(word, start_position=-len(prefix)) for word in words if word.startswith(prefix))


def line_editor(completions: Callable[[], dict[str, list[str] | None]]) -> Callable[[], str]:
    """A function that reads one turn, see `reader` in input.py."""
    try:
        history: History = FileHistory(str(typed_lines.create()))
    except OSError:
        history = InMemoryHistory()  # the home folder may be read-only
    session: PromptSession[str] = PromptSession(
        PROMPT,
        output=create_output(sys.stderr),  # stdout holds only answers
        history=history,
        completer=ChatCompleter(completions),
        complete_while_typing=False,
        key_bindings=_bindings(),
        multiline=True,
        prompt_continuation=_CONTINUATION,
        tempfile_suffix=".md",
        enable_suspend=True,  # Ctrl-Z
    )

    def read() -> str:
        try:
            return unquoted(session.prompt())
        except KeyboardInterrupt:
            if session.default_buffer.text:
                return ""  # Ctrl-C discards the typed text
            raise

    return read


def _bindings() -> KeyBindings:
    """Enter sends, unless a block is open. Alt-Enter begins a new line. Ctrl-G opens $EDITOR."""
    bindings = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)

    @bindings.add("enter", filter=typing)
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter", filter=typing)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("c-g", filter=typing)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.open_in_editor(validate_and_handle=False)

    return bindings
