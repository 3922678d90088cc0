"""Rounds weights to 4 bits: for each group the scale and the offset with the least squared error, in compiled code.

A group has levels for a scale and an offset, and a best scale and offset for its levels, by least squares. Both
steps are repeated from several first ranges, as in llama.cpp's make_qkx2_quants. Errors of large weights count more.
The lanes of a vector are the 16 outputs of a panel, so levels are written where the panel has them.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from specgen.nn.kernels.builder import FLOAT, FLOATS, HALF, I8, I64, INTS, LANES, POINTER, Builder, Value, vector
from specgen.nn.kernels.compiler import as_function, compile_module
from specgen.nn.kernels.grouped import GROUP, SUPERBLOCK, FloatRows, Format
from specgen.nn.kernels.panels import PANEL

INT4 = Format(4, 0, "super")
"""4 bits with scales and offsets of 8 bits: 4.6 bits for each weight in all."""

_TOP, _SCALE_TOP = 15, 255
# First ranges: the least and the greatest weight of a group, each times 1.1, 1 and 0.9, with least-squares steps from
# each pair. On Qwen2.5-Coder-1.5B the squared error is 0.95 of that of Q4_K. With 25 pairs it is 0.94,
# in 2.4 times the time.
_WIDEST, _NARROWER, _WIDTHS, _STEPS = 1.1, -0.1, 3, 2
_VECTOR = 4 * LANES
_TINY, _HUGE = 1e-30, 3e38


@dataclass(frozen=True, slots=True)
class Int4Rows:
    """A matrix that is rounded to 4 bits as it is packed."""

    weights: FloatRows

    @property
    def format(self) -> Format:
        return INT4

    @property
    def shape(self) -> tuple[int, int]:
        return self.weights.shape

    def pack(self, start: int, stop: int, levels: NDArray[np.uint8], scales: NDArray[np.uint8]) -> None:
        """Write the panels from `start` to `stop`."""
        rows = self.weights.read_floats(slice(PANEL * start, PANEL * stop))
        groups = levels.shape[1]
        if rows.shape != (padded := (PANEL * (stop - start), GROUP * groups)):
            whole = np.zeros(padded, np.float32)
            whole[: rows.shape[0], : rows.shape[1]] = rows
            rows = whole
        rows, kernel = np.ascontiguousarray(rows), _kernel()
        scratch = np.empty(SUPERBLOCK * (GROUP + 2) * _VECTOR, np.uint8)
        for panel in range(stop - start):
            kernel(
                rows[PANEL * panel :].ctypes.data,
                rows.strides[0],
                groups,
                levels[panel].ctypes.data,
                scales[panel].ctypes.data,
                scratch.ctypes.data,
            )


@functools.cache
def _kernel() -> Callable[..., None]:
    return as_function(compile_module("quantize_int4", ["quantize"], _build)["quantize"], 6)


def _build(module: ir.Module) -> None:
    """Add `quantize(weights, bytes of a row, groups, levels, scales, scratch)`, for one panel."""
    b = Builder(module, "quantize", [POINTER, I64, I64, POINTER, POINTER, POINTER])
    weights, stride, groups, levels, scales, scratch = b.arguments
    # The scratch holds the weights of a superblock by input, then the scale and offset of each group.
    found = b.at(scratch, SUPERBLOCK * GROUP * _VECTOR)
    zero = b.value(0.0, FLOATS)
    with b.loop(groups, step=SUPERBLOCK) as first:
        count = b.smaller_int(b.value(SUPERBLOCK), groups - first)
        top_scale, top_offset = b.variable(zero), b.variable(zero)
        with b.loop(count) as g:
            x = b.at(scratch, g * (GROUP * _VECTOR))
            _transpose(b, b.at(weights, (first + g) * (GROUP * 4)), stride, x)
            scale, offset = _search(b, x)
            b.store(scale, found, g * (2 * _VECTOR))
            b.store(offset, found, g * (2 * _VECTOR) + _VECTOR)
            top_scale.set(_larger(b, top_scale.get(), scale))
            top_offset.set(_larger(b, top_offset.get(), offset))
        # Each superblock before this one has a scale and an offset of 16 bits, and 8 of both with 8 bits.
        block = b.at(scales, first * (2 * PANEL) + (first / SUPERBLOCK) * (4 * PANEL))
        super_scale = _store_super(b, top_scale.get(), block, 0)
        super_offset = _store_super(b, top_offset.get(), block, 2 * PANEL)
        with b.loop(count) as g:
            pair = b.at(block, g * (2 * PANEL) + 4 * PANEL)
            scale = _store_scale(b, b.load(found, g * (2 * _VECTOR), FLOATS), super_scale, pair, 0)
            offset = _store_scale(b, b.load(found, g * (2 * _VECTOR) + _VECTOR, FLOATS), super_offset, pair, PANEL)
            x = b.at(scratch, g * (GROUP * _VECTOR))
            _store_levels(b, x, scale, offset, b.at(levels, (first + g) * (PANEL * GROUP // 2)))
    b.finish()


def _transpose(b: Builder, source: Value, stride: Value, target: Value) -> None:
    """A group of 16 rows to 32 vectors, one for each input."""
    for half in range(2):
        rows = [b.load(b.at(source, stride * row), _VECTOR * half, FLOATS) for row in range(LANES)]
        for distance in (8, 4, 2, 1):
            # Two rows whose numbers differ in one bit swap the lanes whose numbers differ in it.
            low = [lane if not lane & distance else LANES + lane - distance for lane in range(LANES)]
            high = [lane + distance if not lane & distance else LANES + lane for lane in range(LANES)]
            for row in (row for row in range(LANES) if not row & distance):
                one, other = rows[row], rows[row + distance]
                rows[row], rows[row + distance] = b.shuffle(one, low, other), b.shuffle(one, high, other)
        for column, values in enumerate(rows):
            b.store(values, target, _VECTOR * (LANES * half + column))


def _search(b: Builder, x: Value) -> tuple[Value, Value]:
    """The best scale and offset of the group at `x`; weight = scale * level - offset, none of them negative."""
    zero, tiny = b.value(0.0, FLOATS), b.value(_TINY, FLOATS)
    low, high, squares = zero, zero, zero
    for i in range(GROUP):
        value = b.load(x, _VECTOR * i, FLOATS)
        low, high, squares = _smaller(b, low, value), _larger(b, high, value), b.fma(value, value, squares)
    # An error counts as the weight's size plus the group's root mean square.
    spread = b.sqrt(squares * (1 / GROUP))
    count, total, squares = tiny, zero, zero
    for i in range(GROUP):
        value = b.load(x, _VECTOR * i, FLOATS)
        importance = b.absolute(value) + spread
        count, scaled = count + importance, importance * value
        total, squares = total + scaled, b.fma(scaled, value, squares)
    best = b.variable(b.value(_HUGE, FLOATS))
    best_scale, best_offset = b.variable(zero), b.variable(zero)
    with b.loop(_WIDTHS) as below, b.loop(_WIDTHS) as above:
        first, last = (
            end * b.splat(b.cast("sitofp", width, FLOAT) * _NARROWER + _WIDEST)
            for end, width in ((low, below), (high, above))
        )
        scale, offset = b.variable((last - first) * (1 / _TOP)), b.variable(zero - first)
        with b.loop(_STEPS):
            inverse, shift = _inverse(b, scale.get()), offset.get()
            levels, level_squares, products = zero, zero, zero
            for i in range(GROUP):
                value = b.load(x, _VECTOR * i, FLOATS)
                level = _level(b, value, inverse, shift, _TOP)
                weighted = level * (b.absolute(value) + spread)
                levels, level_squares = levels + weighted, b.fma(weighted, level, level_squares)
                products = b.fma(weighted, value, products)
            determinant = _larger(b, count * level_squares - levels * levels, tiny)
            d = (count * products - levels * total) / determinant
            m = (d * levels - total) / count
            # Without an offset where the best one would be negative.
            d = b.select(m < 0.0, products / _larger(b, level_squares, tiny), d)
            d, m = _larger(b, d, zero), _larger(b, m, zero)
            error = squares - d * products + m * total
            better = error < best.get()
            for variable, found in ((best, error), (best_scale, d), (best_offset, m)):
                variable.set(b.select(better, found, variable.get()))
            scale.set(d)
            offset.set(m)
    return best_scale.get(), best_offset.get()


def _store_super(b: Builder, greatest: Value, target: Value, at: int) -> Value:
    """Store the scale of a superblock's scales, whose greatest is given, in float16. Returns what is stored."""
    # Rounded up: the 8 bits of the greatest scale could not say more than it.
    exact = greatest * ((1 + 2**-11) / _SCALE_TOP) + 2**-25
    half = b.cast("fptrunc", exact, vector(HALF))
    b.store(half, target, at, 2)
    return b.to_floats(half)


