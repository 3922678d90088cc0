"""Sampling of several rows at once on an accelerator.

It takes few launches and never waits for the device. The rule is that of sampler.py. Tokens that a warp removes get a
score of -inf instead of leaving the row, so that every shape is known in advance.
"""

import math

import torch

from specgen.core.types import SamplingParams
from specgen.engine.sampling.noise import gumbel_rows

# Number of largest logits that top-p inspects before it sorts the vocabulary. Sorting 152,000 logits takes a CPU 13 ms.
SHORTLIST = 1024
# Rows that are picked together: kernels for 1 row, for 8 and for 16 rows may sum in another order.
ROWS = 8


def fill_rows(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """`logits` [rows, vocab] for `pick_rows`, so that the picks of a row do not depend on how many rows are picked.

    It repeats the last row where a warp sums or sorts a row. What is picked for the added rows means nothing.
    """
    missing = -len(logits) % ROWS
    if not missing or params.greedy or (params.top_k == 0 and params.top_p == 1.0):
        return logits
    return torch.cat([logits, logits[-1:].expand(missing, -1)])


def pick_rows(
    logits: torch.Tensor, params: SamplingParams, position: int, *, temperature: float, whole: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The token of every row, and whether its warp was complete; both [rows], on the device.

    logits: float32 [rows, vocab], penalties applied. position: that of the first row's token. A token is -1 where the
    logits are NaN, or the largest is infinite. A warp is incomplete if the SHORTLIST holds less than `top_p` of the
    mass: then ask again with `whole`, which sorts the vocabulary.
    """
    largest, best = logits.max(-1, keepdim=True)  # NaN if any logit of the row is
    complete = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    usable = largest[:, 0].isfinite()
    if params.greedy:
        return torch.where(usable, best[:, 0], -1), complete
    scores = (logits - largest) / temperature
    vocab = scores.shape[1]
    mass = None
    if params.top_k > 0:
        scores, ids = scores.topk(min(params.top_k, vocab))
    elif params.top_p < 1.0:
        mass = scores.logsumexp(-1, keepdim=True)
        scores, ids = scores.sort(descending=True) if whole else scores.topk(min(SHORTLIST, vocab))
    else:
        ids = torch.arange(vocab, device=logits.device).expand_as(scores)
    if params.top_p < 1.0:
        likely = (scores - (scores.logsumexp(-1, keepdim=True) if mass is None else mass)).exp()
        before = likely.cumsum(-1) - likely
        kept = before < params.top_p
        kept[:, 0] = True
        if mass is not None and scores.shape[1] < vocab:
            complete = likely.sum(-1) >= params.top_p
        scores = scores.masked_fill(~kept, -torch.inf)
    if params.min_p > 0.0:
        floor = scores.amax(-1, keepdim=True) + math.log(params.min_p)
        scores = scores.masked_fill(scores < floor, -torch.inf)
    noisy = scores + gumbel_rows(params.seed, position, ids)
    picks = ids.gather(1, noisy.argmax(-1, keepdim=True))[:, 0]
    return torch.where(usable, picks, -1), complete
