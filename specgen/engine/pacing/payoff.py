"""Is the draft model worth its time on this text, and how much of the context is it worth reading for it?"""

from collections.abc import Sequence

from specgen.engine.pacing.acceptance import DraftAcceptance, Yield
from specgen.engine.pacing.round_cost import Costs
from specgen.engine.verify import Verdict

# What may be spent on finding out, as a share of the time that the rest of the answer takes without a draft.
_STAKE = 0.01
# Of what the draft will save by the evidence so far, as much may be spent on reading for it: answers end early.
_TRUST = 0.5
# The first that the draft reads of a context, to learn its speed: few enough to cost little more than one token.
_PIECE = 4
# Rounds of evidence before the draft is given up, and before a long prompt is read for it, which takes success.
_TRIED = 4
_PROMISING = 2
# What an untried draft may turn out to be: rounds that a match could serve are left to it as far as that would pay.
_HOPE = 0.9
# Rounds until the rate that a run achieves says more than what acceptance and costs let expect.
_FORESIGHT = 16
# Rounds after which drafting has paid for good: a draft given up later is news again.
_SETTLED = 128
_CLEARLY = 1.25
# Tokens between two attempts with a draft that was given up; every failure doubles them.
_PAUSE = 16


class Trial:
    """The draft's record, and what follows from it.

    A draft begins with a few tokens read and one drafted, and is trusted with more as it succeeds: with longer drafts
    as its tokens are accepted, with reading the whole context when what it saves repays that. One that does not pay is
    given up and tried again later, for texts change.
    """

    def __init__(self, costs: Costs) -> None:
        self.acceptance = DraftAcceptance()
        self._costs = costs
        self._yield = Yield()
        self._longest = 0
        self._in_use = True
        self._tokens = 0
        self._attempt_at = 0
        self._given_up_at = 0
        self._pause = _PAUSE
        self._told = False
        self._fresh = True

    def plan(self, unread: int, recent: int, limit: int, expected: int) -> tuple[int, int]:
        """(k, n) of DraftPlan.draft, with `expected` tokens still to be generated."""
        if not self._costs.draft_known:
            return (1, min(unread, _PIECE)) if expected >= _PAUSE else (0, 0)
        span = expected
        if not self._in_use:
            if self._tokens < self._attempt_at or expected < _PAUSE:
                return 0, 0
            span = min(expected, self._tokens - self._given_up_at)
        return min(limit, 1 + 2 * self._longest), self._reading(unread, recent, span, expected)

    def observe(self, verdict: Verdict, draft_s: float) -> str | None:
        """Learn from a round that the model drafted; what the user should be told."""
        proposal = verdict.proposal
        first = not self._costs.draft_known
        self._costs.add_draft(proposal.read, len(proposal.tokens), draft_s)
        if self._cannot_pay():
            return self._give_up(self._slow())
        if first:
            # A piece of the context says how fast the draft is; how good it is only where it guessed right.
            self._longest = verdict.accepted
            return None
        if not self._in_use:
            if verdict.accepted < len(proposal.tokens):
                return self._give_up("")
            self._resume()
        self._longest = max(self._longest, verdict.accepted)
        self.acceptance.add(proposal.confidences, verdict.accepted)
        self._yield.add(len(verdict.tokens), self._costs.round(len(proposal.tokens), by_model=True))
        if self._yield.rounds % _SETTLED == 0 and self._yield.rate(self._costs.plain) * self._costs.plain > _CLEARLY:
            self._told = False
        if self._yield.rounds == 2 * _FORESIGHT:
            self._pause = _PAUSE
        if self._yield.rounds >= _TRIED and not self._pays():
            return self._give_up(
                "drafting does not pay on this text: going on without the draft model, and trying it again now and then"
            )
        return None

    def pass_by(self, tokens: int) -> None:
        """The text has grown."""
        self._tokens += tokens

    def gain(self, rate: float, expected: int) -> float:
        """What a round with the model brings beyond a plain one, in tokens, where time is worth `rate`.

        As measured; while little is, as what is known of acceptance promises, and before, as may be hoped for. 0 where
        the model would not draft, with `expected` tokens still to come.
        """
        lengths = 2 * self._costs.widest
        if not self._in_use or self._yield.rounds < _TRIED:
            rests = not self._in_use and self._tokens < self._attempt_at
            return 0.0 if rests or expected < _PAUSE else self._promise(rate, [_HOPE] * lengths)
        measured = max(0.0, self._yield.gain(rate, self._costs.plain))
        if self._yield.rounds >= _FORESIGHT:
            return measured
        return max(measured, self._promise(rate, self.acceptance.upto(lengths)))

    def _promise(self, rate: float, chances: Sequence[float]) -> float:
        """The gain of the best draft length where these are the chances of its tokens, one after the other."""
        tokens, chance, best = 0.0, 1.0, 0.0
        by_model = self._costs.draft_known
        for length, each in enumerate(chances, 1):
            chance *= each
            tokens += chance
            longer = self._costs.round(length, by_model=by_model) - self._costs.plain
            best = max(best, tokens - rate * longer)
        return best

    def foreseen(self) -> float:
        """The rate of the best fixed draft length, as far as few rounds tell; 0 when a run's own rate tells more."""
        if not self._in_use or not self._costs.draft_known or self._yield.rounds >= _FORESIGHT:
            return 0.0
        tokens, chance, best = 1.0, 1.0, 0.0
        for length, each in enumerate(self.acceptance.upto(2 * self._costs.widest), 1):
            chance *= each
            tokens += chance
            best = max(best, tokens / self._costs.round(length, by_model=True))
        return best

    def _pays(self) -> bool:
        """Whether rounds like those of late, or rounds of one drafted token, are faster than plain ones."""
        plain = self._costs.plain
        one = (1.0 + self.acceptance.at(0)) / self._costs.round(1, by_model=True)
        few = self._yield.rounds < _FORESIGHT
        return max(one if few else 0.0, self._yield.rate(plain)) > 1.0 / plain

    def _cannot_pay(self) -> bool:
        """Whether the draft is so slow that it would not pay if all it drafts were accepted."""
        lengths = range(1, 2 * self._costs.widest + 2)
        return all(self._costs.round(k, by_model=True) >= (k + 1) * self._costs.plain for k in lengths)

    def _slow(self) -> str:
        draft, target = (f"{1000 * seconds:.3g} ms" for seconds in (self._costs.draft, self._costs.target(1)))
        return f"the draft model is too slow to help ({draft} a token, the target {target}): were the two swapped?"

    def _give_up(self, why: str) -> str | None:
        """Rest the draft; the next attempt comes when the text has grown enough to pay for it."""
        self._in_use = False
        attempt = self._costs.reading(_PIECE) + self._costs.step(1)
        self._attempt_at = self._tokens + max(self._pause, int(attempt / (_STAKE * self._costs.plain)))
        self._given_up_at = self._tokens
        self._pause *= 2
        self._longest = 0
        self._fresh = True
        news = bool(why) and not self._told
        self._told = self._told or news
        return why if news else None

    def _resume(self) -> None:
        """A new text: what was seen of the last one counts no more."""
        self._in_use = True
        self._yield = Yield()
        self.acceptance.forget()

    def _reading(self, unread: int, recent: int, span: int, expected: int) -> int:
        """How many tokens the draft may read: what a stake on `span` tokens pays for, or what it will save."""
        costs = self._costs
        stake = _STAKE * span * costs.plain
        saved = 0.0
        if self._in_use and self._yield.rounds >= _PROMISING:
            saved = expected * (costs.plain - 1.0 / self._yield.rate(costs.plain))
        fresh, self._fresh = self._fresh, False
        for wanted in (unread,) if fresh else (unread, recent):
            if wanted <= _PIECE or costs.reading(wanted) <= max(stake, _TRUST * saved):
                return wanted
        reading = _PIECE
        while 2 * reading < unread and costs.reading(2 * reading) <= max(stake, 1.25 * costs.draft):
            reading *= 2
        return reading
