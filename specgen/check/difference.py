"""Finds the first difference of two texts and tells a rounding tie from a bug.

A position may score with different last bits when the pass has a different width, so two tokens with nearly equal
scores may swap. It is a tie if the scores of both runs differ by no more than rounding and each run picked the token
that its own scores give. Anything else is a bug in a cache, a kernel or the loop.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from specgen.core.tokens import Tokens
from specgen.core.types import SamplingParams
from specgen.engine.sampling.noise import gumbel
from specgen.engine.sampling.sampler import Sampler
from specgen.nn.interface import ForwardCall, LanguageModel, Runner
from specgen.nn.wrapper import RunnerWrapper

# Largest difference between two widths, in roundings of the largest score. A 16-bit model rounds between operations and
# accumulates in float32. A float32 model also rounds in its sums over thousands of products.
_ROUNDINGS_16 = 4
_ROUNDINGS_32 = 64


class CallRecorder(RunnerWrapper):
    """A target that records its calls, so that each can be repeated."""

    def __init__(self, model: Runner) -> None:
        super().__init__(model)
        self.calls: list[ForwardCall] = []

    def forward_many(self, calls: Sequence[ForwardCall]) -> list[torch.Tensor]:
        self.calls += calls
        return super().forward_many(calls)


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """The token ids of a run and its calls of the target."""

    ids: tuple[int, ...]
    calls: Sequence[tuple[Tokens, int]]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first token of an answer that differs. `position` counts from 0.

    `plain` and `drafted` are token ids, or None for a text that has ended. `margin` is the logit of `plain` minus that
    of `drafted`, computed one token per pass. `drawn` adds the sampling noise, in logits; it is None if greedy. `noise`
    is the change of the margin at `width`, the width of the pass that decided the token with speculation. These four
    are None if one text has ended. `tie` is True if rounding explains the difference.
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
    plain: GeneratedText,
    drafted: GeneratedText,
    params: SamplingParams,
    dtype: torch.dtype,
) -> Difference | None:
    """Return the first difference between two texts after `prompt`, or None if they are equal.

    `model` is the target, which computes in `dtype`. The calls of both runs are repeated up to the difference, so that
    each text is compared with the scores that its run saw.
    """
    if plain.ids == drafted.ids:
        return None
    pairs = zip(plain.ids, drafted.ids, strict=False)
    shorter = min(len(plain.ids), len(drafted.ids))
    position = next((at for at, (one, other) in enumerate(pairs) if one != other), shorter)
    if position == shorter:
        # One text ended after the same tokens: scores cannot explain it.
        ids = [text.ids[position] if position < len(text.ids) else None for text in (plain, drafted)]
        return Difference(position, ids[0], ids[1])
    return _classify(model, Tokens([*prompt, *plain.ids[:position]]), position, plain, drafted, params, dtype)


def _classify(
    model: LanguageModel,
    context: Tokens,
    position: int,
    plain: GeneratedText,
    drafted: GeneratedText,
    params: SamplingParams,
    dtype: torch.dtype,
) -> Difference:
    candidates = [plain.ids[position], drafted.ids[position]]
    alone, _ = _row_of(model, plain.calls, len(context))
    beside, width = _row_of(model, drafted.calls, len(context))
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
        drawn=None if params.greedy else margin + _noise_margin(params, len(context), candidates),
        noise=abs(margin - margin_beside),
        width=width,
    )


def _row_of(model: LanguageModel, calls: Sequence[tuple[Tokens, int]], length: int) -> tuple[torch.Tensor, int]:
    """Return the scores [vocab] that decided token `length`, and the width of their pass.

    Several passes may score one position after rejected tokens; the last of them decides.
    """
    at = max(i for i, (tokens, last) in enumerate(calls) if len(tokens) - last < length <= len(tokens))
    model.begin_answer()
    for tokens, last in calls[: at + 1]:
        rows = model.forward(tokens, last)
    tokens, last = calls[at]
    # Copy: a runner may reuse the memory in its next pass.
    return rows[length - len(tokens) + last - 1].to("cpu", torch.float32, copy=True), last


def _rounding(row: torch.Tensor, dtype: torch.dtype) -> float:
    """Largest change of a score of `row` by rounding."""
    largest = float(row[row.isfinite()].abs().max())
    roundings = _ROUNDINGS_32 if dtype == torch.float32 else _ROUNDINGS_16
    return roundings * torch.finfo(dtype).eps * max(1.0, largest)


def _noise_margin(params: SamplingParams, position: int, candidates: Sequence[int]) -> float:
    """The sampling noise in the margin between two tokens, in logits."""
    first, second = gumbel(params.seed, position, torch.tensor(candidates)).tolist()
    return params.temperature * float(first - second)
