"""A probe: does attention round a row differently in a pass of another width on this processor?"""

import functools

import torch

from specgen.nn.kernels.linear import ROWS
from specgen.nn.lean.attention import BLOCK, AttentionMask, attend

# The widest pass that is tried, in rows. Rounds are hardly wider.
_WIDEST = 16
# Keys that the rows attend to: several blocks, as in a long context.
_KEYS = 4 * BLOCK


@functools.cache
def attention_depends_on_width(head_size: int, groups: int, cap: float | None = None) -> bool:
    """Whether a pass of up to 16 rows gives a row other bits than a pass of BLOCK rows, in float32 on this CPU.

    `groups` is the number of query heads per key head. On such a processor speculation may change a text where two
    tokens score nearly alike. There torch computes a few last rows of a pass by another kernel.
    """
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(BLOCK, groups, head_size, generator=generator)
    cache = torch.randn(2, 1, _KEYS, head_size, generator=generator)
    mask = AttentionMask(None, groups, torch.float32, torch.device("cpu"))
    scale, start = head_size**-0.5, _KEYS - BLOCK

    def rows(first: int, count: int) -> torch.Tensor:
        return attend(queries[first : first + count], cache, mask.blocks(start + first, count, count), scale, cap)

    whole = rows(0, BLOCK)
    # Passes are padded to multiples of ROWS, so other widths are the same passes.
    return not all(torch.equal(rows(0, count), whole[:count]) for count in range(ROWS, _WIDEST + 1, ROWS))
