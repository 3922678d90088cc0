"""Which share of its tokens a draft may expect a target to accept: that of past answers, else an assumption."""

import sqlite3
from contextlib import suppress
from dataclasses import dataclass

from specgen.core.types import ModelRef
from specgen.history.store import History, location

ASSUMED = 0.7
"""The acceptance rate before anything was measured. Measured on pairs of one family: 0.5 to 0.6 on prose, 0.8 to 0.95
on code."""
# What fewer drafted tokens say is chance.
_FEWEST = 200


@dataclass(frozen=True, slots=True)
class Expected:
    """An acceptance rate, and how many past answers say so; 0 where it is assumed."""

    rate: float = ASSUMED
    answers: int = 0

    @property
    def basis(self) -> str:
        """Where it comes from, in words."""
        return f"from {self.answers} past answer{'s' * (self.answers > 1)}" if self.answers else "assumed"


def expected_acceptance(target: ModelRef, draft: ModelRef) -> Expected:
    """What the history says of a pair. It is not made where there is none, and one that is broken says nothing."""
    if location().is_file():
        with suppress(sqlite3.Error, OSError), History(location()) as history:
            answers, drafted, accepted = history.drafted(target.name, draft.name)
            if drafted >= _FEWEST:
                return Expected(accepted / drafted, answers)
    return Expected()
