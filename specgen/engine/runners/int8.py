"""Linear layers in int8 whose integers are exact, so that a row's result never depends on the rows beside it.

A weight has one scale for each of its outputs, a row of activations (a token) has one of its own, and products are
summed in int32: no order of summing, no number of rows and no thread can change a bit of the result.

Activations have outliers (Dettmers et al. 2022, LLM.int8()): a row whose largest value is far above the rest spends
its 255 levels on it. What rounding took from such a row is rounded again, 254 times finer, and multiplied as one row
more: the weights are read once either way, which is what a forward pass of few rows costs. Figures: docs/adr/0004.
"""

import functools
from collections.abc import Callable, Iterable

import torch

from specgen.errors import UnsupportedModel

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
# The sum of this many products of a uint8 and an int8 fits into an int32.
_LONGEST = (2**31 - 1) // (255 * 127)
# Weights are quantized in pieces of this many numbers, which bounds the memory for their float32.
PIECE = 1 << 24


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


def pack(levels: torch.Tensor) -> torch.Tensor:
    """Int8 `levels` [out, in] in the layout that oneDNN's kernels read; opaque."""
    packed: torch.Tensor = torch.ops.onednn.qlinear_prepack(levels, None)
    return packed


def int8_linear(
    packed: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """float32 [rows, in] -> float32 [rows, out], with a matrix from `pack` and its scales [out]."""
    multiply = _multiplier(packed, scale)
    # Numbers as tensors, which torch need not make of them in every call. All operations here are vectorized; the norm
    # that is the peak would not be.
    tiny, finer = torch.tensor(_TINY), torch.tensor(_FINER)
    share = -(packed.shape[0] ** 0.5) / _OUTLIER

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


@functools.cache
def is_exact() -> bool:
    """Whether this processor and this torch multiply int8 exactly; older processors saturate sums of two products."""
    if not hasattr(torch.ops.onednn, "qlinear_prepack"):
        return False
    generator = torch.Generator().manual_seed(0)
    for inner, outer in ((256, 96), (1000, 33)):
        levels = torch.randint(-127, 128, (outer, inner), dtype=torch.int8, generator=generator)
        levels[0], levels[1] = 127, -127  # the largest sums there can be
        try:
            multiply = _multiplier(pack(levels), torch.ones(outer))
            for count in (1, 4, 8, 33):
                rows = torch.randint(-127, 128, (count, inner), dtype=torch.int8, generator=generator)
                rows[0] = 127
                exact = (rows.long() @ levels.long().T).float()
                if not torch.equal(multiply(rows), exact):
                    return False
        except RuntimeError:  # no such kernel on this processor
            return False
    return True


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
