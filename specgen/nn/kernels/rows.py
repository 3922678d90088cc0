"""Operations on rows around the products: norms, activations, rounding to int8. A row's result is its own.

Rounded rows are int8 levels [rows, groups * 32] and, for each group, a head: its scale and sums of its levels.
"""

from collections.abc import Callable

from llvmlite import ir

from specgen.nn.kernels.builder import FLOAT, FLOATS, I8, I64, INTS, POINTER, Builder, Value, vector
from specgen.nn.kernels.team import Field, OperationField

HEAD = 16
"""Bytes of a group's head in a rounded row."""


class HeadField(Field):
    """The numbers of a group's head, 4 bytes each."""

    SCALE = 0
    """float32: a number is its level times this scale."""
    SUM = 1
    """int32: the sum of the levels."""
    FIRST_SUM = 2
    """int32: the sum of the first 16 levels."""
    SCALED_SUM = 3
    """float32: SCALE * SUM."""


class NormField(Field):
    """The operation `norm`, a row a chunk: hidden += factor * add, then rounded = round(norm(hidden))."""

    HIDDEN = 8
    """float32 [rows, SIZE], rounded up to whole groups; the padding is 0."""
    ADD = 9
    """float32 rows like HIDDEN, or null."""
    ADD_WEIGHT = 10
    """float32 [SIZE]: the weight of a norm of the added rows; null adds them as they are."""
    WEIGHT = 11
    """float32 [SIZE]: the weight of the norm; null rounds the rows as they are."""
    LEVELS = 12
    HEADS = 13
    SIZE = 14
    EPSILON = 15
    FACTOR = 16
    SCALED = 17
    """float32 [rows, SIZE]: the normed rows before rounding."""
    MEAN_SIZE = 18
    """The size without padding."""


class GateField(Field):
    """The operation `gate_...`: rounded = round(activation(gate) * up). Chunks are parts of rows."""

    JOINED = 8
    """float32 [rows, STRIDE]: the gate first, the other factor from UP on."""
    STRIDE = 9
    UP = 10
    LEVELS = 11
    HEADS = 12
    GROUPS = 13
    PARTS = 14
    """Chunks of a row."""
    SCALED = 15


class RoundField(Field):
    """The operation `round`, a row a chunk."""

    ROWS = 8
    LEVELS = 9
    HEADS = 10
    GROUPS = 11


class CopyField(Field):
    """The operation `copy`, a row a chunk: float32 [rows, SIZE]."""

    SOURCE = 8
    TARGET = 9
    SIZE = 10


FUNCTIONS = ("norm", "gate_silu", "gate_gelu", "round", "copy")


def build_rows(module: ir.Module) -> None:
    """Add the FUNCTIONS."""
    _build_round_group(module)
    _build_norm(module)
    _build_gate(module, "gate_silu", _silu)
    _build_gate(module, "gate_gelu", _gelu)
    b = Builder(module, "round", [POINTER, POINTER, I64, POINTER])
    op, _, row, _ = b.arguments
    groups = b.field(op, RoundField.GROUPS)
    rows = b.at(b.address(op, RoundField.ROWS), row * groups * 128)
    levels = b.at(b.address(op, RoundField.LEVELS), row * groups * 32)
    heads = b.at(b.address(op, RoundField.HEADS), row * groups * HEAD)
    with b.loop(groups) as group:
        _round_group(b, rows, levels, heads, group)
    b.finish()

    b = Builder(module, "copy", [POINTER, POINTER, I64, POINTER])
    op, _, row, _ = b.arguments
    offset = row * b.field(op, CopyField.SIZE) * 4
    source, target = (b.at(b.address(op, field), offset) for field in (CopyField.SOURCE, CopyField.TARGET))
    with b.loop(b.field(op, CopyField.SIZE), step=16) as index:
        b.store_floats(b.load_floats(source, index), target, index)
    b.finish()


def _round_group(b: Builder, rows: Value, levels: Value, heads: Value, group: Value) -> None:
    """Round group `group` of a row."""
    arguments = [b.at(rows, group * 128), b.at(levels, group * 32), b.at(heads, group * HEAD)]
    b.call("round_group", arguments, ir.VoidType())


def _build_round_group(module: ir.Module) -> None:
    """round_group(floats, levels, head): 32 floats to int8, by the largest one."""
    b = Builder(module, "round_group", [POINTER] * 3)
    floats, levels, head = b.arguments
    parts = [b.load_floats(floats, 16 * part) for part in range(2)]
    peak = b.reduce(b.greater(*(b.absolute(part) for part in parts)), b.greater)
    scale = peak * (1.0 / 127.0)
    # A group of zeros, or of numbers too small to divide by, becomes 0.
    is_tiny = peak < 1e-30
    inverse = b.select(is_tiny, b.value(0.0, FLOAT), 127.0 / peak)
    sums = []
    for part, values in enumerate(parts):
        rounded = b.cast("fptosi", b.round(values * b.splat(inverse)), INTS)
        b.store(b.cast("trunc", rounded, vector(I8)), levels, 16 * part, 1)
        sums.append(b.reduce(rounded, lambda one, other: one + other))
    total = sums[0] + sums[1]
    for field, value in (
        (HeadField.SCALE, scale),
        (HeadField.SUM, total),
        (HeadField.FIRST_SUM, sums[0]),
        (HeadField.SCALED_SUM, scale * b.cast("sitofp", total, FLOAT)),
    ):
        b.store(value, head, 4 * field)
    b.finish()


