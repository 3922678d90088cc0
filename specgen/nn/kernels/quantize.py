"""Rounds weights to 8 bits, in groups of inputs."""

import numpy as np
from numpy.typing import NDArray

from specgen.nn.kernels.grouped import GROUP, GroupedMatrix


def quantize_int8(weights: NDArray[np.float32]) -> GroupedMatrix:
    """Weights float32 [out, in] as levels of 8 bits with one scale for each group.

    Levels are rounded with the scale as stored, in float16. So rounding the scale adds no error.
    """
    out, inputs = weights.shape
    groups = -(-inputs // GROUP)
    padded = np.zeros((out, groups, GROUP), np.float32)
    padded.reshape(out, -1)[:, :inputs] = weights
    peak = np.abs(padded).max(-1)
    scale = (peak / 127).astype(np.float16)
    # A tiny scale has few digits. Rounded down by too much, it would clip the peak.
    np.nextafter(scale, np.float16(np.inf), out=scale, where=scale.astype(np.float32) * 127.5 < peak)
    inverse = np.divide(1, scale, where=scale > 0, out=np.zeros(scale.shape, np.float32), dtype=np.float32)
    padded *= inverse[..., None]
    levels = (np.rint(padded, out=padded).clip(-127, 127) + 128).astype(np.uint8)
    return GroupedMatrix(np.ascontiguousarray(levels.reshape(out, -1)[:, :inputs]), 8, 128, "plain", scale)
