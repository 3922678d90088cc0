"""Drafting without a model: what followed the last words the last time they stood in the prompt or the output."""

from specgen.engine.interfaces import Plan, Proposal, Verdict
from specgen.engine.tokens import Tokens
from specgen.events import Source

# The longest match says most about what follows. A single token matches nearly everywhere and says next to nothing.
_LONGEST = 5
_SHORTEST = 2


class LookupDrafter:
    """Prompt lookup (Saxena 2023): proposes the continuation of the longest n-gram seen before, the latest of equals.

    The index maps every n-gram of the context to the position after its latest occurrence; a token costs a fixed
    number of dictionary entries, a proposal a fixed number of look-ups.
    """

    def __init__(self) -> None:
        self._indexed = Tokens()
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}

    def propose(self, context: Tokens, plan: Plan) -> Proposal:
        self._index(context)
        start = self._continuation()
        if start is None:
            return Proposal()
        known = len(self._ids)
        drafted: list[int] = []
        for position in range(start, start + plan.limit):
            # A match that reaches the end goes on with what it has just proposed: a repetition repeats.
            token = self._ids[position] if position < known else drafted[position - known]
            drafted.append(token)
            if token in plan.end_ids:
                break
        sources: tuple[Source, ...] = tuple("lookup" for _ in drafted)
        return Proposal(tuple(drafted), sources)

    def observe(self, verdict: Verdict) -> None:
        pass

    def _continuation(self) -> int | None:
        """The position after the latest earlier occurrence of the longest n-gram that ends the context."""
        for size in range(min(_LONGEST, len(self._ids)), _SHORTEST - 1, -1):
            start = self._after.get(tuple(self._ids[-size:]))
            if start is not None:
                return start
        return None

    def _index(self, context: Tokens) -> None:
        """Enter every n-gram of `context` that something follows: the one that ends it is what is looked up."""
        shared = context.common_prefix(self._indexed)
        if shared < len(self._ids):
            self._ids, self._after, shared = [], {}, 0
        for token in context.ids(shared):
            end = len(self._ids)
            for size in range(_SHORTEST, min(_LONGEST, end) + 1):
                self._after[tuple(self._ids[-size:])] = end
            self._ids.append(token)
        self._indexed = context
