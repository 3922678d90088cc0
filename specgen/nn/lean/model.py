"""The lean decoder: Llama-like models without transformers, and with little between one kernel and the next."""

from collections.abc import Callable, Mapping, Sequence

import torch

from specgen.core.tokens import Tokens
from specgen.nn.device import Placement
from specgen.nn.interface import Rows
from specgen.nn.lean.architecture import Description
from specgen.nn.lean.attention import BLOCK, Part, Sight
from specgen.nn.lean.context_store import Kept
from specgen.nn.lean.graphs import Capture, Graphs
from specgen.nn.lean.layer import Positions
from specgen.nn.lean.rope import Rope, Turns
from specgen.nn.lean.weights import Stack

# Prompts are fed in pieces of this many tokens, which bounds what masks and activations take.
CHUNK = 256
# So few tokens are not worth a pass of their own.
_FEW = 8
# The cache is first made for this many positions, and doubled when it is full.
FIRST = 512
# Passes of at most so many tokens are captured, each width for itself: rounds, but not prompts.
_CAPTURED = 16


class LeanModel:
    """A `LanguageModel` over weights of our own; see interfaces.py for the contract.

    On a CPU the logits of a position are the same, bit for bit, whatever the widths of the calls that fed it and the
    tokens before it: see linear.py and attention.py. On other devices, and under torch.compile, passes have static
    shapes and read what changes from a buffer, so that `new_capture` can capture them; see graphs.py.
    """

    can_verify = True

    def __init__(
        self,
        description: Description,
        stack: Stack,
        placement: Placement,
        context_length: int,
        new_capture: Callable[[], Capture] | None = None,
    ) -> None:
        self.vocab_size = description.vocab_size
        self.context_length = context_length
        self._description = description
        self._stack = stack
        self._placement = placement
        groups = description.heads // description.kv_heads
        self._kinds = list(dict.fromkeys(description.layers))
        self._kind_of_layer = [self._kinds.index(layer) for layer in description.layers]
        self._sights = {
            window: Sight(window, groups, placement.dtype, placement.device)
            for window in {kind.window for kind in self._kinds}
        }
        self._turns = {rope: Turns(rope, placement.device) for kind in self._kinds if (rope := kind.rope)}
        self._caches: list[torch.Tensor] = []
        self._cached = Tokens()
        self._kept, self._owner = Kept(0), object()
        self._graphs = Graphs(new_capture) if new_capture else None
        self._buffer = torch.zeros(1 + _CAPTURED, dtype=torch.int64, device=placement.device)

    def keep_contexts(self, kept: Kept) -> None:
        """From now on keep other contexts too, in `kept` beside the one in use; those kept before are let go.

        Where passes are captured nothing is kept: graphs read the one cache that they were captured with.
        """
        self._kept.clear(self._owner)
        self._kept = Kept(0) if self._graphs else kept

    def warm_up(self) -> str | None:
        """Capture a first step, where steps are captured. The reason why that cannot be done here, else None."""
        if self._graphs is None:
            return None
        self.forward(Tokens([0]), 1)
        return self._graphs.report()

    @torch.inference_mode()
    def forward(self, tokens: Tokens, last: int, want: Sequence[int] = ()) -> Rows:
        try:
            return self._forward(tokens, last, want)
        except BaseException:
            self._cached, self._caches = Tokens(), []
            self._kept.clear(self._owner)
            raise

    def _forward(self, tokens: Tokens, last: int, want: Sequence[int]) -> Rows:
        self._cached, self._caches = self._kept.choose(self._owner, tokens, self._cached, self._caches)
        # Rolling back is this line: what lies in the cache behind it is overwritten before it is seen.
        self._cached = tokens.prefix(min(tokens.common_prefix(self._cached), len(tokens) - last))
        self._reserve(len(tokens))
        # Rows that may be rejected are fed apart from the prompt, so that it is read alike with a draft and without.
        settled = len(tokens) - last
        while len(tokens) - len(self._cached) > max(last, _FEW):
            self._feed(tokens.prefix(min(len(self._cached) + CHUNK, settled)), 0, ())
        return self._feed(tokens, last, want)

    def _feed(self, tokens: Tokens, last: int, want: Sequence[int]) -> Rows:
        """Feed what the cache lacks of `tokens`, in one piece, and score the final `last` positions, if any."""
        start = len(self._cached)
        ids = tokens.ids(start)
        if self._graphs is None:
            rows = self._compute(ids, start, last, want)
        else:
            rows = self._send(self._graphs, ids, start, last, want)
        self._cached = tokens
        return rows

    def _compute(self, ids: list[int], start: int, last: int, want: Sequence[int]) -> Rows:
        """Feed `ids` from position `start` on, filled up to at least as many rows as cost the same."""
        count, least = len(ids), self._stack.rows
        ids += ids[-1:] * (least - count)
        states = self._layers(
            torch.tensor(ids, device=self._placement.device), self._positions(start, count, len(ids)), want
        )
        # As many rows are scored at least, of which those asked for are kept.
        first = min(count - last, len(ids) - least)
        return self._score(states, first, slice(count - last, count), want) if last else Rows(states[-1][:0])

    def _layers(self, ids: torch.Tensor, positions: list[Positions], want: Sequence[int]) -> list[torch.Tensor]:
        """The states [rows, hidden_size] before each layer of `want`, no rows for others, and those after the last."""
        hidden = self._stack.embed(ids)
        states: list[torch.Tensor] = []
        for block, cache, kind in zip(self._stack.blocks, self._caches, self._kind_of_layer, strict=True):
            states.append(hidden if len(states) in want else hidden[:0])
            hidden = block(hidden, cache, positions[kind])
        return [*states, hidden]

    def _score(self, states: list[torch.Tensor], first: int, asked: slice, want: Sequence[int]) -> Rows:
        """Score the rows from `first` on, and keep those that are `asked` for."""
        final = self._stack.norm(states[-1][first:])
        kept = slice(asked.start - first, asked.stop - first)
        hidden = {layer: states[layer][asked] for layer in want}
        if len(states) - 1 in hidden:
            hidden[len(states) - 1] = final[kept]
        return Rows(self._stack.score(final)[kept], hidden)

    def _positions(self, start: int, count: int, rows: int) -> list[Positions]:
        """Where the rows stand, for each kind of layer."""
        parts = {window: sight.parts(start, count, rows) for window, sight in self._sights.items()}
        turns = {rope: table.at(start, start + rows) for rope, table in self._turns.items()}
        return self._for_kinds(start, count, turns, parts)

    def _send(self, graphs: Graphs, ids: list[int], start: int, last: int, want: Sequence[int]) -> Rows:
        """Feed `ids` from position `start` on by a static pass: one copy to the device, none back."""
        if max(ids) >= self.vocab_size:
            raise IndexError(f"token {max(ids)} of {self.vocab_size}")  # which a GPU would not survive
        device, width = self._placement.device, len(ids)
        pinned = device.type == "cuda"
        sent = torch.tensor([start, *ids], pin_memory=pinned)
        if width > _CAPTURED or not last:
            keys = -(-(start + width) // BLOCK) * BLOCK
            return self._static(sent.to(device, non_blocking=pinned), keys, last, want)
        buffer = self._buffer[: 1 + width]
        buffer.copy_(sent, non_blocking=pinned)
        keys = self._caches[0].shape[2]

        def step() -> tuple[torch.Tensor, ...]:
            rows = self._static(buffer, keys, last, want)
            return rows.logits, *rows.hidden.values()

        # Copies, because the next step overwrites its results.
        logits, *hidden = [result.clone() for result in graphs.run((width, last, *want), step)]
        return Rows(logits, dict(zip(dict.fromkeys(want), hidden, strict=True)))

    def _static(self, sent: torch.Tensor, keys: int, last: int, want: Sequence[int]) -> Rows:
        """A pass over `sent`: the position of the first id, then the ids [width]. It never waits for the device.

        Attention goes over the first `keys` positions of the cache, whatever `sent` says.
        """
        count = len(sent) - 1
        places = sent[0] + torch.arange(count, device=sent.device)
        parts = {window: [sight.part(places, keys)] for window, sight in self._sights.items()}
        turns = {rope: table.of(places) for rope, table in self._turns.items()}
        states = self._layers(sent[1:], self._for_kinds(places, count, turns, parts), want)
        return self._score(states, count - last, slice(count - last, count), want) if last else Rows(states[-1][:0])

    def _for_kinds(
        self,
        places: int | torch.Tensor,
        count: int,
        turns: Mapping[Rope, torch.Tensor],
        parts: Mapping[int | None, list[Part]],
    ) -> list[Positions]:
        return [
            Positions(places, count, turns[kind.rope] if kind.rope else None, parts[kind.window])
            for kind in self._kinds
        ]

    def _reserve(self, length: int) -> None:
        """Make room for `length` positions in the caches, in whole blocks."""
        capacity = self._caches[0].shape[2] if self._caches else 0
        if length <= capacity:
            return
        what, known = self._description, len(self._cached)
        capacity = -(-max(length, FIRST, min(2 * capacity, self.context_length)) // BLOCK) * BLOCK
        if self._graphs is not None:
            self._graphs.clear()
            for table in self._turns.values():
                table.at(0, capacity)
        shape = (2, what.kv_heads, capacity, what.head_size)
        for index in range(len(what.layers)):
            # Zeros, because a masked value counts as nothing only where it is a number.
            grown = torch.zeros(shape, dtype=self._placement.dtype, device=self._placement.device)
            if known:
                grown[:, :, :known] = self._caches[index][:, :, :known]
            self._caches[index : index + 1] = [grown]
