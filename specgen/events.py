"""What a generation tells the world. The engine yields events; renderers consume them; nobody else prints.

A stream is any number of `Progress` and `Notice`, then `Started`, `Step`s and `Notice`s, and it always ends in
exactly one `Finished` or `Failed`.
"""

from dataclasses import dataclass, replace
from typing import Literal, Protocol

from specgen.core import SamplingParams
from specgen.errors import SpecgenError

Source = Literal["draft", "lookup", "corrected", "bonus", "forced"]
Channel = Literal["answer", "thinking"]
Reason = Literal["end", "stop", "length", "context", "interrupted"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Something slow is under way. `done` and `total` are in bytes; `total` 0 means that nobody knows."""

    what: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence that the user should read."""

    text: str


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in use: what was asked for, and the commit it resolved to (None for local files)."""

    id: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """The first token is about to be computed. Everything needed to repeat the run.

    `draft` is None when the drafter is no model; `drafter` names it: model, lookup or none.
    """

    target: LoadedModel
    draft: LoadedModel | None
    drafter: str
    device: str
    dtype: str
    sampling: SamplingParams
    num_draft_tokens: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of text and where it came from.

    draft and lookup: proposed and accepted. corrected: the target's token where a proposal was wrong. bonus: the
    target's token after a wholly accepted proposal, an empty one included. forced: no choice was left.
    """

    text: str
    source: Source
    channel: Channel = "answer"


@dataclass(frozen=True, slots=True)
class Step:
    """One round: one forward pass of the target. Times are in seconds.

    `tokens` are the ids that joined the context; `spans` the text that became certain, which may lag behind the
    tokens (half a character, the start of a stop string). The last step may have text and no tokens.
    Invariants: accepted <= drafted, len(tokens) <= accepted + 1.
    """

    tokens: tuple[int, ...]
    spans: tuple[Span, ...]
    drafted: int = 0
    accepted: int = 0
    draft_s: float = 0.0
    verify_s: float = 0.0

    @property
    def text(self) -> str:
        return "".join(span.text for span in self.spans)


@dataclass(frozen=True, slots=True)
class Stats:
    """What a run did so far. Times are in seconds, `elapsed_s` from the start of the prompt's prefill."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    rounds: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    draft_s: float = 0.0
    verify_s: float = 0.0
    time_to_first_token_s: float = 0.0
    first_round_tokens: int = 0
    elapsed_s: float = 0.0

    def add(self, event: "Event", elapsed_s: float = 0.0) -> "Stats":
        """The statistics after `event`, `elapsed_s` seconds after the prefill began."""
        if isinstance(event, Started):
            return replace(self, prompt_tokens=event.prompt_tokens)
        if not isinstance(event, Step):
            return self
        if not event.tokens:
            return replace(self, elapsed_s=elapsed_s)
        return replace(
            self,
            generated_tokens=self.generated_tokens + len(event.tokens),
            rounds=self.rounds + 1,
            drafted_tokens=self.drafted_tokens + event.drafted,
            accepted_tokens=self.accepted_tokens + event.accepted,
            draft_s=self.draft_s + event.draft_s,
            verify_s=self.verify_s + event.verify_s,
            time_to_first_token_s=self.time_to_first_token_s if self.rounds else elapsed_s,
            first_round_tokens=self.first_round_tokens if self.rounds else len(event.tokens),
            elapsed_s=elapsed_s,
        )

    @property
    def acceptance_rate(self) -> float:
        """accepted / drafted, 0 when nothing was drafted."""
        return self.accepted_tokens / self.drafted_tokens if self.drafted_tokens else 0.0

    @property
    def mean_acceptance_length(self) -> float:
        """Generated tokens per target forward."""
        return self.generated_tokens / self.rounds if self.rounds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed: the tokens after the first round, over the time after it. Prefill is stated apart."""
        decode_s = self.elapsed_s - self.time_to_first_token_s
        return (self.generated_tokens - self.first_round_tokens) / decode_s if decode_s > 0 else 0.0

    @property
    def other_s(self) -> float:
        """Time spent neither drafting nor verifying."""
        return max(0.0, self.elapsed_s - self.draft_s - self.verify_s)


@dataclass(frozen=True, slots=True)
class Finished:
    """The stream ended well. `text` is the whole answer."""

    reason: Reason
    text: str
    stats: Stats


@dataclass(frozen=True, slots=True)
class Failed:
    """The stream ended badly; the text so far stands."""

    error: SpecgenError


Event = Progress | Notice | Started | Step | Finished | Failed


class Renderer(Protocol):
    """Shows events to somebody: a terminal, a pipe, a program."""

    def show(self, event: Event) -> None:
        """Show one event. Raises BrokenPipeError when the reader is gone."""

    def close(self) -> None:
        """Leave the terminal as it was found, whatever happened. May be called twice."""
