"""A quantized matrix: integer levels, with a scale and an offset for each group of inputs."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

GROUP = 32
"""Inputs that share a scale."""
SUPERBLOCK = 8
"""Groups that share a scale of their scales."""

Bits: TypeAlias = Literal[4, 5, 6, 8]
ScaleKind: TypeAlias = Literal["plain", "offset", "super", "halves"]
"""plain: a float16 scale for each group. offset: a float16 scale and offset for each group.
super: 8-bit scales and offsets, multiplied by a float16 scale and offset of the superblock.
halves: a signed 8-bit scale for each half of a group, multiplied by a float16 scale of the superblock."""


@dataclass(frozen=True, slots=True)
class Format:
    """What the levels and scales of a matrix mean; see GroupedMatrix."""

    bits: Bits
    zero: int
    kind: ScaleKind


class FloatRows(Protocol):
    """A matrix [out, in] of floating-point weights in a file. Several threads read at once."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def read_floats(self, chosen: slice) -> NDArray[np.float32]:
        """Some rows, float32 [rows, in]."""


@dataclass(frozen=True, slots=True)
class GroupedMatrix:
    """A quantized matrix [out, in]: weight = scale * (level - zero) + offset, for groups of 32 inputs.

    With superblocks, weight = super_scale * scale * (level - zero) - super_offset * offset. The last group and the
    last superblock of a row may be shorter.
    """

    levels: NDArray[np.uint8]
    """uint8 [out, in], each below 2 ** bits."""
    bits: Bits
    zero: int
    """The level of the weight 0, apart from the offset."""
    kind: ScaleKind
    scale: NDArray[Any]
    """plain, offset: float16 [out, groups]; super: uint8 [out, groups]; halves: int8 [out, ceil(in / 16)]."""
    offset: NDArray[Any] | None = None
    """offset: float16 [out, groups]; super: uint8 [out, groups]."""
    super_scale: NDArray[np.float16] | None = None
    """super, halves: float16 [out, superblocks]."""
    super_offset: NDArray[np.float16] | None = None
    """super: float16 [out, superblocks]."""

    @property
    def format(self) -> Format:
        return Format(self.bits, self.zero, self.kind)

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        out, inputs = self.levels.shape
        return out, inputs

    def rows(self, chosen: slice | NDArray[np.intp]) -> Self:
        """The chosen rows, in the given order."""
        arrays = (self.scale, self.offset, self.super_scale, self.super_offset)
        scales = [None if array is None else array[chosen] for array in arrays]
        return type(self)(self.levels[chosen], self.bits, self.zero, self.kind, *scales)  # type: ignore[arg-type]

    def dequantize(self) -> NDArray[np.float32]:
        """The weights, float32 [out, in].

        The order of operations is that of gguf.dequantize, so the values of a file's blocks agree to the bit.
        """
        inputs = self.levels.shape[1]
        per_scale = GROUP // 2 if self.kind == "halves" else GROUP
        scale = self._times(self.scale, self.super_scale)
        weights = self.levels.astype(np.float32)
        weights -= np.float32(self.zero)
        weights *= np.repeat(scale, per_scale, axis=1)[:, :inputs]
        if self.offset is not None:
            offset = np.repeat(self._times(self.offset, self.super_offset), GROUP, axis=1)[:, :inputs]
            weights = weights + offset if self.super_offset is None else weights - offset
        return weights

    def _times(self, scale: NDArray[Any], of_superblock: NDArray[Any] | None) -> NDArray[np.float32]:
        """Scales in float32, multiplied by those of their superblocks."""
        below: NDArray[np.float32] = scale.astype(np.float32)
        if of_superblock is None:
            return below
        each = 2 * SUPERBLOCK if self.kind == "halves" else SUPERBLOCK
        below *= np.repeat(of_superblock, each, axis=1)[:, : scale.shape[1]]
        return below
