"""What a model takes of its device's memory, foretold from its config and the headers of its files, and what is free.

Nothing of the weights need be here. docs/models.md says what is counted, and how near it comes to what was measured.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.nn.device import Placement
from specgen.nn.kernels.int8 import PIECE
from specgen.nn.kernels.linear import ROWS, packs
from specgen.nn.lean.architecture import Architecture
from specgen.nn.lean.attention import BLOCK
from specgen.nn.lean.model import CHUNK, FIRST
from specgen.nn.lean.weights import EMBEDDING, tensor_shapes

# Beside an int8 row: its scale in float32, a zero point in int64 and the sum of its weights in int32.
_BESIDE_INT8 = 16
# Copies of a piece of weights in float32 while it is rounded: itself, over its scale, and rounded.
_ROUNDED = 3 * 4
# A tokenizer in memory over its file.
_TOKENIZER = 10
# What libraries keep for their threads and kernels.
_SCRATCH = 32_000_000
_BYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Footprint:
    """In bytes. `weights` and `tokenizer` stay. `cache` is that of a full context. `loading` is taken for a moment
    beside the weights while they are read, `passing` while a piece of a prompt is read. `layers` is a count, 0 where
    nobody says.
    """

    weights: int
    tokenizer: int
    cache: int
    loading: int
    passing: int
    layers: int


def peak(footprints: Sequence[Footprint]) -> int:
    """The most bytes that these models take together: they are loaded one after the other, and then run in turn."""
    weights = _SCRATCH + sum(each.weights + each.tokenizer for each in footprints)
    running = sum(each.cache for each in footprints) + max(each.passing for each in footprints)
    return weights + max(running, *(each.loading for each in footprints))


def footprint(
    checkpoint: Checkpoint, architecture: Architecture | str, placement: Placement, context: int
) -> Footprint:
    """What a model takes with `context` tokens in its cache; `architecture` is a reason where transformers runs it."""
    if isinstance(architecture, str):
        return _of_transformers(checkpoint, placement, context)
    matrices = [
        shape
        for name, shape in tensor_shapes(architecture).items()
        if len(shape) == 2 and (name != EMBEDDING or not _is_view(checkpoint, placement))
    ]
    head = (architecture.vocab_size, architecture.hidden_size)
    sizes = [_matrix(shape, placement) for shape in [*matrices, head]]
    capacity = max(FIRST, -(-context // BLOCK) * BLOCK)
    keys = 2 * architecture.kv_heads * architecture.head_size * placement.dtype.itemsize
    states = 4 * architecture.hidden_size + 3 * architecture.intermediate_size
    states += 2 * (architecture.heads + 2 * architecture.kv_heads) * architecture.head_size
    mask = (BLOCK + ROWS) * capacity * (1 + architecture.heads // architecture.kv_heads)
    return Footprint(
        weights=sum(sizes),
        tokenizer=_tokenizer(checkpoint, placement),
        cache=len(architecture.layers) * keys * capacity,
        loading=_loading([*matrices, head], placement),
        passing=(CHUNK * states + mask) * placement.dtype.itemsize,
        layers=len(architecture.layers),
    )


def context_limit(checkpoint: Checkpoint, architecture: Architecture | str) -> int | None:
    """The longest context of a model in tokens, None where its config names none."""
    if not isinstance(architecture, str):
        return architecture.context_length
    return _number(_config(checkpoint), "max_position_embeddings", "n_positions") or None


def free_memory(device: torch.device) -> int:
    """The bytes that are free on a device now; of a CPU no more than the limit of this process's control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    if device.type == "xpu":
        return int(torch.xpu.mem_get_info(device)[0])
    available = int(psutil.virtual_memory().available)
    return min(available, _free_in_group(available))


def _free_in_group(otherwise: int) -> int:
    """What a container may still take (cgroup v2): its limit less what is in use and cannot be dropped."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        stat = (line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        droppable = sum(int(value) for name, value in stat if name in ("inactive_file", "active_file"))
        return otherwise if limit == "max" else max(0, int(limit) - used + droppable)
    except (OSError, ValueError):
        return otherwise


def _is_view(checkpoint: Checkpoint, placement: Placement) -> bool:
    """Whether the embedding stays in its file, mapped: such pages are the system's, which drops them at need."""
    return placement.device.type == "cpu" and not checkpoint.is_gguf


def _tokenizer(checkpoint: Checkpoint, placement: Placement) -> int:
    """Other devices' memory holds none. Of a GGUF file nothing is counted: it is small beside its weights."""
    file = checkpoint.path / "tokenizer.json"
    return _TOKENIZER * file.stat().st_size if placement.device.type == "cpu" and file.is_file() else 0


def _matrix(shape: tuple[int, ...], placement: Placement) -> int:
    rows, columns = shape
    return rows * (columns + _BESIDE_INT8) if placement.int8 else rows * columns * placement.dtype.itemsize


def _loading(shapes: list[tuple[int, ...]], placement: Placement) -> int:
    """Of int8: a matrix before it is packed, or a packed blank of each size, whichever is more. Else a copy of the
    largest matrix, from which it is laid out anew or sent to the device."""
    largest = max(math.prod(shape) for shape in shapes)
    if placement.int8:
        packing = largest + _ROUNDED * min(largest, PIECE)
        return max(packing, largest + sum(math.prod(shape) for shape in set(shapes)))
    copied = placement.device.type != "cpu" or packs(placement.dtype)
    return largest * placement.dtype.itemsize if copied else 0


def _of_transformers(checkpoint: Checkpoint, placement: Placement, context: int) -> Footprint:
    """By the size of the files, and a cache of all layers: more than a model with windows or states will take."""
    config = _config(checkpoint)
    weights = checkpoint.weight_bytes
    if "quantization_config" not in config:
        stored = _BYTES.get(str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch."), 2)
        weights = weights * placement.dtype.itemsize // stored
    layers = _number(config, "num_hidden_layers", "n_layer", "num_layers")
    hidden = _number(config, "hidden_size", "n_embd")
    heads = max(1, _number(config, "num_attention_heads", "n_head"))
    keyed = _number(config, "num_key_value_heads") or heads
    width = keyed * (_number(config, "head_dim") or hidden // heads)
    inner = _number(config, "intermediate_size", "n_inner") or 4 * hidden
    size = placement.dtype.itemsize
    return Footprint(
        weights=weights,
        tokenizer=_tokenizer(checkpoint, placement),
        cache=2 * layers * width * context * size,
        loading=hidden * _number(config, "vocab_size") * size,
        passing=CHUNK * (3 * inner + 8 * hidden) * size,
        layers=layers,
    )


def _config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The config of a model's text part on top of the whole."""
    top = checkpoint.config
    nested = top.get("text_config")
    return {**top, **nested} if isinstance(nested, dict) else top


def _number(config: Mapping[str, Any], *names: str) -> int:
    return next((config[name] for name in names if isinstance(config.get(name), int)), 0)
