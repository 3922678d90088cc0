"""The lean decoder: Llama-like models without transformers, and with little between one kernel and the next."""

from collections.abc import Sequence

import torch

from specgen.engine.devices import Placement
from specgen.engine.interfaces import Rows
from specgen.engine.runners.attention import BLOCK, Sight
from specgen.engine.runners.block import Positions
from specgen.engine.runners.description import Description, describe
from specgen.engine.runners.linear import ROWS
from specgen.engine.runners.rotary import Turns
from specgen.engine.runners.stack import Stack, find_fault, read_stack
from specgen.engine.runners.tensors import Tensors
from specgen.engine.tokens import Tokens
from specgen.models.checkpoint import Checkpoint

# Prompts are fed in pieces of this many tokens, which bounds what masks and activations take.
_CHUNK = 256
# So few tokens are not worth a pass of their own.
_FEW = 8
# The cache is first made for this many positions, and doubled when it is full.
_FIRST = 512


class LeanModel:
    """A `LanguageModel` over weights of our own; see interfaces.py for the contract.

    On a CPU the logits of a position are the same, bit for bit, whatever the widths of the calls that fed it and the
    tokens before it: see linear.py and attention.py.
    """

    can_verify = True

    def __init__(self, description: Description, stack: Stack, placement: Placement, context_length: int) -> None:
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

    @torch.inference_mode()
    def forward(self, tokens: Tokens, last: int, want: Sequence[int] = ()) -> Rows:
        try:
            return self._forward(tokens, last, want)
        except BaseException:
            self._cached, self._caches = Tokens(), []
            raise

    def _forward(self, tokens: Tokens, last: int, want: Sequence[int]) -> Rows:
        # Rolling back is this line: what lies in the cache behind it is overwritten before it is seen.
        self._cached = tokens.prefix(min(tokens.common_prefix(self._cached), len(tokens) - last))
        self._reserve(len(tokens))
        # Rows that may be rejected are fed apart from the prompt, so that it is read alike with a draft and without.
        settled = len(tokens) - last
        while len(tokens) - len(self._cached) > max(last, _FEW):
            self._feed(tokens.prefix(min(len(self._cached) + _CHUNK, settled)), ())
        count = len(tokens) - len(self._cached)
        states = self._feed(tokens, want)
        # No fewer than ROWS rows are scored, of which those asked for are kept.
        first = min(count - last, len(states[-1]) - ROWS)
        final = self._stack.norm(states[-1][first:])
        asked = slice(count - last - first, count - first)
        hidden = {layer: states[layer][count - last : count] for layer in want}
        if len(states) - 1 in hidden:
            hidden[len(states) - 1] = final[asked]
        return Rows(self._stack.score(final)[asked], hidden)

    def _feed(self, tokens: Tokens, want: Sequence[int]) -> list[torch.Tensor]:
        """Feed what the cache lacks of `tokens`, in one piece, filled up to at least ROWS rows.

        The states [rows, hidden_size] before each layer of `want`, no rows for other layers, and those after the last.
        """
        start = len(self._cached)
        ids = tokens.ids(start)
        count = len(ids)
        ids += ids[-1:] * (ROWS - count)
        hidden = self._stack.embed(torch.tensor(ids, device=self._placement.device))
        positions = self._positions(start, count, len(ids))
        states: list[torch.Tensor] = []
        for block, cache, kind in zip(self._stack.blocks, self._caches, self._kind_of_layer, strict=True):
            states.append(hidden if len(states) in want else hidden[:0])
            hidden = block(hidden, cache, positions[kind])
        self._cached = tokens
        return [*states, hidden]

    def _positions(self, start: int, count: int, rows: int) -> list[Positions]:
        """Where the rows stand, for each kind of layer."""
        parts = {window: sight.parts(start, count, rows) for window, sight in self._sights.items()}
        turns = {rope: table.at(start, start + rows) for rope, table in self._turns.items()}
        return [
            Positions(start, count, turns[kind.rope] if kind.rope else None, parts[kind.window]) for kind in self._kinds
        ]

    def _reserve(self, length: int) -> None:
        """Make room for `length` positions in the caches, in whole blocks."""
        capacity = self._caches[0].shape[2] if self._caches else 0
        if length <= capacity:
            return
        what, known = self._description, len(self._cached)
        capacity = -(-max(length, _FIRST, min(2 * capacity, self.context_length)) // BLOCK) * BLOCK
        shape = (2, what.kv_heads, capacity, what.head_size)
        for index in range(len(what.layers)):
            # Zeros, because a masked value counts as nothing only where it is a number.
            grown = torch.zeros(shape, dtype=self._placement.dtype, device=self._placement.device)
            if known:
                grown[:, :, :known] = self._caches[index][:, :, :known]
            self._caches[index : index + 1] = [grown]


def load_decoder(
    checkpoint: Checkpoint, description: Description, placement: Placement, context_length: int
) -> LeanModel:
    """The model of `checkpoint`, which `describe_checkpoint` described, on its device.

    `context_length` is in tokens, prompt and answer together; memory for it is taken as it is used.
    """
    stack = read_stack(description, Tensors(checkpoint.weight_files), placement)
    return LeanModel(description, stack, placement, context_length)


def describe_checkpoint(checkpoint: Checkpoint) -> Description | str:
    """What `load_decoder` needs to know of a checkpoint whose weights are there, or the reason why it cannot run it."""
    if checkpoint.is_gguf:
        return "GGUF weights"
    description = describe(checkpoint.config)
    if isinstance(description, str):
        return description
    return find_fault(description, Tensors(checkpoint.weight_files)) or description
