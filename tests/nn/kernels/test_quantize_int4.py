"""Rounding weights to 4 bits: the error is that of a thorough search, and panels hold what was chosen."""

from dataclasses import dataclass

import numpy as np
import pytest

from specgen.nn.kernels.grouped import GroupedMatrix
from specgen.nn.kernels.panels import GROUP_BYTES, Panels, scale_bytes, unpack
from specgen.nn.kernels.quantize_int4 import INT4, Int4Rows


@dataclass
class ArrayRows:
    """Rows of a float32 matrix in memory."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.array.shape[0], self.array.shape[1]

    def read_floats(self, chosen: slice) -> np.ndarray:
        return self.array[chosen]


def rounded(weights: np.ndarray, pieces: int = 1) -> GroupedMatrix:
    """The matrix that `weights` become, packed in some pieces."""
    outputs, inputs = weights.shape
    panels, groups = -(-outputs // 16), -(-inputs // 32)
    levels = np.full((panels, groups, GROUP_BYTES[4]), 255, np.uint8)
    scales = np.full((panels, scale_bytes("super", groups)), 255, np.uint8)
    for piece in np.array_split(np.arange(panels), pieces):
        start, stop = int(piece[0]), int(piece[-1]) + 1
        Int4Rows(ArrayRows(weights)).pack(start, stop, levels[start:stop], scales[start:stop])
    return unpack(Panels(levels, scales, INT4.bits, INT4.zero, INT4.kind, outputs, inputs))


def weights_of(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * 0.02).astype(np.float32)


def plain_error(weights: np.ndarray) -> np.ndarray:
    """The squared error of each group, rounded between its least and its greatest weight; scales are not rounded."""
    groups = weights.reshape(len(weights), -1, 32)
    low, high = groups.min(-1, keepdims=True), groups.max(-1, keepdims=True)
    scale = (high - low) / 15
    return ((np.rint((groups - low) / scale) * scale + low - groups) ** 2).sum(-1)


def test_the_search_finds_a_smaller_error_than_the_range_of_a_group() -> None:
    weights = weights_of((64, 1024))
    error = ((rounded(weights).dequantize() - weights) ** 2).reshape(64, -1, 32).sum(-1)
    assert error.sum() < 0.87 * plain_error(weights).sum()


def test_each_level_is_the_nearest_one() -> None:
    """With the scales as stored, no other level is nearer, beyond rounding."""
    weights = weights_of((32, 512))
    matrix = rounded(weights)
    found = matrix.dequantize()
    for step in (-1, 1):
        levels = np.clip(matrix.levels.astype(int) + step, 0, 15).astype(np.uint8)
        other = GroupedMatrix(
            levels, 4, 0, "super", matrix.scale, matrix.offset, matrix.super_scale, matrix.super_offset
        ).dequantize()
        assert (np.abs(found - weights) <= np.abs(other - weights) + 1e-6).all()


@pytest.mark.parametrize("shape", [(16, 32), (21, 300), (5, 40), (48, 2240)], ids=str)
def test_matrices_of_any_shape_are_rounded(shape: tuple[int, int]) -> None:
    weights = weights_of(shape)
    found = rounded(weights).dequantize()
    assert found.shape == shape
    assert np.abs(found - weights).max() < 0.02 * 3.5 / 7.5
    np.testing.assert_array_equal(rounded(weights, pieces=-(-shape[0] // 16)).dequantize(), found)


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    weights = weights_of((32, 512))
    alone = np.zeros_like(weights)
    alone[5] = weights[5]
    np.testing.assert_array_equal(rounded(alone).dequantize()[5], rounded(weights).dequantize()[5])


@pytest.mark.parametrize("factor", [1e-4, 1e3])
def test_weights_of_any_size_keep_their_relative_error(factor: float) -> None:
    weights = weights_of((16, 256)) * np.float32(factor)
    error = np.abs(rounded(weights).dequantize() - weights).max()
    assert error < 0.02 * 3.5 / 7.5 * factor


def test_weights_of_one_sign_and_zeros() -> None:
    weights = np.zeros((16, 256), np.float32)
    weights[1] = 0.5
    weights[2] = -0.5
    weights[3] = np.linspace(1, 2, 256)
    weights[4] = -weights[3]
    found = rounded(weights).dequantize()
    np.testing.assert_array_equal(found[0], 0)
    np.testing.assert_allclose(found[1:3], weights[1:3], rtol=0.01)
    np.testing.assert_allclose(found[3:5], weights[3:5], atol=0.09)
