"""The cost of an answer, after its summary: time, energy if readable, money if a price is given."""

from dataclasses import replace
from typing import TextIO

from specgen.bench.meters import EnergyMeter, energy_counters
from specgen.core.events import Event, Finished, Renderer, Started, Stats
from specgen.core.prices import Cost, Prices, per_million
from specgen.render.terminal import put


class CostRenderer:
    """Wraps a renderer and adds the cost of a million tokens at the end."""

    def __init__(self, renderer: Renderer, stream: TextIO, prices: Prices) -> None:
        self._renderer = renderer
        self._stream = stream
        self._prices = prices
        self._energy = EnergyMeter([])

    def show(self, event: Event) -> None:
        joules = self._energy.stop() if isinstance(event, Finished) else None
        self._renderer.show(event)
        if isinstance(event, Started):
            self._energy = EnergyMeter(energy_counters(event.device))
            self._energy.start()
        elif isinstance(event, Finished) and event.stats.generated_tokens:
            put(self._stream, f"{cost_line(event.stats, joules, self._prices)}\n")

    def close(self) -> None:
        self._renderer.close()


def cost_line(stats: Stats, joules: float | None, prices: Prices) -> str:
    """The cost with and without speculation in one line.

    The figures without speculation, marked with ~, assume the same power for the longer time.
    """
    cost = per_million(stats.generated_tokens, stats.elapsed_s, joules, prices)
    parts = [f"a million tokens like these {_figures(cost)}"]
    if stats.drafted_tokens and stats.speed_up:
        longer = replace(stats, elapsed_s=stats.elapsed_s * stats.speed_up)
        more = None if joules is None else joules * stats.speed_up
        without = per_million(longer.generated_tokens, longer.elapsed_s, more, prices)
        parts.append(f"without speculation ~{_figures(without)}")
    if prices.per_kwh is not None and joules is None:
        parts.append("energy is not readable here")
    return " · ".join(parts)


def _figures(cost: Cost) -> str:
    shown = [f"{cost.hours:.2f} h"] if cost.hours is not None else []
    shown += [f"{cost.kwh:.3f} kWh"] if cost.kwh is not None else []
    shown += [f"{cost.money:.2f} in money"] if cost.money is not None else []
    return ", ".join(shown)
