"""Drafting what a constraint leaves no choice in: a key of a schema is proposed at once, without a model."""

from dataclasses import replace

from specgen.core.events import Source
from specgen.core.tokens import Tokens
from specgen.engine.drafters.interface import Drafter, Plan, Proposal, Verdict
from specgen.engine.sampling.constraint import Follower


class ForcedDrafter:
    """Helps another drafter along a constraint, in contexts of up to `length` tokens.

    A proposal is what is forced, then what the other drafter guesses after it as far as that keeps to the constraint,
    then what is forced after the guess. Forced tokens cost no draft, and are wrong only where a guess before them was:
    they are not counted against the plan's limit.
    """

    def __init__(self, drafter: Drafter, constraint: Follower, length: int) -> None:
        self._drafter = drafter
        self._constraint = constraint
        self._length = length

    def propose(self, context: Tokens, plan: Plan) -> Proposal:
        room = max(0, self._length - len(context) - 1)
        before = self._constraint.forced(context)[:room]
        guess = self._guess(context + before, plan, room - len(before))
        guessed = before + guess.tokens
        after = self._constraint.forced(context + guessed)[: room - len(guessed)]
        return replace(guess, tokens=guessed + after, sources=_forced(before) + guess.sources + _forced(after))

    def _guess(self, context: Tokens, plan: Plan, room: int) -> Proposal:
        if not room:
            return Proposal()
        guess = self._drafter.propose(context, plan)
        kept = self._constraint.reach(context + guess.tokens) - len(context)
        if guess.tokens[kept : kept + 1] and guess.tokens[kept] in plan.end_ids:
            kept += 1
        return _first(guess, min(kept, room))

    def observe(self, verdict: Verdict) -> None:
        self._drafter.observe(verdict)


def _forced(tokens: tuple[int, ...]) -> tuple[Source, ...]:
    return tuple("forced" for _ in tokens)


def _first(proposal: Proposal, count: int) -> Proposal:
    if count >= len(proposal.tokens):
        return proposal
    return replace(
        proposal,
        tokens=proposal.tokens[:count],
        sources=proposal.sources[:count],
        confidences=proposal.confidences[:count],
    )
