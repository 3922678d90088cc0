"""Figures of a benchmark from its runs, as plain data."""

import dataclasses
import hashlib
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from specgen.bench.bootstrap import median_interval, ratio_interval
from specgen.bench.contenders import Contender
from specgen.bench.roofline import PassTimes
from specgen.bench.runner import Run
from specgen.core.events import Stats
from specgen.core.prices import Prices, per_million

Figures = dict[str, Any]

FORMAT = 3
"""Increases when a key of the report is removed or changes its meaning."""


def categories(
    contenders: Sequence[Contender], runs: Sequence[Run], prices: Prices | None = None
) -> dict[str, dict[str, Figures]]:
    """Return category -> contender -> figures."""
    return _by(lambda run: run.prompt.category, contenders, runs, prices)


def distributions(
    contenders: Sequence[Contender], runs: Sequence[Run], prices: Prices | None = None
) -> dict[str, dict[str, Figures]]:
    """Return "in" or "out" -> contender -> figures, over the prompts marked with a distribution."""
    return _by(lambda run: run.prompt.distribution, contenders, runs, prices)


def _by(
    key: Callable[[Run], str | None], contenders: Sequence[Contender], runs: Sequence[Run], prices: Prices | None
) -> dict[str, dict[str, Figures]]:
    names = dict.fromkeys(name for run in runs if (name := key(run)) is not None)
    return {name: compare(contenders, [run for run in runs if key(run) == name], prices) for name in names}


def compare(contenders: Sequence[Contender], runs: Sequence[Run], prices: Prices | None = None) -> dict[str, Figures]:
    """Return contender -> figures over `runs`. The first contender is plain decoding.

    Speeds, times and ratios are medians over prompts of medians over repetitions. A ratio compares two speeds at the
    same prompt and repetition: `speed_up` is relative to the contender's reference, `over_first` to the first
    contender, `over_peer` to each comparable peer. Rates, lengths and shares pool all runs. `intervals` holds 95 %
    confidence intervals. None marks an undefined figure.
    """
    of = {contender.name: [run for run in runs if run.contender == contender.name] for contender in contenders}
    table: dict[str, Figures] = {}
    for contender in contenders:
        mine = of[contender.name]
        reference = of[contender.reference]
        peers = {other.kind: of[other.name] for other in contenders if contender.kind in other.measures}
        gains = _ratios(mine, reference)
        medians = {
            "speed_up": gains,
            "over_first": _ratios(mine, of[contenders[0].name]),
            "tokens_per_second": _prompt_medians(mine, _speed),
            "time_to_first_token_s": _prompt_medians(mine, lambda run: run.measurement.stats.time_to_first_token_s),
            "elapsed_s": _prompt_medians(mine, lambda run: run.measurement.stats.elapsed_s),
        }
        rates, rate_intervals = _acceptance(mine)
        table[contender.name] = {
            **{name: statistics.median(values.values()) if values else None for name, values in medians.items()},
            "over_peer": {program: _median(_ratios(mine, theirs)) for program, theirs in peers.items()},
            **_worst_decile(gains),
            **rates,
            **_shares(mine),
            "peak_memory_bytes": max((run.peak_memory_bytes for run in mine if run.peak_memory_bytes), default=None),
            "per_million": _cost(mine, prices or Prices()),
            "own": contender.own,
            "reference": contender.reference,
            "same_text": sum(map(_same, mine, _first_of_each(mine, reference))),
            "texts": len(mine),
            "intervals": {name: median_interval([*values.values()]) for name, values in medians.items()}
            | rate_intervals,
        }
    return table


def identical(overall: Mapping[str, Figures]) -> bool:
    """Whether every text of every own contender equals that of plain decoding."""
    return all(figures["same_text"] == figures["texts"] for figures in overall.values() if figures["own"])


def run_records(runs: Iterable[Run]) -> list[Figures]:
    """Return one record per run. `output` is a digest of the token ids."""
    records = []
    for run in runs:
        stats, decoding, forwards = run.measurement.stats, run.measurement.decoding, run.measurement.forwards
        records.append(
            {
                "prompt": run.prompt.id,
                "category": run.prompt.category,
                "distribution": run.prompt.distribution,
                "contender": run.contender,
                "repetition": run.repetition,
                **dataclasses.asdict(stats),
                "tokens_per_second": _speed(run),
                "decoding": dataclasses.asdict(decoding) if decoding else None,
                "forwards": list(forwards) if forwards else None,
                "peak_memory_bytes": run.peak_memory_bytes,
                "energy_j": run.energy_j,
                "pace_s": run.pace_s,
                "output": hashlib.sha256(repr(run.measurement.ids).encode()).hexdigest()[:16],
            }
        )
    return records


