"""Measurements and contenders with known values."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from specgen.bench import report
from specgen.bench.contenders import Contender
from specgen.bench.measure import DecodingTime, Measurement
from specgen.bench.runner import Run
from specgen.bench.settings import BenchSettings
from specgen.bench.suites import SuitePrompt
from specgen.core.events import Stats
from specgen.core.prices import Prices


def measurement(
    speed: float, *, ids: Sequence[int] = (1, 2, 3, 4, 5), first_s: float = 1.0, accepted: int = 0, inside: bool = True
) -> Measurement:
    """One token in the first round, then `speed` tokens a second. `accepted` of 10 drafted tokens are accepted."""
    elapsed = (len(ids) - 1) / speed
    stats = Stats(
        prompt_tokens=9,
        generated_tokens=len(ids),
        rounds=len(ids) - accepted,
        drafted_tokens=10 if accepted else 0,
        accepted_tokens=accepted,
        time_to_first_token_s=first_s,
        first_round_tokens=1,
        elapsed_s=first_s + elapsed,
    )
    if accepted:
        stats = dataclasses.replace(stats, accepted_lengths=(0, accepted), drafted_lengths=(0, 10))
    decoding = DecodingTime(elapsed, draft_s=0.25 * elapsed, verify_s=0.5 * elapsed, forward_s=0.625 * elapsed)
    return Measurement(tuple(ids), stats, decoding if inside else None, (stats.rounds,) if inside else None)


def run(
    contender: str,
    prompt: str,
    made: Measurement,
    *,
    category: str = "chat",
    repetition: int = 0,
    distribution: str | None = None,
    peak: int | None = None,
    joules: float | None = None,
    pace: float | None = None,
) -> Run:
    suite_prompt = SuitePrompt(prompt, category, f"text of {prompt}", distribution)
    return Run(contender, suite_prompt, repetition, made, peak, joules, pace)


MACHINE = {
    "processor": "CPU",
    "cores": 2,
    "threads": 1,
    "memory_bytes": 24e9,
    "accelerator": None,
    "system": "Linux",
    "python": "3.11",
    "torch": "2.13",
    "specgen": "0.1",
}
MODEL = {"id": "org/big", "revision": "0123456789abcdef", "device": "cpu", "dtype": "float32", "quant": "int8"}


def whole_report(contenders: Sequence[Contender], runs: Sequence[Run], **settings: Any) -> dict[str, Any]:
    """The report that a benchmark with these settings would make of these runs, as JSON data."""
    prices = Prices(**settings.pop("prices", {}))
    made = BenchSettings("org/big", prices=prices, **settings)
    overall = report.compare(contenders, runs, prices)
    whole = {
        "format": report.FORMAT,
        "machine": MACHINE,
        "target": MODEL,
        "draft": None,
        "number_formats": {},
        "suite": "0123",
        "settings": dataclasses.asdict(made),
        "peak_memory_bytes": 3.5e9,
        "energy": [],
        "overall": overall,
        "categories": report.categories(contenders, runs, prices),
        "distributions": report.distributions(contenders, runs, prices),
        "identical": report.identical(overall),
        "runs": report.run_records(runs),
    }
    return dict(json.loads(json.dumps(whole)))


class FakeContender:
    """A contender that answers with the beginning of `answer` and records its calls."""

    def __init__(
        self,
        name: str,
        calls: list[tuple[str, int, int]],
        *,
        answer: Sequence[int] = (1, 2, 3, 4, 5),
        peer_of: str = "",
    ) -> None:
        self.name = name
        self.kind = f"program of {name}" if peer_of else name
        self.reference = "plain"
        self.own = not peer_of
        self.measures = (peer_of,) if peer_of else ()
        self._calls = calls
        self._answer = answer

    def run(self, prompt: Sequence[int], new: int) -> Measurement:
        self._calls.append((self.name, prompt[0], new))
        return measurement(10.0, ids=self._answer[:new], inside=self.own)