def _build_norm(module: ir.Module) -> None:
    b = Builder(module, "norm", [POINTER, POINTER, I64, POINTER])
    op, now, chunk, _ = b.arguments
    # The last rows of a pass are scored, so the first chunk may be a later row.
    count = b.load(now, b.field(op, OperationField.COUNT_FIELD) * 8, I64, 8)
    row = chunk + b.field(now, 0) - count
    size = b.field(op, NormField.SIZE)
    hidden = b.at(b.address(op, NormField.HIDDEN), row * size * 4)
    factor = b.load(op, 8 * NormField.FACTOR, FLOAT)
    add, add_weight = b.address(op, NormField.ADD), b.address(op, NormField.ADD_WEIGHT)
    with b.when(is_there(b, add)):
        rows = b.at(add, row * size * 4)
        with b.raw.if_else(is_there(b, add_weight).raw) as (normed, plain):
            with normed:
                inverse = b.splat(_inverse(b, op, rows, size) * factor)
                with b.loop(size, step=16) as index:
                    term = b.load_floats(rows, index) * inverse * b.load_floats(add_weight, index)
                    b.store_floats(b.load_floats(hidden, index) + term, hidden, index)
            with plain:
                scale = b.splat(factor)
                with b.loop(size, step=16) as index:
                    sum_ = b.fma(b.load_floats(rows, index), scale, b.load_floats(hidden, index))
                    b.store_floats(sum_, hidden, index)
    scaled = b.at(b.address(op, NormField.SCALED), row * size * 4)
    weight = b.address(op, NormField.WEIGHT)
    with b.raw.if_else(is_there(b, weight).raw) as (normed, plain):
        with normed:
            inverse = b.splat(_inverse(b, op, hidden, size))
            with b.loop(size, step=16) as index:
                b.store_floats(b.load_floats(hidden, index) * inverse * b.load_floats(weight, index), scaled, index)
        with plain, b.loop(size, step=16) as index:
            b.store_floats(b.load_floats(hidden, index), scaled, index)
    groups = size // 32
    levels = b.at(b.address(op, NormField.LEVELS), chunk * size)
    heads = b.at(b.address(op, NormField.HEADS), chunk * groups * HEAD)
    with b.loop(groups) as group:
        _round_group(b, scaled, levels, heads, group)
    b.finish()


def _inverse(b: Builder, op: Value, rows: Value, size: Value) -> Value:
    """1 / sqrt(mean square + epsilon) of `size` floats. The sum has a fixed order."""
    epsilon, count = b.load(op, 8 * NormField.EPSILON, FLOAT), b.field(op, NormField.MEAN_SIZE)
    total = b.variable(0.0, FLOATS)
    with b.loop(size, step=16) as index:
        values = b.load_floats(rows, index)
        total.set(b.fma(values, values, total.get()))
    square = b.reduce(total.get(), lambda one, other: one + other)
    return 1.0 / b.sqrt(square / b.cast("sitofp", count, FLOAT) + epsilon)


def _build_gate(module: ir.Module, name: str, activation: Callable[[Builder, Value], Value]) -> None:
    b = Builder(module, name, [POINTER, POINTER, I64, POINTER])
    op, _, chunk, _ = b.arguments
    parts, groups = b.field(op, GateField.PARTS), b.field(op, GateField.GROUPS)
    row, part = chunk // parts, chunk % parts
    each = (groups + parts - 1) // parts
    gate = b.at(b.address(op, GateField.JOINED), row * b.field(op, GateField.STRIDE) * 4)
    up = b.at(gate, b.field(op, GateField.UP) * 4)
    scaled = b.at(b.address(op, GateField.SCALED), row * groups * 128)
    levels = b.at(b.address(op, GateField.LEVELS), row * groups * 32)
    heads = b.at(b.address(op, GateField.HEADS), row * groups * HEAD)
    with b.loop(b.smaller_int(part * each + each, groups), part * each) as group:
        for half in (0, 16):
            index = group * 32 + half
            product = activation(b, b.load_floats(gate, index)) * b.load_floats(up, index)
            b.store_floats(product, scaled, index)
        _round_group(b, scaled, levels, heads, group)
    b.finish()


def _silu(b: Builder, x: Value) -> Value:
    return x / (exponential(b, b.value(0.0, FLOATS) - x) + 1.0)


def _gelu(b: Builder, x: Value) -> Value:
    """The approximation by tanh (Hendrycks and Gimpel 2016), as a sigmoid."""
    inner = x * b.fma(x * x, b.value(0.044715, FLOATS), b.value(1.0, FLOATS))
    return x / (exponential(b, inner * (-2 * 0.7978845608028654)) + 1.0)


def exponential(b: Builder, x: Value) -> Value:
    """exp(x) in float32 to about 2 units in the last place; the exponent is clamped to the normal numbers.

    exp(x) = 2 ** n * exp(r) with |r| <= ln(2) / 2, and a polynomial for exp(r) (Cephes, expf).
    """
    x = b.select(x > 88.0, b.value(88.0, FLOATS), x)
    x = b.select(x < -87.0, b.value(-87.0, FLOATS), x)
    n = b.round(x * 1.44269504088896341)
    r = b.fma(n, b.value(-0.693359375, FLOATS), x)
    r = b.fma(n, b.value(2.12194440e-4, FLOATS), r)
    polynomial = b.value(1.9875691500e-4, FLOATS)
    for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        polynomial = b.fma(polynomial, r, b.value(coefficient, FLOATS))
    result = b.fma(polynomial, r * r, r) + 1.0
    power = (b.cast("fptosi", n, INTS) + 127) << 23
    return result * b.cast("bitcast", power, FLOATS)


def is_there(b: Builder, pointer: Value) -> Value:
    """Whether a pointer is not null."""
    return Value(b, b.raw.icmp_unsigned("!=", pointer.raw, ir.Constant(POINTER, None)))
