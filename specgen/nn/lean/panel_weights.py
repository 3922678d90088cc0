"""The matrices of the lean decoder as panels: from a GGUF file's own levels, or rounded from floating-point weights."""

from collections.abc import Mapping

import torch

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.events import Notice
from specgen.core.progress import Reporting
from specgen.core.types import Quant
from specgen.nn.kernels import panel_file
from specgen.nn.kernels.panel_file import Matrices
from specgen.nn.kernels.panels import Packable
from specgen.nn.lean.architecture import Architecture
from specgen.nn.lean.rope import interleave
from specgen.nn.lean.weights import EMBEDDING, HEAD, Tensors

MATRICES = ("queries", "keys", "values", "output", "gate", "up", "down")
"""The matrices of a layer. `name_of` has their names; that of the output head is "head"."""


def name_of(layer: int, matrix: str) -> str:
    """The name of a matrix of a layer."""
    return f"{layer}.{matrix}"


def load_matrices(
    checkpoint: Checkpoint, architecture: Architecture, tensors: Tensors, quant: Quant, *, is_draft: bool = False
) -> Reporting[Matrices]:
    """All matrices, mapped from disk, or packed there first. Rotated rows of queries and keys are neighbours.

    `quant` int8: blocks of a GGUF file as they are, other weights rounded to 8 bits. int4: blocks of 4 bits as they are
    and other weights rounded to 4 bits, except those that `is_precise` names. The head of a draft is rounded too: it is
    a large part of a small model, and its errors change no text.
    """
    source, files = checkpoint.ref.source, checkpoint.weight_files
    form = f"{quant} draft" if is_draft else quant.value
    if found := panel_file.find(files, form):
        return found
    if rounded := tensors.rounded():
        kinds = " and ".join(rounded)
        yield Notice(f"{source} has weights of the type {kinds}, which are rounded to 8 bits")
    sources = _sources(architecture, tensors, quant, is_draft=is_draft)
    return (yield from panel_file.create(source, files, form, sources))


def is_precise(architecture: Architecture, matrix: str) -> bool:
    """Whether `matrix`, of a layer or the head, keeps 8 bits in int4.

    Several heads share keys and values, so these matrices are small, and their errors count more. On
    Qwen2.5-Coder-1.5B with continuous weights, the divergence (docs/bench/fidelity.py, weights alone) is 0.021 with
    these rules, 0.026 with keys and values of 4 bits, and half as much again with a head of 4 bits; Q4_K_M has 0.024.
    """
    return matrix == "head" or (matrix in ("keys", "values") and architecture.kv_heads < architecture.heads)


def _sources(architecture: Architecture, tensors: Tensors, quant: Quant, *, is_draft: bool) -> Mapping[str, Packable]:
    """The rows of each matrix, not read yet."""

    def is_rough(matrix: str) -> bool:
        return quant is Quant.INT4 and ((is_draft and matrix == "head") or not is_precise(architecture, matrix))

    rows = stored_rows(architecture)
    head = HEAD if HEAD in tensors else EMBEDDING
    found: dict[str, tuple[str, str, torch.Tensor | None]] = {"head": ("head", head, None)}
    for layer in range(len(architecture.layers)):
        for matrix, (tensor, order) in rows.items():
            found[name_of(layer, matrix)] = (matrix, f"model.layers.{layer}.{tensor}.weight", order)
    return {
        name: _source(tensors, tensor, order, rough=is_rough(matrix)) for name, (matrix, tensor, order) in found.items()
    }


def _source(tensors: Tensors, name: str, order: torch.Tensor | None, *, rough: bool) -> Packable:
    source = tensors.packable(name, order)
    if not rough or source.format.bits == 4:
        return source
    from specgen.nn.kernels.quantize_int4 import Int4Rows  # noqa: PLC0415  needs llvmlite

    return Int4Rows(tensors.floats(name, order))


def stored_rows(architecture: Architecture) -> Mapping[str, tuple[str, torch.Tensor | None]]:
    """For each matrix of a layer its tensor, and which rows of it in which order, None for all."""
    size, inner = architecture.head_size, architecture.intermediate_size
    rotated = max((layer.rope.size for layer in architecture.layers if layer.rope), default=0)
    queries = interleave(torch.arange(architecture.heads * size), size, rotated)
    keys = interleave(torch.arange(architecture.kv_heads * size), size, rotated)
    both: dict[str, tuple[str, torch.Tensor | None]] = {
        "output": ("self_attn.o_proj", None),
        "down": ("mlp.down_proj", None),
    }
    if architecture.fused:
        values = torch.arange(len(keys)) + len(queries) + len(keys)
        return both | {
            "queries": ("self_attn.qkv_proj", queries),
            "keys": ("self_attn.qkv_proj", len(queries) + keys),
            "values": ("self_attn.qkv_proj", values),
            "gate": ("mlp.gate_up_proj", torch.arange(inner)),
            "up": ("mlp.gate_up_proj", torch.arange(inner) + inner),
        }
    return both | {
        "queries": ("self_attn.q_proj", queries),
        "keys": ("self_attn.k_proj", keys),
        "values": ("self_attn.v_proj", None),
        "gate": ("mlp.gate_proj", None),
        "up": ("mlp.up_proj", None),
    }
