"""Rows of float32 as integers: what every kernel of exact integers does with a row before and after its products.

A row of activations (a token) has one scale, and products are summed in int32: no order of summing, no number of rows
and no thread can change a bit of the result.

Activations have outliers (Dettmers et al. 2022, LLM.int8()): a row whose largest value is far above the rest spends
its levels on it. What rounding took from such a row is rounded again, over a hundred times finer, and multiplied as one
row more: the weights are read once either way, which is what a forward pass of few rows costs. Figures: docs/adr/0004.
"""

from collections.abc import Callable

import torch

from specgen.nn.kernels.linear import Linear

Multiply = Callable[[torch.Tensor], torch.Tensor]
"""Levels in float32 [rows, in] -> float32 [rows, out]: exact integer sums, times the scales of the outputs."""

# Keeps the scale of a row of zeros above zero.
_TINY = 1e-30


def rounded_twice(multiply: Multiply, inner: int, highest: int, outlier: float, bias: torch.Tensor | None) -> Linear:
    """A layer that multiplies rows of `inner` numbers as levels from -`highest` to `highest`.

    A row has outliers, and is rounded twice, if its largest value is above `outlier` times its root mean square.
    """
    # Numbers as tensors, which torch need not make of them in every call. All operations here are vectorized; the
    # norm that is the peak would not be.
    times = 2.0 * highest  # what is lost by rounding is at most half a level
    tiny, finer = torch.tensor(_TINY), torch.tensor(times)
    share = -(inner**0.5) / outlier

    def linear(rows: torch.Tensor) -> torch.Tensor:
        count = len(rows)
        peak = rows.abs().amax(-1, keepdim=True)
        step = torch.add(tiny, peak, alpha=1 / highest)
        exact = rows / step
        levels = exact.round()
        norm = torch.linalg.vector_norm(rows, 2, -1, keepdim=True)
        outliers = torch.add(norm, peak, alpha=share).signbit().nonzero()[:, 0]
        if not len(outliers):
            result = multiply(levels)
        else:
            lost = exact.sub_(levels)
            lost = lost if len(outliers) == count else lost[outliers]
            both = multiply(torch.cat((levels, lost.mul_(finer).round_())))
            result, rest = both[:count], both[count:]
            if len(outliers) == count:
                result.add_(rest, alpha=1 / times)
            else:
                result.index_add_(0, outliers, rest, alpha=1 / times)
        result.mul_(step)
        return result if bias is None else result.add_(bias)

    return linear
