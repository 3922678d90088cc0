"""The one place through which every matrix product with weights goes."""

import platform
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  the field's name

Linear = Callable[[torch.Tensor], torch.Tensor]
"""[rows, in] -> [rows, out]. On a CPU a row's result is the same, to the bit, for any number of rows from ROWS on."""

# Kernels for fewer rows round differently. Reading the weights takes longest, so that filling up costs little.
ROWS = 4


def make_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """The fastest layer for `weight` [out, in] where it lies."""
    if weight.device.type != "cpu":
        return lambda rows: F.linear(rows, weight, bias)
    return _packed(weight, bias) if packs(weight.dtype) else _plain(weight, bias)


def fill_up(rows: torch.Tensor) -> torch.Tensor:
    """`rows` [rows, ...] up to a multiple of ROWS, by its last one again."""
    missing = -len(rows) % ROWS
    return torch.cat((rows, rows[-1:].expand(missing, *rows.shape[1:]))) if missing else rows


def packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies this dtype on this processor by kernels of its own, from weights that it lays out."""
    built_in = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not built_in or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def _packed(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """A layer in oneDNN's own layout, which it reads from memory twice as fast as a plain matrix."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda rows: multiply(rows, packed, bias, "none", [], "")


def _plain(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """MKL and others have further kernels for what is left over of four rows."""
    return lambda rows: F.linear(fill_up(rows), weight, bias)[: len(rows)]
