"""Thinking told from the answer: models that reason aloud do so between two tags before they answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from specgen.core.events import Channel, Span


@dataclass(frozen=True, slots=True)
class Tags:
    """What opens and closes the thinking. `opened`: the prompt ends with the opening tag already."""

    open: str
    close: str
    opened: bool = False


class ThinkingSplit:
    """Gives spans their channel: thinking up to the closing tag, both tags and the blanks after them included.

    Only an answer that begins with the opening tag, or whose prompt ended with it, has thinking: tags further on are
    what the answer is about. Without `tags` every span is the answer's. What may be the start of a tag is held back.
    """

    def __init__(self, tags: Tags | None) -> None:
        self._tags = tags
        self._pending: list[Span] = []
        if tags is None:
            self._state = "answer"
        else:
            self._state = "thinking" if tags.opened else "start"

    def write(self, spans: Sequence[Span]) -> tuple[Span, ...]:
        """`spans` and what was held back, as far as their channel is certain."""
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
        """What was held back, at the end of the stream."""
        channel: Channel = "thinking" if self._state in ("thinking", "gap") else "answer"
        return tuple(self._release(len(self._text()), channel))

    def _advance(self, tags: Tags) -> list[Span]:
        """Release what the state allows, and go on to the next state where it ends."""
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
                self._state = "gap"
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
        """The first `length` characters of what is pending, as spans of `channel`."""
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
    """The answer in a whole turn of the assistant."""
    if tags is None or tags.close not in text:
        return text
    begun = tags.opened or text.lstrip().startswith(tags.open)
    return text.partition(tags.close)[2].lstrip() if begun else text
