"""Drafting what a constraint leaves no choice in: a key of a schema is proposed at once, without a model."""

from dataclasses import replace

from specgen.engine.constraint import Follower
from specgen.engine.interfaces import Drafter, Plan, Proposal, Verdict
from specgen.engine.tokens import Tokens
from specgen.events import Source


class ForcedDrafter:
    """Helps another drafter along a constraint, in contexts of up to `length` tokens.

    Where tokens are forced they are the proposal. Else the other drafter proposes; what breaks the constraint is cut
    off, and what is forced after the rest is added. Forced tokens are certain and cost no draft, so they are not
    counted against the plan's limit.
    """

    def __init__(self, drafter: Drafter, constraint: Follower, length: int) -> None:
        self._drafter = drafter
        self._constraint = constraint
        self._length = length

    def propose(self, context: Tokens, plan: Plan) -> Proposal:
        proposal = Proposal()
        if not self._constraint.forced(context):
            proposal = self._drafter.propose(context, plan)
            kept = self._constraint.reach(context + proposal.tokens) - len(context)
            ended = proposal.tokens[kept : kept + 1]
            if ended and ended[0] in plan.end_ids:
                kept += 1
            proposal = _first(proposal, kept)
        drafted = context + proposal.tokens
        run = self._constraint.forced(drafted)[: max(0, self._length - len(drafted) - 1)]
        sources: tuple[Source, ...] = tuple("forced" for _ in run)
        return replace(proposal, tokens=proposal.tokens + run, sources=proposal.sources + sources)

    def observe(self, verdict: Verdict) -> None:
        self._drafter.observe(verdict)


def _first(proposal: Proposal, count: int) -> Proposal:
    if count >= len(proposal.tokens):
        return proposal
    return replace(
        proposal,
        tokens=proposal.tokens[:count],
        sources=proposal.sources[:count],
        confidences=proposal.confidences[:count],
    )
