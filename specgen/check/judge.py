"""Where two texts part: is it a tie of floating point, or a bug?

A position scores in other last bits when it is computed beside others, so two tokens that score nearly alike may change
places. Then the scores of both runs differ by no more than rounding explains, and each run wrote what its own scores
say. Everything else is a bug: in a cache, a kernel, or the loop.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from specgen.core.tokens import Tokens
from specgen.core.types import SamplingParams
from specgen.engine.sampling.noise import gumbel
from specgen.engine.sampling.sampler import Sampler
from specgen.nn.interface import LanguageModel, Runner

# Roundings of the largest score that two widths may differ by. A 16-bit model rounds between its operations and adds up
# in float32; in float32 the sums over thousands of products round, too.
_ROUNDINGS_16 = 4
_ROUNDINGS_32 = 64


class Recorder:
    """A target that remembers its calls, so that any of them can be computed once more as it was."""

    def __init__(self, model: Runner) -> None:
        self._model = model
        self.calls: list[tuple[Tokens, int]] = []

    @property
    def vocab_size(self) -> int:
        return self._model.vocab_size

    @property
    def can_verify(self) -> bool:
        return self._model.can_verify

    @property
    def context_length(self) -> int | None:
        return self._model.context_length

    def forward(self, tokens: Tokens, last: int) -> torch.Tensor:
        self.calls.append((tokens, last))
        return self._model.forward(tokens, last)


@dataclass(frozen=True, slots=True)
class Text:
    """What a run wrote, and the calls of the target that it took."""

    ids: tuple[int, ...]
    calls: Sequence[tuple[Tokens, int]]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first token of an answer that differs, counted from 0; None for a text that has ended there.

    `margin` is the target's logit of `plain` less that of `drafted` after the common prefix, one token a pass; `drawn`
    the same with the seed's noise, in logits, None when greedy. `noise` is how far the margin moves at the width of the
    run with speculation. All are None where one of the texts has ended. `width` is that of the pass that settled the
    token with speculation. `tie` is whether floating point explains the difference.
    """

    position: int
    plain: int | None
    drafted: int | None
    tie: bool = False
    margin: float | None = None
    drawn: float | None = None
    noise: float | None = None
    width: int | None = None


def compare(
    model: LanguageModel,
    prompt: Sequence[int],
    plain: Text,
    drafted: Text,
    params: SamplingParams,
    dtype: torch.dtype,
) -> Difference | None:
    """The first difference between two texts after `prompt`, judged; None where they are the same.

    `model` is the target, computing in `dtype`. Both runs are computed again up to there, call by call, so that each is
    judged by the scores that it saw.
    """
    if plain.ids == drafted.ids:
        return None
    pairs = zip(plain.ids, drafted.ids, strict=False)
    shorter = min(len(plain.ids), len(drafted.ids))
    position = next((at for at, (one, other) in enumerate(pairs) if one != other), shorter)
    if position == shorter:
        # One text goes on where the other ended after the same tokens: no score says that.
        ids = [text.ids[position] if position < len(text.ids) else None for text in (plain, drafted)]
        return Difference(position, ids[0], ids[1])
    return _judge(model, Tokens([*prompt, *plain.ids[:position]]), position, plain, drafted, params, dtype)


def _judge(
    model: LanguageModel,
    context: Tokens,
    position: int,
    plain: Text,
    drafted: Text,
    params: SamplingParams,
    dtype: torch.dtype,
) -> Difference:
    candidates = [plain.ids[position], drafted.ids[position]]
    alone, _ = _seen(model, plain.calls, len(context))
    beside, width = _seen(model, drafted.calls, len(context))
    sampler = Sampler(params, len(context) - position)
    picks = [sampler.pick(row[None], context)[0] for row in (alone, beside)]
    moved = (alone[candidates] - beside[candidates]).abs().max()
    margin, margin_beside = (float(row[candidates[0]] - row[candidates[1]]) for row in (alone, beside))
    return Difference(
        position,
        plain=candidates[0],
        drafted=candidates[1],
        tie=picks == candidates and float(moved) <= _rounding(alone, dtype),
        margin=margin,
        drawn=None if params.greedy else margin + _drawn(params, len(context), candidates),
        noise=abs(margin - margin_beside),
        width=width,
    )


def _seen(model: LanguageModel, calls: Sequence[tuple[Tokens, int]], length: int) -> tuple[torch.Tensor, int]:
    """The row [vocab] that settled what follows the first `length` tokens, and the width of its pass.

    Earlier passes scored the same position after tokens that were rejected; the last one that did settled it.
    """
    at = max(i for i, (tokens, last) in enumerate(calls) if len(tokens) - last < length <= len(tokens))
    for tokens, last in calls[: at + 1]:
        rows = model.forward(tokens, last)
    tokens, last = calls[at]
    # A copy: a runner may write its next pass where this one stands.
    return rows[length - len(tokens) + last - 1].to("cpu", torch.float32, copy=True), last


def _rounding(row: torch.Tensor, dtype: torch.dtype) -> float:
    """How far rounding may move a score of `row`."""
    largest = float(row[row.isfinite()].abs().max())
    roundings = _ROUNDINGS_32 if dtype == torch.float32 else _ROUNDINGS_16
    return roundings * torch.finfo(dtype).eps * max(1.0, largest)


def _drawn(params: SamplingParams, position: int, candidates: Sequence[int]) -> float:
    """What the seed's noise adds to the margin between two tokens, in logits."""
    first, second = gumbel(params.seed, position, torch.tensor(candidates)).tolist()
    return params.temperature * float(first - second)
