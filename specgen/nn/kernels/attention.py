"""Rotation of queries and keys, the cache, and attention, in compiled code.

The cache of a layer and key head is, for CAPACITY positions: keys in blocks [CAPACITY / 16, size, 16 positions], then
values [CAPACITY, padded size]. A row sums over keys in the order of their positions, so it gets the same bits in every
pass.
"""

from dataclasses import dataclass

from llvmlite import ir

from specgen.nn.kernels.builder import (
    FLOAT,
    FLOATS,
    HALF,
    I32,
    I64,
    INTS,
    LANES,
    POINTER,
    Builder,
    Value,
    Variable,
    vector,
)
from specgen.nn.kernels.rows import exponential, is_there
from specgen.nn.kernels.team import Field, PassField

ROW = 4
"""64-bit integers of a row in `PassField.ROW_TABLE`: position, address and capacity of its cache, unused."""

# A weight below exp(-60) changes no sum. It is 0, because products with tiny numbers are slow.
_NEGLIGIBLE = -60.0


@dataclass(frozen=True, slots=True)
class Heads:
    """The shape of attention. `half`: the cache is float16, else float32. `cap`: scores are capped (Gemma 2)."""

    heads: int
    kv_heads: int
    size: int
    half: bool
    cap: bool

    @property
    def name(self) -> str:
        return f"heads_{self.heads}_{self.kv_heads}_{self.size}_{self.half:d}_{self.cap:d}"

    @property
    def groups(self) -> int:
        """Query heads for each key head."""
        return self.heads // self.kv_heads

    @property
    def padded(self) -> int:
        """The size of a value in the cache."""
        return -(-self.size // LANES) * LANES

    @property
    def width(self) -> int:
        """Bytes of a number in the cache."""
        return 2 if self.half else 4

    @property
    def position_bytes(self) -> int:
        """Bytes of a position in the cache of one layer and key head."""
        return (self.size + self.padded) * self.width


class RotateField(Field):
    """The operation `rotate`, a row a chunk: norm and rotate queries and keys, and write keys and values."""

    QKV = 8
    """float32 [rows, STRIDE]: queries, from KEYS on keys, from VALUES on values. Queries are overwritten."""
    STRIDE = 9
    KEYS = 10
    VALUES = 11
    TABLE = 12
    """float32 [positions, ROTATED / 2, 2]: cosine and sine of each pair. Null: no rotation."""
    ROTATED = 13
    """Dimensions of a head that rotate."""
    LAYER = 14
    NORM = 15
    """float32 [heads + kv_heads, size]: the weights of the norm of queries and keys, or null."""
    EPSILON = 16
    WHOLE_NORM = 17
    """1: one norm over all queries and one over all keys. 0: a norm for each head."""


class AttendField(Field):
    """The operation `attend`. A chunk is a key head and a tile of rows."""

    QKV = 8
    STRIDE = 9
    OUT = 10
    """float32 [rows, OUT_STRIDE]."""
    OUT_STRIDE = 11
    LAYER = 12
    WINDOW = 13
    """The number of keys that a row sees, its own included; 0 for all."""
    SCALE = 14
    CAP = 15


FUNCTIONS = ("rotate", "attend")


def build_attention(module: ir.Module, heads: Heads) -> None:
    """Add the functions `rotate` and `attend`."""
    _build_rotate(module, heads)
    _build_attend(module, heads)


def scratch_bytes(heads: Heads, capacity: int) -> int:
    """The scratch memory of a thread for contexts of up to `capacity` positions."""
    return 4 * heads.groups * (capacity + LANES)


def _cache_of(b: Builder, heads: Heads, row: Value, layer: Value, kv_head: Value) -> tuple[Value, Value, Value]:
    """The position of a row, and the addresses of keys and values of a layer and key head."""
    capacity = b.field(row, 2)
    offset = (layer * heads.kv_heads + kv_head) * capacity * heads.position_bytes
    keys = b.at(b.address(row, 1), offset)
    return b.field(row, 0), keys, b.at(keys, capacity * (heads.size * heads.width))


def _build_rotate(module: ir.Module, heads: Heads) -> None:
    b = Builder(module, "rotate", [POINTER, POINTER, I64, POINTER])
    op, now, chunk, _ = b.arguments
    row = b.at(b.address(now, PassField.ROW_TABLE), chunk * (8 * ROW))
    position = b.field(row, 0)
    queries = b.at(b.address(op, RotateField.QKV), chunk * b.field(op, RotateField.STRIDE) * 4)
    keys = b.at(queries, b.field(op, RotateField.KEYS) * 4)
    values = b.at(queries, b.field(op, RotateField.VALUES) * 4)
    norm = b.address(op, RotateField.NORM)
    with b.when(is_there(b, norm)):
        _norm_heads(b, op, queries, norm, heads.heads, heads.size)
        _norm_heads(b, op, keys, b.at(norm, heads.heads * heads.size * 4), heads.kv_heads, heads.size)
    table, rotated = b.address(op, RotateField.TABLE), b.field(op, RotateField.ROTATED)
    with b.when(is_there(b, table)):
        angles = b.at(table, position * rotated * 4)
        for rows, count in ((queries, heads.heads), (keys, heads.kv_heads)):
            with b.loop(count) as head:
                _rotate_head(b, b.at(rows, head * (heads.size * 4)), angles, rotated)
    with b.loop(heads.kv_heads) as head:
        _, cached_keys, cached_values = _cache_of(b, heads, row, b.field(op, RotateField.LAYER), head)
        block = b.at(cached_keys, (position // LANES) * (LANES * heads.size * heads.width))
        lane = position % LANES
        with b.loop(heads.size) as index:
            source = head * heads.size + index
            _store_number(b, heads, b.load_float(keys, source), block, index * LANES + lane)
            _store_number(b, heads, b.load_float(values, source), cached_values, position * heads.padded + index)
        # Padding is multiplied with weights of other keys, so it must be a number.
        with b.loop(heads.padded, heads.size) as index:
            _store_number(b, heads, b.value(0.0, FLOAT), cached_values, position * heads.padded + index)
    b.finish()


def _store_number(b: Builder, heads: Heads, number: Value, pointer: Value, index: Value) -> None:
    stored = b.cast("fptrunc", number, HALF) if heads.half else number
    b.store(stored, pointer, index * heads.width, heads.width)


def _norm_heads(b: Builder, op: Value, rows: Value, weight: Value, heads: int, size: int) -> None:
    """RMS norm of `heads` vectors of `size` floats in place, one by one or as one."""
    epsilon = b.load(op, 8 * RotateField.EPSILON, FLOAT)
    whole = b.field(op, RotateField.WHOLE_NORM)
    each = b.select(whole.compare("==", 1), b.value(heads * size), b.value(size))
    with b.loop(b.value(heads * size) // each) as index:
        vector_ = b.at(rows, index * each * 4)
        total = b.variable(0.0, FLOAT)
        with b.loop(each) as place:
            number = b.load_float(vector_, place)
            total.set(b.fma(number, number, total.get()))
        inverse = 1.0 / b.sqrt(total.get() / b.cast("sitofp", each, FLOAT) + epsilon)
        with b.loop(each) as place:
            scaled = b.load_float(vector_, place) * inverse * b.load_float(weight, index * each + place)
            b.store(scaled, vector_, place * 4)


def _rotate_head(b: Builder, head: Value, angles: Value, rotated: Value) -> None:
    """Rotate the pairs of neighbours of the first `rotated` dimensions."""
    with b.loop(rotated, step=2) as index:
        left, right = b.load_float(head, index), b.load_float(head, index + 1)
        cosine, sine = b.load_float(angles, index), b.load_float(angles, index + 1)
        b.store(left * cosine - right * sine, head, index * 4)
        b.store(right * cosine + left * sine, head, (index + 1) * 4)


def _build_attend(module: ir.Module, heads: Heads) -> None:
    b = Builder(module, "attend_row", [POINTER, POINTER, I64, I64, POINTER])
    op, now, row_index, kv_head, scores = b.arguments
    row = b.at(b.address(now, PassField.ROW_TABLE), row_index * (8 * ROW))
    position, keys, values = _cache_of(b, heads, row, b.field(op, AttendField.LAYER), kv_head)
    queries = b.at(b.address(op, AttendField.QKV), row_index * b.field(op, AttendField.STRIDE) * 4)
    queries = b.at(queries, kv_head * (heads.groups * heads.size * 4))
    window = b.field(op, AttendField.WINDOW)
    cut = b.select(window > 0, position + 1 - window, b.value(0))
    first = b.select(cut > 0, cut, b.value(0))
    start = first // LANES
    stride = (position // LANES + 1 - start) * (4 * LANES)
    span = first, position, start, stride
    peaks = _score(b, heads, op, queries, (keys, values), scores, span)
    sums = _weigh(b, scores, peaks, span)
    out = b.at(b.address(op, AttendField.OUT), row_index * b.field(op, AttendField.OUT_STRIDE) * 4)
    _mix(b, heads, scores, values, b.at(out, kv_head * (heads.groups * heads.size * 4)), sums, span)
    b.finish()

    b = Builder(module, "attend", [POINTER, POINTER, I64, POINTER])
    op, now, chunk, scores = b.arguments
    kv_head = chunk % heads.kv_heads
    each, rows = b.field(now, PassField.TILE), b.field(now, PassField.ROWS)
    first = chunk // heads.kv_heads * each
    # Rows of a tile follow each other, so that the later ones find keys and values in the processor's cache.
    with b.loop(b.smaller_int(first + each, rows), first) as row_index:
        b.call("attend_row", [op, now, row_index, kv_head, scores], ir.VoidType())
    b.finish()


_Span = tuple[Value, Value, Value, Value]
"""The first and the last position that a row sees, its first block, and the bytes of the scores of a query head."""


def _score(
    b: Builder, heads: Heads, op: Value, queries: Value, cache: tuple[Value, Value], scores: Value, span: _Span
) -> list[Value]:
    """Write the scores of all keys to scratch memory; the largest score of each query head."""
    first, position, start, stride = span
    keys, values = cache
    scale = b.splat(b.load(op, 8 * AttendField.SCALE, FLOAT))
    lowest = b.value(float("-inf"), FLOATS)
    peaks = [b.variable(lowest) for _ in range(heads.groups)]
    lanes = Value(b, ir.Constant(INTS, list(range(LANES))))
    with b.loop(position // LANES + 1, start) as block:
        pointer = b.at(keys, block * (LANES * heads.size * heads.width))
        _fetch_block(b, heads, pointer, b.at(values, block * (LANES * heads.padded * heads.width)))
        totals = [b.variable(0.0, FLOATS) for _ in range(heads.groups)]
        with b.loop(heads.size) as index:
            column = _load_numbers(b, heads, pointer, index * LANES)
            for group, total in enumerate(totals):
                query = b.splat(b.load_float(queries, index + group * heads.size))
                total.set(b.fma(query, column, total.get()))
        places = lanes + b.splat(b.cast("trunc", block * LANES, I32))
        low, high = (b.splat(b.cast("trunc", edge, I32)) for edge in (first, position))
        for group, (total, peak) in enumerate(zip(totals, peaks, strict=True)):
            score = total.get() * scale
            if heads.cap:
                score = _capped(b, score, b.splat(b.load(op, 8 * AttendField.CAP, FLOAT)))
            seen = b.select(places >= low, b.select(places <= high, score, lowest), lowest)
            b.store(seen, scores, stride * group + (block - start) * (4 * LANES))
            peak.set(b.greater(peak.get(), seen))
    return [b.reduce(peak.get(), b.greater) for peak in peaks]


def _fetch_block(b: Builder, heads: Heads, keys: Value, values: Value) -> None:
    """Ask for the next block of keys, and for the values of this one."""
    for offset in range(0, LANES * heads.size * heads.width, 64):
        b.prefetch(keys, LANES * heads.size * heads.width + offset)
    for offset in range(0, LANES * heads.padded * heads.width, 64):
        b.prefetch(values, offset)


def _capped(b: Builder, score: Value, cap: Value) -> Value:
    """cap * tanh(score / cap)."""
    return cap - (cap + cap) / (exponential(b, (score + score) / cap) + 1.0)


def _weigh(b: Builder, scores: Value, peaks: list[Value], span: _Span) -> list[Value]:
    """Turn scores into exp(score - peak); the sum of each query head."""
    first, position, start, stride = span
    for group, peak in enumerate(peaks):
        row = b.at(scores, stride * group)
        shift = b.splat(peak)
        with b.loop(position // LANES + 1, start) as block:
            place = (block - start) * LANES
            below = b.load_floats(row, place) - shift
            weight = b.select(below < _NEGLIGIBLE, b.value(0.0, FLOATS), exponential(b, below))
            b.store_floats(weight, row, place)
    totals = [b.variable(0.0, FLOAT) for _ in peaks]
    with b.loop(position + 1, first) as key:
        for group, total in enumerate(totals):
            total.set(total.get() + b.load_float(b.at(scores, stride * group), key - start * LANES))
    return [total.get() for total in totals]


def _mix(b: Builder, heads: Heads, scores: Value, values: Value, out: Value, sums: list[Value], span: _Span) -> None:
    """Sum the values by their weights. Dimensions are divided so that the sums stay in registers."""
    first, position, start, stride = span
    together = max(1, min(heads.padded // LANES, 12 // heads.groups))
    for dimension in range(0, heads.padded, together * LANES):
        columns = [column for column in range(dimension, dimension + together * LANES, LANES) if column < heads.padded]
        totals: list[list[Variable]] = [[b.variable(0.0, FLOATS) for _ in columns] for _ in sums]
        with b.loop(position + 1, first) as key:
            loaded = [_load_numbers(b, heads, values, key * heads.padded + column) for column in columns]
            for group, row in enumerate(totals):
                weight = b.splat(b.load_float(b.at(scores, stride * group), key - start * LANES))
                for total, value in zip(row, loaded, strict=True):
                    total.set(b.fma(weight, value, total.get()))
        for group, row in enumerate(totals):
            inverse = b.splat(1.0 / sums[group])
            for column, total in zip(columns, row, strict=True):
                _store_mixed(b, heads, total.get() * inverse, out, group * heads.size + column, column)


def _store_mixed(b: Builder, heads: Heads, mixed: Value, out: Value, index: int, column: int) -> None:
    """Store 16 dimensions of a head, fewer where the head ends."""
    count = min(LANES, heads.size - column)
    if count == LANES:
        b.store_floats(mixed, out, index)
        return
    for lane in range(count):
        number = Value(b, b.raw.extract_element(mixed.raw, ir.Constant(I32, lane)))
        b.store(number, out, 4 * (index + lane))


def _load_numbers(b: Builder, heads: Heads, pointer: Value, index: Value) -> Value:
    """16 numbers of the cache as float32."""
    if heads.half:
        return b.to_floats(b.load(pointer, index * 2, vector(HALF), 2))
    return b.load_floats(pointer, index)
