"""Compiled products against integer arithmetic, for every instruction set that runs here."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from specgen.nn.kernels.compiler import compile_module
from specgen.nn.kernels.dots import Dots, available
from specgen.nn.kernels.grouped import Format, GroupedMatrix
from specgen.nn.kernels.panels import PANEL, Panels, pack
from specgen.nn.kernels.products import ProductField, build_product, product_name
from specgen.nn.kernels.rows import HEAD
from specgen.nn.kernels.team import OperationField, Program, assemble, team_of

_FORMATS = (
    Format(4, 8, "plain"),
    Format(8, 128, "plain"),
    Format(5, 16, "plain"),
    Format(4, 0, "offset"),
    Format(5, 0, "offset"),
    Format(4, 0, "super"),
    Format(5, 0, "super"),
    Format(6, 32, "halves"),
)
_WIDTHS = (1, 2, 3, 4, 5, 7, 8, 9, 16, 33)
_OUTPUTS, _INPUTS = 72, 1824  # two segments of groups, a short superblock, a panel that is half empty

pytestmark = pytest.mark.parametrize("dots", available(), ids=lambda dots: dots.name)


def _random(form: Format, seed: int = 0) -> GroupedMatrix:
    random = np.random.default_rng(seed)
    groups = -(-_INPUTS // 32)
    levels = random.integers(0, 1 << form.bits, (_OUTPUTS, _INPUTS), np.uint8)
    levels[0], levels[1] = (1 << form.bits) - 1, 0  # the largest sums

    def halves(count: int) -> NDArray[np.float16]:
        return (random.random((_OUTPUTS, count)) + 0.5).astype(np.float16)

    if form.kind in ("plain", "offset"):
        offset = halves(groups) if form.kind == "offset" else None
        return GroupedMatrix(levels, form.bits, form.zero, form.kind, halves(groups), offset)
    superblocks = -(-groups // 8)
    if form.kind == "halves":
        scale = random.integers(-128, 128, (_OUTPUTS, 2 * groups)).astype(np.int8)
        return GroupedMatrix(levels, form.bits, form.zero, form.kind, scale, None, halves(superblocks))
    scale, offset = (random.integers(0, 256, (_OUTPUTS, groups)).astype(np.uint8) for _ in range(2))
    return GroupedMatrix(
        levels, form.bits, form.zero, form.kind, scale, offset, halves(superblocks), halves(superblocks)
    )


def _rows(count: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Levels of activations, the extremes among them, and the scales of their groups."""
    random = np.random.default_rng(1)
    levels = random.integers(-127, 128, (count, _INPUTS), np.int8)
    levels[0] = 127
    levels[-1] = -127
    return levels, (random.random((count, _INPUTS // 32)) + 0.5).astype(np.float32)


def _multiply(
    dots: Dots,
    panels: Panels,
    levels: NDArray[np.int8],
    scales: NDArray[np.float32],
    *,
    bias: float = 0.0,
    chosen: Sequence[int] | None = None,
    threads: int = 2,
) -> NDArray[np.float32]:
    """[rows, outputs of all panels], NaN where nothing was computed."""
    form = Format(panels.bits, panels.zero, panels.kind)
    name = product_name(form)
    function = compile_module(f"{name} {dots.name}", [name], lambda module: build_product(module, form, dots))[name]
    count, groups = scales.shape
    heads = np.zeros((count, groups, HEAD // 4), np.int32)
    halves = levels.reshape(count, groups, 2, 16).astype(np.int32).sum(-1)
    heads[..., 0] = scales.view(np.int32)
    heads[..., 1], heads[..., 2] = halves.sum(-1), halves[..., 0]
    heads[..., 3] = (scales * halves.sum(-1).astype(np.float32)).view(np.int32)
    number = len(panels.levels)
    places = np.array(range(number) if chosen is None else chosen, np.int64)
    biases = np.full(number * PANEL, bias, np.float32)
    out = np.full((count, number * PANEL), np.nan, np.float32)
    operation: dict[int, Any] = {
        OperationField.FUNCTION: function,
        OperationField.FIXED: -(-len(places) // 2),
        OperationField.FIRST_OF_GROUP: 0,
        ProductField.LEVELS: panels.levels.ctypes.data,
        ProductField.SCALES: panels.scales.ctypes.data,
        ProductField.BIAS: biases.ctypes.data,
        ProductField.ROWS: levels.ctypes.data,
        ProductField.HEADS: heads.ctypes.data,
        ProductField.OUT: out.ctypes.data,
        ProductField.OUT_STRIDE: out.shape[1],
        ProductField.GROUPS: groups,
        ProductField.PANELS: len(places),
        ProductField.PANELS_OF_CHUNK: 2,
        ProductField.LEVELS_OF_PANEL: panels.levels[0].nbytes,
        ProductField.SCALES_OF_PANEL: panels.scales[0].nbytes,
        ProductField.CHOSEN: 0 if chosen is None else places.ctypes.data,
    }
    program = Program(assemble([operation]))
    program.current[0] = count
    team_of(threads).run(program, 1)
    return out


@pytest.mark.parametrize("form", _FORMATS, ids=product_name)
def test_sums_inside_a_group_are_exact(dots: Dots, form: Format) -> None:
    matrix = _random(form)
    for array in (matrix.scale, matrix.offset, matrix.super_scale, matrix.super_offset):
        if array is not None:
            array[...] = 1
    levels, scales = _rows(9)
    scales[...] = 1.0
    weights = matrix.levels.astype(np.int64) - form.zero
    if form.kind in ("offset", "super"):
        weights += 1 if form.kind == "offset" else -1
    product = _multiply(dots, pack(matrix), levels[:, :_INPUTS], scales)
    # Sums of whole numbers below 2 ** 24 are exact in float32.
    wanted = levels.astype(np.int64) @ weights.T
    inside = np.abs(wanted) < 1 << 24
    assert np.array_equal(product[:, :_OUTPUTS][inside], wanted[inside])
    assert inside.mean() > 0.5
    assert not product[:, _OUTPUTS:].any()


@pytest.mark.parametrize("form", _FORMATS, ids=product_name)
def test_products_are_those_of_the_dequantized_weights(dots: Dots, form: Format) -> None:
    matrix = _random(form)
    levels, scales = _rows(5)
    product = _multiply(dots, pack(matrix), levels, scales, bias=3.0)[:, :_OUTPUTS]
    wanted = (levels * np.repeat(scales.astype(np.float64), 32, axis=1)) @ matrix.dequantize().astype(np.float64).T + 3
    assert np.abs(product - wanted).max() < 2e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("form", _FORMATS, ids=product_name)
def test_a_row_has_the_same_bits_at_every_width_and_number_of_threads(dots: Dots, form: Format) -> None:
    panels = pack(_random(form))
    levels, scales = _rows(max(_WIDTHS))
    whole = _multiply(dots, panels, levels, scales, bias=0.3)
    for width in _WIDTHS:
        alone = _multiply(dots, panels, levels[:width].copy(), scales[:width].copy(), bias=0.3, threads=1 + width % 3)
        assert np.array_equal(alone, whole[:width]), width


def test_all_instruction_sets_give_the_same_bits(dots: Dots) -> None:
    levels, scales = _rows(5)
    for form in _FORMATS:
        panels = pack(_random(form))
        portable = _multiply(available()[-1], panels, levels, scales)
        assert np.array_equal(_multiply(dots, panels, levels, scales), portable), form


def test_only_chosen_panels_are_computed(dots: Dots) -> None:
    panels = pack(_random(_FORMATS[0]))
    levels, scales = _rows(3)
    whole = _multiply(dots, panels, levels, scales)
    some = _multiply(dots, panels, levels, scales, chosen=[4, 1, 2])
    assert np.array_equal(some[:, 16:48], whole[:, 16:48])
    assert np.array_equal(some[:, 64:], whole[:, 64:])
    assert np.isnan(some[:, :16]).all()
    assert np.isnan(some[:, 48:64]).all()
