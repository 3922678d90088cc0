"""Time the products of quantized weights on this processor, for each format and instruction set.

    python docs/bench/kernels.py [--outputs 17920] [--inputs 1536] [--rows 1,2,4,8,64,256] [--threads N]

The weights are several copies of a matrix, so that one row reads them from memory. A line is a median of several runs.
"""

import argparse
import math
import statistics
import time
from collections.abc import Sequence

import numpy as np

from specgen.core.machine import processor_name
from specgen.nn.device import compute_threads
from specgen.nn.kernels.compiler import compile_module
from specgen.nn.kernels.dots import Dots, available
from specgen.nn.kernels.grouped import GROUP, Format
from specgen.nn.kernels.panels import GROUP_BYTES, PANEL, Panels, scale_bytes
from specgen.nn.kernels.products import ProductField, build_product, product_name
from specgen.nn.kernels.rows import HEAD
from specgen.nn.kernels.team import OperationField, Program, assemble, team_of

FORMATS = (Format(4, 8, "plain"), Format(4, 0, "super"), Format(5, 16, "plain"), Format(6, 32, "halves"))
FORMATS += (Format(8, 128, "plain"),)
_CHUNK = 8  # panels


def matrices(form: Format, outputs: int, inputs: int, least_bytes: int) -> list[Panels]:
    """Matrices of random levels, `least_bytes` in all."""
    random = np.random.default_rng(0)
    panels, groups = outputs // PANEL, -(-inputs // GROUP)
    levels = random.integers(0, 256, (panels, groups, GROUP_BYTES[form.bits]), np.uint8)
    scales = np.full((panels, scale_bytes(form.kind, groups)), 0x2C, np.uint8)
    one = Panels(levels, scales, form.bits, form.zero, form.kind, outputs, inputs)
    count = max(1, math.ceil(least_bytes / (levels.nbytes + scales.nbytes)))
    return [one, *(Panels(levels.copy(), scales.copy(), *_meaning(one)) for _ in range(count - 1))]


def _meaning(panels: Panels) -> tuple[object, ...]:
    return panels.bits, panels.zero, panels.kind, panels.outputs, panels.inputs


def seconds(dots: Dots, form: Format, weights: Sequence[Panels], rows: int, threads: int, repeat: int) -> float:
    """The median time of a product of `rows` rows with one of the matrices."""
    name = product_name(form)
    function = compile_module(f"{name} {dots.name}", [name], lambda module: build_product(module, form, dots))[name]
    panels, groups = weights[0].levels.shape[:2]
    levels = np.ones((rows, groups * GROUP), np.int8)
    heads = np.zeros((rows, groups, HEAD // 4), np.int32)
    bias, out = np.zeros(panels * PANEL, np.float32), np.zeros((rows, panels * PANEL), np.float32)
    operations = [
        {
            OperationField.FUNCTION: function,
            OperationField.FIXED: -(-panels // _CHUNK),
            OperationField.FIRST_OF_GROUP: index,
            ProductField.LEVELS: each.levels.ctypes.data,
            ProductField.SCALES: each.scales.ctypes.data,
            ProductField.BIAS: bias.ctypes.data,
            ProductField.ROWS: levels.ctypes.data,
            ProductField.HEADS: heads.ctypes.data,
            ProductField.OUT: out.ctypes.data,
            ProductField.OUT_STRIDE: out.shape[1],
            ProductField.GROUPS: groups,
            ProductField.PANELS: panels,
            ProductField.PANELS_OF_CHUNK: _CHUNK,
            ProductField.LEVELS_OF_PANEL: each.levels[0].nbytes,
            ProductField.SCALES_OF_PANEL: each.scales[0].nbytes,
        }
        for index, each in enumerate(weights)
    ]
    program = Program(assemble(operations))
    program.current[0] = rows
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        team_of(threads).run(program, len(weights))
        times.append((time.perf_counter() - start) / len(weights))
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=int, default=17920)
    parser.add_argument("--inputs", type=int, default=1536)
    parser.add_argument("--rows", default="1,2,4,8,64,256")
    parser.add_argument("--threads", type=int, default=compute_threads())
    parser.add_argument("--memory", type=float, default=0.15, help="GB of weights")
    args = parser.parse_args()
    widths = [int(width) for width in args.rows.split(",")]
    print(f"{processor_name()}, {args.threads} threads, {args.outputs} outputs of {args.inputs}")
    print("ms for rows of     " + "".join(f"{width:>8}" for width in widths) + "   GB/s of 1 row   GOPS of most")
    for dots in available():
        for form in FORMATS:
            weights = matrices(form, args.outputs, args.inputs, int(args.memory * 1e9))
            times = []
            for width in widths:
                used = weights if width < 64 else weights[:1]
                times.append(seconds(dots, form, used, width, args.threads, 5 if width < 64 else 2))
            size = weights[0].levels.nbytes + weights[0].scales.nbytes
            rates = f"{size / times[0] / 1e9:>12.1f}{2e-9 * widths[-1] * args.outputs * args.inputs / times[-1]:>15.0f}"
            print(f"{dots.name}, {form.bits} bits, {form.kind}".ljust(30)[:30], end="")
            print("".join(f"{1e3 * each:>8.2f}" for each in times) + rates, flush=True)


if __name__ == "__main__":
    main()
