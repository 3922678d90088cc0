"""Rounds weights to 8 bits, in groups of inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from specgen.nn.kernels.grouped import GROUP, Format, GroupedMatrix

Quantizer: TypeAlias = Callable[[NDArray[np.float32]], GroupedMatrix]
"""Rounds some rows [rows, in] of a matrix."""


@dataclass(frozen=True, slots=True)
class FloatRows:
    """Rows of a matrix of floating-point weights [out, in], in an order of their own."""

    data: NDArray[Any]
    """float32, float16, or the bits of bfloat16 as uint16: [rows, in], memory-mapped."""
    quantize: Quantizer
    order: NDArray[np.intp] | None = None
    """The rows of `data` that are the rows of this matrix; None for all of them."""

    @property
    def format(self) -> Format:
        return self.quantize(np.zeros((1, GROUP), np.float32)).format

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.data if self.order is None else self.order), self.data.shape[1]

    def read(self, chosen: slice) -> GroupedMatrix:
        rows = self.data[chosen if self.order is None else self.order[chosen]]
        if rows.dtype == np.uint16:  # bfloat16 is the upper half of a float32
            return self.quantize((rows.astype(np.uint32) << np.uint32(16)).view(np.float32))
        return self.quantize(rows.astype(np.float32))


def quantize_int8(weights: NDArray[np.float32]) -> GroupedMatrix:
    """Weights float32 [out, in] as levels of 8 bits with one scale for each group.

    Levels are rounded with the scale as stored, in float16. So rounding the scale adds no error.
    """
    out, inputs = weights.shape
    groups = -(-inputs // GROUP)
    padded = np.zeros((out, groups, GROUP), np.float32)
    padded.reshape(out, -1)[:, :inputs] = weights
    peak = np.abs(padded).max(-1)
    scale = (peak / 127).astype(np.float16)
    # A tiny scale has few digits. Rounded down by too much, it would clip the peak.
    np.nextafter(scale, np.float16(np.inf), out=scale, where=scale.astype(np.float32) * 127.5 < peak)
    inverse = np.divide(1, scale, where=scale > 0, out=np.zeros(scale.shape, np.float32), dtype=np.float32)
    padded *= inverse[..., None]
    levels = (np.rint(padded, out=padded).clip(-127, 127) + 128).astype(np.uint8)
    return GroupedMatrix(np.ascontiguousarray(levels.reshape(out, -1)[:, :inputs]), 8, 128, "plain", scale)
