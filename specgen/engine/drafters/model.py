"""Drafting with a smaller model of the same vocabulary."""

import torch

from specgen.core.events import Source
from specgen.core.tokens import Tokens
from specgen.engine.drafters.interface import Plan, Proposal, Verdict
from specgen.nn.interface import LanguageModel


class ModelDrafter:
    """Proposes what the draft model picks, with the target's own sampler.

    The draft draws with the same noise as the target, so that it guesses the target's draw and not only its
    distribution. `shared_vocab` is the number of leading ids that both models know: nothing beyond is proposed.
    `context_length` is the draft's own: past it the draft has nothing to say.

    A guess need not have read everything. Where reading the whole context is not worth its time (see Plan.draft), the
    draft reads the end of it.
    """

    def __init__(self, model: LanguageModel, shared_vocab: int, context_length: int) -> None:
        self._model = model
        self._shared_vocab = min(shared_vocab, model.vocab_size)
        self._context_length = context_length
        self._readable = Tokens()
        self._context = Tokens()
        self._read = Tokens()
        # What the model is reading: all of the context, or a copy of its ids from `_start` on.
        self._start = 0
        self._part = Tokens()

    def propose(self, context: Tokens, plan: Plan) -> Proposal:
        room = self._context_length - len(context) + 1
        if room <= 0 or plan.limit <= 0 or not self._can_read(context):
            return Proposal()
        recent = len(context) - context.common_prefix(self._read)
        unread = len(context) if self._start else recent
        limit, reading = plan.draft(unread, recent)
        limit = min(limit, plan.limit, room)
        if limit <= 0:
            return Proposal()
        self._read = Tokens()  # stands until the model has read: an exception may have cost its cache
        view, read = self._view(context, unread, recent, reading)
        drafted: list[int] = []
        confidences: list[float] = []
        going_on = True
        while going_on:
            row = self._model.forward(view + drafted, 1)[:, : self._shared_vocab]
            before = context + drafted
            drafted += plan.sampler.pick(row, before)
            confidences.append(_probability(plan.sampler.narrow(row[0], before), drafted[-1]))
            going_on = len(drafted) < limit and drafted[-1] not in plan.end_ids and plan.goes_on(confidences)
            going_on = going_on and not plan.sampler.is_settled(context + drafted)
        self._read = context + drafted[:-1]
        sources: tuple[Source, ...] = tuple("draft" for _ in drafted)
        return Proposal(tuple(drafted), sources, tuple(confidences), read)

    def observe(self, verdict: Verdict) -> None:
        pass

    def _view(self, context: Tokens, unread: int, recent: int, reading: int) -> tuple[Tokens, int]:
        """What the model is to read, and how much of it is new to it."""
        shared = context.common_prefix(self._context)
        goes_on = shared == len(self._context)
        self._context = context
        if unread <= reading:
            self._start, self._part = 0, Tokens()
            return context, unread
        if self._start and goes_on and recent <= reading <= len(context) - self._start:
            self._part = self._part.grow(context.ids(shared))
            return self._part, recent
        reading = max(1, reading)
        self._start = len(context) - reading
        self._part = Tokens(context.ids(self._start))
        return self._part, reading

    def _can_read(self, context: Tokens) -> bool:
        """Whether every id of `context` is in the draft's vocabulary; looks only at what is new."""
        new = context.ids(context.common_prefix(self._readable))
        if any(token >= self._model.vocab_size for token in new):
            return False
        self._readable = context
        return True


def _probability(row: torch.Tensor, token: int) -> float:
    """Of `token` under the softmax of `row`, float32 [vocab]."""
    return float(torch.exp(row[token] - torch.logsumexp(row, -1)))
