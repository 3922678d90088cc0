"""Int8 matrix products: one class for each kernel that torch has.

`Int8Dot` and `Int7Dot` sum integers in int32, so a row's result does not depend on the order of summation, the number
of rows or the number of threads. `Bf16Dot` rounds rows to bfloat16 and sums in float32.
"""

import ctypes
import functools
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the field's name

from specgen.nn.kernels.linear import ROWS, Linear

Multiply = Callable[[torch.Tensor], torch.Tensor]
"""Levels in float32 [rows, in] -> float32 [rows, out]: exact integer sums times the scales of the outputs."""

# Lower bound of a scale, so that a row of zeros can be divided by its scale.
TINY = 1e-30


def quantized_linear(multiply: Multiply, inner: int, highest: int, outlier: float, bias: torch.Tensor | None) -> Linear:
    """A layer that rounds rows of `inner` numbers to levels from -`highest` to `highest`, one scale for each row.

    An outlier among the activations takes the levels of the other numbers (Dettmers et al. 2022, LLM.int8()). So a row
    whose largest value exceeds `outlier` times its root mean square is rounded twice: its rounding error becomes a
    further row with a finer scale. Both rows share one read of the weights, the main cost of a short pass. Figures:
    docs/adr/0004.
    """
    # Constants are tensors, so that torch does not make them in every call. All operations here are vectorized; a norm
    # of infinite order would not be.
    times = 2.0 * highest  # a rounding error is at most half a level
    tiny, finer = torch.tensor(TINY), torch.tensor(times)
    share = -(inner**0.5) / outlier

    def linear(rows: torch.Tensor) -> torch.Tensor:
        count = len(rows)
        peak = rows.abs().amax(-1, keepdim=True)
        step = torch.add(tiny, peak, alpha=1 / highest)
        exact = rows / step
        levels = exact.round()
        norm = torch.linalg.vector_norm(rows, 2, -1, keepdim=True)
        outliers = torch.add(norm, peak, alpha=share).signbit().nonzero()[:, 0]
        if not len(outliers):
            result = multiply(levels)
        else:
            lost = exact.sub_(levels)
            lost = lost if len(outliers) == count else lost[outliers]
            both = multiply(torch.cat((levels, lost.mul_(finer).round_())))
            result, rest = both[:count], both[count:]
            if len(outliers) == count:
                result.add_(rest, alpha=1 / times)
            else:
                result.index_add_(0, outliers, rest, alpha=1 / times)
        result.mul_(step)
        return result if bias is None else result.add_(bias)

    return linear


