"""The lean decoder: Llama-like models on a CPU, without transformers."""

from collections.abc import Mapping, Sequence

import torch

from specgen.core.tokens import Tokens
from specgen.nn.device import Placement
from specgen.nn.lean.architecture import Architecture
from specgen.nn.lean.attention import BLOCK, AttentionMask, RowBlock, choose_tile
from specgen.nn.lean.context_store import ContextStore
from specgen.nn.lean.layer import Positions, TorchPositions, fused_kernels
from specgen.nn.lean.rope import Rope, Rotation
from specgen.nn.lean.weights import Weights

# Tokens of a prompt pass. It bounds the memory of masks and activations.
CHUNK = 256
# Prompt tokens that are fed with the scored tokens instead of in a pass of their own.
_FEW = 8
# Positions of the first cache. A full cache is doubled.
FIRST = 512


class LeanModel:
    """A `LanguageModel` on a CPU; nn/interface.py has the contract, static.py the model for other devices.

    The bits of a row of logits do not depend on the widths of the passes that fed its context: see kernels/linear.py
    and attention.py.
    """

    can_verify = True

    def __init__(
        self,
        architecture: Architecture,
        weights: Weights,
        placement: Placement,
        context_length: int,
    ) -> None:
        self.vocab_size = architecture.vocab_size
        self.context_length = context_length
        self._architecture = architecture
        self._weights = weights
        self._placement = placement
        groups = architecture.heads // architecture.kv_heads
        self._kinds = list(dict.fromkeys(architecture.layers))
        self._kind_of_layer = [self._kinds.index(layer) for layer in architecture.layers]
        tile = BLOCK
        if placement.device.type == "cpu":
            tile = choose_tile(architecture.head_size, groups, architecture.attention_cap, placement.dtype)
        self._masks = {
            window: AttentionMask(window, groups, placement.dtype, placement.device, tile)
            for window in {kind.window for kind in self._kinds}
        }
        self._rotations = {rope: Rotation(rope, placement.device) for kind in self._kinds if (rope := kind.rope)}
        self._caches: list[torch.Tensor] = []
        self._cached = Tokens()
        self._store, self._owner = ContextStore(0), object()
        self._fused = fused_kernels(placement.device)

    def keep_contexts(self, store: ContextStore) -> None:
        """From now on keep earlier contexts in `store`. Contexts in the former store are dropped."""
        self._store.clear(self._owner)
        self._store = store

    @property
    def _capacity(self) -> int:
        """Positions of the caches."""
        return self._caches[0].shape[2] if self._caches else 0

    @torch.inference_mode()
    def forward(self, tokens: Tokens, last: int) -> torch.Tensor:
        try:
            return self._forward(tokens, last)
        except BaseException:
            self._cached, self._caches = Tokens(), []
            self._store.clear(self._owner)
            raise

    def _forward(self, tokens: Tokens, last: int) -> torch.Tensor:
        self._cached, self._caches = self._store.choose(self._owner, tokens, self._cached, self._caches)
        # This line rolls back: positions behind it are overwritten before any row sees them.
        self._cached = tokens.prefix(min(tokens.common_prefix(self._cached), len(tokens) - last))
        self._reserve(len(tokens))
        # Rows that may be rejected are fed apart from the prompt, so that a draft does not change how it is read.
        settled = len(tokens) - last
        while len(tokens) - len(self._cached) > max(last, _FEW):
            self._feed(tokens.prefix(min(len(self._cached) + CHUNK, settled)), 0)
        return self._feed(tokens, last)

    def _feed(self, tokens: Tokens, last: int) -> torch.Tensor:
        """Feed the uncached part of `tokens` in one pass, and score the final `last` positions."""
        start = len(self._cached)
        logits = self._compute(tokens.ids(start), start, last)
        self._cached = tokens
        return logits

    def _compute(self, ids: list[int], start: int, last: int) -> torch.Tensor:
        """Feed `ids` from position `start` on, padded to the least number of rows of a pass."""
        count, least = len(ids), self._weights.rows
        ids += ids[-1:] * (least - count)
        hidden = self._layers(torch.tensor(ids, device=self._placement.device), self._positions(start, count, len(ids)))
        # The head needs the least number of rows too.
        first = min(count - last, len(ids) - least)
        return self._score(hidden[first:])[count - last - first : count - first] if last else hidden[:0]

    def _layers(self, ids: torch.Tensor, positions: Sequence[Positions]) -> torch.Tensor:
        """The states [rows, hidden_size] after the last layer."""
        hidden = self._weights.embed(ids)
        for layer, cache, kind in zip(self._weights.layers, self._caches, self._kind_of_layer, strict=True):
            hidden = layer(hidden, cache, positions[kind])
        return hidden

    def _score(self, hidden: torch.Tensor) -> torch.Tensor:
        """The logits [rows, vocab] of states [rows, hidden_size]."""
        return self._weights.score(self._weights.norm(hidden))

    def _positions(self, start: int, count: int, rows: int) -> list[TorchPositions]:
        """The positions of the rows, for each kind of layer."""
        blocks = {window: mask.blocks(start, count, rows) for window, mask in self._masks.items()}
        rotations = {rope: table.at(start, start + rows) for rope, table in self._rotations.items()}
        return self._for_kinds(start, count, rotations, blocks)

    def _for_kinds(
        self,
        places: int | torch.Tensor,
        count: int,
        rotations: Mapping[Rope, torch.Tensor],
        blocks: Mapping[int | None, list[RowBlock]],
    ) -> list[TorchPositions]:
        return [
            TorchPositions(places, count, rotations[kind.rope] if kind.rope else None, blocks[kind.window])
            for kind in self._kinds
        ]

    def _reserve(self, length: int) -> None:
        """Make room for `length` positions in the caches, in whole blocks."""
        capacity = self._capacity
        if length <= capacity:
            return
        architecture, known = self._architecture, len(self._cached)
        capacity = -(-max(length, FIRST, min(2 * capacity, self.context_length)) // BLOCK) * BLOCK
        shape = (2, architecture.kv_heads, capacity, architecture.head_size)
        for index in range(len(architecture.layers)):
            # Zeros, because a masked value must be finite: 0 * NaN is NaN.
            grown = torch.zeros(shape, dtype=self._placement.dtype, device=self._placement.device)
            if known:
                grown[:, :, :known] = self._caches[index][:, :, :known]
            self._caches[index : index + 1] = [grown]
