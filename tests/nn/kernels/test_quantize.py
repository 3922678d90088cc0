"""Rounding weights to 8 bits: no weight is off by more than half a level."""

import numpy as np
import pytest
import torch

from specgen.nn.kernels.quantize import StoredFloats, quantize_int8


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_rows_of_every_dtype_are_read_in_their_order(dtype: torch.dtype) -> None:
    weights = torch.randn(5, 64).to(dtype)
    data = weights.view(torch.uint16).numpy() if dtype == torch.bfloat16 else weights.numpy()
    order = np.array([3, 0, 4])
    rows = StoredFloats(data, order)
    assert rows.shape == (3, 64)
    np.testing.assert_array_equal(rows.read_floats(slice(1, 9)), weights.float().numpy()[[0, 4]])
    np.testing.assert_array_equal(StoredFloats(data).read_floats(slice(0, 5)), weights.float().numpy())
