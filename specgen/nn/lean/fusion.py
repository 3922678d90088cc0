"""The choice between fused kernels and torch, for a model on a device."""

import importlib.util
from functools import lru_cache
from types import ModuleType

import torch

from specgen.core.words import first_line
from specgen.nn.device import Placement
from specgen.nn.lean.architecture import Architecture

# Positions of the cache of a trial.
_TRIED = 64


@lru_cache
def load_kernels(device: torch.device) -> ModuleType | str | None:
    """The module nn/kernels/fused.py; the reason why Triton fails on `device`; None for a device that needs none."""
    if device.type != "cuda":
        return None
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    from specgen.nn.kernels import fused  # noqa: PLC0415  needs Triton

    try:
        fused.rms_norm(torch.ones(1, 16, device=device), torch.ones(16, device=device), 1e-6)
    except Exception as error:  # a compiler, a driver or Triton fails, each with classes of its own
        return first_line(error)
    return fused


@lru_cache
def choose_kernels(architecture: Architecture, placement: Placement, rows: int) -> ModuleType | str | None:
    """Like load_kernels, after a trial of every kernel at the model's own shapes, with `rows` rows.

    A shape may need more shared memory than a card has. Raises OutOfMemoryError.
    """
    kernels = load_kernels(placement.device)
    if not isinstance(kernels, ModuleType):
        return kernels
    try:
        finite = _run_all(kernels, architecture, placement, rows)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # as above
        return first_line(error)
    return kernels if finite else "a kernel turns zeros into infinities"


def _run_all(kernels: ModuleType, architecture: Architecture, placement: Placement, rows: int) -> bool:
    """Run every kernel once on zeros. Whether all results are finite."""

    def zeros(*shape: int, dtype: torch.dtype = placement.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=placement.device)

    heads, kv_heads, size = architecture.heads, architecture.kv_heads, architecture.head_size
    scale, cap = architecture.attention_scale, architecture.attention_cap
    hidden, norm = zeros(rows, architecture.hidden_size), zeros(architecture.hidden_size, dtype=torch.float32)
    results = [
        kernels.rms_norm(hidden, norm, architecture.norm_eps),
        kernels.gate(zeros(rows, 2 * architecture.intermediate_size), architecture.activation),
    ]
    start, cache = zeros(1, dtype=torch.int64), zeros(2, kv_heads, _TRIED, size)
    for kind in set(architecture.layers):
        table = zeros(_TRIED, kind.rope.size // 2, 2, dtype=torch.float32) if kind.rope else None
        projected = zeros(rows, heads + 2 * kv_heads, size)
        kernels.rotate_and_store(projected, cache, table, start, heads)
        results.append(kernels.attend(projected, cache, start, heads, scale=scale, cap=cap, window=kind.window))
    return all(bool(result.isfinite().all()) for result in results)
