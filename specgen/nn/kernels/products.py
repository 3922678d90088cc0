"""The product of quantized rows with a matrix in panels, for each number format.

A panel is 16 outputs; panels.py has its layout. Sums inside a group of 32 inputs are exact integers. Groups are added
in float32 in their order. So a row's result depends neither on the number of rows nor on the number of threads.
"""

from llvmlite import ir

from specgen.nn.kernels.builder import FLOATS, HALF, I8, I32, I64, INTS, POINTER, Builder, Value, Variable, vector
from specgen.nn.kernels.dots import Dots, bytes_of_group, unpack_levels
from specgen.nn.kernels.grouped import SUPERBLOCK, Format
from specgen.nn.kernels.rows import HEAD, HeadField, is_there
from specgen.nn.kernels.team import Field, OperationField

# Bytes between what is multiplied and what is fetched from memory: docs/bench/kernels.py.
_AHEAD = 2048
# Groups that many rows are multiplied with at a time, so that the rows stay in the first cache. Whole superblocks.
_SEGMENT = 48
_FEW = 4


def product_name(form: Format) -> str:
    """The name of the function for a number format."""
    return f"product_{form.bits}_{form.zero}_{form.kind}"


def build_product(module: ir.Module, form: Format, dots: Dots) -> None:
    """Add the function `product_name(form)` for all numbers of rows. Its operation's fields: `ProductField`."""
    blocks = [_build_panel(module, form, dots, rows) for rows in range(1, dots.rows + 1)]
    b = Builder(module, product_name(form), [POINTER, POINTER, I64, POINTER])
    op, now, chunk, _ = b.arguments
    rows = b.load(now, b.field(op, OperationField.COUNT_FIELD) * 8, I64, 8)
    first = chunk * b.field(op, ProductField.PANELS_OF_CHUNK)
    end = b.smaller_int(first + b.field(op, ProductField.PANELS_OF_CHUNK), b.field(op, ProductField.PANELS))
    groups = b.field(op, ProductField.GROUPS)
    # Few rows stay in the first cache anyway, and reading a panel at a stretch is faster.
    each = b.select(rows < _FEW, groups, b.value(_SEGMENT))
    with b.loop(groups, step=each) as start:
        segment = start, b.smaller_int(start + each, groups)
        with b.loop(end, first) as place:
            _multiply(b, form, blocks, op, _panel_at(b, op, place), rows, segment)
    b.finish()


def _panel_at(b: Builder, op: Value, place: Value) -> Value:
    """The panel to compute at a place of the list of panels."""
    chosen = b.address(op, ProductField.CHOSEN)
    panel = b.variable(place)
    with b.when(is_there(b, chosen)):
        panel.set(b.load(chosen, place * 8, I64, 8))
    return panel.get()


class ProductField(Field):
    """The fields of a product's operation: addresses, then numbers."""

    LEVELS = 8
    SCALES = 9
    BIAS = 10
    """float32 [outputs]."""
    ROWS = 11
    """int8 [rows, groups * 32]."""
    HEADS = 12
    """See rows.py."""
    OUT = 13
    """float32 [rows, OUT_STRIDE]."""
    OUT_STRIDE = 14
    GROUPS = 15
    PANELS = 16
    PANELS_OF_CHUNK = 17
    LEVELS_OF_PANEL = 18
    """Bytes."""
    SCALES_OF_PANEL = 19
    """Bytes."""
    CHOSEN = 20
    """int64 [PANELS]: the panels that are computed. Null computes the first ones."""


def _multiply(
    b: Builder, form: Format, blocks: list[str], op: Value, panel: Value, rows: Value, segment: tuple[Value, Value]
) -> None:
    """All rows times a segment of one panel: blocks of the most rows, then the rest."""
    most = len(blocks)
    first, end = segment
    groups, stride = b.field(op, ProductField.GROUPS), b.field(op, ProductField.OUT_STRIDE)
    levels = b.at(b.address(op, ProductField.LEVELS), panel * b.field(op, ProductField.LEVELS_OF_PANEL))
    scales = b.at(b.address(op, ProductField.SCALES), panel * b.field(op, ProductField.SCALES_OF_PANEL))
    scales = b.at(scales, _scales_before(form, first))
    bias = b.at(b.address(op, ProductField.BIAS), panel * 64)
    begins = first.compare("==", 0)

    def call(name: str, row: Value) -> None:
        out = b.at(b.address(op, ProductField.OUT), row * stride * 4 + panel * 64)
        rows_ = b.at(b.address(op, ProductField.ROWS), row * groups * 32)
        heads = b.at(b.address(op, ProductField.HEADS), row * groups * HEAD)
        # The first segment adds to the bias, the others to the sums so far.
        so_far = [b.select(begins, bias, out), b.select(begins, b.value(0), stride)]
        b.call(name, [levels, scales, *so_far, rows_, heads, out, groups, stride, first, end], ir.VoidType())

    whole = rows - rows % most
    with b.loop(whole, step=most) as row:
        call(blocks[-1], row)
    rest = rows - whole
    for count in range(1, most):
        with b.when(rest.compare("==", count)):
            call(blocks[count - 1], whole)


