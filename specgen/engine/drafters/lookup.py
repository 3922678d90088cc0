"""Drafting without a model: what followed the last words the last time they stood in the prompt or the output."""

from specgen.core.events import Source
from specgen.core.tokens import Tokens
from specgen.engine.drafters.interface import Plan, Proposal, Verdict

# N-grams of these lengths are indexed. A single token matches nearly everywhere and says next to nothing.
_LONGEST = 5
_SHORTEST = 2
# The longest match says most about what follows; beyond this length it makes no difference.
_BOUND = 64
# How many places of the longest n-gram are compared.
_PLACES = 16
# How much of a continuation is watched, to learn what a match is worth, where none of it is proposed.
_WATCHED = 8


class LookupDrafter:
    """Prompt lookup (Saxena 2023): proposes the continuation of the longest n-gram seen before, the latest of equals.

    The index maps the hash of every n-gram of the context to the position after its latest occurrence, and every
    position to the one before it with the same longest n-gram: a token costs a fixed number of entries, a proposal a
    fixed number of look-ups and comparisons.
    """

    def __init__(self) -> None:
        self._indexed = Tokens()
        self._clear()

    def propose(self, context: Tokens, plan: Plan) -> Proposal:
        self._index(context)
        start, match = self._longest_match()
        if not match:
            return Proposal()
        count = min(plan.limit, plan.lookup(match))
        known = len(self._ids)
        continuation: list[int] = []
        for position in range(start, start + max(count, _WATCHED)):
            # A match that reaches the end goes on with what it has just proposed: a repetition repeats.
            token = self._ids[position] if position < known else continuation[position - known]
            continuation.append(token)
            if token in plan.end_ids:
                break
        tokens = tuple(continuation[: max(0, count)])
        sources: tuple[Source, ...] = tuple("lookup" for _ in tokens)
        return Proposal(tokens, sources, match=match, continuation=tuple(continuation))

    def observe(self, verdict: Verdict) -> None:
        pass

    def _longest_match(self) -> tuple[int, int]:
        """The position after the match with the end of the context, and its length; length 0 where there is none."""
        for size in range(min(_LONGEST, len(self._ids)), _SHORTEST - 1, -1):
            start = self._after.get(hash(tuple(self._ids[-size:])), 0)
            best = start, self._length(start)
            if best[1] < size:  # none, or another n-gram of the same hash
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
        """How many tokens before `start` are those that end the context."""
        length, ids, end = 0, self._ids, len(self._ids)
        while length < min(start, _BOUND) and ids[start - length - 1] == ids[end - length - 1]:
            length += 1
        return length

    def _clear(self) -> None:
        self._ids: list[int] = []
        self._after: dict[int, int] = {}
        self._before: list[int] = []

    def _index(self, context: Tokens) -> None:
        """Enter every n-gram of `context` that something follows: the one that ends it is what is looked up."""
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
