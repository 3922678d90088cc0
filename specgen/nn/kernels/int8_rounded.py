"""Products of int8 weights and rows rounded to bfloat16, for processors without exact products of integers.

torch's own kernel turns weights to float as it reads them and sums in float32; it has vectors for AVX2, AVX-512 and
Arm. A quarter of float32's bytes are read. More rows cost more, so that drafting many tokens seldom pays here.
"""

import torch
import torch.nn.functional as F  # noqa: N812  the field's name

from specgen.nn.kernels.linear import Linear


class Levels:
    """The half of int8.Kernel that is about what is kept."""

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


# The kernel reads rows in vectors of this many numbers at most, and does not look where they end.
_VECTOR = 32


class Rounded(Levels):
    """torch's kernel for bfloat16 rows; see int8.Kernel for the contract."""

    rows = 1

    def works(self) -> bool:
        """Whether a row has the same bits beside any others, and is what it should be."""
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
            except RuntimeError:  # no such kernel on this processor
                return False
            exact = rows @ levels.float().T
            if not all(torch.equal(whole, piece) for piece in pieces) or (whole - exact).std() > 0.01 * exact.std():
                return False
        return True

    def linear(self, matrix: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        # The kernel's own scales would be rounded to bfloat16.
        ones = torch.ones(len(scale), dtype=torch.bfloat16)
        missing = -matrix.shape[1] % _VECTOR
        vectors = F.pad(matrix, (0, missing)) if missing else matrix

        def linear(rows: torch.Tensor) -> torch.Tensor:
            rounded = F.pad(rows.to(torch.bfloat16), (0, missing))
            result = torch._weight_int8pack_mm(rounded, vectors, ones).float().mul_(scale)
            return result if bias is None else result.add_(bias)

        return linear
