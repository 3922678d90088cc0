"""What the runs come to, as plain data: the same that --json prints and that the table is drawn from."""

import dataclasses
import hashlib
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from specgen.bench.contenders import Contender
from specgen.bench.roofline import Forwards
from specgen.bench.runner import Run

Figures = dict[str, Any]


def categories(contenders: Sequence[Contender], runs: Sequence[Run]) -> dict[str, dict[str, Figures]]:
    """Category -> contender -> figures."""
    names = list(dict.fromkeys(run.prompt.category for run in runs))
    return {name: compare(contenders, [run for run in runs if run.prompt.category == name]) for name in names}


def compare(contenders: Sequence[Contender], runs: Sequence[Run]) -> dict[str, Figures]:
    """Contender -> figures over `runs`; the first contender is plain decoding.

    Speeds, times and ratios are medians over the prompts, of each the median over its repetitions. A ratio is one of
    two speeds at the same prompt and repetition. Rates, lengths and shares are of all runs together. None stands for
    what there is nothing to say about.
    """
    plain = contenders[0]
    of = {contender.name: [run for run in runs if run.contender == contender.name] for contender in contenders}
    table: dict[str, Figures] = {}
    for contender in contenders:
        mine = of[contender.name]
        against = [other.name for other in contenders if contender.name in other.measures]
        table[contender.name] = {
            "speed_up": _ratio(mine, of[plain.name]),
            "over_peer": _ratio(mine, of[against[0]]) if against else None,
            "tokens_per_second": _typical(mine, _speed),
            "time_to_first_token_s": _typical(mine, lambda run: run.measurement.stats.time_to_first_token_s),
            "elapsed_s": _typical(mine, lambda run: run.measurement.stats.elapsed_s),
            **_acceptance(mine),
            **_shares(mine),
            "ours": contender.ours,
            "same_text": sum(map(_same, mine, _first_of_each(mine, of[plain.name]))),
            "texts": len(mine),
        }
    return table


def identical(overall: Mapping[str, Figures]) -> bool:
    """Whether every contender of ours wrote the text of plain decoding, every time."""
    return all(figures["same_text"] == figures["texts"] for figures in overall.values() if figures["ours"])


def run_records(runs: Iterable[Run]) -> list[Figures]:
    """Every run by itself, for whoever wants to do other sums. `output` is a digest of the ids."""
    records = []
    for run in runs:
        stats, decoding = run.measurement.stats, run.measurement.decoding
        records.append(
            {
                "prompt": run.prompt.id,
                "category": run.prompt.category,
                "contender": run.contender,
                "repetition": run.repetition,
                **dataclasses.asdict(stats),
                "tokens_per_second": _speed(run),
                "decoding": dataclasses.asdict(decoding) if decoding else None,
                "output": hashlib.sha256(repr(run.measurement.ids).encode()).hexdigest()[:16],
            }
        )
    return records


def roofline(read: float, forwards: Mapping[str, Forwards]) -> Figures:
    """Forward times beside what reading the weights takes at `read` bytes a second."""
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
    """Tokens a second after the first round; None for an answer that was over with it."""
    return run.measurement.stats.tokens_per_second or None


def _typical(runs: Iterable[Run], value: Callable[[Run], float | None]) -> float | None:
    return _median_of_medians((run.prompt.id, found) for run in runs if (found := value(run)) is not None)


def _ratio(runs: Iterable[Run], others: Iterable[Run]) -> float | None:
    """How many times as fast `runs` are as `others`."""
    speeds = {(run.prompt.id, run.repetition): _speed(run) for run in others}
    pairs = ((run.prompt.id, _speed(run), speeds.get((run.prompt.id, run.repetition))) for run in runs)
    return _median_of_medians((prompt, mine / other) for prompt, mine, other in pairs if mine and other)


def _median_of_medians(values: Iterable[tuple[str, float]]) -> float | None:
    of_prompt: dict[str, list[float]] = {}
    for prompt, value in values:
        of_prompt.setdefault(prompt, []).append(value)
    return statistics.median(map(statistics.median, of_prompt.values())) if of_prompt else None


def _acceptance(runs: Sequence[Run]) -> Figures:
    stats = [run.measurement.stats for run in runs]
    drafted, rounds = sum(each.drafted_tokens for each in stats), sum(each.rounds for each in stats)
    return {
        "acceptance_rate": sum(each.accepted_tokens for each in stats) / drafted if drafted else None,
        "mean_acceptance_length": sum(each.generated_tokens for each in stats) / rounds if rounds else None,
    }


def _shares(runs: Sequence[Run]) -> Figures:
    """Of the time after the first round. What is outside forward passes is a part of all three others."""
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
    """For each of `runs` the first plain run of its prompt, which the other plain runs must repeat too."""
    first: dict[str, Run] = {}
    for run in plain:
        first.setdefault(run.prompt.id, run)
    return [first[run.prompt.id] for run in runs]


def _same(run: Run, plain: Run) -> bool:
    return run.measurement.ids == plain.measurement.ids
