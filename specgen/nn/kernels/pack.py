"""The linear layers of a model, made from its weights or read from the packed weights on disk."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, Self

import torch

from specgen.nn.device import Placement
from specgen.nn.kernels import pack_file
from specgen.nn.kernels.int8 import Kernel, quantize
from specgen.nn.kernels.linear import ROWS, Linear, make_linear

Matrices = Callable[[], Sequence[torch.Tensor]]
"""Reads the matrices [out, in] whose rows one layer concatenates. Called only if the layer is not on disk."""


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


class Int8Linears:
    """Int8 layers of a model with the weight `files`, read from the packed weights on disk if they are there.

    A context manager: without an exception it keeps what was packed. `failure` is the reason why that failed.
    """

    def __init__(self, files: Sequence[Path], kernel: Kernel) -> None:
        self.rows = kernel.rows
        self._kernel = kernel
        self._found = pack_file.find(files, kernel.form) if kernel.keeps else None
        self._writer = pack_file.PackedWriter(files, kernel.form) if kernel.keeps and self._found is None else None

    @property
    def packs(self) -> bool:
        """Whether the weights must be packed, which takes seconds."""
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
        """A layer from disk. After the first one that is missing or damaged, None for all.

        Then the next start packs all of them again.
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


def _memory(scale: torch.Tensor) -> memoryview:
    """The memory of a plain tensor."""
    return memoryview(scale.view(torch.uint8).numpy().data)
