"""Bootstrap confidence intervals over prompts, and a paired t-test.

The prompts are resampled with replacement and the figure is computed for each sample (Efron 1979). The interval holds
the middle 95 % of the outcomes. The samples are the same in every run, so a report can be recomputed.
"""

import functools
import math
import statistics
from collections.abc import Sequence

import torch

Interval = tuple[float, float]

_DRAWS = 1000
_STEPS = 2000  # of the numerical integral in `p_value`
LEVEL = 0.95
FEWEST = 3  # with fewer prompts the samples barely differ


def median_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Interval of the median of one value per prompt. None for fewer than FEWEST prompts."""
    if len(values) < FEWEST:
        return None
    drawn = torch.tensor(values, dtype=torch.float64)[_draws(len(values))].sort(dim=1).values
    middle = len(values) // 2
    medians = drawn[:, middle] if len(values) % 2 else (drawn[:, middle - 1] + drawn[:, middle]) / 2
    return _percentiles(medians, level)


def ratio_interval(parts: Sequence[float], wholes: Sequence[float]) -> Interval | None:
    """Interval of sum(parts) / sum(wholes), one of each per prompt. None for fewer than FEWEST prompts."""
    if len(parts) < FEWEST or not sum(wholes):
        return None
    draws = _draws(len(parts))
    above, below = (torch.tensor(each, dtype=torch.float64)[draws].sum(dim=1) for each in (parts, wholes))
    ratios = (above / below)[below > 0]
    return _percentiles(ratios, LEVEL)


def difference_interval(
    one: Sequence[Sequence[float]], other: Sequence[Sequence[float]], level: float = LEVEL
) -> Interval | None:
    """Interval of the change of a ratio of sums.

    `one` and `other` each hold the parts and the wholes, for the same prompts. None for fewer than FEWEST prompts.
    """
    if len(one[0]) < FEWEST:
        return None
    draws = _draws(len(one[0]))
    sums = [[torch.tensor(each, dtype=torch.float64)[draws].sum(dim=1) for each in pair] for pair in (one, other)]
    (parts, wholes), (other_parts, other_wholes) = sums
    both = (wholes > 0) & (other_wholes > 0)
    if not both.any():
        return None
    return _percentiles((other_parts / other_wholes - parts / wholes)[both], level)


def p_value(ratios: Sequence[float]) -> float:
    """Two-sided p-value of a paired t-test that the mean log of `ratios` is 0 (Student 1908).

    It complements the bootstrap, which is overconfident with the few prompts of one category.
    """
    logs = [math.log(ratio) for ratio in ratios]
    free, spread = len(logs) - 1, statistics.stdev(logs)
    if not spread:
        return 0.0 if logs[0] else 1.0
    angle = math.atan(abs(statistics.fmean(logs)) / (spread / math.sqrt(len(logs))) / math.sqrt(free))
    # The tail of Student's t is the integral of cos^(free - 1) from `angle` to pi / 2; midpoint rule.
    steps = [angle + (math.pi / 2 - angle) * (step + 0.5) / _STEPS for step in range(_STEPS)]
    tail = sum(math.cos(each) ** (free - 1) for each in steps) * (math.pi / 2 - angle) / _STEPS
    whole = math.sqrt(math.pi) * math.exp(math.lgamma(free / 2) - math.lgamma((free + 1) / 2))
    return 2 * tail / whole


def _percentiles(outcomes: torch.Tensor, level: float) -> Interval:
    ordered = outcomes.sort().values.tolist()
    outside = (1 - level) / 2 * (len(ordered) - 1)
    return ordered[math.floor(outside)], ordered[math.ceil(len(ordered) - 1 - outside)]


@functools.cache
def _draws(count: int) -> torch.Tensor:
    """int64 [_DRAWS, count]: the prompt indices of each sample."""
    return torch.randint(count, (_DRAWS, count), generator=torch.Generator().manual_seed(count))
