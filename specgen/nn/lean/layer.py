"""One layer of a Llama-like decoder, in about twenty tensor operations."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  the field's name

from specgen.nn.kernels.linear import Linear
from specgen.nn.lean.architecture import Architecture
from specgen.nn.lean.attention import RowBlock, attend
from specgen.nn.lean.rope import rotate

# More elements than these a CPU divides between threads, anywhere in a row, and the elements beside a division are
# computed one by one, which rounds the exponentials of an activation differently.
_UNDIVIDED = 16383


@dataclass(frozen=True, slots=True)
class Positions:
    """Where the rows of a forward pass stand: at `count` new positions, more rows only fill up.

    `places` is the first of these positions, or all of them [count] in a step whose positions only its device knows.
    `rotation` complex64 [rows, 1, size / 2] turns queries and keys; None in a layer without positions.
    """

    places: int | torch.Tensor
    count: int
    rotation: torch.Tensor | None
    blocks: list[RowBlock]

    def keep(self, cache: torch.Tensor, new: torch.Tensor) -> None:
        """Write `new` [2, kv_heads, count, size] to these positions of a `cache` [2, kv_heads, positions, size]."""
        if isinstance(self.places, int):
            cache.narrow(2, self.places, self.count).copy_(new)
        else:
            cache[:, :, self.places] = new


class Norm:
    """RMS norm over the last dimension, in float32; like F.rms_norm, with fewer operations."""

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        self._weight = weight
        self._eps = torch.tensor(eps, device=weight.device)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        return (rows * _inverse(rows, -1, self._eps)).mul_(self._weight).to(rows.dtype)


class HeadNorm:
    """The norms of queries and keys, which lie one after the other in [rows, heads + kv_heads, size]; in place.

    `split` None normalizes each head by itself; else the first `split` heads are one vector, the others another.
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
    """One over the root of the mean square, in float32."""
    length = torch.linalg.vector_norm(values, 2, over, keepdim=True, dtype=torch.float32)
    return torch.addcmul(eps, length, length, value=length.numel() / values.numel()).rsqrt_()


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's weights. A norm that the family does not have is None."""

    architecture: Architecture
    before_attention: Norm | None
    qkv: Linear
    head_norm: HeadNorm | None
    output: Linear
    after_attention: Norm | None
    before_mlp: Norm | None
    gate_up: Linear
    down: Linear
    after_mlp: Norm | None

    def __call__(self, hidden: torch.Tensor, cache: torch.Tensor, at: Positions) -> torch.Tensor:
        """`hidden` [rows, hidden_size] after this layer, whose keys and values of new positions go into `cache`."""
        rows = self.before_attention(hidden) if self.before_attention else hidden
        rows = self._attention(rows, cache, at)
        hidden = self._add(hidden, self.after_attention(rows) if self.after_attention else rows)
        rows = self.before_mlp(hidden) if self.before_mlp else hidden
        rows = self._mlp(rows)
        return self._add(hidden, self.after_mlp(rows) if self.after_mlp else rows)

    def _add(self, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        scale = self.architecture.residual_scale
        return hidden + (rows if scale == 1 else rows * scale)

    def _attention(self, rows: torch.Tensor, cache: torch.Tensor, at: Positions) -> torch.Tensor:
        architecture = self.architecture
        turned = architecture.heads + architecture.kv_heads
        projected = self.qkv(rows).view(len(rows), turned + architecture.kv_heads, architecture.head_size)
        heads = projected.narrow(1, 0, turned)
        if self.head_norm:
            self.head_norm(heads)
        if at.rotation is not None:
            rotate(heads, at.rotation)
        new = projected[: at.count, architecture.heads :].view(
            at.count, 2, architecture.kv_heads, architecture.head_size
        )
        at.keep(cache, new.permute(1, 2, 0, 3))
        queries = projected.narrow(1, 0, architecture.heads)
        return self.output(attend(queries, cache, at.blocks, architecture.attention_scale, architecture.attention_cap))

    def _mlp(self, rows: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up(rows).chunk(2, -1)
        for piece in torch.split(gate, max(1, _UNDIVIDED // gate.shape[1])) if gate.is_cpu else (gate,):
            if self.architecture.activation == "silu":
                F.silu(piece, inplace=True)
            else:
                piece.copy_(F.gelu(piece, approximate="tanh"))
        return self.down(gate * up)
