"""A drafter that copies what followed the last tokens before, in this context or in earlier answers."""

from specgen.core.tokens import Tokens
from specgen.engine.drafters.answer_index import AnswerIndex
from specgen.engine.drafters.interface import DraftPlan, Proposal
from specgen.engine.drafters.match import BOUND, Match, Place, agreed, length_of_match

# Lengths of the indexed n-grams, in tokens. A single token matches almost everywhere and predicts almost nothing.
_LONGEST = 5
_SHORTEST = 2
# Number of the latest occurrences of the longest n-gram that are compared.
_PLACES = 16
# Least length of a continuation, in tokens. It measures the acceptance of matches that propose nothing.
_WATCHED = 8


class LookupDrafter:
    """Prompt lookup (Saxena 2023) with the votes of suffix decoding (Oliaro et al. 2024).

    It proposes what most occurrences of the last tokens agree on. The index maps the hash of every n-gram to the
    position after its latest occurrence. It also maps every position to the previous one with the same longest n-gram.
    So a token adds a fixed number of entries, and a proposal takes a fixed number of lookups and comparisons.

    `earlier` has the answers before this one. The plan decides between their continuation and that of the context.
    """

    def __init__(self, earlier: AnswerIndex | None = None) -> None:
        self._earlier = earlier
        self._indexed = Tokens()
        self._clear()

    def propose(self, context: Tokens, plan: DraftPlan, *, beside_model: bool = False) -> Proposal:
        """See Drafter. With `beside_model` the plan may leave the round to a draft model."""
        self._index(context)
        most = max(plan.limit, _WATCHED)
        matches = [match for match in (self._match(most, plan), self._earlier_match(most, plan)) if match]
        if not matches:
            return Proposal()
        decided = [(plan.lookup(match, beside_model=beside_model), match) for match in matches]
        (count, _), best = max(decided, key=lambda each: each[0][1])
        tokens = best.continuation[: max(0, min(plan.limit, count))]
        return Proposal(tokens, (best.source,) * len(tokens), matches=tuple(matches))

    def _match(self, most: int, plan: DraftPlan) -> Match | None:
        places = self._places()
        if not places:
            return None
        tokens, shares = agreed(self._ids, places, most, plan.end_ids, overlap=True)
        return Match(places[0].length, "lookup", tokens, shares) if tokens else None

    def _earlier_match(self, most: int, plan: DraftPlan) -> Match | None:
        return self._earlier.match(self._ids[-BOUND:], most, plan.end_ids) if self._earlier else None

    def _places(self) -> list[Place]:
        """The latest occurrences of the longest n-gram at the end, or one of a shorter one; the longest match first."""
        for size in range(min(_LONGEST, len(self._ids)), _SHORTEST - 1, -1):
            start = self._after.get(hash(tuple(self._ids[-size:])), 0)
            places: list[Place] = []
            while start and len(places) < (_PLACES if size == _LONGEST else 1):
                length = length_of_match(self._ids, start, self._ids)
                if length >= size:  # else a collision of hashes
                    places.append(Place(start, length))
                start = self._before[start]
            if places:
                return sorted(places, key=lambda place: -place.length)
        return []

    def _clear(self) -> None:
        self._ids: list[int] = []
        self._after: dict[int, int] = {}
        self._before: list[int] = []

    def _index(self, context: Tokens) -> None:
        """Add every n-gram of `context` that has a continuation. The last n-gram is the one that is looked up."""
        shared = context.common_prefix(self._indexed)
        if shared < len(self._ids):
            self._clear()
            shared = 0
        for token in context.ids(shared):
            end = len(self._ids)
            before = 0
            for size in range(_SHORTEST, min(_LONGEST, end) + 1):
                key = hash(tuple(self._ids[-size:]))
                before = self._after.get(key, 0) if size == _LONGEST else 0
                self._after[key] = end
            self._before.append(before)
            self._ids.append(token)
        self._indexed = context
