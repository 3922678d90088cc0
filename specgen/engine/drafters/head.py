"""A drafter that runs a trained head on the target's states."""

from specgen.core.events import Source
from specgen.core.tokens import Tokens
from specgen.engine.drafters.interface import DraftPlan, Proposal
from specgen.engine.sampling.sampler import NonFiniteLogits
from specgen.nn.heads.reader import HeadReader


class HeadDrafter:
    """Proposes the tokens that a head picks with the target's sampler, one pass of the head for each.

    The head samples with the target's noise, like a draft model. A token outside of the head's vocabulary is never
    proposed.
    """

    def __init__(self, reader: HeadReader) -> None:
        self._reader = reader

    def propose(self, context: Tokens, plan: DraftPlan) -> Proposal:
        counts = self._reader.unread(context) if plan.limit > 0 else None
        if counts is None:
            return Proposal()
        limit, reading = plan.draft(*counts)
        limit = min(limit, plan.limit)
        if limit <= 0:
            return Proposal()
        output, read = self._reader.begin(context, reading)
        drafted: list[int] = []
        confidences: list[float] = []
        while True:
            before = context + drafted
            try:
                token, confidence = plan.sampler.draft(self._reader.scores(output), before)
            except NonFiniteLogits as error:
                raise NonFiniteLogits("draft", "choose another draft, or --draft none") from error
            drafted.append(token)
            confidences.append(confidence)
            after = context + drafted
            if len(drafted) == limit or token in plan.end_ids or not plan.goes_on(confidences):
                break
            if plan.sampler.is_forced(after):
                break
            output = self._reader.step(after, output)
        sources: tuple[Source, ...] = tuple("draft" for _ in drafted)
        return Proposal(tuple(drafted), sources, tuple(confidences), read)
