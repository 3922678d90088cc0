"""Contexts that were computed before, beside the one in use: what many callers of one model share."""

import threading

import torch

from specgen.core.tokens import Tokens

# Losing so few positions, as every round does with a proposal, is never worth a second context.
_FEW = 64


class ContextStore:
    """Contexts with their keys and values, at most so many bytes; the one that was used longest ago goes first.

    Several models may share the room, each in a thread of its own: an `owner` finds its own contexts alone.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._contexts: list[tuple[object, Tokens, list[torch.Tensor]]] = []
        self._lock = threading.Lock()

    def choose(
        self, owner: object, tokens: Tokens, cached: Tokens, caches: list[torch.Tensor]
    ) -> tuple[Tokens, list[torch.Tensor]]:
        """What to roll back and go on from for `tokens`, given the context in use, which is kept if it gives way.

        It is the context that shares most with `tokens`. Where rolling back would lose more of it than is shared, it
        is kept as it is, and what is shared of it copied.
        """
        shared = tokens.common_prefix(cached)
        if len(cached) - shared <= _FEW:
            return cached, caches
        with self._lock:
            own = [entry for entry in self._contexts if entry[0] is owner]
            lengths = [tokens.common_prefix(context) for _, context, _ in own]
            if lengths and max(lengths) > shared:
                shared = max(lengths)
                chosen = own[lengths.index(shared)]
                self._contexts = [entry for entry in self._contexts if entry is not chosen]
                self._keep(owner, cached, caches)
                _, cached, caches = chosen
            if len(cached) - shared <= max(_FEW, shared) or not self._keep(owner, cached, caches):
                return cached, caches
        return cached.prefix(shared), [_copy(cache, shared) for cache in caches] if shared else []

    def clear(self, owner: object) -> None:
        with self._lock:
            self._contexts = [entry for entry in self._contexts if entry[0] is not owner]

    def _keep(self, owner: object, cached: Tokens, caches: list[torch.Tensor]) -> bool:
        """Whether there is room for it, others going where need be."""
        if _bytes(caches) > self._size:
            return False
        self._contexts.append((owner, cached, caches))
        while sum(_bytes(held) for _, _, held in self._contexts) > self._size:
            del self._contexts[0]
        return True


def _bytes(caches: list[torch.Tensor]) -> int:
    return sum(cache.nbytes for cache in caches)


def _copy(cache: torch.Tensor, positions: int) -> torch.Tensor:
    """The first `positions` of a cache [2, kv_heads, capacity, head_size], the rest zeros."""
    copied = torch.zeros_like(cache)
    copied[:, :, :positions] = cache[:, :, :positions]
    return copied
