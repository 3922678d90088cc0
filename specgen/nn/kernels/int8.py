"""Linear layers with weights in int8: a weight has one scale for each of its outputs.

Which kernel multiplies them is up to the processor, but a row's result never depends on the rows beside it, to the bit.
"""

import functools
from collections.abc import Iterable
from typing import Protocol

import torch

from specgen.core.errors import UnsupportedModel
from specgen.nn.kernels.int8_integers import Integers
from specgen.nn.kernels.int8_reduced import Reduced
from specgen.nn.kernels.int8_rounded import Rounded
from specgen.nn.kernels.linear import Linear

# Keeps the scale of a row of zeros above zero.
_TINY = 1e-30
# The sum of this many products of a uint8 and an int8 fits into an int32.
_LONGEST = (2**31 - 1) // (255 * 127)
# Weights are quantized in pieces of this many numbers, which bounds the memory for their float32.
PIECE = 1 << 24


class Kernel(Protocol):
    """Multiplies float32 rows with a matrix of int8 levels [out, in], which it packs in a form of its own.

    `form` names that form, and changes with it. A pass of fewer than `rows` rows is filled up: it costs no less.
    `keeps` is whether what is packed can be written to disk and read again.
    """

    form: str
    rows: int

    @property
    def keeps(self) -> bool: ...

    def works(self) -> bool:
        """Whether this processor and this torch have the kernel, and no row of it sees another."""

    def pack(self, levels: torch.Tensor) -> torch.Tensor:
        """A matrix of `levels` [out, in] as `linear` takes it."""

    def blank(self, inner: int, outer: int) -> torch.Tensor:
        """A packed matrix to be overwritten."""

    def layout(self, matrix: torch.Tensor) -> str:
        """What the bytes of a packed matrix mean; begins with its size, `INxOUT`."""

    def memory(self, matrix: torch.Tensor) -> memoryview:
        """The bytes of a packed matrix."""

    def linear(self, matrix: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        """float32 [rows, in] -> float32 [rows, out], with a packed matrix and its scales [out]."""


KERNELS: tuple[Kernel, ...] = (Integers(), Reduced(), Rounded())
"""The fastest first."""


@functools.cache
def choose_kernel() -> Kernel | None:
    """The fastest kernel that works here, None where there is none."""
    return next((kernel for kernel in KERNELS if kernel.works()), None)


def quantize(parts: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of all `parts` [out, in], one after the other, as int8 levels [out, in] and float32 scales [out].

    Raises UnsupportedModel for rows whose sums could leave an int32.
    """
    levels, scales = [], []
    for part in parts:
        if part.shape[1] > _LONGEST:
            raise UnsupportedModel(
                f"a matrix with rows of {part.shape[1]} is too wide for int8", hint="add --quant none"
            )
        for piece in torch.split(part, max(1, PIECE // part.shape[1])):
            rows = piece.float()
            scale = rows.abs().amax(-1).div_(127).clamp_(min=_TINY)
            levels.append((rows / scale[:, None]).round_().to(torch.int8))
            scales.append(scale)
    return torch.cat(levels), torch.cat(scales)
