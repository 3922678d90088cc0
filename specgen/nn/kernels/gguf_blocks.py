"""Reads the quantized blocks of a .gguf file as levels and scales, without rounding.

The formats are those of ggml-common.h in llama.cpp.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import IQ4_NL, MXFP4, dequantize
from numpy.typing import NDArray

from specgen.nn.kernels.grouped import Format, GroupedMatrix
from specgen.nn.kernels.panels import PANEL, pack_into
from specgen.nn.kernels.quantize import quantize_int8

_Bytes = NDArray[np.uint8]
_Blocks = _Bytes
"""uint8 [rows, blocks, bytes of a block]."""

_LOW, _HIGH_BIT = np.uint8(0x0F), np.uint8(0x10)


def read_blocks(data: NDArray[np.uint8], kind: GGMLQuantizationType) -> GroupedMatrix:
    """Rows of a tensor, uint8 [out, bytes of a row], as a matrix [out, in].

    A type outside `NATIVE` is dequantized, and rounded to 8 bits. A caller that wants no long arrays passes few rows.
    """
    reader = NATIVE.get(kind)
    if reader is None:
        return quantize_int8(dequantize(data, kind))
    return reader(data.reshape(len(data), -1, GGML_QUANT_SIZES[kind][1]))


@dataclass(frozen=True, slots=True)
class GgufRows:
    """Rows of a quantized tensor [out, in] of a .gguf file, in an order of their own."""

    data: _Bytes
    """uint8 [rows, bytes of a row], memory-mapped."""
    kind: GGMLQuantizationType
    order: NDArray[np.intp] | None = None
    """The rows of `data` that are the rows of this matrix; None for all of them."""

    @property
    def format(self) -> Format:
        return read_blocks(self.data[:1], self.kind).format

    @property
    def shape(self) -> tuple[int, int]:
        block, size = GGML_QUANT_SIZES[self.kind]
        return len(self.data if self.order is None else self.order), self.data.shape[1] // size * block

    def pack(self, start: int, stop: int, levels: _Bytes, scales: _Bytes) -> None:
        """Write the panels from `start` to `stop`."""
        pack_into(read_blocks(self._stored(slice(PANEL * start, PANEL * stop)), self.kind), levels, scales)

    def read_floats(self, chosen: slice) -> NDArray[np.float32]:
        """Some rows, dequantized, float32 [rows, in]."""
        floats: NDArray[np.float32] = dequantize(self._stored(chosen), self.kind)
        return floats

    def _stored(self, chosen: slice) -> _Bytes:
        return self.data[chosen if self.order is None else self.order[chosen]]


def _q4_0(blocks: _Blocks) -> GroupedMatrix:
    return GroupedMatrix(_nibbles(blocks, 2, 18, 16), 4, 8, "plain", _halves(blocks, 0))


def _q4_1(blocks: _Blocks) -> GroupedMatrix:
    return GroupedMatrix(_nibbles(blocks, 4, 20, 16), 4, 0, "offset", _halves(blocks, 0), _halves(blocks, 2))


def _q5_0(blocks: _Blocks) -> GroupedMatrix:
    levels = _nibbles(blocks, 6, 22, 16)
    levels |= _fifth_bits(blocks, 2, 6)
    return GroupedMatrix(levels, 5, 16, "plain", _halves(blocks, 0))


def _q5_1(blocks: _Blocks) -> GroupedMatrix:
    levels = _nibbles(blocks, 8, 24, 16)
    levels |= _fifth_bits(blocks, 4, 8)
    return GroupedMatrix(levels, 5, 0, "offset", _halves(blocks, 0), _halves(blocks, 2))


def _q8_0(blocks: _Blocks) -> GroupedMatrix:
    # A signed byte plus 128 is the same byte with its highest bit flipped.
    levels = _field(blocks, 2, 34)
    np.bitwise_xor(levels, np.uint8(128), out=levels)
    return GroupedMatrix(levels, 8, 128, "plain", _halves(blocks, 0))


def _q4_k(blocks: _Blocks) -> GroupedMatrix:
    scale, offset = _six_bit_scales(blocks[..., 4:16])
    levels = _nibbles(blocks, 16, 144, 32)
    return GroupedMatrix(levels, 4, 0, "super", scale, offset, _halves(blocks, 0), _halves(blocks, 2))


def _q5_k(blocks: _Blocks) -> GroupedMatrix:
    scale, offset = _six_bit_scales(blocks[..., 4:16])
    levels = _nibbles(blocks, 48, 176, 32)
    high = _field(blocks, 16, 48)
    levels |= _alternate([_shifted(high, 4 - bit) & _HIGH_BIT for bit in range(8)], 32)
    return GroupedMatrix(levels, 5, 0, "super", scale, offset, _halves(blocks, 0), _halves(blocks, 2))


def _q6_k(blocks: _Blocks) -> GroupedMatrix:
    levels = _nibbles(blocks, 0, 128, 64)
    high = _field(blocks, 128, 192)
    levels |= _alternate([_shifted(high, 4 - 2 * pair) & np.uint8(0x30) for pair in range(4)], 32)
    scale = _field(blocks, 192, 208).view(np.int8)
    return GroupedMatrix(levels, 6, 32, "halves", scale, None, _halves(blocks, 208))


def _iq4_nl(blocks: _Blocks) -> GroupedMatrix:
    levels = _looked_up(_nibbles(blocks, 2, 18, 16), IQ4_NL.kvalues)
    return GroupedMatrix(levels, 8, 128, "plain", _halves(blocks, 0))


def _iq4_xs(blocks: _Blocks) -> GroupedMatrix:
    high = blocks[..., 2:4].copy().view(np.uint16) >> np.arange(0, 16, 2, dtype=np.uint16)
    low = blocks[..., 4:8, None] >> np.array([0, 4], np.uint8) & _LOW
    scale = low.reshape(high.shape) | (high & np.uint16(3)).astype(np.uint8) << np.uint8(4)
    # Signed scales of whole groups, so both halves of a group have the same one.
    signed = np.repeat(scale.view(np.int8) - np.int8(32), 2, axis=-1).reshape(len(blocks), -1)
    levels = _looked_up(_nibbles(blocks, 8, 136, 16), IQ4_NL.kvalues)
    return GroupedMatrix(levels, 8, 128, "halves", signed, None, _halves(blocks, 0))


def _mxfp4(blocks: _Blocks) -> GroupedMatrix:
    # The file's scale is a power of two with an exponent of 8 bits. Below 2 ** -24 it becomes 0, which no model uses.
    exponent = blocks[..., 0].astype(np.int32) - 128
    scale = np.ldexp(np.float32(1), np.minimum(exponent, 15)).astype(np.float16)
    return GroupedMatrix(_looked_up(_nibbles(blocks, 1, 17, 16), MXFP4.kvalues), 8, 128, "plain", scale)


NATIVE: dict[GGMLQuantizationType, Callable[[_Blocks], GroupedMatrix]] = {
    GGMLQuantizationType.Q4_0: _q4_0,
    GGMLQuantizationType.Q4_1: _q4_1,
    GGMLQuantizationType.Q5_0: _q5_0,
    GGMLQuantizationType.Q5_1: _q5_1,
    GGMLQuantizationType.Q8_0: _q8_0,
    GGMLQuantizationType.Q4_K: _q4_k,
    GGMLQuantizationType.Q5_K: _q5_k,
    GGMLQuantizationType.Q6_K: _q6_k,
    GGMLQuantizationType.IQ4_NL: _iq4_nl,
    GGMLQuantizationType.IQ4_XS: _iq4_xs,
    GGMLQuantizationType.MXFP4: _mxfp4,
}
"""The types that are read exactly. A table of 16 values (IQ4_NL, IQ4_XS, MXFP4) takes levels of 8 bits."""


def _field(blocks: _Blocks, start: int, stop: int) -> _Bytes:
    """The bytes from `start` to `stop` of all blocks, contiguous [rows, bytes]."""
    size = blocks.shape[-1]
    # One item for each block: numpy copies items many times faster than short rows.
    item = {"names": ["field"], "formats": [f"V{stop - start}"], "offsets": [start], "itemsize": size}
    copied: _Bytes = np.ascontiguousarray(blocks.view(np.dtype(item))["field"][..., 0]).view(np.uint8)  # type: ignore[call-overload]
    return copied


def _halves(blocks: _Blocks, start: int) -> NDArray[np.float16]:
    """The float16 number at byte `start` of each block, [rows, blocks]."""
    return _field(blocks, start, start + 2).view(np.float16)


def _nibbles(blocks: _Blocks, start: int, stop: int, width: int) -> _Bytes:
    """Levels of 4 bits [rows, in]. `width` bytes hold as many low nibbles, then as many high ones."""
    packed = _field(blocks, start, stop)
    return _alternate([packed & _LOW, packed >> np.uint8(4)], width)


def _alternate(parts: list[_Bytes], width: int) -> _Bytes:
    """`width` bytes of each part in turn, [rows, bytes of all parts]."""
    rows, size = parts[0].shape
    joined = np.empty((rows * size // width, len(parts)), f"V{width}")
    for index, part in enumerate(parts):
        joined[:, index] = part.reshape(-1).view(f"V{width}")
    return joined.view(np.uint8).reshape(rows, -1)


def _shifted(part: _Bytes, left: int) -> _Bytes:
    """Bits moved to the left, or to the right if `left` is negative."""
    return part << np.uint8(left) if left >= 0 else part >> np.uint8(-left)


def _fifth_bits(blocks: _Blocks, start: int, stop: int) -> _Bytes:
    """The value 16 or 0 for each bit of the field, [rows, in]."""
    bits = np.unpackbits(_field(blocks, start, stop), axis=1, bitorder="little")
    np.left_shift(bits, np.uint8(4), out=bits)
    return bits


def _six_bit_scales(part: _Blocks) -> tuple[_Bytes, _Bytes]:
    """Scales and offsets of 6 bits, uint8 [rows, groups] each, from the 12 bytes of a superblock."""
    low, high, rest = (part[..., start : start + 4] for start in (0, 4, 8))
    scale = [low & np.uint8(0x3F), rest & _LOW | low >> np.uint8(2) & np.uint8(0x30)]
    offset = [high & np.uint8(0x3F), rest >> np.uint8(4) | high >> np.uint8(2) & np.uint8(0x30)]
    return tuple(np.concatenate(both, axis=-1).reshape(len(part), -1) for both in (scale, offset))  # type: ignore[return-value]


def _looked_up(levels: _Bytes, values: tuple[int, ...]) -> _Bytes:
    """Indexes of 4 bits replaced by signed `values` plus 128. bytes.translate needs no 8-byte index for each."""
    table = bytes(128 + value for value in values).ljust(256, b"\0")
    return np.frombuffer(levels.tobytes().translate(table), np.uint8).reshape(levels.shape)
