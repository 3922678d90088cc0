"""Sums of products of weight levels and activation levels, for each instruction set.

A class here multiplies unsigned levels of up to 8 bits with signed levels of 8 bits. The sums are exact integers, so
their order is free, and every instruction set gives the same result.
"""

from collections.abc import Sequence
from typing import Protocol

from specgen.nn.kernels.builder import I8, I16, I32, INTS, Builder, Value, vector
from specgen.nn.kernels.compiler import features

_BYTES = vector(I8, 64)


class Dots(Protocol):
    """The products of one instruction set. `rows`: the most rows whose sums fit its registers."""

    name: str
    rows: int

    def sum(self, b: Builder, levels: Sequence[Value], words: Sequence[Value], bits: int) -> Value:
        """int32 [16]: the sums for 16 outputs.

        Each of the `levels` is uint8 [16 outputs, 4 inputs], below 2 ** `bits`. The word beside it is an int32 scalar
        with the 4 signed activations of these inputs.
        """


class Avx512Vnni:
    """Four products to an int32 in one instruction (`vpdpbusd`), 16 outputs at a time."""

    name = "AVX-512 VNNI"
    rows = 8

    def sum(self, b: Builder, levels: Sequence[Value], words: Sequence[Value], bits: int) -> Value:  # noqa: ARG002
        total = b.value(0, INTS)
        for level, word in zip(levels, words, strict=True):
            arguments = [total, b.cast("bitcast", level, INTS), b.splat(word)]
            total = b.call("llvm.x86.avx512.vpdpbusd.512", arguments, INTS)
        return total


class AvxVnni:
    """The same instruction on 8 outputs at a time, for processors without AVX-512."""

    name = "AVX-VNNI"
    rows = 4

    def sum(self, b: Builder, levels: Sequence[Value], words: Sequence[Value], bits: int) -> Value:  # noqa: ARG002
        kind = vector(I32, 8)
        totals = [b.value(0, kind), b.value(0, kind)]
        for level, word in zip(levels, words, strict=True):
            for side, half in enumerate(b.halves(level)):
                arguments = [totals[side], b.cast("bitcast", half, kind), b.splat(word, 8)]
                totals[side] = b.call("llvm.x86.avx512.vpdpbusd.256", arguments, kind)
        return b.join(*totals)


class Avx2:
    """Two products to an int16 (`vpmaddubsw`), which saturates, so levels of 8 bits go in as two of 4 bits.

    An int16 holds 16 products of a level of 4 bits with an activation, 8 of 5 bits, 4 of 6 bits.
    """

    name = "AVX2"
    rows = 4

    def sum(self, b: Builder, levels: Sequence[Value], words: Sequence[Value], bits: int) -> Value:
        if bits == 8:
            low = self._sum(b, [level & 15 for level in levels], words, 4, 1)
            return low + self._sum(b, [level >> 4 for level in levels], words, 4, 16)
        return self._sum(b, levels, words, bits, 1)

    def _sum(self, b: Builder, levels: Sequence[Value], words: Sequence[Value], bits: int, factor: int) -> Value:
        """The sums times `factor`."""
        pairs, whole, together = vector(I16, 16), vector(I32, 8), 8 >> (bits - 4)
        sides = [b.value(0, whole), b.value(0, whole)]
        for first in range(0, len(levels), together):
            for side in range(2):
                total = b.value(0, pairs)
                for level, word in list(zip(levels, words, strict=True))[first : first + together]:
                    signed = b.cast("bitcast", b.splat(word, 8), vector(I8, 32))
                    total = total + b.call("llvm.x86.avx2.pmadd.ub.sw", [b.halves(level)[side], signed], pairs)
                added = b.call("llvm.x86.avx2.pmadd.wd", [total, b.value(factor, pairs)], whole)
                sides[side] = sides[side] + added
        return b.join(*sides)


class NeonDot:
    """Four products to an int32 (`sdot`), 4 outputs at a time. It multiplies signed levels only."""

    name = "NEON dot product"
    rows = 4

    def sum(self, b: Builder, levels: Sequence[Value], words: Sequence[Value], bits: int) -> Value:
        quarter, bytes_ = vector(I32, 4), vector(I8, 16)
        totals = [b.value(0, quarter) for _ in range(4)]
        # 128 less makes levels of 8 bits signed, and the sum of the activations times 128 gives it back.
        lost = [b.value(0, quarter)]
        for level, word in zip(levels, words, strict=True):
            signed = level ^ 128 if bits == 8 else level
            activations = b.cast("bitcast", b.splat(word, 4), bytes_)
            for part in range(4):
                lanes = b.shuffle(signed, range(16 * part, 16 * part + 16))
                totals[part] = self._dot(b, totals[part], lanes, activations)
            if bits == 8:
                lost = [self._dot(b, lost[0], b.value(1, bytes_), activations)]
        totals = [total + (lost[0] << 7) for total in totals]
        return b.join(b.join(totals[0], totals[1]), b.join(totals[2], totals[3]))

    def _dot(self, b: Builder, total: Value, levels: Value, activations: Value) -> Value:
        return b.call("llvm.aarch64.neon.sdot.v4i32.v16i8", [total, levels, activations], total.type)


class Portable:
    """Plain multiplications, which LLVM translates for any processor."""

    name = "portable"
    rows = 4

    def sum(self, b: Builder, levels: Sequence[Value], words: Sequence[Value], bits: int) -> Value:  # noqa: ARG002
        total = b.value(0, INTS)
        for level, word in zip(levels, words, strict=True):
            activations = b.cast("bitcast", word, vector(I8, 4))
            for place in range(4):
                weights = b.cast("zext", b.shuffle(level, range(place, 64, 4)), INTS)
                total = total + weights * b.cast("sext", b.shuffle(activations, [place] * 16), INTS)
        return total


def available() -> list[Dots]:
    """The instruction sets of this processor, the fastest first."""
    has = features()
    found: list[Dots] = []
    if {"avx512vnni", "avx512bw", "avx512vl", "fma"} <= has:
        found.append(Avx512Vnni())
    if {"avxvnni", "avx2", "fma"} <= has or {"avx512vnni", "avx512vl"} <= has:
        found.append(AvxVnni())
    if {"avx2", "fma"} <= has:
        found.append(Avx2())
    if "dotprod" in has:
        found.append(NeonDot())
    return [*found, Portable()]


def unpack_levels(b: Builder, levels: Value, bits: int) -> list[Value]:
    """The 8 words of a group, uint8 [16 outputs, 4 inputs] each, from its bytes; panels.py has the layout."""
    if bits == 8:
        return [b.load(levels, 64 * word, _BYTES, 1) for word in range(8)]
    unpacked = []
    for pair in range(4):
        packed = b.load(levels, 64 * pair, _BYTES, 1)
        unpacked += [packed & 15, packed >> 4]
    if bits == 4:
        return unpacked
    width = bits - 4
    planes = [b.load(levels, 256 + 64 * plane, _BYTES, 1) for plane in range(width)]
    mask = ((1 << width) - 1) << 4
    for word in range(8):
        plane, place = planes[word * width // 8], word * width % 8
        high = plane << (4 - place) if place <= 4 else plane >> (place - 4)
        unpacked[word] = unpacked[word] | (high & mask)
    return unpacked


def bytes_of_group(bits: int) -> int:
    """The bytes of the levels of a group in a panel."""
    return 64 * bits