def roofline(read: float, forwards: Mapping[str, PassTimes]) -> Figures:
    """Compare forward times with the time to read the weights at `read` bytes per second."""
    models = {}
    for name, model in forwards.items():
        bound = model.weight_bytes / read if model.weight_bytes else None
        models[name] = {
            "weight_bytes": model.weight_bytes,
            "context": model.context,
            "bound_s": bound,
            "widths": {
                str(width): {
                    "over_bound": seconds / bound if bound else None,
                    "over_width_1": seconds / model.seconds[1],
                    "seconds": seconds,
                }
                for width, seconds in model.seconds.items()
            },
        }
    return {"bandwidth_bytes_per_s": read, "models": models}


def _speed(run: Run) -> float | None:
    """Tokens per second after the first round. None for an answer of one round."""
    return run.measurement.stats.tokens_per_second or None


def _prompt_medians(runs: Iterable[Run], value: Callable[[Run], float | None]) -> dict[str, float]:
    """Return prompt -> median over its repetitions."""
    return _medians((run.prompt.id, found) for run in runs if (found := value(run)) is not None)


def _ratios(runs: Iterable[Run], others: Iterable[Run]) -> dict[str, float]:
    """Return prompt -> speed of `runs` over speed of `others`."""
    speeds = {(run.prompt.id, run.repetition): _speed(run) for run in others}
    pairs = ((run.prompt.id, _speed(run), speeds.get((run.prompt.id, run.repetition))) for run in runs)
    return _medians((prompt, mine / other) for prompt, mine, other in pairs if mine and other)


def _medians(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    of_prompt: dict[str, list[float]] = {}
    for prompt, value in values:
        of_prompt.setdefault(prompt, []).append(value)
    return {prompt: statistics.median(found) for prompt, found in of_prompt.items()}


def _median(values: Mapping[str, float]) -> float | None:
    return statistics.median(values.values()) if values else None


def _cost(runs: Sequence[Run], prices: Prices) -> Figures:
    """Cost over all runs, prompts included. Energy is None unless every run was metered."""
    joules = [run.energy_j for run in runs if run.energy_j is not None]
    cost = per_million(
        sum(run.measurement.stats.generated_tokens for run in runs),
        sum(run.measurement.stats.elapsed_s for run in runs),
        sum(joules) if len(joules) == len(runs) else None,
        prices,
    )
    return dataclasses.asdict(cost)


def _worst_decile(gains: Mapping[str, float]) -> Figures:
    """Mean speed-up of the tenth of the prompts (at least one) that gains least, and their ids."""
    worst = sorted(gains, key=gains.__getitem__)[: -(-len(gains) // 10)]
    mean = statistics.fmean(gains[prompt] for prompt in worst) if worst else None
    return {"worst_decile": mean, "worst_prompts": worst}


def _acceptance(runs: Sequence[Run]) -> tuple[Figures, Figures]:
    """Return the acceptance figures and their intervals."""
    stats = [run.measurement.stats for run in runs]
    parts: dict[str, tuple[list[int], list[int]]] = {
        "acceptance_rate": ([each.accepted_tokens for each in stats], [each.drafted_tokens for each in stats]),
        "mean_acceptance_length": ([each.generated_tokens for each in stats], [each.rounds for each in stats]),
    }
    rates = {name: sum(above) / sum(below) if sum(below) else None for name, (above, below) in parts.items()}
    together = Stats(
        accepted_lengths=_added(each.accepted_lengths for each in stats),
        drafted_lengths=_added(each.drafted_lengths for each in stats),
    )
    by_position = list(together.acceptance_by_position)
    intervals = {name: ratio_interval(above, below) for name, (above, below) in parts.items()}
    return {**rates, "acceptance_by_position": by_position}, intervals


def _added(histograms: Iterable[Sequence[int]]) -> tuple[int, ...]:
    total: list[int] = []
    for histogram in histograms:
        total += [0] * (len(histogram) - len(total))
        for length, count in enumerate(histogram):
            total[length] += count
    return tuple(total)


def _shares(runs: Sequence[Run]) -> Figures:
    """Shares of the time after the first round. `outside_forwards_share` overlaps with the other three."""
    parts = [run.measurement.decoding for run in runs if run.measurement.decoding]
    whole = sum(part.elapsed_s for part in parts)
    if not whole:
        return dict.fromkeys(("draft_share", "verify_share", "other_share", "outside_forwards_share"))
    draft, verify, forward = (
        sum(getattr(part, name) for part in parts) / whole for name in ("draft_s", "verify_s", "forward_s")
    )
    return {
        "draft_share": draft,
        "verify_share": verify,
        "other_share": max(0.0, 1 - draft - verify),
        "outside_forwards_share": max(0.0, 1 - forward),
    }


def _first_of_each(runs: Iterable[Run], plain: Iterable[Run]) -> list[Run]:
    """Return, for each of `runs`, the first plain run of its prompt. Later plain runs must repeat it too."""
    first: dict[str, Run] = {}
    for run in plain:
        first.setdefault(run.prompt.id, run)
    return [first[run.prompt.id] for run in runs]


def _same(run: Run, plain: Run) -> bool:
    return run.measurement.ids == plain.measurement.ids
