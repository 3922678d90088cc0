"""What a number format costs in precision: how far a model's predictions are from those it makes in float32."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import specgen
from specgen.core import Dtype, EngineOptions, Quant
from specgen.engine.interfaces import Runner
from specgen.engine.tokens import Tokens
from specgen.events import Notice, Progress
from specgen.loading import open_pair
from specgen.models.checkpoint import Checkpoint, Reporting

# The prose is a piece of The Road to Oz (L. Frank Baum, 1909); the code is what every installation has.
_TEXTS = ("bench/prose.txt", "engine/decode.py", "engine/sampling.py")
# Positions are compared in pieces: a row of scores is as wide as the vocabulary.
_PIECE = 128


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Over `tokens` tokens of prose and code. `divergence` and `worst` are KL(float32 || model) in nats a token."""

    tokens: int
    divergence: float
    worst: float
    perplexity_float32: float
    perplexity: float


@torch.inference_mode()
def compare_with_float32(checkpoint: Checkpoint, model: Runner, options: EngineOptions) -> Reporting[Fidelity]:
    """Run the same texts through `model`, read from `checkpoint`, and through its weights in float32, loaded beside."""
    exact = open_pair(checkpoint.ref, "none", replace(options, dtype=Dtype.FLOAT32, quant=Quant.NONE))
    while True:
        try:
            event = next(exact)
        except StopIteration as opened:
            reference = opened.value
            break
        if isinstance(event, Progress | Notice):
            yield event
    totals = torch.zeros(3, dtype=torch.float64)
    tokens, worst = 0, 0.0
    for name in _TEXTS:
        yield Progress(f"comparing {checkpoint.ref.source} with float32")
        text = (Path(specgen.__file__).parent / name).read_text(encoding="utf-8")
        ids = reference.tokenizer.encode(text, special=True)[: reference.context_length]
        for expected, rows, following in _pieces(reference.target, model, ids):
            divergence = (expected.exp() * (expected - rows)).sum(-1)
            likelihoods = [scores.gather(1, following).sum().item() for scores in (expected, rows)]
            totals += torch.tensor([divergence.sum().item(), *likelihoods])
            tokens, worst = tokens + len(rows), max(worst, divergence.max().item())
    mean, expected_mean, rows_mean = (totals / tokens).tolist()
    return Fidelity(tokens, mean, worst, math.exp(-expected_mean), math.exp(-rows_mean))


def _pieces(reference: Runner, model: Runner, ids: list[int]) -> Iterator[tuple[torch.Tensor, ...]]:
    """The log-probabilities [rows, vocab] of both after every token but the last, and the ids [rows, 1] that follow."""
    context = Tokens(ids)
    for start in range(0, len(ids) - 1, _PIECE):
        end = min(start + _PIECE, len(ids) - 1)
        scores = [each.forward(context.prefix(end), end - start).logits.log_softmax(-1) for each in (reference, model)]
        yield (*scores, torch.tensor(ids[start + 1 : end + 1])[:, None])
