"""A tap on a target: the states of chosen layers, told to a listener as rows are fed."""

from collections.abc import Callable, Mapping, Sequence

import torch

from specgen.core.tokens import Tokens
from specgen.nn.interface import UNNORMED, StateListener


class Tap:
    """The layers that a listener asked for, numbered as in `Runner.tap`. Without a listener a pass keeps nothing."""

    def __init__(self, layers: Sequence[int] = (), listener: StateListener | None = None) -> None:
        self.layers = tuple(layers) if listener else ()
        self._listener = listener

    def order(
        self,
        inputs: Mapping[int, torch.Tensor],
        last: torch.Tensor,
        norm: Callable[[torch.Tensor], torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        """The states of the tapped layers, in their order, each [rows, hidden_size].

        inputs: the inputs of the layers below. last: the state after the last layer. norm: the final norm.
        """
        return tuple(
            inputs[layer] if layer in inputs else last if layer == UNNORMED else norm(last) for layer in self.layers
        )

    def tell(self, tokens: Tokens, start: int, states: Sequence[torch.Tensor]) -> None:
        """Tell the listener the states of the rows of `tokens` from `start` on. Rows that pad a pass are cut."""
        if self._listener is not None:
            self._listener(tokens, start, [each[: len(tokens) - start] for each in states])


def check_layers(layers: Sequence[int], count: int) -> None:
    """Raise IndexError for a layer that a model of `count` layers does not have."""
    for layer in layers:
        if layer != UNNORMED and not 0 <= layer <= count:
            raise IndexError(f"state {layer} of a model with {count} layers")
