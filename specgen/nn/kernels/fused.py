"""Fused Triton kernels of a static decode pass on CUDA: norm, rotation with cache write, attention, gate.

A row's bits depend on its own context alone. Each program sums in an order that is fixed at compile time, and a key
that a row does not see adds an exact zero.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from specgen.nn.kernels.workspace import SPLIT, Workspace

_KEYS = 64  # keys of one step inside a split
_JOINED = 32  # splits that `_join_splits` adds at once: 32 steps at 131,072 keys
_ELEMENTS = 1024  # elements of one program of `gate`


@triton.jit  # type: ignore[untyped-decorator]
def _rms_norm(rows, weight, out, eps, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    values = tl.load(rows + row * size + columns, mask=inside, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(values * values, 0) / size + eps)
    scaled = values * scale * tl.load(weight + columns, mask=inside, other=0.0)
    tl.store(out + row * size + columns, scaled.to(out.dtype.element_ty), mask=inside)


def rms_norm(rows: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMS norm of `rows` [rows, size], contiguous, times `weight` float32 [size], computed in float32."""
    out = torch.empty_like(rows)
    size = rows.shape[1]
    _rms_norm[(len(rows),)](rows, weight, out, eps, size, BLOCK=triton.next_power_of_2(size), num_warps=8)
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _rotate_and_store(  # type: ignore[no-untyped-def]
    heads,
    cache,
    table,
    start,
    queries,
    key_heads,
    capacity,
    size: tl.constexpr,
    rotated: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, head = tl.program_id(0), tl.program_id(1)
    place = tl.load(start) + row
    base = heads + (row * (queries + 2 * key_heads) + head) * size
    column = tl.arange(0, BLOCK)
    inside = column < size
    value = tl.load(base + column, mask=inside, other=0.0)
    if rotated > 0 and head < queries + key_heads:
        # Interleaved pairs (even, odd) are one complex number; `table` [positions, rotated / 2, 2] has cosine and sine.
        turns = column < rotated
        other = tl.load(base + (column ^ 1), mask=inside, other=0.0).to(tl.float32)
        angle = table + place * rotated + (column // 2) * 2
        cosine = tl.load(angle, mask=turns, other=1.0)
        sine = tl.load(angle + 1, mask=turns, other=0.0)
        signed = tl.where(column % 2 == 0, -other, other)
        value = (value.to(tl.float32) * cosine + signed * sine).to(value.dtype)
    if head < queries:
        tl.debug_barrier()  # every load of the pair is done before its place is overwritten
        tl.store(base + column, value, mask=inside)
    else:
        # `cache` [2, key_heads, capacity, size]: keys, then values, in the order of the projection's heads.
        tl.store(cache + ((head - queries) * capacity + place) * size + column, value, mask=inside)


def rotate_and_store(
    projected: torch.Tensor, cache: torch.Tensor, table: torch.Tensor | None, start: torch.Tensor, queries: int
) -> None:
    """Rotate queries in place; write rotated keys, and values, to the cache.

    projected: [rows, queries + 2 * key_heads, size], contiguous. cache: [2, key_heads, capacity, size]. table: float32
    [positions, rotated / 2, 2], the cosine and sine of each interleaved pair, None for no rotation. start: int64 [1],
    the position of the first row.
    """
    rows, _, size = projected.shape
    key_heads, capacity = cache.shape[1], cache.shape[2]
    rotated = 0 if table is None else 2 * table.shape[1]
    _rotate_and_store[(rows, queries + 2 * key_heads)](
        projected,
        cache,
        projected if table is None else table,
        start,
        queries,
        key_heads,
        capacity,
        size=size,
        rotated=rotated,
        BLOCK=triton.next_power_of_2(size),
        num_warps=1,
    )


@triton.jit  # type: ignore[untyped-decorator]
def _gate(joined, out, size, GELU: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    gate = tl.load(joined + row * 2 * size + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(joined + row * 2 * size + size + column, mask=inside, other=0.0)
    if GELU:
        inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        gate = gate / (1.0 + tl.exp(-2.0 * inner))  # 0.5 * (1 + tanh(x)) is the logistic function of 2 x
    else:
        gate = gate / (1.0 + tl.exp(-gate))
    tl.store(out + row * size + column, gate.to(up.dtype) * up, mask=inside)


def gate(joined: torch.Tensor, activation: str) -> torch.Tensor:
    """The activation of the first half of `joined` [rows, 2 * size] times the second half: [rows, size].

    `activation` is "silu", or else the tanh approximation of GELU.
    """
    rows, size = joined.shape[0], joined.shape[1] // 2
    out = joined.new_empty(rows, size)
    grid = (rows, triton.cdiv(size, _ELEMENTS))
    _gate[grid](joined, out, size, GELU=activation != "silu", BLOCK=_ELEMENTS, num_warps=4)
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _attend_split(  # type: ignore[no-untyped-def]
    queries,
    cache,
    start,
    sums,
    maxima,
    totals,
    row_stride,
    key_heads,
    capacity,
    scale,
    cap,
    window,
    rows: tl.constexpr,
    groups: tl.constexpr,
    size: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    SPLIT: tl.constexpr,
    KEYS: tl.constexpr,
    CAPPED: tl.constexpr,
):
    head, split = tl.program_id(0), tl.program_id(1)
    far = head.to(tl.int64)  # a cache may have more elements than an int32 can count
    first = tl.load(start)
    pair = tl.arange(0, M)  # a row and one of the query heads that share this key head
    row = pair // groups
    here = pair < rows * groups
    column = tl.arange(0, D)
    inside = column < size
    place = first + row
    low, high = split * SPLIT, first + rows
    maximum = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    summed = tl.zeros([M, D], tl.float32)
    if (low < high) & (low + SPLIT > first - window + 1):
        at = queries + row[:, None] * row_stride + (head * groups + pair % groups)[:, None] * size + column[None, :]
        query = tl.load(at, mask=here[:, None] & inside[None, :], other=0.0)
        keys = cache + far * capacity * size
        values = cache + (key_heads + far) * capacity * size
        for step in range(0, SPLIT, KEYS):
            key = low + step + tl.arange(0, KEYS)
            there = (key < capacity)[:, None] & inside[None, :]
            loaded = tl.load(keys + key[:, None] * size + column[None, :], mask=there, other=0.0)
            score = tl.dot(query, tl.trans(loaded), input_precision="ieee") * scale
            if CAPPED:
                score = cap * (1.0 - 2.0 / (tl.exp(2.0 * score / cap) + 1.0))  # cap * tanh(score / cap)
            seen = (key[None, :] <= place[:, None]) & (key[None, :] > place[:, None] - window)
            score = tl.where(seen, score, float("-inf"))
            larger = tl.maximum(maximum, tl.max(score, 1))
            base = tl.where(larger == float("-inf"), 0.0, larger)
            shrink = tl.exp(maximum - base)
            weight = tl.exp(score - base[:, None])
            total = total * shrink + tl.sum(weight, 1)
            loaded = tl.load(values + key[:, None] * size + column[None, :], mask=there, other=0.0)
            part = tl.dot(weight.to(loaded.dtype), loaded, input_precision="ieee")
            summed = summed * shrink[:, None] + part
            maximum = larger
        # `_join_splits` reads no other splits.
        slot = (split * key_heads + far) * M + pair
        tl.store(maxima + slot, maximum)
        tl.store(totals + slot, total)
        tl.store(sums + slot[:, None] * D + column[None, :], summed)


@triton.jit  # type: ignore[untyped-decorator]
def _join_splits(  # type: ignore[no-untyped-def]
    sums,
    maxima,
    totals,
    start,
    out,
    key_heads,
    window,
    rows: tl.constexpr,
    groups: tl.constexpr,
    size: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    SPLIT: tl.constexpr,
    JOINED: tl.constexpr,
):
    row, head = tl.program_id(0), tl.program_id(1)
    place = tl.load(start) + row
    column = tl.arange(0, D)
    pair = row * groups + head % groups
    maximum = float("-inf")
    total = 0.0
    summed = tl.zeros([D], tl.float32)
    # JOINED splits at a time, from multiples of JOINED on: so the order of a sum depends on the row's position alone.
    # A split that the row does not see adds an exact zero.
    begin, end = tl.maximum(place - window + 1, 0) // SPLIT, place // SPLIT + 1
    for base in range(begin // JOINED * JOINED, end, JOINED):
        split = base + tl.arange(0, JOINED)
        seen = (split >= begin) & (split < end)
        slot = (split * key_heads + head // groups) * M + pair
        other = tl.load(maxima + slot, mask=seen, other=float("-inf"))
        larger = tl.maximum(maximum, tl.max(other, 0))
        shrink, share = tl.exp(maximum - larger), tl.exp(other - larger)
        total = total * shrink + tl.sum(tl.load(totals + slot, mask=seen, other=0.0) * share, 0)
        part = tl.load(sums + slot[:, None] * D + column[None, :], mask=seen[:, None], other=0.0)
        summed = summed * shrink + tl.sum(part * share[:, None], 0)
        maximum = larger
    heads = key_heads * groups
    tl.store(
        out + (row * heads + head) * size + column,
        (summed / total).to(out.dtype.element_ty),
        mask=column < size,
    )


def attend(
    projected: torch.Tensor,
    cache: torch.Tensor,
    start: torch.Tensor,
    queries: int,
    *,
    scale: float,
    cap: float | None,
    window: int | None,
) -> torch.Tensor:
    """Attention of every row over the keys up to its own position: [rows, queries * size].

    projected: [rows, heads, size], its first `queries` heads are the queries. cache: [2, key_heads, capacity, size].
    start: int64 [1], the position of the first row. cap: scores are cap * tanh(score / cap). window: the number of keys
    that a row sees, its own included; None for all. Split softmax: Dao et al., Flash-Decoding (2023).
    """
    rows, heads, size = projected.shape
    key_heads, capacity = cache.shape[1], cache.shape[2]
    space = Workspace.of(rows, queries, key_heads, size, capacity, SPLIT)
    sums = torch.empty(space.slots, space.size, dtype=torch.float32, device=projected.device)
    maxima, totals = sums.new_empty(2, space.slots)
    out = projected.new_empty(rows, queries * size)
    shape: dict[str, Any] = {"rows": rows, "groups": queries // key_heads, "size": size}
    shape |= {"M": space.rows, "D": space.size, "SPLIT": SPLIT}
    seen = window or 1 << 30
    _attend_split[(key_heads, space.splits)](
        projected,
        cache,
        start,
        sums,
        maxima,
        totals,
        heads * size,
        key_heads,
        capacity,
        scale,
        cap or 1.0,
        seen,
        **shape,
        KEYS=_KEYS,
        CAPPED=cap is not None,
        num_warps=4,
        # More stages of wide heads do not fit into the shared memory of many cards.
        num_stages=3 if space.size * projected.element_size() <= 256 else 1,
    )
    _join_splits[(rows, queries)](
        sums, maxima, totals, start, out, key_heads, seen, **shape, JOINED=_JOINED, num_warps=4
    )
    return out
