"""Attention over a cache, by torch. The bits of a row do not depend on the other rows of its pass.

Kernels round differently for different shapes. So the shape for a row depends only on its position: positions form
blocks of BLOCK, the rows of a block attend together, padded to a multiple of ROWS queries, over the keys up to the end
of their block. On some processors that is not enough, and `choose_tile` makes all shapes equal.
"""

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  the field's name

from specgen.nn.kernels.linear import ROWS, fill_up

BLOCK = 64


@dataclass(frozen=True, slots=True)
class RowBlock:
    """The rows of one block in a forward pass.

    They see the keys from position `first_key` on for which `mask` [groups * padded rows, keys] is 0. `fills`: rows are
    padded to a multiple of ROWS. Not on accelerators, where passes have static shapes.
    """

    rows: slice
    first_key: int
    mask: torch.Tensor
    fills: bool = True


class AttentionMask:
    """The causal mask of attention, over all keys or over a `window` of keys that includes a row's own.

    The mask depends only on the distance from the block's end, so one mask is cached and sliced.
    """

    def __init__(
        self, window: int | None, groups: int, dtype: torch.dtype, device: torch.device, tile: int = BLOCK
    ) -> None:
        self._window = window
        self._groups = groups
        self._tile = tile
        self._mask = torch.empty(0, 0, dtype=dtype, device=device)

    def blocks(self, start: int, count: int, rows: int) -> list[RowBlock]:
        """The blocks of `rows` rows: `count` new ones from position `start` on, then padding."""
        blocks = []
        for first in range(start // BLOCK * BLOCK, start + count, BLOCK):
            low, end = max(first - start, 0), first + BLOCK
            high = rows if start + count <= end else end - start
            seen = self._reach(end)
            for row in range(low, high, self._tile):
                stop = min(row + self._tile, high)
                mask = self._cut(start + row - first, stop - row, seen)
                blocks.append(RowBlock(slice(row, stop), end - seen, mask))
        return blocks

    def block(self, positions: torch.Tensor, keys: int) -> RowBlock:
        """One block for rows at `positions`, a tensor on the device, over the first `keys` keys. It never waits."""
        mask = self._hide(positions[:, None], torch.arange(keys, device=positions.device))
        mask = mask if self._groups == 1 else mask.repeat(self._groups, 1)
        return RowBlock(slice(len(positions)), 0, mask, fills=False)

    def _reach(self, end: int) -> int:
        """Number of keys before `end`, the end of a block, that its rows may see; a multiple of BLOCK."""
        if self._window is None:
            return end
        return min(end, BLOCK + -(-(self._window - 1) // BLOCK) * BLOCK)

    def _cut(self, first: int, count: int, seen: int) -> torch.Tensor:
        """The mask of `count` rows, the first of which is row `first` of its block, for `seen` keys."""
        if self._mask.shape[1] < seen:
            self._mask = self._draw(max(seen, 2 * self._mask.shape[1]))
        cut = self._mask[first : first + -(-count // ROWS) * ROWS, -seen:]
        return cut if self._groups == 1 else cut.repeat(self._groups, 1)

    def _draw(self, seen: int) -> torch.Tensor:
        """The mask of all rows of a block over the last `seen` keys; ROWS more rows are for padding."""
        row = torch.arange(BLOCK + ROWS, device=self._mask.device).clamp(max=BLOCK - 1)[:, None]
        return self._hide(row, torch.arange(BLOCK - seen, BLOCK, device=self._mask.device))

    def _hide(self, row: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """0 where a row position sees a key position, minus infinity elsewhere."""
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
    # Query heads that share keys become rows, so that each key is read once and never copied.
    grouped = queries.view(rows, kv_heads, -1, size).permute(1, 2, 0, 3).reshape(1, kv_heads, -1, size)
    keys, values = cache.narrow(2, block.first_key, block.mask.shape[1]).chunk(2)
    if cap is None:
        mixed = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=block.mask, scale=scale)
    else:
        scores = (grouped @ keys.transpose(2, 3)).mul_(scale / cap).tanh_().mul_(cap).add_(block.mask)
        mixed = scores.softmax(-1, dtype=torch.float32).to(values.dtype) @ values
    return mixed.view(kv_heads, -1, rows, size)[:, :, :count].permute(2, 0, 1, 3).reshape(count, heads * size)


@functools.cache
def choose_tile(head_size: int, groups: int, cap: float | None, dtype: torch.dtype) -> int:
    """Rows that attend together on this CPU: those of a block, or ROWS where a probe finds that this is not exact.

    `groups`: query heads per key head. Smaller tiles make long prompts slower: docs/bench/attention.py.
    """
    return ROWS if depends_on_width(head_size, groups, cap, dtype, BLOCK) else BLOCK


@functools.cache
def depends_on_width(head_size: int, groups: int, cap: float | None, dtype: torch.dtype, tile: int) -> bool:
    """Whether a row gets other bits in a pass of 4, 8, 12 or 16 rows than in one of BLOCK rows, on this CPU.

    There torch computes some last rows of a pass by another kernel. Other widths are padded to these.
    """
    generator = torch.Generator().manual_seed(0)
    keys = 4 * BLOCK  # several blocks, as in a long context
    queries = torch.randn(BLOCK, groups, head_size, generator=generator).to(dtype)
    cache = torch.randn(2, 1, keys, head_size, generator=generator).to(dtype)
    mask = AttentionMask(None, groups, dtype, torch.device("cpu"), tile)

    def rows(count: int) -> torch.Tensor:
        return attend(queries[:count], cache, mask.blocks(keys - BLOCK, count, count), head_size**-0.5, cap)

    whole = rows(BLOCK)
    return not all(torch.equal(rows(count), whole[:count]) for count in range(ROWS, 4 * ROWS + 1, ROWS))
