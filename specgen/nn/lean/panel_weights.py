"""The matrices of the lean decoder as panels: from a GGUF file's own levels, or rounded from floating-point weights."""

from collections.abc import Mapping

import torch

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.events import Notice
from specgen.core.progress import Reporting
from specgen.nn.kernels import panel_file
from specgen.nn.kernels.grouped import Rows
from specgen.nn.kernels.panel_file import Matrices
from specgen.nn.kernels.quantize import quantize_int8
from specgen.nn.lean.architecture import Architecture
from specgen.nn.lean.rope import interleave
from specgen.nn.lean.weights import EMBEDDING, HEAD, Tensors

MATRICES = ("queries", "keys", "values", "output", "gate", "up", "down")
"""The matrices of a layer. `name_of` has their names; that of the output head is "head"."""


def name_of(layer: int, matrix: str) -> str:
    """The name of a matrix of a layer."""
    return f"{layer}.{matrix}"


def load_matrices(checkpoint: Checkpoint, architecture: Architecture, tensors: Tensors) -> Reporting[Matrices]:
    """All matrices, mapped from disk, or packed there first. Rotated rows of queries and keys are neighbours."""
    source, files = checkpoint.ref.source, checkpoint.weight_files
    if found := panel_file.find(files, "int8"):
        return found
    if rounded := tensors.rounded():
        kinds = " and ".join(rounded)
        yield Notice(f"{source} has weights of the type {kinds}, which are rounded to 8 bits")
    return (yield from panel_file.create(source, files, "int8", _sources(architecture, tensors)))


def _sources(architecture: Architecture, tensors: Tensors) -> Mapping[str, Rows]:
    """The rows of each matrix, not read yet."""
    rows = stored_rows(architecture)
    sources = {"head": tensors.quantized(HEAD if HEAD in tensors else EMBEDDING, quantize_int8, None)}
    for layer in range(len(architecture.layers)):
        for matrix, (tensor, order) in rows.items():
            stored = f"model.layers.{layer}.{tensor}.weight"
            sources[name_of(layer, matrix)] = tensors.quantized(stored, quantize_int8, order)
    return sources


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
