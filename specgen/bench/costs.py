"""What a million tokens take and cost at the speed that was measured, prompts included."""

from collections.abc import Sequence

from specgen.bench.runner import Run
from specgen.bench.settings import Prices

_MILLION = 1_000_000
_JOULES_PER_KWH = 3.6e6


def per_million(runs: Sequence[Run], prices: Prices) -> dict[str, float | None]:
    """Hours, kilowatt-hours and money for a million generated tokens; None where it is unknown.

    Energy is known where every run was metered. Money is that of the hours and of the energy, as far as prices are
    named: a price for energy that nobody metered makes the money unknown.
    """
    tokens = sum(run.measurement.stats.generated_tokens for run in runs)
    if not tokens:
        return {"hours": None, "kwh": None, "money": None}
    scale = _MILLION / tokens
    hours = scale * sum(run.measurement.stats.elapsed_s for run in runs) / 3600
    joules = [run.energy_j for run in runs if run.energy_j is not None]
    kwh = scale * sum(joules) / _JOULES_PER_KWH if len(joules) == len(runs) else None
    return {"hours": hours, "kwh": kwh, "money": _money(hours, kwh, prices)}


def _money(hours: float, kwh: float | None, prices: Prices) -> float | None:
    if prices.per_hour is None and prices.per_kwh is None:
        return None
    for_time = hours * (prices.per_hour or 0.0)
    if not prices.per_kwh:
        return for_time
    return None if kwh is None else for_time + kwh * prices.per_kwh
