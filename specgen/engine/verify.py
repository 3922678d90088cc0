"""The acceptance rule: a drafted token is accepted if sampling picks the same token.

Sampling is a function of the target's logits, the seed and the position (sampling/sampler.py). So the picks are the
tokens of a run without a draft. The first pick that differs replaces the drafted token and ends the round. After a
wholly accepted proposal the next pick is the bonus token. Greedy decoding is the same rule without noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from specgen.core.events import Source
from specgen.engine.drafters.interface import Proposal


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a round: `accepted` drafted tokens, then one token of the target. `tokens` holds all of them."""

    proposal: Proposal
    accepted: int
    tokens: tuple[int, ...]
    sources: tuple[Source, ...]

    def unforced(self) -> "Verdict":
        """The same round without the forced tokens around the guess. Their acceptance does not rate a drafter."""
        sources = self.proposal.sources
        if "forced" not in sources:
            return self
        places = [place for place, source in enumerate(sources) if source != "forced"]
        start, end = (places[0], places[-1] + 1) if places else (len(sources), len(sources))
        proposal = replace(self.proposal, tokens=self.proposal.tokens[start:end], sources=sources[start:end])
        kept = min(max(0, self.accepted - start), end - start)
        part = slice(start, start + kept + 1)
        return Verdict(proposal, kept, self.tokens[part], self.sources[part])


def verify(proposal: Proposal, picks: Sequence[int]) -> Verdict:
    """Accept the longest prefix of `proposal` that equals `picks`.

    `picks` has one id more than the proposal, or ends with the first id that differs.
    """
    drafted = proposal.tokens
    accepted = 0
    while accepted < len(drafted) and drafted[accepted] == picks[accepted]:
        accepted += 1
    last: Source = "bonus" if accepted == len(drafted) else "corrected"
    return Verdict(
        proposal=proposal,
        accepted=accepted,
        tokens=tuple(picks[: accepted + 1]),
        sources=(*proposal.sources[:accepted], last),
    )
