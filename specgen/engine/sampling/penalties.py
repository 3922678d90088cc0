"""Repetition, presence and frequency penalties over a growing context."""

import torch

from specgen.core.tokens import Tokens
from specgen.core.types import SamplingParams

_LARGEST = torch.finfo(torch.float32).max


class Penalties:
    """Penalises tokens of the context.

    The repetition penalty divides the positive logits of every token of the context, prompt included, and multiplies
    the negative ones, as transformers does. The presence and frequency penalties are subtracted for generated tokens
    only, as OpenAI's API does.
    """

    def __init__(self, params: SamplingParams, prompt_length: int) -> None:
        self._params = params
        self._prompt_length = prompt_length
        self._counted = Tokens()
        self._seen: set[int] = set()
        self._generated: dict[int, int] = {}

    def apply(self, logits: torch.Tensor, context: Tokens) -> torch.Tensor:
        """A penalised copy of `logits`, float32 [vocab], the scores of the position after `context`.

        Finite logits stay finite: a penalty beyond the range of float32 acts as the largest of that range.
        """
        self._count(context)
        vocab = logits.numel()
        params = self._params
        logits = logits.clone()
        if params.repetition_penalty != 1.0 and self._seen:
            ids = torch.tensor([i for i in self._seen if i < vocab], device=logits.device, dtype=torch.long)
            seen = logits[ids]
            factor = min(max(params.repetition_penalty, 1 / _LARGEST), _LARGEST)
            logits[ids] = _limited(torch.where(seen < 0, seen * factor, seen / factor), seen)
        if self._generated and (params.presence_penalty or params.frequency_penalty):
            pairs = [(i, n) for i, n in self._generated.items() if i < vocab]
            ids = torch.tensor([i for i, _ in pairs], device=logits.device, dtype=torch.long)
            penalties = [params.presence_penalty + params.frequency_penalty * n for _, n in pairs]
            limited = [min(max(each, -_LARGEST), _LARGEST) for each in penalties]
            seen = logits[ids]
            logits[ids] = _limited(seen - torch.tensor(limited, device=logits.device, dtype=logits.dtype), seen)
        return logits

    def _count(self, context: Tokens) -> None:
        """Update the counts to `context`, starting at its common prefix with the last context."""
        shared = context.common_prefix(self._counted)
        for token in self._counted.ids(max(shared, self._prompt_length)):
            self._generated[token] -= 1
            if not self._generated[token]:
                del self._generated[token]
        new = context.ids(shared)
        for token in new[max(0, self._prompt_length - shared) :]:
            self._generated[token] = self._generated.get(token, 0) + 1
        if shared < len(self._counted):
            self._seen = set(context)
        else:
            self._seen.update(new)
        self._counted = context


def _limited(penalised: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """`penalised`, limited to finite numbers if the logit was finite `before`."""
    return torch.where(before.isfinite(), penalised.clamp(-_LARGEST, _LARGEST), penalised)
