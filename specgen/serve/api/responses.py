"""Answers as objects of OpenAI's API."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from specgen import __version__
from specgen.core.events import Event, Finished, Notice, Reason, Started, Stats, Step
from specgen.serve.api.logprobs import PlacedToken, TokenPlacer, chat_logprobs, completion_logprobs

_REASONS: dict[Reason, str] = {"end": "stop", "stop": "stop", "length": "length", "context": "length"}


def thinking_of(step: Step) -> str:
    """What the model thought aloud in `step`."""
    return "".join(span.text for span in step.spans if span.channel == "thinking")


@dataclass(slots=True)
class Choice:
    """One answer, collected from its events."""

    prefix: str = ""
    started: Started | None = None
    finished: Finished | None = None
    thinking: str = ""
    notices: list[str] = field(default_factory=list)
    placed: list[PlacedToken] = field(default_factory=list)
    _placer: TokenPlacer = field(default_factory=TokenPlacer)

    def add(self, event: Event) -> None:
        match event:
            case Started():
                self.started = event
            case Notice(text):
                self.notices.append(text)
            case Step():
                self.thinking += thinking_of(event)
                self.placed += self._placer.add(event)
            case Finished():
                self.finished = event
            case _:
                pass


class ResponseBuilder:
    """Builds the objects of one response: a whole one, or chunks. `with_logprobs` adds log-probabilities."""

    def __init__(self, model: str, *, is_chat: bool, with_logprobs: bool) -> None:
        self._is_chat = is_chat
        self._with_logprobs = with_logprobs
        self._common = {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": f"specgen-{__version__}",
        }

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The response in one object, from finished choices."""
        finished = [choice.finished for choice in choices if choice.finished]
        notices = [notice for choice in choices for notice in choice.notices]
        return {
            **self._common,
            "object": "chat.completion" if self._is_chat else "text_completion",
            "choices": [self._choice(index, choice) for index, choice in enumerate(choices)],
            "usage": _usage([each.stats for each in finished]),
            "specgen": _details(choices[0].started, notices),
        }

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        assert choice.finished is not None  # noqa: S101 - the caller has collected all events
        text = choice.prefix + choice.finished.text
        content: dict[str, Any] = {"text": text}
        if self._is_chat:
            message = {"role": "assistant", "content": text}
            content = {"message": message | ({"reasoning_content": choice.thinking} if choice.thinking else {})}
        reason = _REASONS[choice.finished.reason]
        return {"index": index, **content, "logprobs": self._logprobs(choice.placed), "finish_reason": reason}

    def first(self) -> dict[str, Any]:
        """The first chunk of a chat. It names the role."""
        return self._chunk(0, {"role": "assistant", "content": ""})

    def piece(self, index: int, text: str, placed: Sequence[PlacedToken] = ()) -> dict[str, Any]:
        """A chunk with text, and with the tokens that begin in it."""
        return self._chunk(index, {"content": text}, placed=placed)

    def thinking(self, text: str) -> dict[str, Any]:
        """A chunk with what the model thinks aloud, as DeepSeek's and vLLM's API have it."""
        return self._chunk(0, {"reasoning_content": text})

    def last(self, index: int, choice: Choice) -> dict[str, Any]:
        """The chunk with the reason why an answer ended."""
        assert choice.finished is not None  # noqa: S101 - as above
        chunk = self._chunk(index, {}, _REASONS[choice.finished.reason])
        return chunk | {"specgen": _details(choice.started, choice.notices)}

    def usage(self, finished: Sequence[Finished]) -> dict[str, Any]:
        """The chunk with the usage and no choice."""
        return self._chunk(0, {}) | {"choices": [], "usage": _usage([each.stats for each in finished])}

    def _chunk(
        self, index: int, delta: dict[str, str], reason: str | None = None, placed: Sequence[PlacedToken] | None = None
    ) -> dict[str, Any]:
        content: dict[str, Any] = {"delta": delta} if self._is_chat else {"text": delta.get("content", "")}
        choice = {"index": index, **content, "logprobs": self._logprobs(placed), "finish_reason": reason}
        return {
            **self._common,
            "object": "chat.completion.chunk" if self._is_chat else "text_completion",
            "choices": [choice],
        }

    def _logprobs(self, placed: Sequence[PlacedToken] | None) -> dict[str, Any] | None:
        if placed is None or not self._with_logprobs:
            return None
        return chat_logprobs(placed) if self._is_chat else completion_logprobs(placed)


def _usage(stats: Sequence[Stats]) -> dict[str, int]:
    """OpenAI's counts, and those of drafted and accepted tokens."""
    prompt, generated = sum(each.prompt_tokens for each in stats), sum(each.generated_tokens for each in stats)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "drafted_tokens": sum(each.drafted_tokens for each in stats),
        "accepted_tokens": sum(each.accepted_tokens for each in stats),
    }


def _details(started: Started | None, notices: list[str]) -> dict[str, Any]:
    """The seed and drafter that repeat the answer, and notices for a person."""
    seed = started.sampling.seed if started else None
    return {"seed": seed, "drafter": started.drafter if started else None, "notices": notices}
