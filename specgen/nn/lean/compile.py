"""Hides matrix products from torch.compile on a CPU, because it cannot read packed weights."""

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


def hide_products(weights: Weights, architecture: Architecture) -> Weights:
    """`weights` with each matrix product as one custom operation, and with an output head that is not compiled."""
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
    """`layer` with `size` outputs as a custom operation, which finds it by number: operations take no functions."""
    multiply, number = _operation(), next(_NUMBERS)
    _LAYERS[number] = layer

    # The default argument keeps the layer alive as long as `hidden`.
    def hidden(rows: torch.Tensor, _: Linear = layer) -> torch.Tensor:
        return multiply(rows, number, size)

    return hidden


@functools.cache
def _operation() -> Callable[[torch.Tensor, int, int], torch.Tensor]:
    """Registered at the first use, because that takes longer than importing the decoder."""

    @library.custom_op("specgen::multiply", mutates_args=())
    def multiply(rows: torch.Tensor, number: int, size: int) -> torch.Tensor:  # noqa: ARG001
        return _LAYERS[number](rows)

    @multiply.register_fake
    def _(rows: torch.Tensor, number: int, size: int) -> torch.Tensor:  # noqa: ARG001
        return rows.new_empty(len(rows), size)

    return multiply
