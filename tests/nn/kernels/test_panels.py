"""Panels: each level and scale is where the layout says, and unpacking gives the matrix back."""

import numpy as np
import pytest

from specgen.nn.kernels.grouped import Bits, GroupedMatrix, ScaleKind
from specgen.nn.kernels.panels import GROUP_BYTES, Panels, pack, scale_bytes, unpack
from tests.nn.kernels.matrices import FORMATS, random_matrix

SHAPES = [(16, 32), (32, 512), (48, 896), (21, 300), (5, 40)]


def level(panels: Panels, row: int, column: int) -> int:
    """One level, by the layout."""
    (panel, output), (group, i) = divmod(row, 16), divmod(column, 32)
    data = panels.levels[panel, group].astype(int)
    byte = 4 * output + i % 4
    if panels.bits == 8:
        return int(data[64 * (i // 4) + byte])
    low = data[64 * (i // 8) + byte] >> (4 if i % 8 >= 4 else 0) & 15
    word = i // 4
    if panels.bits == 5:
        low += (data[256 + byte] >> word & 1) << 4
    if panels.bits == 6:
        low += (data[256 + 64 * (word // 4) + byte] >> 2 * (word % 4) & 3) << 4
    return int(low)


def scales(matrix: GroupedMatrix, panel: int) -> bytes:
    """The scales of a whole panel without padding, by the layout."""
    of, written = matrix.rows(slice(16 * panel, 16 * panel + 16)), b""
    for group in range(-(-matrix.shape[1] // 32)):
        if of.super_scale is not None and group % 8 == 0:
            written += of.super_scale[:, group // 8].tobytes()
            written += b"" if of.super_offset is None else of.super_offset[:, group // 8].tobytes()
        if of.kind == "halves":
            written += of.scale[:, 2 * group].tobytes() + of.scale[:, 2 * group + 1].tobytes()
        else:
            written += of.scale[:, group].tobytes()
            written += b"" if of.offset is None else of.offset[:, group].tobytes()
    return written


@pytest.mark.parametrize(("bits", "zero", "kind"), FORMATS)
def test_levels_and_scales_lie_where_the_layout_says(bits: Bits, zero: int, kind: ScaleKind) -> None:
    matrix = random_matrix(bits, zero, kind, 32, 352)
    panels = pack(matrix)
    assert panels.levels.shape == (2, 11, GROUP_BYTES[bits])
    found = [[level(panels, row, column) for column in range(352)] for row in range(32)]
    np.testing.assert_array_equal(found, matrix.levels)
    assert [panels.scales[panel].tobytes() for panel in range(2)] == [scales(matrix, panel) for panel in range(2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("bits", "zero", "kind"), FORMATS)
def test_unpacking_gives_the_matrix_back(bits: Bits, zero: int, kind: ScaleKind, shape: tuple[int, int]) -> None:
    matrix = random_matrix(bits, zero, kind, *shape)
    panels = pack(matrix)
    assert panels.scales.shape == (-(-shape[0] // 16), scale_bytes(kind, -(-shape[1] // 32)))
    found = unpack(panels)
    for name in GroupedMatrix.__slots__:
        np.testing.assert_array_equal(getattr(found, name), getattr(matrix, name))


@pytest.mark.parametrize(("bits", "zero", "kind"), FORMATS)
def test_padding_outputs_and_inputs_have_the_weight_zero(bits: Bits, zero: int, kind: ScaleKind) -> None:
    panels = pack(random_matrix(bits, zero, kind, 5, 40))
    whole = unpack(Panels(panels.levels, panels.scales, bits, zero, kind, 16, 64))
    assert (whole.levels[5:] == zero).all()
    assert (whole.levels[:, 40:] == zero).all()
    assert (whole.dequantize()[5:] == 0).all()
