"""A drafter that copies the continuation of an earlier occurrence of the last n-gram."""

from specgen.core.events import Source
from specgen.core.tokens import Tokens
from specgen.engine.drafters.interface import DraftPlan, Proposal

# Lengths of the indexed n-grams, in tokens. A single token matches almost everywhere and predicts almost nothing.
_LONGEST = 5
_SHORTEST = 2
# Longest match that is measured, in tokens. Longer matches predict no better.
_BOUND = 64
# Number of occurrences of the longest n-gram that are compared.
_PLACES = 16
# Least length of Proposal.continuation, in tokens. It measures the acceptance of matches that propose nothing.
_WATCHED = 8


class LookupDrafter:
    """Prompt lookup (Saxena 2023): proposes the continuation of the longest match, the latest among equals.

    The index maps the hash of every n-gram to the position after its latest occurrence. It also maps every position to
    the previous one with the same longest n-gram. So a token adds a fixed number of entries, and a proposal takes a
    fixed number of lookups and comparisons.
    """

    def __init__(self) -> None:
        self._indexed = Tokens()
        self._clear()

    def propose(self, context: Tokens, plan: DraftPlan) -> Proposal:
        self._index(context)
        start, match = self._longest_match()
        if not match:
            return Proposal()
        count = min(plan.limit, plan.lookup(match))
        known = len(self._ids)
        continuation: list[int] = []
        for position in range(start, start + max(count, _WATCHED)):
            # A match that overlaps the end of the context continues with its own proposal.
            token = self._ids[position] if position < known else continuation[position - known]
            continuation.append(token)
            if token in plan.end_ids:
                break
        tokens = tuple(continuation[: max(0, count)])
        sources: tuple[Source, ...] = tuple("lookup" for _ in tokens)
        return Proposal(tokens, sources, match=match, continuation=tuple(continuation))

    def _longest_match(self) -> tuple[int, int]:
        """(position, length): the position after the longest match and its length in tokens; (0, 0) without one."""
        for size in range(min(_LONGEST, len(self._ids)), _SHORTEST - 1, -1):
            start = self._after.get(hash(tuple(self._ids[-size:])), 0)
            best = start, self._length(start)
            if best[1] < size:  # no occurrence, or a hash collision
                continue
            for _ in range(_PLACES if size == _LONGEST else 0):
                start = self._before[start]
                length = self._length(start)
                if length > best[1]:
                    best = start, length
                if not start or best[1] == _BOUND:
                    break
            return best
        return 0, 0

    def _length(self, start: int) -> int:
        """Number of tokens before `start` that equal the tokens at the end of the context, at most _BOUND."""
        length, ids, end = 0, self._ids, len(self._ids)
        while length < min(start, _BOUND) and ids[start - length - 1] == ids[end - length - 1]:
            length += 1
        return length

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
