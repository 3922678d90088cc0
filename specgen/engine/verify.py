"""The one rule that verifies everything: a drafted token is accepted while it is the one that sampling picks.

Sampling is a function of the target's logits, the seed and the position (see sampling.py), so the picks are the
tokens of a run without a draft. The first pick that differs replaces the drafted token and ends the round; after a
wholly accepted proposal the next pick comes free (the bonus token). Greedy decoding is the same rule without noise.
"""

from collections.abc import Sequence

from specgen.core.events import Source
from specgen.engine.drafters.interface import Proposal, Verdict


def verify(proposal: Proposal, picks: Sequence[int]) -> Verdict:
    """Accept the longest prefix of `proposal` that equals `picks`.

    `picks` has one id more than the proposal, or ends with the first that differs.
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
