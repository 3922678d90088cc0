"""Expected acceptance rate of a draft model: from past answers, or an assumption."""

import sqlite3
from contextlib import suppress
from dataclasses import dataclass

from specgen.core.types import ModelRef
from specgen.core.words import plural
from specgen.history.store import History, location

ASSUMED = 0.7
"""Acceptance rate of an unmeasured pair. Pairs of one family measured 0.5 to 0.6 on prose, 0.8 to 0.95 on code."""
# Fewer drafted tokens give no reliable rate.
_FEWEST = 200


@dataclass(frozen=True, slots=True)
class Expected:
    """An acceptance rate, and the number of past answers behind it; 0 if it is assumed."""

    rate: float = ASSUMED
    answers: int = 0

    @property
    def basis(self) -> str:
        """The origin of the rate, in words."""
        return f"from {plural(self.answers, 'past answer')}" if self.answers else "assumed"


def expected_acceptance(target: ModelRef, draft: ModelRef) -> Expected:
    """The rate of a pair in the history; the assumption if the history is missing, damaged or too short."""
    if location().is_file():
        with suppress(sqlite3.Error, OSError), History(location()) as history:
            answers, drafted, accepted = history.drafted(target.name, draft.name)
            if drafted >= _FEWEST:
                return Expected(accepted / drafted, answers)
    return Expected()
