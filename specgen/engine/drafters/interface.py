"""The interface between the decoding loop and a drafter: plan, proposal, drafter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from specgen.core.events import Source
from specgen.core.tokens import Tokens
from specgen.engine.drafters.match import Match
from specgen.engine.sampling.sampler import Sampler


@dataclass(frozen=True, slots=True)
class DraftPlan:
    """The bounds of one proposal: at most `limit` tokens, picked by `sampler`, none after one of `end_ids`.

    A drafter calls the methods while it drafts. This class answers for a fixed draft length; the subclass in
    pacing/controller.py answers by measured payoff.
    """

    limit: int
    sampler: Sampler
    end_ids: frozenset[int] = frozenset()

    def lookup(self, match: Match, *, beside_model: bool) -> tuple[int, float]:  # noqa: ARG002
        """(k, g): how many tokens of `match` to propose, and what this gains. The match with most gain is proposed.

        0 leaves the round to the draft model, if there is one `beside_model`.
        """
        return max(0, self.limit), match.length

    def draft(self, unread: int, recent: int) -> tuple[int, int]:  # noqa: ARG002
        """(k, n): how many tokens a model should draft, and how many it may read first.

        unread: tokens of the whole context that the model has not read. recent: the same for its partial view.
        n >= unread: read everything. Otherwise continue the partial view if n >= recent. Otherwise start a new view of
        the last n tokens.
        """
        return max(0, self.limit), unread

    def goes_on(self, confidences: Sequence[float]) -> bool:  # noqa: ARG002
        """Whether to draft one more token after tokens with these probabilities under the draft's softmax."""
        return True


@dataclass(frozen=True, slots=True)
class Proposal:
    """A chain of tokens to verify, with the source of each. May be empty.

    confidences: one probability for each token that a model drafted. read: tokens that the model read before the first.
    matches: what lookup found, proposed or not.
    """

    tokens: tuple[int, ...] = ()
    sources: tuple[Source, ...] = ()
    confidences: tuple[float, ...] = ()
    read: int = 0
    matches: tuple[Match, ...] = ()


class Drafter(Protocol):
    """Proposes tokens that the target may generate. A wrong proposal costs time and never changes the text."""

    def propose(self, context: Tokens, plan: DraftPlan) -> Proposal:
        """At most `plan.limit` tokens that may follow `context`. An empty proposal is always valid."""


class NoDrafter:
    """Proposes nothing: the target decodes one token a round."""

    def propose(self, context: Tokens, plan: DraftPlan) -> Proposal:  # noqa: ARG002
        return Proposal()
