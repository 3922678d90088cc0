"""Tab in the chat: commands, what they take, and file names."""

from collections.abc import Callable, Iterable

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document


class ChatCompleter(Completer):
    """Completes a command's name, and after it what `completions` has for it: words, or None for file names."""

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


def _matching(begun: str, words: Iterable[str]) -> Iterable[Completion]:
    return (Completion(word, start_position=-len(begun)) for word in words if word.startswith(begun))
