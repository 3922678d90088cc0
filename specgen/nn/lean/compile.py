"""Matrix products as torch.compile may see them on a CPU: whole, because it cannot read packed weights."""

import functools
import itertools
import weakref
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import library

from specgen.nn.kernels.linear import Linear
from specgen.nn.lean.architecture import Architecture
from specgen.nn.lean.weights import Weights

_LAYERS: weakref.WeakValueDictionary[int, Linear] = weakref.WeakValueDictionary()
_NUMBERS = itertools.count()


def opaque(weights: Weights, architecture: Architecture) -> Weights:
    """`weights` with layers that are one operation each, and a head that is left out of what is compiled."""
    queries_keys_values = (architecture.heads + 2 * architecture.kv_heads) * architecture.head_size
    layers = [
        replace(
            each,
            qkv=_hide(each.qkv, queries_keys_values),
            output=_hide(each.output, architecture.hidden_size),
            gate_up=_hide(each.gate_up, 2 * architecture.intermediate_size),
            down=_hide(each.down, architecture.hidden_size),
        )
        for each in weights.layers
    ]
    score: Linear = torch.compiler.disable(weights.score)  # type: ignore[no-untyped-call]
    return replace(weights, layers=tuple(layers), score=score)


def _hide(layer: Linear, size: int) -> Linear:
    """`layer`, which has `size` outputs, by a number: operations take no functions."""
    multiply, number = _operation(), next(_NUMBERS)
    _LAYERS[number] = layer

    # The default keeps the layer for as long as what stands for it.
    def hidden(rows: torch.Tensor, _: Linear = layer) -> torch.Tensor:
        return multiply(rows, number, size)

    return hidden


@functools.cache
def _operation() -> Callable[[torch.Tensor, int, int], torch.Tensor]:
    """Made when it is needed, because that takes longer than importing the decoder."""

    @library.custom_op("specgen::multiply", mutates_args=())
    def multiply(rows: torch.Tensor, number: int, size: int) -> torch.Tensor:  # noqa: ARG001
        return _LAYERS[number](rows)

    @multiply.register_fake
    def _(rows: torch.Tensor, number: int, size: int) -> torch.Tensor:  # noqa: ARG001
        return rows.new_empty(len(rows), size)

    return multiply
