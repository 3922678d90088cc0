"""The lean decoder on a CPU with quantized weights: a pass is one call of compiled code."""

import functools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  the field's name

from specgen.nn.interface import UNNORMED, SharedParts, StateListener
from specgen.nn.kernels.attention import Heads, RotateField, scratch_bytes
from specgen.nn.kernels.builder import LANES
from specgen.nn.kernels.dots import available
from specgen.nn.kernels.panel_linear import PanelLinear
from specgen.nn.kernels.panels import PANEL
from specgen.nn.kernels.products import ProductField
from specgen.nn.kernels.team import OperationField, PassField, Team
from specgen.nn.lean.architecture import Architecture
from specgen.nn.lean.caching import CHUNK, CachingModel, Context, Part
from specgen.nn.lean.draft_head import ChosenPanels
from specgen.nn.lean.program import Buffers, Floats, PassBuilder, padded
from specgen.nn.lean.quantized_weights import QuantizedWeights
from specgen.nn.lean.rope import Rotation

# Positions of the first cache. A full cache is doubled.
_FIRST = 512
# The most rows that attend one after the other in one thread.
_TILE = 16


class CompiledModel(CachingModel):
    """A `LanguageModel`; nn/interface.py has the contract.

    A row's logits depend on its context alone, to the bit: neither on other rows, nor on threads.
    """

    def __init__(
        self,
        architecture: Architecture,
        weights: QuantizedWeights,
        context_length: int,
        team: Team,
        scored: ChosenPanels | None = None,
    ) -> None:
        """`scored`: the part of the output head that a draft computes. Other tokens score minus infinity."""
        super().__init__(architecture.vocab_size, context_length)
        self._scored = scored
        self._architecture = architecture
        self._weights = weights
        self._team = team
        self._shape = Heads(
            architecture.heads,
            architecture.kv_heads,
            architecture.head_size,
            half=True,
            cap=architecture.attention_cap is not None,
        )
        ropes = dict.fromkeys(layer.rope for layer in architecture.layers if layer.rope)
        self._rotations = {rope: Rotation(rope, torch.device("cpu")) for rope in ropes}
        self._buffers = Buffers(architecture, CHUNK)
        self._tapped: list[Floats] = []
        self._prepared = 0  # positions
        self._build()

    @property
    def shared(self) -> SharedParts:
        weights, architecture = self._weights, self._architecture
        norm = torch.from_numpy(weights.norm[: architecture.hidden_size])

        return SharedParts(
            embed=lambda ids: weights.embed(ids.tolist()),
            norm=lambda states: F.rms_norm(states, norm.shape, norm, architecture.norm_eps),
            score=self._score,
            hidden_size=architecture.hidden_size,
            layers=len(weights.layers),
            device=torch.device("cpu"),
            dtype=torch.float32,
        )

    def tap(self, layers: Sequence[int], listener: StateListener | None) -> None:
        super().tap(layers, listener)
        self._build()

    def _build(self) -> None:
        """List the operations of a pass, with copies of the tapped states."""
        architecture, buffers, weights = self._architecture, self._buffers, self._weights
        self._tapped = [np.zeros_like(buffers.hidden) for _ in self._tap.layers]
        tapped = dict(zip(self._tap.layers, self._tapped, strict=True))
        builder = PassBuilder(architecture, available()[0], self._shape, buffers)
        added: Floats | None = None
        for index, (spec, layer) in enumerate(zip(architecture.layers, weights.layers, strict=True)):
            builder.norm(layer.before_attention, added, add=index > 0)
            if index in tapped:
                builder.copy(buffers.hidden, tapped[index])
            qkv = [(layer.queries, 0), (layer.keys, buffers.keys_at), (layer.values, buffers.values_at)]
            builder.products(qkv, buffers.qkv)
            builder.rotate(index, spec, layer.head_norm)
            self._unscored = len(builder)  # the last cache is written
            builder.attend(index, spec)
            builder.products([(layer.output, 0)], buffers.added)
            builder.norm(layer.before_mlp, layer.after_attention, add=True)
            builder.products([(layer.gate, 0), (layer.up, buffers.inner)], buffers.joined)
            builder.gate()
            builder.products([(layer.down, 0)], buffers.added)
            added = layer.after_mlp
        last = len(architecture.layers)
        if ends := [number for number in tapped if number in (last, UNNORMED)]:
            builder.norm(weights.norm, added, add=True)
            for number in ends:
                builder.copy(buffers.hidden if number == UNNORMED else buffers.scaled, tapped[number])
        if tapped:
            self._unscored = len(builder)
        builder.norm(weights.norm, added, add=not ends, count=PassField.LAST)
        builder.products([(weights.head, 0)], None, count=PassField.LAST)
        self._program = builder.program()
        self._rotate = builder.rotate_function
        if self._prepared:
            self._prepare(self._prepared)

    def _compute(self, parts: Sequence[Part]) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        # A pass scores its last rows. So the rows that are scored come after the others, each in the order of parts.
        rows = [(part, index) for part in parts for index in range(len(part.ids) - part.last)]
        unscored = len(rows)
        rows += [(part, index) for part in parts for index in range(len(part.ids) - part.last, len(part.ids))]
        ids = [part.ids[index] for part, index in rows]
        hidden = self._weights.embed(ids).numpy()
        addresses = {id(part): (part.caches[0].data_ptr(), self._capacity(part.caches)) for part in parts}
        table = np.array([(part.start + index, *addresses[id(part)]) for part, index in rows], np.int64)
        logits = torch.empty(len(rows) - unscored, padded(self.vocab_size, PANEL))
        if self._scored:
            self._scored.add(ids)
            logits.fill_(-torch.inf)
        states: list[list[torch.Tensor]] = [[] for _ in self._tapped]
        for first in range(0, len(rows), CHUNK):
            piece = slice(first, min(first + CHUNK, len(rows)))
            scored = max(0, piece.stop - max(first, unscored))
            self._pass(hidden[piece], table[piece], logits[max(0, first - unscored) :], scored)
            for pieces, buffer in zip(states, self._tapped, strict=True):
                pieces.append(torch.from_numpy(buffer[: piece.stop - first, : self._architecture.hidden_size].copy()))
        ordered = [torch.cat(pieces)[_order(parts)] for pieces in states]
        return self._finish(logits[:, : self.vocab_size]), ordered

    def _score(self, states: torch.Tensor) -> torch.Tensor:
        """The logits [rows, vocab] of normed states [rows, hidden size]."""
        return self._finish(self._whole_head(states.float()))

    @functools.cached_property
    def _whole_head(self) -> PanelLinear:
        return PanelLinear(self._weights.head.panels, None, self._team)

    def _pass(self, hidden: np.ndarray, table: np.ndarray, logits: torch.Tensor, last: int) -> None:
        """Feed rows [rows, hidden size] and score the last ones into `logits`.

        `table`: int64 [rows, 3], the position of each row, the address of its cache, and the capacity of that cache.
        """
        buffers, program, count = self._buffers, self._program, len(hidden)
        buffers.hidden[:count, : hidden.shape[1]] = hidden
        buffers.row_table[:count, : table.shape[1]] = table
        program.current[PassField.ROWS] = count
        program.current[PassField.LAST] = last
        tile = max(1, min(_TILE, count * self._architecture.kv_heads // self._team.threads))
        program.current[PassField.TILES] = -(-count // tile)
        program.current[PassField.TILE] = tile
        if last:
            self._aim_head(logits)
        self._team.run(program, len(program.operations) if last else self._unscored)

    def _aim_head(self, logits: torch.Tensor) -> None:
        """Let the output head, the last operation, write to `logits` [rows, vocab of all panels]."""
        head = self._program.operations[-1]
        head[ProductField.OUT] = logits.data_ptr()
        head[ProductField.OUT_STRIDE] = logits.shape[1]
        if self._scored:
            count = len(self._scored.numbers)
            head[ProductField.CHOSEN] = self._scored.numbers.ctypes.data
            head[ProductField.PANELS] = count
            head[OperationField.FIXED] = -(-count // head[ProductField.PANELS_OF_CHUNK])

    def _finish(self, logits: torch.Tensor) -> torch.Tensor:
        """Scale and cap logits as the architecture asks."""
        architecture = self._architecture
        if architecture.logits_divisor != 1:
            logits = logits / architecture.logits_divisor
        if architecture.logits_cap is not None:
            logits = (logits / architecture.logits_cap).tanh_().mul_(architecture.logits_cap)
        return logits

    def _capacity(self, caches: Sequence[torch.Tensor]) -> int:
        """Positions of a cache."""
        return caches[0].shape[1] // self._position_size if caches else 0

    @property
    def _position_size(self) -> int:
        """Numbers of a position in the cache of one layer and key head."""
        return self._shape.size + self._shape.padded

    def _reserve(self, context: Context, length: int) -> None:
        old_capacity = self._capacity(context.caches)
        if length <= old_capacity:
            return
        known, size = len(context.tokens), self._shape.size
        capacity = padded(max(length, _FIRST, min(2 * old_capacity, self.context_length)), LANES)
        count = len(self._architecture.layers) * self._architecture.kv_heads
        grown = torch.empty(
            count, capacity * self._position_size, dtype=torch.float16 if self._shape.half else torch.float32
        )
        if known:
            old, blocks = context.caches[0], padded(known, LANES) * size
            grown[:, :blocks] = old[:, :blocks]
            values, old_values = capacity * size, old_capacity * size
            end = known * self._shape.padded
            grown[:, values : values + end] = old[:, old_values : old_values + end]
        context.caches = [grown]
        if capacity > self._prepared:
            self._prepare(capacity)

    def _prepare(self, capacity: int) -> None:
        """Prepare the program for caches of up to `capacity` positions: their rotations, and room for their scores."""
        self._prepared = capacity
        self._program.reserve(scratch_bytes(self._shape, capacity), self._team.threads)
        for rotation in self._rotations.values():
            rotation.at(0, capacity)
        layers = iter(self._architecture.layers)
        for operation in self._program.operations:
            if operation[OperationField.FUNCTION] == self._rotate:
                rope = next(layers).rope
                operation[RotateField.TABLE] = self._rotations[rope].table.data_ptr() if rope else 0


def _order(parts: Sequence[Part]) -> list[int]:
    """The places of the rows of all parts, in their order, among rows of which the scored ones come last."""
    unscored, scored = 0, sum(len(part.ids) - part.last for part in parts)
    places: list[int] = []
    for part in parts:
        count = len(part.ids) - part.last
        places += [*range(unscored, unscored + count), *range(scored, scored + part.last)]
        unscored, scored = unscored + count, scored + part.last
    return places
