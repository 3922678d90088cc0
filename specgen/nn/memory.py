"""Predicts the memory of a model from its config and file headers, and measures the free memory.

The weights need not be downloaded. docs/models.md lists what is counted, and compares predictions with measurements.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.types import Quant
from specgen.nn.device import Placement, compute_threads
from specgen.nn.kernels.device_linear import PIECE, fits_int4
from specgen.nn.kernels.grouped import GROUP
from specgen.nn.kernels.linear import ROWS, packs
from specgen.nn.kernels.workspace import Workspace
from specgen.nn.lean import caching, static
from specgen.nn.lean.architecture import Architecture
from specgen.nn.lean.attention import BLOCK
from specgen.nn.lean.model import FIRST
from specgen.nn.lean.panel_weights import is_precise, stored_rows
from specgen.nn.lean.weights import EMBEDDING, HEAD, tensor_shapes

# Bytes of a quantized weight with its share of scales: see INT8 and INT4 in nn/kernels.
_EIGHT, _FOUR = 8.5 / 8, 4.625 / 8
# Bytes of temporary arrays while weights are quantized, in pieces that fit a processor's cache.
_PACKING = 64 << 20
# Positions of a block of keys, and bytes of a group's head in a rounded row: kernels/attention.py and rows.py have
# them, and need llvmlite.
_LANES, _HEAD = 16, 16
# Memory of a tokenizer as a multiple of its file size.
_TOKENIZER = 10
# Bytes that libraries allocate for threads and kernels.
_SCRATCH = 32_000_000
# Bytes of float32 copies of a weight while it is rounded on an accelerator.
_ROUNDED = 28
# Tokens of a prompt pass of nn/transformers/model.py, which is slow to import.
TRANSFORMERS_CHUNK = 1024
# Bytes for each logit of a decode pass: the head's output, its float32 copy, and the copy that outlives the pass.
_SCORED = 4 + 4 + 4
# Bytes for each logit while tokens are sampled from a sorted vocabulary. tests/nn/test_memory.py measures it.
_SAMPLED = 60
_BYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}
# Pairs of a pass of a head over a prompt, see heads/reader.py.
_HEAD_ROWS = 256
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Footprint:
    """The memory of a model in bytes.

    `weights` and `tokenizer` are permanent. `cache` is that of a full context, and on accelerators the table of
    rotations and what a captured decode pass holds. `loading` is temporary while weights are read, `passing` while a
    prompt is read, the cache grows or tokens are sampled. `layers` is a count, 0 if unknown.
    """

    weights: int
    tokenizer: int
    cache: int
    loading: int
    passing: int
    layers: int


def peak(footprints: Sequence[Footprint]) -> int:
    """The peak memory in bytes of models that are loaded one after the other, and then run in turn."""
    weights = _SCRATCH + sum(each.weights + each.tokenizer for each in footprints)
    running = sum(each.cache for each in footprints) + max(each.passing for each in footprints)
    return weights + max(running, *(each.loading for each in footprints))


def footprint(
    checkpoint: Checkpoint, architecture: Architecture | str, placement: Placement, context: int
) -> Footprint:
    """The memory of a model with `context` tokens in its cache. `architecture` is a reason if transformers runs it."""
    if isinstance(architecture, str):
        return _of_transformers(checkpoint, placement, context)
    if placement.quantized:
        return _of_compiled(checkpoint, architecture, placement, context)
    shapes = {**tensor_shapes(architecture), HEAD: (architecture.vocab_size, architecture.hidden_size)}
    on_cpu = placement.device.type == "cpu"
    # An accelerator keeps a tied matrix once. On a CPU the head is packed, and the embedding is a view of its file.
    left_out = {HEAD} if architecture.tied and not on_cpu and placement.quant is Quant.NONE else set()
    left_out |= {EMBEDDING} if _is_view(checkpoint, placement) else set()
    matrices = [name for name, shape in shapes.items() if len(shape) == 2 and name not in left_out]
    vectors = sum(shape[0] for shape in shapes.values() if len(shape) == 1)
    cache, passing = (_running_on_cpu if on_cpu else _running)(architecture, placement, context)
    return Footprint(
        weights=sum(_matrix(name, shapes[name], placement) for name in matrices) + 4 * vectors,
        tokenizer=_tokenizer(checkpoint, placement),
        cache=cache,
        loading=_loading([shapes[name] for name in matrices], placement),
        passing=passing,
        layers=len(architecture.layers),
    )


def _of_compiled(checkpoint: Checkpoint, architecture: Architecture, placement: Placement, context: int) -> Footprint:
    """The memory of a model with quantized weights. The embedding stays a mapped file, of which few rows are read."""
    weights = _quantized(architecture, placement.quant)
    if checkpoint.is_gguf:  # its levels take the bytes that they take there, or fewer
        weights = min(weights, checkpoint.weight_bytes)
    capacity = max(FIRST, -(-context // _LANES) * _LANES)
    # Keys and values in float16.
    keys = 2 * 2 * architecture.kv_heads * -(-architecture.head_size // _LANES) * _LANES
    projected = (architecture.heads + 2 * architecture.kv_heads) * architecture.head_size
    widest = max(architecture.hidden_size, architecture.intermediate_size)
    # float32 states, sums, projections, gates and scaled rows; int8 levels with their heads.
    states = 4 * (2 * architecture.hidden_size + 2 * projected + 2 * architecture.intermediate_size + widest)
    states += widest + widest * _HEAD // GROUP
    groups = architecture.heads // architecture.kv_heads
    return Footprint(
        weights=weights,
        tokenizer=_tokenizer(checkpoint, placement),
        cache=len(architecture.layers) * keys * capacity,
        loading=_PACKING,
        passing=caching.CHUNK * states + compute_threads() * 4 * groups * capacity,
        layers=len(architecture.layers),
    )


def _quantized(architecture: Architecture, quant: Quant) -> int:
    """Bytes of the matrices with quantized weights."""
    shapes = tensor_shapes(architecture)
    total = architecture.vocab_size * architecture.hidden_size * _EIGHT
    for matrix, (tensor, order) in stored_rows(architecture).items():
        rows, columns = shapes[f"model.layers.0.{tensor}.weight"]
        each = _EIGHT if quant is Quant.INT8 or is_precise(architecture, matrix) else _FOUR
        total += len(architecture.layers) * (rows if order is None else len(order)) * columns * each
    return int(total)


def _running_on_cpu(architecture: Architecture, placement: Placement, context: int) -> tuple[int, int]:
    """(permanent, temporary) bytes beside the weights of LeanModel, with `context` tokens in its cache."""
    capacity = max(FIRST, -(-context // BLOCK) * BLOCK)
    states = 4 * architecture.hidden_size + 3 * architecture.intermediate_size
    states += 2 * (architecture.heads + 2 * architecture.kv_heads) * architecture.head_size
    mask = (BLOCK + ROWS) * capacity * (1 + architecture.heads // architecture.kv_heads)
    passing = (caching.CHUNK * states + mask) * placement.dtype.itemsize
    return _caches(architecture, placement, capacity), passing + _capped_scores(architecture, BLOCK, capacity)


def _running(architecture: Architecture, placement: Placement, context: int) -> tuple[int, int]:
    """(permanent, temporary) bytes beside the weights of StaticModel, with `context` tokens in its cache."""
    size, width = placement.dtype.itemsize, static.WIDTH
    capacity = max(FIRST, -(-(context + width) // BLOCK) * BLOCK)
    rows, groups = min(context, static.CHUNK), architecture.heads // architecture.kv_heads
    windows = len({layer.window for layer in architecture.layers})
    tables = sum(4 * rope.size * capacity for rope in {layer.rope for layer in architecture.layers} if rope)
    space = Workspace.of(width, architecture.heads, architecture.kv_heads, architecture.head_size, capacity)
    # Without Triton a decode pass has masks and scores like a prompt.
    captured = max(
        space.nbytes,
        windows * groups * width * capacity * size + _capped_scores(architecture, width, capacity),
        width * architecture.vocab_size * _SCORED,
    )
    queries = architecture.heads * architecture.head_size
    attention = 2 * architecture.hidden_size + 4 * queries + 2 * architecture.kv_heads * architecture.head_size
    mlp = 4 * architecture.hidden_size + 3 * architecture.intermediate_size
    if placement.quant is Quant.INT8:  # products read and write float32
        mlp += 2 * (architecture.hidden_size + 2 * architecture.intermediate_size)
    prompt = windows * groups * rows * capacity * size + max(
        rows * capacity * (size + 2),  # one more mask, of one group, and its truth values, while masks are drawn
        rows * attention * size + _capped_scores(architecture, rows, capacity),
        rows * mlp * size,
    )
    caches = _caches(architecture, placement, capacity)
    growing = caches // len(architecture.layers) + tables
    sampling = width * architecture.vocab_size * _SAMPLED
    return caches + tables + captured, max(prompt, growing, sampling)


def _caches(architecture: Architecture, placement: Placement, capacity: int) -> int:
    """Bytes of the keys and values of `capacity` positions in all layers."""
    keys = 2 * architecture.kv_heads * architecture.head_size * placement.dtype.itemsize
    return len(architecture.layers) * keys * capacity


def _capped_scores(architecture: Architecture, rows: int, keys: int) -> int:
    """Bytes of scores, their softmax in float32, and its copy, where scores are capped."""
    return 8 * architecture.heads * rows * keys if architecture.attention_cap is not None else 0


def head_footprint(checkpoint: Checkpoint, placement: Placement, context: int) -> Footprint:
    """The memory of a head. It keeps what it reads of the target's states, and keys and values, in the dtype."""
    config = _config(checkpoint)
    nested = config.get("transformer_layer_config")
    config = {**config, **nested} if isinstance(nested, dict) else config
    hidden, heads = _number(config, "hidden_size"), max(1, _number(config, "num_attention_heads"))
    size = _number(config, "head_dim") or hidden // heads
    keyed = _number(config, "num_key_value_heads") or heads
    # Files of heads have 16 bits a number.
    weights = checkpoint.weight_bytes // 2 * (1 if placement.quantized else placement.dtype.itemsize)
    entry = (hidden + 2 * keyed * size) * placement.dtype.itemsize
    return Footprint(weights, 0, entry * context, weights, _HEAD_ROWS * 8 * hidden * placement.dtype.itemsize, 1)