def _scales_before(form: Format, group: Value) -> Value:
    """The bytes of a panel's scales before a group that begins a superblock."""
    match form.kind:
        case "plain":
            return group * 32
        case "offset":
            return group * 64
        case "super":
            return group * 32 + group // SUPERBLOCK * 64
        case _:
            return group * 32 + group // SUPERBLOCK * 32


def _build_panel(module: ir.Module, form: Format, dots: Dots, rows: int) -> str:
    """Add a function for exactly `rows` rows and some groups of one panel."""
    name = f"{product_name(form)}_{rows}"
    b = Builder(module, name, [POINTER] * 3 + [I64] + [POINTER] * 3 + [I64] * 4)
    levels, scales, so_far, so_far_stride, row_levels, row_heads, out, groups, stride, start, end = b.arguments
    totals = [b.variable(b.load_floats(so_far, so_far_stride * row)) for row in range(rows)]
    pointers = [(b.at(row_levels, groups * (32 * row)), b.at(row_heads, groups * (HEAD * row))) for row in range(rows)]
    place = b.variable(0)
    step = SUPERBLOCK if form.kind in ("super", "halves") else 1
    with b.loop(end, start, step=step) as first:
        shared = _superblock_scales(b, form, scales, place)
        with b.loop(b.smaller_int(first + step, end), first) as group:
            weight_scales, offset = _group_scales(b, form, scales, place, shared)
            stored = b.at(levels, group * bytes_of_group(form.bits))
            for line in range(0, bytes_of_group(form.bits), 64):
                b.prefetch(stored, _AHEAD + line)
            words = unpack_levels(b, stored, form.bits)
            for total, (row, heads) in zip(totals, pointers, strict=True):
                activations = [b.load(row, group * 32 + 4 * word, I32) for word in range(8)]
                head = b.at(heads, group * HEAD)
                total.set(_add_group(b, form, dots, (words, weight_scales, offset), (activations, head), total.get()))
    for index, total in enumerate(totals):
        b.store_floats(total.get(), out, stride * index)
    b.finish()
    return name


def _superblock_scales(b: Builder, form: Format, scales: Value, place: Variable) -> list[Value]:
    """The float32 scale of a superblock, and its offset less than 0; nothing for formats without superblocks."""
    if form.kind not in ("super", "halves"):
        return []
    shared = [_read_halves(b, scales, place)]
    return shared if form.kind == "halves" else [*shared, b.value(0.0, FLOATS) - _read_halves(b, scales, place)]


def _group_scales(
    b: Builder, form: Format, scales: Value, place: Variable, shared: list[Value]
) -> tuple[list[Value], Value | None]:
    """The float32 scales [16] of a group, one or one for each half, and its offset."""
    match form.kind:
        case "plain":
            return [_read_halves(b, scales, place)], None
        case "offset":
            return [_read_halves(b, scales, place)], _read_halves(b, scales, place)
        case "super":
            scale, offset = (_read_bytes(b, scales, place, "zext") for _ in range(2))
            return [shared[0] * scale], shared[1] * offset
        case _:
            return [shared[0] * _read_bytes(b, scales, place, "sext") for _ in range(2)], None


def _read_halves(b: Builder, scales: Value, place: Variable) -> Value:
    """The next 16 float16 as float32."""
    now = place.get()
    place.set(now + 32)
    return b.to_floats(b.load(scales, now, vector(HALF), 1))


def _read_bytes(b: Builder, scales: Value, place: Variable, extend: str) -> Value:
    """The next 16 bytes as float32."""
    now = place.get()
    place.set(now + 16)
    return b.cast("sitofp", b.cast(extend, b.load(scales, now, vector(I8), 1), INTS), FLOATS)


def _add_group(
    b: Builder,
    form: Format,
    dots: Dots,
    weights: tuple[list[Value], list[Value], Value | None],
    row: tuple[list[Value], Value],
    total: Value,
) -> Value:
    """`total` plus the products of one group for one row. `weights`: the 8 words, the scales and the offset."""
    words, scales, offset = weights
    activations, head = row
    row_scale, each = b.splat(b.load_float(head, HeadField.SCALE)), 8 // len(scales)
    for part, scale in enumerate(scales):
        chosen = slice(part * each, part * each + each)
        exact = dots.sum(b, words[chosen], activations[chosen], form.bits)
        if form.zero:
            exact = exact - (_sum_of_levels(b, head, part if len(scales) > 1 else None) << (form.zero.bit_length() - 1))
        total = b.fma(scale * row_scale, b.cast("sitofp", exact, FLOATS), total)
    return total if offset is None else b.fma(offset, b.splat(b.load_float(head, HeadField.SCALED_SUM)), total)


def _sum_of_levels(b: Builder, head: Value, half: int | None) -> Value:
    """int32 [16]: the sum of a group's activation levels, or of a half of the group, in all lanes."""
    total, first = (b.splat(b.load(head, 4 * field, I32)) for field in (HeadField.SUM, HeadField.FIRST_SUM))
    match half:
        case None:
            return total
        case 0:
            return first
        case _:
            return total - first
