"""The linear layers of a model, made from its weights."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from specgen.nn.device import Placement
from specgen.nn.kernels.linear import ROWS, Linear, make_linear

Matrices = Callable[[], Sequence[torch.Tensor]]
"""Reads the matrices [out, in] whose rows one layer concatenates."""


class Linears(Protocol):
    """Makes the linear layers of one model. A pass of fewer than `rows` rows is padded."""

    rows: int

    def make(self, name: str, weights: Matrices, bias: torch.Tensor | None) -> Linear: ...


class FloatLinears:
    """Layers in the placement's own dtype."""

    rows = ROWS

    def __init__(self, placement: Placement) -> None:
        self._placement = placement

    def make(self, name: str, weights: Matrices, bias: torch.Tensor | None) -> Linear:  # noqa: ARG002
        return make_linear(join(weights(), self._placement), bias)


def join(parts: Sequence[torch.Tensor], placement: Placement) -> torch.Tensor:
    """`parts` concatenated, in the placement's dtype and on its device, without a second copy.

    A single part that is on an accelerator already, such as an embedding that is the output head too, is not copied.
    """
    if len(parts) == 1 and parts[0].device.type != "cpu" and parts[0].dtype == placement.dtype:
        return parts[0]
    shape = (sum(map(len, parts)), *parts[0].shape[1:])
    whole = torch.empty(shape, dtype=placement.dtype, device=placement.device)
    start = 0
    for part in parts:
        whole[start : start + len(part)] = part
        start += len(part)
    return whole
