"""The context and the scores of a draft whose vocabulary is not the target's."""

from collections.abc import Sequence

import torch

from specgen.checkpoint.byte_map import ByteMap
from specgen.core.tokens import Tokens

# Score of tokens that the draft does not have. It is finite, because a constraint may allow nothing else.
_NEVER = -1e30


class Translation:
    """Token by token translation through equal bytes (token-level intersection, Timor et al. 2025).

    The draft reads the prompt in its own chat template where `begin` has it, otherwise the translated prompt. It then
    reads the translated answer. A row of its scores becomes a row over the target's `vocab_size` ids, so the target's
    sampler picks with the shared noise.
    """

    def __init__(self, tokens: ByteMap, vocab_size: int) -> None:
        self.tokens = tokens
        self._vocab_size = vocab_size
        ours, theirs = tokens.pairs
        known = ours < vocab_size
        self._target_ids, self._draft_ids = torch.from_numpy(ours[known]), torch.from_numpy(theirs[known])
        self._context = Tokens()
        self._own = Tokens()
        self._lengths = [0]  # number of the draft's tokens for each number of the target's, from `_first` on
        self._first = 0

    def begin(self, prompt: Tokens, own: Sequence[int]) -> None:
        """The draft reads `own` in place of `prompt`."""
        self._context, self._own = prompt, Tokens(own)
        self._first, self._lengths = len(prompt), [len(own)]

    def read(self, context: Tokens) -> Tokens:
        """The draft's tokens for `context`. What was translated before keeps its tokens."""
        shared = context.common_prefix(self._context)
        if shared < self._first:
            self._own, self._first, self._lengths, shared = Tokens(), 0, [0], 0
        del self._lengths[shared - self._first + 1 :]
        own = self._own.prefix(self._lengths[-1])
        for token in context.ids(shared):
            own = own.grow(self.tokens.pieces(token))
            self._lengths.append(len(own))
        self._context, self._own = context, own
        return own

    def row(self, row: torch.Tensor) -> torch.Tensor:
        """The draft's scores, float32 [1, its vocab], as scores of the target's tokens, float32 [1, vocab_size]."""
        if self._target_ids.device != row.device:
            self._target_ids, self._draft_ids = self._target_ids.to(row.device), self._draft_ids.to(row.device)
        scores = torch.full((1, self._vocab_size), _NEVER, device=row.device)
        scores[:, self._target_ids] = row[:, self._draft_ids].clamp_min(_NEVER)
        return scores
