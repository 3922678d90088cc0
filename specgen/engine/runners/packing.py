"""Where the linear layers of a model come from: made of its weights, or read as they were packed before."""

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, Self

import torch

from specgen.engine.devices import Placement
from specgen.engine.runners.int8 import int8_linear, pack, quantize
from specgen.engine.runners.linear import Linear, make_linear
from specgen.models import packed

Weights = Callable[[], Sequence[torch.Tensor]]
"""Reads the matrices [out, in] whose outputs one layer gives, one after the other; called only if needed."""

# Changes with what quantize computes; how a processor's kernels lay it out is compared for each matrix.
_FORM = "int8 rows 1"


class Linears(Protocol):
    """Makes the linear layers of one model."""

    def make(self, name: str, weights: Weights, bias: torch.Tensor | None) -> Linear: ...


class FloatLinears:
    """Layers in the placement's own dtype."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement

    def make(self, name: str, weights: Weights, bias: torch.Tensor | None) -> Linear:  # noqa: ARG002
        return make_linear(join(weights(), self._placement), bias)


class Int8Linears:
    """Layers in int8 from the weight `files`, by way of the packed weights on disk.

    A context manager; on a good end what was packed is kept. `failure` says why it could not be.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        # How torch lays out a packed matrix can be asked for, and so be written to disk, since torch 2.9.
        self._keeps = hasattr(torch.ops.mkldnn, "data_ptr") and hasattr(torch.ops.mkldnn, "_get_mkldnn_serialized_md")
        self._found = packed.find(files, _FORM) if self._keeps else None
        self._writer = packed.PackedWriter(files, _FORM) if self._keeps and self._found is None else None
        self._blanks: dict[tuple[int, int], torch.Tensor] = {}

    @property
    def packs(self) -> bool:
        """Whether the weights have still to be packed, which takes seconds."""
        return self._found is None

    @property
    def failure(self) -> str | None:
        return self._writer.failure if self._writer else None

    def make(self, name: str, weights: Weights, bias: torch.Tensor | None) -> Linear:
        matrix, scale = self._read(name) or self._pack(name, weights)
        return int8_linear(matrix, scale, bias)

    def _pack(self, name: str, weights: Weights) -> tuple[torch.Tensor, torch.Tensor]:
        levels, scale = quantize(weights())
        matrix = pack(levels)
        if self._writer:
            self._writer.add(f"{name}.scale", "", _memory(scale))
            self._writer.add(f"{name}.levels", _layout(matrix), _bytes(matrix))
        return matrix, scale

    def _read(self, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A layer from disk; None from the first one on that is not there, or laid out for another processor.

        Then the next start packs, and keeps, all of them.
        """
        if self._found is None:
            return None
        try:
            size, _, layout = self._found.parts[f"{name}.levels"].layout.partition(" ")
            inner, outer = (int(number) for number in size.split("x"))
            matrix = self._blank(inner, outer)
            if _layout(matrix) != f"{size} {layout}":
                raise ValueError("another layout")
            scale = torch.empty(outer)
            self._found.read(f"{name}.scale", _memory(scale))
            self._found.read(f"{name}.levels", _bytes(matrix))
        except (OSError, KeyError, ValueError):
            self._found.discard()
            self._found = None
            return None
        return matrix, scale

    def _blank(self, inner: int, outer: int) -> torch.Tensor:
        """A packed matrix to be overwritten. Packing takes long, copying what is packed does not."""
        if (inner, outer) not in self._blanks:
            self._blanks[inner, outer] = pack(torch.zeros(outer, inner, dtype=torch.int8))
        return self._blanks[inner, outer].clone()

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


def _bytes(matrix: torch.Tensor) -> memoryview:
    """The memory of a packed matrix."""
    size = torch.ops.mkldnn._nbytes(matrix)
    return memoryview((ctypes.c_char * size).from_address(torch.ops.mkldnn.data_ptr(matrix))).cast("B")


def _layout(matrix: torch.Tensor) -> str:
    """The size of a packed matrix, and how its kernels expect it to lie in memory."""
    inner, outer = matrix.shape
    return f"{inner}x{outer} {bytes(torch.ops.mkldnn._get_mkldnn_serialized_md(matrix)).hex()}"
