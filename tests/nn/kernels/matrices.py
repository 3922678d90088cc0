"""Random quantized matrices of every format."""

import numpy as np

from specgen.nn.kernels.grouped import Bits, GroupedMatrix, ScaleKind

FORMATS: list[tuple[Bits, int, ScaleKind]] = [
    (4, 8, "plain"),
    (4, 0, "offset"),
    (4, 0, "super"),
    (5, 16, "plain"),
    (5, 0, "offset"),
    (5, 0, "super"),
    (6, 32, "halves"),
    (8, 128, "plain"),
    (8, 128, "halves"),
]
"""The formats of GGUF types and of our own quantizers."""


def random_matrix(bits: Bits, zero: int, kind: ScaleKind, out: int, inputs: int, seed: int = 0) -> GroupedMatrix:
    """A matrix of one format with arbitrary content."""
    random = np.random.default_rng(seed)
    groups, superblocks = -(-inputs // 32), -(-inputs // 256)

    def floats(columns: int) -> np.ndarray:
        return random.normal(size=(out, columns)).astype(np.float16)

    def integers(low: int, high: int, columns: int, dtype: type) -> np.ndarray:
        return random.integers(low, high, (out, columns)).astype(dtype)

    levels = integers(0, 2**bits, inputs, np.uint8)
    if kind == "plain":
        return GroupedMatrix(levels, bits, zero, kind, floats(groups))
    if kind == "offset":
        return GroupedMatrix(levels, bits, zero, kind, floats(groups), floats(groups))
    if kind == "halves":
        halves = integers(-128, 128, -(-inputs // 16), np.int8)
        return GroupedMatrix(levels, bits, zero, kind, halves, None, floats(superblocks))
    scale, offset = (integers(0, 256, groups, np.uint8) for _ in range(2))
    return GroupedMatrix(levels, bits, zero, kind, scale, offset, floats(superblocks), floats(superblocks))
