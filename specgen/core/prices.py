"""Time, energy and price of a million tokens at a measured speed."""

from dataclasses import dataclass

_MILLION = 1_000_000
_JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices in any currency; None if the user gave none."""

    per_hour: float | None = None
    per_kwh: float | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """Hours, kWh and money for a million generated tokens; None if unknown."""

    hours: float | None = None
    kwh: float | None = None
    money: float | None = None


def per_million(tokens: int, seconds: float, joules: float | None, prices: Prices) -> Cost:
    """The cost, from `tokens` generated in `seconds`, prompt included, with `joules` if they were measured.

    Money covers hours and energy, as far as there are prices. It is None with a price for unmeasured energy.
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
