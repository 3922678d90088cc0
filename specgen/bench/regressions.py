"""What changed between two reports beyond noise.

Runs are compared prompt by prompt, which takes out what differs between prompts; a change counts where the interval of
the paired bootstrap leaves no change out, and where it is large enough to matter. What no clock can touch is compared
exactly: texts, and the rounds and forward passes of a fixed draft length.
"""

import functools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from specgen.bench.bootstrap import Interval, difference_interval, median_interval
from specgen.bench.settings import RegressionKind
from specgen.errors import UsageError

Figures = Mapping[str, Any]
Record = Mapping[str, Any]

# Many figures are compared at once, each of few prompts: 95 % would let one of them err in every other comparison.
_LEVEL = 0.99
# A ratio within one run is moved by less than this by what nobody changed.
_RATIO = 0.05
# The speed of a machine as such swings that much from one minute to the next.
_ABSOLUTE = 0.3
_ACCEPTANCE = 0.01
# Medians of fewer prompts say nothing of speed.
_FEWEST = 6


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that changed, in words; `worse` where it is a regression."""

    kind: RegressionKind
    contender: str
    text: str
    worse: bool


def compare_reports(before: Figures, after: Figures) -> list[Change]:
    """All changes; texts first. Raises UsageError where the two did not measure the same."""
    _check_comparable(before, after)
    return [
        change
        for name in after["overall"]
        if name in before["overall"]
        for find in (_outputs, _acceptance, _speeds)
        for change in find(name, before, after)
    ]


def as_data(changes: Sequence[Change]) -> list[dict[str, Any]]:
    return [asdict(change) for change in changes]


def _check_comparable(before: Figures, after: Figures) -> None:
    for what, *keys in (
        ("suite", "suite"),
        ("target", "target", "id"),
        ("number of new tokens", "settings", "max_new_tokens"),
        ("sampling", "settings", "sampling"),
    ):
        old, new = (functools.reduce(lambda found, key: found[key], keys, report) for report in (before, after))
        if old != new:
            hint = "--rerun FILE measures the same again"
            raise UsageError(f"the baseline was measured with another {what}", hint=hint)
    if not before.get("runs"):
        raise UsageError("the baseline has no runs to compare with", hint="name a report in JSON, JSON lines or HTML")


def _outputs(name: str, before: Figures, after: Figures) -> Iterator[Change]:
    if not after["overall"][name]["ours"]:
        return
    old, new = _of(before, name), _of(after, name)
    wrong = [prompt for prompt in new if prompt in old and new[prompt][0]["output"] != old[prompt][0]["output"]]
    if wrong:
        yield Change(
            "output", name, f"{len(wrong)} of {len(new)} texts are others: prompts {_listed(wrong)}", worse=True
        )
    same, texts = after["overall"][name]["same_text"], after["overall"][name]["texts"]
    if same < texts:
        yield Change("output", name, f"{texts - same} of {texts} texts are not those of plain decoding", worse=True)


def _acceptance(name: str, before: Figures, after: Figures) -> Iterator[Change]:
    old, new = _both(name, before, after)
    if not new:
        return
    sums = [[sum(values) for values in zip(*map(_drafted, each), strict=True)] for each in (old, new)]
    rates = [accepted / drafted if drafted else 0.0 for drafted, accepted in sums]
    text = f"acceptance rate {100 * rates[0]:.1f} % -> {100 * rates[1]:.1f} %"
    if _is_fixed(name, before) and _is_fixed(name, after):
        exact = [[_exact(record) for record in each] for each in (old, new)]
        if exact[0] != exact[1]:
            rounds = [sum(record["rounds"] for record in each) for each in (old, new)]
            worse = rounds[1] > rounds[0] or rates[1] < rates[0]
            yield Change("acceptance", name, f"{text}, rounds {rounds[0]} -> {rounds[1]}", worse)
        return
    if not sums[0][0] and not sums[1][0]:
        return
    parts = [[list(values)[::-1] for values in zip(*map(_drafted, each), strict=True)] for each in (old, new)]
    interval = difference_interval(parts[0], parts[1], _LEVEL)
    if interval and _excludes(interval, 0.0) and abs(rates[1] - rates[0]) > _ACCEPTANCE:
        yield Change("acceptance", name, text, worse=rates[1] < rates[0])


def _speeds(name: str, before: Figures, after: Figures) -> Iterator[Change]:
    """Of what drafts the speed-up over plain decoding, overall and by category; of plain decoding its speed as such."""
    categories = list(after["categories"])
    for category in [None, *categories] if len(categories) > 1 else [None]:
        where = f" on {category}" if category else ""
        if after["overall"][name]["ours"] and name.split(" ", maxsplit=1)[0] != "plain":
            gains = [_gains(name, report, category) for report in (before, after)]
            yield from _judged(name, f"speed-up over plain decoding{where}", gains, _RATIO)
    if name.split(" ", maxsplit=1)[0] == "plain" and before["machine"]["processor"] == after["machine"]["processor"]:
        for what, value in (("tok/s", _speed), ("1 / first token", _promptness)):
            yield from _judged(name, what, [_typical(name, report, value) for report in (before, after)], _ABSOLUTE)


def _judged(name: str, what: str, both: Sequence[Mapping[str, float]], least: float) -> Iterator[Change]:
    """A change of the median over prompts of the ratio between two reports, at the prompts that both have."""
    old, new = both
    ratios = [new[prompt] / old[prompt] for prompt in new if prompt in old]
    interval = median_interval(ratios, _LEVEL) if len(ratios) >= _FEWEST else None
    if interval is None:
        return
    ratio = statistics.median(ratios)
    if _excludes(interval, 1.0) and abs(ratio - 1.0) > least:
        medians = [statistics.median(each.values()) for each in both]
        text = f"{what} {medians[0]:.2f} -> {medians[1]:.2f}: {ratio:.2f} times ({interval[0]:.2f}-{interval[1]:.2f})"
        yield Change("speed", name, text, worse=ratio < 1.0)


def _of(report: Figures, name: str) -> dict[str, list[Record]]:
    """Prompt -> the runs of a contender."""
    found: dict[str, list[Record]] = {}
    for record in report["runs"]:
        if record["contender"] == name:
            found.setdefault(record["prompt"], []).append(record)
    return found


def _both(name: str, before: Figures, after: Figures) -> tuple[list[Record], list[Record]]:
    """The first runs of a contender in both reports, at the prompts that both have."""
    old, new = _of(before, name), _of(after, name)
    prompts = [prompt for prompt in new if prompt in old]
    return [old[prompt][0] for prompt in prompts], [new[prompt][0] for prompt in prompts]


def _gains(name: str, report: Figures, category: str | None) -> dict[str, float]:
    """Prompt -> the median over repetitions of the speed-up over the contender's reference."""
    reference = report["overall"][name]["reference"]
    plain = {
        (each["prompt"], each["repetition"]): _speed(each) for each in report["runs"] if each["contender"] == reference
    }
    found: dict[str, list[float]] = {}
    for prompt, records in _of(report, name).items():
        for record in records:
            speed, base = _speed(record), plain.get((prompt, record["repetition"]))
            if speed and base and category in (None, record["category"]):
                found.setdefault(prompt, []).append(speed / base)
    return {prompt: statistics.median(each) for prompt, each in found.items()}


