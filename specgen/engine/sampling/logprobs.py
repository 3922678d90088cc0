"""How likely the target held its own tokens: natural logs of the softmax of its logits, before anything warps them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch


class Scores(NamedTuple):
    """Of one token: its log-probability, and the likeliest ids at its position with theirs, in falling order."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@torch.inference_mode()
def log_probabilities(logits: torch.Tensor, tokens: Sequence[int], top: int) -> tuple[Scores, ...]:
    """The scores of `tokens`, each by the row of `logits`, float32 [rows, vocab], that it was picked from."""
    logs = torch.log_softmax(logits[: len(tokens)], -1)
    chosen = torch.tensor(tokens, device=logs.device)[:, None]
    values, ids = logs.topk(min(top, logs.shape[1]))
    return tuple(
        Scores(logprob, tuple(zip(likely, falling, strict=True)))
        for logprob, likely, falling in zip(
            logs.gather(1, chosen)[:, 0].tolist(), ids.tolist(), values.tolist(), strict=True
        )
    )
