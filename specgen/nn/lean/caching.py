"""The invisible cache of the lean decoder: which tokens a call must feed, and in which passes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from specgen.core.tokens import Tokens
from specgen.nn.interface import SharedParts, StateListener
from specgen.nn.lean.context_store import ContextStore
from specgen.nn.tap import Tap, check_layers

# Tokens of a prompt pass. It bounds the memory of masks and activations.
CHUNK = 256
# Prompt tokens that are fed with the scored tokens instead of in a pass of their own.
_FEW = 8


class CachingModel(ABC):
    """A `LanguageModel` that keeps keys and values of the tokens it has fed."""

    can_verify = True

    def __init__(self, vocab_size: int, context_length: int) -> None:
        self.vocab_size = vocab_size
        self.context_length = context_length
        self._caches: list[torch.Tensor] = []
        self._cached = Tokens()
        self._store, self._owner = ContextStore(0), object()
        self._tap = Tap()

    @property
    @abstractmethod
    def shared(self) -> SharedParts:
        """The parts that a head may borrow."""

    def tap(self, layers: Sequence[int], listener: StateListener | None) -> None:
        """See nn/interface.py."""
        check_layers(layers, self.shared.layers)
        self._tap = Tap(layers, listener)

    def begin_answer(self) -> None:  # noqa: B027  most models have nothing to do
        """Nothing: no bit depends on how a token was fed."""

    def keep_contexts(self, store: ContextStore) -> None:
        """From now on keep earlier contexts in `store`. Contexts in the former store are dropped."""
        self._store.clear(self._owner)
        self._store = store

    @torch.inference_mode()
    def forward(self, tokens: Tokens, last: int) -> torch.Tensor:
        try:
            return self._forward(tokens, last)
        except BaseException:
            self._cached, self._caches = Tokens(), []
            self._store.clear(self._owner)
            raise

    def _forward(self, tokens: Tokens, last: int) -> torch.Tensor:
        self._cached, self._caches = self._store.choose(self._owner, tokens, self._cached, self._caches)
        # This line rolls back: positions behind it are overwritten before any row sees them.
        self._cached = tokens.prefix(min(tokens.common_prefix(self._cached), len(tokens) - last))
        self._reserve(len(tokens))
        # Rows that may be rejected are fed apart from the prompt, so that a draft does not change how it is read.
        settled = len(tokens) - last
        while len(tokens) - len(self._cached) > max(last, _FEW):
            self._feed(tokens.prefix(min(len(self._cached) + CHUNK, settled)), 0)
        return self._feed(tokens, last)

    def _feed(self, tokens: Tokens, last: int) -> torch.Tensor:
        """Feed the uncached part of `tokens` in one pass, and score the final `last` positions."""
        start = len(self._cached)
        logits, states = self._compute(tokens.ids(start), start, last)
        self._cached = tokens
        self._tap.tell(tokens, start, states)
        return logits

    @abstractmethod
    def _compute(self, ids: list[int], start: int, last: int) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        """Feed `ids` from position `start` on; float32 [last, vocab], and the states of the tapped layers."""

    @abstractmethod
    def _reserve(self, length: int) -> None:
        """Make room for `length` positions in the caches."""
