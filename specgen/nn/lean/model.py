"""The lean decoder: Llama-like models on a CPU, without transformers."""

from collections.abc import Mapping, Sequence

import torch

from specgen.nn.device import Placement
from specgen.nn.interface import SharedParts
from specgen.nn.lean.architecture import Architecture
from specgen.nn.lean.attention import BLOCK, AttentionMask, RowBlock, choose_tile
from specgen.nn.lean.caching import CachingModel
from specgen.nn.lean.layer import Positions, TorchPositions
from specgen.nn.lean.rope import Rope, Rotation
from specgen.nn.lean.weights import Weights

# Positions of the first cache. A full cache is doubled.
FIRST = 512


class LeanModel(CachingModel):
    """A `LanguageModel` on a CPU; nn/interface.py has the contract, static.py the model for other devices.

    The bits of a row of logits do not depend on the widths of the passes that fed its context: see kernels/linear.py
    and attention.py.
    """

    def __init__(
        self,
        architecture: Architecture,
        weights: Weights,
        placement: Placement,
        context_length: int,
    ) -> None:
        super().__init__(architecture.vocab_size, context_length)
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

    @property
    def _capacity(self) -> int:
        """Positions of the caches."""
        return self._caches[0].shape[2] if self._caches else 0

    @property
    def shared(self) -> SharedParts:
        weights = self._weights
        return SharedParts(
            weights.embed,
            weights.norm,
            self._score_normed,
            self._architecture.hidden_size,
            len(weights.layers),
            self._placement.device,
            self._placement.dtype,
        )

    def _score_normed(self, states: torch.Tensor) -> torch.Tensor:
        missing = self._weights.rows - len(states)
        padded = torch.cat([states, states[-1:].expand(missing, -1)]) if missing > 0 else states
        return self._weights.score(padded)[: len(states)]

    def _compute(self, ids: list[int], start: int, last: int) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        """Feed `ids` from position `start` on, padded to the least number of rows of a pass."""
        count, least = len(ids), self._weights.rows
        ids += ids[-1:] * (least - count)
        at = self._positions(start, count, len(ids))
        hidden, states = self._layers(torch.tensor(ids, device=self._placement.device), at)
        # The head needs the least number of rows too.
        first = min(count - last, len(ids) - least)
        logits = self._score(hidden[first:])[count - last - first : count - first] if last else hidden[:0]
        return logits, states

    def _layers(
        self, ids: torch.Tensor, positions: Sequence[Positions]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The states [rows, hidden_size] after the last layer, and those of the tapped layers."""
        hidden = self._weights.embed(ids)
        inputs: dict[int, torch.Tensor] = {}
        for index, (layer, cache) in enumerate(zip(self._weights.layers, self._caches, strict=True)):
            if index in self._tap.layers:
                inputs[index] = hidden
            hidden = layer(hidden, cache, positions[self._kind_of_layer[index]])
        return hidden, self._tap.order(inputs, hidden, self._weights.norm)

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
