"""Measure what keyed noise costs in acceptance, compared with rejection sampling.

    python docs/bench/coupling.py TARGET DRAFT

Rejection sampling (Leviathan et al. 2023) accepts with probability sum(min(p, q)), which no rule exceeds. With keyed
noise a token is accepted if target and draft draw the same one. Both are measured at temperature 1, the second over
three seeds.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from texts import FILES, load, score_both, texts

from specgen.core.tokens import Tokens
from specgen.core.types import EngineOptions, SamplingParams
from specgen.engine.sampling.sampler import Sampler
from specgen.session.pair import Pair

SEEDS = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Coupling:
    """Shares of `tokens` positions: `accepted` with keyed noise, and `bound`, the mean of sum(min(p, q))."""

    tokens: int
    accepted: float
    bound: float


@torch.inference_mode()
def measure_coupling(pair: Pair, kind: str) -> Coupling:
    """Compare the draws of target and draft after every token of the texts of a kind."""
    draft = pair.draft
    if draft is None:
        raise SystemExit("name a draft model")
    same = tokens = 0
    bound = 0.0
    for ids in texts(kind, pair.tokenizer, min(pair.context_length, draft.context_length or pair.context_length)):
        for start, *both in score_both(pair.target, draft, ids):
            target, guess = (logits[:, : pair.shared_vocab] for logits in both)
            bound += torch.minimum(target.softmax(-1), guess.softmax(-1)).sum().item()
            tokens += len(target)
            same += sum(equal_draws(target, guess, ids, start, seed) for seed in SEEDS)
    return Coupling(tokens, same / (len(SEEDS) * tokens), bound / tokens)


def equal_draws(target: torch.Tensor, guess: torch.Tensor, ids: Sequence[int], start: int, seed: int) -> int:
    """Count the rows in which both draw the same token. The first row follows position `start`."""
    sampler = Sampler(SamplingParams(temperature=1.0, seed=seed), 0)
    before, following = Tokens(ids[: start + 1]), ids[start + 1 : start + len(target)]
    draws = [sampler.pick(rows, before, following) for rows in (target, guess)]
    return sum(one == other for one, other in zip(*draws, strict=True))


def main() -> None:
    """Read the command line and print a row for each kind of text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("draft")
    arguments = parser.parse_args()
    pair = load(arguments.target, arguments.draft, EngineOptions())
    print("| text | tokens | same draw | sum of min(p, q) | ratio |\n| --- | --- | --- | --- | --- |")
    for kind in FILES:
        found = measure_coupling(pair, kind)
        ratio = found.accepted / found.bound
        print(f"| {kind} | {found.tokens} | {found.accepted:.3f} | {found.bound:.3f} | {ratio:.3f} |", flush=True)


if __name__ == "__main__":
    main()
