"""The result of a check, as text and as plain data."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from specgen.check.check import CheckResult, CheckSettings, CheckStarted, label
from specgen.check.difference import Difference
from specgen.core.words import plural

FORMAT = 2
"""Increases when a key of the report is removed or changes its meaning."""


def real_differences(results: Sequence[CheckResult]) -> int:
    """Number of differences that rounding does not explain."""
    return sum(each.difference is not None and not each.difference.tie for each in results)


def drafted_tokens(results: Sequence[CheckResult]) -> int:
    """Number of drafted tokens. Without any, the texts are equal whatever the code does."""
    return sum(each.stats.drafted_tokens for each in results)


def _ties(results: Sequence[CheckResult]) -> int:
    return sum(each.difference is not None and each.difference.tie for each in results)


def difference_line(checked: CheckResult) -> str:
    """Describe a difference in one line."""
    difference = checked.difference
    assert difference is not None, "only a difference has a line"  # noqa: S101
    kind = "tie" if difference.tie else "DIFFERENT"
    plain, drafted = (
        _candidate(token, text)
        for token, text in zip((difference.plain, difference.drafted), checked.words, strict=True)
    )
    where = f"{label(checked.prompt, checked.sampling)}, {checked.drafter}, token {difference.position + 1}"
    return f"{kind}: {where}: {plain} without, {drafted} with speculation{_figures(difference)}"


def summary(results: Sequence[CheckResult], started: CheckStarted | None) -> str:
    """Summarize a check in one to three lines. `started` is None if the pair was not loaded."""
    if started is None or not results:
        return "nothing was checked"
    if not drafted_tokens(results):
        tokens = sum(each.stats.generated_tokens for each in results)
        reason = f"nothing was drafted in {plural(tokens, 'token')}, so nothing was compared"
        return f"NOT CHECKED: {_amount(results, started)}: {reason}; raise -n, give longer prompts or another drafter"
    wrong, ties = real_differences(results), _ties(results)
    same = len(results) - wrong - ties
    parts = [plural(wrong, "difference")] if wrong else []
    parts += [plural(ties, "tie") + " of floating point"] if ties else []
    parts += [f"{same} identical"] if parts else ["identical"]
    lines = [f"{_amount(results, started)}: {', '.join(parts)}", _drafting(results)]
    if idle := [name for name in started.drafters if not drafted_tokens(_of(name, results))]:
        lines.append(f"not checked: {', '.join(idle)}, which drafted nothing")
    return "\n".join(lines)


def report_data(
    settings: CheckSettings, started: CheckStarted | None, results: Sequence[CheckResult], *, whole: bool
) -> dict[str, Any]:
    """The report that --json prints. `whole` is False after an interruption."""
    return {
        "format": FORMAT,
        "pair": dataclasses.asdict(started) if started else None,
        "settings": dataclasses.asdict(settings),
        "complete": whole,
        "identical": drafted_tokens(results) > 0 and all(each.difference is None for each in results),
        "differences": real_differences(results),
        "ties": _ties(results),
        "drafted_tokens": drafted_tokens(results),
        "checked": [_record(each) for each in results],
    }


def _record(checked: CheckResult) -> dict[str, Any]:
    difference = checked.difference
    found = None
    if difference:
        found = dataclasses.asdict(difference)
        for name, text in zip(("plain", "drafted"), checked.words, strict=True):
            found[name] = None if found[name] is None else {"id": found[name], "text": text}
    return {
        "prompt": checked.prompt.id,
        "category": checked.prompt.category,
        "seed": None if checked.sampling.greedy else checked.sampling.seed,
        "drafter": checked.drafter,
        "identical": difference is None,
        "difference": found,
        "generated_tokens": checked.stats.generated_tokens,
        "drafted_tokens": checked.stats.drafted_tokens,
        "accepted_tokens": checked.stats.accepted_tokens,
    }


def _amount(results: Sequence[CheckResult], started: CheckStarted) -> str:
    if len(results) < started.runs:
        return f"interrupted after {len(results)} of {started.runs} checks"
    prompts = len({each.prompt for each in results})
    samplings = len({each.sampling for each in results})
    drafters = f" x {len(started.drafters)} drafters" if len(started.drafters) > 1 else ""
    return f"{plural(prompts, 'prompt')} x {plural(samplings, 'sampling')}{drafters}"


def _drafting(results: Sequence[CheckResult]) -> str:
    """Describe how much was drafted."""
    stats = [each.stats for each in results]
    tokens, rounds = sum(each.generated_tokens for each in stats), sum(each.rounds for each in stats)
    rate, length = sum(each.accepted_tokens for each in stats) / drafted_tokens(results), tokens / rounds
    return f"{tokens} tokens · acceptance rate {100 * rate:.0f} % · mean acceptance length {length:.1f}"


def _candidate(token: int | None, text: str) -> str:
    return "the end" if token is None else f"{json.dumps(text, ensure_ascii=False)} ({token})"


def _figures(difference: Difference) -> str:
    """Describe the margin and its change by rounding."""
    if difference.margin is None:
        return ""
    drawn = f" ({difference.drawn:.2g} with the seed's noise)" if difference.drawn is not None else ""
    return f"; margin {difference.margin:.2g}{drawn}, which moves by {difference.noise:.2g} at width {difference.width}"


def _of(drafter: str, results: Sequence[CheckResult]) -> list[CheckResult]:
    return [each for each in results if each.drafter == drafter]
