"""What the draft length that adapts itself is worth beside the best fixed one, which only hindsight knows."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from specgen.bench.contenders import Ours
from specgen.bench.runner import Run

Figures = dict[str, Any]
OVERALL = "overall"


def hindsight(contenders: Sequence[Ours], runs: Sequence[Run]) -> dict[str, dict[str, Figures]]:
    """Drafter -> category, or overall -> the best fixed k, and the share of its speed that auto reaches.

    The best k is that with the highest median speed over the prompts of the category. The share is the median over
    prompts of auto's speed over that of the best k at the same prompt.
    """
    groups: dict[str, dict[int | None, str]] = {}
    for each in contenders:
        name = each.name.partition(" k=")[0]
        groups.setdefault(name, {})[each.draft_length] = each.name
    groups = {name: group for name, group in groups.items() if None in group and len(group) > 1}
    names = dict.fromkeys(run.prompt.category for run in runs)
    chosen = {OVERALL: list(runs)} | {name: [run for run in runs if run.prompt.category == name] for name in names}
    return {name: {category: _judge(group, of) for category, of in chosen.items()} for name, group in groups.items()}


def _judge(group: Mapping[int | None, str], runs: Sequence[Run]) -> Figures:
    speeds = {k: _speeds(runs, contender) for k, contender in group.items()}
    typical = {k: statistics.median(found.values()) for k, found in speeds.items() if found}
    fixed = {k: speed for k, speed in typical.items() if k is not None}
    if not fixed or None not in typical:
        return {"best_k": None, "share": None, "tokens_per_second": {}}
    best = max(fixed, key=fixed.__getitem__)
    both = speeds[None].keys() & speeds[best].keys()
    share = statistics.median(speeds[None][prompt] / speeds[best][prompt] for prompt in both) if both else None
    named = {"auto" if k is None else str(k): speed for k, speed in typical.items()}
    return {"best_k": best, "share": share, "tokens_per_second": named}


def _speeds(runs: Sequence[Run], contender: str) -> dict[str, float]:
    """Prompt -> the median speed over its repetitions."""
    found: dict[str, list[float]] = {}
    for run in runs:
        if run.contender == contender and (speed := run.measurement.stats.tokens_per_second):
            found.setdefault(run.prompt.id, []).append(speed)
    return {prompt: statistics.median(each) for prompt, each in found.items()}
