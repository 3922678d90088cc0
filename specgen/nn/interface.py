"""The interface between the decoding loop and a model: token ids in, logits out."""

from typing import Protocol

import torch

from specgen.core.tokens import Tokens


class LanguageModel(Protocol):
    """A causal language model whose cache is invisible.

    Every call passes the whole context. The model keeps what it has computed for the longest prefix that the
    context shares with the last call, rolls back what differs, and feeds the rest. After an exception nothing is
    kept, so the next call is right whatever happened.
    """

    @property
    def vocab_size(self) -> int:
        """The width of a row of logits. Ids from here on cannot be fed."""

    def forward(self, tokens: Tokens, last: int) -> torch.Tensor:
        """float32 [last, vocab]: the scores after each of the final `last` positions of `tokens`.

        1 <= last <= len(tokens).
        """


class Runner(LanguageModel, Protocol):
    """A `LanguageModel` with its weights, as loading.py opens one.

    `can_verify` is False where a rejected token cannot be taken back: then nothing may be drafted. `context_length` is
    how many tokens the model was made to read, None where nothing says so.
    """

    @property
    def can_verify(self) -> bool: ...

    @property
    def context_length(self) -> int | None: ...
