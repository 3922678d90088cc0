"""Separates the thinking of a reasoning model from its answer by the tags around it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from specgen.core.events import Channel, Span


@dataclass(frozen=True, slots=True)
class Tags:
    """The texts that open and close the thinking.

    opened: the prompt already ends with the opening tag. off: thinking is switched off, so a constrained answer must
    start without it.
    """

    open: str
    close: str
    opened: bool = False
    off: bool = False


class ThinkingSplit:
    """Assigns a channel to spans: thinking up to the closing tag, then the answer.

    Both tags belong to the thinking. So do the blanks after the closing tag, unless `keep_blanks` is set. Only an
    answer that starts with the opening tag, or whose prompt ends with it, has thinking: later tags belong to the
    answer. With `tags` None every span is the answer's. Text that may start a tag is held back.
    """

    def __init__(self, tags: Tags | None, *, keep_blanks: bool = False) -> None:
        self._tags = tags
        self._after_close = "answer" if keep_blanks else "gap"
        self._pending: list[Span] = []
        if tags is None:
            self._state = "answer"
        else:
            self._state = "thinking" if tags.opened else "start"

    @property
    def is_thinking(self) -> bool:
        """Whether the thinking was opened and not closed."""
        return self._state == "thinking"

    def write(self, spans: Sequence[Span]) -> tuple[Span, ...]:
        """The part of `spans` and of the held-back text whose channel is certain."""
        if self._tags is None:
            return tuple(spans)
        self._pending += spans
        out: list[Span] = []
        before = None
        while before != self._state:
            before = self._state
            out += self._advance(self._tags)
        return tuple(out)

    def flush(self) -> tuple[Span, ...]:
        """The held-back text, at the end of the stream."""
        channel: Channel = "thinking" if self._state in ("thinking", "gap") else "answer"
        return tuple(self._release(len(self._text()), channel))

    def _advance(self, tags: Tags) -> list[Span]:
        """Release what the state allows, and enter the next state at its end."""
        text = self._text()
        blanks = len(text) - len(text.lstrip())
        if self._state == "start":
            if text.startswith(tags.open, blanks):
                self._state = "thinking"
                return self._release(blanks + len(tags.open), "thinking")
            if not tags.open.startswith(text[blanks:]):
                self._state = "answer"
            return []
        if self._state == "thinking":
            if (at := text.find(tags.close)) >= 0:
                self._state = self._after_close
                return self._release(at + len(tags.close), "thinking")
            held = max(n for n in range(len(tags.close)) if text.endswith(tags.close[:n]))
            return self._release(len(text) - held, "thinking")
        if self._state == "gap":
            if blanks < len(text):
                self._state = "answer"
            return self._release(blanks, "thinking")
        return self._release(len(text), "answer")

    def _text(self) -> str:
        return "".join(span.text for span in self._pending)

    def _release(self, length: int, channel: Channel) -> list[Span]:
        """The first `length` characters of the pending text, as spans of `channel`."""
        released: list[Span] = []
        while self._pending and length > 0:
            span = self._pending.pop(0)
            if len(span.text) > length:
                self._pending.insert(0, replace(span, text=span.text[length:]))
                span = replace(span, text=span.text[:length])
            released.append(replace(span, channel=channel))
            length -= len(span.text)
        return released


def without_thinking(text: str, tags: Tags | None) -> str:
    """The answer in `text`, a whole turn of the assistant."""
    if tags is None or tags.close not in text:
        return text
    has_thinking = tags.opened or text.lstrip().startswith(tags.open)
    return text.partition(tags.close)[2].lstrip() if has_thinking else text
