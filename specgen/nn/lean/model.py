"""The lean decoder: Llama-like models on a CPU, without transformers."""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch

from specgen.nn.device import Placement
from specgen.nn.interface import SharedParts
from specgen.nn.lean.architecture import Architecture
from specgen.nn.lean.attention import BLOCK, AttentionMask, RowBlock, choose_tile
from specgen.nn.lean.caching import CachingModel, Context, Part
from specgen.nn.lean.layer import JoinedPositions, Positions, TorchPositions
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

    def _compute(self, parts: Sequence[Part]) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        """As CachingModel says, padded to the least number of rows of a pass."""
        ids = [token for part in parts for token in part.ids]
        rows = max(len(ids), self._weights.rows)
        ids += ids[-1:] * (rows - len(ids))
        caches = [part.caches for part in parts]
        at = self._positions(parts, rows)
        hidden, states = self._layers(torch.tensor(ids, device=self._placement.device), caches, at)
        ends = accumulate(len(part.ids) for part in parts)
        scored = [row for part, end in zip(parts, ends, strict=True) for row in range(end - part.last, end)]
        if not scored:
            return hidden.new_empty(0, self.vocab_size, dtype=torch.float32), states
        # The head needs the least number of rows too.
        picked = scored + scored[-1:] * (self._weights.rows - len(scored))
        return self._score(hidden[torch.tensor(picked, device=hidden.device)])[: len(scored)], states

    def _layers(
        self, ids: torch.Tensor, caches: Sequence[Sequence[torch.Tensor]], positions: Sequence[Positions]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The states [rows, hidden_size] after the last layer, and those of the tapped layers.

        `caches`: for each context those of all layers.
        """
        hidden = self._weights.embed(ids)
        inputs: dict[int, torch.Tensor] = {}
        for index, layer in enumerate(self._weights.layers):
            if index in self._tap.layers:
                inputs[index] = hidden
            hidden = layer(hidden, [each[index] for each in caches], positions[self._kind_of_layer[index]])
        return hidden, self._tap.order(inputs, hidden, self._weights.norm)

    def _score(self, hidden: torch.Tensor) -> torch.Tensor:
        """The logits [rows, vocab] of states [rows, hidden_size]."""
        return self._weights.score(self._weights.norm(hidden))

    def _positions(self, parts: Sequence[Part], rows: int) -> Sequence[Positions]:
        """The positions of the rows, for each kind of layer. The last part has the padding up to `rows`."""
        positions: list[list[TorchPositions]] = []
        slices: list[slice] = []
        first = 0
        for part in parts:
            count = len(part.ids)
            end = rows if part is parts[-1] else first + count
            slices.append(slice(first, end))
            blocks = {window: mask.blocks(part.start, count, end - first) for window, mask in self._masks.items()}
            rotations = {rope: each.at(part.start, part.start + end - first) for rope, each in self._rotations.items()}
            positions.append(self._for_kinds(part.start, count, rotations, blocks))
            first = end
        if len(parts) == 1:
            return positions[0]
        return [JoinedPositions(list(zip(slices, kind, strict=True))) for kind in zip(*positions, strict=True)]

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

    def _reserve(self, context: Context, length: int) -> None:
        """Make room for `length` positions in the caches of `context`, in whole blocks."""
        capacity = capacity_of(context.caches)
        if length <= capacity:
            return
        architecture, known = self._architecture, len(context.tokens)
        capacity = -(-max(length, FIRST, min(2 * capacity, self.context_length)) // BLOCK) * BLOCK
        shape = (2, architecture.kv_heads, capacity, architecture.head_size)
        for index in range(len(architecture.layers)):
            # Zeros, because a masked value must be finite: 0 * NaN is NaN.
            grown = torch.zeros(shape, dtype=self._placement.dtype, device=self._placement.device)
            if known:
                grown[:, :, :known] = context.caches[index][:, :, :known]
            context.caches[index : index + 1] = [grown]


def capacity_of(caches: Sequence[torch.Tensor]) -> int:
    """Positions of the caches of all layers."""
    return caches[0].shape[2] if caches else 0
