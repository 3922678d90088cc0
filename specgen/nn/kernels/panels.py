"""Quantized weights in panels of 16 outputs, the order in which the kernels read them.

A panel holds all inputs of 16 outputs, group after group of 32 inputs. Below, o is an output of the panel, i an input
of the group, j = i % 4. A vector is 64 bytes, byte 4 * o + j.

    bits 4: 4 vectors v. Low nibble: level of input 8 v + j. High nibble: level of input 8 v + 4 + j.
    bits 5: the low 4 bits like bits 4, then a vector whose bit t is bit 4 of the level of input 4 t + j.
    bits 6: the low 4 bits like bits 4, then 2 vectors h whose bits 2 t and 2 t + 1 (t = 0 to 3) are bits 4 and 5 of the
            level of input 4 (4 h + t) + j.
    bits 8: 8 vectors t: level of input 4 t + j.

The scales of a panel are in the order of its superblocks of 8 groups. The last superblock may be shorter.

    plain:  for each group float16 scale [16].
    offset: for each group float16 scale [16], float16 offset [16].
    super:  float16 super_scale [16], float16 super_offset [16], then for each group uint8 scale [16], offset [16].
    halves: float16 super_scale [16], then for each group int8 scale [2, 16], of its first and its second 16 inputs.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from specgen.nn.kernels.grouped import GROUP, SUPERBLOCK, Bits, Format, GroupedMatrix, ScaleKind

PANEL = 16
"""Outputs of a panel."""
_WORDS = GROUP // 4
_NIBBLES = np.uint32(0x0F0F0F0F)

GROUP_BYTES: dict[Bits, int] = {4: 256, 5: 320, 6: 384, 8: 512}
"""Bytes of the levels of a group in a panel."""


@dataclass(frozen=True, slots=True)
class Panels:
    """A matrix [out, in] as panels. Padding outputs and inputs have the weight 0: level `zero`, scale 0, offset 0."""

    levels: NDArray[np.uint8]
    """uint8 [panels, groups, bytes of a group]."""
    scales: NDArray[np.uint8]
    """uint8 [panels, bytes of a panel]."""
    bits: Bits
    zero: int
    kind: ScaleKind
    outputs: int
    inputs: int


class Packable(Protocol):
    """A matrix [out, in] in a file that becomes panels piece by piece. Several threads pack at once."""

    @property
    def format(self) -> Format: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    def pack(self, start: int, stop: int, levels: NDArray[np.uint8], scales: NDArray[np.uint8]) -> None:
        """Write the panels from `start` to `stop` to arrays in the shapes of `Panels`."""


def scale_bytes(kind: ScaleKind, groups: int) -> int:
    """Bytes of the scales of a panel."""
    superblocks = -(-groups // SUPERBLOCK)
    each, above = {"plain": (2, 0), "offset": (4, 0), "super": (2, 4), "halves": (2, 2)}[kind]
    return PANEL * (each * groups + above * superblocks)


def pack(matrix: GroupedMatrix) -> Panels:
    """The panels of a matrix."""
    out, inputs = matrix.shape
    panels, groups = -(-out // PANEL), -(-inputs // GROUP)
    levels = np.empty((panels, groups, GROUP_BYTES[matrix.bits]), np.uint8)
    scales = np.empty((panels, scale_bytes(matrix.kind, groups)), np.uint8)
    pack_into(matrix, levels, scales)
    return Panels(levels, scales, matrix.bits, matrix.zero, matrix.kind, out, inputs)


def pack_into(matrix: GroupedMatrix, levels: NDArray[np.uint8], scales: NDArray[np.uint8]) -> None:
    """Write the panels of a matrix to `levels` and `scales`, which have the shapes of `Panels`."""
    _pack_levels(_padded(matrix.levels, PANEL * len(levels), GROUP * levels.shape[1], matrix.zero), matrix.bits, levels)
    _pack_scales(matrix, scales, levels.shape[1])


def unpack(panels: Panels) -> GroupedMatrix:
    """The matrix of some panels, without padding. Packing it again gives the same bytes."""
    groups = panels.levels.shape[1]
    chosen = slice(panels.outputs)
    levels = _unpack_levels(panels)[chosen, : panels.inputs]
    kind = panels.kind
    if kind in ("plain", "offset"):
        fields = panels.scales.view(np.float16).reshape(len(panels.scales), groups, -1, PANEL)
        parts = [_by_row(fields[:, :, index])[chosen] for index in range(fields.shape[2])]
        return GroupedMatrix(levels, panels.bits, panels.zero, kind, *parts)
    blocks = _scale_blocks(panels.scales, kind, groups)
    above = blocks[:, :, : -2 * SUPERBLOCK * PANEL].copy().view(np.float16).reshape(*blocks.shape[:2], -1, PANEL)
    pairs = blocks[:, :, -2 * SUPERBLOCK * PANEL :].reshape(len(blocks), -1, 2, PANEL)[:, :groups]
    super_scale = _by_row(above[:, :, 0])[chosen]
    if kind == "super":
        scale, offset = (_by_row(pairs[:, :, index])[chosen] for index in range(2))
        super_offset = _by_row(above[:, :, 1])[chosen]
        return GroupedMatrix(levels, panels.bits, panels.zero, kind, scale, offset, super_scale, super_offset)
    halves = _by_row(pairs.reshape(len(pairs), -1, PANEL))[chosen, : -(-panels.inputs // (GROUP // 2))]
    return GroupedMatrix(levels, panels.bits, panels.zero, kind, halves.view(np.int8), None, super_scale)


def _padded(array: NDArray[Any], rows: int, columns: int, value: int = 0) -> NDArray[Any]:
    """`array` [rows, columns] with `value` where it ends early."""
    if array.shape == (rows, columns):
        return array
    whole = np.full((rows, columns), value, array.dtype)
    whole[: array.shape[0], : array.shape[1]] = array
    return whole


def _pack_levels(levels: NDArray[Any], bits: Bits, packed: NDArray[np.uint8]) -> None:
    """Levels uint8 [16 panels, 32 groups] to `packed`. Four inputs of an output are one word of 32 bits."""
    panels, groups = packed.shape[:2]
    words = np.ascontiguousarray(levels).view("<u4").reshape(-1, _WORDS)
    target = packed.view("<u4").reshape(panels, groups, -1, PANEL)
    if bits == 8:
        _scatter(words, target)
        return
    pairs = words.view("<u8")
    # The words 2 v and 2 v + 1 are the halves of a number of 64 bits.
    low = (pairs | pairs >> np.uint64(28)).astype("<u4") if bits == 4 else _low_nibbles(words)
    _scatter(low, target[:, :, :4])
    if bits == 5:
        high = words[:, 0] >> np.uint32(4) & np.uint32(0x01010101)
        for word in range(1, _WORDS):
            # Bit 4 of each byte to bit `word`.
            bit = words[:, word] & np.uint32(0x10101010)
            high |= bit >> np.uint32(4 - word) if word < 4 else bit << np.uint32(word - 4)
        _scatter(high[:, None], target[:, :, 4:])
    if bits == 6:
        halves = words.reshape(-1, 4) & np.uint32(0x30303030)
        high = halves[:, 0] >> np.uint32(4) | halves[:, 1] >> np.uint32(2) | halves[:, 2]
        high |= halves[:, 3] << np.uint32(2)
        _scatter(high.reshape(-1, 2), target[:, :, 4:])


def _low_nibbles(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    low = words & _NIBBLES
    return low[:, 0::2] | low[:, 1::2] << np.uint32(4)


def _scatter(words: NDArray[np.uint32], target: NDArray[np.uint32]) -> None:
    """words [outputs * groups, n] to target [panels, groups, n, 16]."""
    panels, groups, count = target.shape[:3]
    rows = words.reshape(panels, PANEL, groups * count)
    flat = target.reshape(panels, groups * count, PANEL) if target.flags.c_contiguous else None
    for output in range(PANEL):
        if flat is not None:
            flat[:, :, output] = rows[:, output]
        else:
            for index in range(count):
                target[:, :, index, output] = rows[:, output, index::count]


def _unpack_levels(panels: Panels) -> NDArray[np.uint8]:
    """Levels uint8 [16 panels, 32 groups]."""
    count, groups, _ = panels.levels.shape
    bits = panels.bits
    vectors = panels.levels.reshape(count, groups, -1, PANEL, 4)
    if bits == 8:
        whole = vectors
    else:
        low = vectors[:, :, :4]
        whole = np.stack([low & np.uint8(15), low >> np.uint8(4)], axis=3).reshape(count, groups, _WORDS, PANEL, 4)
        words = np.arange(_WORDS)
        if bits == 5:
            high = vectors[:, :, [4] * _WORDS] >> words[:, None, None].astype(np.uint8) & np.uint8(1)
            whole |= high << np.uint8(4)
        if bits == 6:
            high = vectors[:, :, 4 + words // 4] >> (2 * (words % 4))[:, None, None].astype(np.uint8) & np.uint8(3)
            whole |= high << np.uint8(4)
    return whole.transpose(0, 3, 1, 2, 4).reshape(count * PANEL, groups * GROUP)


def _pack_scales(matrix: GroupedMatrix, packed: NDArray[np.uint8], groups: int) -> None:
    """The scales of all panels, to `packed` uint8 [panels, bytes]."""
    rows = PANEL * len(packed)
    scale = matrix.scale.view(np.uint8) if matrix.kind == "halves" else matrix.scale
    if matrix.kind in ("plain", "offset"):
        parts = [scale] if matrix.offset is None else [scale, matrix.offset]
        fields = packed.view(np.float16).reshape(len(packed), groups, len(parts), PANEL)
        for index, part in enumerate(parts):
            fields[:, :, index] = _by_panel(_padded(part, rows, groups))
        return
    superblocks = -(-groups // SUPERBLOCK)
    above = [array for array in (matrix.super_scale, matrix.super_offset) if array is not None]
    if matrix.offset is None:
        pairs = _by_panel(_padded(scale, rows, 2 * groups)).reshape(len(packed), groups, 2 * PANEL)
    else:
        both = [_by_panel(_padded(part, rows, groups)) for part in (scale, matrix.offset)]
        pairs = np.concatenate(both, axis=-1)
    supers = np.concatenate([_by_panel(_padded(part, rows, superblocks)) for part in above], axis=-1)
    below = _padded(pairs.reshape(len(packed), -1), len(packed), superblocks * 2 * PANEL * SUPERBLOCK)
    blocks = np.concatenate([supers.view(np.uint8), below.reshape(len(packed), superblocks, -1)], axis=-1)
    packed[...] = blocks.reshape(len(packed), -1)[:, : packed.shape[1]]


def _scale_blocks(scales: NDArray[np.uint8], kind: ScaleKind, groups: int) -> NDArray[np.uint8]:
    """The scales [panels, superblocks, bytes], the last superblock padded."""
    superblocks = -(-groups // SUPERBLOCK)
    size = 2 * PANEL * ((2 if kind == "super" else 1) + SUPERBLOCK)
    padded = _padded(scales, len(scales), superblocks * size)
    return padded.reshape(len(scales), superblocks, size)


def _by_panel(array: NDArray[Any]) -> NDArray[Any]:
    """[16 panels, n] as [panels, n, 16]."""
    return np.ascontiguousarray(array.reshape(-1, PANEL, array.shape[1]).transpose(0, 2, 1))


def _by_row(array: NDArray[Any]) -> NDArray[Any]:
    """[panels, n, 16] as [16 panels, n]."""
    return np.ascontiguousarray(array.transpose(0, 2, 1)).reshape(-1, array.shape[1])
