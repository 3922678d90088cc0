"""Products of int8 weights and rows: oneDNN, whose integers are exact on processors that sum products in int32."""

import ctypes

import torch

from specgen.nn.kernels.int8_rows import Multiply, rounded_twice
from specgen.nn.kernels.linear import ROWS, Linear

# See int8_rows; nearly all rows before a down projection have such outliers, few others.
_HIGHEST, _OUTLIER = 127, 12.0
# The kernel takes uint8 with this zero point.
_ZERO = 128
# Rows are filled up to multiples of these, because a kernel is made for each number of rows that is met.
_FEW, _MANY = 4, 32


class Integers:
    """oneDNN's kernel; see int8.Kernel for the contract. The packed layout is opaque, and slow to make."""

    form = "int8 rows 1"
    rows = ROWS

    def __init__(self) -> None:
        self._blanks: dict[tuple[int, int], torch.Tensor] = {}

    @property
    def keeps(self) -> bool:
        # How torch lays out a packed matrix can be asked for, and so be written to disk, since torch 2.9.
        return hasattr(torch.ops.mkldnn, "data_ptr") and hasattr(torch.ops.mkldnn, "_get_mkldnn_serialized_md")

    def works(self) -> bool:
        """Whether sums are exact; older processors saturate sums of two products."""
        if not hasattr(torch.ops.onednn, "qlinear_prepack"):
            return False
        generator = torch.Generator().manual_seed(0)
        for inner, outer in ((256, 96), (1000, 33)):
            levels = torch.randint(-127, 128, (outer, inner), dtype=torch.int8, generator=generator)
            levels[0], levels[1] = 127, -127  # the largest sums there can be
            try:
                multiply = _multiplier(self.pack(levels), torch.ones(outer))
                for count in (1, 4, 8, 33):
                    rows = torch.randint(-127, 128, (count, inner), dtype=torch.int8, generator=generator)
                    rows[0] = 127
                    exact = (rows.long() @ levels.long().T).float()
                    if not torch.equal(multiply(rows), exact):
                        return False
            except RuntimeError:  # no such kernel on this processor
                return False
        return True

    def pack(self, levels: torch.Tensor) -> torch.Tensor:
        packed: torch.Tensor = torch.ops.onednn.qlinear_prepack(levels, None)
        return packed

    def blank(self, inner: int, outer: int) -> torch.Tensor:
        # Packing takes long, copying what is packed does not.
        if (inner, outer) not in self._blanks:
            self._blanks[inner, outer] = self.pack(torch.zeros(outer, inner, dtype=torch.int8))
        return self._blanks[inner, outer].clone()

    def layout(self, matrix: torch.Tensor) -> str:
        inner, outer = matrix.shape
        return f"{inner}x{outer} {bytes(torch.ops.mkldnn._get_mkldnn_serialized_md(matrix)).hex()}"

    def memory(self, matrix: torch.Tensor) -> memoryview:
        size = torch.ops.mkldnn._nbytes(matrix)
        return memoryview((ctypes.c_char * size).from_address(torch.ops.mkldnn.data_ptr(matrix))).cast("B")

    def linear(self, matrix: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        exact = _multiplier(matrix, scale)

        def multiply(levels: torch.Tensor) -> torch.Tensor:
            return exact(_filled(levels.to(torch.int8)))[: len(levels)]

        return rounded_twice(multiply, matrix.shape[0], _HIGHEST, _OUTLIER, bias)


def _multiplier(packed: torch.Tensor, scale: torch.Tensor) -> Multiply:
    """As Multiply says, but of levels in int8."""
    kernel = torch.ops.onednn.qlinear_pointwise.default
    zeros = torch.zeros(len(scale), dtype=torch.int64)
    shift = torch.tensor(_ZERO, dtype=torch.uint8)

    def multiply(levels: torch.Tensor) -> torch.Tensor:
        shifted = levels.view(torch.uint8) ^ shift  # adds it
        result: torch.Tensor = kernel(
            shifted, 1.0, _ZERO, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return result

    return multiply


def _filled(levels: torch.Tensor) -> torch.Tensor:
    """`levels` with more rows, so that few numbers of rows are met."""
    missing = -len(levels) % (_FEW if len(levels) <= _MANY else _MANY)
    return torch.cat((levels, levels[-1:].expand(missing, -1))) if missing else levels
