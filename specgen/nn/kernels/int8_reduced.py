"""Products of int8 weights and rows of seven bits, for x86 processors that sum two products in int16: FBGEMM.

Two products of a uint8 below 128 and an int8 fit into an int16, so that these integers are exact as well (torch calls
it a reduced range). What FBGEMM packs lies where nobody can write it to disk: the levels are kept there, and packed at
every start, on all threads.
"""

import functools
import threading
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from specgen.nn.kernels.int8_rounded import Levels
from specgen.nn.kernels.int8_rows import rounded_twice
from specgen.nn.kernels.linear import Linear

# See int8_rows. A coarser first row leaves more to the second.
_HIGHEST, _OUTLIER = 63, 8.0
# The kernel takes uint8 with this zero point.
_ZERO = 64
# Packing jumps from output to output: of more than this many at once it leaves the processor's caches at every jump.
_OUTPUTS = 4096


class Reduced(Levels):
    """torch's quantized layer; see int8.Kernel for the contract."""

    rows = 1

    def works(self) -> bool:
        """Whether sums are exact."""
        generator = torch.Generator().manual_seed(0)
        for inner, outer in ((256, 96), (1000, 33)):
            levels = torch.randint(-127, 128, (outer, inner), dtype=torch.int8, generator=generator)
            levels[0], levels[1] = 127, -127  # the largest sums there can be
            rows = torch.randint(-_HIGHEST, _HIGHEST + 1, (33, inner), generator=generator)
            rows[0] = _HIGHEST
            exact = (rows @ levels.long().T).float()
            try:
                with warnings.catch_warnings():  # that these operations may go some day; then this is False
                    warnings.simplefilter("ignore")
                    packed = _pack(levels, torch.ones(outer))
                if not all(torch.equal(_multiply(rows[:count].float(), packed), exact[:count]) for count in (1, 4, 33)):
                    return False
            except (RuntimeError, AttributeError):  # no such kernel on this processor, or in this torch
                return False
        return True

    def linear(self, matrix: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        parts = zip(torch.split(matrix, _OUTPUTS), torch.split(scale, _OUTPUTS), strict=True)
        pieces = [self._submit(*part) for part in parts]

        def multiply(levels: torch.Tensor) -> torch.Tensor:
            results = [_multiply(levels, piece.result()) for piece in pieces]
            return results[0] if len(results) == 1 else torch.cat(results, -1)

        return rounded_twice(multiply, matrix.shape[1], _HIGHEST, _OUTLIER, bias)

    @functools.cached_property
    def _workers(self) -> tuple[ThreadPoolExecutor, threading.Semaphore]:
        """Made at the first layer, when it is settled how many threads there are. One piece more than they have in
        hand may wait, so that progress is what is done.
        """
        threads = torch.get_num_threads()
        return ThreadPoolExecutor(threads, "packing"), threading.Semaphore(threads + 1)

    def _submit(self, levels: torch.Tensor, scale: torch.Tensor) -> Future[Any]:
        """Pack in the background."""
        pool, ahead = self._workers
        ahead.acquire()
        packing = pool.submit(_pack, levels, scale)
        packing.add_done_callback(lambda _: ahead.release())
        return packing


def _pack(levels: torch.Tensor, scale: torch.Tensor) -> Any:
    zeros = torch.zeros(len(scale), dtype=torch.int64)
    weight = torch._make_per_channel_quantized_tensor(levels, scale.double(), zeros, 0)
    return torch.ops.quantized.linear_prepack(weight, None)


def _multiply(levels: torch.Tensor, packed: Any) -> torch.Tensor:
    """See int8_rows.Multiply."""
    result: torch.Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default(
        levels, 1.0, _ZERO, packed
    )
    return result
