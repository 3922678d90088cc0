"""The blocks of GGUF files: their weights are those of gguf-py, to the bit."""

from typing import Any

import gguf
import numpy as np
import pytest

from specgen.nn.kernels.gguf_blocks import NATIVE, GgufRows, read_blocks
from specgen.nn.kernels.grouped import Format
from specgen.nn.kernels.panels import GROUP_BYTES, Panels, scale_bytes, unpack

TYPES = gguf.GGMLQuantizationType
# Where a block has float16 numbers, which random bytes would make infinite.
HALVES = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "MXFP4": ()}
ROWS, INPUTS = 5, 768


def random_blocks(kind: Any, rows: int = ROWS, inputs: int = INPUTS) -> np.ndarray:
    """uint8 [rows, bytes of a row]."""
    random = np.random.default_rng(1)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    stored = random.integers(0, 256, (rows, inputs // block, size), dtype=np.uint8)
    for start in HALVES.get(kind.name, (0,)):
        number = random.normal(size=stored.shape[:2]).astype(np.float16)
        stored[..., start : start + 2] = number[..., None].view(np.uint8)
    if kind == TYPES.MXFP4:  # exponents that float16 has
        stored[..., 0] = random.integers(104, 144, stored.shape[:2])
    return stored.reshape(rows, -1)


@pytest.mark.parametrize("kind", NATIVE, ids=lambda kind: kind.name)
def test_the_weights_of_each_type_are_those_of_gguf(kind: Any) -> None:
    stored = random_blocks(kind)
    matrix = read_blocks(stored, kind)
    np.testing.assert_array_equal(matrix.dequantize(), gguf.dequantize(stored, kind), strict=True)
    assert matrix.levels.max() < 2**matrix.bits


@pytest.mark.parametrize("kind", NATIVE, ids=lambda kind: kind.name)
def test_a_part_of_a_file_is_read_where_it_lies(kind: Any) -> None:
    """Rows of a memory-mapped file begin at odd addresses, and may be every other row."""
    stored = random_blocks(kind)
    moved = np.zeros((ROWS, stored.shape[1] + 1), np.uint8)
    moved[:, 1:] = stored
    found = read_blocks(moved[::2, 1:], kind).dequantize()
    np.testing.assert_array_equal(found, gguf.dequantize(stored[::2], kind))


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_S", "IQ3_XXS", "IQ3_S"])
def test_other_types_are_rounded_to_8_bits(name: str) -> None:
    kind = TYPES[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    # No byte with its highest bits set, so that every scale is finite.
    stored = np.random.default_rng(0).integers(0, 52, (3, 512 // block * size), dtype=np.uint8)
    expected = gguf.dequantize(stored, kind)
    matrix = read_blocks(stored, kind)
    assert (matrix.bits, matrix.zero, matrix.kind) == (8, 128, "plain")
    error = np.abs(matrix.dequantize() - expected).reshape(3, -1, 32)
    assert (error <= matrix.scale[..., None] * 0.501 + 1e-9).all()
    assert error.max() > 0


def test_rows_in_an_order_of_their_own() -> None:
    stored = random_blocks(TYPES.Q4_K)
    rows = GgufRows(stored, TYPES.Q4_K, np.array([4, 0, 2]))
    assert (rows.shape, rows.format) == ((3, INPUTS), Format(4, 0, "super"))
    expected = gguf.dequantize(stored, TYPES.Q4_K)[[4, 0, 2]]
    np.testing.assert_array_equal(rows.read_floats(slice(1, 9)), expected[1:])
    levels = np.empty((1, INPUTS // 32, GROUP_BYTES[4]), np.uint8)
    scales = np.empty((1, scale_bytes("super", INPUTS // 32)), np.uint8)
    rows.pack(0, 1, levels, scales)
    np.testing.assert_array_equal(unpack(Panels(levels, scales, 4, 0, "super", 3, INPUTS)).dequantize(), expected)
    assert GgufRows(stored, TYPES.Q4_K).shape == (ROWS, INPUTS)
