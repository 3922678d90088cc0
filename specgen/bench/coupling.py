"""What the shared noise costs in acceptance: how often target and draft draw the same token, over how often they could.

Rejection sampling (Leviathan et al. 2023) accepts with the probability sum(min(p, q)), which no rule exceeds. Here both
models draw by the same keyed noise (engine/sampling.py), and a token is accepted where they draw the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from specgen.bench.texts import score_both, texts
from specgen.core.events import Progress
from specgen.core.progress import Reporting
from specgen.core.tokens import Tokens
from specgen.core.types import SamplingParams
from specgen.engine.sampling.sampler import Sampler
from specgen.nn.interface import Runner
from specgen.session.pair import Pair

SEEDS = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Coupling:
    """Shares of `tokens` positions: `accepted` by this rule, mean over seeds, and `bound`: mean of sum(min(p, q))."""

    tokens: int
    accepted: float
    bound: float


@torch.inference_mode()
def measure_coupling(pair: Pair, draft: Runner, kind: str) -> Reporting[Coupling]:
    """Let target and draft of `pair` predict every token of the texts of a kind at temperature 1."""
    longest = min(pair.context_length, draft.context_length or pair.context_length)
    same = tokens = 0
    bound = 0.0
    for ids in texts(kind, pair.tokenizer, longest):
        yield Progress(f"drawing tokens of {kind}")
        for start, *both in score_both(pair.target, draft, ids):
            target, guess = (logits[:, : pair.shared_vocab] for logits in both)
            bound += torch.minimum(target.softmax(-1), guess.softmax(-1)).sum().item()
            tokens += len(target)
            same += sum(_same(target, guess, ids, start, seed) for seed in SEEDS)
    return Coupling(tokens, same / (len(SEEDS) * tokens), bound / tokens)


def _same(target: torch.Tensor, guess: torch.Tensor, ids: Sequence[int], start: int, seed: int) -> int:
    """In how many rows, of which the first follows position `start`, both draw the same token."""
    sampler = Sampler(SamplingParams(temperature=1.0, seed=seed), 0)
    before, following = Tokens(ids[: start + 1]), ids[start + 1 : start + len(target)]
    draws = [sampler.pick(rows, before, following) for rows in (target, guess)]
    return sum(one == other for one, other in zip(*draws, strict=True))