def _store_scale(b: Builder, value: Value, super_scale: Value, target: Value, at: int) -> Value:
    """Store a scale in 8 bits. Returns what it stands for."""
    level = _level(b, value, _inverse(b, super_scale), b.value(0.0, FLOATS), _SCALE_TOP)
    b.store(b.cast("trunc", b.cast("fptosi", level, INTS), vector(I8)), target, at, 1)
    return level * super_scale


def _store_levels(b: Builder, x: Value, scale: Value, offset: Value, target: Value) -> None:
    """Store the levels of the group at `x` in the order of panels.py."""
    inverse = _inverse(b, scale)
    for v in range(4):
        word = b.value(0, INTS)
        for i in range(8):
            level = _level(b, b.load(x, _VECTOR * (8 * v + i), FLOATS), inverse, offset, _TOP)
            word = word | b.cast("fptosi", level, INTS) << (8 * (i % 4) + 4 * (i // 4))
        b.store(word, target, _VECTOR * v)


def _level(b: Builder, value: Value, inverse: Value, offset: Value, top: int) -> Value:
    """The level of a weight as a float, from 0 to `top`."""
    exact = (value + offset) * inverse
    return b.round(_smaller(b, _larger(b, exact, b.value(0.0, FLOATS)), b.value(float(top), FLOATS)))


def _inverse(b: Builder, scale: Value) -> Value:
    """1 / scale, 0 for 0."""
    return b.select(scale > 0.0, b.value(1.0, FLOATS) / scale, b.value(0.0, FLOATS))


def _larger(b: Builder, one: Value, other: Value) -> Value:
    return b.select(one > other, one, other)


def _smaller(b: Builder, one: Value, other: Value) -> Value:
    return b.select(one < other, one, other)
