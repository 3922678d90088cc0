"""Changes between two reports that exceed noise.

Runs are paired by prompt, which removes the variation between prompts. A change counts if the interval of the paired
bootstrap excludes "no change" and the change is large enough. Figures that do not depend on time are compared exactly:
texts, and the rounds and forward passes of a fixed draft length.
"""

import functools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from specgen.bench.bootstrap import Interval, difference_interval, median_interval, p_value
from specgen.bench.settings import RegressionKind
from specgen.core.errors import UsageError
from specgen.core.words import plural

Figures = Mapping[str, Any]
Record = Mapping[str, Any]

_LEVEL = 0.99
_FALSE_ALARM = 0.02  # probability that a comparison reports a false change of speed, over all its figures
_RATIO = 0.05  # smallest change of a speed-up that counts
_ABSOLUTE = 0.3  # smallest relative change of plain decoding speed that counts: machines vary from minute to minute
_ACCEPTANCE = 0.01  # smallest change of the acceptance rate that counts
_DRIFT = 1.3  # beyond this change of machine speed, target and draft are slowed by different amounts
_FEWEST = 6  # prompts needed to compare timed figures


@dataclass(frozen=True, slots=True)
class ReportChange:
    """One change as text. `worse` marks a regression."""

    kind: RegressionKind
    contender: str
    text: str
    worse: bool


def compare_reports(before: Figures, after: Figures) -> list[ReportChange]:
    """Return all changes, texts first. Raises UsageError if the reports did not measure the same."""
    _check_comparable(before, after)
    found = [
        change
        for find in (_outputs, _acceptance)
        for name in _names(before, after)
        for change in find(name, before, after)
    ]
    return [*found, *_speeds(before, after)]


def _names(before: Figures, after: Figures) -> list[str]:
    """Contenders that both reports have."""
    return [name for name in after["overall"] if name in before["overall"]]


def changes_as_data(changes: Sequence[ReportChange]) -> list[dict[str, Any]]:
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
    if not _names(before, after):
        raise UsageError("the baseline measured other contenders", hint="--rerun FILE measures the same again")


def _outputs(name: str, before: Figures, after: Figures) -> Iterator[ReportChange]:
    if not after["overall"][name]["own"]:
        return
    old, new = _runs_of(before, name), _runs_of(after, name)
    wrong = [prompt for prompt in new if prompt in old and new[prompt][0]["output"] != old[prompt][0]["output"]]
    if wrong:
        yield ReportChange(
            "output", name, f"{len(wrong)} of {len(new)} texts changed: prompts {_listed(wrong)}", worse=True
        )
    same, texts = after["overall"][name]["same_text"], after["overall"][name]["texts"]
    if same < texts:
        yield ReportChange(
            "output", name, f"{texts - same} of {texts} texts are not those of plain decoding", worse=True
        )


def _acceptance(name: str, before: Figures, after: Figures) -> Iterator[ReportChange]:
    old, new = _both(name, before, after)
    if not new:
        return
    sums = [[sum(values) for values in zip(*map(_token_counts, each), strict=True)] for each in (old, new)]
    rates = [accepted / drafted if drafted else 0.0 for drafted, accepted in sums]
    text = f"acceptance rate {100 * rates[0]:.1f} % -> {100 * rates[1]:.1f} %"
    if _is_fixed(name, before) and _is_fixed(name, after):
        exact = [[_exact(record) for record in each] for each in (old, new)]
        if exact[0] != exact[1]:
            rounds = [sum(record["rounds"] for record in each) for each in (old, new)]
            worse = rounds[1] > rounds[0] or rates[1] < rates[0]
            yield ReportChange("acceptance", name, f"{text}, rounds {rounds[0]} -> {rounds[1]}", worse)
        return
    if len(new) < _FEWEST or not (sums[0][0] or sums[1][0]) or abs(rates[1] - rates[0]) <= _ACCEPTANCE:
        return
    # A busy machine drafts different lengths, and later tokens are accepted less often. So first tokens must agree.
    intervals = [_rate_change(old, new, counts) for counts in (_token_counts, _first_token_counts)]
    if all(each and each[1] < 0.0 for each in intervals) or all(each and each[0] > 0.0 for each in intervals):
        yield ReportChange("acceptance", name, text, worse=rates[1] < rates[0])


def _rate_change(
    old: Sequence[Record], new: Sequence[Record], counts: Callable[[Record], tuple[int, int]]
) -> Interval | None:
    """Interval of the change of the acceptance rate. `counts` gives the drafted and accepted tokens of a run."""
    parts = [[list(values)[::-1] for values in zip(*map(counts, each), strict=True)] for each in (old, new)]
    return difference_interval(parts[0], parts[1], _LEVEL)


def _speeds(before: Figures, after: Figures) -> Iterator[ReportChange]:
    """Compare speed-ups of drafters, overall and by category, and the absolute speed of plain decoding."""
    drift = _drift(before, after)
    if drift is not None and not 1 / _DRIFT <= drift <= _DRIFT:
        text = f"runs fixed work {drift:.2f} times as fast as before: speed is not compared"
        yield ReportChange("speed", "this machine", text, worse=False)
        return
    measured = list(_speed_figures(before, after, drift or 1.0))
    figures = [each for each in measured if len(each.ratios) >= _FEWEST]
    if not figures:
        prompts = max((len(each.ratios) for each in measured), default=0)
        text = f"is not compared: {plural(prompts, 'prompt')} in common, {_FEWEST} are needed"
        yield ReportChange("speed", "every contender", text, worse=False)
    for each in figures:
        interval = median_interval(each.ratios, _LEVEL)
        ratio = statistics.median(each.ratios)
        # Bonferroni correction for the number of figures.
        certain = p_value(each.ratios) <= _FALSE_ALARM / len(figures)
        if certain and interval and _excludes(interval, 1.0) and abs(ratio - 1.0) > each.least:
            span = f"{ratio:.2f} times ({interval[0]:.2f}-{interval[1]:.2f})"
            text = f"{each.what} {each.medians[0]:.2f} -> {each.medians[1]:.2f}: {span}"
            yield ReportChange("speed", each.contender, text, worse=ratio < 1.0)


