"""Rotary positions: what a config says about them, and the tables that turn queries and keys.

The formulas are those of transformers' modeling_rope_utils (RoFormer; linear scaling; Llama 3.1; YaRN).
"""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Rope:
    """`size` leading dimensions of a head are turned, by frequencies that start at 1 and end near 1/`theta`.

    The rest belongs to the long-context variants; `original_length` is the context before the model was stretched.
    """

    theta: float
    size: int
    kind: str = "default"
    factor: float = 1.0
    original_length: int = 0
    low_freq_factor: float = 0.0
    high_freq_factor: float = 0.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0

    def frequencies(self) -> torch.Tensor:
        """Radians a position, float32 [size / 2]."""
        powers = self.theta ** (torch.arange(0, self.size, 2, dtype=torch.float) / self.size)
        match self.kind:
            case "linear":
                return 1.0 / powers / self.factor
            case "llama3":
                return self._llama3(1.0 / powers)
            case "yarn":
                return self._yarn(powers)
        return 1.0 / powers

    def _llama3(self, frequencies: torch.Tensor) -> torch.Tensor:
        """Long waves are stretched, short ones kept, and those between interpolated."""
        turns = self.original_length * frequencies / (2 * math.pi)
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = kept.clamp(0, 1)
        return (1 - kept) * frequencies / self.factor + kept * frequencies

    def _yarn(self, powers: torch.Tensor) -> torch.Tensor:
        """Dimensions that turn often over the original context are kept, slow ones stretched, with a ramp between."""
        low, high = self._turning_point(self.beta_fast), self._turning_point(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.size - 1)
        if low == high:
            high += 0.001
        stretched = ((torch.arange(self.size // 2, dtype=torch.float) - low) / (high - low)).clamp(0, 1)
        return stretched / (self.factor * powers) + (1 - stretched) / powers

    def _turning_point(self, turns: float) -> float:
        """The dimension that makes so many turns over the original context."""
        return self.size * math.log(self.original_length / (turns * 2 * math.pi)) / (2 * math.log(self.theta))


class Turns:
    """The turns of all positions so far asked for: complex64 [positions, 1, size / 2], on one device."""

    def __init__(self, rope: Rope, device: torch.device) -> None:
        self._rope = rope
        self._frequencies = rope.frequencies()
        self._device = device
        self._table = torch.empty(0, 1, rope.size // 2, dtype=torch.complex64, device=device)

    def at(self, start: int, end: int) -> torch.Tensor:
        """Those of positions `start` to `end`."""
        known = len(self._table)
        if end > known:
            positions = torch.arange(known, max(end, 2 * known, 512), dtype=torch.float)
            angles = torch.outer(positions, self._frequencies)
            turns = torch.complex(angles.cos(), angles.sin()) * self._rope.attention_factor
            self._table = torch.cat([self._table, turns[:, None].to(self._device)])
        return self._table[start:end]


def interleave(rows: torch.Tensor, head_size: int, size: int) -> torch.Tensor:
    """The rows of a query or key projection with the two halves that are turned together made neighbours.

    Checkpoints keep a head's pair (i, i + size / 2) apart. As neighbours a pair is one complex number, and turning is
    one multiplication. Queries and keys change alike, so their products do not.
    """
    heads = rows.unflatten(0, (-1, head_size))
    turned = heads[:, :size].unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
    return torch.cat([turned, heads[:, size:]], 1).flatten(0, 1)


def turn(heads: torch.Tensor, turns: torch.Tensor) -> None:
    """Turn the leading dimensions of `heads` [rows, heads, head_size] in place, in float32."""
    size = 2 * turns.shape[-1]
    leading = heads[..., :size]
    if heads.dtype == torch.float32:
        torch.view_as_complex(leading.unflatten(-1, (-1, 2))).mul_(turns)
    else:
        pairs = torch.view_as_complex(leading.float().unflatten(-1, (-1, 2)))
        leading.copy_(torch.view_as_real(pairs.mul_(turns)).flatten(-2))
