"""Rounding weights to 8 bits: no weight is off by more than half a level."""

import numpy as np
import pytest

from specgen.nn.kernels.quantize import quantize_int8


@pytest.mark.parametrize("inputs", [64, 50, 7])
def test_no_weight_is_off_by_more_than_half_a_level(inputs: int) -> None:
    weights = np.random.default_rng(0).normal(size=(9, inputs)).astype(np.float32)
    weights[3] = 0
    weights[4] *= 1e-3
    weights[5] *= 1e-5  # scales below the normal numbers of float16
    weights[6] *= 1e-8
    matrix = quantize_int8(weights)
    assert (matrix.levels.dtype, matrix.scale.dtype) == (np.uint8, np.float16)
    per_weight = np.repeat(matrix.scale.astype(np.float32), 32, axis=1)[:, :inputs]
    error = np.abs(matrix.dequantize() - weights)
    assert (error <= per_weight * 0.501 + 1e-12).all()
    assert matrix.levels.min() >= 1  # symmetric: -128 is never used
    assert (matrix.dequantize()[3] == 0).all()
