"""Token ids as an append-only log that branches."""

from collections.abc import Iterator, Sequence


class Tokens:
    """A context: the first `end` ids of a log that only ever grows, then a short branch of its own.

    Immutable to whoever holds one. A proposal is a branch (`context + ids`) and costs its own length; accepting
    tokens grows the shared log (`context.grow(ids)`). So two contexts of one log know their common prefix without
    comparing more than a branch: what a model's cache asks in every call.
    """

    __slots__ = ("_branch", "_end", "_log")

    def __init__(self, ids: Sequence[int] = ()) -> None:
        self._log = list(ids)
        self._end = len(self._log)
        self._branch: tuple[int, ...] = ()

    @classmethod
    def _view(cls, log: list[int], end: int, branch: tuple[int, ...]) -> "Tokens":
        view = cls.__new__(cls)
        view._log, view._end, view._branch = log, end, branch
        return view

    def __len__(self) -> int:
        return self._end + len(self._branch)

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids())

    def ids(self, start: int = 0) -> list[int]:
        """The ids from position `start` on. Costs what it returns."""
        if start >= self._end:
            return list(self._branch[start - self._end :])
        return self._log[start : self._end] + list(self._branch)

    def __add__(self, ids: Sequence[int]) -> "Tokens":
        """This context with `ids` tried after it."""
        return Tokens._view(self._log, self._end, (*self._branch, *ids))

    def grow(self, ids: Sequence[int]) -> "Tokens":
        """This context with `ids` settled after it.

        The log is shared as long as nobody else grew it from here; otherwise, after a roll-back, it is copied.
        """
        log = self._log
        if self._branch or self._end != len(log):
            log = self.ids()
        log.extend(ids)
        return Tokens._view(log, len(log), ())

    def prefix(self, length: int) -> "Tokens":
        """The first `length` ids."""
        if length >= len(self):
            return self
        if length <= self._end:
            return Tokens._view(self._log, length, ())
        return Tokens._view(self._log, self._end, self._branch[: length - self._end])

    def common_prefix(self, other: "Tokens") -> int:
        """How many leading ids the two share: O(length of a branch) on one log, a comparison across logs."""
        shared = min(self._end, other._end) if self._log is other._log else 0
        pairs = zip(self.ids(shared), other.ids(shared), strict=False)
        differing = (offset for offset, (mine, theirs) in enumerate(pairs) if mine != theirs)
        return shared + next(differing, min(len(self), len(other)) - shared)
