"""Log-probabilities of an answer's tokens, in OpenAI's forms."""

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from specgen.core.events import Logprobs, Step, TokenLogprob

# What OpenAI's API writes for a token that cannot be.
_NEVER = -9999.0


class PlacedToken(NamedTuple):
    """Log-probabilities of a token that begins `offset` characters into the answer."""

    offset: int
    logprobs: Logprobs


class TokenPlacer:
    """Tells which tokens the text of the answer consists of: none of the thinking, of a stop string, or an end token.

    A token is given once its first character is certain.
    """

    def __init__(self) -> None:
        self._waiting: deque[Logprobs] = deque()
        self._thought = 0
        self._certain = 0

    def add(self, step: Step) -> list[PlacedToken]:
        """The tokens of the text of `step`."""
        self._waiting.extend(step.logprobs)
        self._thought += sum(len(span.text) for span in step.spans if span.channel == "thinking")
        self._certain += sum(len(span.text) for span in step.spans)
        placed = []
        while self._waiting and self._waiting[0].at < self._certain:
            logprobs = self._waiting.popleft()
            if logprobs.at >= self._thought:
                placed.append(PlacedToken(logprobs.at - self._thought, logprobs))
        return placed


def chat_logprobs(placed: Sequence[PlacedToken]) -> dict[str, Any]:
    """As a choice of /v1/chat/completions has them."""
    content = [{**_entry(each.chosen), "top_logprobs": [_entry(other) for other in each.top]} for _, each in placed]
    return {"content": content, "refusal": None}


def completion_logprobs(placed: Sequence[PlacedToken]) -> dict[str, Any]:
    """As a choice of /v1/completions has them."""
    return {
        "tokens": [_named(each.chosen) for _, each in placed],
        "token_logprobs": [_number(each.chosen) for _, each in placed],
        "top_logprobs": [
            {_named(other): _number(other) for other in (*each.top, each.chosen)} if each.top else None
            for _, each in placed
        ],
        "text_offset": [offset for offset, _ in placed],
    }


def _entry(token: TokenLogprob) -> dict[str, Any]:
    return {"token": _text(token), "logprob": _number(token), "bytes": list(token.utf8)}


def _number(token: TokenLogprob) -> float:
    return max(token.logprob, _NEVER)


def _text(token: TokenLogprob) -> str:
    """Its text; bytes that are no whole character are escaped."""
    return bytes(token.utf8).decode("utf-8", "backslashreplace")


def _named(token: TokenLogprob) -> str:
    """Its text, by which a program tells it from others."""
    try:
        return bytes(token.utf8).decode()
    except UnicodeDecodeError:
        return f"bytes:{_text(token)}"
