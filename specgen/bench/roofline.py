"""How near a forward pass comes to what memory allows: its time over the time that reading its weights takes."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from specgen.bench.measure import finish, medians
from specgen.checkpoint.checkpoint import Checkpoint
from specgen.checkpoint.weights import tensor_shapes
from specgen.core.tokens import Tokens
from specgen.nn.device import Placement
from specgen.nn.interface import Runner

WIDTHS = (1, 2, 4, 8, 16)
_CONTEXT = 256
_REPEAT = 15
# Many times the caches of any processor but the largest.
_READ = 512 << 20
_READS = 8


@dataclass(frozen=True, slots=True)
class Forwards:
    """Median seconds of a model's forward passes by width, and the bytes of weights that each of them reads.

    `weight_bytes` is None where the files do not tell: GGUF, and experts of which a pass reads only some.
    """

    weight_bytes: int | None
    context: int
    seconds: Mapping[int, float]


def bandwidth(device: torch.device, size: int | None = None, reads: int = _READS) -> float:
    """Bytes a second that a reduction over `size` bytes reads, the best of several, on all threads torch has."""
    size = size or _READ
    numbers = torch.ones(size // 4, device=device)
    best = float("inf")
    for _ in range(reads):
        start = time.perf_counter()
        numbers.sum().item()
        best = min(best, time.perf_counter() - start)
    return size / best


def forward_times(models: Mapping[str, tuple[Runner, int | None]]) -> dict[str, Forwards]:
    """The forward passes of `models` (each with its weight bytes) after a context of 256 tokens, all in turn."""
    contexts = {name: _context(model) for name, (model, _) in models.items()}
    calls = {
        (name, width): _timer(model, contexts[name], width) for name, (model, _) in models.items() for width in WIDTHS
    }
    seconds = medians(calls, _REPEAT)
    return {
        name: Forwards(size, len(contexts[name]), {width: seconds[name, width] for width in WIDTHS})
        for name, (_, size) in models.items()
    }


def _context(model: Runner) -> Tokens:
    """256 ids, or fewer where the model cannot read so many and the widest pass too."""
    longest = _CONTEXT + WIDTHS[-1] if model.context_length is None else model.context_length
    return Tokens(_ids(model, max(1, min(_CONTEXT, longest - WIDTHS[-1]))))


def _ids(model: Runner, count: int) -> list[int]:
    return [position * 7 % model.vocab_size for position in range(count)]


def _timer(model: Runner, context: Tokens, width: int) -> Callable[[], float]:
    """A forward pass of `width` tokens after `context`, which the pass before it, of any width, has left cached."""
    tokens = context + _ids(model, width)

    def call() -> float:
        start = time.perf_counter()
        finish(model.forward(tokens, width))
        return time.perf_counter() - start

    return call


def weight_bytes(checkpoint: Checkpoint, placement: Placement) -> int | None:
    """What one forward pass reads of the weights of `checkpoint` as they lie in memory, None where that is unknown.

    Of the embedding only a few rows are read. The head, which is often the same tensor, is read whole.
    """
    if checkpoint.is_gguf or any("expert" in key for key in checkpoint.config):
        return None
    vocab = checkpoint.config.get("vocab_size")
    shapes = [shape for file in checkpoint.weight_files for _, shape in tensor_shapes(file).values()]
    heads = [shape for shape in shapes if shape[:1] == [vocab] and len(shape) > 1]
    matrices = [shape for shape in shapes if len(shape) > 1 and shape not in heads]
    return sum(_size(shape, placement) for shape in matrices + heads[:1])


def _size(shape: list[int], placement: Placement) -> int:
    """In int8 every row of a matrix has a scale in float32 beside it."""
    rows, columns = shape[0], math.prod(shape[1:])
    return rows * (columns + 4) if placement.int8 else rows * columns * placement.dtype.itemsize
