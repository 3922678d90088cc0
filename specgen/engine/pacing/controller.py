"""How many tokens to draft now, and whether to draft at all.

A round costs `draft * k + target(k + 1) + other` seconds and brings one token more than are accepted. Every decision is
weighed against the rate that the run achieves, in tokens per second: one more token is drafted where what it is
expected to bring is more than the run brings in the time it costs. The stream of rounds that follows that rule has the
highest rate of all (Dinkelbach 1967), and the rate to beat is that of decoding without a draft.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from specgen.core.tokens import Tokens
from specgen.engine.drafters.interface import DraftPlan
from specgen.engine.pacing.acceptance import LookupAcceptance, Yield
from specgen.engine.pacing.payoff import Trial
from specgen.engine.pacing.round_cost import Costs
from specgen.engine.sampling.sampler import Sampler
from specgen.engine.verify import Verdict

Clock = Callable[[], float]

# An answer is expected to go on for as long as it has been, and for so many tokens at least.
_EXPECTED = 128
# One-token rounds are measured again when the context has grown by so many tokens and by a quarter, if what that
# costs is no more than this share of the time since.
_GROWN = 32
_STAKE = 0.005


class Controller(Protocol):
    """Plans every round and is told of its outcome. One controller serves all runs of a pair: it learns their costs."""

    clock: Clock

    def begin(self, context: Tokens) -> None:
        """A run after the prompt `context` begins."""

    def plan(self, context: Tokens, room: int, sampler: Sampler, end_ids: frozenset[int]) -> DraftPlan:
        """The plan of the next round; the context may grow by `room` tokens."""

    def observe(self, verdict: Verdict, draft_s: float, verify_s: float) -> str | None:
        """Learn from a round, its times in seconds. Returns what the user should be told."""


class Fixed:
    """The same draft length in every round."""

    def __init__(self, num_draft_tokens: int, clock: Clock = time.perf_counter) -> None:
        self.clock = clock
        self._num_draft_tokens = num_draft_tokens

    def begin(self, context: Tokens) -> None:
        pass

    def plan(self, context: Tokens, room: int, sampler: Sampler, end_ids: frozenset[int]) -> DraftPlan:  # noqa: ARG002
        return DraftPlan(min(self._num_draft_tokens, room - 1), sampler, end_ids)

    def observe(self, verdict: Verdict, draft_s: float, verify_s: float) -> str | None:  # noqa: ARG002
        return None


class Auto:
    """As many tokens as pay.

    The first round of a run drafts nothing, for the first token should not wait for a draft; the second measures what
    one token costs, and so does a round now and then as the context grows.
    """

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.clock = clock
        self._costs = Costs()
        self._lookups = LookupAcceptance()
        self._yield = Yield()
        self._trial = Trial(self._costs)
        self._context = Tokens()
        self._unread: int | None = None
        self._plain_at: int | None = None
        self._generated = 0
        self._expected = 0
        self._limit = 0
        self._ended: float | None = None

    def begin(self, context: Tokens) -> None:
        self._unread = len(context) - context.common_prefix(self._context)
        self._plain_at = None
        self._generated = 0
        self._ended = None

    def plan(self, context: Tokens, room: int, sampler: Sampler, end_ids: frozenset[int]) -> DraftPlan:
        if self._ended is not None:
            self._costs.add_other(self.clock() - self._ended)
        self._context = context
        self._expected = min(room, max(_EXPECTED, self._generated))
        self._limit = 0
        if self._unread is None and not self._plain_is_due():
            # What is wider than anything measured is tried step by step.
            widest = self._costs.widest
            self._limit = min(room - 1, widest + max(2, widest // 2))
        return _AutoPlan(self._limit, sampler, end_ids, controller=self)

    def observe(self, verdict: Verdict, draft_s: float, verify_s: float) -> str | None:
        proposal = verdict.proposal
        drafted, brought = len(proposal.tokens), len(verdict.tokens)
        by_model = "draft" in proposal.sources
        guessed = verdict.unforced()
        notice = None
        if self._unread is None:
            self._costs.add_target(drafted + 1, verify_s)
            if not drafted:
                self._plain_at = len(self._context)
            if by_model:
                notice = self._trial.observe(guessed, draft_s)
            if self._limit > 0 and (guessed is verdict or guessed.proposal.tokens):
                self._yield.add(len(guessed.tokens), self._costs.round(len(guessed.proposal.tokens), by_model=by_model))
        else:
            self._costs.add_prefill(self._unread, verify_s)
            self._unread = None
        self._lookups.add(proposal.match, proposal.continuation, guessed.tokens)
        self._generated += brought
        self._trial.pass_by(brought)
        self._ended = self.clock()
        return notice

    def lookup_length(self, match: int, limit: int) -> int:
        """How many tokens to propose after a match of `match` tokens; 0 where the model or nothing does better."""
        if limit <= 0:
            return 0
        rate = self._rate()
        chance, gain, best, length = 1.0, 0.0, 0.0, 0
        for count in range(1, limit + 1):
            chance *= self._lookups.at(match + count - 1)
            gain += chance - rate * self._costs.step(count)
            if gain > best:
                best, length = gain, count
        return length if best >= self._trial.gain(rate, self._expected) else 0

    def draft_length(self, unread: int, recent: int, limit: int) -> tuple[int, int]:
        """How many tokens the model should draft, and how many it may read for that: see DraftPlan.draft."""
        if limit <= 0:
            return 0, 0
        return self._trial.plan(unread, recent, limit, self._expected)

    def goes_on(self, confidences: Sequence[float]) -> bool:
        """Whether one more token is worth drafting after these."""
        count = len(confidences)
        gain = self._trial.acceptance.survival(confidences) * self._trial.acceptance.at(count)
        return gain > self._rate() * (self._costs.draft + self._costs.step(count + 1))

    def _rate(self) -> float:
        """Tokens per second: those of late, at least those of plain decoding."""
        plain = self._costs.plain
        return max(1.0 / plain, self._yield.rate(plain), self._trial.foreseen())

    def _plain_is_due(self) -> bool:
        """Whether this run has no one-token round yet, or has grown enough for another to matter and to be paid for."""
        if self._plain_at is None:
            return True
        grown = len(self._context) - self._plain_at
        lost = self._costs.plain * self._rate() - 1.0
        return grown >= _GROWN + self._plain_at // 4 and grown * _STAKE >= lost


def make_controller(num_draft_tokens: int | None) -> Controller:
    """A fixed draft length, or as many as pay (None)."""
    return Auto() if num_draft_tokens is None else Fixed(num_draft_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class _AutoPlan(DraftPlan):
    """A plan whose answers are the controller's."""

    controller: Auto

    def lookup(self, match: int) -> int:
        return self.controller.lookup_length(match, self.limit)

    def draft(self, unread: int, recent: int) -> tuple[int, int]:
        return self.controller.draft_length(unread, recent, self.limit)

    def goes_on(self, confidences: Sequence[float]) -> bool:
        return self.controller.goes_on(confidences)
