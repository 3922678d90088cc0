"""Tells a user whose head hardly guesses: the text stays right, and only its speed shows that something is wrong."""

from collections.abc import Iterator
from dataclasses import replace

from specgen.engine.decode import Round

# Rounds after which a head is judged, and the largest number of first guesses that may be right in them. A head that
# is right about 45 % of first tokens, as those of published heads are at least, falls below with a chance below 1 %.
_RULES = ((8, 0), (16, 1), (64, 12))
CAUSES = (
    "likely it was trained for another target, another revision or another quantization of it, or for shorter contexts"
)


class HeadWatch:
    """Counts how many first guesses of the head `name` were right, over all answers of a pair."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rounds = 0
        self._right = 0
        self._told = False

    def follow(self, rounds: Iterator[Round]) -> Iterator[Round]:
        """The same rounds, with one notice among them where the head hardly guesses."""
        for done in rounds:
            if done.drafted_sources[:1] == ("draft",):
                self._rounds += 1
                self._right += done.accepted > 0
            poor = any(self._rounds == count and self._right <= right for count, right in _RULES)
            if poor and not self._told:
                self._told = True
                yield replace(done, notice=hardly_guesses(self._name, self._right, self._rounds))
            else:
                yield done


def hardly_guesses(name: str, right: int, rounds: int) -> str:
    """The notice that a head was right about the first token in `right` of `rounds` rounds."""
    return f"the head {name} hardly guesses: {right} of {rounds} first tokens were right; {CAUSES}"
