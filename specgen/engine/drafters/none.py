"""No drafting: the target decodes one token a round."""

from specgen.core.tokens import Tokens
from specgen.engine.drafters.interface import Plan, Proposal, Verdict


class NoDrafter:
    def propose(self, context: Tokens, plan: Plan) -> Proposal:  # noqa: ARG002
        return Proposal()

    def observe(self, verdict: Verdict) -> None:
        pass
