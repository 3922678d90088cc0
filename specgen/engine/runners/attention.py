"""Attention over a cache whose result for a row does not depend on what else is computed with it.

Kernels round differently for other shapes, so the shape that a row meets depends on its own position alone: positions
fall into blocks of BLOCK, the rows of one block are attended to together, as a multiple of ROWS queries, over the keys
up to the end of their block and no further. Verifying five tokens at once then scores each of them bit for bit as
feeding it alone does.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  the field's name

from specgen.engine.runners.linear import ROWS

BLOCK = 64


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one block in a forward pass.

    `rows` are those computed, a multiple of ROWS; of the result `kept` belong to the block. They may see keys from
    position `first_key` on, and `mask` [groups * rows, keys] says which of them they do.
    """

    rows: slice
    kept: slice
    first_key: int
    mask: torch.Tensor


class Sight:
    """What rows see: everything before them, or a `window` of keys that includes their own.

    Counted from the end of its own block a row sees the same keys in every block. So one mask, cut to size, is all.
    """

    def __init__(self, window: int | None, groups: int, dtype: torch.dtype, device: torch.device) -> None:
        self._window = window
        self._groups = groups
        self._mask = torch.empty(0, 0, dtype=dtype, device=device)

    def parts(self, start: int, count: int) -> list[Part]:
        """How to attend to `count` new rows, the first of them at position `start`."""
        padded = -(-count // ROWS) * ROWS
        parts = []
        for block in range(start // BLOCK * BLOCK, start + count, BLOCK):
            low, high = max(block - start, 0), min(block + BLOCK - start, count)
            rows = slice(low // ROWS * ROWS, -(-high // ROWS) * ROWS)
            # The last part keeps the rows that only fill up.
            kept = slice(low - rows.start, (padded if high == count else high) - rows.start)
            seen = self._reach(block + BLOCK)
            parts.append(Part(rows, kept, block + BLOCK - seen, self._cut(rows, start - block, seen)))
        return parts

    def _reach(self, end: int) -> int:
        """How many keys before `end`, the end of a block, its rows may see; a multiple of BLOCK."""
        if self._window is None:
            return end
        return min(end, BLOCK + -(-(self._window - 1) // BLOCK) * BLOCK)

    def _cut(self, rows: slice, offset: int, seen: int) -> torch.Tensor:
        """The mask of `rows`, counted from `offset` positions after the start of their block, for `seen` keys."""
        if self._mask.shape[1] < seen:
            self._mask = self._draw(max(seen, 2 * self._mask.shape[1]))
        first = rows.start + offset + ROWS
        cut = self._mask[first : first + rows.stop - rows.start, -seen:]
        return cut if self._groups == 1 else cut.repeat(self._groups, 1)

    def _draw(self, seen: int) -> torch.Tensor:
        """0 for what a row sees, else minus infinity; ROWS more rows at both ends that only fill up."""
        row = torch.arange(-ROWS, BLOCK + ROWS).clamp(0, BLOCK - 1)[:, None]
        key = torch.arange(BLOCK - seen, BLOCK)
        hidden = key > row
        if self._window is not None:
            hidden |= key <= row - self._window
        return self._mask.new_zeros(hidden.shape).masked_fill_(hidden.to(self._mask.device), -torch.inf)


def attend(
    queries: torch.Tensor, cache: torch.Tensor, parts: list[Part], scale: float, cap: float | None
) -> torch.Tensor:
    """[rows, heads * size], from `queries` [rows, heads, size] and `cache` [2, kv_heads, positions, size]."""
    if len(parts) == 1:
        return _attend(queries, cache, parts[0], scale, cap)
    return torch.cat([_attend(queries[part.rows], cache, part, scale, cap)[part.kept] for part in parts])


def _attend(queries: torch.Tensor, cache: torch.Tensor, part: Part, scale: float, cap: float | None) -> torch.Tensor:
    rows, heads, size = queries.shape
    kv_heads = cache.shape[1]
    # The heads that share keys become further rows, so that each key is read once and never copied.
    grouped = queries.view(rows, kv_heads, -1, size).permute(1, 2, 0, 3).reshape(1, kv_heads, -1, size)
    keys, values = cache.narrow(2, part.first_key, part.mask.shape[1]).chunk(2)
    if cap is None:
        mixed = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=part.mask, scale=scale)
    else:
        scores = (grouped @ keys.transpose(2, 3)).mul_(scale / cap).tanh_().mul_(cap).add_(part.mask)
        mixed = scores.softmax(-1, dtype=torch.float32).to(values.dtype) @ values
    return mixed.view(kv_heads, -1, rows, size).permute(2, 0, 1, 3).reshape(rows, heads * size)
