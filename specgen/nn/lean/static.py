"""The lean decoder on accelerators: passes of static shape, captured once for each length of the cache.

On CUDA the bits of a row do not depend on the pass that computes it. Every decode pass has WIDTH rows, padded with rows
that are thrown away; a longer proposal takes several passes. So every matrix product has one shape and one kernel.
Attention sums over the keys in splits of fixed length (nn/kernels/fused.py). Prompts are cut at multiples of CHUNK. A
new answer keeps whole chunks of the cache and reads the rest again: the answer before it, and the end of that answer's
prompt. So its bits are those of a model that has answered nothing before.
"""

from collections.abc import Callable, Sequence
from types import ModuleType

import torch

from specgen.core.tokens import Tokens
from specgen.nn.device import Placement
from specgen.nn.interface import ForwardCall, StateListener
from specgen.nn.lean.architecture import Architecture
from specgen.nn.lean.attention import BLOCK
from specgen.nn.lean.caching import Context
from specgen.nn.lean.context_store import ContextStore
from specgen.nn.lean.graphs import Capture, Graphs
from specgen.nn.lean.layer import FusedPositions, TorchPositions
from specgen.nn.lean.model import LeanModel, capacity_of
from specgen.nn.lean.weights import Weights

# Rows of a decode pass. A pass that waits for the weights costs the same for 1 row and for 8: docs/bench/gpu.py.
WIDTH = 8
# Tokens of a prompt pass. Products of 512 rows are bound by arithmetic on every card, so longer passes are no faster;
# longer ones need larger masks and make a new turn read more again. docs/bench/gpu.py measures 256, 512 and 1024.
CHUNK = 512


