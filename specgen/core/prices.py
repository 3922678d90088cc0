"""What a million tokens take and cost at a speed that was measured."""

from dataclasses import dataclass

_MILLION = 1_000_000
_JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True)
class Prices:
    """In any currency; None where the user named none."""

    per_hour: float | None = None
    per_kwh: float | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """For a million generated tokens; None where it is unknown."""

    hours: float | None = None
    kwh: float | None = None
    money: float | None = None


def per_million(tokens: int, seconds: float, joules: float | None, prices: Prices) -> Cost:
    """Where `tokens` tokens took `seconds` seconds, the prompt included, and `joules`, if they were counted.

    Money is that of the hours and of the energy, as far as prices are named: a price for energy that nobody counted
    makes the money unknown.
    """
    if not tokens:
        return Cost()
    hours = _MILLION / tokens * seconds / 3600
    kwh = None if joules is None else _MILLION / tokens * joules / _JOULES_PER_KWH
    return Cost(hours, kwh, _money(hours, kwh, prices))


def _money(hours: float, kwh: float | None, prices: Prices) -> float | None:
    if prices.per_hour is None and prices.per_kwh is None:
        return None
    for_time = hours * (prices.per_hour or 0.0)
    if not prices.per_kwh:
        return for_time
    return None if kwh is None else for_time + kwh * prices.per_kwh
