"""Turning queries and keys by their positions."""

import torch

from specgen.engine.runners.rope import Rope


class Turns:
    """What each position turns by, computed once and kept on one device."""

    def __init__(self, rope: Rope, device: torch.device) -> None:
        self._frequencies = rope.frequencies()
        self._magnitude = rope.magnitude
        self._table = torch.empty(0, 1, rope.size // 2, dtype=torch.complex64, device=device)

    def at(self, start: int, end: int) -> torch.Tensor:
        """The turns of positions `start` to `end`: complex64 [positions, 1, size / 2]."""
        known = len(self._table)
        if end > known:
            positions = torch.arange(known, max(end, 2 * known), dtype=torch.float)
            angles = torch.outer(positions, self._frequencies)
            turns = torch.complex(angles.cos(), angles.sin()) * self._magnitude
            self._table = torch.cat([self._table, turns[:, None].to(self._table.device)])
        return self._table[start:end]

    def of(self, positions: torch.Tensor) -> torch.Tensor:
        """The turns of `positions`, a tensor on the device; `at` has been as far before."""
        # As real numbers, because not every device gathers complex ones.
        return torch.view_as_complex(torch.view_as_real(self._table).index_select(0, positions))


def turn(heads: torch.Tensor, turns: torch.Tensor) -> None:
    """Turn the leading dimensions of `heads` [rows, heads, head_size] in place, in float32."""
    pairs = heads[..., : 2 * turns.shape[-1]].view(*heads.shape[:2], -1, 2)
    if heads.dtype == torch.float32:
        torch.view_as_complex(pairs).mul_(turns)
    else:
        pairs.copy_(torch.view_as_real(torch.view_as_complex(pairs.float()).mul_(turns)))


def interleave(rows: torch.Tensor, head_size: int, size: int) -> torch.Tensor:
    """The rows of a query or key projection, those that are turned as a pair made neighbours.

    Checkpoints keep the pair (i, i + size / 2) of a head apart. As neighbours two numbers are a complex one, and
    turning is one multiplication. Queries and keys are reordered alike, so their products stay the same.
    """
    heads = rows.view(-1, head_size, *rows.shape[1:])
    turned = heads[:, :size].view(len(heads), 2, size // 2, *rows.shape[1:])
    return torch.cat([turned.transpose(1, 2).reshape(len(heads), size, *rows.shape[1:]), heads[:, size:]], 1).view_as(
        rows
    )
