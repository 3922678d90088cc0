"""Measure the precision of number formats: the predictions of a model against its own weights in float32.

    python docs/bench/fidelity.py MODEL [--quant int8 int4] [--dtype bfloat16] [--other FILE.gguf ...] [--tokens N]

All read about 2,500 tokens of prose and code, or the first N of each text. The divergence is KL(float32 || model), in
nats per token. `--other` compares files that were made of the same weights, such as a Q4_K_M of llama-quantize. Their
values are read in float32, so they have no error of activations.
"""

import argparse
import math
from dataclasses import dataclass

import torch
from texts import FILES, load, score_both, texts

from specgen.core.types import Dtype, EngineOptions, Quant
from specgen.session.pair import Pair

_FLOAT32 = EngineOptions(dtype=Dtype.FLOAT32, quant=Quant.NONE)


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Mean and worst divergence over `tokens` tokens, and the perplexity of both models."""

    tokens: int
    divergence: float
    worst: float
    perplexity_float32: float
    perplexity: float


@torch.inference_mode()
def compare(reference: Pair, loaded: Pair, longest: int | None = None) -> Fidelity:
    """Score the same texts with both targets."""
    totals = torch.zeros(3, dtype=torch.float64)
    tokens, worst = 0, 0.0
    limit = min(longest or reference.context_length, reference.context_length)
    for ids in (ids for kind in FILES for ids in texts(kind, reference.tokenizer, limit)):
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
    """Read the command line and print a table with a row for each format and file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--quant", type=Quant, nargs="+", default=[Quant.AUTO])
    parser.add_argument("--dtype", type=Dtype, default=Dtype.AUTO)
    parser.add_argument("--other", nargs="+", default=[])
    parser.add_argument("--tokens", type=int)
    arguments = parser.parse_args()
    candidates = [
        (quant.value, arguments.model, EngineOptions(quant=quant, dtype=arguments.dtype)) for quant in arguments.quant
    ]
    candidates += [(other, other, _FLOAT32) for other in arguments.other]
    reference = load(arguments.model, "none", _FLOAT32)
    print("| format | tokens | mean KL | worst KL | perplexity | change |\n| --- | --- | --- | --- | --- | --- |")
    for name, model, options in candidates:
        found = compare(reference, load(model, "none", options), arguments.tokens)
        change = 100 * (found.perplexity / found.perplexity_float32 - 1)
        figures = f"{found.divergence:.5f} | {found.worst:.3f} | {found.perplexity:.3f} | {change:+.2f} %"
        print(f"| {name} | {found.tokens} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
