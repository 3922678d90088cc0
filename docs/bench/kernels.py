"""Time the int8 kernels that work on this processor: packing, and products of 1 to 64 rows.

python docs/bench/kernels.py [--inner 1536] [--outer 8960]

The weights of several matrices are read in turn, so that they come from memory and not from a cache. Medians of seven;
rows have no outliers.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from specgen.nn.kernels.int8 import KERNELS, quantize

ROWS = (1, 2, 4, 8, 16, 64)
READ = 100_000_000  # bytes, far more than a cache holds


def seconds(what: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def main() -> None:
    """Read the command line, and print a row for every kernel."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inner", type=int, default=1536)
    parser.add_argument("--outer", type=int, default=8960)
    arguments = parser.parse_args()
    count = -(-READ // (arguments.inner * arguments.outer))
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(arguments.outer, arguments.inner, generator=generator)
    levels, scale = quantize([weight])
    rows = torch.randn(max(ROWS), arguments.inner, generator=generator)
    exact = rows @ weight.T
    print(f"{torch.get_num_threads()} threads, {arguments.outer} outputs of {arguments.inner} inputs; milliseconds")
    print("| kernel | packing, a gigabyte | error | " + " | ".join(f"{width} rows" for width in ROWS) + " |")
    print("| --- | --- | --- | " + " | ".join("---" for _ in ROWS) + " |")
    for kernel in (each for each in KERNELS if each.works()):
        start = time.perf_counter()
        layers = [kernel.linear(kernel.pack(levels.clone()), scale, None) for _ in range(count)]
        error = ((layers[-1](rows) - exact).std() / exact.std()).item()
        for layer in layers:
            layer(rows[:1])  # what is packed in the background is packed now
        packing = (time.perf_counter() - start) / (count * levels.numel()) * 1e9
        times = []
        for width in ROWS:
            each = [seconds(lambda: [layer(rows[:width]) for layer in layers]) for _ in range(7)]  # noqa: B023
            times.append(f"{statistics.median(each) / count * 1e3:.2f}")
        print(f"| {type(kernel).__name__} | {packing:.1f} s | {error:.2%} | {' | '.join(times)} |", flush=True)


if __name__ == "__main__":
    main()
