"""Turns streaming token ids into whole characters, and ends at the first stop string."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from specgen.core.events import Source, Span

# The character that decoders write for an incomplete or invalid byte sequence.
_INCOMPLETE = "\ufffd"
# Number of tokens that may wait for the last byte of a character: a character has at most four bytes.
_UNFINISHED = 3


class Detokenizer:
    """Decodes a growing list of ids by decoding a window of the last ones.

    The text of a token may depend on the tokens before it. So the window starts with the tokens whose text was emitted
    last: decoders strip or add a space at the start of their input, and byte tokens are text only as a whole run.
    `_emitted` characters of the window's text have been emitted.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._shown_tokens = 0
        self._shown = ""
        self._emitted = 0
        self._held = 0

    def push(self, token: int) -> str:
        """The text that `token` completes; empty for a part of a character."""
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
        """The text that was held back, complete or not."""
        return self._advance(self._decode(self._window)) if self._held else ""

    def _advance(self, text: str) -> str:
        """Emit all of `text`, and start the next window with the tokens that were new in this one."""
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
        """Emit bytes that are no character, except those that may still start one."""
        broken, rest = self._window[:-_UNFINISHED], self._window[-_UNFINISHED:]
        fresh = self._decode(broken)[self._emitted :]
        self._start([])
        self._window, self._held = rest, len(rest)
        return fresh


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Special tokens whose texts matter although decoders skip them, as id -> text.

    shown: the text is output, as that of a thinking tag. matched: it only counts in the search for stop strings.
    """

    shown: Mapping[int, str] = field(default_factory=dict)
    matched: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Written:
    """The result of a write: certain spans, the number of tokens used, and whether a stop string ended the stream.

    starts: for each used token, the number of characters of text before it.
    """

    spans: tuple[Span, ...]
    used: int
    stopped: bool
    starts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Piece:
    """Pending text. A hidden piece is matched against stop strings and not output."""

    span: Span
    hidden: bool = False

    def cut(self, start: int, end: int | None = None) -> "_Piece":
        return _Piece(replace(self.span, text=self.span.text[start:end]), self.hidden)


class TextStream:
    """Turns rounds into spans, and ends before the first stop string."""

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stop: Sequence[str] = (),
        special: SpecialTokens | None = None,
    ) -> None:
        self._detokenizer = Detokenizer(decode)
        self._stop = tuple(stop)
        self._special = special or SpecialTokens()
        self._pending: list[_Piece] = []
        self._length = 0

    def write(self, tokens: Sequence[int], sources: Sequence[Source]) -> Written:
        """The text of `tokens`, one source each."""
        starts: list[int] = []
        for used, (token, source) in enumerate(zip(tokens, sources, strict=True), start=1):
            starts.append(self._length)
            if self._push(token, source) and (cut := self._find_stop()) is not None:
                return Written(self._release(cut), used, stopped=True, starts=tuple(starts))
        return Written(self._release(self._certain()), len(tokens), stopped=False, starts=tuple(starts))

    def flush(self) -> Written:
        """The text that was held back, at the end of the stream."""
        source = self._pending[-1].span.source if self._pending else "bonus"
        if self._add(self._detokenizer.flush(), source) and (cut := self._find_stop()) is not None:
            return Written(self._release(cut), 0, stopped=True)
        return Written(self._release(len(self._text())), 0, stopped=False)

    def _push(self, token: int, source: Source) -> bool:
        """Add the text of `token` to the pending text. Returns whether there is any."""
        shown, matched = self._special.shown.get(token), self._special.matched.get(token)
        if shown is None and matched is None:
            return self._add(self._detokenizer.push(token), source)
        self._add(self._detokenizer.flush(), source)
        return self._add(shown, source) if shown is not None else self._add(matched or "", source, hidden=True)

    def _add(self, text: str, source: Source, *, hidden: bool = False) -> bool:
        if text:
            self._length += 0 if hidden else len(text)
            self._pending.append(_Piece(Span(text, source), hidden))
        return bool(text)

    def _text(self) -> str:
        return "".join(piece.span.text for piece in self._pending)

    def _find_stop(self) -> int | None:
        """Where the first stop string starts in the pending text."""
        text = self._text()
        return min((at for stop in self._stop if (at := text.find(stop)) >= 0), default=None)

    def _certain(self) -> int:
        """Length of the pending text that cannot be the start of a stop string, in characters."""
        text = self._text()
        held = (n for stop in self._stop for n in range(1, len(stop)) if text.endswith(stop[:n]))
        return len(text) - max(held, default=0)

    def _release(self, length: int) -> tuple[Span, ...]:
        """The first `length` characters of the pending text, as spans without the hidden ones."""
        released: list[Span] = []
        while self._pending and length > 0:
            piece = self._pending.pop(0)
            if len(piece.span.text) > length:
                self._pending.insert(0, piece.cut(length))
                piece = piece.cut(0, length)
            if not piece.hidden:
                released.append(piece.span)
            length -= len(piece.span.text)
        return tuple(released)
