"""One layer of a Llama-like decoder, by torch or by fused kernels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812  the field's name

from specgen.nn.kernels.linear import Linear
from specgen.nn.lean.architecture import Architecture
from specgen.nn.lean.attention import RowBlock, attend
from specgen.nn.lean.rope import rotate

# torch divides more elements than these between threads, anywhere in a row. It computes the elements beside a division
# one by one, and rounds their exponentials differently.
_UNDIVIDED = 16383


class Positions(Protocol):
    """The positions of the rows of a pass, and how these rows attend."""

    def attend(
        self, architecture: Architecture, projected: torch.Tensor, caches: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Write keys and values to `caches`; the mixed values [rows, heads * size].

        `caches` has one tensor [2, kv_heads, positions, size] for each context of the pass. `projected`
        [rows, heads + 2 * kv_heads, size] has queries, keys and values; it is overwritten.
        """


@dataclass(frozen=True, slots=True)
class TorchPositions:
    """Rows at `count` new positions, then padding, computed with torch.

    places: the first position, or all positions, int64 [count], on an accelerator. rotation: complex64
    [rows, 1, size / 2], multiplied with queries and keys; None in a layer without positions.
    """

    places: int | torch.Tensor
    count: int
    rotation: torch.Tensor | None
    blocks: list[RowBlock]

    def attend(
        self, architecture: Architecture, projected: torch.Tensor, caches: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        (cache,) = caches
        heads, kv_heads, size = architecture.heads, architecture.kv_heads, architecture.head_size
        if self.rotation is not None:
            rotate(projected.narrow(1, 0, heads + kv_heads), self.rotation)
        new = projected[: self.count, heads:].view(self.count, 2, kv_heads, size).permute(1, 2, 0, 3)
        if isinstance(self.places, int):
            cache.narrow(2, self.places, self.count).copy_(new)
        else:
            cache[:, :, self.places] = new
        queries = projected.narrow(1, 0, heads)
        return attend(queries, cache, self.blocks, architecture.attention_scale, architecture.attention_cap)


@dataclass(frozen=True, slots=True)
class JoinedPositions:
    """The rows of several contexts, one after the other. Each context attends by itself, as alone in a pass."""

    parts: Sequence[tuple[slice, TorchPositions]]

    def attend(
        self, architecture: Architecture, projected: torch.Tensor, caches: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        pairs = zip(self.parts, caches, strict=True)
        return torch.cat([at.attend(architecture, projected[rows], [cache]) for (rows, at), cache in pairs])


@dataclass(frozen=True, slots=True)
class FusedPositions:
    """Rows at consecutive positions, computed with `kernels`, the module nn/kernels/fused.py.

    start: int64 [1], the first position, on the device. table: see `Rotation.table`; None in a layer without positions.
    window: the number of keys that a row sees, its own included; None for all.
    """

    kernels: ModuleType
    start: torch.Tensor
    table: torch.Tensor | None
    window: int | None

    def attend(
        self, architecture: Architecture, projected: torch.Tensor, caches: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        (cache,) = caches
        heads, scale, cap = architecture.heads, architecture.attention_scale, architecture.attention_cap
        self.kernels.rotate_and_store(projected, cache, self.table, self.start, heads)
        mixed: torch.Tensor = self.kernels.attend(
            projected, cache, self.start, heads, scale=scale, cap=cap, window=self.window
        )
        return mixed


class Norm:
    """RMS norm over the last dimension, in float32. Fewer operations than F.rms_norm.

    fused: the module nn/kernels/fused.py, None for torch.
    """

    def __init__(self, weight: torch.Tensor, eps: float, fused: ModuleType | None) -> None:
        self._weight = weight
        self._eps = torch.tensor(eps, device=weight.device)
        self._fused: Callable[[torch.Tensor], torch.Tensor] | None = (
            partial(fused.rms_norm, weight=weight, eps=eps) if fused else None
        )

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        if self._fused is not None:
            return self._fused(rows)
        return (rows * _inverse(rows, -1, self._eps)).mul_(self._weight).to(rows.dtype)


class HeadNorm:
    """RMS norm of queries and keys [rows, heads + kv_heads, size], in place.

    split: None normalizes each head. A number normalizes the first `split` heads as one vector, the rest as another.
    """

    def __init__(self, weight: torch.Tensor, eps: float, split: int | None) -> None:
        self._weight = weight
        self._eps = torch.tensor(eps, device=weight.device)
        self._split = split

    def __call__(self, heads: torch.Tensor) -> None:
        if self._split is None:
            heads.mul_(_inverse(heads, -1, self._eps) * self._weight)
            return
        for part in (slice(0, self._split), slice(self._split, None)):
            vector = heads[:, part]
            vector.mul_(_inverse(vector, (-2, -1), self._eps) * self._weight[part])


def _inverse(values: torch.Tensor, over: int | tuple[int, int], eps: torch.Tensor) -> torch.Tensor:
    """1 / sqrt(mean square + eps), float32."""
    length = torch.linalg.vector_norm(values, 2, over, keepdim=True, dtype=torch.float32)
    return torch.addcmul(eps, length, length, value=length.numel() / values.numel()).rsqrt_()


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of a layer. Norms that the family lacks are None; `fused` as in Norm."""

    architecture: Architecture
    fused: ModuleType | None
    before_attention: Norm | None
    qkv: Linear
    head_norm: HeadNorm | None
    output: Linear
    after_attention: Norm | None
    before_mlp: Norm | None
    gate_up: Linear
    down: Linear
    after_mlp: Norm | None

    def __call__(self, hidden: torch.Tensor, caches: Sequence[torch.Tensor], at: Positions) -> torch.Tensor:
        """The states [rows, hidden_size] after this layer. Writes keys and values of new positions to `caches`."""
        rows = self.before_attention(hidden) if self.before_attention else hidden
        rows = self._attention(rows, caches, at)
        hidden = self._add(hidden, self.after_attention(rows) if self.after_attention else rows)
        rows = self.before_mlp(hidden) if self.before_mlp else hidden
        rows = self._mlp(rows)
        return self._add(hidden, self.after_mlp(rows) if self.after_mlp else rows)

    def _add(self, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        scale = self.architecture.residual_scale
        return hidden + (rows if scale == 1 else rows * scale)

    def _attention(self, rows: torch.Tensor, caches: Sequence[torch.Tensor], at: Positions) -> torch.Tensor:
        architecture = self.architecture
        turned = architecture.heads + architecture.kv_heads
        projected = self.qkv(rows).view(len(rows), turned + architecture.kv_heads, architecture.head_size)
        if self.head_norm:
            self.head_norm(projected.narrow(1, 0, turned))
        return self.output(at.attend(architecture, projected, caches))

    def _mlp(self, rows: torch.Tensor) -> torch.Tensor:
        joined = self.gate_up(rows)
        if self.fused:
            return self.down(self.fused.gate(joined, self.architecture.activation))
        gate, up = joined.chunk(2, -1)
        for piece in torch.split(gate, max(1, _UNDIVIDED // gate.shape[1])) if gate.is_cpu else (gate,):
            if self.architecture.activation == "silu":
                F.silu(piece, inplace=True)
            else:
                piece.copy_(F.gelu(piece, approximate="tanh"))
        return self.down(gate * up)
