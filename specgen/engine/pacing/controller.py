"""How many tokens to draft in the next round, and whether to draft at all.

A round that drafts k tokens with acceptance probabilities a_1 ... a_k has the rate, in tokens per second,

    rate(k) = expected tokens / seconds = (1 + a_1 + a_1 a_2 + ... + a_1 ... a_k) / (k t_draft + t(k + 1) + t_other)

where t(n) is the target's pass over n tokens. Its speed-up is rate(k) over the rate of a plain round, 1 / (t(1) +
t_other). One more token is worth drafting while

    a_1 ... a_(k+1) > rate * (t_draft + t(k + 2) - t(k + 1))

where `rate` is what the run achieves. Rounds chosen by this rule have the highest overall rate (Dinkelbach 1967).
acceptance.py estimates the a_i, round_cost.py the seconds, payoff.py whether the draft model is used at all.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from specgen.core.tokens import Tokens
from specgen.engine.drafters.interface import DraftPlan
from specgen.engine.drafters.match import Match
from specgen.engine.pacing.acceptance import LookupAcceptance, Throughput
from specgen.engine.pacing.payoff import DraftPayoff
from specgen.engine.pacing.round_cost import RoundCost
from specgen.engine.sampling.sampler import Sampler
from specgen.engine.verify import Verdict

Clock = Callable[[], float]

# The constants below were set by hand; tests/engine/pacing/ bounds what they cost on simulated machines.
# Least expected number of tokens still to be generated. Beyond it, an answer is expected to double.
_EXPECTED = 128
# A plain round is measured again once the context has grown by this many tokens plus a quarter.
_GROWN = 32
# Largest cost of that measurement, as a fraction of the time since the last one.
_STAKE = 0.005


class Controller(Protocol):
    """Plans every round and observes its outcome. One controller serves all runs of a pair, and learns its costs."""

    clock: Clock

    def begin(self, context: Tokens, *, is_read: bool = False) -> None:
        """Start a run after `context`: a prompt, or a text that the target has read in rounds of several answers."""

    def plan(self, context: Tokens, room: int, sampler: Sampler, end_ids: frozenset[int]) -> DraftPlan:
        """The plan of the next round. The context may grow by `room` tokens."""

    def observe(self, verdict: Verdict, draft_s: float, verify_s: float) -> str | None:
        """Learn from a round and its times in seconds. Returns a notice for the user, if any."""


class FixedController:
    """Plans the same draft length in every round."""

    def __init__(self, num_draft_tokens: int, clock: Clock = time.perf_counter) -> None:
        self.clock = clock
        self._num_draft_tokens = num_draft_tokens

    def begin(self, context: Tokens, *, is_read: bool = False) -> None:
        pass

    def plan(self, context: Tokens, room: int, sampler: Sampler, end_ids: frozenset[int]) -> DraftPlan:  # noqa: ARG002
        return DraftPlan(min(self._num_draft_tokens, room - 1), sampler, end_ids)

    def observe(self, verdict: Verdict, draft_s: float, verify_s: float) -> str | None:  # noqa: ARG002
        return None


class AdaptiveController:
    """Plans as many tokens as pay.

    The first round of a run drafts nothing, so that the first token does not wait for a draft. The second round
    measures a plain round, and so does another now and then as the context grows.
    """

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.clock = clock
        self._costs = RoundCost()
        self._lookups = LookupAcceptance()
        self._throughput = Throughput()
        self._payoff = DraftPayoff(self._costs)
        self._context = Tokens()
        # Prompt tokens that the target has not read; None after the first round of a run.
        self._unread: int | None = None
        # Context length, in tokens, at the last plain round of this run.
        self._plain_at: int | None = None
        self._generated = 0
        self._expected = 0
        self._limit = 0
        self._ended: float | None = None

    def begin(self, context: Tokens, *, is_read: bool = False) -> None:
        self._unread = None if is_read else len(context) - context.common_prefix(self._context)
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
            # Grow beyond the widest measured pass in steps of half of it.
            widest = self._costs.widest
            self._limit = min(room - 1, widest + max(2, widest // 2))
        return AdaptivePlan(self._limit, sampler, end_ids, controller=self)

    def observe(self, verdict: Verdict, draft_s: float, verify_s: float) -> str | None:
        proposal = verdict.proposal
        drafted, generated = len(proposal.tokens), len(verdict.tokens)
        by_model = "draft" in proposal.sources
        guessed = verdict.unforced()
        notice = None
        if self._unread is None:
            self._costs.add_target(drafted + 1, verify_s)
            if not drafted:
                self._plain_at = len(self._context)
            if by_model:
                notice = self._payoff.observe(guessed, draft_s)
            timed = self._costs.draft_known or not by_model
            if timed and self._limit > 0 and (guessed is verdict or guessed.proposal.tokens):
                seconds = self._costs.round(len(guessed.proposal.tokens), by_model=by_model)
                self._throughput.add(len(guessed.tokens), seconds)
        else:
            self._costs.add_prefill(self._unread, verify_s)
            self._unread = None
        for match in proposal.matches:
            self._lookups.add(match, guessed.tokens)
        self._generated += generated
        self._payoff.advance(generated)
        self._ended = self.clock()
        return notice

    def lookup_length(self, match: Match, limit: int, *, beside_model: bool) -> tuple[int, float]:
        """(k, g): tokens to propose after `match`, and the tokens gained; (0, 0) if the model or a plain round is
        better."""
        if limit <= 0:
            return 0, 0.0
        rate = self._rate()
        chance, gain, best, length = 1.0, 0.0, 0.0, 0
        for count in range(1, min(limit, len(match.continuation)) + 1):
            chance *= self._lookups.at(match, count - 1)
            gain += chance - rate * self._costs.verify_step(count)
            if gain > best:
                best, length = gain, count
        rival = self._payoff.gain(rate, self._expected) if beside_model else 0.0
        return (length, best) if best >= rival else (0, 0.0)

    def draft_length(self, unread: int, recent: int, limit: int) -> tuple[int, int]:
        """(k, n) in tokens: see DraftPlan.draft."""
        if limit <= 0:
            return 0, 0
        return self._payoff.plan(unread, recent, limit, self._expected)

    def goes_on(self, confidences: Sequence[float]) -> bool:
        """Whether one more token is worth drafting after tokens with these `confidences`."""
        count = len(confidences)
        gain = self._payoff.acceptance.survival(confidences) * self._payoff.acceptance.at(count)
        return gain > self._rate() * (self._costs.draft + self._costs.verify_step(count + 1))

    def _rate(self) -> float:
        """Tokens per second: the best of recent rounds, plain rounds, and the forecast for the draft."""
        plain = self._costs.plain
        return max(1.0 / plain, self._throughput.rate(plain), self._payoff.forecast_rate())

    def _plain_is_due(self) -> bool:
        """Whether to measure a plain round: the run has none, or has grown enough to need and repay another."""
        if self._plain_at is None:
            return True
        grown = len(self._context) - self._plain_at
        lost = self._costs.plain * self._rate() - 1.0
        return grown >= _GROWN + self._plain_at // 4 and grown * _STAKE >= lost


def make_controller(num_draft_tokens: int | None) -> Controller:
    """A controller with a fixed draft length, or an adaptive one (None)."""
    return AdaptiveController() if num_draft_tokens is None else FixedController(num_draft_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptivePlan(DraftPlan):
    """A plan that asks the adaptive controller."""

    controller: AdaptiveController

    def lookup(self, match: Match, *, beside_model: bool) -> tuple[int, float]:
        return self.controller.lookup_length(match, self.limit, beside_model=beside_model)

    def draft(self, unread: int, recent: int) -> tuple[int, int]:
        return self.controller.draft_length(unread, recent, self.limit)

    def goes_on(self, confidences: Sequence[float]) -> bool:
        return self.controller.goes_on(confidences)
