"""The event stream of a generation, and its statistics.

The engine yields events and renderers show them. Nothing else prints. A stream has any number of `Progress` and
`Notice`, then `Started`, then `Step`s and `Notice`s. It always ends in exactly one `Finished` or `Failed`.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Literal, NamedTuple, Protocol

from specgen.core.errors import SpecgenError
from specgen.core.types import Message, SamplingParams

Source = Literal["draft", "lookup", "history", "corrected", "bonus", "forced"]
Channel = Literal["answer", "thinking"]
Reason = Literal["end", "stop", "length", "context", "interrupted"]

# Latest undrafted rounds that are kept: their median follows the growing context.
_ONE_TOKEN_ROUNDS = 32
# Undrafted rounds from which the median is reliable.
_ENOUGH = 3


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of slow work `what`. `done` and `total` are in bytes. A `total` of 0 means unknown."""

    what: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in use. `id` is its name, `revision` the commit it resolved to (None for local files).

    `licence` is that of its model card. `files` maps each file that affects the text to its SHA-256.
    """

    id: str
    revision: str | None = None
    licence: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Started:
    """The prompt is ready, and the first token is next. It holds everything that repeats the run.

    `drafter` is hybrid (model and lookup), model, lookup or none. `draft` is None without a draft model.
    `num_draft_tokens` is None if every round chooses. `messages` is the conversation, if it is known as text. `raw`:
    no chat template was used, and the text of the messages is continued as it is.
    """

    target: LoadedModel
    draft: LoadedModel | None
    drafter: str
    device: str
    dtype: str
    quant: str
    sampling: SamplingParams
    num_draft_tokens: int | None
    prompt_tokens: int
    messages: tuple[Message, ...] = ()
    raw: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of text and its source.

    draft, lookup: proposed and accepted. corrected: the target's token in place of a rejected one. bonus: the target's
    token after a fully accepted proposal, or without a proposal. forced: the constraint left one choice.
    """

    text: str
    source: Source
    channel: Channel = "answer"


class TokenLogprob(NamedTuple):
    """A token id, the natural log of its probability, and its bytes as numbers."""

    token: int
    logprob: float
    utf8: tuple[int, ...]


class Logprobs(NamedTuple):
    """Log probabilities of a token from the target's own softmax, before temperature, penalties and constraint.

    `at` is the offset of its text in characters from the start of the generated text, thinking included. `top` has
    the likeliest tokens at this position, in falling order.
    """

    at: int
    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One round: one forward pass of the target. Times are in seconds.

    `tokens` are the ids that joined the context. `spans` is the text that became certain. It may lag behind the tokens,
    for half a character or the start of a stop string. The last step may have text and no tokens. `drafted_tokens` and
    `drafted_sources` list every drafted token; the first `accepted` were accepted. `logprobs` has one entry per token
    if requested. Invariants: accepted <= drafted, len(tokens) <= accepted + 1.
    """

    tokens: tuple[int, ...]
    spans: tuple[Span, ...]
    drafted: int = 0
    accepted: int = 0
    draft_s: float = 0.0
    verify_s: float = 0.0
    drafted_tokens: tuple[int, ...] = ()
    drafted_sources: tuple[Source, ...] = ()
    logprobs: tuple[Logprobs, ...] = ()

    @property
    def text(self) -> str:
        """The text of the answer, without thinking."""
        return "".join(span.text for span in self.spans if span.channel == "answer")


class Drafted(NamedTuple):
    """Number of drafted and of accepted tokens of one source."""

    drafted: int
    accepted: int


@dataclass(frozen=True, slots=True)
class Stats:
    """Statistics of a run. Times are in seconds; `elapsed_s` starts with the prefill of the prompt.

    `accepted_lengths` and `drafted_lengths` are histograms over the rounds that drafted: entry n is the number of
    rounds with n accepted, or drafted, tokens. `one_token_s`: durations of recent undrafted rounds, prefill excluded.
    """

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
    accepted_lengths: tuple[int, ...] = ()
    drafted_lengths: tuple[int, ...] = ()
    by_source: Mapping[Source, Drafted] = field(default_factory=dict)
    one_token_s: tuple[float, ...] = ()

    def add(self, event: "Event", elapsed_s: float = 0.0) -> "Stats":
        """The statistics after `event`, `elapsed_s` seconds after the prefill began."""
        if isinstance(event, Started):
            return replace(self, prompt_tokens=event.prompt_tokens)
        if not isinstance(event, Step):
            return self
        if not event.tokens:
            return replace(self, elapsed_s=elapsed_s)
        accepted, drafted, one_token_s = self.accepted_lengths, self.drafted_lengths, self.one_token_s
        if event.drafted:
            accepted, drafted = _counted(accepted, event.accepted), _counted(drafted, event.drafted)
        elif self.rounds:
            one_token_s = (*one_token_s, elapsed_s - self.elapsed_s - event.draft_s)[-_ONE_TOKEN_ROUNDS:]
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
            accepted_lengths=accepted,
            drafted_lengths=drafted,
            by_source=_by_source(self.by_source, event),
            one_token_s=one_token_s,
        )

    @property
    def acceptance_rate(self) -> float:
        """Accepted over drafted tokens; 0 if nothing was drafted."""
        return self.accepted_tokens / self.drafted_tokens if self.drafted_tokens else 0.0

    @property
    def acceptance_by_position(self) -> tuple[float, ...]:
        """Acceptance rate of the first, second, ... drafted token of a round."""
        positions = range(1, len(self.drafted_lengths))
        return tuple(sum(self.accepted_lengths[n:]) / sum(self.drafted_lengths[n:]) for n in positions)

    @property
    def speed_up(self) -> float | None:
        """Estimated time of plain decoding over the time taken, both with prefill. None without an undrafted round.

        Plain decoding takes the median undrafted round for each token. A round is never faster than an undrafted one,
        so the mean acceptance length is an upper bound.
        """
        if not self.one_token_s or not self.elapsed_s:
            return None
        one_by_one = (self.generated_tokens - self.first_round_tokens) * median(self.one_token_s)
        return min((self.time_to_first_token_s + one_by_one) / self.elapsed_s, self.mean_acceptance_length)

    @property
    def speed_up_is_estimate(self) -> bool:
        """Whether `speed_up` rests on too few undrafted rounds."""
        return len(self.one_token_s) < _ENOUGH

    @property
    def mean_acceptance_length(self) -> float:
        """Generated tokens per round, that is per target pass."""
        return self.generated_tokens / self.rounds if self.rounds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed in tokens per second, without the first round, which includes the prefill."""
        decode_s = self.elapsed_s - self.time_to_first_token_s
        return (self.generated_tokens - self.first_round_tokens) / decode_s if decode_s > 0 else 0.0

    @property
    def other_s(self) -> float:
        """Seconds spent neither drafting nor verifying."""
        return max(0.0, self.elapsed_s - self.draft_s - self.verify_s)


