"""What a number format costs in precision: how far a model's predictions are from those it makes in float32."""

import math
from dataclasses import dataclass, replace

import torch

from specgen.bench.texts import KINDS, score_both, texts
from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.events import Notice, Progress
from specgen.core.progress import Reporting
from specgen.core.types import Dtype, EngineOptions, Quant
from specgen.nn.interface import Runner
from specgen.session.loading import open_pair
from specgen.session.pair import Pair


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
    reference = yield from _open(checkpoint, replace(options, dtype=Dtype.FLOAT32, quant=Quant.NONE))
    totals = torch.zeros(3, dtype=torch.float64)
    tokens, worst = 0, 0.0
    for kind in KINDS:
        yield Progress(f"comparing {checkpoint.ref.source} with float32")
        for ids in texts(kind, reference.tokenizer, reference.context_length):
            for start, *both in score_both(reference.target, model, ids):
                expected, rows = (logits.log_softmax(-1) for logits in both)
                following = torch.tensor(ids[start + 1 : start + 1 + len(rows)])[:, None]
                divergence = (expected.exp() * (expected - rows)).sum(-1)
                likelihoods = [scores.gather(1, following).sum().item() for scores in (expected, rows)]
                totals += torch.tensor([divergence.sum().item(), *likelihoods])
                tokens, worst = tokens + len(rows), max(worst, divergence.max().item())
    mean, expected_mean, rows_mean = (totals / tokens).tolist()
    return Fidelity(tokens, mean, worst, math.exp(-expected_mean), math.exp(-rows_mean))


def _open(checkpoint: Checkpoint, options: EngineOptions) -> Reporting[Pair]:
    """The model of `checkpoint` alone."""
    opening = open_pair(checkpoint.ref, "none", options)
    while True:
        try:
            event = next(opening)
        except StopIteration as opened:
            pair: Pair = opened.value
            return pair
        if isinstance(event, Progress | Notice):
            yield event
