"""The interface of a model for the decoding loop: token ids in, logits out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch

from specgen.core.tokens import Tokens

UNNORMED = -1
"""The number of the state after the last layer, before the final norm. See `Runner.tap`."""
StateListener: TypeAlias = Callable[[Tokens, int, Sequence[torch.Tensor]], None]
"""Called as (tokens, start, states) when the rows of `tokens` from position `start` on have been fed.

`states` has one tensor [rows, hidden_size] for each tapped layer, valid during the call only. Nobody knows yet which of
the tokens are accepted. A row may come twice.
"""


@dataclass(frozen=True, slots=True)
class SharedParts:
    """The parts of a target that a head borrows.

    embed: int64 ids [rows] -> [rows, hidden_size]. norm: the final norm of such states. score: the output head, normed
    states -> float32 [rows, vocab]. layers: the number of layers. device, dtype: of states.
    """

    embed: Callable[[torch.Tensor], torch.Tensor]
    norm: Callable[[torch.Tensor], torch.Tensor]
    score: Callable[[torch.Tensor], torch.Tensor]
    hidden_size: int
    layers: int
    device: torch.device
    dtype: torch.dtype


ForwardCall: TypeAlias = tuple[Tokens, int]
"""The arguments of `LanguageModel.forward`: a whole context, and the number of its final positions to score."""


class LanguageModel(Protocol):
    """A causal language model whose cache is invisible.

    Every call passes the whole context. The model keeps its cache for the longest common prefix with an earlier call,
    rolls back the rest, and feeds the new tokens. An exception drops the caches, so the next call is right.
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

    def forward_many(self, calls: Sequence[ForwardCall]) -> list[torch.Tensor]:
        """The same for several different contexts at once, each with a cache of its own.

        Row by row the same bits as `forward` alone. A `last` of 0 reads tokens and scores none. A model that can joins
        all rows in one pass, so that the weights are read once.
        """

    def hold(self, count: int) -> int:
        """Keep the caches of the `count` contexts used last from now on, at first 1. Returns how many are kept.

        A model that keeps only one returns 1: several contexts in turn would be read anew each time.
        """

    def cached(self, tokens: Tokens) -> int:
        """The number of leading `tokens` that the next call need not feed again."""


class Runner(LanguageModel, Protocol):
    """A loaded `LanguageModel`.

    `can_verify` is False if the model cannot roll back a rejected token. Then nothing may be drafted. `context_length`
    is in tokens, None for a model without a limit.
    """

    @property
    def can_verify(self) -> bool: ...

    @property
    def context_length(self) -> int | None: ...

    @property
    def shared(self) -> SharedParts:
        """The parts that a head may borrow."""

    def tap(self, layers: Sequence[int], listener: StateListener | None) -> None:
        """From now on tell `listener` the states of `layers` for every row that is fed, prompts included.

        Layers are numbered as transformers' `hidden_states`: 0 is the embedding, k the input of layer k, and the number
        of layers is the state after the final norm. UNNORMED is the one before that norm. A model has one listener;
        None ends the tap. Raises IndexError for a layer that the model does not have.
        """
