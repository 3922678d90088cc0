"""What a check found, in words and as plain data."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from specgen.check.check import Checked, CheckSettings, Opened, label
from specgen.check.judge import Difference

FORMAT = 1
"""Goes up when a key of the report changes its meaning or goes."""


def real(checked: Sequence[Checked]) -> int:
    """How many differences floating point does not explain."""
    return sum(each.difference is not None and not each.difference.tie for each in checked)


def line(checked: Checked) -> str:
    """A run that differs, in one line."""
    difference = checked.difference
    assert difference is not None, "only a difference has a line"  # noqa: S101
    kind = "tie" if difference.tie else "DIFFERENT"
    plain, drafted = (
        _candidate(token, text)
        for token, text in zip((difference.plain, difference.drafted), checked.words, strict=True)
    )
    where = f"{label(checked.prompt, checked.sampling)}, {checked.drafter}, token {difference.position + 1}"
    return f"{kind}: {where}: {plain} without, {drafted} with speculation{_figures(difference)}"


def closing(checked: Sequence[Checked], opened: Opened | None) -> str:
    """All of it in a line or two; `opened` None where the pair was not even loaded."""
    if opened is None or not checked:
        return "nothing was checked"
    wrong, ties = real(checked), sum(each.difference is not None for each in checked) - real(checked)
    same = len(checked) - wrong - ties
    parts = [_count(wrong, "difference")] if wrong else []
    parts += [_count(ties, "tie") + " of floating point"] if ties else []
    parts += [f"{same} identical"] if parts else ["identical"]
    return f"{_amount(checked, opened)}: {', '.join(parts)}\n{_drafting(checked)}"


def as_data(
    settings: CheckSettings, opened: Opened | None, checked: Sequence[Checked], *, whole: bool
) -> dict[str, Any]:
    """The report that --json prints; `whole` is whether everything was checked."""
    return {
        "format": FORMAT,
        "pair": dataclasses.asdict(opened) if opened else None,
        "settings": dataclasses.asdict(settings),
        "complete": whole,
        "identical": bool(checked) and all(each.difference is None for each in checked),
        "differences": real(checked),
        "ties": sum(each.difference is not None for each in checked) - real(checked),
        "checked": [_record(each) for each in checked],
    }


def _record(checked: Checked) -> dict[str, Any]:
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


def _amount(checked: Sequence[Checked], opened: Opened) -> str:
    if len(checked) < opened.runs:
        return f"interrupted after {len(checked)} of {opened.runs} checks"
    prompts = len({each.prompt for each in checked})
    samplings = len({each.sampling for each in checked})
    drafters = f" x {len(opened.drafters)} drafters" if len(opened.drafters) > 1 else ""
    return f"{_count(prompts, 'prompt')} x {_count(samplings, 'sampling')}{drafters}"


def _drafting(checked: Sequence[Checked]) -> str:
    """How much speculation the texts saw: without any, that they are the same says nothing."""
    stats = [each.stats for each in checked]
    tokens, rounds = sum(each.generated_tokens for each in stats), sum(each.rounds for each in stats)
    drafted, accepted = sum(each.drafted_tokens for each in stats), sum(each.accepted_tokens for each in stats)
    if not drafted:
        return f"{tokens} tokens, nothing drafted: a fixed -k drafts always"
    rate, length = accepted / drafted, tokens / rounds
    return f"{tokens} tokens · acceptance rate {100 * rate:.0f} % · mean acceptance length {length:.1f}"


def _candidate(token: int | None, text: str) -> str:
    return "the end" if token is None else f"{json.dumps(text, ensure_ascii=False)} ({token})"


def _figures(difference: Difference) -> str:
    """The margin, and how it compares with what rounding does to it."""
    if difference.margin is None:
        return ""
    drawn = f" ({difference.drawn:.2g} with the seed's noise)" if difference.drawn is not None else ""
    return f"; margin {difference.margin:.2g}{drawn}, which moves by {difference.noise:.2g} at width {difference.width}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
