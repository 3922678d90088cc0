"""Confidence intervals by bootstrap: how far a figure would move with other prompts of the same kind.

The prompts are drawn anew with replacement, and the figure is computed of each draw (Efron 1979); the interval holds
the middle 95 % of the outcomes. The draws are the same in every run, so that a report can be computed again.
"""

import functools
import math
import statistics
from collections.abc import Sequence

import torch

Interval = tuple[float, float]

_DRAWS = 1000
_STEPS = 2000
LEVEL = 0.95
# Of fewer prompts a draw is mostly the same ones.
FEWEST = 3


def median_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Of the median of one value a prompt; None of fewer than three."""
    if len(values) < FEWEST:
        return None
    drawn = torch.tensor(values, dtype=torch.float64)[_draws(len(values))].sort(dim=1).values
    middle = len(values) // 2
    medians = drawn[:, middle] if len(values) % 2 else (drawn[:, middle - 1] + drawn[:, middle]) / 2
    return _middle(medians, level)


def ratio_interval(parts: Sequence[float], wholes: Sequence[float]) -> Interval | None:
    """Of the sum of `parts` over the sum of `wholes`, one of each a prompt; None of fewer than three."""
    if len(parts) < FEWEST or not sum(wholes):
        return None
    draws = _draws(len(parts))
    above, below = (torch.tensor(each, dtype=torch.float64)[draws].sum(dim=1) for each in (parts, wholes))
    ratios = (above / below)[below > 0]
    return _middle(ratios, LEVEL)


def difference_interval(
    one: Sequence[Sequence[float]], other: Sequence[Sequence[float]], level: float = LEVEL
) -> Interval | None:
    """Of how much a ratio of sums changed: `one` and `other` each have the parts and the wholes of the same prompts."""
    if len(one[0]) < FEWEST:
        return None
    draws = _draws(len(one[0]))
    sums = [[torch.tensor(each, dtype=torch.float64)[draws].sum(dim=1) for each in pair] for pair in (one, other)]
    (parts, wholes), (other_parts, other_wholes) = sums
    both = (wholes > 0) & (other_wholes > 0)
    if not both.any():
        return None
    return _middle((other_parts / other_wholes - parts / wholes)[both], level)


def chance(ratios: Sequence[float]) -> float:
    """How often noise alone makes the mean of the logarithms of `ratios` differ as much from 0 (Student 1908, paired).

    Of so few prompts as a category has, draws with replacement say less than they seem to: they know no prompt beyond.
    """
    logs = [math.log(ratio) for ratio in ratios]
    free, spread = len(logs) - 1, statistics.stdev(logs)
    if not spread:
        return 0.0 if logs[0] else 1.0
    angle = math.atan(abs(statistics.fmean(logs)) / (spread / math.sqrt(len(logs))) / math.sqrt(free))
    # The tail of Student's t is the integral of cos^(free - 1) from that angle on, by the midpoint rule.
    steps = [angle + (math.pi / 2 - angle) * (step + 0.5) / _STEPS for step in range(_STEPS)]
    tail = sum(math.cos(each) ** (free - 1) for each in steps) * (math.pi / 2 - angle) / _STEPS
    whole = math.sqrt(math.pi) * math.exp(math.lgamma(free / 2) - math.lgamma((free + 1) / 2))
    return 2 * tail / whole


def _middle(outcomes: torch.Tensor, level: float) -> Interval:
    ordered = outcomes.sort().values.tolist()
    outside = (1 - level) / 2 * (len(ordered) - 1)
    return ordered[math.floor(outside)], ordered[math.ceil(len(ordered) - 1 - outside)]


@functools.cache
def _draws(count: int) -> torch.Tensor:
    """int64 [draws, count]: which of `count` prompts each draw has."""
    return torch.randint(count, (_DRAWS, count), generator=torch.Generator().manual_seed(count))
