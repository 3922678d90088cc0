"""The interface of a model for the decoding loop: token ids in, logits out."""

from typing import Protocol

import torch

from specgen.core.tokens import Tokens


class LanguageModel(Protocol):
    """A causal language model whose cache is invisible.

    Every call passes the whole context. The model keeps its cache for the longest common prefix with the last call,
    rolls back the rest, and feeds the new tokens. An exception drops the cache, so the next call is right.
    """

    @property
    def vocab_size(self) -> int:
        """The number of logits in a row. Ids are below it."""

    def begin_answer(self) -> None:
        """The next call has the prompt of a new answer. Later calls until then extend that answer.

        A model whose bits depend on how a token was fed reads the prompt anew where the last answer fed it.
        """

    def forward(self, tokens: Tokens, last: int) -> torch.Tensor:
        """float32 [last, vocab]: the scores after each of the final `last` positions of `tokens`.

        1 <= last <= len(tokens).
        """


class Runner(LanguageModel, Protocol):
    """A loaded `LanguageModel`.

    `can_verify` is False if the model cannot roll back a rejected token. Then nothing may be drafted. `context_length`
    is in tokens, None for a model without a limit.
    """

    @property
    def can_verify(self) -> bool: ...

    @property
    def context_length(self) -> int | None: ...
