"""Float matrix products with weights: plain, or in oneDNN's layout."""

import platform
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  the field's name

Linear = Callable[[torch.Tensor], torch.Tensor]
"""[rows, in] -> [rows, out]. On a CPU a row's bits do not depend on the number of rows, from ROWS on."""

# Kernels for fewer rows round differently. Reading the weights dominates the time, so padding costs little.
ROWS = 4


def make_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """The fastest layer for `weight` [out, in] on its device."""
    if weight.device.type != "cpu":
        return lambda rows: F.linear(rows, weight, bias)
    return _packed(weight, bias) if packs(weight.dtype) else _plain(weight, bias)


def fill_up(rows: torch.Tensor) -> torch.Tensor:
    """`rows` [rows, ...] padded to a multiple of ROWS with copies of the last one."""
    missing = -len(rows) % ROWS
    return torch.cat((rows, rows[-1:].expand(missing, *rows.shape[1:]))) if missing else rows


def packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN has its own kernels and weight layout for this dtype on this processor."""
    built_in = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not built_in or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def _packed(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """A layer in oneDNN's layout, which is read from memory twice as fast as a plain matrix."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda rows: multiply(rows, packed, bias, "none", [], "")


def _plain(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """MKL and others use other kernels for the remainder of four rows, so there is none."""
    return lambda rows: F.linear(fill_up(rows), weight, bias)[: len(rows)]
