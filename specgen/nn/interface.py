"""What the decoding loop asks of a model: token ids in, logits out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from specgen.core.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Rows:
    """What a forward pass scored.

    `logits`: float32 [last, vocab_size]. `hidden`: layer -> [last, hidden_size], for the layers asked for.
    """

    logits: torch.Tensor
    hidden: Mapping[int, torch.Tensor] = field(default_factory=dict)


class LanguageModel(Protocol):
    """A causal language model whose cache is invisible.

    Every call passes the whole context. The model keeps what it has computed for the longest prefix that the
    context shares with the last call, rolls back what differs, and feeds the rest. After an exception nothing is
    kept, so the next call is right whatever happened.
    """

    @property
    def vocab_size(self) -> int:
        """The width of a row of logits. Ids from here on cannot be fed."""

    def forward(self, tokens: Tokens, last: int, want: Sequence[int] = ()) -> Rows:
        """Score what follows each of the final `last` positions of `tokens`; 1 <= last <= len(tokens).

        `want` names layers whose hidden states are returned for the same rows.
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
