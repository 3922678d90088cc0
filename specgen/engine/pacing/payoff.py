"""Whether the draft model pays on this text, and how much of the context it should read."""

from collections.abc import Sequence

from specgen.engine.pacing.acceptance import DraftAcceptance, Throughput
from specgen.engine.pacing.round_cost import RoundCost
from specgen.engine.verify import Verdict

# The constants below were set by hand; tests/engine/pacing/ bounds what they cost on simulated machines.
# Exploration budget, as a fraction of the remaining undrafted time.
_STAKE = 0.01
# Fraction of the expected saving that reading for the draft may cost. Answers may end early.
_TRUST = 0.5
# Tokens that an untimed draft reads first. Reading them takes little longer than reading one.
_PIECE = 4
# Rounds of evidence before the draft is given up.
_TRIED = 4
# Rounds of evidence before a long prompt is read for the draft.
_PROMISING = 2
# Optimistic acceptance for an untried draft model, so that it gets rounds that lookup could also serve.
_HOPE = 0.9
# Rounds after which measured throughput replaces the forecast from acceptance and cost.
_FORESIGHT = 16
# Rounds after which a draft that pays by _CLEARLY counts as good: giving it up later is reported again.
_PROVEN = 128
# Speed-up of a draft that clearly pays.
_CLEARLY = 1.25
# Tokens until a draft that was given up is tried again, and the least expected length of an answer for which a draft is
# tried. Every failure doubles the pause.
_PAUSE = 16


