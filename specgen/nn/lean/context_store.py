"""A store of earlier contexts with their keys and values, shared by all callers of a model."""

import threading

import torch

from specgen.core.tokens import Tokens

# Positions that may be lost without storing a context. Every round loses a few with its rejected tokens.
_FEW = 64


class ContextStore:
    """Contexts with their keys and values, at most `size` bytes. The least recently used one is dropped first.

    Several models in several threads may share one store. An `owner` finds only its own contexts.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._contexts: list[tuple[object, Tokens, list[torch.Tensor]]] = []
        self._lock = threading.Lock()

    def choose(
        self, owner: object, tokens: Tokens, cached: Tokens, caches: list[torch.Tensor]
    ) -> tuple[Tokens, list[torch.Tensor]]:
        """The context and caches to continue from for `tokens`, given those in use.

        Chooses the context with the longest common prefix. The one in use is stored if another is chosen. If rolling
        back would lose more positions than are shared, the shared part is copied and the original stored.
        """
        shared = tokens.common_prefix(cached)
        if caches and len(cached) - shared <= _FEW:
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
        return cached.prefix(shared), [cache.clone() for cache in caches] if shared else []

    def longest_prefix(self, owner: object, tokens: Tokens) -> int:
        """The most leading `tokens` that a context of `owner` has."""
        with self._lock:
            lengths = [tokens.common_prefix(context) for each, context, _ in self._contexts if each is owner]
        return max(lengths, default=0)

    def clear(self, owner: object) -> None:
        with self._lock:
            self._contexts = [entry for entry in self._contexts if entry[0] is not owner]

    def _keep(self, owner: object, cached: Tokens, caches: list[torch.Tensor]) -> bool:
        """Store a context and drop older ones for it. False if it exceeds the size of the store."""
        if not caches:
            return True
        if _bytes(caches) > self._size:
            return False
        self._contexts.append((owner, cached, caches))
        while sum(_bytes(held) for _, _, held in self._contexts) > self._size:
            del self._contexts[0]
        return True


def _bytes(caches: list[torch.Tensor]) -> int:
    return sum(cache.nbytes for cache in caches)
