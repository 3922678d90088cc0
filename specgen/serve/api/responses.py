"""Events as OpenAI's API writes them."""

import secrets
import time
from collections.abc import Sequence
from typing import Any

from specgen import __version__
from specgen.core.events import Finished, Reason, Started, Stats
from specgen.serve.api.logprobs import PlacedToken, chat_logprobs, completion_logprobs

_REASONS: dict[Reason, str] = {"end": "stop", "stop": "stop", "length": "length", "context": "length"}


class ResponseBuilder:
    """The objects of one answer: whole, or in chunks."""

    def __init__(self, model: str, *, is_chat: bool) -> None:
        self._is_chat = is_chat
        self._common = {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": f"specgen-{__version__}",
        }

    def whole(
        self, started: Started, finished: Finished, notices: list[str], placed: Sequence[PlacedToken] | None
    ) -> dict[str, Any]:
        """The answer in one object; `placed` are its tokens where log-probabilities are asked for."""
        said = (
            {"message": {"role": "assistant", "content": finished.text}} if self._is_chat else {"text": finished.text}
        )
        choice = {"index": 0, **said, "logprobs": self._logprobs(placed), "finish_reason": _REASONS[finished.reason]}
        return {
            **self._common,
            "object": "chat.completion" if self._is_chat else "text_completion",
            "choices": [choice],
            "usage": usage(finished.stats),
            "specgen": _about(started, notices),
        }

    def first(self) -> dict[str, Any] | None:
        """The chunk that says who speaks; plain completions have none."""
        return self._chunk({"role": "assistant", "content": ""}) if self._is_chat else None

    def piece(self, text: str, placed: Sequence[PlacedToken] | None) -> dict[str, Any]:
        """A chunk with text, and with the tokens that begin in it where log-probabilities are asked for."""
        return self._chunk({"content": text}, placed=placed)

    def last(self, started: Started, finished: Finished, notices: list[str]) -> dict[str, Any]:
        """The chunk that says why the answer ended."""
        return self._chunk({}, _REASONS[finished.reason]) | {"specgen": _about(started, notices)}

    def usage(self, finished: Finished) -> dict[str, Any]:
        """The chunk with the usage, and nothing else."""
        return self._chunk({}) | {"choices": [], "usage": usage(finished.stats)}

    def _chunk(
        self, delta: dict[str, str], reason: str | None = None, placed: Sequence[PlacedToken] | None = None
    ) -> dict[str, Any]:
        said: dict[str, Any] = {"delta": delta} if self._is_chat else {"text": delta.get("content", "")}
        return {
            **self._common,
            "object": "chat.completion.chunk" if self._is_chat else "text_completion",
            "choices": [{"index": 0, **said, "logprobs": self._logprobs(placed), "finish_reason": reason}],
        }

    def _logprobs(self, placed: Sequence[PlacedToken] | None) -> dict[str, Any] | None:
        if placed is None:
            return None
        return chat_logprobs(placed) if self._is_chat else completion_logprobs(placed)


def usage(stats: Stats) -> dict[str, int]:
    """OpenAI's counts, and how many tokens were drafted and accepted."""
    return {
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.generated_tokens,
        "total_tokens": stats.prompt_tokens + stats.generated_tokens,
        "drafted_tokens": stats.drafted_tokens,
        "accepted_tokens": stats.accepted_tokens,
    }


def _about(started: Started, notices: list[str]) -> dict[str, Any]:
    """What it takes to repeat the answer, and what a person should read."""
    return {"seed": started.sampling.seed, "drafter": started.drafter, "notices": notices}
