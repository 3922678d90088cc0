"""Token ids as an append-only log that branches."""

from collections.abc import Iterator, Sequence


class Tokens:
    """A context: the first `end` ids of a shared append-only log, then a short branch.

    An instance never changes. `context + ids` adds a proposal as a branch and costs its length. `context.grow(ids)`
    appends accepted tokens to the shared log. Two contexts of one log compare at most their branches to find their
    common prefix, which a model's cache needs in every call.
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
        """The ids from position `start` on. The cost is proportional to the result."""
        if start >= self._end:
            return list(self._branch[start - self._end :])
        return self._log[start : self._end] + list(self._branch)

    def __add__(self, ids: Sequence[int]) -> "Tokens":
        """This context followed by the proposed `ids`."""
        return Tokens._view(self._log, self._end, (*self._branch, *ids))

    def grow(self, ids: Sequence[int]) -> "Tokens":
        """This context followed by the accepted `ids`.

        Shares the log, unless another context grew it beyond this one. Then it copies the log.
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

    def shares_log(self, other: "Tokens") -> bool:
        """Whether both are contexts of one log, so that comparing them is cheap."""
        return self._log is other._log

    def common_prefix(self, other: "Tokens") -> int:
        """Number of leading ids in common. O(length of a branch) on one log, O(length) across logs."""
        shared = min(self._end, other._end) if self.shares_log(other) else 0
        pairs = zip(self.ids(shared), other.ids(shared), strict=False)
        differing = (offset for offset, (mine, theirs) in enumerate(pairs) if mine != theirs)
        return shared + next(differing, min(len(self), len(other)) - shared)