def _self_test(highest: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Random levels [out, in] and rows [33, in], the largest possible sums among them, with their exact products."""
    generator = torch.Generator().manual_seed(0)
    cases = []
    for inner, outer in ((256, 96), (1000, 33)):
        levels = torch.randint(-127, 128, (outer, inner), dtype=torch.int8, generator=generator)
        levels[0], levels[1] = 127, -127
        rows = torch.randint(-highest, highest + 1, (33, inner), generator=generator)
        rows[0] = highest
        cases.append((levels, rows, (rows @ levels.long().T).float()))
    return cases


class Int8Dot:
    """oneDNN's kernel on processors that sum products in int32; see int8.Kernel. Its layout is opaque, slow to make."""

    rows = ROWS
    # Highest level, and when a row has outliers: nearly all rows before a down projection do, few others.
    _HIGHEST, _OUTLIER = 127, 12.0

    def __init__(self) -> None:
        self._blanks: dict[tuple[int, int], torch.Tensor] = {}

    @functools.cached_property
    def form(self) -> str:
        """oneDNN chooses the layout by the processor, so the layout of a small matrix is part of the name."""
        return f"int8 rows 1 {self.layout(self.blank(64, 64))}"

    @property
    def keeps(self) -> bool:
        # torch tells the layout of a packed matrix since 2.9.
        return hasattr(torch.ops.mkldnn, "data_ptr") and hasattr(torch.ops.mkldnn, "_get_mkldnn_serialized_md")

    def works(self) -> bool:
        """Whether sums are exact. Older processors saturate sums of two products."""
        if not hasattr(torch.ops.onednn, "qlinear_prepack"):
            return False
        for levels, rows, exact in _self_test(self._HIGHEST):
            try:
                multiply = _int8_multiplier(self.pack(levels), torch.ones(len(levels)))
                if not all(
                    torch.equal(multiply(rows[:count].to(torch.int8)), exact[:count]) for count in (1, 4, 8, 33)
                ):
                    return False
            except RuntimeError:  # this processor has no such kernel
                return False
        return True

    def pack(self, levels: torch.Tensor) -> torch.Tensor:
        packed: torch.Tensor = torch.ops.onednn.qlinear_prepack(levels, None)
        return packed

    def blank(self, inner: int, outer: int) -> torch.Tensor:
        # Packing is slow. Copying a packed matrix is not.
        if (inner, outer) not in self._blanks:
            self._blanks[inner, outer] = self.pack(torch.zeros(outer, inner, dtype=torch.int8))
        return self._blanks[inner, outer].clone()

    def layout(self, matrix: torch.Tensor) -> str:
        inner, outer = matrix.shape
        return f"{inner}x{outer} {bytes(torch.ops.mkldnn._get_mkldnn_serialized_md(matrix)).hex()}"

    def memory(self, matrix: torch.Tensor) -> memoryview:
        size = torch.ops.mkldnn._nbytes(matrix)
        return memoryview((ctypes.c_char * size).from_address(torch.ops.mkldnn.data_ptr(matrix))).cast("B")

    def linear(self, matrix: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        exact = _int8_multiplier(matrix, scale)

        def multiply(levels: torch.Tensor) -> torch.Tensor:
            return exact(_pad_rows(levels.to(torch.int8)))[: len(levels)]

        return quantized_linear(multiply, matrix.shape[0], self._HIGHEST, self._OUTLIER, bias)


def _int8_multiplier(packed: torch.Tensor, scale: torch.Tensor) -> Multiply:
    """A `Multiply` of levels in int8. The kernel takes uint8 with a zero point of 128."""
    kernel = torch.ops.onednn.qlinear_pointwise.default
    zeros = torch.zeros(len(scale), dtype=torch.int64)
    shift = torch.tensor(128, dtype=torch.uint8)

    def multiply(levels: torch.Tensor) -> torch.Tensor:
        shifted = levels.view(torch.uint8) ^ shift  # adds 128
        result: torch.Tensor = kernel(
            shifted, 1.0, 128, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return result

    return multiply


def _pad_rows(levels: torch.Tensor) -> torch.Tensor:
    """`levels` up to a multiple of 4 rows, above 32 rows of 32: oneDNN makes a kernel for each number of rows."""
    missing = -len(levels) % (4 if len(levels) <= 32 else 32)
    return torch.cat((levels, levels[-1:].expand(missing, -1))) if missing else levels


class PlainLevels:
    """The storage half of int8.Kernel for kernels that keep plain levels [out, in]."""

    form = "int8 levels 2"
    keeps = True

    def pack(self, levels: torch.Tensor) -> torch.Tensor:
        return levels.contiguous()

    def blank(self, inner: int, outer: int) -> torch.Tensor:
        return torch.empty(outer, inner, dtype=torch.int8)

    def layout(self, matrix: torch.Tensor) -> str:
        outer, inner = matrix.shape
        return f"{inner}x{outer} "

    def memory(self, matrix: torch.Tensor) -> memoryview:
        return memoryview(matrix.view(torch.uint8).numpy().data).cast("B")


# Outputs that FBGEMM packs at a time. Packing strides over the outputs, and more of them leave the caches.
_OUTPUTS = 4096


class Int7Dot(PlainLevels):
    """FBGEMM's kernel with rows of seven bits, for x86 processors that sum two products in int16; see int8.Kernel.

    Two products of a uint8 below 128 and an int8 fit into an int16, so these sums are exact too (torch calls it a
    reduced range). FBGEMM's packed form cannot be written to disk. So the levels are written, and every start packs
    them on all threads.
    """

    rows = 1
    # A coarser first row leaves more to the second, so fewer rows count as having none.
    _HIGHEST, _OUTLIER = 63, 8.0

    def works(self) -> bool:
        """Whether sums are exact."""
        for levels, rows, exact in _self_test(self._HIGHEST):
            try:
                with warnings.catch_warnings():  # torch warns that these operations are deprecated
                    warnings.simplefilter("ignore")
                    packed = _int7_pack(levels, torch.ones(len(levels)))
                if not all(
                    torch.equal(_int7_multiply(rows[:count].float(), packed), exact[:count]) for count in (1, 4, 33)
                ):
                    return False
            except (RuntimeError, AttributeError):  # this processor or this torch has no such kernel
                return False
        return True

    def linear(self, matrix: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        parts = zip(torch.split(matrix, _OUTPUTS), torch.split(scale, _OUTPUTS), strict=True)
        pieces = [self._submit(*part) for part in parts]

        def multiply(levels: torch.Tensor) -> torch.Tensor:
            results = [_int7_multiply(levels, piece.result()) for piece in pieces]
            return results[0] if len(results) == 1 else torch.cat(results, -1)

        return quantized_linear(multiply, matrix.shape[1], self._HIGHEST, self._OUTLIER, bias)

    def _submit(self, levels: torch.Tensor, scale: torch.Tensor) -> Future[Any]:
        """Pack in the background."""
        pool, ahead = _packers(torch.get_num_threads())
        ahead.acquire()
        packing = pool.submit(_int7_pack, levels, scale)
        packing.add_done_callback(lambda _: ahead.release())
        return packing


@functools.cache
def _packers(threads: int) -> tuple[ThreadPoolExecutor, threading.Semaphore]:
    """A pool for packing. The semaphore lets one piece wait for a thread, so that progress shows what is packed."""
    return ThreadPoolExecutor(threads, "packing"), threading.Semaphore(threads + 1)


def _int7_pack(levels: torch.Tensor, scale: torch.Tensor) -> Any:
    zeros = torch.zeros(len(scale), dtype=torch.int64)
    weight = torch._make_per_channel_quantized_tensor(levels, scale.double(), zeros, 0)
    return torch.ops.quantized.linear_prepack(weight, None)


def _int7_multiply(levels: torch.Tensor, packed: Any) -> torch.Tensor:
    """A `Multiply` over a packed matrix. The kernel takes uint8 with a zero point of 64."""
    result: torch.Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default(
        levels, 1.0, 64, packed
    )
    return result


class Bf16Dot(PlainLevels):
    """torch's kernel for bfloat16 rows and int8 weights, for processors without exact sums; see int8.Kernel.

    It converts weights to float as it reads them, and has vectors for AVX2, AVX-512 and Arm. It reads a quarter of
    float32's bytes. Each further row adds its full cost, so drafting many tokens seldom pays here.
    """

    rows = 1
    # The kernel reads rows in vectors of up to this many numbers, also past their end.
    _VECTOR = 32

    def works(self) -> bool:
        """Whether a row's bits do not depend on other rows, and its error is small."""
        if not hasattr(torch, "_weight_int8pack_mm"):
            return False
        generator = torch.Generator().manual_seed(0)
        for inner, outer in ((256, 96), (1000, 33)):
            levels = torch.randint(-127, 128, (outer, inner), dtype=torch.int8, generator=generator)
            rows = torch.randn(33, inner, generator=generator)
            try:
                layer = self.linear(self.pack(levels), torch.ones(outer), None)
                whole = layer(rows)
                pieces = [torch.cat([layer(piece) for piece in torch.split(rows, width)]) for width in (1, 2, 3, 5, 8)]
            except RuntimeError:  # this processor has no such kernel
                return False
            exact = rows @ levels.float().T
            if not all(torch.equal(whole, piece) for piece in pieces) or (whole - exact).std() > 0.01 * exact.std():
                return False
        return True

    def linear(self, matrix: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        # The kernel would round its own scales to bfloat16.
        ones = torch.ones(len(scale), dtype=torch.bfloat16)
        missing = -matrix.shape[1] % self._VECTOR
        vectors = F.pad(matrix, (0, missing)) if missing else matrix

        def linear(rows: torch.Tensor) -> torch.Tensor:
            rounded = F.pad(rows.to(torch.bfloat16), (0, missing))
            result = torch._weight_int8pack_mm(rounded, vectors, ones).float().mul_(scale)
            return result if bias is None else result.add_(bias)

        return linear
