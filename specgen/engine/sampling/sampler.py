"""Sampling as a pure function of logits, seed and position.

token = argmax(log p + Gumbel noise), where p is the warped softmax of the logits. By the Gumbel-max trick the token is
distributed as p. The noise is keyed by (seed, position, token id). So the same logits at the same position give the
same token in verification, in drafting, and in a run without a draft. The order of the warps is that of transformers'
`generate`: penalties, temperature, top-k, top-p, min-p. A constraint removes tokens before the warps, so that the warps
apply to the tokens that remain.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from specgen.core.errors import UnsupportedModel
from specgen.core.tokens import Tokens
from specgen.core.types import SamplingParams
from specgen.engine.sampling.constraint import Follower
from specgen.engine.sampling.device import ROWS, SHORTLIST, fill_rows, pick_rows
from specgen.engine.sampling.noise import gumbel
from specgen.engine.sampling.penalties import Penalties

# Temperatures beyond these would become 0 or infinity in float32, and then make NaN.
_COLDEST, _HOTTEST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max


class NonFiniteLogits(UnsupportedModel):
    """The logits of a model are NaN, or the largest is infinite: no token can be picked from them."""

    def __init__(
        self, role: str = "target", hint: str = "try --dtype float32, or download the model again", name: str = ""
    ) -> None:
        named = f" {name}" if name else ""
        super().__init__(
            f"the {role} model{named} computes no usable scores: its logits are NaN or infinite", hint=hint
        )
        self.role = role


def warp(logits: torch.Tensor, params: SamplingParams) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens of one row that temperature, top-k, top-p and min-p keep.

    logits: float32 [vocab], penalties applied. The temperature must be above 0. Returns (log-probabilities up to a
    constant, ids), both [kept]. They are in falling order of probability if top-k or top-p sorted them. Raises
    NonFiniteLogits.
    """
    largest = logits.max()  # NaN if any logit is
    if not largest.isfinite():
        raise NonFiniteLogits
    # Subtract before the division: a tiny temperature then overflows to -inf only.
    scores = (logits - largest) / min(max(params.temperature, _COLDEST), _HOTTEST)
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
        likely = scores >= scores.max() + math.log(params.min_p)
        scores, ids = scores[likely], ids[likely]
    return scores, ids


def _nucleus(probabilities: torch.Tensor, top_p: float) -> int:
    """Number of leading `probabilities`, in falling order, that reach `top_p` (Holtzman et al. 2020); at least 1."""
    before = torch.cumsum(probabilities, -1) - probabilities
    return max(1, int((before < top_p).sum()))


