"""Where the linear layers of a model come from: made of its weights, or read as they were packed before."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, Self

import torch

from specgen.nn.device import Placement
from specgen.nn.kernels import pack_file as packed
from specgen.nn.kernels.int8 import Kernel, quantize
from specgen.nn.kernels.linear import ROWS, Linear, make_linear

Matrices = Callable[[], Sequence[torch.Tensor]]
"""Reads the matrices [out, in] whose outputs one layer gives, one after the other; called only if needed."""


class Linears(Protocol):
    """Makes the linear layers of one model. A pass of fewer than `rows` rows is filled up."""

    rows: int

    def make(self, name: str, weights: Matrices, bias: torch.Tensor | None) -> Linear: ...


class FloatLinears:
    """Layers in the placement's own dtype."""

    rows = ROWS

    def __init__(self, placement: Placement) -> None:
        self._placement = placement

    def make(self, name: str, weights: Matrices, bias: torch.Tensor | None) -> Linear:  # noqa: ARG002
        return make_linear(join(weights(), self._placement), bias)


class Int8Linears:
    """Layers in int8 from the weight `files`, by way of the packed weights on disk.

    A context manager; on a good end what was packed is kept. `failure` says why it could not be.
    """

    def __init__(self, files: Sequence[Path], kernel: Kernel) -> None:
        self.rows = kernel.rows
        self._kernel = kernel
        self._found = packed.find(files, kernel.form) if kernel.keeps else None
        self._writer = packed.PackedWriter(files, kernel.form) if kernel.keeps and self._found is None else None

    @property
    def packs(self) -> bool:
        """Whether the weights have still to be packed, which takes seconds."""
        return self._found is None

    @property
    def failure(self) -> str | None:
        return self._writer.failure if self._writer else None

    def make(self, name: str, weights: Matrices, bias: torch.Tensor | None) -> Linear:
        matrix, scale = self._read(name) or self._pack(name, weights)
        return self._kernel.linear(matrix, scale, bias)

    def _pack(self, name: str, weights: Matrices) -> tuple[torch.Tensor, torch.Tensor]:
        levels, scale = quantize(weights())
        matrix = self._kernel.pack(levels)
        if self._writer:
            self._writer.add(f"{name}.scale", "", _memory(scale))
            self._writer.add(f"{name}.levels", self._kernel.layout(matrix), self._kernel.memory(matrix))
        return matrix, scale

    def _read(self, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A layer from disk; None from the first one on that is not there, or laid out for another processor.

        Then the next start packs, and keeps, all of them.
        """
        if self._found is None:
            return None
        try:
            layout = self._found.sections[f"{name}.levels"].layout
            inner, outer = (int(number) for number in layout.partition(" ")[0].split("x"))
            matrix = self._kernel.blank(inner, outer)
            if self._kernel.layout(matrix) != layout:
                raise ValueError("another layout")
            scale = torch.empty(outer)
            self._found.read(f"{name}.scale", _memory(scale))
            self._found.read(f"{name}.levels", self._kernel.memory(matrix))
        except (OSError, KeyError, ValueError):
            self._found.discard()
            self._found = None
            return None
        return matrix, scale

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._found:
            self._found.close()
        if self._writer:
            if kind is None:
                self._writer.finish()
            self._writer.close()


def join(parts: Sequence[torch.Tensor], placement: Placement) -> torch.Tensor:
    """`parts` one after the other, as they are needed where the model runs. No weight is in memory twice."""
    shape = (sum(map(len, parts)), *parts[0].shape[1:])
    whole = torch.empty(shape, dtype=placement.dtype, device=placement.device)
    start = 0
    for part in parts:
        whole[start : start + len(part)] = part
        start += len(part)
    return whole


def _memory(scale: torch.Tensor) -> memoryview:
    """The memory of a plain tensor."""
    return memoryview(scale.view(torch.uint8).numpy().data)