def _counted(histogram: tuple[int, ...], length: int) -> tuple[int, ...]:
    """`histogram` with one more round of `length`."""
    padded = [*histogram, *[0] * (length + 1 - len(histogram))]
    padded[length] += 1
    return tuple(padded)


def _by_source(so_far: Mapping[Source, Drafted], step: Step) -> Mapping[Source, Drafted]:
    counts = dict(so_far)
    for position, source in enumerate(step.drafted_sources):
        drafted, accepted = counts.get(source, Drafted(0, 0))
        counts[source] = Drafted(drafted + 1, accepted + (position < step.accepted))
    return counts


@dataclass(frozen=True, slots=True)
class Finished:
    """The stream ended well. `text` is the whole answer, without thinking.

    `complete` is False if the answer ended before its constraint allowed it, so that the text does not parse.
    """

    reason: Reason
    text: str
    stats: Stats
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Failed:
    """The stream ended with an error. The text so far remains valid."""

    error: SpecgenError


@dataclass(frozen=True, slots=True)
class Suspended:
    """The process is about to be stopped by Ctrl-Z. Only the command line sends it.

    A renderer erases what it would draw again. The next event finds the cursor in column 0.
    """


Event = Progress | Notice | Started | Step | Suspended | Finished | Failed


class Renderer(Protocol):
    """Shows events on a terminal, in a pipe, or to a program."""

    def show(self, event: Event) -> None:
        """Show one event. Raises BrokenPipeError if the reader is gone."""

    def close(self) -> None:
        """Restore the terminal, after success or failure. May be called twice."""


def with_messages(event: Event, messages: Sequence[Message], *, raw: bool) -> Event:
    """`event`; a `Started` gets these messages."""
    return replace(event, messages=tuple(messages), raw=raw) if isinstance(event, Started) else event


def failing(events: Iterator[Event]) -> Generator[Event, None, None]:
    """`events`, with a SpecgenError as a last event `Failed`."""
    try:
        yield from events
    except SpecgenError as error:
        yield Failed(error)


def stats_fields(stats: Stats) -> dict[str, object]:
    """Every figure by its name, as JSON has it."""
    return {
        "prompt_tokens": stats.prompt_tokens,
        "generated_tokens": stats.generated_tokens,
        "rounds": stats.rounds,
        "drafted_tokens": stats.drafted_tokens,
        "accepted_tokens": stats.accepted_tokens,
        "acceptance_rate": stats.acceptance_rate,
        "mean_acceptance_length": stats.mean_acceptance_length,
        "tokens_per_second": stats.tokens_per_second,
        "time_to_first_token_s": stats.time_to_first_token_s,
        "draft_s": stats.draft_s,
        "verify_s": stats.verify_s,
        "other_s": stats.other_s,
        "elapsed_s": stats.elapsed_s,
        "speed_up": stats.speed_up,
        "speed_up_is_estimate": stats.speed_up_is_estimate,
        "accepted_lengths": stats.accepted_lengths,
        "drafted_lengths": stats.drafted_lengths,
        "acceptance_by_position": stats.acceptance_by_position,
        "by_source": {source: each._asdict() for source, each in stats.by_source.items()},
    }
