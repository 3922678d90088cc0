"""Drafting with a smaller model of the same vocabulary."""

from specgen.engine.interfaces import LanguageModel, Plan, Proposal, Verdict
from specgen.engine.tokens import Tokens
from specgen.events import Source


class ModelDrafter:
    """Proposes what the draft model picks, with the target's own sampler.

    The draft draws with the same noise as the target, so that it guesses the target's draw and not only its
    distribution. `shared_vocab` is the number of leading ids that both models know: nothing beyond is proposed.
    `context_length` is the draft's own: past it the draft has nothing to say.
    """

    def __init__(self, model: LanguageModel, shared_vocab: int, context_length: int) -> None:
        self._model = model
        self._shared_vocab = min(shared_vocab, model.vocab_size)
        self._context_length = context_length
        self._readable = Tokens()

    def propose(self, context: Tokens, plan: Plan) -> Proposal:
        if not self._can_read(context):
            return Proposal()
        limit = min(plan.limit, self._context_length - len(context) + 1)
        drafted: list[int] = []
        while len(drafted) < limit:
            tried = context + drafted
            logits = self._model.forward(tried, 1).logits[:, : self._shared_vocab]
            drafted += plan.sampler.pick(logits, tried)
            if drafted[-1] in plan.end_ids:
                break
        sources: tuple[Source, ...] = tuple("draft" for _ in drafted)
        return Proposal(tuple(drafted), sources)

    def observe(self, verdict: Verdict) -> None:
        pass

    def _can_read(self, context: Tokens) -> bool:
        """Whether every id of `context` is in the draft's vocabulary; looks only at what is new."""
        new = context.ids(context.common_prefix(self._readable))
        if any(token >= self._model.vocab_size for token in new):
            return False
        self._readable = context
        return True
