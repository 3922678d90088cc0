"""Forward pass times relative to the time that reading the weights takes."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from specgen.bench.measure import medians, synchronize
from specgen.checkpoint.checkpoint import Checkpoint
from specgen.checkpoint.weights import tensor_shapes
from specgen.core.tokens import Tokens
from specgen.core.types import Quant
from specgen.nn.device import Placement
from specgen.nn.interface import Runner

WIDTHS = (1, 2, 4, 8, 16)
_CONTEXT = 256
_REPEAT = 15
_READ = 512 << 20  # bytes, larger than the caches of nearly all processors
_READS = 8


@dataclass(frozen=True, slots=True)
class PassTimes:
    """Median seconds of a model's forward passes by width, and the bytes of weights that each pass reads.

    `context` is the number of cached tokens. `weight_bytes` is None for GGUF files and for models with experts.
    """

    weight_bytes: int | None
    context: int
    seconds: Mapping[int, float]


def bandwidth(device: torch.device, size: int | None = None, reads: int = _READS) -> float:
    """Read bandwidth in bytes per second: the best of `reads` reductions over `size` bytes, on all torch threads."""
    size = size or _READ
    numbers = torch.ones(size // 4, device=device)
    best = float("inf")
    for _ in range(reads):
        start = time.perf_counter()
        numbers.sum().item()
        best = min(best, time.perf_counter() - start)
    return size / best


def forward_times(models: Mapping[str, tuple[Runner, int | None]]) -> dict[str, PassTimes]:
    """Time forward passes after a context of 256 tokens, models and widths in turn.

    `models` maps a name to a model and its weight bytes.
    """
    contexts = {name: _context(model) for name, (model, _) in models.items()}
    calls = {
        (name, width): _timer(model, contexts[name], width) for name, (model, _) in models.items() for width in WIDTHS
    }
    seconds = medians(calls, _REPEAT)
    return {
        name: PassTimes(size, len(contexts[name]), {width: seconds[name, width] for width in WIDTHS})
        for name, (_, size) in models.items()
    }


def _context(model: Runner) -> Tokens:
    """Return 256 ids, or fewer if the widest pass would exceed the context length."""
    longest = _CONTEXT + WIDTHS[-1] if model.context_length is None else model.context_length
    return Tokens(_ids(model, max(1, min(_CONTEXT, longest - WIDTHS[-1]))))


def _ids(model: Runner, count: int) -> list[int]:
    return [position * 7 % model.vocab_size for position in range(count)]


def _timer(model: Runner, context: Tokens, width: int) -> Callable[[], float]:
    """Return a timer of a forward pass of `width` tokens after `context`, which the previous pass left cached."""
    tokens = context + _ids(model, width)

    def call() -> float:
        start = time.perf_counter()
        synchronize(model.forward(tokens, width))
        return time.perf_counter() - start

    return call


def weight_bytes(checkpoint: Checkpoint, placement: Placement) -> int | None:
    """Bytes of weights that one forward pass reads, as they lie in memory. None if unknown.

    The output head counts in full, also if tied. The embedding does not: a pass reads a few of its rows.
    """
    if checkpoint.is_gguf or any("expert" in key for key in checkpoint.config):
        return None
    vocab = checkpoint.config.get("vocab_size")
    shapes = [shape for file in checkpoint.weight_files for _, shape in tensor_shapes(file).values()]
    heads = [shape for shape in shapes if shape[:1] == [vocab] and len(shape) > 1]
    matrices = [shape for shape in shapes if len(shape) > 1 and shape not in heads]
    return sum(_size(shape, placement) for shape in matrices + heads[:1])


def _size(shape: list[int], placement: Placement) -> int:
    """Bytes of a matrix. A quantized one has scales beside its levels: 8.5 or 4.6 bits for each weight in all."""
    bits = {Quant.INT8: 8.5, Quant.INT4: 4.625}.get(placement.quant, 8 * placement.dtype.itemsize)
    return int(math.prod(shape) * bits / 8)