@dataclass(frozen=True, slots=True)
class _SpeedFigure:
    """One speed: its medians in both reports, and the new over the old speed at each shared prompt."""

    contender: str
    what: str
    least: float
    medians: tuple[float, float]
    ratios: Sequence[float]


def _speed_figures(before: Figures, after: Figures, drift: float) -> Iterator[_SpeedFigure]:
    categories = list(after["categories"])
    places = [None, *categories] if len(categories) > 1 else [None]
    same_processor = before["machine"]["processor"] == after["machine"]["processor"]
    for name in _names(before, after):
        if name.split(" ", maxsplit=1)[0] != "plain":
            for category in places if after["overall"][name]["own"] else []:
                what = f"speed-up over plain decoding{f' on {category}' if category else ''}"
                old, new = (_gains(name, report, category) for report in (before, after))
                yield from _figure(name, what, _RATIO, old, new)
        elif same_processor:
            for what, value in (("tok/s", _speed), ("1 / first token", _first_token_rate)):
                old, new = (_prompt_medians(name, report, value) for report in (before, after))
                yield from _figure(name, what, _ABSOLUTE, old, new, drift)


def _figure(
    name: str, what: str, least: float, old: Mapping[str, float], new: Mapping[str, float], drift: float = 1.0
) -> Iterator[_SpeedFigure]:
    """Yield nothing without shared prompts. `drift` is the new machine speed over the old one."""
    if ratios := [new[prompt] / old[prompt] / drift for prompt in new if prompt in old]:
        what += f", on a machine {drift:.2f} times as fast as before," if drift != 1.0 else ""
        medians = statistics.median(old.values()), statistics.median(new.values())
        yield _SpeedFigure(name, what, least, medians, ratios)


def _drift(before: Figures, after: Figures) -> float | None:
    """New machine speed over the old one, at fixed work. None if unknown."""
    paces: list[list[float]] = [
        [each for record in report["runs"] if (each := record.get("pace_s"))] for report in (before, after)
    ]
    if not all(paces) or before["machine"]["processor"] != after["machine"]["processor"]:
        return None
    old, new = map(statistics.median, paces)
    return old / new


def _runs_of(report: Figures, name: str) -> dict[str, list[Record]]:
    """Return prompt -> runs of a contender."""
    found: dict[str, list[Record]] = {}
    for record in report["runs"]:
        if record["contender"] == name:
            found.setdefault(record["prompt"], []).append(record)
    return found


def _both(name: str, before: Figures, after: Figures) -> tuple[list[Record], list[Record]]:
    """First runs of a contender in both reports, at shared prompts."""
    old, new = _runs_of(before, name), _runs_of(after, name)
    prompts = [prompt for prompt in new if prompt in old]
    return [old[prompt][0] for prompt in prompts], [new[prompt][0] for prompt in prompts]


def _gains(name: str, report: Figures, category: str | None) -> dict[str, float]:
    """Return prompt -> median over repetitions of the speed-up over the contender's reference."""
    reference = report["overall"][name]["reference"]
    plain = {
        (each["prompt"], each["repetition"]): _speed(each) for each in report["runs"] if each["contender"] == reference
    }
    found: dict[str, list[float]] = {}
    for prompt, records in _runs_of(report, name).items():
        for record in records:
            speed, base = _speed(record), plain.get((prompt, record["repetition"]))
            if speed and base and category in (None, record["category"]):
                found.setdefault(prompt, []).append(speed / base)
    return {prompt: statistics.median(each) for prompt, each in found.items()}


def _prompt_medians(name: str, report: Figures, value: Callable[[Record], float | None]) -> dict[str, float]:
    found = {
        prompt: [each for record in records if (each := value(record))]
        for prompt, records in _runs_of(report, name).items()
    }
    return {prompt: statistics.median(each) for prompt, each in found.items() if each}


def _speed(record: Record) -> float | None:
    speed: float | None = record["tokens_per_second"]
    return speed


def _first_token_rate(record: Record) -> float | None:
    return 1.0 / record["time_to_first_token_s"] if record["time_to_first_token_s"] else None


def _token_counts(record: Record) -> tuple[int, int]:
    return record["drafted_tokens"], record["accepted_tokens"]


def _first_token_counts(record: Record) -> tuple[int, int]:
    """Number of tokens drafted first in a round, and how many of them were accepted."""
    return sum(record["drafted_lengths"][1:]), sum(record["accepted_lengths"][1:])


def _exact(record: Record) -> tuple[Any, ...]:
    return (*_token_counts(record), record["rounds"], record["generated_tokens"], record["forwards"])


def _is_fixed(name: str, report: Figures) -> bool:
    """Whether the draft length is fixed, so that drafting does not depend on time."""
    k = name.rpartition(" k=")[2] if " k=" in name else ""
    return k.isdecimal() or (not k and report["settings"]["engine"]["num_draft_tokens"] is not None)


def _excludes(interval: Interval, value: float) -> bool:
    return not interval[0] <= value <= interval[1]


def _listed(prompts: Sequence[str]) -> str:
    return ", ".join(prompts[:8]) + (", ..." if len(prompts) > 8 else "")
