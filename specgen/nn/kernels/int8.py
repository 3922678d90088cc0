"""Int8 linear layers: quantized weights with one scale for each output, and the choice of a kernel.

The kernel depends on the processor. A row's result never depends on the other rows of a pass, to the bit.
"""

import functools
from collections.abc import Iterable
from typing import Protocol

import torch

from specgen.core.errors import UnsupportedModel
from specgen.nn.kernels.int8_kernels import TINY, Bf16Dot, Int7Dot, Int8Dot
from specgen.nn.kernels.linear import Linear

# The longest row whose sum of products of uint8 and int8 fits into an int32.
_LONGEST = (2**31 - 1) // (255 * 127)
# Numbers that are quantized at a time, which bounds the memory of their float32 copies.
PIECE = 1 << 24


class Kernel(Protocol):
    """Multiplies float32 rows with a matrix of int8 levels [out, in], in a packed form of its own.

    `form` names the packed form and its version. A pass of fewer than `rows` rows is padded, at no cost.
    `keeps`: whether a packed matrix can be written to disk and read again.
    """

    rows: int

    @property
    def form(self) -> str: ...

    @property
    def keeps(self) -> bool: ...

    def works(self) -> bool:
        """Whether this processor and this torch have the kernel, and its results pass a self-test."""

    def pack(self, levels: torch.Tensor) -> torch.Tensor:
        """The packed form of `levels` int8 [out, in]."""

    def blank(self, inner: int, outer: int) -> torch.Tensor:
        """A packed matrix with arbitrary content, to be overwritten."""

    def layout(self, matrix: torch.Tensor) -> str:
        """The layout of a packed matrix's bytes. It begins with the size, `INxOUT`."""

    def memory(self, matrix: torch.Tensor) -> memoryview:
        """The bytes of a packed matrix."""

    def linear(self, matrix: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        """float32 [rows, in] -> float32 [rows, out], from a packed matrix and its scales [out]."""


KERNELS: tuple[Kernel, ...] = (Int8Dot(), Int7Dot(), Bf16Dot())
"""The fastest first."""


@functools.cache
def choose_kernel() -> Kernel | None:
    """The fastest kernel that works here, or None."""
    return next((kernel for kernel in KERNELS if kernel.works()), None)


def quantize(parts: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of all `parts` [out, in], concatenated, as int8 levels [out, in] and float32 scales [out].

    Raises UnsupportedModel if a sum of products could exceed an int32.
    """
    levels, scales = [], []
    for part in parts:
        if part.shape[1] > _LONGEST:
            raise UnsupportedModel(
                f"a matrix with rows of {part.shape[1]} is too wide for int8", hint="add --quant none"
            )
        for piece in torch.split(part, max(1, PIECE // part.shape[1])):
            rows = piece.float()
            scale = rows.abs().amax(-1).div_(127).clamp_(min=TINY)
            levels.append((rows / scale[:, None]).round_().to(torch.int8))
            scales.append(scale)
    return torch.cat(levels), torch.cat(scales)
