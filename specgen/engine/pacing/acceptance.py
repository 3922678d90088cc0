"""Estimates of acceptance by position, confidence and match length, and of throughput."""

from bisect import bisect
from collections.abc import Sequence

from specgen.engine.drafters.match import Match

# The constants below were set by hand; tests/engine/pacing/ bounds what they cost on simulated texts.
# Forgetting horizon in trials: an observation this old weighs 1/e.
_MEMORY = 48
# The same for the meaning of a confidence: it depends on the draft more than on the text.
_CONFIDENCE_MEMORY = 256
# Weight of a prior, in trials.
_WEIGHT = 3.0
# Weight of the previous position as the prior of a position, in trials. Late positions are rarely tried.
_NEIGHBOUR = 8.0
# Weight of the prior factor 1 of a position beside the confidence, in expected hits. It is high because the survival of
# a long draft multiplies many factors.
_FACTOR = 32.0
# Prior acceptance probability of the first drafted token.
_PRIOR = 0.65
# Edges of the confidence buckets. They are dense near 1, where acceptance differs most.
_EDGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
# Upper limit of an estimated acceptance probability.
_LIKELIEST = 0.999


class DecayingRate:
    """A ratio of hits to trials that forgets old trials exponentially."""

    __slots__ = ("_hits", "_memory", "_trials")

    def __init__(self, memory: float = _MEMORY) -> None:
        self._memory = memory
        self._hits = self._trials = 0.0

    def add(self, hit: float, expected: float = 1.0) -> None:
        """Count a trial with `expected` hits. With `expected` 0 only the decay applies."""
        self._hits += hit - self._hits / self._memory
        self._trials += expected - self._trials / self._memory

    def value(self, prior: float, weight: float = _WEIGHT) -> float:
        """The ratio, with `weight` trials at the `prior` ratio added."""
        return (self._hits + weight * prior) / (self._trials + weight)


class DraftAcceptance:
    """Acceptance probabilities of the draft model's tokens.

    The probability is the measured meaning of a confidence times a factor of the position.
    """

    def __init__(self) -> None:
        self._positions: list[DecayingRate] = []
        self._factors: list[DecayingRate] = []
        self._buckets = [DecayingRate(_CONFIDENCE_MEMORY) for _ in range(len(_EDGES) + 1)]

    def add(self, confidences: Sequence[float], accepted: int) -> None:
        """Count a proposal of which `accepted` tokens were accepted. Tokens after the first rejection do not count."""
        tried = confidences[: accepted + 1]
        for position, confidence in enumerate(tried):
            hit = float(position < accepted)
            if position == len(self._positions):
                self._positions.append(DecayingRate())
                self._factors.append(DecayingRate())
            self._factors[position].add(hit, self._by_confidence(confidence))
            self._positions[position].add(hit)
            self._buckets[bisect(_EDGES, confidence)].add(hit)
        for rate in (*self._positions[len(tried) :], *self._factors[len(tried) :]):
            rate.add(0.0, 0.0)

    def forget(self) -> None:
        """Drop what depends on the text: the positions. The meaning of confidences stays."""
        self._positions = []
        self._factors = []

    def at(self, position: int) -> float:
        """Acceptance probability of a token not drafted yet, if all before it are accepted. Positions start at 0."""
        return self.first(position + 1)[-1]

    def first(self, length: int) -> list[float]:
        """Acceptance probabilities of the first `length` positions. An unknown position repeats the one before it."""
        chance = _PRIOR
        chances: list[float] = []
        for position in range(length):
            if position < len(self._positions):
                chance = self._positions[position].value(chance, _NEIGHBOUR if position else _WEIGHT)
            chances.append(chance)
        return chances

    def survival(self, confidences: Sequence[float]) -> float:
        """The probability that all tokens with these `confidences` are accepted."""
        chance = 1.0
        for position, confidence in enumerate(confidences):
            factor = self._factors[position].value(1.0, _FACTOR) if position < len(self._factors) else 1.0
            chance *= min(_LIKELIEST, self._by_confidence(confidence) * factor)
        return chance

    def _by_confidence(self, confidence: float) -> float:
        return self._buckets[bisect(_EDGES, confidence)].value(confidence)


class LookupAcceptance:
    """Acceptance probability of a looked-up token by its source, the length of its match, and its share.

    Each accepted token extends the match. A share counts as a probability, times a measured factor of source and
    length.
    """

    def __init__(self) -> None:
        self._rates: dict[tuple[str, int], DecayingRate] = {}

    def add(self, match: Match, tokens: Sequence[int]) -> None:
        """Count `match` after the target generated `tokens`."""
        for offset, (foreseen, token) in enumerate(zip(match.continuation, tokens, strict=False)):
            rate = self._rates.setdefault(_class(match, offset), DecayingRate())
            rate.add(float(foreseen == token), match.shares[offset])
            if foreseen != token:
                break

    def at(self, match: Match, offset: int) -> float:
        """Acceptance probability of token `offset` of the continuation of `match`, if all before it are accepted."""
        # Prior: a match of n tokens ends with probability 2/n. It may be low, because matches are watched anyway.
        prior = 1.0 - 2.0 / max(2.5, match.length + offset)
        rate = self._rates.get(_class(match, offset))
        return min(_LIKELIEST, match.shares[offset] * (rate.value(prior) if rate else prior))


def _class(match: Match, offset: int) -> tuple[str, int]:
    """The source, with one class for each length below 5, then one for each power of two."""
    length = match.length + offset
    return match.source, length if length < 5 else 2 + length.bit_length()


class Throughput:
    """Tokens per second of recent rounds, which forgets old rounds exponentially."""

    def __init__(self) -> None:
        self.rounds = 0
        self._weight = self._tokens = self._seconds = 0.0

    def add(self, tokens: float, seconds: float) -> None:
        """Count a round of `tokens` generated tokens in `seconds`."""
        self.rounds += 1
        self._weight += 1.0 - self._weight / _MEMORY
        self._tokens += tokens - self._tokens / _MEMORY
        self._seconds += seconds - self._seconds / _MEMORY

    def rate(self, plain: float) -> float:
        """Tokens per second, with _WEIGHT plain rounds of one token and `plain` seconds added as a prior."""
        return (self._tokens + _WEIGHT) / (self._seconds + _WEIGHT * plain)

    def gain(self, rate: float, plain: float) -> float:
        """Tokens per round beyond a plain round, less the tokens that `rate` (tokens/s) makes in the extra seconds."""
        return (self._tokens - self._weight - rate * (self._seconds - self._weight * plain)) / (self._weight + _WEIGHT)
