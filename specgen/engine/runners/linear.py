"""The one place through which every matrix product with weights goes."""

import platform
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  the field's name

Linear = Callable[[torch.Tensor], torch.Tensor]
"""[rows, in] -> [rows, out]. `rows` is a multiple of ROWS, so that no row's result depends on how many there are."""

# One to three rows, or what is left over of a multiple of four, take other kernels, which round differently (measured
# with MKL and oneDNN, float32 and bfloat16, AVX-512, AVX2 and SSE). Reading the weights takes most of the time, so that
# rows which only fill up cost little.
ROWS = 4


def make_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """The fastest layer for `weight` [out, in] where it lies."""
    if weight.device.type == "cpu" and _packs(weight.dtype):
        return _packed(weight, bias)
    return lambda rows: F.linear(rows, weight, bias)


def _packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies this dtype on this processor by kernels of its own."""
    built_in = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not built_in or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def _packed(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """A layer in oneDNN's own layout, which is read from memory twice as fast as a plain matrix."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda rows: multiply(rows, packed, bias, "none", [], "")
