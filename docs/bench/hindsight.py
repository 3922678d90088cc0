"""Compare the adaptive draft length with the best fixed one, which only hindsight knows.

    specgen bench -m TARGET -d DRAFT --sweep k=1..8 --json > report.json
    python docs/bench/hindsight.py report.json

The best k has the highest median speed over the prompts of a category. `auto reaches` is the median over prompts of the
adaptive speed relative to that of the best k.
"""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Figures = dict[str, Any]
OVERALL = "overall"


def hindsight(report: Mapping[str, Any]) -> dict[str, dict[str, Figures]]:
    """Return drafter -> category -> the best k, the share of its speed that auto reaches, and the speed of each k."""
    groups: dict[str, dict[str, str]] = {}
    for contender in report["overall"]:
        name, swept, length = contender.partition(" k=")
        if swept:
            groups.setdefault(name, {})[length] = contender
    runs = report["runs"]
    chosen = {OVERALL: runs} | {
        category: [run for run in runs if run["category"] == category] for category in report["categories"]
    }
    return {
        name: {category: best_length(group, of) for category, of in chosen.items()} for name, group in groups.items()
    }


def best_length(group: Mapping[str, str], runs: Sequence[Mapping[str, Any]]) -> Figures:
    """Compare the draft lengths of `group`, which maps each to its contender."""
    speeds = {length: prompt_speeds(runs, contender) for length, contender in group.items()}
    typical = {length: statistics.median(found.values()) for length, found in speeds.items() if found}
    fixed = {length: speed for length, speed in typical.items() if length != "auto"}
    if not fixed or "auto" not in typical:
        return {"best_k": None, "share": None, "tokens_per_second": {}}
    best = max(fixed, key=fixed.__getitem__)
    both = speeds["auto"].keys() & speeds[best].keys()
    share = statistics.median(speeds["auto"][prompt] / speeds[best][prompt] for prompt in both) if both else None
    return {"best_k": int(best), "share": share, "tokens_per_second": typical}


def prompt_speeds(runs: Sequence[Mapping[str, Any]], contender: str) -> dict[str, float]:
    """Return prompt -> median tokens per second over its repetitions."""
    found: dict[str, list[float]] = {}
    for run in runs:
        if run["contender"] == contender and run["tokens_per_second"]:
            found.setdefault(run["prompt"], []).append(run["tokens_per_second"])
    return {prompt: statistics.median(each) for prompt, each in found.items()}


def main() -> None:
    """Print a table for each drafter of the report."""
    for drafter, table in hindsight(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))).items():
        lengths = list(table[OVERALL]["tokens_per_second"])
        print(f"| {drafter}, tok/s by k | {' | '.join(lengths)} | best k | auto reaches |")
        print("| --- " * (len(lengths) + 3) + "|")
        for category, figures in table.items():
            speeds = [f"{figures['tokens_per_second'].get(length, 0.0):.1f}" for length in lengths]
            share = "-" if figures["share"] is None else f"{100 * figures['share']:.0f} %"
            print(f"| {category} | {' | '.join(speeds)} | {figures['best_k']} | {share} |")


if __name__ == "__main__":
    main()
