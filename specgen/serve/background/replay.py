"""Continue a broken answer by generating it again, without showing any part twice."""

from collections.abc import Iterator
from dataclasses import replace

from specgen.core.errors import SpecgenError
from specgen.core.events import Event, Failed, Notice, Progress, Span, Started, Step


class ShownAnswer:
    """The part of an answer that the user has seen."""

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
        """The unseen part of `events`, which repeat the answer from its start with the same seed.

        Ends in Failed if the repeated answer differs from the seen part.
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
                yield Failed(SpecgenError("the answer broke off and cannot be continued", hint="ask again"))
                return
            spans = _skip(event.spans, same)
            left = replace(event, tokens=event.tokens[tokens:], logprobs=event.logprobs[tokens:], spans=spans)
            tokens, text = max(0, tokens - len(event.tokens)), text[same:]
            if left.tokens or left.spans:
                yield left


def _skip(spans: tuple[Span, ...], characters: int) -> tuple[Span, ...]:
    """`spans` without their first `characters` characters."""
    left = []
    for span in spans:
        cut = span.text[characters:]
        characters = max(0, characters - len(span.text))
        if cut:
            left.append(replace(span, text=cut))
    return tuple(left)