def context_limit(checkpoint: Checkpoint, architecture: Architecture | str) -> int | None:
    """The longest context of a model in tokens, None if its config has no limit."""
    if not isinstance(architecture, str):
        return architecture.context_length
    return _number(_config(checkpoint), "max_position_embeddings", "n_positions") or None


def free_memory(device: torch.device) -> int:
    """The free bytes of a device, on a CPU within the limit of this process's control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    if device.type == "xpu":
        return int(torch.xpu.mem_get_info(device)[0])
    available = int(psutil.virtual_memory().available)
    return min(available, _free_in_group(available))


def _free_in_group(otherwise: int) -> int:
    """The free bytes of a container (cgroup v2): its limit less the memory that cannot be reclaimed."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        stat = (line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        droppable = sum(int(value) for name, value in stat if name in ("inactive_file", "active_file"))
        return otherwise if limit == "max" else max(0, int(limit) - used + droppable)
    except (OSError, ValueError):
        return otherwise


def _is_view(checkpoint: Checkpoint, placement: Placement) -> bool:
    """Whether the embedding stays a mapped file, whose pages the system can reclaim."""
    return placement.device.type == "cpu" and not checkpoint.is_gguf


def _tokenizer(checkpoint: Checkpoint, placement: Placement) -> int:
    """The bytes of a tokenizer, 0 on other devices than a CPU. In a GGUF file it is small beside the weights."""
    file = checkpoint.path / "tokenizer.json"
    return _TOKENIZER * file.stat().st_size if placement.device.type == "cpu" and file.is_file() else 0


