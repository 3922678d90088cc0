"""A drafter that runs a smaller model, with the same vocabulary or with another one."""

import torch

from specgen.core.events import Source
from specgen.core.tokens import Tokens
from specgen.engine.drafters.interface import DraftPlan, Proposal
from specgen.engine.drafters.translation import Translation
from specgen.engine.sampling.sampler import NonFiniteLogits
from specgen.nn.interface import LanguageModel


class ModelDrafter:
    """Proposes the tokens that the draft model picks with the target's sampler.

    The draft samples with the target's noise. So it predicts the target's draw, not only the target's distribution.
    shared_vocab: number of leading ids that both models share; other ids are never proposed. context_length: the draft
    model's limit in tokens; a longer context gets an empty proposal. With a `translation` the draft has another
    vocabulary.

    The draft may read only the end of the context when the whole is not worth the time (see DraftPlan.draft).
    """

    def __init__(
        self, model: LanguageModel, shared_vocab: int, context_length: int, translation: Translation | None = None
    ) -> None:
        self._model = model
        self._shared_vocab = min(shared_vocab, model.vocab_size)
        self._context_length = context_length
        self._translation = translation
        self._readable = Tokens()
        self._context = Tokens()
        self._read = Tokens()
        # The model reads the whole context if `_start` is 0, else `_tail`, a copy of the ids from `_start` on.
        self._start = 0
        self._tail = Tokens()

    def propose(self, context: Tokens, plan: DraftPlan) -> Proposal:
        own = self._translation.read(context) if self._translation else context
        room = self._context_length - len(own) + 1
        if room <= 0 or plan.limit <= 0 or not len(own) or not self._can_read(own):
            return Proposal()
        recent = len(own) - own.common_prefix(self._read)
        unread = len(own) if self._start else recent
        limit, reading = plan.draft(unread, recent)
        limit = min(limit, plan.limit, room)
        if limit <= 0:
            return Proposal()
        self._read = Tokens()  # cleared until forward succeeds; an exception drops the cache
        view, read = self._view(own, unread, recent, reading)
        drafted: list[int] = []
        fed: list[int] = []
        confidences: list[float] = []
        going_on = True
        while going_on:
            row = self._score(view + fed)
            before = context + drafted
            try:
                token, confidence = plan.sampler.draft(row, before)
            except NonFiniteLogits as error:
                raise NonFiniteLogits("draft", "choose another draft, or --draft none") from error
            own_token = self._translation.tokens.draft_id(token) if self._translation else token
            if own_token is None:  # only a constraint picks a token that the draft does not have
                break
            drafted.append(token)
            fed.append(own_token)
            confidences.append(confidence)
            going_on = len(drafted) < limit and drafted[-1] not in plan.end_ids and plan.goes_on(confidences)
            going_on = going_on and not plan.sampler.is_forced(context + drafted)
        self._read = own + fed[:-1]
        sources: tuple[Source, ...] = tuple("draft" for _ in drafted)
        return Proposal(tuple(drafted), sources, tuple(confidences), read)

    def _score(self, view: Tokens) -> torch.Tensor:
        """The scores after `view` of the tokens that may be proposed, float32 [1, tokens]."""
        row = self._model.forward(view, 1)
        return self._translation.row(row) if self._translation else row[:, : self._shared_vocab]

    def _view(self, context: Tokens, unread: int, recent: int, reading: int) -> tuple[Tokens, int]:
        """(tokens, n): the context or its end, as the model shall see it, and how many of them are new to the model."""
        shared = context.common_prefix(self._context)
        continues = shared == len(self._context)
        self._context = context
        if unread <= reading:
            self._start, self._tail = 0, Tokens()
            return context, unread
        if self._start and continues and recent <= reading <= len(context) - self._start:
            self._tail = self._tail.grow(context.ids(shared))
            return self._tail, recent
        reading = max(1, reading)
        self._start = len(context) - reading
        self._tail = Tokens(context.ids(self._start))
        return self._tail, reading

    def _can_read(self, context: Tokens) -> bool:
        """Whether every id of `context` is in the draft's vocabulary. Checks only the ids since the last call."""
        new = context.ids(context.common_prefix(self._readable))
        if any(token >= self._model.vocab_size for token in new):
            return False
        self._readable = context
        return True
