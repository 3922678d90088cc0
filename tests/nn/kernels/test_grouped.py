"""Quantized matrices: the weights are those of the formulas."""

import numpy as np
import pytest

from specgen.nn.kernels.grouped import Bits, GroupedMatrix, ScaleKind
from tests.nn.kernels.matrices import FORMATS, random_matrix


def weight(matrix: GroupedMatrix, row: int, column: int) -> float:
    """One weight in float64, by the formula."""
    group, block = column // 32, column // 256
    level = float(matrix.levels[row, column]) - matrix.zero
    if matrix.kind == "halves":
        assert matrix.super_scale is not None
        return float(matrix.super_scale[row, block]) * float(matrix.scale[row, column // 16]) * level
    scale = float(matrix.scale[row, group])
    offset = 0.0 if matrix.offset is None else float(matrix.offset[row, group])
    if matrix.kind == "super":
        assert matrix.super_scale is not None
        assert matrix.super_offset is not None
        return float(matrix.super_scale[row, block]) * scale * level - float(matrix.super_offset[row, block]) * offset
    return scale * level + offset


@pytest.mark.parametrize(("bits", "zero", "kind"), FORMATS)
@pytest.mark.parametrize("inputs", [512, 300])
def test_each_weight_follows_the_formula(bits: Bits, zero: int, kind: ScaleKind, inputs: int) -> None:
    matrix = random_matrix(bits, zero, kind, 3, inputs)
    expected = [[weight(matrix, row, column) for column in range(inputs)] for row in range(3)]
    assert matrix.shape == (3, inputs)
    np.testing.assert_allclose(matrix.dequantize(), expected, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize(("bits", "zero", "kind"), FORMATS)
def test_chosen_rows_keep_their_weights(bits: Bits, zero: int, kind: ScaleKind) -> None:
    matrix = random_matrix(bits, zero, kind, 5, 320)
    order = np.array([3, 0, 4])
    np.testing.assert_array_equal(matrix.rows(order).dequantize(), matrix.dequantize()[order])
    np.testing.assert_array_equal(matrix.rows(slice(1, 3)).dequantize(), matrix.dequantize()[1:3])
