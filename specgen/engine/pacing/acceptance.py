"""What drafting brings: acceptance by position, by confidence, by the length of a match; tokens per second."""

from bisect import bisect
from collections.abc import Sequence

# Texts change: what was seen this many trials ago counts a third.
_MEMORY = 48
# What a confidence means is a trait of the draft more than of the text; and a long draft stands on many such rates.
_LASTING = 256
# A belief held before anything is measured weighs as much as so many trials.
_WEIGHT = 3.0
# One position is mostly like the next, and a late one is seldom tried: to learn otherwise takes more.
_NEIGHBOUR = 8.0
# The confidence says most of what a position could: a factor beside it takes more still, as the chance of a long draft
# is the product of many.
_FACTOR = 32.0
# What is believed of a draft's first token: that it is a draft worth its name, but no more.
_BELIEF = 0.65
# Confidences between two of these are taken together; near 1 they differ most in what they promise.
_EDGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_LIKELIEST = 0.999


class Rate:
    """A share that is forgotten as it grows old."""

    __slots__ = ("_hits", "_memory", "_trials")

    def __init__(self, memory: float = _MEMORY) -> None:
        self._memory = memory
        self._hits = self._trials = 0.0

    def add(self, hit: float, expected: float = 1.0) -> None:
        """One trial more, of which `expected` hits were to be expected; of none, only time passes."""
        self._hits += hit - self._hits / self._memory
        self._trials += expected - self._trials / self._memory

    def value(self, belief: float, weight: float = _WEIGHT) -> float:
        return (self._hits + weight * belief) / (self._trials + weight)


class DraftAcceptance:
    """The chance of the model's drafted tokens.

    A confidence means what it has meant in this text; what position adds to that is a factor beside it.
    """

    def __init__(self) -> None:
        self._positions: list[Rate] = []
        self._factors: list[Rate] = []
        self._buckets = [Rate(_LASTING) for _ in range(len(_EDGES) + 1)]

    def add(self, confidences: Sequence[float], accepted: int) -> None:
        """A proposal with these confidences was accepted as far as `accepted`: what came after that was not tried."""
        tried = confidences[: accepted + 1]
        for position, confidence in enumerate(tried):
            hit = float(position < accepted)
            if position == len(self._positions):
                self._positions.append(Rate())
                self._factors.append(Rate())
            self._factors[position].add(hit, self._by_confidence(confidence))
            self._positions[position].add(hit)
            self._buckets[bisect(_EDGES, confidence)].add(hit)
        for rate in (*self._positions[len(tried) :], *self._factors[len(tried) :]):
            rate.add(0.0, 0.0)

    def forget(self) -> None:
        """The text has changed: what a confidence means may stand, what a position meant does not."""
        self._positions = []
        self._factors = []

    def at(self, position: int) -> float:
        """The chance of a token not drafted yet, once all before it are accepted; positions count from 0."""
        return self.upto(position + 1)[-1]

    def upto(self, length: int) -> list[float]:
        """The chances of the first `length` positions: what is not known of one is as with the one before."""
        chance = _BELIEF
        chances: list[float] = []
        for position in range(length):
            if position < len(self._positions):
                chance = self._positions[position].value(chance, _NEIGHBOUR if position else _WEIGHT)
            chances.append(chance)
        return chances

    def survival(self, confidences: Sequence[float]) -> float:
        """The chance that all of these are accepted."""
        chance = 1.0
        for position, confidence in enumerate(confidences):
            factor = self._factors[position].value(1.0, _FACTOR) if position < len(self._factors) else 1.0
            chance *= min(_LIKELIEST, self._by_confidence(confidence) * factor)
        return chance

    def _by_confidence(self, confidence: float) -> float:
        return self._buckets[bisect(_EDGES, confidence)].value(confidence)


class LookupAcceptance:
    """The chance of a looked-up token by the length of the match before it; an accepted token lengthens the match."""

    def __init__(self) -> None:
        self._lengths: dict[int, Rate] = {}

    def add(self, match: int, continuation: Sequence[int], said: Sequence[int]) -> None:
        """After a match of `match` tokens `continuation` was foreseen, and the target said `said`."""
        for offset, (foreseen, token) in enumerate(zip(continuation, said, strict=False)):
            self._lengths.setdefault(_length_class(match + offset), Rate()).add(float(foreseen == token))
            if foreseen != token:
                break

    def at(self, match: int) -> float:
        # The longer a match, the rarer its end: one in as many tokens, until measured.
        belief = 1.0 - 1.0 / max(2, match)
        rate = self._lengths.get(_length_class(match))
        return min(_LIKELIEST, rate.value(belief)) if rate else belief


def _length_class(match: int) -> int:
    """Short matches each by themselves, long ones by their magnitude."""
    return match if match < 5 else 2 + match.bit_length()


class Yield:
    """Tokens per second of some rounds, their time taken from the costs; old rounds are forgotten."""

    def __init__(self) -> None:
        self.rounds = 0
        self._weight = self._tokens = self._seconds = 0.0

    def add(self, tokens: float, seconds: float) -> None:
        self.rounds += 1
        self._weight += 1.0 - self._weight / _MEMORY
        self._tokens += tokens - self._tokens / _MEMORY
        self._seconds += seconds - self._seconds / _MEMORY

    def rate(self, plain: float) -> float:
        """As if a few plain rounds, of one token and `plain` seconds each, had been among them."""
        return (self._tokens + _WEIGHT) / (self._seconds + _WEIGHT * plain)

    def gain(self, rate: float, plain: float) -> float:
        """Tokens that a round brings beyond a plain one, less those that `rate` brings in the time it takes longer."""
        return (self._tokens - self._weight - rate * (self._seconds - self._weight * plain)) / (self._weight + _WEIGHT)
