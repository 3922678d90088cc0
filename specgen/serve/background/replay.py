"""An answer that broke off, gone on with by generating it anew: what was shown once is not shown again."""

from collections.abc import Iterator
from dataclasses import replace

from specgen.core.errors import SpecgenError
from specgen.core.events import Event, Failed, Notice, Progress, Span, Started, Step


class ShownAnswer:
    """What a reader has seen of an answer."""

    def __init__(self) -> None:
        self.started: Started | None = None
        self._notices: set[str] = set()
        self._tokens = 0
        self._text = ""

    def add(self, event: Event) -> None:
        match event:
            case Started():
                self.started = event
            case Notice(text):
                self._notices.add(text)
            case Step():
                self._tokens += len(event.tokens)
                self._text += "".join(span.text for span in event.spans)

    def rest(self, events: Iterator[Event]) -> Iterator[Event]:
        """Of the same answer from its beginning, what has not been seen.

        It is the same where it is drawn with the same seed; where it is not after all, it ends in Failed.
        """
        tokens, text = self._tokens, self._text
        for event in events:
            if isinstance(event, Notice) and event.text in self._notices:
                continue
            if self.started is not None and isinstance(event, Started | Progress):
                continue
            if not isinstance(event, Step) or not (tokens or text):
                yield event
                continue
            said = "".join(span.text for span in event.spans)
            same = min(len(said), len(text))
            if said[:same] != text[:same]:
                yield Failed(SpecgenError("the answer broke off, and cannot be gone on with", hint="ask again"))
                return
            spans = _behind(event.spans, same)
            left = replace(event, tokens=event.tokens[tokens:], logprobs=event.logprobs[tokens:], spans=spans)
            tokens, text = max(0, tokens - len(event.tokens)), text[same:]
            if left.tokens or left.spans:
                yield left


def _behind(spans: tuple[Span, ...], characters: int) -> tuple[Span, ...]:
    """`spans` without their first `characters`."""
    left = []
    for span in spans:
        cut = span.text[characters:]
        characters = max(0, characters - len(span.text))
        if cut:
            left.append(replace(span, text=cut))
    return tuple(left)
