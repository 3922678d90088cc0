"""Rounds weights to 8 bits, in groups of inputs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specgen.nn.kernels.grouped import GROUP, FloatRows, Format, GroupedMatrix
from specgen.nn.kernels.panels import PANEL, pack_into

INT8 = Format(8, 128, "plain")
"""8 bits with a float16 scale for each group."""


@dataclass(frozen=True, slots=True)
class StoredFloats:
    """Rows of a floating-point matrix [out, in] in a file, in an order of their own."""

    data: NDArray[Any]
    """float32, float16, or the bits of bfloat16 as uint16: [rows, in], memory-mapped."""
    order: NDArray[np.intp] | None = None
    """The rows of `data` that are the rows of this matrix; None for all of them."""

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.data if self.order is None else self.order), self.data.shape[1]

    def read_floats(self, chosen: slice) -> NDArray[np.float32]:
        """Some rows, float32 [rows, in]."""
        rows = self.data[chosen if self.order is None else self.order[chosen]]
        if rows.dtype == np.uint16:  # bfloat16 is the upper half of a float32
            return (rows.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return rows.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Int8Rows:
    """A matrix that is rounded to 8 bits as it is packed."""

    weights: FloatRows

    @property
    def format(self) -> Format:
        return INT8

    @property
    def shape(self) -> tuple[int, int]:
        return self.weights.shape

    def pack(self, start: int, stop: int, levels: NDArray[np.uint8], scales: NDArray[np.uint8]) -> None:
        """Write the panels from `start` to `stop`."""
        pack_into(quantize_int8(self.weights.read_floats(slice(PANEL * start, PANEL * stop))), levels, scales)


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
    return GroupedMatrix(
        np.ascontiguousarray(levels.reshape(out, -1)[:, :inputs]), INT8.bits, INT8.zero, INT8.kind, scale
    )
