"""A match of the last tokens in earlier text, and the tokens that most of its occurrences agree on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

# Longest match that is measured, in tokens. Longer matches predict no better.
BOUND = 64
# A continuation ends where the occurrences agree on all of it with less than this probability. Suffix decoding (Oliaro
# et al. 2024) uses the same threshold.
_UNLIKELY = 0.1


@dataclass(frozen=True, slots=True)
class Match:
    """A continuation of the last `length` tokens, by occurrences of them in this context or in earlier answers.

    shares: for each token of `continuation`, the share of the occurrences up to there that continue with it. An
    occurrence counts by the square of its length.
    """

    length: int
    source: Literal["lookup", "history"]
    continuation: tuple[int, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """An occurrence of the last `length` tokens. `after` is the position of the token that follows it."""

    after: int
    length: int


def length_of_match(ids: Sequence[int], after: int, tail: Sequence[int]) -> int:
    """Number of ids before `after` that equal the end of `tail`, at most BOUND."""
    length, end = 0, len(tail)
    bound = min(after, end, BOUND)
    while length < bound and ids[after - length - 1] == tail[end - length - 1]:
        length += 1
    return length


def agreed(
    ids: Sequence[int], places: Sequence[Place], most: int, end_ids: frozenset[int], *, overlap: bool
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """At most `most` tokens after `places` of `ids`, none after one of `end_ids`, each with its share.

    The occurrences vote for each token. Those that continue otherwise drop out. Among equals the first place wins. A
    negative id ends an occurrence. With `overlap`, one that reaches the end of `ids` continues with the own tokens.
    """
    tokens: list[int] = []
    shares: list[float] = []
    left, likely, known = list(places), 1.0, len(ids)
    while len(tokens) < most:
        votes: dict[int, int] = {}
        nexts: list[int] = []
        for place in left:
            at = place.after + len(tokens)
            token = ids[at] if at < known else tokens[at - known] if overlap else -1
            nexts.append(token)
            if token >= 0:
                votes[token] = votes.get(token, 0) + place.length**2
        if not votes:
            break
        token = max(votes, key=votes.__getitem__)
        share = votes[token] / sum(votes.values())
        likely *= share
        if likely < _UNLIKELY:
            break
        left = [place for place, each in zip(left, nexts, strict=True) if each == token]
        tokens.append(token)
        shares.append(share)
        if token in end_ids:
            break
    return tuple(tokens), tuple(shares)
