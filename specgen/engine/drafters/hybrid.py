"""A drafter that tries n-gram lookup first and a draft model or a head second."""

from dataclasses import replace

from specgen.core.tokens import Tokens
from specgen.engine.drafters.interface import Drafter, DraftPlan, Proposal
from specgen.engine.drafters.lookup import LookupDrafter


class HybridDrafter:
    """The model drafts when nothing matches, or when the plan expects more from the model than from the match.

    A proposal of the model carries the matches. So the controller learns their acceptance in these rounds too.
    """

    def __init__(self, lookup: LookupDrafter, model: Drafter) -> None:
        self._lookup = lookup
        self._model = model

    def propose(self, context: Tokens, plan: DraftPlan) -> Proposal:
        looked_up = self._lookup.propose(context, plan, beside_model=True)
        if looked_up.tokens:
            return looked_up
        drafted = self._model.propose(context, plan)
        return replace(drafted, matches=looked_up.matches)