class StaticModel(LeanModel):
    """A `LanguageModel` whose decode passes have static shapes and read what changes from one buffer.

    `new_capture` captures them, see graphs.py. With `exact` every decode pass has WIDTH rows; without, as many as are
    asked for, which takes a graph for each width. A draft reads no answer again: its bits change what is guessed, never
    the text.
    """

    def __init__(
        self,
        architecture: Architecture,
        weights: Weights,
        placement: Placement,
        context_length: int,
        new_capture: Callable[[], Capture],
        *,
        exact: bool = True,
        is_draft: bool = False,
    ) -> None:
        super().__init__(architecture, weights, placement, context_length)
        self._graphs = Graphs(new_capture)
        self._context = Context()
        self._exact = exact
        self._rereads = exact and not is_draft
        self._read_end = 0  # the cache was filled by prompt passes up to here, and by decode passes behind it
        self._begins = False
        self._buffer = torch.zeros(1 + WIDTH, dtype=torch.int64, device=placement.device)

    def begin_answer(self) -> None:
        self._begins = True

    def tap(self, layers: Sequence[int], listener: StateListener | None) -> None:
        super().tap(layers, listener)
        self._graphs.clear()  # a graph returns the states that were tapped when it was captured

    def keep_contexts(self, store: ContextStore) -> None:
        """Keep nothing: graphs read the one cache that they were captured with."""

    def hold(self, count: int) -> int:  # noqa: ARG002  graphs read one cache
        return 1

    def cached(self, tokens: Tokens) -> int:
        return tokens.common_prefix(self._context.tokens)

    def warm_up(self) -> str | None:
        """Capture the first decode pass. The reason why that cannot be done here, else None."""
        self.forward(Tokens([0]), 1)
        return self._graphs.report()

    def _drop(self) -> None:
        self._context = Context()

    def _forward_many(self, calls: Sequence[ForwardCall]) -> list[torch.Tensor]:
        return [self._forward(tokens, last) for tokens, last in calls]

    def _forward(self, tokens: Tokens, last: int) -> torch.Tensor:
        # What decides how a token is fed must not depend on how many were drafted, before it or after it.
        prompt = len(tokens) - last
        known = min(tokens.common_prefix(self._context.tokens), prompt)
        if self._begins and self._rereads and not known == prompt == self._read_end:
            known = min(known, self._read_end) // CHUNK * CHUNK
        self._begins = False
        self._context.tokens, self._read_end = tokens.prefix(known), min(known, self._read_end)
        self._reserve(self._context, len(tokens) + WIDTH)  # the rows that pad a pass are written to the cache too
        while prompt - len(self._context.tokens) > WIDTH:
            self._read(tokens.prefix(min((len(self._context.tokens) // CHUNK + 1) * CHUNK, prompt)))
        logits = [] if last else [torch.empty(0, self.vocab_size, device=self._placement.device)]
        while len(self._context.tokens) < len(tokens):
            logits.append(self._decode(tokens.prefix(len(self._context.tokens) + WIDTH)))
        joined = logits[0] if len(logits) == 1 else torch.cat(logits)
        return joined[len(joined) - last :]

    def _read(self, tokens: Tokens) -> None:
        """Feed what the cache lacks of `tokens` in one pass of its own length, and score nothing."""
        start = len(self._context.tokens)
        sent = self._send(start, tokens.ids(start))
        keys = -(-len(tokens) // BLOCK) * BLOCK
        _, states = self._layers(sent[1:], [self._context.caches], self._torch_positions(sent, keys))
        self._context.tokens, self._read_end = tokens, len(tokens)
        self._tap.tell(tokens, start, states)

    def _decode(self, tokens: Tokens) -> torch.Tensor:
        """Feed what the cache lacks of `tokens`, at most WIDTH ids, and score each: float32 [rows, vocab]."""
        start = len(self._context.tokens)
        ids = tokens.ids(start)
        count = len(ids)
        rows = WIDTH if self._exact else count
        buffer = self._buffer[: 1 + rows]
        buffer.copy_(self._send(start, ids + ids[-1:] * (rows - count), to_device=False), non_blocking=buffer.is_cuda)
        keys = self._context.caches[0].shape[2]

        def step() -> tuple[torch.Tensor, ...]:
            fused = self._weights.fused
            positions = self._fused_positions(fused, buffer) if fused else self._torch_positions(buffer, keys)
            hidden, states = self._layers(buffer[1:], [self._context.caches], positions)
            return (self._score(hidden), *states)

        logits, *states = self._graphs.run(rows, step)
        self._context.tokens = tokens
        self._tap.tell(tokens, start, states)
        return logits[:count].clone()  # the next step overwrites its results

    def _send(self, start: int, ids: list[int], *, to_device: bool = True) -> torch.Tensor:
        """The position of the first id, then the ids: int64 [1 + rows], in pinned memory or on the device."""
        if max(ids) >= self.vocab_size:
            raise IndexError(f"token {max(ids)} of {self.vocab_size}")  # which a GPU would not survive
        device = self._placement.device
        cuda = device.type == "cuda"  # elsewhere memory is not pinned, and may be gone before a copy that nobody awaits
        sent = torch.tensor([start, *ids], pin_memory=cuda)
        return sent.to(device, non_blocking=cuda) if to_device else sent

    def _torch_positions(self, sent: torch.Tensor, keys: int) -> list[TorchPositions]:
        """Positions for each kind of layer; attention goes over the first `keys` positions of the cache.

        Nothing here waits for the device.
        """
        count = len(sent) - 1
        places = sent[0] + torch.arange(count, device=sent.device)
        blocks = {window: [mask.block(places, keys)] for window, mask in self._masks.items()}
        rotations = {rope: table.of(places) for rope, table in self._rotations.items()}
        return self._for_kinds(places, count, rotations, blocks)

    def _fused_positions(self, fused: ModuleType, sent: torch.Tensor) -> list[FusedPositions]:
        """Positions for each kind of layer, for the fused kernels."""
        return [
            FusedPositions(fused, sent[:1], self._rotations[kind.rope].table if kind.rope else None, kind.window)
            for kind in self._kinds
        ]

    def _reserve(self, context: Context, length: int) -> None:
        """Make room for `length` positions; graphs that read the old cache are forgotten."""
        if capacity_of(context.caches) >= length:
            return
        self._graphs.clear()  # first, so that their memory is free for the new caches
        super()._reserve(context, length)
        for table in self._rotations.values():
            table.reserve(capacity_of(context.caches))
