"""A drafter that proposes the tokens that a constraint forces, such as a key of a schema."""

from dataclasses import replace

from specgen.core.events import Source
from specgen.core.tokens import Tokens
from specgen.engine.drafters.interface import Drafter, DraftPlan, Proposal
from specgen.engine.sampling.constraint import Follower


class ForcedDrafter:
    """Adds forced tokens to the proposals of another drafter, in contexts of up to `length` tokens.

    A proposal has three parts: forced tokens, a guess of the other drafter that satisfies the constraint, and the
    tokens that are forced after the guess. Forced tokens do not count against the plan's limit: they cost no draft
    time, and are rejected only after a rejected guess.
    """

    def __init__(self, drafter: Drafter, constraint: Follower, length: int) -> None:
        self._drafter = drafter
        self._constraint = constraint
        self._length = length

    def propose(self, context: Tokens, plan: DraftPlan) -> Proposal:
        room = max(0, self._length - len(context) - 1)
        before = self._constraint.forced(context)[:room]
        guess = self._guess(context + before, plan, room - len(before))
        guessed = before + guess.tokens
        after = self._constraint.forced(context + guessed)[: room - len(guessed)]
        return replace(guess, tokens=guessed + after, sources=_forced(before) + guess.sources + _forced(after))

    def _guess(self, context: Tokens, plan: DraftPlan, room: int) -> Proposal:
        if not room:
            return Proposal()
        guess = self._drafter.propose(context, plan)
        kept = self._constraint.reach(context + guess.tokens) - len(context)
        if guess.tokens[kept : kept + 1] and guess.tokens[kept] in plan.end_ids:
            kept += 1
        return _first(guess, min(kept, room))


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
