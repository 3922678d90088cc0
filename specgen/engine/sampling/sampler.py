"""Sampling as a function: token = argmax(log p + Gumbel noise), p the warped softmax of the logits.

By the Gumbel-max trick the token is distributed as p. The noise is keyed by (seed, position, token id), so the same
logits at the same position give the same token whoever asks: the target that verifies, the draft that guesses, or a
run without a draft. The order of the warps is that of transformers' `generate`: penalties, temperature, top-k, top-p,
min-p. A constraint rules tokens out before the warps, so that they share out what is left.
"""

from collections.abc import Sequence

import torch

from specgen.core.tokens import Tokens
from specgen.core.types import SamplingParams
from specgen.engine.sampling.constraint import Follower
from specgen.engine.sampling.noise import gumbel

# How many of the largest logits are looked at before a vocabulary is sorted: sorting 152 k of them costs 13 ms.
_SHORTLIST = 1024


def warp(logits: torch.Tensor, params: SamplingParams) -> tuple[torch.Tensor, torch.Tensor]:
    """What survives temperature, top-k, top-p and min-p of one row.

    logits: float32 [vocab], penalties applied. Returns (log-probabilities up to a constant, ids): both [kept], in
    falling order of probability wherever top-k or top-p looked at that order. Needs a temperature above 0.
    """
    scores = (logits - logits.max()) / params.temperature  # a tiny temperature overflows only downwards
    if params.top_k > 0:
        scores, ids = torch.topk(scores, min(params.top_k, scores.numel()))
        if params.top_p < 1.0:
            kept = _nucleus(torch.softmax(scores, -1), params.top_p)
            scores, ids = scores[:kept], ids[:kept]
    elif params.top_p < 1.0:
        scores, ids = _top_p(scores, params.top_p)
    else:
        ids = torch.arange(scores.numel(), device=scores.device)
    if params.min_p > 0.0:
        likely = scores >= scores.max() + torch.log(torch.tensor(params.min_p)).item()
        scores, ids = scores[likely], ids[likely]
    return scores, ids


def _nucleus(probabilities: torch.Tensor, top_p: float) -> int:
    """How many of the falling `probabilities` it takes to reach `top_p` (Holtzman et al. 2020); at least one."""
    before = torch.cumsum(probabilities, -1) - probabilities
    return max(1, int((before < top_p).sum()))


def _top_p(scores: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The nucleus of a whole vocabulary; sorts it only where the shortlist does not hold `top_p` of the mass."""
    total = torch.logsumexp(scores, -1)
    top, ids = torch.topk(scores, min(_SHORTLIST, scores.numel()))
    probabilities = torch.exp(top - total)
    if top.numel() < scores.numel() and float(probabilities.sum()) < top_p:
        top, ids = torch.sort(scores, descending=True)
        probabilities = torch.exp(top - total)
    kept = _nucleus(probabilities, top_p)
    return top[:kept], ids[:kept]


class Penalties:
    """Repetition, presence and frequency penalties over a growing context.

    The repetition penalty divides the positive logits of every token seen and multiplies the negative ones, prompt
    included (as transformers does); presence and frequency are subtracted for generated tokens (as OpenAI's API does).
    """

    def __init__(self, params: SamplingParams, prompt_length: int) -> None:
        self._params = params
        self._prompt_length = prompt_length
        self._counted = Tokens()
        self._seen: set[int] = set()
        self._generated: dict[int, int] = {}

    def apply(self, logits: torch.Tensor, context: Tokens) -> torch.Tensor:
        """`logits` [vocab] of the position after `context`, penalised; a new tensor."""
        self._count(context)
        vocab = logits.numel()
        params = self._params
        logits = logits.clone()
        if params.repetition_penalty != 1.0 and self._seen:
            ids = torch.tensor([i for i in self._seen if i < vocab], device=logits.device, dtype=torch.long)
            seen = logits[ids]
            factor = params.repetition_penalty
            logits[ids] = torch.where(seen < 0, seen * factor, seen / factor)
        if self._generated and (params.presence_penalty or params.frequency_penalty):
            pairs = [(i, n) for i, n in self._generated.items() if i < vocab]
            ids = torch.tensor([i for i, _ in pairs], device=logits.device, dtype=torch.long)
            counts = torch.tensor([n for _, n in pairs], device=logits.device, dtype=logits.dtype)
            logits[ids] -= params.presence_penalty + params.frequency_penalty * counts
        return logits

    def _count(self, context: Tokens) -> None:
        """Bring the counts to `context`, from the prefix that it shares with what is counted."""
        shared = context.common_prefix(self._counted)
        for token in self._counted.ids(max(shared, self._prompt_length)):
            self._generated[token] -= 1
            if not self._generated[token]:
                del self._generated[token]
        new = context.ids(shared)
        for token in new[max(0, self._prompt_length - shared) :]:
            self._generated[token] = self._generated.get(token, 0) + 1
        if shared < len(self._counted):
            self._seen = set(context)
        else:
            self._seen.update(new)
        self._counted = context


class Sampler:
    """Picks the token of each position, the same one for whoever asks with the same logits."""

    def __init__(self, params: SamplingParams, prompt_length: int, constraint: Follower | None = None) -> None:
        self.params = params
        self._penalties = Penalties(params, prompt_length) if params.penalised else None
        self._constraint = constraint

    def pick(self, logits: torch.Tensor, context: Tokens, drafted: Sequence[int] = ()) -> list[int]:
        """The token of every row.

        logits: float32 [rows, vocab]; row i scores what follows `context + drafted[:i]`, so there is one row more
        than drafted tokens. Under a constraint the picks end with the first that differs from its drafted token: what
        was drafted after it may be nothing that the constraint can follow.
        """
        picks: list[int]
        if self._constraint is not None:
            picks = []
            for i, row in enumerate(logits):
                picks.append(self._pick_one(row, context + drafted[:i]))
                if picks[i : i + 1] != list(drafted[i : i + 1]):
                    break
            return picks
        if self.params.greedy and self._penalties is None:
            picks = logits.argmax(-1).tolist()  # one transfer from the device, not one a row
            return picks
        return [self._pick_one(row, context + drafted[:i]) for i, row in enumerate(logits)]

    def narrow(self, row: torch.Tensor, context: Tokens) -> torch.Tensor:
        """`row` [vocab], the scores after `context`, as far as the constraint leaves a choice."""
        return row if self._constraint is None else self._constraint.mask(row, context)

    def is_settled(self, context: Tokens) -> bool:
        """Whether the constraint leaves no choice after `context`, so that drafting there is time lost."""
        return self._constraint is not None and bool(self._constraint.forced(context))

    def _pick_one(self, row: torch.Tensor, context: Tokens) -> int:
        if self._penalties is not None:
            row = self._penalties.apply(row, context)
        row = self.narrow(row, context)
        if self.params.greedy:
            return int(row.argmax())
        scores, ids = warp(row, self.params)
        return int(ids[torch.argmax(scores + gumbel(self.params.seed, len(context), ids))])