def _top_p(scores: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The nucleus of a whole vocabulary. Sorts it only if the shortlist holds less than `top_p` of the mass."""
    total = torch.logsumexp(scores, -1)
    top, ids = torch.topk(scores, min(SHORTLIST, scores.numel()))
    probabilities = torch.exp(top - total)
    if top.numel() < scores.numel() and float(probabilities.sum()) < top_p:
        top, ids = torch.sort(scores, descending=True)
        probabilities = torch.exp(top - total)
    kept = _nucleus(probabilities, top_p)
    return top[:kept], ids[:kept]


class Sampler:
    """Picks the token of each position: a function of the logits and the context."""

    def __init__(self, params: SamplingParams, prompt_length: int, constraint: Follower | None = None) -> None:
        self.params = params
        self._penalties = Penalties(params, prompt_length) if params.penalised else None
        self._constraint = constraint

    def pick(self, logits: torch.Tensor, context: Tokens, drafted: Sequence[int] = ()) -> list[int]:
        """The token of every row.

        logits: float32 [rows, vocab], rows = len(drafted) + 1. Row i scores the token after `context + drafted[:i]`.
        With a constraint the picks end with the first that differs from its drafted token, because the constraint
        may be unable to follow the drafted tokens after it. Raises NonFiniteLogits.
        """
        if self._constraint is not None:
            picks: list[int] = []
            for i, row in enumerate(logits):
                picks.append(self._pick_one(row, context + drafted[:i]))
                if picks[i : i + 1] != list(drafted[i : i + 1]):
                    break
            return picks
        if logits.device.type != "cpu":
            return self._pick_in_groups(self._penalise(logits, context, drafted), context, drafted)
        if self.params.greedy and self._penalties is None:
            return _largest(logits)
        return [self._pick_one(row, context + drafted[:i]) for i, row in enumerate(logits)]

    def draft(self, row: torch.Tensor, context: Tokens) -> tuple[int, float]:
        """The token that `pick` picks, and its probability under the softmax of `row`, float32 [1, vocab].

        The softmax is over the tokens that the constraint allows. Raises NonFiniteLogits.
        """
        if row.device.type != "cpu" and self._constraint is None:
            return self._pick_on_device(self._penalise(row, context, ()), context, row)[0]
        [token] = self.pick(row, context)
        scores = self.narrow(row[0], context)
        return token, float(torch.exp(scores[token] - torch.logsumexp(scores, -1)))

    def narrow(self, row: torch.Tensor, context: Tokens) -> torch.Tensor:
        """`row`, float32 [vocab], the scores after `context`, with -inf for the tokens that the constraint forbids."""
        return row if self._constraint is None else self._constraint.mask(row, context)

    def is_forced(self, context: Tokens) -> bool:
        """Whether the constraint allows exactly one token after `context`, so that drafting it wastes time."""
        return self._constraint is not None and bool(self._constraint.forced(context))

    def _penalise(self, logits: torch.Tensor, context: Tokens, drafted: Sequence[int]) -> torch.Tensor:
        """`logits` [rows, vocab] with the penalties of each row's own context."""
        penalties = self._penalties
        if penalties is None:
            return logits
        return torch.stack([penalties.apply(row, context + drafted[:i]) for i, row in enumerate(logits)])

    def _pick_in_groups(self, logits: torch.Tensor, context: Tokens, drafted: Sequence[int]) -> list[int]:
        """The token of every row of `logits`, float32 [rows, vocab], penalties applied, on an accelerator."""
        picks: list[int] = []
        for start in range(0, len(logits), ROWS):
            rows = fill_rows(logits[start : start + ROWS], self.params)
            picks += [token for token, _ in self._pick_on_device(rows, context + drafted[:start])]
        return picks[: len(logits)]

    def _pick_on_device(
        self, logits: torch.Tensor, context: Tokens, scores: torch.Tensor | None = None
    ) -> list[tuple[int, float]]:
        """The token of every row of `logits`, float32 [rows, vocab], and its probability under `scores` if given.

        All of them take one transfer from the device.
        """
        temperature = min(max(self.params.temperature, _COLDEST), _HOTTEST)
        for whole in (False, True):
            picks, complete = pick_rows(logits, self.params, len(context), temperature=temperature, whole=whole)
            likely = torch.zeros_like(picks, dtype=torch.float32)
            if scores is not None:
                likely = (scores.gather(1, picks.clamp(min=0)[:, None])[:, 0] - scores.logsumexp(-1)).exp()
            # Not every device has float64. Ids are below 2**24, so that float32 holds them exactly.
            found = torch.stack([picks.float(), complete.float(), likely], 1).tolist()
            if any(token < 0 for token, _, _ in found):
                raise NonFiniteLogits
            if all(complete for _, complete, _ in found):
                break
        return [(int(token), probability) for token, _, probability in found]

    def _pick_one(self, row: torch.Tensor, context: Tokens) -> int:
        if self._penalties is not None:
            row = self._penalties.apply(row, context)
        row = self.narrow(row, context)
        if self.params.greedy:
            return _largest(row[None])[0]
        scores, ids = warp(row, self.params)
        return int(ids[torch.argmax(scores + gumbel(self.params.seed, len(context), ids))])


def _largest(logits: torch.Tensor) -> list[int]:
    """The id of the largest logit of every row, float32 [rows, vocab]. Raises NonFiniteLogits."""
    ids = logits.argmax(-1, keepdim=True)  # of a NaN if there is one; max() would wait for threads in small rows
    usable = logits.gather(-1, ids).isfinite()
    picks: list[int] = torch.where(usable, ids, -1)[:, 0].tolist()  # one transfer from the device for all rows
    if -1 in picks:
        raise NonFiniteLogits
    return picks


class Scores(NamedTuple):
    """The log-probability of a token, and the likeliest (id, log-probability) at its position, in falling order."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@torch.inference_mode()
def log_probabilities(logits: torch.Tensor, tokens: Sequence[int], top: int) -> tuple[Scores, ...]:
    """The scores of `tokens` with the `top` likeliest ids beside each.

    logits: float32 [rows, vocab], before any warp; row i is the one that token i was picked from. Natural logarithms.
    """
    logs = torch.log_softmax(logits[: len(tokens)], -1)
    chosen = torch.tensor(tokens, device=logs.device)[:, None]
    values, ids = logs.topk(min(top, logs.shape[1]))
    return tuple(
        Scores(logprob, tuple(zip(likely, falling, strict=True)))
        for logprob, likely, falling in zip(
            logs.gather(1, chosen)[:, 0].tolist(), ids.tolist(), values.tolist(), strict=True
        )
    )