def _typical(name: str, report: Figures, value: Callable[[Record], float | None]) -> dict[str, float]:
    found = {
        prompt: [each for record in records if (each := value(record))] for prompt, records in _of(report, name).items()
    }
    return {prompt: statistics.median(each) for prompt, each in found.items() if each}


def _speed(record: Record) -> float | None:
    speed: float | None = record["tokens_per_second"]
    return speed


def _promptness(record: Record) -> float | None:
    return 1.0 / record["time_to_first_token_s"] if record["time_to_first_token_s"] else None


def _drafted(record: Record) -> tuple[int, int]:
    return record["drafted_tokens"], record["accepted_tokens"]


def _exact(record: Record) -> tuple[Any, ...]:
    return (*_drafted(record), record["rounds"], record["generated_tokens"], record["forwards"])


def _is_fixed(name: str, report: Figures) -> bool:
    """Whether every round drafts the same number of tokens: then no clock decides about any."""
    k = name.rpartition(" k=")[2] if " k=" in name else ""
    return k.isdecimal() or (not k and report["settings"]["engine"]["num_draft_tokens"] is not None)


def _excludes(interval: Interval, value: float) -> bool:
    return not interval[0] <= value <= interval[1]


def _listed(prompts: Sequence[str]) -> str:
    return ", ".join(prompts[:8]) + (", ..." if len(prompts) > 8 else "")
