"""Time attention of a prompt in tiles of 4 rows beside whole blocks of 64 rows, on this CPU.

python docs/bench/attention.py [--heads 12] [--key-heads 2] [--size 128]

A prompt of 1,024 tokens, all layers of Qwen2.5-Coder-1.5B; medians of five. Tiles are used where whole blocks are not
exact: specgen/nn/lean/attention.py.
"""

import argparse
import statistics
import time

import torch

from specgen.nn.kernels.linear import ROWS
from specgen.nn.lean.attention import BLOCK, AttentionMask, attend, depends_on_width

LAYERS, PROMPT, CHUNK = 28, 1024, 256


def seconds(arguments: argparse.Namespace, tile: int) -> float:
    """Median time of attention for the whole prompt, in seconds."""
    queries = torch.randn(CHUNK, arguments.heads, arguments.size)
    cache = torch.randn(2, arguments.key_heads, PROMPT, arguments.size)
    groups = arguments.heads // arguments.key_heads
    mask = AttentionMask(None, groups, torch.float32, torch.device("cpu"), tile)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        for first in range(0, PROMPT, CHUNK):
            blocks = mask.blocks(first, CHUNK, CHUNK)
            for _ in range(LAYERS):
                attend(queries, cache, blocks, arguments.size**-0.5, None)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Print both times, and whether each is exact here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--key-heads", type=int, default=2)
    parser.add_argument("--size", type=int, default=128)
    arguments = parser.parse_args()
    with torch.inference_mode():
        for tile in (BLOCK, ROWS):
            groups = arguments.heads // arguments.key_heads
            faulty = depends_on_width(arguments.size, groups, None, torch.float32, tile)
            took = seconds(arguments, tile)
            print(f"tiles of {tile:2} rows: {took:.3f} s, {'not exact' if faulty else 'exact'}", flush=True)


if __name__ == "__main__":
    main()
