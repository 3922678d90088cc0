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
from specgen.nn.lean.caching import CHUNK, CachingModel
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
        if self._caches:
            self._prepare()

    def _compute(self, ids: list[int], start: int, last: int) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        hidden = self._weights.embed(ids).numpy()
        size, unscored = self._architecture.hidden_size, len(ids) - last
        logits = torch.empty(last, padded(self.vocab_size, PANEL))
        if self._scored:
            self._scored.add(ids)
            logits.fill_(-torch.inf)
        states: list[list[torch.Tensor]] = [[] for _ in self._tapped]
        for first in range(0, len(ids), CHUNK):
            rows = hidden[first : first + CHUNK]
            scored = max(0, min(first + len(rows) - unscored, len(rows)))
            self._pass(rows, start + first, logits[max(0, first - unscored) :], scored)
            for pieces, buffer in zip(states, self._tapped, strict=True):
                pieces.append(torch.from_numpy(buffer[: len(rows), :size].copy()))
        return self._finish(logits[:, : self.vocab_size]), [torch.cat(pieces) for pieces in states]

    def _score(self, states: torch.Tensor) -> torch.Tensor:
        """The logits [rows, vocab] of normed states [rows, hidden size]."""
        return self._finish(self._whole_head(states.float()))

    @functools.cached_property
    def _whole_head(self) -> PanelLinear:
        return PanelLinear(self._weights.head.panels, None, self._team)

    def _pass(self, hidden: np.ndarray, start: int, logits: torch.Tensor, last: int) -> None:
        """Feed rows [rows, hidden size] from position `start` on; score the last ones into `logits`."""
        buffers, program, count = self._buffers, self._program, len(hidden)
        buffers.hidden[:count, : hidden.shape[1]] = hidden
        cache = self._caches[0]
        buffers.row_table[:count, 0] = range(start, start + count)
        buffers.row_table[:count, 1] = cache.data_ptr()
        buffers.row_table[:count, 2] = self._capacity
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

    @property
    def _capacity(self) -> int:
        """Positions of the cache."""
        return self._caches[0].shape[1] // self._position_size if self._caches else 0

    @property
    def _position_size(self) -> int:
        """Numbers of a position in the cache of one layer and key head."""
        return self._shape.size + self._shape.padded

    def _reserve(self, length: int) -> None:
        if length <= self._capacity:
            return
        known, size = len(self._cached), self._shape.size
        old_capacity = self._capacity
        capacity = padded(max(length, _FIRST, min(2 * old_capacity, self.context_length)), LANES)
        count = len(self._architecture.layers) * self._architecture.kv_heads
        grown = torch.empty(
            count, capacity * self._position_size, dtype=torch.float16 if self._shape.half else torch.float32
        )
        if known:
            old, blocks = self._caches[0], padded(known, LANES) * size
            grown[:, :blocks] = old[:, :blocks]
            values, old_values = capacity * size, old_capacity * size
            end = known * self._shape.padded
            grown[:, values : values + end] = old[:, old_values : old_values + end]
        self._caches = [grown]
        self._prepare()

    def _prepare(self) -> None:
        """Prepare the program for all positions of the cache: their rotations, and room for their scores."""
        capacity = self._capacity
        self._program.reserve(scratch_bytes(self._shape, capacity), self._team.threads)
        for rotation in self._rotations.values():
            rotation.at(0, capacity)
        layers = iter(self._architecture.layers)
        for operation in self._program.operations:
            if operation[OperationField.FUNCTION] == self._rotate:
                rope = next(layers).rope
                operation[RotateField.TABLE] = self._rotations[rope].table.data_ptr() if rope else 0
