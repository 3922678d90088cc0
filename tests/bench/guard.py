"""A regression test of the bundled pair: texts, rounds, forward passes and acceptance at a fixed draft length.

`python -m tests.bench.guard` measures it anew into guard.json, after a change that is meant to change it.
"""

import json
from pathlib import Path
from typing import Any

from specgen.bench.benchmark import benchmark
from specgen.bench.settings import BenchSettings, Sweep
from specgen.core.progress import follow
from specgen.core.types import EngineOptions, SamplingParams

HERE = Path(__file__).parent
BASELINE = HERE / "guard.json"
# No time, and nothing of a machine.
_KEPT = (
    "prompt", "category", "contender", "repetition", "prompt_tokens", "generated_tokens", "rounds", "drafted_tokens",
    "accepted_tokens", "forwards", "output",
)  # fmt: skip


def measure() -> dict[str, Any]:
    settings = BenchSettings(
        "stories",
        engine=EngineOptions(num_draft_tokens=4, threads=1, offline=True),
        suite=str(HERE / "guard.jsonl"),
        sweep=Sweep(temperatures=(0.0, 0.8)),
        sampling=SamplingParams(seed=1),
        max_new_tokens=16,
    )
    return follow(benchmark(settings), lambda _: None)


def reduced(report: dict[str, Any]) -> dict[str, Any]:
    """`report` without figures that differ between runs and machines."""
    kept = ("own", "reference", "same_text", "texts")
    return {
        "format": report["format"],
        "machine": {"processor": None},
        "target": report["target"],
        "suite": report["suite"],
        "settings": {name: report["settings"][name] for name in ("max_new_tokens", "sampling", "engine")},
        "overall": {name: {key: figures[key] for key in kept} for name, figures in report["overall"].items()},
        "categories": list(report["categories"]),
        "runs": [
            {key: run[key] for key in _KEPT} | {"tokens_per_second": None, "time_to_first_token_s": 0.0}
            for run in report["runs"]
        ],
    }


if __name__ == "__main__":
    BASELINE.write_text(json.dumps(reduced(measure()), indent=1) + "\n", encoding="utf-8")
