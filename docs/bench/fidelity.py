"""Measure the precision of a number format: the predictions of a model against its own weights in float32.

    python docs/bench/fidelity.py MODEL [--quant int8] [--dtype bfloat16]

Both read about 2,500 tokens of prose and code. The divergence is KL(float32 || model), in nats per token.
"""

import argparse
import math
from dataclasses import dataclass, replace

import torch
from texts import FILES, load, score_both, texts

from specgen.core.types import Dtype, EngineOptions, Quant


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Mean and worst divergence over `tokens` tokens, and the perplexity of both models."""

    tokens: int
    divergence: float
    worst: float
    perplexity_float32: float
    perplexity: float


@torch.inference_mode()
def compare_with_float32(model: str, options: EngineOptions) -> Fidelity:
    """Score the same texts with `model` as `options` load it, and in float32."""
    loaded = load(model, "none", options)
    reference = load(model, "none", replace(options, dtype=Dtype.FLOAT32, quant=Quant.NONE))
    totals = torch.zeros(3, dtype=torch.float64)
    tokens, worst = 0, 0.0
    for ids in (ids for kind in FILES for ids in texts(kind, reference.tokenizer, reference.context_length)):
        for start, *both in score_both(reference.target, loaded.target, ids):
            expected, rows = (logits.log_softmax(-1) for logits in both)
            following = torch.tensor(ids[start + 1 : start + 1 + len(rows)])[:, None]
            divergence = (expected.exp() * (expected - rows)).sum(-1)
            likelihoods = [scores.gather(1, following).sum().item() for scores in (expected, rows)]
            totals += torch.tensor([divergence.sum().item(), *likelihoods])
            tokens, worst = tokens + len(rows), max(worst, divergence.max().item())
    mean, expected_mean, rows_mean = (totals / tokens).tolist()
    return Fidelity(tokens, mean, worst, math.exp(-expected_mean), math.exp(-rows_mean))


def main() -> None:
    """Read the command line and print a table of one row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--quant", type=Quant, default=Quant.AUTO)
    parser.add_argument("--dtype", type=Dtype, default=Dtype.AUTO)
    arguments = parser.parse_args()
    found = compare_with_float32(arguments.model, EngineOptions(quant=arguments.quant, dtype=arguments.dtype))
    change = 100 * (found.perplexity / found.perplexity_float32 - 1)
    print("| tokens | mean KL | worst KL | perplexity | change |\n| --- | --- | --- | --- | --- |")
    print(f"| {found.tokens} | {found.divergence:.5f} | {found.worst:.3f} | {found.perplexity:.3f} | {change:+.2f} % |")


if __name__ == "__main__":
    main()
