"""Log-probabilities of an answer's tokens in the forms of OpenAI's API."""

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from specgen.core.events import Logprobs, Step, TokenLogprob

# OpenAI's API writes this for a token of probability 0.
_NEVER = -9999.0


class PlacedToken(NamedTuple):
    """Log-probabilities of a token that begins `offset` characters into the answer."""

    offset: int
    logprobs: Logprobs


class TokenPlacer:
    """Finds the tokens of the answer's text: not those of thinking, a stop string or an end token.

    A token is returned once its first character is certain.
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
    """The field `logprobs` of a choice of /v1/chat/completions."""
    content = [{**_entry(each.chosen), "top_logprobs": [_entry(other) for other in each.top]} for _, each in placed]
    return {"content": content, "refusal": None}


def completion_logprobs(placed: Sequence[PlacedToken]) -> dict[str, Any]:
    """The field `logprobs` of a choice of /v1/completions."""
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
    """The text of a token. Bytes of an incomplete character are escaped."""
    return bytes(token.utf8).decode("utf-8", "backslashreplace")


def _named(token: TokenLogprob) -> str:
    """The text of a token, distinct from other tokens' texts."""
    try:
        return bytes(token.utf8).decode()
    except UnicodeDecodeError:
        return f"bytes:{_text(token)}"
