"""What the decoding loop asks of a drafter."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from specgen.core.events import Source
from specgen.core.tokens import Tokens
from specgen.engine.sampling.sampler import Sampler


@dataclass(frozen=True, slots=True)
class Plan:
    """What a drafter may do in this round: propose at most `limit` tokens, picked the way the target picks.

    Nothing is worth proposing after one of `end_ids`. The methods answer what a drafter finds out as it drafts; here
    as a fixed draft length does, in controller.py by what pays.
    """

    limit: int
    sampler: Sampler
    end_ids: frozenset[int] = frozenset()

    def lookup(self, match: int) -> int:  # noqa: ARG002
        """How many tokens to propose after a match of `match` tokens; 0 leaves the round to another drafter."""
        return max(0, self.limit)

    def draft(self, unread: int, recent: int) -> tuple[int, int]:  # noqa: ARG002
        """How many tokens to draft, and how many to read for that, for a model that has not read all of the context.

        `unread` tokens are missing to the whole context, `recent` to the part that the model is reading. It reads the
        whole where it may read that many; else it goes on with the part, unless it may not, or may begin a longer one:
        the last tokens, as many as it may read.
        """
        return max(0, self.limit), unread

    def goes_on(self, confidences: Sequence[float]) -> bool:  # noqa: ARG002
        """Whether one more token is worth drafting after those with these probabilities under the draft's softmax."""
        return True


@dataclass(frozen=True, slots=True)
class Proposal:
    """Tokens to verify, and where each came from.

    A model adds its `confidences`, and how many tokens it `read` before the first. A lookup adds the length of its
    `match` and the `continuation` it knows, also where it proposes less of it or leaves the round to the model.
    """

    tokens: tuple[int, ...] = ()
    sources: tuple[Source, ...] = ()
    confidences: tuple[float, ...] = ()
    read: int = 0
    match: int = 0
    continuation: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the target made of a proposal: `accepted` of its tokens, then one token of the target's own."""

    proposal: Proposal
    accepted: int
    tokens: tuple[int, ...]
    sources: tuple[Source, ...]

    def unforced(self) -> "Verdict":
        """The same round without the forced tokens around the guess: they say nothing about a drafter."""
        sources = self.proposal.sources
        if "forced" not in sources:
            return self
        places = [place for place, source in enumerate(sources) if source != "forced"]
        start, end = (places[0], places[-1] + 1) if places else (len(sources), len(sources))
        proposal = replace(self.proposal, tokens=self.proposal.tokens[start:end], sources=sources[start:end])
        kept = min(max(0, self.accepted - start), end - start)
        part = slice(start, start + kept + 1)
        return Verdict(proposal, kept, self.tokens[part], self.sources[part])


class Drafter(Protocol):
    """Guesses what the target will say. A wrong guess costs time, never the text."""

    def propose(self, context: Tokens, plan: Plan) -> Proposal:
        """At most `plan.limit` tokens that may follow `context`; an empty proposal is always right."""

    def observe(self, verdict: Verdict) -> None:
        """Learn from what the target made of the last proposal."""
