"""A matrix that is kept as its int8 levels, as they are: what kernels share that need no other form on disk."""

import torch


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
