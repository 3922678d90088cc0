"""An index of earlier answers by n-grams of their tokens, in bounded memory."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from specgen.engine.drafters.match import Match, Place, agreed, length_of_match

MOST_TOKENS = 1 << 18
"""Tokens of answers that are kept, about 1 MB of English. They take 5 MB."""
# Length of the indexed n-grams, in tokens. Shorter ones occur everywhere in other texts.
_SIZE = 4
# Number of the latest occurrences of an n-gram that vote.
_PLACES = 16
# The recent part is sorted at every new answer, so it is merged into the other one beyond this many tokens.
_RECENT = 1 << 13
_BETWEEN = -1
_FACTOR = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_MULTIPLIERS = np.array([pow(_FACTOR, place, 1 << 64) for place in range(_SIZE)], dtype=np.uint64)


class _Part:
    """Tokens of answers with an id of -1 between, and the positions after their n-grams, sorted by hash."""

    def __init__(self, ids: npt.NDArray[np.int32]) -> None:
        self.array = ids
        self.ids = memoryview(ids.tobytes()).cast("i")  # reads one id faster than the array
        count = max(0, len(ids) - _SIZE)
        hashes = np.zeros(count, dtype=np.uint64)
        for place, multiplier in enumerate(_MULTIPLIERS):
            hashes += ids[place : place + count].astype(np.uint64) * multiplier
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        self._after = (order + _SIZE).astype(np.int32)

    def places(self, key: np.uint64, tail: Sequence[int]) -> list[Place]:
        """The latest occurrences of the n-gram with the hash `key` that ends `tail`, the longest matches first."""
        end = int(np.searchsorted(self._hashes, key, side="right"))
        start = int(np.searchsorted(self._hashes[:end], key, side="left"))
        found = []
        for after in self._after[max(start, end - _PLACES) : end][::-1].tolist():
            length = length_of_match(self.ids, after, tail)
            if length >= _SIZE:  # else a collision of hashes
                found.append(Place(after, length))
        return sorted(found, key=lambda place: -place.length)


class AnswerIndex:
    """The latest answers, at most `most` tokens of them. Every method is fast: an index of 256k tokens takes 30 ms.

    `enabled` is false while an answer must not be drafted from earlier ones.
    """

    def __init__(self, most: int = MOST_TOKENS) -> None:
        self.enabled = True
        self._most = most
        self.clear()

    def __len__(self) -> int:
        return sum(len(part.ids) for part in self._parts)

    def clear(self) -> None:
        """Forget every answer."""
        self._parts = [_Part(np.zeros(0, dtype=np.int32)) for _ in range(2)]

    def add(self, answers: Iterable[npt.NDArray[np.int32]]) -> None:
        """Add the tokens of `answers`, the earliest first, and drop the oldest tokens beyond the bound."""
        older, recent = (part.array for part in self._parts)
        separator = np.array([_BETWEEN], dtype=np.int32)
        recent = np.concatenate([recent, *(each for answer in answers for each in (answer, separator))])
        if len(recent) > _RECENT:
            merged = np.concatenate([older, recent])[-self._most :]
            self._parts = [_Part(merged), _Part(recent[:0])]
        else:
            self._parts[1] = _Part(recent)

    def match(self, tail: Sequence[int], most: int, end_ids: frozenset[int]) -> Match | None:
        """What followed the end of `tail` in earlier answers, at most `most` tokens; None without a match."""
        if len(tail) < _SIZE or not self.enabled:
            return None
        key = 0
        for place, token in enumerate(tail[-_SIZE:]):
            key += int(_MULTIPLIERS[place]) * token
        hashed = np.uint64(key & _MASK)
        best: Match | None = None
        for part in reversed(self._parts):
            places = part.places(hashed, tail) if len(part.ids) else []
            if places and (best is None or places[0].length > best.length):
                tokens, shares = agreed(part.ids, places, most, end_ids, overlap=False)
                if tokens:
                    best = Match(places[0].length, "history", tokens, shares)
        return best