class DraftPayoff:
    """Decides from the draft's record how much it may draft and read.

    A new draft reads a few tokens and drafts one. It drafts more as its tokens are accepted, and reads the whole
    context once the expected saving repays that. A draft that does not pay is given up and tried again later, because
    texts change.
    """

    def __init__(self, costs: RoundCost) -> None:
        self.acceptance = DraftAcceptance()
        self._costs = costs
        self._throughput = Throughput()
        self._longest_accepted = 0
        self._in_use = True
        # Positions in the generated text, in tokens: now, of the next trial, and of the last time it was given up.
        self._generated = 0
        self._next_trial = 0
        self._given_up_at = 0
        self._pause = _PAUSE
        self._reported = False
        self._starts_anew = True

    def plan(self, unread: int, recent: int, limit: int, expected: int) -> tuple[int, int]:
        """(k, n) of DraftPlan.draft in tokens, with `expected` tokens still to be generated."""
        if not self._costs.draft_timed:
            return (1, min(unread, _PIECE)) if expected >= _PAUSE else (0, 0)
        span = expected
        if not self._in_use:
            if self._generated < self._next_trial or expected < _PAUSE:
                return 0, 0
            span = min(expected, self._generated - self._given_up_at)
        return min(limit, 1 + 2 * self._longest_accepted), self._read_limit(unread, recent, span, expected)

    def observe(self, verdict: Verdict, draft_s: float) -> str | None:
        """Learn from a round that the model drafted in `draft_s` seconds. Returns a notice for the user, if any."""
        proposal = verdict.proposal
        self._costs.add_draft(proposal.read, len(proposal.tokens), draft_s)
        known = self._costs.draft_known
        if known and self._cannot_pay():
            return self._give_up(self._slow_notice())
        if not known:
            # After a piece of the context only a right guess says anything about the draft's quality.
            self._longest_accepted = verdict.accepted
            return None
        if not self._in_use:
            if verdict.accepted < len(proposal.tokens):
                return self._give_up("")
            self._resume()
        self._longest_accepted = max(self._longest_accepted, verdict.accepted)
        self.acceptance.add(proposal.confidences, verdict.accepted)
        throughput, plain = self._throughput, self._costs.plain
        throughput.add(len(verdict.tokens), self._costs.round(len(proposal.tokens), by_model=True))
        if throughput.rounds % _PROVEN == 0 and throughput.rate(plain) * plain > _CLEARLY:
            self._reported = False
        if throughput.rounds == 2 * _FORESIGHT:
            self._pause = _PAUSE
        if throughput.rounds >= _TRIED and not self._pays():
            return self._give_up(
                "drafting does not pay on this text: decoding without the draft model, with a trial now and then"
            )
        return None

    def advance(self, tokens: int) -> None:
        """The text has grown by `tokens`, drafted or not."""
        self._generated += tokens

    def gain(self, rate: float, expected: int) -> float:
        """Tokens that a round with the model brings beyond a plain one, less those that `rate` (tokens/s) brings.

        Measured if there are enough rounds, else forecast from acceptance, else optimistic (_HOPE). 0 if the model
        would not draft with `expected` tokens still to be generated.
        """
        lengths = 2 * self._costs.widest
        if not self._in_use or self._throughput.rounds < _TRIED:
            rests = not self._in_use and self._generated < self._next_trial
            return 0.0 if rests or expected < _PAUSE else self._forecast_gain(rate, [_HOPE] * lengths)
        measured = max(0.0, self._throughput.gain(rate, self._costs.plain))
        if self._throughput.rounds >= _FORESIGHT:
            return measured
        return max(measured, self._forecast_gain(rate, self.acceptance.first(lengths)))

    def _forecast_gain(self, rate: float, chances: Sequence[float]) -> float:
        """The gain of the best draft length, in tokens, if `chances` are the acceptance probabilities by position."""
        tokens, chance, best = 0.0, 1.0, 0.0
        by_model = self._costs.draft_known
        for length, each in enumerate(chances, 1):
            chance *= each
            tokens += chance
            longer = self._costs.round(length, by_model=by_model) - self._costs.plain
            best = max(best, tokens - rate * longer)
        return best

    def forecast_rate(self) -> float:
        """Tokens per second of the best fixed draft length. 0 if there is no draft, or enough rounds are measured."""
        if not self._in_use or not self._costs.draft_known or self._throughput.rounds >= _FORESIGHT:
            return 0.0
        tokens, chance, best = 1.0, 1.0, 0.0
        for length, each in enumerate(self.acceptance.first(2 * self._costs.widest), 1):
            chance *= each
            tokens += chance
            best = max(best, tokens / self._costs.round(length, by_model=True))
        return best

    def _pays(self) -> bool:
        """Whether recent rounds, or rounds of one drafted token, are faster than plain rounds."""
        plain = self._costs.plain
        one = (1.0 + self.acceptance.at(0)) / self._costs.round(1, by_model=True)
        few = self._throughput.rounds < _FORESIGHT
        return max(one if few else 0.0, self._throughput.rate(plain)) > 1.0 / plain

    def _cannot_pay(self) -> bool:
        """Whether the draft is too slow to pay even if all its tokens were accepted."""
        lengths = range(1, 2 * self._costs.widest + 2)
        return all(self._costs.round(k, by_model=True) >= (k + 1) * self._costs.plain for k in lengths)

    def _slow_notice(self) -> str:
        costs = (self._costs.draft, self._costs.target(1))
        if costs[0] < costs[1]:
            return (
                "drafting does not pay on this machine now: decoding without the draft model, with a trial now and then"
            )
        draft, target = (f"{1000 * seconds:.3g} ms" for seconds in costs)
        return f"the draft model is too slow to help ({draft} a token, the target {target}): were the two swapped?"

    def _give_up(self, why: str) -> str | None:
        """Pause the draft until the text has grown enough to pay for a trial. Returns `why` if it is news."""
        self._in_use = False
        trial = self._costs.reading(_PIECE) + self._costs.verify_step(1)
        self._next_trial = self._generated + max(self._pause, int(trial / (_STAKE * self._costs.plain)))
        self._given_up_at = self._generated
        self._pause *= 2
        self._longest_accepted = 0
        self._starts_anew = True
        news = bool(why) and not self._reported
        self._reported = self._reported or news
        return why if news else None

    def _resume(self) -> None:
        """Use the draft again, without the measurements from the text before."""
        self._in_use = True
        self._throughput = Throughput()
        self.acceptance.forget()

    def _read_limit(self, unread: int, recent: int, span: int, expected: int) -> int:
        """How many tokens the draft may read: the budget is a stake on `span` tokens, or part of the expected saving.

        `unread` and `recent` are those of DraftPlan.draft; `expected` tokens are still to be generated.
        """
        costs = self._costs
        stake = _STAKE * span * costs.plain
        saved = 0.0
        if self._in_use and self._throughput.rounds >= _PROMISING:
            saved = expected * (costs.plain - 1.0 / self._throughput.rate(costs.plain))
        anew, self._starts_anew = self._starts_anew, False
        for wanted in (unread,) if anew else (unread, recent):
            if wanted <= _PIECE or costs.reading(wanted) <= max(stake, _TRUST * saved):
                return wanted
        reading = _PIECE
        while 2 * reading < unread and costs.reading(2 * reading) <= max(stake, 1.25 * costs.draft):
            reading *= 2
        return reading
