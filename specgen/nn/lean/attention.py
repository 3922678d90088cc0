"""Attention over a cache whose result for a row does not depend, to the bit, on what else is computed with it.

Kernels round differently for other shapes, so the shape that a row meets depends on its own position alone: positions
fall into blocks of BLOCK, the rows of one block are attended to together, filled up to a multiple of ROWS queries, and
over the keys up to the end of their block and no further. Verifying five tokens at once then scores each of them as
feeding it alone does.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  the field's name

from specgen.nn.kernels.linear import ROWS, fill_up

BLOCK = 64


@dataclass(frozen=True, slots=True)
class RowBlock:
    """The rows of one block in a forward pass.

    They may see keys from position `first_key` on, and `mask` [groups * filled rows, keys] says which of them they do.
    `fills` is whether rows are filled up: not on devices, where widths may differ in the last bits.
    """

    rows: slice
    first_key: int
    mask: torch.Tensor
    fills: bool = True


class AttentionMask:
    """The causal mask of attention, over all keys or over a `window` of keys that includes a row's own.

    The mask depends only on the distance from the block's end, so one mask is cached and sliced.
    """

    def __init__(self, window: int | None, groups: int, dtype: torch.dtype, device: torch.device) -> None:
        self._window = window
        self._groups = groups
        self._mask = torch.empty(0, 0, dtype=dtype, device=device)

    def blocks(self, start: int, count: int, rows: int) -> list[RowBlock]:
        """How to attend to `rows` rows: `count` new ones, from position `start` on, and more that only fill up."""
        blocks = []
        for first in range(start // BLOCK * BLOCK, start + count, BLOCK):
            low, end = max(first - start, 0), first + BLOCK
            high = rows if start + count <= end else end - start
            seen = self._reach(end)
            blocks.append(RowBlock(slice(low, high), end - seen, self._cut(start + low - first, high - low, seen)))
        return blocks

    def block(self, positions: torch.Tensor, keys: int) -> RowBlock:
        """How to attend to rows whose positions only their device knows: over the first `keys` keys, whatever they see.

        Nothing here waits for the device.
        """
        mask = self._hide(positions[:, None], torch.arange(keys, device=positions.device))
        mask = mask if self._groups == 1 else mask.repeat(self._groups, 1)
        return RowBlock(slice(len(positions)), 0, mask, fills=False)

    def _reach(self, end: int) -> int:
        """How many keys before `end`, the end of a block, its rows may see; a multiple of BLOCK."""
        if self._window is None:
            return end
        return min(end, BLOCK + -(-(self._window - 1) // BLOCK) * BLOCK)

    def _cut(self, first: int, count: int, seen: int) -> torch.Tensor:
        """The mask of `count` rows, from the `first` of their block on, for `seen` keys."""
        if self._mask.shape[1] < seen:
            self._mask = self._draw(max(seen, 2 * self._mask.shape[1]))
        cut = self._mask[first : first + -(-count // ROWS) * ROWS, -seen:]
        return cut if self._groups == 1 else cut.repeat(self._groups, 1)

    def _draw(self, seen: int) -> torch.Tensor:
        """What rows of a block see of the `seen` keys that end with it; the last rows are for what only fills up."""
        row = torch.arange(BLOCK + ROWS, device=self._mask.device).clamp(max=BLOCK - 1)[:, None]
        return self._hide(row, torch.arange(BLOCK - seen, BLOCK, device=self._mask.device))

    def _hide(self, row: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """0 for a key position that a row position sees, else minus infinity."""
        hidden = key > row
        if self._window is not None:
            hidden |= key <= row - self._window
        return self._mask.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)


def attend(
    queries: torch.Tensor, cache: torch.Tensor, blocks: list[RowBlock], scale: float, cap: float | None
) -> torch.Tensor:
    """[rows, heads * size], from `queries` [rows, heads, size] and `cache` [2, kv_heads, positions, size]."""
    if len(blocks) == 1:
        return _attend(queries, cache, blocks[0], scale, cap)
    return torch.cat([_attend(queries[block.rows], cache, block, scale, cap) for block in blocks])


def _attend(
    queries: torch.Tensor, cache: torch.Tensor, block: RowBlock, scale: float, cap: float | None
) -> torch.Tensor:
    count, kv_heads = len(queries), cache.shape[1]
    queries = fill_up(queries) if block.fills else queries
    rows, heads, size = queries.shape
    # The heads that share keys become further rows, so that each key is read once and never copied.
    grouped = queries.view(rows, kv_heads, -1, size).permute(1, 2, 0, 3).reshape(1, kv_heads, -1, size)
    keys, values = cache.narrow(2, block.first_key, block.mask.shape[1]).chunk(2)
    if cap is None:
        mixed = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=block.mask, scale=scale)
    else:
        scores = (grouped @ keys.transpose(2, 3)).mul_(scale / cap).tanh_().mul_(cap).add_(block.mask)
        mixed = scores.softmax(-1, dtype=torch.float32).to(values.dtype) @ values
    return mixed.view(kv_heads, -1, rows, size)[:, :, :count].permute(2, 0, 1, 3).reshape(count, heads * size)
