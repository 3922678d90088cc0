"""A smaller output head for a draft: it scores the tokens that matter, and no others."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from specgen.nn.kernels.panels import PANEL

# Tokens that a draft always scores. Tokenizers number their tokens by the frequency of their merges, so these are the
# most frequent ones: docs/bench/draft_head.py.
FREQUENT = 32768


class ChosenPanels:
    """The panels of an output head that are computed: those of frequent tokens, and of tokens that were read.

    A token that was read, such as a rare name or the end of a turn, is likely to come again.
    """

    def __init__(self, count: int, frequent: int = FREQUENT) -> None:
        """`count` is the number of panels of the whole head."""
        self._is_frequent = np.arange(count) < frequent // PANEL
        self._is_chosen = self._is_frequent.copy()
        self._most = 2 * int(self._is_frequent.sum())
        self.numbers: NDArray[np.int64] = np.flatnonzero(self._is_chosen)
        """int64, ascending."""

    def add(self, ids: Sequence[int]) -> None:
        """Score the tokens `ids` from now on."""
        panels = np.array(ids) // PANEL
        if self._is_chosen[panels].all():
            return
        if len(self.numbers) > self._most:  # many contexts have passed
            self._is_chosen[:] = self._is_frequent
        self._is_chosen[panels] = True
        self.numbers = np.flatnonzero(self._is_chosen)
