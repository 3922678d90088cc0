"""A runner around another one, for classes that change one of its methods."""

from collections.abc import Sequence

import torch

from specgen.core.tokens import Tokens
from specgen.nn.interface import ForwardCall, Runner, SharedParts, StateListener


class RunnerWrapper:
    """Passes every call on to `model`. `forward` is a call of `forward_many`."""

    def __init__(self, model: Runner) -> None:
        self._model = model

    @property
    def vocab_size(self) -> int:
        return self._model.vocab_size

    @property
    def can_verify(self) -> bool:
        return self._model.can_verify

    @property
    def context_length(self) -> int | None:
        return self._model.context_length

    @property
    def shared(self) -> SharedParts:
        return self._model.shared

    def begin_answer(self) -> None:
        self._model.begin_answer()

    def forward(self, tokens: Tokens, last: int) -> torch.Tensor:
        return self.forward_many([(tokens, last)])[0]

    def forward_many(self, calls: Sequence[ForwardCall]) -> list[torch.Tensor]:
        return self._model.forward_many(calls)

    def hold(self, count: int) -> int:
        return self._model.hold(count)

    def cached(self, tokens: Tokens) -> int:
        return self._model.cached(tokens)

    def tap(self, layers: Sequence[int], listener: StateListener | None) -> None:
        self._model.tap(layers, listener)
