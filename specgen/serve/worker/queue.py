"""Whose turn it is: the callers in turn, each with what it asked first."""

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class HasCaller(Protocol):
    @property
    def caller(self) -> str: ...


T = TypeVar("T", bound=HasCaller)


class FairQueue(Generic[T]):
    """A queue that is fair by caller: who asks for much waits behind who asks for little."""

    def __init__(self) -> None:
        self._callers: OrderedDict[str, deque[T]] = OrderedDict()
        self._last: str | None = None

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._callers.values())

    def __iter__(self) -> Iterator[T]:
        """All that wait, in the order in which their turns will come."""
        queues = [list(queue) for queue in self._callers.values()]
        for turn in range(max(map(len, queues), default=0)):
            yield from (queue[turn] for queue in queues if turn < len(queue))

    def add(self, item: T) -> None:
        self._callers.setdefault(item.caller, deque()).append(item)
        if self._last is not None and self._last in self._callers:
            self._callers.move_to_end(self._last)  # who had the last turn comes after who has just come

    def take(self) -> T:
        """The next one. Its caller comes last from now on."""
        caller, queue = next(iter(self._callers.items()))
        item = queue.popleft()
        self._callers.move_to_end(caller)
        self._last = caller
        if not queue:
            del self._callers[caller]
        return item

    def remove(self, item: T) -> bool:
        """Whether it was waiting."""
        queue = self._callers.get(item.caller, deque())
        if item not in queue:
            return False
        queue.remove(item)
        if not queue:
            del self._callers[item.caller]
        return True
