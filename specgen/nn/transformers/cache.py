"""A transformers cache that rolls back to a prefix of its tokens."""

import copy
from collections.abc import Callable
from typing import Any

from specgen.core.tokens import Tokens


class RunnerCache:
    """A transformers cache and the tokens in it.

    Attention caches are cropped. Recurrent states (Mamba, hybrids) cannot be cropped, so a copy is kept before tokens
    that may be rejected. Rolling back restores the copy; the tokens accepted since then are fed again.
    """

    def __init__(self, create: Callable[[], Any]) -> None:
        self._create = create
        self.tokens = Tokens()
        """The tokens in the cache."""
        self._saved: tuple[Tokens, Any] | None = None
        self._reset()
        self.croppable = bool(self.states.is_croppable)
        """Whether the cache can be cropped. A recurrent one is saved and restored."""

    def _reset(self) -> None:
        self.states = self._create()
        if self.states.is_croppable:
            # Then sliding layers keep the states that a crop may need.
            self.states.activate_past_recording()
        self.tokens = Tokens()
        self._saved = None

    def __len__(self) -> int:
        return len(self.tokens)

    def drop(self) -> None:
        """Drop all states, for example after an exception in a forward pass."""
        self._reset()

    def roll_back(self, tokens: Tokens, limit: int) -> None:
        """Keep the longest possible prefix of `tokens`, of at most `limit` tokens."""
        keep = min(tokens.common_prefix(self.tokens), limit)
        surplus = len(self.tokens) - keep
        if self.croppable and all(_can_crop(layer, surplus) for layer in self.states.layers):
            for layer in self.states.layers:
                if layer.is_initialized:
                    # Also without a surplus, so that sliding layers drop the states they recorded.
                    layer.crop(-surplus)
            self.tokens = tokens.prefix(keep)
        elif surplus:
            self._restore(keep)

    def _restore(self, keep: int) -> None:
        if self._saved is None or len(self._saved[0]) > keep:
            self._reset()
            return
        self.tokens, states = self._saved
        self.states = copy.deepcopy(states)

    def save(self) -> None:
        """Keep a copy of this state, to restore if the next tokens are rejected."""
        self._saved = (self.tokens, copy.deepcopy(self.states))

    def fed(self, tokens: Tokens) -> None:
        """Record that the states hold `tokens`."""
        self.tokens = tokens


def _can_crop(layer: Any, surplus: int) -> bool:
    """Whether `surplus` tokens can be cropped: a sliding layer may have dropped the states needed then."""
    if not getattr(layer, "is_sliding", False) or not layer.is_initialized:
        return True
    length, window = layer.get_seq_length(), layer.sliding_window
    if length < window:
        return True
    return bool(layer.keys.shape[-2] - surplus >= min(length - surplus, window - 1))
