"""Products of int8 weights and int8 rows, whose integers are exact: oneDNN, on processors that sum products in int32.

A row of activations (a token) has one scale, and products are summed in int32: no order of summing, no number of rows
and no thread can change a bit of the result.

Activations have outliers (Dettmers et al. 2022, LLM.int8()): a row whose largest value is far above the rest spends
its 255 levels on it. What rounding took from such a row is rounded again, 254 times finer, and multiplied as one row
more: the weights are read once either way, which is what a forward pass of few rows costs. Figures: docs/adr/0004.
"""

import ctypes
from collections.abc import Callable

import torch

from specgen.engine.runners.linear import ROWS, Linear

# A row has outliers if its largest value is above this many times its root mean square.
_OUTLIER = 12.0
# Keeps the scale of a row of zeros above zero.
_TINY = 1e-30
# The kernel takes uint8 with this zero point.
_ZERO = 128
# What is lost by rounding is at most half a level.
_FINER = 254.0
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
        multiply = _multiplier(matrix, scale)
        # Numbers as tensors, which torch need not make of them in every call. All operations here are vectorized; the
        # norm that is the peak would not be.
        tiny, finer = torch.tensor(_TINY), torch.tensor(_FINER)
        share = -(matrix.shape[0] ** 0.5) / _OUTLIER

        def linear(rows: torch.Tensor) -> torch.Tensor:
            count = len(rows)
            peak = rows.abs().amax(-1, keepdim=True)
            step = torch.add(tiny, peak, alpha=1 / 127)
            exact = rows / step
            levels = exact.round()
            norm = torch.linalg.vector_norm(rows, 2, -1, keepdim=True)
            outliers = torch.add(norm, peak, alpha=share).signbit().nonzero()[:, 0]
            if not len(outliers):
                result = multiply(_filled(levels.to(torch.int8)))[:count]
            else:
                lost = exact.sub_(levels)
                lost = lost if len(outliers) == count else lost[outliers]
                both = multiply(_filled(torch.cat((levels, lost.mul_(finer).round_())).to(torch.int8)))
                result, rest = both[:count], both[count : count + len(outliers)]
                if len(outliers) == count:
                    result.add_(rest, alpha=1 / _FINER)
                else:
                    result.index_add_(0, outliers, rest, alpha=1 / _FINER)
            result.mul_(step)
            return result if bias is None else result.add_(bias)

        return linear


def _multiplier(packed: torch.Tensor, scale: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """int8 levels [rows, in] -> float32 [rows, out]: exact integer sums, times the scales of the outputs."""
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