def _matrix(name: str, shape: tuple[int, ...], placement: Placement) -> int:
    """Bytes of a matrix; see nn/kernels/device_linear.py for quantized ones."""
    rows, columns = shape
    if placement.quant is Quant.NONE or name == EMBEDDING:
        return rows * columns * placement.dtype.itemsize
    if placement.quant is Quant.INT4 and name != HEAD and fits_int4(rows, columns):
        return rows * columns // 2 + 4 * rows * columns // GROUP
    return rows * (columns + 4)


def _loading(shapes: Sequence[tuple[int, ...]], placement: Placement) -> int:
    """Temporary bytes: a copy of the largest matrix, to change its layout, send it to the device or quantize it."""
    largest = max(math.prod(shape) for shape in shapes)
    if placement.quant is not Quant.NONE:
        # Levels of 4 bits lie in bytes until they are packed. Two matrices of a layer are joined.
        inner = sorted(math.prod(shape) for shape in shapes)[-3]  # neither embedding nor head
        return _ROUNDED * PIECE + (4 * inner if placement.quant is Quant.INT4 else 0)
    copied = placement.device.type != "cpu" or packs(placement.dtype)
    return largest * placement.dtype.itemsize if copied else 0


def _of_transformers(checkpoint: Checkpoint, placement: Placement, context: int) -> Footprint:
    """An upper bound from the size of the files, with a cache as if every layer attended to all tokens."""
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
        passing=TRANSFORMERS_CHUNK * (3 * inner + 8 * hidden + context) * size,
        layers=layers,
    )


def _config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The whole config, updated with that of the text part."""
    top = checkpoint.config
    nested = top.get("text_config")
    return {**top, **nested} if isinstance(nested, dict) else top


def _number(config: Mapping[str, Any], *names: str) -> int:
    return next((config[name] for name in names if isinstance(config.get(name), int)), 0)
