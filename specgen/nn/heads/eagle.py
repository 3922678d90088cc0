"""The network of an EAGLE head: one decoder layer that predicts the target's next states.

Row i pairs the target's states at position i with the embedding of token i + 1, and its output scores token i + 2. In a
chain the layer's own output takes the place of the states. With g the fused states and x the next token:

    n = state_norm(g);  e = token_norm(embed(x));  r = n if norm_before_residual else g
    a = r + o(attention(cat(e, n)));  out = a + mlp(mlp_norm(a))
    scores = output head of norm(out);  fed back: norm(out) if norm_output else out

EAGLE-3: Li et al. 2025, arXiv 2503.01840. EAGLE-1 (Li et al. 2024) fuses cat(embed(x), g) in every step instead, has no
norms before attention and scores with the target's output head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  the field's name

Linear = Callable[[torch.Tensor], torch.Tensor]
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(queries [rows, heads, size], keys, values [rows, kv_heads, size]) -> mixed values [rows, heads * size]."""


@dataclass(frozen=True, slots=True)
class HeadShape:
    """What the weights do not say. `frequencies`: float32 [rotary size / 2], radians for each position."""

    heads: int
    kv_heads: int
    head_size: int
    norm_eps: float
    frequencies: torch.Tensor
    magnitude: float = 1.0
    norm_before_residual: bool = False
    norm_output: bool = False


@dataclass(frozen=True, slots=True)
class EagleHead:
    """A head without its cache. Norms are weights; those that a head lacks are None.

    fuse: [rows, inputs] -> [rows, hidden_size]; in EAGLE-1 its input is the embedding and the state. input_norms: one
    weight for all states together, or one for each. embed: ids -> [rows, size of embeddings]. score: [rows,
    hidden_size] -> [rows, vocabulary], after `norm`. ids: int64 [vocabulary], the target's ids of these tokens, None
    where they are the same.
    """

    shape: HeadShape
    fuse: Linear
    qkv: Linear
    output: Linear
    gate_up: Linear
    down: Linear
    score: Linear
    embed: Linear
    mlp_norm: torch.Tensor
    token_norm: torch.Tensor | None
    state_norm: torch.Tensor | None
    norm: torch.Tensor | None
    input_norms: tuple[torch.Tensor, ...] = ()
    head_norms: tuple[torch.Tensor, torch.Tensor] | None = None
    ids: torch.Tensor | None = None

    @property
    def hidden_size(self) -> int:
        return len(self.mlp_norm)

    @property
    def is_first(self) -> bool:
        """Whether this is an EAGLE-1 head."""
        return self.state_norm is None

    def read(self, states: Sequence[torch.Tensor]) -> torch.Tensor:
        """What the layer keeps of the target's states, each [rows, size]: [rows, hidden_size]."""
        if self.is_first:
            return states[0]
        if len(self.input_norms) > 1:
            states = [self._norm(each, weight) for each, weight in zip(states, self.input_norms, strict=True)]
        joined = torch.cat(tuple(states), -1)
        if len(self.input_norms) == 1:
            joined = self._norm(joined, self.input_norms[0])
        return self.fuse(joined)

    def layer(
        self, hidden: torch.Tensor, embedded: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], attend: Attend
    ) -> torch.Tensor:
        """The outputs [rows, hidden_size] for read states or earlier outputs `hidden`, and next tokens `embedded`.

        `rotation` is the result of `rotation_at` for the rows' positions.
        """
        if self.is_first:
            residual = inputs = self.fuse(torch.cat([embedded, hidden], -1))
        else:
            normed = self._norm(hidden, self.state_norm)
            inputs = torch.cat([self._norm(embedded, self.token_norm), normed], -1)
            residual = normed if self.shape.norm_before_residual else hidden
        attended = residual + self.output(attend(*self._heads(inputs, rotation)))
        gate, up = self.gate_up(self._norm(attended, self.mlp_norm)).chunk(2, -1)
        return attended + self.down(F.silu(gate) * up)

    def scores(self, outputs: torch.Tensor) -> torch.Tensor:
        """float32 [rows, vocabulary] of outputs [rows, hidden_size]."""
        return self.score(outputs if self.norm is None else self._norm(outputs, self.norm)).float()

    def fed_back(self, outputs: torch.Tensor) -> torch.Tensor:
        """What the next step of a chain reads in place of the target's states."""
        return self._norm(outputs, self.norm) if self.shape.norm_output else outputs

    def _heads(
        self, inputs: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        shape = self.shape
        projected = self.qkv(inputs)
        projected = projected.view(*projected.shape[:-1], -1, shape.head_size)
        queries, keys, values = torch.split(projected, [shape.heads, shape.kv_heads, shape.kv_heads], -2)
        if self.head_norms:
            queries, keys = self._norm(queries, self.head_norms[0]), self._norm(keys, self.head_norms[1])
        return rotate_halves(queries, rotation), rotate_halves(keys, rotation), values

    def _norm(self, rows: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        return F.rms_norm(rows, rows.shape[-1:], weight, self.shape.norm_eps)


def rotation_at(shape: HeadShape, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [rows, 1, rotary size] of int64 `positions` [rows]."""
    angles = positions[:, None, None].float() * shape.frequencies.to(positions.device)
    both = torch.cat([angles, angles], -1)
    return (both.cos() * shape.magnitude).to(dtype), (both.sin() * shape.magnitude).to(dtype)


def rotate_halves(heads: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """`heads` [rows, heads, size] with the pairs (i, i + rotary size / 2) turned."""
    cosines, sines = rotation
    size = cosines.shape[-1]
    turned, rest = heads[..., :size], heads[..., size:]
    left, right = turned.chunk(2, -1)
    turned = turned * cosines + torch.cat([-right, left], -1) * sines
    return torch.cat([turned, rest], -1) if rest.shape[-1] else turned
