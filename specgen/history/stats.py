"""Statistics of the history: acceptance and speed-up by pair and template, and declines."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import sqrt
from statistics import pvariance
from typing import TypeVar

from specgen.core.prices import Cost, Prices, per_million
from specgen.history.rows import Sample

WEEKS = 12
Key = TypeVar("Key", tuple[str, str], str)

# Acceptance varies between texts far more than the number of tokens explains. So the jackknife over answers estimates
# the error of a rate. One long outlier makes the error large.
_RECENT = 20
_EARLIER = 200
_TOKENS = 200  # minimum of drafted tokens on each side
_DROP = 0.05  # smallest decline that is reported
_ERRORS = 3.0  # standard errors


@dataclass(frozen=True, slots=True)
class Drift:
    """The acceptance rate fell from `earlier` to `recent` in the latest `answers` with a draft."""

    earlier: float
    recent: float
    answers: int


@dataclass(frozen=True, slots=True)
class Trend:
    """Figures of several answers. Rates and means are over their tokens, rounds and seconds, not over answers.

    None means that nothing was drafted or measured. `weeks` has the acceptance rate of each of the last `WEEKS` weeks,
    the latest last.
    """

    answers: int
    generated_tokens: int
    elapsed_s: float
    drafted_tokens: int
    acceptance_rate: float | None
    mean_acceptance_length: float | None
    speed_up: float | None
    weeks: tuple[float | None, ...]
    drift: Drift | None

    def per_million(self, prices: Prices) -> tuple[Cost, Cost]:
        """Cost of a million tokens with speculation, and without it by the speed-up. The history has no energy."""
        without_s = None if self.speed_up is None else self.elapsed_s * self.speed_up
        with_it = per_million(self.generated_tokens, self.elapsed_s, None, prices)
        return with_it, Cost() if without_s is None else per_million(self.generated_tokens, without_s, None, prices)


def by_pair(samples: Iterable[Sample], now: datetime) -> Mapping[tuple[str, str], Trend]:
    """The trend of every (target, draft), sorted by falling number of answers."""
    return _grouped(samples, lambda sample: (sample.target, sample.draft), now)


def by_template(samples: Iterable[Sample], now: datetime) -> Mapping[str, Trend]:
    """The trend of every template, sorted by falling number of answers."""
    return _grouped(
        (sample for sample in samples if sample.template is not None), lambda sample: str(sample.template), now
    )


def _grouped(samples: Iterable[Sample], key: Callable[[Sample], Key], now: datetime) -> Mapping[Key, Trend]:
    groups: dict[Key, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(key(sample), []).append(sample)
    return {key: _trend(group, now) for key, group in sorted(groups.items(), key=lambda item: -len(item[1]))}


def _trend(samples: Sequence[Sample], now: datetime) -> Trend:
    week = timedelta(days=7)
    weeks: list[list[Sample]] = [[] for _ in range(WEEKS)]
    for sample in samples:
        if 0 <= (ago := (now - sample.time) // week) < WEEKS:
            weeks[-1 - ago].append(sample)
    generated = sum(sample.generated for sample in samples)
    timed = [sample for sample in samples if sample.speed_up is not None and sample.draft != "none"]
    # Estimated seconds of plain decoding.
    plain_s = sum(sample.elapsed_s * (sample.speed_up or 0.0) for sample in timed)
    return Trend(
        answers=len(samples),
        generated_tokens=generated,
        elapsed_s=sum(sample.elapsed_s for sample in samples),
        drafted_tokens=sum(sample.drafted for sample in samples),
        acceptance_rate=_rate(samples),
        mean_acceptance_length=_ratio(generated, sum(sample.rounds for sample in samples)),
        speed_up=_ratio(plain_s, sum(sample.elapsed_s for sample in timed)),
        weeks=tuple(_rate(each) for each in weeks),
        drift=_drift(samples),
    )


def _drift(samples: Sequence[Sample]) -> Drift | None:
    """Compares the latest 20 answers with a draft to the 20 to 200 before them.

    The acceptance rate has declined if it is lower by more than 5 points and more than 3 standard errors of the
    difference.
    """
    drafting = [sample for sample in samples if sample.drafted]
    recent, earlier = drafting[-_RECENT:], drafting[-_RECENT - _EARLIER : -_RECENT]
    if len(earlier) < _RECENT or min(sum(s.drafted for s in each) for each in (recent, earlier)) < _TOKENS:
        return None
    now, before = _rate(recent) or 0.0, _rate(earlier) or 0.0
    error = sqrt(_variance(recent) + _variance(earlier))
    return Drift(before, now, len(recent)) if before - now > max(_DROP, _ERRORS * error) else None


def _variance(samples: Sequence[Sample]) -> float:
    """The variance of the acceptance rate of `samples`, by the jackknife (leaving out each answer in turn)."""
    drafted, accepted = (sum(getattr(sample, name) for sample in samples) for name in ("drafted", "accepted"))
    without = [_ratio(accepted - each.accepted, drafted - each.drafted) or 0.0 for each in samples]
    return (len(samples) - 1) * pvariance(without)


def _rate(samples: Sequence[Sample]) -> float | None:
    return _ratio(sum(sample.accepted for sample in samples), sum(sample.drafted for sample in samples))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
