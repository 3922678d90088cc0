"""A head that reads a target: the states it was told, its keys and values, and chains of its own outputs."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812  the field's name

from specgen.core.tokens import Tokens
from specgen.nn.heads.eagle import EagleHead, rotation_at
from specgen.nn.interface import Runner

# Pairs of a pass over a prompt.
_CHUNK = 256
# Positions of the first buffers. Full buffers are doubled.
_FIRST = 256


class HeadReader:
    """Follows the contexts that a target is fed with, through a tap on `layers`.

    What is read of a state is kept for every position, so that a context may branch anywhere. Entry i of the cache
    holds the pair of state i and token i + 1: after a common prefix of c tokens the first c - 1 entries are valid.
    States of a prefix that the target had cached before the tap are missing. Then the head begins in the middle.
    """

    def __init__(self, head: EagleHead, target: Runner, layers: Sequence[int]) -> None:
        self.layers = tuple(layers)
        self._head = head
        self._vocab_size = target.vocab_size
        self._device, self._dtype = target.shared.device, target.shared.dtype
        # States are known for positions from `_base` on of the tokens `_known`.
        self._known = Tokens()
        self._base = 0
        # Entries are valid from position `_view` on, for pairs of the tokens `_entered`.
        self._entered = Tokens()
        self._view = 0
        self._states = torch.empty(0)
        self._cache = torch.empty(0)
        target.tap(layers, self._listen)

    def _listen(self, tokens: Tokens, start: int, states: Sequence[torch.Tensor]) -> None:
        known = tokens.common_prefix(self._known)
        if not self._base <= start <= known or known < self._base:
            self._base = self._view = known = start
            self._entered = Tokens()
        rows = self._head.read([each[known - start :] for each in states])
        self._reserve(len(tokens) + 1 - self._base)
        self._states[known - self._base : len(tokens) - self._base] = rows
        self._known = tokens

    def unread(self, context: Tokens) -> tuple[int, int] | None:
        """(unread, recent) pairs of `context`, as DraftPlan.draft counts tokens; None where nothing can be drafted.

        The pair of the last state and the last token is always unread.
        """
        if context.common_prefix(self._known) < len(context) - 1 or len(context) - 1 <= self._base:
            return None
        recent = len(context) - 1 - self._valid(context)
        return (recent if self._view == self._base else len(context) - 1 - self._base), recent

    @torch.inference_mode()
    def begin(self, context: Tokens, reading: int) -> tuple[torch.Tensor, int]:
        """Read `context` and begin a chain: the output [1, hidden_size] for the next token, and how much was read.

        `reading` is the most pairs to read first, as in DraftPlan.draft. `unread` must not be None.
        """
        counts = self.unread(context)
        assert counts is not None  # noqa: S101
        unread, recent = counts
        end = len(context) - 1
        if unread <= reading:
            first = self._base if self._view != self._base else end - unread
            self._view = self._base
        elif recent <= reading:
            first = end - recent
        else:
            first = self._view = end - max(1, reading)
        self._entered = Tokens()  # cleared until the pass succeeds
        ids = context.ids(first + 1)
        output = torch.empty(0)
        for start in range(first, end, _CHUNK):
            stop = min(start + _CHUNK, end)
            hidden = self._states[start - self._base : stop - self._base]
            output = self._feed(start, hidden, ids[start - first : stop - first])
        self._entered = context
        return output[-1:], end - first

    @torch.inference_mode()
    def step(self, context: Tokens, output: torch.Tensor) -> torch.Tensor:
        """The output after the last token of `context`, a drafted one. `output` is the one before it."""
        return self._feed(len(context) - 2, self._head.fed_back(output), context.ids(len(context) - 1))

    @torch.inference_mode()
    def scores(self, output: torch.Tensor) -> torch.Tensor:
        """float32 [1, target's vocabulary] of an output; -inf for tokens that the head cannot propose."""
        scores = self._head.scores(output)
        if self._head.ids is None and scores.shape[1] == self._vocab_size:
            return scores
        row = torch.full((1, self._vocab_size), -torch.inf, device=scores.device)
        if self._head.ids is None:
            row[:, : scores.shape[1]] = scores[:, : self._vocab_size]
        else:
            row[:, self._head.ids] = scores
        return row

    def _valid(self, context: Tokens) -> int:
        """The position after the last valid entry, below that of the last state."""
        valid = min(context.common_prefix(self._entered) - 1, len(context) - 2)
        if valid < self._view:
            self._view = self._base
            return self._base
        return valid

    def _feed(self, start: int, hidden: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
        """Feed pairs from position `start` on: outputs [rows, hidden_size]."""
        self._reserve(start + len(ids) - self._base)
        places = torch.arange(start - self._base, start - self._base + len(ids), device=self._device)
        embedded = self._head.embed(torch.tensor(ids, device=self._device))
        rotation = rotation_at(self._head.shape, places, self._dtype)
        first = self._view - self._base
        end = start - self._base + len(ids)

        def attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            self._cache[:, :, end - len(ids) : end] = torch.stack([keys, values]).transpose(1, 2)
            seen_keys, seen_values = self._cache[:, :, first:end]
            mask = None
            if len(ids) > 1:
                mask = torch.arange(first, end, device=self._device) <= places[:, None]
            mixed = F.scaled_dot_product_attention(
                queries.transpose(0, 1)[None], seen_keys[None], seen_values[None], attn_mask=mask, enable_gqa=True
            )
            return mixed[0].transpose(0, 1).flatten(1)

        return self._head.layer(hidden, embedded, rotation, attend)

    def _reserve(self, length: int) -> None:
        """Make room for `length` positions from `_base` on."""
        capacity = len(self._states)
        if length <= capacity:
            return
        capacity = max(length, 2 * capacity, _FIRST)
        shape = self._head.shape
        states = torch.zeros(capacity, self._head.hidden_size, dtype=self._dtype, device=self._device)
        cache = torch.zeros(2, shape.kv_heads, capacity, shape.head_size, dtype=self._dtype, device=self._device)
        if len(self._states):
            states[: len(self._states)] = self._states
            cache[:, :, : len(self._states)] = self._cache
        self._states, self._cache = states, cache
