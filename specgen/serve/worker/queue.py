"""A queue that is fair by caller."""

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class HasCaller(Protocol):
    @property
    def caller(self) -> str: ...


T = TypeVar("T", bound=HasCaller)


class FairQueue(Generic[T]):
    """Callers take turns, each with its oldest item first. The queue has no lock; its owner has one."""

    def __init__(self) -> None:
        self._callers: OrderedDict[str, deque[T]] = OrderedDict()
        self._last: str | None = None

    def __len__(self) -> int:
        return sum(len(items) for items in self._callers.values())

    def __iter__(self) -> Iterator[T]:
        """The waiting items, in the order in which `take` returns them."""
        queues = [list(items) for items in self._callers.values()]
        for turn in range(max(map(len, queues), default=0)):
            yield from (items[turn] for items in queues if turn < len(items))

    def add(self, item: T) -> None:
        self._callers.setdefault(item.caller, deque()).append(item)
        if self._last is not None and self._last in self._callers:
            self._callers.move_to_end(self._last)  # a new caller goes before the one that had the last turn

    def take(self) -> T:
        """Remove and return the next item. Its caller moves to the end."""
        caller, items = next(iter(self._callers.items()))
        item = items.popleft()
        self._callers.move_to_end(caller)
        self._last = caller
        if not items:
            del self._callers[caller]
        return item

    def remove(self, item: T) -> bool:
        """Remove `item`. Returns whether it was waiting."""
        items = self._callers.get(item.caller, deque())
        if item not in items:
            return False
        items.remove(item)
        if not items:
            del self._callers[item.caller]
        return True
