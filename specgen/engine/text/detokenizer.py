"""Token ids to text as it streams: no character is cut in half, no stop string is shown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from specgen.core.events import Source, Span

# What decoders write for bytes that are no whole character yet.
_INCOMPLETE = "\ufffd"
# A character has at most four bytes: so many tokens may lack its last one.
_UNFINISHED = 3


class Detokenizer:
    """Decodes a growing list of ids; the text of a token may depend on those before it, so a window is decoded.

    The window starts with the tokens whose text was shown last: decoders strip or add a space at the very start of
    what they are given, and a run of byte tokens is text only as a whole. Of its text, `_emitted` characters are out.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._shown_tokens = 0
        self._shown = ""
        self._emitted = 0
        self._held = 0

    def push(self, token: int) -> str:
        """The text that `token` completes: nothing of a character that lacks bytes."""
        self._window.append(token)
        text = self._decode(self._window)
        if text == self._shown:  # a special token: it must not become the start of the window
            return ""
        certain = len(text.rstrip(_INCOMPLETE))
        if certain == len(text):
            return self._advance(text)
        self._held += 1
        if certain > self._emitted:
            fresh, self._emitted, self._held = text[self._emitted : certain], certain, 1
            return fresh
        return self._give_up() if self._held > _UNFINISHED + 1 else ""

    def flush(self) -> str:
        """What was held back, complete or not."""
        return self._advance(self._decode(self._window)) if self._held else ""

    def _advance(self, text: str) -> str:
        """Everything in the window is out; what was new in it is what the next token is read after."""
        fresh = text[self._emitted :]
        self._start(self._window[self._shown_tokens :])
        return fresh

    def _start(self, window: list[int]) -> None:
        self._window = window
        self._shown_tokens = len(window)
        self._shown = self._decode(window)
        self._emitted = len(self._shown)
        self._held = 0

    def _give_up(self) -> str:
        """Bytes that are no character: out with all but those that may still begin one."""
        broken, rest = self._window[:-_UNFINISHED], self._window[-_UNFINISHED:]
        fresh = self._decode(broken)[self._emitted :]
        self._start([])
        self._window, self._held = rest, len(rest)
        return fresh


@dataclass(frozen=True, slots=True)
class Written:
    """The spans that became certain, how many of the tokens given were used, and whether a stop string ended it.

    `starts`: after how many characters of all text the text of each used token begins.
    """

    spans: tuple[Span, ...]
    used: int
    stopped: bool
    starts: tuple[int, ...] = ()


class TextStream:
    """Turns rounds into spans, and cuts at the first stop string, which is not part of the text."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._detokenizer = Detokenizer(decode)
        self._stop = tuple(stop)
        self._pending: list[Span] = []
        self._length = 0

    def write(self, tokens: Sequence[int], sources: Sequence[Source]) -> Written:
        """The text of `tokens`, each with its source."""
        starts: list[int] = []
        for used, (token, source) in enumerate(zip(tokens, sources, strict=True), start=1):
            starts.append(self._length)
            if text := self._detokenizer.push(token):
                self._length += len(text)
                self._pending.append(Span(text, source))
                if (cut := self._find_stop()) is not None:
                    return Written(self._release(cut), used, stopped=True, starts=tuple(starts))
        return Written(self._release(self._certain()), len(tokens), stopped=False, starts=tuple(starts))

    def flush(self) -> Written:
        """Everything that was held back, at the end of the stream."""
        if text := self._detokenizer.flush():
            self._pending.append(Span(text, self._pending[-1].source if self._pending else "bonus"))
            if (cut := self._find_stop()) is not None:
                return Written(self._release(cut), 0, stopped=True)
        return Written(self._release(len(self._text())), 0, stopped=False)

    def _text(self) -> str:
        return "".join(span.text for span in self._pending)

    def _find_stop(self) -> int | None:
        text = self._text()
        return min((at for stop in self._stop if (at := text.find(stop)) >= 0), default=None)

    def _certain(self) -> int:
        """How much of the pending text cannot be the start of a stop string."""
        text = self._text()
        held = (n for stop in self._stop for n in range(1, len(stop)) if text.endswith(stop[:n]))
        return len(text) - max(held, default=0)

    def _release(self, length: int) -> tuple[Span, ...]:
        """The first `length` characters of the pending text, as spans; the rest stays pending."""
        released: list[Span] = []
        while self._pending and length > 0:
            span = self._pending.pop(0)
            if len(span.text) > length:
                self._pending.insert(0, Span(span.text[length:], span.source))
                span = Span(span.text[:length], span.source)
            released.append(span)
            length -= len(span.text)
        return tuple(released)
