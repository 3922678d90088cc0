"""Drafting with both: what the text says already is looked up, the rest is the model's to guess."""

from dataclasses import replace

from specgen.core.tokens import Tokens
from specgen.engine.drafters.interface import Plan, Proposal, Verdict
from specgen.engine.drafters.lookup import LookupDrafter
from specgen.engine.drafters.model import ModelDrafter


class HybridDrafter:
    """Looks up first; the model drafts where nothing matches, or where the plan expects more of it than of the match.

    What the match would have said comes along, so that the worth of matches is learned from rounds that the model
    drafts too.
    """

    def __init__(self, lookup: LookupDrafter, model: ModelDrafter) -> None:
        self._lookup = lookup
        self._model = model

    def propose(self, context: Tokens, plan: Plan) -> Proposal:
        looked_up = self._lookup.propose(context, plan)
        if looked_up.tokens:
            return looked_up
        drafted = self._model.propose(context, plan)
        return replace(drafted, match=looked_up.match, continuation=looked_up.continuation)

    def observe(self, verdict: Verdict) -> None:
        self._lookup.observe(verdict)
        self._model.observe(verdict)
